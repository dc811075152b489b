//! Requests to the hub. A file may lie on another host, to which the hub redirects: the token is the hub's, and goes to
//! no other.

use std::{
    io::{self, Read},
    time::Duration,
};
use ureq::{
    Agent, Body,
    http::{Response, StatusCode, Uri, header},
};

/// Most redirects of one request.
const REDIRECTS_MAX: usize = 10;
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// A silence of this length, of the hub or of a transfer, is a broken line.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Largest list of files, bytes.
const LIST_BYTES_MAX: u64 = 1 << 24;

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The status that was answered, and the hub's own word for why (`RepoNotFound`, `GatedRepo`), if it has one.
    #[error("status {status}{}", if code.is_empty() { String::new() } else { format!(", {code}") })]
    Status { status: u16, code: String },
    #[error("it redirects {0}")]
    Redirect(String),
    #[error(transparent)]
    Line(#[from] Box<ureq::Error>),
    #[error("the line broke: {0}")]
    Broken(io::Error),
    #[error("it answers what is no list of files: {0}")]
    Unreadable(#[from] serde_json::Error),
}

impl Refusal {
    /// Whether the same request may do better a little later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..),
            Self::Line(_) | Self::Broken(_) => true,
            Self::Redirect(_) | Self::Unreadable(_) => false,
        }
    }
}

/// An answer with a body.
pub struct Answer {
    /// Where in the file the body begins, bytes: what was asked for, or 0 if the server knows no ranges.
    pub from: u64,
    /// Bytes of the body, if the server says.
    pub bytes: Option<u64>,
    pub body: Body,
}

/// The hub at one address, as one user sees it.
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

impl Client {
    /// `endpoint` without a path's slash at its end.
    pub fn new(endpoint: String, token: Option<String>) -> Self {
        let config = Agent::config_builder()
            // Every redirect is followed here, which decides whether the token goes along.
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_recv_response(Some(SILENCE_MAX))
            .timeout_per_read(Some(SILENCE_MAX))
            .user_agent(concat!("onebyte/", env!("CARGO_PKG_VERSION")));
        Self { agent: config.build().into(), endpoint, token }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// The JSON at `path` of the hub.
    pub fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, Refusal> {
        let mut text = Vec::new();
        let body = self.get(path, None)?.body.into_reader();
        body.take(LIST_BYTES_MAX).read_to_end(&mut text).map_err(Refusal::Broken)?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// What is at `path` of the hub, from this byte on.
    pub fn get(&self, path: &str, from: Option<u64>) -> Result<Answer, Refusal> {
        let (response, _) = self.follow(path, from.map(|from| format!("bytes={from}-")), true)?;
        let number = |name| response.headers().get(name)?.to_str().ok()?.parse().ok();
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
        let (from, bytes) = (from.filter(|_| is_part).unwrap_or(0), number(header::CONTENT_LENGTH));
        Ok(Answer { from, bytes, body: response.into_body() })
    }

    /// What the hub itself calls the content of the file at `path`.
    pub fn tag(&self, path: &str) -> Result<Option<String>, Refusal> {
        Ok(self.follow(path, Some("bytes=0-0".to_owned()), false)?.1)
    }

    /// Follows redirects, or only those within the hub: to the answer, and the content's tag as the hub has it.
    fn follow(
        &self,
        path: &str,
        range: Option<String>,
        leaves_hub: bool,
    ) -> Result<(Response<Body>, Option<String>), Refusal> {
        let hub = origin(&self.endpoint);
        let (mut url, mut tag) = (format!("{}{path}", self.endpoint), None);
        for _ in 0..=REDIRECTS_MAX {
            let is_hub = origin(&url) == hub;
            let mut request = self.agent.get(&url);
            if let Some(range) = &range {
                request = request.header(header::RANGE, range);
            }
            if let Some(token) = self.token.as_ref().filter(|_| is_hub) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(Box::new)?;
            let text = |name: &str| Some(response.headers().get(name)?.to_str().ok()?.to_owned());
            if is_hub {
                tag = text("x-linked-etag").or_else(|| text("etag")).or(tag);
            }
            let status = response.status();
            if matches!(status.as_u16(), 301..=303 | 307 | 308) {
                let to = text("location").ok_or_else(|| Refusal::Redirect("nowhere".to_owned()))?;
                url = resolved(&url, &to).ok_or_else(|| Refusal::Redirect(format!("to {to}, which is no address")))?;
                if leaves_hub || origin(&url) == hub {
                    continue;
                }
            } else if !status.is_success() {
                let code = text("x-error-code").unwrap_or_default();
                return Err(Refusal::Status { status: status.as_u16(), code });
            }
            return Ok((response, tag));
        }
        Err(Refusal::Redirect(format!("more than {REDIRECTS_MAX} times")))
    }
}

/// Who is asked at `url`: scheme, host and port.
fn origin(url: &str) -> Option<(String, String, u16)> {
    let uri: Uri = url.parse().ok()?;
    let scheme = uri.scheme_str()?.to_lowercase();
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_lowercase(), port))
}

/// The address that `to` means on a page at `url`.
fn resolved(url: &str, to: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let lower = to.to_lowercase();
    let whole = if lower.starts_with("http://") || lower.starts_with("https://") {
        to.to_owned()
    } else if let Some(rest) = to.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if to.starts_with('/') {
        format!("{scheme}://{host}{to}")
    } else {
        let path = path.split('?').next().unwrap_or_default();
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        format!("{scheme}://{host}{directory}/{to}")
    };
    origin(&whole).map(|_| whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_means_what_it_means_to_a_browser() {
        let from = "https://hub.example:8443/owner/name/resolve/main/a.json?x=/1";
        for (to, expected) in [
            ("https://cdn.example/b", "https://cdn.example/b"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("/other/a.json?y=1", "https://hub.example:8443/other/a.json?y=1"),
            ("b.json", "https://hub.example:8443/owner/name/resolve/main/b.json"),
        ] {
            assert_eq!(resolved(from, to).as_deref(), Some(expected), "{to}");
        }
        assert_eq!(resolved("http://hub.example", "/a").unwrap(), "http://hub.example/a");
        assert_eq!(resolved(from, "//"), None);
    }

    #[test]
    fn another_scheme_host_or_port_is_another() {
        let hub = origin("https://hub.example");
        assert_eq!(origin("HTTPS://HUB.example:443/x"), hub);
        let others = ["http://hub.example", "https://hub.example:444", "https://hub.example.evil.example/"];
        for other in others.iter().chain(&["https://hub.example@evil.example/", "https://cdn.hub.example/"]) {
            assert!(origin(other).is_some() && origin(other) != hub, "{other}");
        }
    }
}
