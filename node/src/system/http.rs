//! What all web servers of a node share: an address, connections with limits, and answers that give nothing away.
//!
//! A connection carries one request, and ends after [`Limits::time`] whatever its client does. On a loopback address
//! only names that the machine alone has are answered ([`is_meant`]): a web site elsewhere that makes its own
//! name point here gets nothing. No answer may be cached, framed, or loaded by another site.

use anyhow::Result;
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::{Body, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    convert::Infallible,
    error::Error,
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    pin::Pin,
    sync::Arc,
    time::Duration,
};
use tokio::{io::AsyncWrite as _, net::TcpStream, sync::Semaphore};

use super::{hex::hex, random::random};

/// Of a request's line and headers.
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// After a failure to accept (no file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// What a client sends of a request that is answered already is still read so long, and so much of it.
const LINGER_MAX: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 4 << 20;

/// What is said to who comes before there is anything to answer.
pub const NOT_READY: &str = "not ready yet: the node is still being prepared; come again in a few seconds";
/// When to come again, seconds.
const RETRY_SECONDS: &str = "5";

/// Why nothing is served. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another program listens there.
    #[error("{flag} {address}: the port is taken. Is another node running? Choose another port, or 0 for any free one")]
    Occupied {
        /// What named the address.
        flag: &'static str,
        address: SocketAddr,
    },
    /// The system does not let this program listen there.
    #[error(
        "{flag} {address}: cannot listen there ({error}). Give an address of this machine, for example 127.0.0.1:8080"
    )]
    Unusable {
        /// What named the address.
        flag: &'static str,
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
}

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at a time; others wait in the system's queue.
    pub connections: usize,
    /// A connection lasts no longer.
    pub time: Duration,
}

/// An address taken, where nobody answers yet.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Takes the address that `flag` named; port 0 is any free one.
    pub fn bind(flag: &'static str, address: SocketAddr) -> Result<Self, ListenError> {
        let unusable = |error| ListenError::Unusable { flag, address, error };
        let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => ListenError::Occupied { flag, address },
            _ => unusable(error),
        })?;
        listener.set_nonblocking(true).map_err(unusable)?;
        let address = listener.local_addr().map_err(unusable)?;
        Ok(Self { listener, address })
    }

    /// With the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes connections for ever, and answers what `answer` says. Needs a runtime.
    pub async fn serve<A, F, B>(self, limits: Limits, answer: A)
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let listener = match tokio::net::TcpListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!("{}: nothing is served ({error})", self.address),
        };
        let room = Arc::new(Semaphore::new(limits.connections));
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let answer = answer.clone();
                    tokio::task::spawn(async move {
                        let _ = tokio::time::timeout(limits.time, converse(stream, answer)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!("http: a connection could not be taken: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One request and its answer. What goes wrong is the client's business.
async fn converse<A, F, B>(stream: TcpStream, answer: A)
where
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>>,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let service = service_fn(|request| {
        let answer = answer(request);
        Box::pin(async move { Ok::<_, Infallible>(answer.await) })
    });
    let mut connection = http1::Builder::new();
    // A client may close its side once its request is sent, and wait for the answer.
    connection.keep_alive(false).half_close(true).max_buf_size(HEADERS_BYTES_MAX).timer(TokioTimer::new());
    let mut connection = connection.serve_connection(TokioIo::new(stream), service);
    match poll_fn(|context| connection.poll_without_shutdown(context)).await {
        Ok(()) => linger(connection.into_parts().io.into_inner()).await,
        Err(error) => tracing::debug!("http: {error}"),
    }
}

/// Closes a connection whose client may still be sending what was refused: with bytes that nobody read, the system
/// would reset it, and the client might never see the answer.
async fn linger(mut stream: TcpStream) {
    if poll_fn(|context| Pin::new(&mut stream).poll_shutdown(context)).await.is_err() {
        return;
    }
    let rest = async {
        let (mut bytes, mut left) = ([0; 16_384], LINGER_BYTES_MAX);
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut bytes) {
                Ok(0) => return,
                Ok(read) => left = left.saturating_sub(read),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(LINGER_MAX, rest).await;
}

/// Whether a request to `bound` names this machine: on a loopback address its `Host` must be a name that no other has.
pub fn is_meant(headers: &HeaderMap, bound: SocketAddr) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    !bound.ip().to_canonical().is_loopback() || host.is_some_and(|host| is_local(host, bound.ip()))
}

/// Whether `host` (with or without a port) is a name that only this machine has: an address of loopback, `bound`,
/// `localhost`.
fn is_local(host: &str, bound: IpAddr) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => {
            if port.is_empty() || !port.bytes().all(|digit| digit.is_ascii_digit()) {
                return false;
            }
            name
        }
        _ => host,
    };
    let ip = match name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().ok().map(IpAddr::from),
        None => name.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::from),
    };
    name.eq_ignore_ascii_case("localhost") || ip.is_some_and(|ip| ip == bound || ip.is_loopback())
}

/// An answer that nobody keeps. One that is not to be had yet says when to ask again.
pub fn response<B>(status: StatusCode, content_type: &'static str, body: B) -> Response<B> {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS));
    }
    response
}

/// A document of the page `html`, whose scripts and styles have the nonce that it names `{nonce}`. It may ask this
/// server and nobody else, load pictures of its own, be framed by nobody, and run no other script.
pub fn page<B: From<String>>(html: &str) -> Result<Response<B>> {
    let nonce = hex(&random::<16>()?);
    let policy = format!(
        "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'nonce-{nonce}'; \
         style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut page = response(StatusCode::OK, "text/html; charset=utf-8", B::from(html.replace("{nonce}", &nonce)));
    page.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_str(&policy)?);
    Ok(page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        let bound = "127.0.0.2".parse().unwrap();
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8080", "[::1]", "[::1]:8080", "127.0.0.2:9"] {
            assert!(is_local(host, bound), "{host}");
        }
        for host in [
            "",
            ":80",
            "example.org",
            "localhost.example.org:80",
            "127.0.0.1.example.org",
            "localhost:",
            "localhost:x",
            "[::1",
            "::1",
            "[::2]:80",
            "10.0.0.1",
            "evil@localhost",
            "localhost:80:80",
        ] {
            assert!(!is_local(host, bound), "{host}");
        }
    }
}
