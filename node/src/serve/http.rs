//! Sockets, limits, and who may ask.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | a small chat |
//! | `GET /v1/models`, `GET /v1/models/ID` | the one model |
//! | `POST /v1/chat/completions`, `POST /v1/completions` | an answer, streamed as server-sent events if `stream` says so |
//!
//! *Who may ask.* On a loopback address everyone on the machine, by a name that only the machine has (no web site can
//! point its own name here) and with `Content-Type: application/json` (which no web site can send here unasked). On any
//! other address whoever has the token.
//!
//! *What it costs.* A body has at most [`BODY_BYTES_MAX`] bytes. [`ANSWERS_MAX`] answers are made at a time,
//! [`WAITING_MAX`] wait; who comes then is told to come again. An answer that is not whole after [`ANSWER_TIME`] ends
//! as one does that has as many tokens as it may (`length`); one that has not begun, with an error. A client whose
//! body takes longer than [`BODY_PATIENCE`], that does not read for [`READ_PATIENCE`], or whose request takes longer
//! than [`REQUEST_TIME`], gets no more. Sockets and headers are those of [`crate::system::http`].

use anyhow::{Context, Result, bail};
use engine::model::Sampling;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Frame, Incoming},
    header,
};
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use super::{
    answer::{Answer, error},
    request::Asked,
    speaker::{Speaker, Spoken},
};
use crate::system::{
    hex::hex,
    http::{self, Limits, Listener, response},
    random::random,
};

/// Of a request's body.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Answers at a time.
const ANSWERS_MAX: usize = 4;
/// Threads that make tokens of prompts, which takes seconds where they are long.
const READERS: usize = 2;
/// Requests that wait for their turn.
const WAITING_MAX: usize = 64;
/// Connections at a time.
const CONNECTIONS_MAX: usize = 128;
/// A request takes no longer, from its first byte to the last of its answer.
const REQUEST_TIME: Duration = Duration::from_secs(300);
/// What is not said so long after a request was read is not said any more, so that its client gets the end.
const ANSWER_TIME: Duration = Duration::from_secs(255);
/// A request's body is here after so long.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// A client that reads nothing for so long has gone.
const READ_PATIENCE: Duration = Duration::from_secs(10);
/// Pieces that may wait for a client.
const PIECES_MAX: usize = 16;
const TOO_BUSY: &str =
    "others are being answered, and it took too long until it was this request's turn; come again later";
const TOO_SLOW: &str = "this machine had no time to begin the answer; send a shorter prompt, or come again later";

const PAGE: &str = include_str!("page.html");

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// An address where a thread of its own answers: that there is no model yet, until there is one.
pub struct Server {
    door: Arc<Door>,
}

impl Server {
    /// Takes the address, port 0 being any free one, which `flag` named. An address that others can reach gets a token,
    /// random unless one is given.
    pub fn bind(flag: &'static str, address: SocketAddr, token: Option<String>) -> Result<Self> {
        let listener = Listener::bind(flag, address)?;
        let token = match token {
            Some(token) if token.len() < 8 || !token.bytes().all(|byte| byte.is_ascii_graphic()) => {
                let flag = if flag == "--serve" { "--serve-token" } else { "--token" };
                bail!("{flag}: it must have at least 8 characters, letters, digits or signs without spaces")
            }
            Some(token) => Some(token),
            None if listener.address().ip().to_canonical().is_loopback() => None,
            None => Some(hex(&random::<16>()?)),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(ANSWERS_MAX + READERS)
            .thread_name("answer")
            .build()?;
        let door = Arc::new(Door { address: listener.address(), token, served: OnceLock::new() });
        let opened = door.clone();
        std::thread::Builder::new().name("serve".into()).spawn(move || {
            let limits = Limits { connections: CONNECTIONS_MAX, time: REQUEST_TIME };
            runtime.block_on(listener.serve(limits, move |request| {
                let door = opened.clone();
                async move { door.answer(request).await.unwrap_or_else(Refusal::response) }
            }));
        })?;
        Ok(Self { door })
    }

    /// Says where it is, and answers as `speaker` does from now on.
    pub fn serve(self, speaker: Arc<Speaker>) {
        let Door { address, token, served } = &*self.door;
        tracing::info!(
            "talk with the model at http://{address}/; for OpenAI clients the base URL is http://{address}/v1"
        );
        if let Some(token) = token {
            tracing::info!("whoever asks there needs the token (API key) {token}");
        }
        let places = Arc::new(Semaphore::new(ANSWERS_MAX + WAITING_MAX));
        let _ = served.set(Arc::new(Served { speaker, answers: Arc::new(Semaphore::new(ANSWERS_MAX)), places }));
    }
}

/// Who may come in, and to whom.
struct Door {
    address: SocketAddr,
    token: Option<String>,
    /// Once the model can answer.
    served: OnceLock<Arc<Served>>,
}

struct Served {
    speaker: Arc<Speaker>,
    answers: Arc<Semaphore>,
    places: Arc<Semaphore>,
}

/// Why there is no answer.
struct Refusal(StatusCode, String);

impl Refusal {
    fn response(self) -> Response<Body> {
        let kind = if self.0.is_server_error() { "server_error" } else { "invalid_request_error" };
        json_response(self.0, &error(&self.1, kind))
    }
}

/// All of the body, if it comes in time and is no longer than it may be.
async fn read_body(request: Request<Incoming>) -> Result<Bytes, Refusal> {
    let body = Limited::new(request.into_body(), BODY_BYTES_MAX).collect();
    let late = |_| Refusal(StatusCode::REQUEST_TIMEOUT, "the body did not come in time; send it again".into());
    let body = tokio::time::timeout(BODY_PATIENCE, body).await.map_err(late)?.map_err(|error| match error
        .is::<LengthLimitError>(
    ) {
        true => Refusal(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long; it may have 1 MiB".into()),
        false => Refusal(StatusCode::BAD_REQUEST, format!("the body cannot be read ({error})")),
    })?;
    Ok(body.to_bytes())
}

fn invalid(error: &anyhow::Error) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, format!("{error:#}"))
}

impl Door {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
        if !http::is_meant(request.headers(), self.address) {
            return Err(Refusal(StatusCode::MISDIRECTED_REQUEST, "ask for localhost or 127.0.0.1".into()));
        }
        let method = if request.method() == Method::HEAD { Method::GET } else { request.method().clone() };
        if (&method, request.uri().path()) == (&Method::GET, "/") {
            return self.page();
        }
        self.check_token(&request)?;
        match self.served.get().cloned() {
            Some(served) => served.answer(request, method).await,
            None => Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, http::NOT_READY.into())),
        }
    }

    fn check_token(&self, request: &Request<Incoming>) -> Result<(), Refusal> {
        let Some(token) = &self.token else { return Ok(()) };
        let said = request.headers().get(header::AUTHORIZATION).and_then(|said| said.to_str().ok());
        let said = said.and_then(|said| said.split_once(' '));
        let said = said.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map_or("", |(_, token)| token);
        // Digests, so that the time of the comparison says nothing about the token.
        match blake3::hash(said.trim().as_bytes()) == blake3::hash(token.as_bytes()) {
            true => Ok(()),
            false => {
                let what = "the token is missing or wrong: send Authorization: Bearer <token>, as the node printed it";
                Err(Refusal(StatusCode::UNAUTHORIZED, what.into()))
            }
        }
    }

    fn page(&self) -> Result<Response<Body>, Refusal> {
        let page = PAGE.replace("{token}", if self.token.is_some() { "" } else { "hidden" });
        let page = http::page::<Full<Bytes>>(&page).map_err(|error| invalid(&error))?;
        Ok(page.map(BodyExt::boxed_unsync))
    }
}

impl Served {
    async fn answer(self: Arc<Self>, request: Request<Incoming>, method: Method) -> Result<Response<Body>, Refusal> {
        let path = request.uri().path().to_owned();
        let is_chat = match (method, path.as_str()) {
            (Method::GET, "/v1/models") => return Ok(self.models()),
            // As with answers, it does not matter what a client calls the one model.
            (Method::GET, path) if path.starts_with("/v1/models/") => {
                return Ok(json_response(StatusCode::OK, &self.model()));
            }
            (Method::POST, "/v1/chat/completions") => true,
            (Method::POST, "/v1/completions") => false,
            (_, "/" | "/v1/models" | "/v1/chat/completions" | "/v1/completions") => {
                return Err(Refusal(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "models are read (GET), answers asked for (POST)".into(),
                ));
            }
            _ => {
                let known = "here are /v1/models, /v1/chat/completions and /v1/completions";
                return Err(Refusal(StatusCode::NOT_FOUND, known.into()));
            }
        };
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        if !kind.to_ascii_lowercase().starts_with("application/json") {
            let what = format!("Content-Type is {kind:?}; it must be application/json");
            return Err(Refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, what));
        }
        let body = read_body(request).await?;
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let what = format!("{WAITING_MAX} requests are waiting; come again in a few seconds");
            return Err(Refusal(StatusCode::SERVICE_UNAVAILABLE, what));
        };
        let reader = self.clone();
        let asked = tokio::task::spawn_blocking(move || reader.asked(&body, is_chat)).await;
        let asked = asked.unwrap_or_else(|error| Err(error.into())).map_err(|error| invalid(&error))?;
        let answer = Answer::new(&asked, &self.speaker.name, &random_id().map_err(|error| invalid(&error))?);
        match asked.streams {
            true => Ok(self.stream(asked, answer, place)),
            false => self.whole(asked, answer, place).await,
        }
    }

    fn asked(&self, body: &[u8], is_chat: bool) -> Result<Asked> {
        Asked::of(body, is_chat, &self.speaker, u64::from_le_bytes(random()?))
    }

    fn models(&self) -> Response<Body> {
        json_response(StatusCode::OK, &json!({ "object": "list", "data": [self.model()] }))
    }

    fn model(&self) -> Value {
        json!({ "id": self.speaker.name, "object": "model", "created": 0, "owned_by": "onebyte" })
    }

    /// Pieces as they come.
    fn pieces(self: Arc<Self>, asked: Asked, place: OwnedSemaphorePermit) -> mpsc::Receiver<Piece> {
        let (send, receive) = mpsc::channel(PIECES_MAX);
        let until = Instant::now() + ANSWER_TIME;
        tokio::task::spawn(async move {
            let turn = tokio::time::timeout_at(until.into(), self.answers.clone().acquire_owned()).await;
            let Ok(Ok(turn)) = turn else {
                let busy = Refusal(StatusCode::SERVICE_UNAVAILABLE, TOO_BUSY.into());
                let _ = send.send(Piece::Failed(busy)).await;
                return;
            };
            let runtime = Handle::current();
            let work = move || {
                let tell = |piece| {
                    let sent = runtime.block_on(async { tokio::time::timeout(READ_PATIENCE, send.send(piece)).await });
                    sent.ok().and_then(Result::ok).context("the client has gone")
                };
                let text = |text: &str| tell(Piece::Text(text.to_owned()));
                let sampling = Sampling { until: Some(until), ..asked.sampling };
                // Who has gone is told nothing.
                let _ = match self.speaker.speak(&asked.prompt, &sampling, text) {
                    // Asked again, it would take as long again.
                    Ok(spoken) if spoken.generated.tokens == 0 && Instant::now() >= until => {
                        tell(Piece::Failed(Refusal(StatusCode::BAD_REQUEST, TOO_SLOW.into())))
                    }
                    Ok(spoken) => tell(Piece::End(spoken)),
                    Err(error) => tell(Piece::Failed(Refusal(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")))),
                };
                drop((turn, place));
            };
            let _ = tokio::task::spawn_blocking(work).await;
        });
        receive
    }

    async fn whole(
        self: Arc<Self>,
        asked: Asked,
        answer: Answer,
        place: OwnedSemaphorePermit,
    ) -> Result<Response<Body>, Refusal> {
        let mut pieces = self.pieces(asked, place);
        let mut text = String::new();
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Text(piece) => text.push_str(&piece),
                Piece::End(spoken) => return Ok(json_response(StatusCode::OK, &answer.whole(&text, &spoken))),
                Piece::Failed(refusal) => return Err(refusal),
            }
        }
        Err(Refusal(StatusCode::INTERNAL_SERVER_ERROR, "the answer ended early".into()))
    }

    fn stream(self: Arc<Self>, asked: Asked, answer: Answer, place: OwnedSemaphorePermit) -> Response<Body> {
        let counts = asked.counts;
        let first = answer.first().map(|first| event(&first));
        let pieces = stream::unfold(self.pieces(asked, place), |mut pieces| async {
            let piece = pieces.recv().await?;
            Some((piece, pieces))
        });
        let rest = pieces.map(move |piece| match piece {
            Piece::Text(text) => event(&answer.piece(&text)),
            Piece::End(spoken) => {
                let last: String = answer.last(&spoken, counts).iter().map(event).collect();
                format!("{last}data: [DONE]\n\n")
            }
            Piece::Failed(Refusal(_, why)) => event(&error(&why, "server_error")),
        });
        let frames = stream::iter(first).chain(rest).map(|event| Ok::<_, Infallible>(Frame::data(Bytes::from(event))));
        response(StatusCode::OK, "text/event-stream", BodyExt::boxed_unsync(StreamBody::new(frames)))
    }
}

enum Piece {
    Text(String),
    End(Spoken),
    Failed(Refusal),
}

/// A server-sent event.
fn event(value: &Value) -> String {
    format!("data: {value}\n\n")
}

fn random_id() -> Result<String> {
    Ok(hex(&random::<12>()?))
}

fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    response(status, "application/json", Full::from(value.to_string()).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::{Read, Write},
        net::TcpStream,
    };

    /// While the learning rate was searched for, clients were let in and heard nothing.
    #[test]
    fn who_comes_before_the_model_is_ready_is_told_to_come_again() {
        let server = Server::bind("--serve", "127.0.0.1:0".parse().unwrap(), None).unwrap();
        let ask = |path: &str| {
            let mut stream = TcpStream::connect(server.door.address).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        for path in ["/v1/models", "/v1/chat/completions"] {
            let answer = ask(path).to_ascii_lowercase();
            let parts = ["http/1.1 503", "retry-after: 5", "not ready yet", "server_error"];
            assert!(parts.iter().all(|part| answer.contains(part)), "{answer}");
        }
        assert!(ask("/").starts_with("HTTP/1.1 200"), "the page shows what it is told");
    }
}
