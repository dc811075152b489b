//! Standard error: log lines, and on a terminal one live line below them.

use bytesize::ByteSize;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle, WeakProgressBar};
use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};

/// What waits for a reader of standard error who is slow; more is dropped.
const WAITING_MAX: usize = 1_024;
/// At the end, what waits is waited for so long.
const SETTLED_MAX: Duration = Duration::from_secs(1);

/// Without a terminal, how far it is is said this often.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// A spinner turns this often.
const TURNS_EVERY: Duration = Duration::from_millis(100);

/// All that is drawn on the terminal, so that log lines come above it, whoever shows it.
static DRAWN: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// A bar for what takes a while, or a spinner where nobody knows the `length`, if there is a terminal to show it on;
/// elsewhere the log says now and then how far it is. It is there until it is finished and cleared, or dropped.
pub fn progress_bar(length: Option<u64>, doing: impl Into<Cow<'static, str>>, template: &str) -> ProgressBar {
    let bar = silent_bar(length, doing, template);
    if bar.is_hidden() {
        let (weak, is_bytes) = (bar.downgrade(), template.contains("bytes}"));
        // Without a thread nothing is said.
        drop(std::thread::Builder::new().name("progress".into()).spawn(move || say_how_far(&weak, is_bytes)));
    } else if length.is_none() {
        // Nobody else moves it.
        bar.enable_steady_tick(TURNS_EVERY);
    }
    bar.tick();
    bar
}

/// Until the bar is finished.
fn say_how_far(bar: &WeakProgressBar, is_bytes: bool) {
    loop {
        std::thread::sleep(SAID_EVERY);
        let Some(bar) = bar.upgrade().filter(|bar| !bar.is_finished()) else { return };
        tracing::info!("{}", how_far(&bar, is_bytes));
    }
}

fn how_far(bar: &ProgressBar, is_bytes: bool) -> String {
    let count = |number: u64| if is_bytes { ByteSize(number).to_string() } else { number.to_string() };
    let (doing, seconds) = (bar.message(), bar.elapsed().as_secs());
    match bar.length() {
        Some(all) => format!("{doing}: {} of {}, after {seconds} s", count(bar.position()), count(all)),
        None if bar.position() > 0 => format!("{doing}: {}, after {seconds} s", count(bar.position())),
        None => format!("{doing}, after {seconds} s"),
    }
}

/// The same where there is a terminal, and nothing elsewhere.
fn silent_bar(length: Option<u64>, doing: impl Into<Cow<'static, str>>, template: &str) -> ProgressBar {
    let bar = DRAWN.add(length.map_or_else(ProgressBar::new_spinner, ProgressBar::new)).with_message(doing);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Log lines and the live line, which a thread of its own writes: whoever reads standard error may stop reading, and
/// the node must go on.
#[derive(Clone)]
pub struct Display {
    is_terminal: bool,
    messages: Arc<OnceLock<SyncSender<Message>>>,
    dropped: Arc<AtomicU64>,
}

/// What there is to write.
enum Message {
    /// A log event, above the live line.
    Log(Vec<u8>),
    /// Another live line.
    Live(String),
    /// No live line any more.
    Clear,
    /// Everything before this is written.
    Settled(SyncSender<()>),
}

impl Display {
    /// A live line if standard error is a terminal. The thread begins with the first word.
    pub fn new() -> Self {
        Self { is_terminal: std::io::stderr().is_terminal(), messages: Arc::default(), dropped: Arc::default() }
    }

    /// Whether there is a live line.
    pub fn is_terminal(&self) -> bool {
        self.is_terminal
    }

    /// Waits until what was said is written, if somebody reads it.
    pub fn settle(&self) {
        let (settled, wait) = sync_channel(1);
        if self.messages.get().is_some_and(|messages| messages.try_send(Message::Settled(settled)).is_ok()) {
            // Nobody reads: nothing can be done.
            let _ = wait.recv_timeout(SETTLED_MAX);
        }
    }

    /// Shows another live line.
    pub fn show(&self, line: String) {
        self.send(Message::Live(line));
    }

    /// Takes the live line off the terminal.
    pub fn clear(&self) {
        self.send(Message::Clear);
    }

    fn send(&self, message: Message) {
        let messages = self.messages.get_or_init(|| {
            let (messages, waiting) = sync_channel(WAITING_MAX);
            let (is_terminal, dropped) = (self.is_terminal, self.dropped.clone());
            std::thread::spawn(move || write(&waiting, is_terminal, &dropped));
            messages
        });
        let is_log = matches!(message, Message::Log(_));
        if messages.try_send(message).is_err() && is_log {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes what comes, as fast as it is read.
fn write(waiting: &Receiver<Message>, is_terminal: bool, dropped: &AtomicU64) {
    let mut live = None;
    for message in waiting {
        match message {
            Message::Log(line) => {
                let write = || write_line(&line, dropped.swap(0, Ordering::Relaxed));
                // Elsewhere nothing is drawn, and a reader who stops must not hold up whoever makes a bar.
                if is_terminal { DRAWN.suspend(write) } else { write() }
            }
            Message::Live(line) if is_terminal => {
                let bar: &mut ProgressBar = live.get_or_insert_with(|| silent_bar(None, "", "{spinner} {msg}"));
                bar.set_message(line);
                bar.tick();
            }
            // A bar that is dropped is cleared.
            Message::Clear => live = None,
            Message::Settled(settled) => drop(settled.try_send(())),
            Message::Live(_) => {}
        }
    }
}

/// Writes one log event, after `lost` others that were dropped.
fn write_line(line: &[u8], lost: u64) {
    let mut out = std::io::stderr();
    // Where nobody reads, nothing can be said.
    if lost > 0 {
        let _ = writeln!(out, "{lost} lines are missing here: nobody read standard error");
    }
    let _ = out.write_all(line);
}

impl Default for Display {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Display {
    type Writer = DisplayWriter;

    fn make_writer(&'a self) -> Self::Writer {
        DisplayWriter { display: self.clone(), line: Vec::new() }
    }
}

/// Writes one log event above the live line.
pub struct DisplayWriter {
    display: Display,
    line: Vec<u8>,
}

impl Write for DisplayWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for DisplayWriter {
    fn drop(&mut self) {
        self.display.send(Message::Log(std::mem::take(&mut self.line)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_long_work_is_can_be_said_without_a_terminal() {
        let bar = silent_bar(Some(200), "replaying", "{msg} {pos}");
        bar.set_position(50);
        assert!(how_far(&bar, false).starts_with("replaying: 50 of 200, after "), "{}", how_far(&bar, false));
        assert!(how_far(&bar, true).contains("50 B of 200 B"), "{}", how_far(&bar, true));
        let bar = silent_bar(None, "learning rate", "{msg}");
        bar.set_message("learning rate: walking");
        assert!(how_far(&bar, false).starts_with("learning rate: walking, after "), "{}", how_far(&bar, false));
        bar.set_position(50);
        assert!(how_far(&bar, true).starts_with("learning rate: walking: 50 B, after "), "{}", how_far(&bar, true));
    }
}
