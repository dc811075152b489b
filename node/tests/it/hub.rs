//! Models by name: a server of this test speaks the hub's protocol, with redirects, ranges, digests, refusals, and
//! transfers that break off; real nodes download from it, and train from the cache afterwards.

use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use crate::support::command;

const COMMIT: &str = "0f3e8e2c1d4b5a69788796a5b4c3d2e1f0012345";

/// What one repository has, and what was asked of it.
struct Hub {
    address: SocketAddr,
    asked: Mutex<Vec<String>>,
}

/// A file as the hub has it; `is_large`: it lies elsewhere, and is asked for by a redirect.
struct File {
    name: &'static str,
    bytes: Vec<u8>,
    is_large: bool,
}

/// The embedded model's, as somebody uploaded them.
fn files() -> Vec<File> {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/src/embedded");
    let file = |name: &'static str| File {
        name,
        bytes: fs::read(place.join(name)).unwrap(),
        is_large: name.ends_with("safetensors"),
    };
    let mut files = Vec::from(["config.json", "tokenizer.json", "model.safetensors"].map(file));
    files.push(File { name: "README.md", bytes: b"not a part of the model".to_vec(), is_large: false });
    files
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hub = Arc::new(Self { address: listener.local_addr().unwrap(), asked: Mutex::default() });
        let serving = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = serving.answer(stream);
            }
        });
        hub
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().transpose()?.unwrap_or_default();
        let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut range, mut token) = (None, String::new());
        for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(": ").unwrap_or_default();
            match name.to_lowercase().as_str() {
                "range" => range = value.strip_prefix("bytes=").and_then(|range| range.split_once('-')).map(numbers),
                "authorization" => token = value.to_owned(),
                _ => {}
            }
        }
        let earlier = self.asked();
        let from = range.map_or(0, |(from, _)| from);
        self.asked
            .lock()
            .unwrap()
            .push(format!("{path} from {from}{}", if token.is_empty() { "" } else { " with a token" }));
        self.respond(stream, &path, range, &token, &earlier)
    }

    fn respond(
        &self,
        mut stream: TcpStream,
        path: &str,
        range: Option<(usize, Option<usize>)>,
        token: &str,
        earlier: &[String],
    ) -> std::io::Result<()> {
        let mut plain = |status: &str, headers: &str, body: &[u8]| {
            write!(
                stream,
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n{headers}\r\n",
                body.len()
            )?;
            stream.write_all(body)
        };
        let is_spoiled = path.contains("owner/spoiled");
        let Some(repository) = ["owner/name", "owner/gated", "owner/spoiled"].iter().find(|name| path.contains(**name))
        else {
            return plain("404 Not Found", "", b"Repository not found");
        };
        if *repository == "owner/gated" && token != "Bearer secret" {
            return plain("401 Unauthorized", "", b"Access to model owner/gated is restricted");
        }
        let files = files();
        if path == format!("/api/models/{repository}/revision/main?blobs=true") {
            let sibling = |file: &File| {
                let lfs = if file.is_large {
                    serde_json::json!({"sha256": sha256(&file.bytes)})
                } else {
                    serde_json::Value::Null
                };
                serde_json::json!({"rfilename": file.name, "size": file.bytes.len(), "lfs": lfs})
            };
            let list: Vec<_> = files.iter().map(sibling).collect();
            return plain("200 OK", "", serde_json::json!({"sha": COMMIT, "siblings": list}).to_string().as_bytes());
        }
        let Some(file) = files.iter().find(|file| path.ends_with(file.name)) else {
            return plain("404 Not Found", "", b"Entry not found");
        };
        let elsewhere = path.starts_with("/elsewhere/");
        if file.is_large && !elsewhere {
            let location = format!(
                "Location: http://{}/elsewhere/{repository}/{}\r\nX-Repo-Commit: {COMMIT}\r\nX-Linked-Etag: \"{}\"\r\n",
                self.address,
                file.name,
                sha256(&file.bytes)
            );
            return plain("302 Found", &location, b"");
        }
        let (from, to) = range.unwrap_or((0, None));
        let end = to.map_or(file.bytes.len(), |to| to + 1);
        let mut body = file.bytes[from..end].to_vec();
        if is_spoiled && file.is_large {
            body.iter_mut().for_each(|byte| *byte ^= 1);
        }
        let headers = format!(
            "Content-Range: bytes {from}-{}/{}\r\nETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n",
            end - 1,
            file.bytes.len(),
            &sha256(&file.bytes)[..40]
        );
        // The first time that all of it is asked for, the line breaks in the middle.
        let whole = format!("{path} from 0");
        let is_first = earlier.iter().filter(|asked| asked.starts_with(&whole)).count() <= 1;
        if file.is_large && to.is_none() && from == 0 && is_first {
            write!(stream, "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n{headers}\r\n", body.len())?;
            return stream.write_all(&body[..body.len() / 2]);
        }
        plain("206 Partial Content", &headers, &body)
    }
}

fn numbers((from, to): (&str, &str)) -> (usize, Option<usize>) {
    (from.parse().unwrap_or(0), to.parse().ok())
}

/// A node that makes a few gradients on the model called `name`, and leaves.
fn train(place: &Path, state: &str, hub: &Hub, name: &str, more: &[(&str, &str)]) -> Output {
    let text = place.join("text.txt");
    fs::write(&text, "The keeper lit the lamp and wrote the hour in the book. ".repeat(60)).unwrap();
    let arguments = [
        "--model",
        name,
        "--data",
        text.to_str().unwrap(),
        "--samples",
        "4",
        "--exit-when-idle",
        "0.2",
        "--batch-size",
        "1",
    ];
    let mut command: Command = command(&place.join(state), &arguments);
    command.env("HF_HOME", place.join("hf")).env("HF_ENDPOINT", format!("http://{}", hub.address));
    for name in ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"] {
        command.env_remove(name);
    }
    command.envs(more.iter().copied()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_model_is_downloaded_by_name_goes_on_where_it_broke_off_and_trains_offline_afterwards() {
    let (place, hub) = (tempfile::tempdir().unwrap(), Hub::start());
    let first = train(place.path(), "first", &hub, "owner/name", &[]);
    assert!(first.status.success(), "{}", said(&first));
    let asked = hub.asked();
    let resumed = |line: &String| line.starts_with("/elsewhere/") && !line.contains(" from 0");
    assert!(asked.iter().any(resumed), "it goes on behind what came: {asked:?}");
    assert!(!asked.iter().any(|line| line.contains("README.md")), "what is no part of the model stays: {asked:?}");
    let snapshot = place.path().join("hf/hub/models--owner--name/snapshots").join(COMMIT);
    for file in files().iter().filter(|file| file.name != "README.md") {
        assert!(fs::read(snapshot.join(file.name)).unwrap() == file.bytes, "{}", file.name);
    }
    let offline = train(place.path(), "second", &hub, "owner/name", &[("HF_HUB_OFFLINE", "1")]);
    assert!(offline.status.success(), "{}", said(&offline));
    assert_eq!(hub.asked().len(), asked.len(), "nothing more was asked for");
}

#[test]
fn what_the_hub_refuses_is_said_with_what_to_do() {
    let (place, hub) = (tempfile::tempdir().unwrap(), Hub::start());
    let refused = |name: &str, more: &[(&str, &str)]| {
        let output = train(place.path(), "refused", &hub, name, more);
        assert!(!output.status.success(), "{name}");
        said(&output)
    };
    let missing = refused("owner/missing", &[]);
    assert!(missing.contains("has no owner/missing"), "{missing}");
    let gated = refused("owner/gated", &[]);
    assert!(gated.contains("HF_TOKEN") && gated.contains("401"), "{gated}");
    let offline = refused("owner/name", &[("HF_HUB_OFFLINE", "1")]);
    assert!(offline.contains("HF_HUB_OFFLINE"), "{offline}");
    let spoiled = refused("owner/spoiled", &[]);
    assert!(spoiled.contains("not what the hub says it is") && spoiled.contains("model.safetensors"), "{spoiled}");
    let allowed = train(place.path(), "allowed", &hub, "owner/gated", &[("HF_TOKEN", "secret")]);
    assert!(allowed.status.success(), "{}", said(&allowed));
    assert!(hub.asked().iter().any(|line| line.contains("with a token")));
}
