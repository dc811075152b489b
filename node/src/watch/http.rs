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
//! `HEAD` is as `GET` without the body. Another path: 404. Another method: 405. All but the page, while the node is
//! still being prepared: 503. Any answer forbids caching. One connection carries one request.
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

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Response, StatusCode,
    body::Bytes,
    header::{self, HeaderValue},
};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tokio::sync::{oneshot, watch};

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

/// An address where a thread of its own answers: that there is nothing to see yet, until there is.
pub struct Server {
    door: Arc<Door>,
    opened: oneshot::Sender<()>,
}

impl Server {
    /// Takes the address; port 0 is any free one. It is given back if this is dropped.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let listener = Listener::bind("--http", address)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (opened, is_open) = oneshot::channel();
        let door = Arc::new(Door { address: listener.address(), shown: OnceLock::new() });
        let (asked, remembered) = (door.clone(), door.clone());
        let work = move || {
            let limits = Limits { connections: CONNECTIONS_MAX, time: CONNECTION_TIME };
            runtime.block_on(async {
                tokio::select! {
                    () = remembered.remember(is_open) => {}
                    () = listener.serve(limits, move |request| {
                        let answer = asked.answer(request.method(), request.uri().path(), request.headers());
                        async move { answer }
                    }) => {}
                }
            });
        };
        std::thread::Builder::new().name("http".into()).spawn(work).context("--http: no thread to serve from")?;
        Ok(Self { door, opened })
    }

    /// With the port that the system chose.
    pub fn address(&self) -> SocketAddr {
        self.door.address
    }

    /// Shows from now on what comes, until the sender of the snapshots is gone. Earlier points are read from
    /// `metrics_path`, if there is such a file.
    pub fn show(self, snapshots: watch::Receiver<Arc<Snapshot>>, metrics_path: &Path) {
        let mut history = History::read(metrics_path);
        history.begin_session();
        let samples = metrics_path.with_file_name(samples::FILE);
        let is_own = self.address().ip().to_canonical().is_loopback();
        let _ = self.door.shown.set(Shown { snapshots, history: Mutex::new(history), samples, is_own });
        let _ = self.opened.send(());
    }
}

/// Who may come in, and to what.
struct Door {
    address: SocketAddr,
    /// Once there is something to see.
    shown: OnceLock<Shown>,
}

/// What requests read.
struct Shown {
    snapshots: watch::Receiver<Arc<Snapshot>>,
    history: Mutex<History>,
    samples: PathBuf,
    /// Whether this machine alone can see it.
    is_own: bool,
}

type Answer = Response<Full<Bytes>>;

impl Door {
    /// Adds each snapshot to the history, once there is one. Returns when no more come.
    async fn remember(&self, is_open: oneshot::Receiver<()>) {
        let (Ok(()), Some(shown)) = (is_open.await, self.shown.get()) else { return };
        let mut snapshots = shown.snapshots.clone();
        while snapshots.changed().await.is_ok() {
            let point = Metrics::from(&**snapshots.borrow_and_update());
            shown.history.lock().unwrap_or_else(PoisonError::into_inner).push(point);
        }
    }

    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Answer {
        if !http::is_meant(headers, self.address) {
            return said(
                StatusCode::MISDIRECTED_REQUEST,
                "Ask for localhost or 127.0.0.1: this node answers no other name.\n",
            );
        }
        let answer: fn(&Shown) -> Answer = match path {
            "/" => |_: &Shown| page(),
            "/api/status" => Shown::status,
            "/api/history" => Shown::history,
            "/api/samples" => Shown::samples,
            "/ticket.svg" => Shown::ticket,
            "/metrics" => Shown::metrics,
            _ => {
                return said(
                    StatusCode::NOT_FOUND,
                    "Here are /, /api/status, /api/history, /api/samples, /ticket.svg and /metrics.\n",
                );
            }
        };
        if method != Method::GET && method != Method::HEAD {
            let mut refused = said(StatusCode::METHOD_NOT_ALLOWED, "Only GET: nothing can be changed here.\n");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refused;
        }
        match self.shown.get() {
            Some(shown) => answer(shown),
            // It asks for the rest, and says that there is none yet.
            None if path == "/" => page(),
            None => said(StatusCode::SERVICE_UNAVAILABLE, &format!("{}\n", http::NOT_READY)),
        }
    }
}

fn page() -> Answer {
    let page = PAGE.replace("{style}", STYLE).replace("{script}", SCRIPT);
    http::page(&page).unwrap_or_else(|error| said(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error:#}\n")))
}

impl Shown {
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
        if !self.is_own {
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
