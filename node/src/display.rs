//! What people see: one live line on a terminal, plain log lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use peer::Facts;
use protocol::replica::Replica;
use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use crate::{network::Traffic, watch::Session};

/// Off a terminal, a line this often.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// On a terminal, the live line changes this often.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);
/// So many gradients that the weights lack are worth a word; a swarm's ordinary delay is far below.
const SHOWN_OWED_MIN: u64 = 10_000;

/// What waits for a reader of standard error who is slow; more is dropped.
const WAITING_MAX: usize = 1_024;
/// At the end, what waits is waited for so long.
const SETTLED_MAX: Duration = Duration::from_secs(1);

/// A bar for what takes a while, if there is a terminal to show it on. Whoever finishes it clears it.
pub fn progress_bar(length: u64, doing: impl Into<Cow<'static, str>>, template: &str) -> ProgressBar {
    let bar = ProgressBar::new(length).with_message(doing);
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
    let bar = is_terminal.then(|| {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        bar
    });
    for message in waiting {
        match (message, &bar) {
            (Message::Log(line), bar) => {
                let write = || {
                    let lost = dropped.swap(0, Ordering::Relaxed);
                    if lost > 0 {
                        let _ =
                            writeln!(std::io::stderr(), "{lost} lines are missing here: nobody read standard error");
                    }
                    let _ = std::io::stderr().write_all(&line);
                };
                bar.as_ref().map_or_else(write, |bar| bar.suspend(write));
            }
            (Message::Live(line), Some(bar)) => {
                bar.set_message(line);
                bar.tick();
            }
            (Message::Clear, Some(bar)) => bar.finish_and_clear(),
            (Message::Settled(settled), _) => drop(settled.try_send(())),
            (Message::Live(_) | Message::Clear, None) => {}
        }
    }
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

/// The line that shows how the run goes. It reads, and remembers only what rates need.
pub struct LiveLine {
    display: Display,
    refreshed: Instant,
    /// When rates were last taken, with own gradients and everyone's.
    since: Option<(Instant, u64, u64)>,
    rates: (f64, f64),
    swarm_at_start: Option<u64>,
}

/// What the line is made of.
pub struct LineParts<'a> {
    /// Of the peer.
    pub facts: &'a Facts,
    /// Its replica.
    pub replica: &'a Replica,
    /// What this node measured.
    pub session: &'a Session,
    /// What went over its sockets.
    pub traffic: Traffic,
    /// Why no own gradients are made, if they rest.
    pub paused: Option<&'static str>,
}

impl LiveLine {
    /// Nothing is shown yet.
    pub fn new(display: Display) -> Self {
        let now = Instant::now();
        Self { display, refreshed: now, since: None, rates: (0.0, 0.0), swarm_at_start: None }
    }

    /// Takes the line off the terminal.
    pub fn clear(&self) {
        self.display.send(Message::Clear);
    }

    /// Whether it is time for another look.
    pub fn is_due(&self) -> bool {
        let interval = if self.display.is_terminal { REFRESH_INTERVAL } else { LINE_INTERVAL };
        self.refreshed.elapsed() >= interval
    }

    /// Redraws the line.
    pub fn refresh(&mut self, parts: &LineParts<'_>) {
        self.refreshed = Instant::now();
        let (own, swarm) = (own(parts.replica), swarm(parts.replica));
        let (since, own_then, swarm_then) = *self.since.get_or_insert((self.refreshed, own, swarm));
        let seconds = since.elapsed().as_secs_f64();
        if seconds >= 2.0 {
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            self.rates = (rate(own, own_then), rate(swarm, swarm_then));
            self.since = Some((self.refreshed, own, swarm));
        }
        let start = *self.swarm_at_start.get_or_insert(swarm);
        let (training, network) = (self.training(parts), network(parts, swarm.saturating_sub(start).max(1)));
        match self.display.is_terminal {
            true => {
                // Behind the spinner.
                let width = terminal_width().saturating_sub(2);
                let line = format!("{}\n  {}", fitted(&training, width), fitted(&network, width));
                self.display.send(Message::Live(line));
            }
            false => tracing::info!("{training}  {network}"),
        }
    }

    fn training(&self, parts: &LineParts<'_>) -> String {
        let loss = |loss: Option<f64>| loss.map_or("-".into(), |loss| format!("{loss:.4}"));
        let paused = parts.paused.map_or_else(String::new, |why| format!("paused ({why})  "));
        let looking = looking(parts.session);
        format!(
            "{paused}{looking}own {} ({:.1}/s)  swarm {} ({:.1}/s)  loss {}  held-out {}",
            own(parts.replica),
            self.rates.0,
            swarm(parts.replica),
            self.rates.1,
            loss(parts.session.loss()),
            parts.session.held_out().map_or("-".into(), |held_out| held_out.to_string()),
        )
    }
}

/// How far a look at the held-out text is. The first one comes before the first gradient, and may take minutes.
fn looking(session: &Session) -> String {
    session.look().map_or_else(String::new, |(done, all)| format!("held-out text: {done} of {all} rows looked at  "))
}

/// Own gradients, of all incarnations.
fn own(replica: &Replica) -> u64 {
    replica.own_samples_elsewhere() + replica.own_next_sample()
}

/// Everyone's gradients, with own ones that are not in the ledger yet.
fn swarm(replica: &Replica) -> u64 {
    replica.swarm_step() + replica.own_waiting()
}

/// Columns of the terminal.
fn terminal_width() -> usize {
    ratatui::crossterm::terminal::size().map_or(80, |(columns, _)| usize::from(columns))
}

/// As many whole parts of a line, which two spaces divide, as there is room for.
fn fitted(line: &str, width: usize) -> String {
    let mut fitted = String::new();
    for part in line.split("  ") {
        let gap = if fitted.is_empty() { "" } else { "  " };
        if fitted.chars().count() + gap.len() + part.chars().count() > width {
            break;
        }
        fitted.push_str(gap);
        fitted.push_str(part);
    }
    fitted
}

/// `gradients`: of the swarm, since this node started.
fn network(parts: &LineParts<'_>, gradients: u64) -> String {
    let mut text = format!(
        "peers {}  bytes per gradient {:.1} in {:.1} out",
        parts.facts.neighbours,
        parts.traffic.socket_in as f64 / gradients as f64,
        parts.traffic.socket_out as f64 / gradients as f64,
    );
    let (owed, most) = (parts.facts.owed, parts.facts.owed_most);
    if owed > SHOWN_OWED_MIN {
        let done = 100.0 - 100.0 * owed as f64 / most.max(owed) as f64;
        text.push_str(&format!("  replaying: {done:.0}%, {owed} gradients to go"));
    }
    if parts.replica.incomplete().next().is_some() {
        text.push_str("  INCOMPLETE");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_at_the_held_out_text_shows_how_far_it_is_until_it_ends() {
        let mut session = Session::default();
        assert_eq!(looking(&session), "");
        session.looking(2, 128);
        assert_eq!(looking(&session), "held-out text: 2 of 128 rows looked at  ");
        session.looking(128, 128);
        assert_eq!(looking(&session), "");
    }

    #[test]
    fn a_line_keeps_to_the_width_in_whole_parts() {
        let line = "own 120 (3.2/s)  swarm 4000 (9.5/s)  loss 1.2345";
        assert_eq!(fitted(line, 200), line);
        assert_eq!(fitted(line, line.len()), line);
        assert_eq!(fitted(line, line.len() - 1), "own 120 (3.2/s)  swarm 4000 (9.5/s)");
        assert_eq!(fitted(line, 15), "own 120 (3.2/s)");
        assert_eq!(fitted(line, 3), "");
    }
}
