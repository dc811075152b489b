//! `--http`: the run in a browser, and for programs. It only reads.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | one page, which asks for the next two and for nothing else |
//! | `GET /api/status` | the latest [`Snapshot`], JSON, [made once a second](super). `version` 0: there is none yet |
//! | `GET /api/history` | [points](super::Metrics) for curves, JSON array, oldest first, at most [`POINTS_MAX`](super::history::POINTS_MAX): those of `metrics.jsonl` from earlier sessions, then this one's. Bytes are summed over sessions |
//! | `GET /ticket.svg` | the ticket of an open run, to scan |
//! | `GET /metrics` | the latest snapshot for [Prometheus](super::prometheus), OpenMetrics text |
//!
//! `HEAD` is as `GET` without the body. Another path: 404. Another method: 405. Any answer forbids caching. One
//! connection carries one request.
//!
//! *Who may read.* Whoever reaches the address: there is no password. On a loopback address the `Host` of a request
//! must be an address of loopback or `localhost`, with any port (a tunnel has its own), else 421: a web site elsewhere
//! that makes its name point here gets nothing. The page may load nothing from anywhere, be framed by nobody, and run
//! no script but its own.
//!
//! *What it costs the node.* A thread and a runtime of its own; it sees the node only through a
//! [`watch`] channel, which never makes the sender wait. At most [`CONNECTIONS_MAX`] connections at a time, others
//! wait in the system's queue; each is closed after [`CONNECTION_TIME`].

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{self, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    cell::RefCell,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, watch},
    task::LocalSet,
};

use super::{Metrics, Snapshot, history::History, prometheus};
use crate::{hex::hex, random::random, scan};

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 32;
/// A connection lasts no longer, whatever its client does.
pub const CONNECTION_TIME: Duration = Duration::from_secs(15);
/// Of a request's line and headers.
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// After a failure to accept (no file descriptors, mostly).
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = concat!(include_str!("page/chart.js"), include_str!("page/page.js"));

/// Why nothing is served. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Another program listens there.
    #[error("--http {0}: the port is taken. Is another node running? Choose another port, or 0 for any free one")]
    Occupied(SocketAddr),
    /// The system does not let this program listen there.
    #[error("--http {0}: cannot listen there ({1}). Give an address of this machine, for example 127.0.0.1:8080")]
    Unusable(SocketAddr, io::Error),
    /// No thread.
    #[error("--http: no thread to serve from ({0})")]
    NoThread(io::Error),
}

/// An address taken, where nobody answers yet.
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Takes the address; port 0 is any free one.
    pub fn bind(address: SocketAddr) -> Result<Self, HttpError> {
        let unusable = |error| HttpError::Unusable(address, error);
        let listener = TcpListener::bind(address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => HttpError::Occupied(address),
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

    /// Serves from a thread of its own, until the sender of the snapshots is gone. Earlier points are read from
    /// `metrics_path`, if there is such a file.
    pub fn serve(self, snapshots: watch::Receiver<Arc<Snapshot>>, metrics_path: PathBuf) -> Result<(), HttpError> {
        let Self { listener, address } = self;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(HttpError::NoThread)?;
        let work = move || {
            let mut history = History::read(&metrics_path);
            history.begin_session();
            let shown = Rc::new(Shown { address, snapshots: snapshots.clone(), history: RefCell::new(history) });
            runtime.block_on(LocalSet::new().run_until(async {
                tokio::select! {
                    () = remember(&shown, snapshots) => {}
                    () = accept(&shown, listener) => {}
                }
            }));
        };
        std::thread::Builder::new().name("http".into()).spawn(work).map_err(HttpError::NoThread)?;
        Ok(())
    }
}

/// What requests read.
struct Shown {
    address: SocketAddr,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    history: RefCell<History>,
}

/// Adds each snapshot to the history. Returns when no more come.
async fn remember(shown: &Shown, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    while snapshots.changed().await.is_ok() {
        let point = Metrics::from(&**snapshots.borrow_and_update());
        shown.history.borrow_mut().push(point);
    }
}

/// Takes connections for ever.
async fn accept(shown: &Rc<Shown>, listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("--http {}: nothing is served ({error})", shown.address),
    };
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shown = shown.clone();
                tokio::task::spawn_local(async move {
                    let _ = tokio::time::timeout(CONNECTION_TIME, converse(shown, stream)).await;
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

/// One request and its answer. What goes wrong is the client's business.
async fn converse(shown: Rc<Shown>, stream: TcpStream) {
    let service = service_fn(|request: Request<Incoming>| {
        let answer = shown.answer(request.method(), request.uri().path(), request.headers());
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut connection = http1::Builder::new();
    connection.keep_alive(false).max_buf_size(HEADERS_BYTES_MAX).timer(hyper_util::rt::TokioTimer::new());
    if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!("http: {error}");
    }
}

type Answer = Response<Full<Bytes>>;

impl Shown {
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        if self.address.ip().to_canonical().is_loopback() && !host.is_some_and(|host| is_local(host, self.address.ip()))
        {
            return said(
                StatusCode::MISDIRECTED_REQUEST,
                "Ask for localhost or 127.0.0.1: this node answers no other name.\n",
            );
        }
        let answer: fn(&Self) -> Answer = match path {
            "/" => Self::page,
            "/api/status" => Self::status,
            "/api/history" => Self::history,
            "/ticket.svg" => Self::ticket,
            "/metrics" => Self::metrics,
            _ => {
                return said(
                    StatusCode::NOT_FOUND,
                    "Here are /, /api/status, /api/history, /ticket.svg and /metrics.\n",
                );
            }
        };
        if method == Method::GET || method == Method::HEAD {
            return answer(self);
        }
        let mut refused = said(StatusCode::METHOD_NOT_ALLOWED, "Only GET: nothing can be changed here.\n");
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        refused
    }

    fn page(&self) -> Answer {
        let Ok(nonce) = random::<16>() else {
            return said(StatusCode::INTERNAL_SERVER_ERROR, "The system has no random numbers.\n");
        };
        let nonce = hex(&nonce);
        let page = PAGE.replace("{nonce}", &nonce).replace("{style}", STYLE).replace("{script}", SCRIPT);
        let policy = format!(
            "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        let mut answer = text(StatusCode::OK, "text/html; charset=utf-8", page);
        if let Ok(policy) = HeaderValue::from_str(&policy) {
            answer.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        answer
    }

    fn status(&self) -> Answer {
        json(serde_json::to_string(&**self.snapshots.borrow()))
    }

    fn ticket(&self) -> Answer {
        let drawing = self.snapshots.borrow().ticket.as_deref().and_then(scan::drawing);
        drawing.map_or_else(
            || said(StatusCode::NOT_FOUND, "There is no ticket to show: it is not known yet, or the run is private.\n"),
            |drawing| text(StatusCode::OK, "image/svg+xml", drawing),
        )
    }

    fn history(&self) -> Answer {
        json(serde_json::to_string(&self.history.borrow().points().collect::<Vec<_>>()))
    }

    fn metrics(&self) -> Answer {
        match prometheus::encode(&self.snapshots.borrow()) {
            Ok(body) => text(StatusCode::OK, prometheus::CONTENT_TYPE, body),
            Err(error) => said(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }
}

/// Whether `host` (with or without a port) is a name that only this machine has: an address of loopback, `bound`,
/// `localhost`.
pub fn is_local(host: &str, bound: IpAddr) -> bool {
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

fn json(body: serde_json::Result<String>) -> Answer {
    match body {
        Ok(body) => text(StatusCode::OK, "application/json", body),
        Err(error) => said(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
    }
}

fn said(status: StatusCode, body: &str) -> Answer {
    text(status, "text/plain; charset=utf-8", body.to_owned())
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Answer {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    answer
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
