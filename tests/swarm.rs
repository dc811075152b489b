//! Real nodes on loopback, on the embedded default: what README promises, in small.

use std::{
    io::Read,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Long enough for a busy machine; nothing waits this long unless something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

struct Node {
    child: Child,
    log: std::path::PathBuf,
}

impl Node {
    fn start(directory: &Path, number: usize, join: &[String], samples: u64) -> Self {
        let log = directory.join(format!("{number}.log"));
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_node"))
            .arg("--state")
            .arg(directory.join(format!("state-{number}")))
            .args(["--listen", "/ip4/127.0.0.1/tcp/0", "--no-mdns", "--exit-when-idle", "4"])
            .args(["--batch-size", "1", "--sequence-length", "32", "--samples", &samples.to_string()])
            .args(join)
            .env("RAYON_NUM_THREADS", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn wait_for(&self, pattern: &str) -> String {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let mut text = String::new();
            std::fs::File::open(&self.log).unwrap().read_to_string(&mut text).unwrap();
            if let Some(line) = text.lines().rev().find(|line| line.contains(pattern)) {
                return line.to_owned();
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        panic!("{}: no {pattern:?} in {}", self.log.display(), std::fs::read_to_string(&self.log).unwrap());
    }

    fn join_arguments(&self) -> Vec<String> {
        let line = self.wait_for("to join from another machine: node ");
        let arguments = line.split("machine: node ").nth(1).unwrap();
        arguments.split_whitespace().map(str::to_owned).collect()
    }

    fn finish(mut self) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "{}", std::fs::read_to_string(&self.log).unwrap());
                return;
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        let _ = self.child.kill();
        panic!("does not leave: {}", std::fs::read_to_string(&self.log).unwrap());
    }
}

fn inspect(arguments: &[&str], state: &Path) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_node")).args(arguments).arg("--state").arg(state).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn machines_that_never_met_end_with_the_same_bits() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let first = Node::start(path, 1, &[], 150);
    let join = first.join_arguments();
    let mut second = Node::start(path, 2, &join, 150);
    second.wait_for("held-out loss");
    std::thread::park_timeout(Duration::from_millis(300));
    second.child.kill().unwrap();
    second.child.wait().unwrap();
    let second = Node::start(path, 2, &join, 150);
    // The late one knows nothing but an address, and its own data come from another seed.
    let third = Node::start(path, 3, &join[..2], 100);
    for node in [first, second, third] {
        node.finish();
    }
    let digests: Vec<String> = (1..=3)
        .map(|number| {
            let state = path.join(format!("state-{number}"));
            inspect(&["log", "verify"], &state);
            String::from_utf8(inspect(&["digest"], &state).stdout).unwrap()
        })
        .collect();
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:#?}");
    let show = inspect(&["log", "show", "--json"], &path.join("state-3"));
    let show: serde_json::Value = serde_json::from_slice(&show.stdout).unwrap();
    assert_eq!(show["gradients"], 150 + 150 + 100, "every sample was contributed once, whatever was killed: {show:#}");
}

#[test]
fn inspecting_commands_answer_for_a_state_and_refuse_what_is_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    Node::start(path, 1, &[], 20).finish();
    let state = path.join("state-1");
    let eval: serde_json::Value = serde_json::from_slice(&inspect(&["eval", "--json"], &state).stdout).unwrap();
    let bits = eval["bits_per_byte"].as_f64().unwrap();
    assert!((1.0..10.0).contains(&bits), "{eval}");
    let text = inspect(&["generate", "--prompt", "The ", "--tokens", "8"], &state).stdout;
    assert!(String::from_utf8_lossy(&text).starts_with("The "));
    let out = path.join("exported");
    inspect(&["export", "--out", out.to_str().unwrap()], &state);
    assert!(engine::model::Checkpoint::load(&out).is_ok(), "what is exported can be a base again");
    let tail = inspect(&["log", "tail", "--json", "-n", "3"], &state).stdout;
    let tail: serde_json::Value = serde_json::from_slice(&tail).unwrap();
    assert_eq!(tail["entries"].as_array().unwrap().len(), 3);
    let nothing = path.join("nothing");
    let refused = Command::new(env!("CARGO_BIN_EXE_node")).args(["digest", "--state"]).arg(&nothing).output().unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("not a state directory"), "{message}");
    assert!(!nothing.exists(), "a command that only looks makes nothing");
}
