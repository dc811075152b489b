//! A headless Chromium, driven over the DevTools protocol: JSON messages that end with a zero byte, through two pipes.

use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::{Duration, Instant},
};

use crate::support::PATIENCE;

/// Messages that wait to be read.
const MESSAGES_MAX: usize = 4096;
const NAMES: [&str; 4] = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const FLAGS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
];

/// A running browser, ended when dropped.
pub struct Browser {
    child: Child,
    pipe: File,
    messages: Receiver<Value>,
    last_id: u64,
    events: VecDeque<Value>,
    _profile: tempfile::TempDir,
}

/// Where the browser is: `CHROMIUM`, or the usual names on the path.
fn find() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = std::env::split_paths(&path).flat_map(|folder| NAMES.map(|name| folder.join(name)));
    named.into_iter().chain(usual).find(|file| file.is_file())
}

fn fifo(path: &Path) -> File {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success(), "{}", path.display());
    // Both ways: opening does not wait for the other side.
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

impl Browser {
    /// None, and the reason on standard error, if there is no browser here.
    pub fn start() -> Option<Self> {
        let Some(program) = find() else {
            eprintln!("skipped: no Chromium on the path, and CHROMIUM does not name one");
            return None;
        };
        let profile = tempfile::tempdir().unwrap();
        let (input, output) = (profile.path().join("in"), profile.path().join("out"));
        let (pipe, answers) = (fifo(&input), fifo(&output));
        let child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<"$FIFO_IN" 4>"$FIFO_OUT""#])
            .arg(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .envs([("FIFO_IN", input), ("FIFO_OUT", output)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (sender, messages) = sync_channel(MESSAGES_MAX);
        std::thread::spawn(move || {
            for message in BufReader::new(answers).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).unwrap();
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        Some(Self { child, pipe, messages, last_id: 0, events: VecDeque::new(), _profile: profile })
    }

    fn call(&mut self, session: Option<&str>, method: &str, params: Value) -> Value {
        self.ask(session, method, params).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn ask(&mut self, session: Option<&str>, method: &str, params: Value) -> Result<Value, Value> {
        self.last_id += 1;
        let mut message = json!({ "id": self.last_id, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.pipe.write_all(&bytes).unwrap();
        let begun = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let Ok(mut message) = self.messages.recv_timeout(left) else {
                panic!("{method}: the browser does not answer")
            };
            if message["id"] == json!(self.last_id) {
                return match message.get("error") {
                    None => Ok(message["result"].take()),
                    Some(error) => Err(error.clone()),
                };
            }
            self.events.push_back(message);
        }
    }

    /// Opens `url` in a window of `size` CSS pixels.
    pub fn open(&mut self, url: &str, size: (u32, u32)) -> Page<'_> {
        let target = self.call(None, "Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            self.call(None, "Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        let session = attached["sessionId"].as_str().unwrap().to_owned();
        let mut page = Page { browser: self, session };
        for domain in ["Runtime", "Log", "Network", "Page"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page.resize(size, "light");
        page.call("Page.navigate", json!({ "url": url }));
        page
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An open page.
pub struct Page<'a> {
    browser: &'a mut Browser,
    session: String,
}

impl Page<'_> {
    fn call(&mut self, method: &str, params: Value) -> Value {
        self.browser.call(Some(&self.session), method, params)
    }

    /// The size in CSS pixels, and `light` or `dark`.
    pub fn resize(&mut self, (width, height): (u32, u32), scheme: &str) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": width < 600 });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Loads the page again.
    pub fn reload(&mut self) {
        self.call("Page.reload", json!({}));
    }

    /// The value of a JavaScript expression, in the page that is loaded once none is on its way.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let begun = Instant::now();
        let params = json!({ "expression": expression, "returnByValue": true });
        let mut result = loop {
            match self.browser.ask(Some(&self.session), "Runtime.evaluate", params.clone()) {
                Ok(result) => break result,
                Err(error) => {
                    let navigates = ["navigated", "context"].iter().any(|word| error.to_string().contains(word));
                    assert!(navigates && begun.elapsed() < PATIENCE, "{expression}: {error}");
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        };
        assert!(result.get("exceptionDetails").is_none(), "{expression}: {}", result["exceptionDetails"]);
        result["result"]["value"].take()
    }

    /// Waits until `happened`, and fails naming `what` if it does not.
    pub fn wait_until(&mut self, what: &str, mut happened: impl FnMut(&mut Self) -> bool) {
        let begun = Instant::now();
        while !happened(self) {
            assert!(begun.elapsed() < PATIENCE, "never: {what}; complaints: {:?}", self.complaints());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn events<'a>(&'a self, method: &'a str) -> impl Iterator<Item = &'a Value> {
        self.browser.events.iter().filter(move |event| event["method"] == method).map(|event| &event["params"])
    }

    /// Errors and warnings in the console, exceptions, refusals of the content security policy.
    pub fn complaints(&self) -> Vec<String> {
        let thrown = self.events("Runtime.exceptionThrown").map(|event| event["exceptionDetails"].to_string());
        let is_bad = |kind: &Value| ["error", "warning", "assert"].iter().any(|bad| kind == bad);
        let said = self.events("Runtime.consoleAPICalled").filter(|event| is_bad(&event["type"]));
        let logged = self.events("Log.entryAdded").map(|event| &event["entry"]).filter(|entry| is_bad(&entry["level"]));
        thrown.chain(said.map(|event| event["args"].to_string())).chain(logged.map(Value::to_string)).collect()
    }

    /// Addresses that the page asked for.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.events("Network.requestWillBeSent");
        requests.map(|event| event["request"]["url"].as_str().unwrap().to_owned()).collect()
    }

    /// The whole page as PNG.
    pub fn screenshot(&mut self) -> Vec<u8> {
        let size = self.call("Page.getLayoutMetrics", json!({}))["cssContentSize"].take();
        let clip = json!({ "x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1 });
        let shot = self
            .call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true, "clip": clip }));
        from_base64(shot["data"].as_str().unwrap())
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> = text
        .bytes()
        .filter_map(|letter| DIGITS.iter().position(|digit| *digit == letter).map(|value| value as u32))
        .collect();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for four in digits.chunks(4) {
        let bits = four.iter().enumerate().fold(0, |bits, (at, digit)| bits | digit << (18 - 6 * at));
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    bytes
}
