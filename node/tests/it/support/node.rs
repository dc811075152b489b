//! Real node processes.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::PATIENCE;

/// The command line of a node with its state in `state`: on loopback, on a port that the system picks, on one core. A
/// run that it starts has a learning rate and a replay budget that nobody needs to find, unless `arguments` say a rate.
/// It measures by forwards, a few gradients at a time, unless they say how. It does not stand back behind other
/// programs: on a busy machine those that do get no turn, and whoever waits for them no answer.
pub fn command(state: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
    command.arg("--state").arg(state).args(["--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns"]).args(arguments);
    let has = |named: &[&str]| arguments.iter().any(|argument| named.contains(argument));
    if !has(&["--bootstrap", "--join", "--learning-rate"]) {
        command.args(["--learning-rate", "2e-3", "--replay-budget", "100000"]);
    }
    if !has(&["--estimator", "--projections"]) {
        command.args(["--estimator", "fzoo"]);
    }
    if !has(&["--priority"]) {
        command.args(["--priority", "normal"]);
    }
    command.env("RAYON_NUM_THREADS", "1").env_remove("ONEBYTE_CRASH_AT");
    // What the user of this machine says to Hugging Face's programs is not for tests.
    for (name, _) in std::env::vars_os() {
        let is_theirs = name.to_str().is_some_and(|name| name.starts_with("HF_") || name.starts_with("TRANSFORMERS_"));
        if is_theirs || name == "HUGGING_FACE_HUB_TOKEN" || name == "HUGGINGFACE_HUB_CACHE" {
            command.env_remove(name);
        }
    }
    command
}

#[derive(Default)]
struct Lines {
    lines: Mutex<Vec<String>>,
    grew: Condvar,
}

impl Lines {
    /// Whether a thread that held the lines panicked does not matter to them.
    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running node.
pub struct Node {
    name: String,
    state: PathBuf,
    child: Child,
    lines: Arc<Lines>,
    reader: Option<JoinHandle<()>>,
}

impl Node {
    /// With its state in `state`, and `arguments` beside those of [`command`].
    pub fn start(state: &Path, arguments: &[&str]) -> Self {
        Self::spawn(command(state, arguments), state)
    }

    /// Runs a command line of a node whose state is in `state`.
    pub fn spawn(mut command: Command, state: &Path) -> Self {
        let mut child = command
            .env("RAYON_NUM_THREADS", "1")
            .env("ONEBYTE_LOG", "error,node=debug")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Lines::default());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let shared = lines.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                shared.lock().push(line);
                shared.grew.notify_all();
            }
        });
        let name = state.file_name().unwrap().to_string_lossy().into_owned();
        Self { name, state: state.to_owned(), child, lines, reader: Some(reader) }
    }

    pub fn lines(&self) -> Vec<String> {
        self.lines.lock().clone()
    }

    pub fn said(&self, text: &str) -> bool {
        self.lines.lock().iter().any(|line| line.contains(text))
    }

    /// Waits for a line on standard error that contains `text`.
    pub fn hear(&self, text: &str) -> String {
        self.hear_times(text, 1)
    }

    /// Waits for the `times`-th line on standard error that contains `text`, for as long as the node runs.
    pub fn hear_times(&self, text: &str, times: usize) -> String {
        let begun = Instant::now();
        loop {
            // Asked first: what it said last is there once its reader is through.
            let has_ended = self.reader.as_ref().is_none_or(JoinHandle::is_finished);
            let lines = self.lines.lock();
            if let Some(line) = lines.iter().filter(|line| line.contains(text)).nth(times - 1) {
                return line.clone();
            }
            let waits = !has_ended && begun.elapsed() < PATIENCE;
            assert!(waits, "{} never said {text:?}, but:\n{}", self.name, lines.join("\n"));
            drop(self.lines.grew.wait_timeout(lines, Duration::from_millis(200)).unwrap());
        }
    }

    /// (address with the peer id, run id) from the line for other machines.
    pub fn join_line(&self) -> (String, String) {
        let line = self.hear("node --bootstrap");
        let word_after = |flag: &str| {
            let mut words = line.split_whitespace().skip_while(|word| *word != flag);
            words.nth(1).unwrap_or_else(|| panic!("no {flag} in {line}")).to_owned()
        };
        (word_after("--bootstrap"), word_after("--run"))
    }

    /// The latest ticket, once the node has one.
    pub fn ticket(&self) -> String {
        self.hear("--join onebyte1");
        std::fs::read_to_string(self.state.join("ticket")).unwrap().trim().to_owned()
    }

    /// The last `version vector … weights …` that the node told at rest.
    pub fn at_rest(&self) -> Option<String> {
        let lines = self.lines.lock();
        let line = lines.iter().rev().find(|line| line.contains("at rest: "))?;
        line.split_once("at rest: ").map(|(_, digest)| digest.to_owned())
    }

    /// What the node last wrote of itself; null before that.
    pub fn status(&self) -> serde_json::Value {
        let text = std::fs::read_to_string(self.state.join("status.json")).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Waits until what the node writes of itself is so; returns how long that took.
    pub fn until(&self, what: &str, is_so: impl Fn(&serde_json::Value) -> bool) -> Duration {
        let begun = Instant::now();
        while !is_so(&self.status()) {
            assert!(begun.elapsed() < PATIENCE, "{}: never {what}, but: {:#}", self.name, self.status());
            std::thread::sleep(Duration::from_millis(100));
        }
        begun.elapsed()
    }

    /// Waits until the node holds `gradients` of the swarm's, and its weights lack none of them.
    pub fn until_gradients(&self, gradients: u64) {
        self.until(&format!("{gradients} gradients"), |status| {
            status["swarm"]["total"] == gradients && status["waiting"] == 0
        });
    }

    /// Of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal by name.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success(), "{} cannot be sent {signal}", self.name);
    }

    /// Asks the node to leave; returns its state directory.
    pub fn leave(mut self) -> PathBuf {
        assert!(self.is_running(), "{} is gone already:\n{}", self.name, self.lines().join("\n"));
        self.signal("TERM");
        let status = self.wait();
        assert!(status.success(), "{} left with {status}:\n{}", self.name, self.lines().join("\n"));
        self.state.clone()
    }

    /// Waits until the node leaves by itself.
    pub fn finish(mut self) -> PathBuf {
        let status = self.wait();
        assert!(status.success(), "{} left with {status}:\n{}", self.name, self.lines().join("\n"));
        self.state.clone()
    }

    fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                if let Some(reader) = self.reader.take() {
                    let _ = reader.join();
                }
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "{} does not leave:\n{}", self.name, self.lines().join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.name, self.lines().join("\n"));
        }
    }
}
