//! `--http`: the run in a browser, and for programs. It only reads.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | one page, which asks for those below but the last, and for nothing else |
//! | `GET /api/status` | the latest [`Snapshot`], JSON, [made once a second](super). `version` 0: there is none yet |
//! | `GET /api/history` | [points](super::Metrics) for curves, JSON array, oldest first, at most [`POINTS_MAX`](super::history::POINTS_MAX): those of `metrics.jsonl` from earlier sessions, then this one's. Bytes are summed over sessions |
//! | `GET /api/samples` | what the model wrote after the same prompts over the course of the run, JSON array of [`Look`](super::samples::Look)s, oldest first. Prompts are of own text: on a loopback address only, else 403 |
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
//! wait in the system's queue; each is closed after [`CONNECTION_TIME`]. Sockets and headers are those of
//! `system/http.rs`.

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    body::Bytes,
    header::{self, HeaderValue},
};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

use super::{Metrics, Snapshot, history::History, prometheus, samples};
use crate::{
    join::scan,
    system::http::{self, Limits, Listener},
};

/// Connections at a time.
pub const CONNECTIONS_MAX: usize = 32;
/// A connection lasts no longer, whatever its client does.
pub const CONNECTION_TIME: Duration = Duration::from_secs(15);

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = concat!(include_str!("page/chart.js"), include_str!("page/page.js"));

/// Serves from a thread of its own, until the sender of the snapshots is gone. Earlier points are read from
/// `metrics_path`, if there is such a file.
pub fn serve(
    listener: Listener,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    metrics_path: PathBuf,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let work = move || {
        let mut history = History::read(&metrics_path);
        history.begin_session();
        let (address, limits) = (listener.address(), Limits { connections: CONNECTIONS_MAX, time: CONNECTION_TIME });
        let samples = metrics_path.with_file_name(samples::FILE);
        let shown = Arc::new(Shown { address, snapshots: snapshots.clone(), history: Mutex::new(history), samples });
        let asked = shown.clone();
        runtime.block_on(async {
            tokio::select! {
                () = remember(&shown, snapshots) => {}
                () = listener.serve(limits, move |request| {
                    let answer = asked.answer(request.method(), request.uri().path(), request.headers());
                    async move { answer }
                }) => {}
            }
        });
    };
    std::thread::Builder::new().name("http".into()).spawn(work)?;
    Ok(())
}

/// What requests read.
struct Shown {
    address: SocketAddr,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    history: Mutex<History>,
    samples: PathBuf,
}

/// Adds each snapshot to the history. Returns when no more come.
async fn remember(shown: &Shown, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
    while snapshots.changed().await.is_ok() {
        let point = Metrics::from(&**snapshots.borrow_and_update());
        shown.history.lock().unwrap_or_else(PoisonError::into_inner).push(point);
    }
}

type Answer = Response<Full<Bytes>>;

impl Shown {
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
        if !http::is_meant(headers, self.address) {
            return said(
                StatusCode::MISDIRECTED_REQUEST,
                "Ask for localhost or 127.0.0.1: this node answers no other name.\n",
            );
        }
        let answer: fn(&Self) -> Answer = match path {
            "/" => Self::page,
            "/api/status" => Self::status,
            "/api/history" => Self::history,
            "/api/samples" => Self::samples,
            "/ticket.svg" => Self::ticket,
            "/metrics" => Self::metrics,
            _ => {
                return said(
                    StatusCode::NOT_FOUND,
                    "Here are /, /api/status, /api/history, /api/samples, /ticket.svg and /metrics.\n",
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
        let page = PAGE.replace("{style}", STYLE).replace("{script}", SCRIPT);
        http::page(&page).unwrap_or_else(|error| said(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}\n")))
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
        json(serde_json::to_string(
            &self.history.lock().unwrap_or_else(PoisonError::into_inner).points().collect::<Vec<_>>(),
        ))
    }

    fn samples(&self) -> Answer {
        if !self.address.ip().to_canonical().is_loopback() {
            return said(StatusCode::FORBIDDEN, "Prompts are of this machine's own text, and stay on it.\n");
        }
        match samples::read(&self.samples) {
            Ok(looks) => json(serde_json::to_string(&looks)),
            Err(error) => said(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}\n")),
        }
    }

    fn metrics(&self) -> Answer {
        match prometheus::encode(&self.snapshots.borrow()) {
            Ok(body) => text(StatusCode::OK, prometheus::CONTENT_TYPE, body),
            Err(error) => said(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }
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
    http::response(status, content_type, Full::from(body))
}
