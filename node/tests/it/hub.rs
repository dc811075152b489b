//! Models by name: a server of this test speaks the hub's protocol, with redirects, ranges, digests, refusals, and
//! transfers that break off; real nodes download from it, and train from the cache afterwards.

use sha2::{Digest, Sha256};
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use crate::support::{Node, assert_agreement, command};

const COMMIT: &str = "0f3e8e2c1d4b5a69788796a5b4c3d2e1f0012345";
const NEXT_COMMIT: &str = "77aa8e2c1d4b5a69788796a5b4c3d2e1f0012345";

/// The hub, and the other host where large files lie. A model's name says what happens to it: `owner/name` is in order,
/// `owner/gated` asks for a token, `owner/closed` gives it to nobody, `owner/renamed` is called `owner/gated` by now,
/// `owner/rangeless` lies on a server without ranges, `owner/spoiled` is not what its digest says, `owner/several` has
/// several GGUF files, `owner/adapter`, `owner/unknown` and `owner/wordless` (it has no tokenizer) cannot be a base;
/// `ownerless` is in order.
pub struct Hub {
    pub address: SocketAddr,
    elsewhere: SocketAddr,
    /// What `main` is.
    main: Mutex<&'static str>,
    asked: Mutex<Vec<String>>,
}

/// A file as the hub has it; `is_large`: it lies elsewhere, and is asked for by a redirect.
struct File {
    name: &'static str,
    bytes: Vec<u8>,
    is_large: bool,
}

/// A tiny quantised model: a Llama of which every linear layer is stored in another type.
fn quantised() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/tests/gguf/kinds.gguf")
}

/// The files of the repository that `path` leads into: a GGUF file, or the embedded model's, as somebody uploaded them.
fn files(path: &str) -> Vec<File> {
    if path.contains("owner/quantised") {
        return vec![File { name: "kinds.gguf", bytes: fs::read(quantised()).unwrap(), is_large: true }];
    }
    if path.contains("owner/several") {
        let names = ["q4/kinds-Q4_K_M.gguf", "kinds-Q8_0.gguf", "mmproj-kinds.gguf"];
        let file = |name| File { name, bytes: fs::read(quantised()).unwrap(), is_large: true };
        return names.map(file).into();
    }
    if path.contains("owner/adapter") {
        let config = br#"{"base_model_name_or_path": "a/base"}"#.to_vec();
        let file = |(name, bytes): (&'static str, _)| File { name, bytes, is_large: name.ends_with("safetensors") };
        return [("adapter_config.json", config), ("adapter_model.safetensors", vec![1])].map(file).into();
    }
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/src/embedded");
    let file = |name: &'static str| File {
        name,
        bytes: fs::read(place.join(name)).unwrap(),
        is_large: name.ends_with("safetensors"),
    };
    let mut files = Vec::from(["config.json", "tokenizer.json", "model.safetensors"].map(file));
    files.push(File { name: "README.md", bytes: b"not a part of the model".to_vec(), is_large: false });
    if path.contains("owner/unknown") {
        files[0].bytes = br#"{"model_type": "mamba"}"#.to_vec();
    }
    files.retain(|file| !path.contains("owner/wordless") || file.name != "tokenizer.json");
    files
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    pub fn start() -> Arc<Self> {
        let [hub, elsewhere] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [address, other] = [&hub, &elsewhere].map(|listener| listener.local_addr().unwrap());
        let this = Arc::new(Self { address, elsewhere: other, main: Mutex::new(COMMIT), asked: Mutex::default() });
        for (listener, is_elsewhere) in [(hub, false), (elsewhere, true)] {
            let serving = this.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    let _ = serving.answer(stream, is_elsewhere);
                }
            });
        }
        this
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn answer(&self, stream: TcpStream, is_elsewhere: bool) -> std::io::Result<()> {
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
        let place = if is_elsewhere { "elsewhere " } else { "" };
        let with = if token.is_empty() { "" } else { " with a token" };
        self.asked.lock().unwrap().push(format!("{place}{path} from {from}{with}"));
        let answer = Answer { stream, range, earlier };
        match is_elsewhere {
            true => answer.content(&path),
            false => self.respond(answer, &path, &token),
        }
    }

    fn respond(&self, mut answer: Answer, path: &str, token: &str) -> std::io::Result<()> {
        let known = ["name", "gated", "closed", "renamed", "rangeless", "spoiled", "quantised"].iter();
        let known = known.chain(&["several", "adapter", "unknown", "wordless"]).map(|name| format!("owner/{name}"));
        let mut known = known.chain(["ownerless".to_owned()]);
        let Some(repository) = known.find(|name| path.contains(&**name)) else {
            return answer.plain("404 Not Found", "X-Error-Code: RepoNotFound\r\n", b"Repository not found");
        };
        match &*repository {
            "owner/gated" if token != "Bearer secret" => {
                return answer.plain("401 Unauthorized", "", b"Access to model owner/gated is restricted");
            }
            "owner/closed" => return answer.plain("403 Forbidden", "X-Error-Code: GatedRepo\r\n", b"not on the list"),
            "owner/renamed" => {
                let to = format!("Location: {}\r\n", path.replace("owner/renamed", "owner/gated"));
                return answer.plain("307 Temporary Redirect", &to, b"");
            }
            _ => {}
        }
        let (files, commit) = (files(path), *self.main.lock().unwrap());
        if let Some(revision) = path.strip_prefix(&format!("/api/models/{repository}/revision/")) {
            let known = ["main", commit, COMMIT];
            let named = known.into_iter().find(|known| revision == format!("{known}?blobs=true"));
            let Some(named) = named else {
                return answer.plain("404 Not Found", "X-Error-Code: RevisionNotFound\r\n", b"Invalid rev id");
            };
            let commit = if named == "main" { commit } else { named };
            let sibling = |file: &File| {
                let lfs = file.is_large.then(|| serde_json::json!({"sha256": sha256(&file.bytes)}));
                serde_json::json!({"rfilename": file.name, "size": file.bytes.len(), "lfs": lfs})
            };
            let list: Vec<_> = files.iter().map(sibling).collect();
            let text = serde_json::json!({"sha": commit, "siblings": list}).to_string();
            return answer.plain("200 OK", "", text.as_bytes());
        }
        let Some(file) = files.iter().find(|file| path.ends_with(file.name)) else {
            return answer.plain("404 Not Found", "X-Error-Code: EntryNotFound\r\n", b"Entry not found");
        };
        if !file.is_large {
            return answer.content(path);
        }
        let to = format!("http://{}/elsewhere/{repository}/{}", self.elsewhere, file.name);
        let tag = sha256(&file.bytes);
        let headers = format!("Location: {to}\r\nX-Repo-Commit: {commit}\r\nX-Linked-Etag: \"{tag}\"\r\n");
        answer.plain("302 Found", &headers, b"")
    }
}

struct Answer {
    stream: TcpStream,
    range: Option<(usize, Option<usize>)>,
    /// Everything that was asked before.
    earlier: Vec<String>,
}

impl Answer {
    fn plain(&mut self, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
        let length = body.len();
        write!(self.stream, "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n")?;
        self.stream.write_all(body)
    }

    /// The file at `path`, or the part of it that was asked for.
    fn content(mut self, path: &str) -> std::io::Result<()> {
        let Some(file) = files(path).into_iter().find(|file| path.ends_with(file.name)) else {
            return self.plain("404 Not Found", "", b"");
        };
        let is_whole = path.contains("owner/rangeless");
        let (from, to) = self.range.filter(|_| !is_whole).unwrap_or((0, None));
        let end = to.map_or(file.bytes.len(), |to| to + 1);
        let mut body = file.bytes[from..end].to_vec();
        if path.contains("owner/spoiled") && file.is_large {
            body.iter_mut().for_each(|byte| *byte ^= 1);
        }
        let headers = format!(
            "Content-Range: bytes {from}-{}/{}\r\nETag: \"{}\"\r\nX-Repo-Commit: {COMMIT}\r\n",
            end - 1,
            file.bytes.len(),
            &sha256(&file.bytes)[..40]
        );
        let (status, headers) = if is_whole { ("200 OK", "") } else { ("206 Partial Content", &*headers) };
        // The first time that all of it is asked for, the line breaks in the middle.
        let is_first = !self.earlier.iter().any(|asked| asked.contains(&format!("elsewhere {path} from ")));
        if file.is_large && to.is_none() && from == 0 && is_first {
            write!(self.stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len())?;
            return self.stream.write_all(&body[..body.len() / 2]);
        }
        self.plain(status, headers, &body)
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
    command.env("HF_HOME", place.join("hf")).env("HF_ENDPOINT", hub.endpoint());
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
    let resumed = |line: &String| line.starts_with("elsewhere ") && !line.contains(" from 0");
    assert!(asked.iter().any(resumed), "it goes on behind what came: {asked:?}");
    assert!(!asked.iter().any(|line| line.contains("README.md")), "what is no part of the model stays: {asked:?}");
    let model = place.path().join("hf/hub/models--owner--name");
    let snapshot = model.join("snapshots").join(COMMIT);
    for file in files("").iter().filter(|file| file.name != "README.md") {
        assert!(fs::read(snapshot.join(file.name)).unwrap() == file.bytes, "{}", file.name);
        assert!(
            fs::read_link(snapshot.join(file.name)).unwrap().starts_with("../../blobs"),
            "as huggingface_hub links"
        );
    }
    assert_eq!(fs::read_to_string(model.join("refs/main")).unwrap(), COMMIT);
    for name in ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"] {
        let offline = train(place.path(), name, &hub, "owner/name", &[(name, "1")]);
        assert!(offline.status.success() && said(&offline).contains(COMMIT), "{}", said(&offline));
    }
    let pinned = train(place.path(), "pinned", &hub, &format!("owner/name@{COMMIT}"), &[]);
    assert!(pinned.status.success(), "{}", said(&pinned));
    assert_eq!(hub.asked().len(), asked.len(), "nothing more was asked for");
}

/// hf-hub 0.5 sent the user's token to whatever host a download was redirected to, when it asked there for the size.
#[test]
fn a_token_goes_to_the_hub_and_to_nobody_else() {
    let (place, hub) = (tempfile::tempdir().unwrap(), Hub::start());
    let allowed = train(place.path(), "allowed", &hub, "owner/gated", &[("HF_TOKEN", "secret")]);
    assert!(allowed.status.success(), "{}", said(&allowed));
    // A redirect within the hub is the hub.
    let renamed = train(place.path(), "renamed", &hub, "owner/renamed", &[("HF_TOKEN", " secret\n")]);
    assert!(renamed.status.success(), "{}", said(&renamed));
    fs::write(place.path().join("hf/token"), "secret\n").unwrap();
    let other_cache = place.path().join("cache");
    let kept = [("HF_HUB_CACHE", other_cache.to_str().unwrap())];
    let kept = train(place.path(), "kept", &hub, "owner/gated", &kept);
    assert!(kept.status.success(), "the token that hf auth login left: {}", said(&kept));
    assert!(other_cache.join("models--owner--gated/snapshots").is_dir(), "HF_HUB_CACHE goes before HF_HOME");
    let (elsewhere, hub): (Vec<_>, Vec<_>) = hub.asked().into_iter().partition(|line| line.starts_with("elsewhere "));
    assert!(elsewhere.len() >= 4, "{elsewhere:?}");
    assert!(!elsewhere.iter().any(|line| line.contains("token")), "{elsewhere:?}");
    assert!(hub.iter().all(|line| line.contains("with a token")), "{hub:?}");
}

#[test]
fn a_server_without_ranges_sends_it_whole_again() {
    let (place, hub) = (tempfile::tempdir().unwrap(), Hub::start());
    let output = train(place.path(), "first", &hub, "owner/rangeless", &[]);
    assert!(output.status.success() && said(&output).contains("beginning anew"), "{}", said(&output));
}

#[test]
fn main_is_what_the_hub_says_today_and_a_run_keeps_its_revision() {
    let (place, hub) = (tempfile::tempdir().unwrap(), Hub::start());
    let taken = |state: &str, name: &str, more: &[(&str, &str)]| {
        let output = train(place.path(), state, &hub, name, more);
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    let first = taken("first", "owner/name", &[]);
    assert!(first.contains(&format!("owner/name is owner/name@{COMMIT} today")), "{first}");
    *hub.main.lock().unwrap() = NEXT_COMMIT;
    let large = |hub: &Hub| hub.asked().iter().filter(|line| line.starts_with("elsewhere ")).count();
    let before = large(&hub);
    let second = taken("second", "owner/name", &[]);
    assert!(second.contains(&format!("owner/name is owner/name@{NEXT_COMMIT} today")), "{second}");
    assert_eq!(large(&hub), before, "the same content is not fetched again");
    let earlier = taken("earlier", &format!("owner/name@{COMMIT}"), &[]);
    assert!(earlier.contains(COMMIT), "{earlier}");
    // The same command goes on where it stopped, and asks nobody.
    let asked = hub.asked().len();
    let again = taken("first", "owner/name", &[]);
    assert!(again.contains("going on with run"), "{again}");
    assert_eq!(hub.asked().len(), asked);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let away = taken("away", "owner/name", &[("HF_ENDPOINT", &format!("http://{nobody}"))]);
    assert!(away.contains("Taking what the hub's cache has") && away.contains(NEXT_COMMIT), "{away}");
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
    let branch = refused("owner/name@branch", &[]);
    assert!(branch.contains("no revision branch"), "{branch}");
    let gated = refused("owner/gated", &[]);
    assert!(gated.contains("set HF_TOKEN") && gated.contains("401"), "{gated}");
    let closed = refused("owner/closed", &[("HF_TOKEN", "secret")]);
    assert!(closed.contains("403") && closed.contains("admit") && closed.contains("your token's account"), "{closed}");
    let offline = refused("owner/name", &[("HF_HUB_OFFLINE", "1")]);
    assert!(offline.contains("HF_HUB_OFFLINE"), "{offline}");
    let spoiled = refused("owner/spoiled", &[]);
    assert!(spoiled.contains("not what the hub says it is") && spoiled.contains("model.safetensors"), "{spoiled}");
}

#[test]
fn what_cannot_be_a_base_is_said_before_its_weights_are_fetched() {
    let (place, hub) = (tempfile::tempdir().unwrap(), Hub::start());
    for (name, words) in [
        ("owner/unknown", &["model_type mamba", "its weights were not downloaded"][..]),
        ("owner/wordless", &["no tokenizer.json"]),
        ("owner/adapter", &["an adapter (PEFT)", "which is a/base"]),
        ("owner/several", &["2 GGUF files", "q4/kinds-Q4_K_M.gguf  1 MiB", "--model owner/several:"]),
        ("owner/several:Q5_K_M", &["no GGUF file Q5_K_M", "kinds-Q8_0.gguf"]),
        ("nobody", &["has no nobody", "nothing here is called so"]),
    ] {
        let output = train(place.path(), "refused", &hub, name, &[]);
        let said = said(&output);
        assert!(!output.status.success() && words.iter().all(|words| said.contains(words)), "{name}: {said}");
    }
    let asked = hub.asked();
    let is_weights = |line: &&String| line.contains(".safetensors") || line.contains(".gguf");
    assert!(!asked.iter().any(|line| is_weights(&line)), "{asked:?}");
}

/// The usual repository of GGUF files has many; and the oldest models have no owner.
#[test]
fn a_file_of_several_is_named_and_a_model_needs_no_owner() {
    let (place, hub) = (tempfile::tempdir().unwrap(), Hub::start());
    let text = place.path().join("letters.txt");
    fs::write(&text, "a cab ab bad ace fab ".repeat(200)).unwrap();
    let run = |state: &str, name: &str, is_offline: bool| {
        let more = ["--samples", "2", "--exit-when-idle", "0.2", "--batch-size", "1", "--sequence-length", "16"];
        let own = ["--model", name, "--data", text.to_str().unwrap(), "--lora", "2"];
        let mut command = command(&place.path().join(state), &[&own[..], &more].concat());
        command.env("HF_HOME", place.path().join("hf")).env("HF_ENDPOINT", hub.endpoint());
        command.env("HF_HUB_OFFLINE", if is_offline { "1" } else { "0" }).output().unwrap()
    };
    for (name, is_offline) in [("owner/several:q4_k_m", false), ("owner/several/kinds-Q4_K_M.gguf", true)] {
        let output = run(if is_offline { "offline" } else { "named" }, name, is_offline);
        assert!(output.status.success() && said(&output).contains("owner/several@"), "{}", said(&output));
    }
    let asked = hub.asked();
    assert!(!asked.iter().any(|line| line.contains("Q8_0") || line.contains("mmproj")), "{asked:?}");
    let snapshot = place.path().join("hf/hub/models--owner--several/snapshots").join(COMMIT);
    assert_eq!(fs::read(snapshot.join("q4/kinds-Q4_K_M.gguf")).unwrap(), fs::read(quantised()).unwrap());
    // The run has that file, and no other of the repository.
    let other = run("named", "owner/several:Q8_0", true);
    assert!(!other.status.success() && said(&other).contains("has no GGUF file Q8_0"), "{}", said(&other));

    let ownerless = run("ownerless", "ownerless", false);
    assert!(ownerless.status.success() && said(&ownerless).contains("on ownerless@"), "{}", said(&ownerless));
    // Half a model in the cache is said to be that.
    let model = place.path().join("hf/hub/models--ownerless/snapshots").join(COMMIT).join("model.safetensors");
    fs::remove_file(model.canonicalize().unwrap()).unwrap();
    let half = said(&run("half", "ownerless", true));
    assert!(half.contains("cannot be used") && half.contains("model.safetensors is a link to"), "{half}");
}

/// Digests decide, wherever the base comes from: from a file, the hub's cache, the hub, or peers.
#[test]
fn a_late_joiner_takes_a_quantised_base_from_disk_cache_hub_or_peers() {
    let (place, hub) = (tempfile::tempdir().unwrap(), Hub::start());
    let text = place.path().join("text.txt");
    fs::write(&text, "a cab ab bad ace fab ".repeat(200)).unwrap();
    let start = |name: &str, more: &[&str], home: &str, is_offline: bool| {
        let own = ["--data", text.to_str().unwrap(), "--batch-size", "1", "--sequence-length", "16", "--samples", "16"];
        let state = place.path().join(name);
        let mut command = command(&state, &[&own, more].concat());
        command.env("HF_HOME", place.path().join(home)).env("HF_ENDPOINT", hub.endpoint());
        if is_offline {
            command.env("HF_HUB_OFFLINE", "1");
        }
        Node::spawn(command, &state)
    };
    let first = start("first", &["--model", "owner/quantised", "--lora", "4"], "hf", false);
    let ticket = first.ticket();
    first.until_gradients(16);
    let before = hub.asked().len();
    let path = quantised();
    let on_disk = ["--join", &ticket, "--model", path.to_str().unwrap()];
    let disk = start("disk", &on_disk, "nothing", true);
    let cache = start("cache", &["--join", &ticket], "hf", true);
    let peers = start("peers", &["--join", &ticket], "nothing", true);
    cache.hear("was in the hub's cache: nothing to fetch");
    let fetching = |node: &Node| node.said("fetching the base model");
    peers.hear("fetching the base model");
    for node in [&first, &disk, &cache, &peers] {
        node.until_gradients(64);
    }
    assert!(!fetching(&disk) && !fetching(&cache));
    assert_eq!(hub.asked().len(), before, "nobody has asked the hub");
    let from_hub = start("hub", &["--join", &ticket], "other", false);
    from_hub.hear("came from the hub");
    let nodes = [first, disk, cache, peers, from_hub];
    nodes.iter().for_each(|node| node.until_gradients(80));
    assert!(!fetching(&nodes[4]) && hub.asked().len() > before);
    assert_agreement(&nodes.map(Node::leave));
}
