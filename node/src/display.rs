//! What people see: one live line on a terminal, plain log lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use peer::Facts;
use protocol::replica::Replica;
use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::{network::Traffic, watch::Session};

/// Off a terminal, a line this often.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// On a terminal, the live line changes this often.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);
/// So many gradients that the weights lack are worth a word; a swarm's ordinary delay is far below.
const SHOWN_OWED_MIN: u64 = 10_000;

/// The live line, shared with the log writer so that log lines do not tear it.
#[derive(Clone)]
pub struct Display {
    bar: Option<ProgressBar>,
}

impl Display {
    /// Whether there is a live line.
    pub fn is_terminal(&self) -> bool {
        self.bar.is_some()
    }

    /// A live line if standard error is a terminal.
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar }
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
        let write = || {
            let _ = std::io::stderr().write_all(&self.line);
        };
        match &self.display.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
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
        if let Some(bar) = &self.display.bar {
            bar.finish_and_clear();
        }
    }

    /// Whether it is time for another look.
    pub fn is_due(&self) -> bool {
        let interval = if self.display.bar.is_some() { REFRESH_INTERVAL } else { LINE_INTERVAL };
        self.refreshed.elapsed() >= interval
    }

    /// Redraws the line.
    pub fn refresh(&mut self, parts: &LineParts<'_>) {
        self.refreshed = Instant::now();
        let (own, swarm) = (own(parts.replica), parts.replica.swarm_step());
        let (since, own_then, swarm_then) = *self.since.get_or_insert((self.refreshed, own, swarm));
        let seconds = since.elapsed().as_secs_f64();
        if seconds >= 2.0 {
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            self.rates = (rate(own, own_then), rate(swarm, swarm_then));
            self.since = Some((self.refreshed, own, swarm));
        }
        let start = *self.swarm_at_start.get_or_insert(swarm);
        let (training, network) = (self.training(parts), network(parts, swarm.saturating_sub(start).max(1)));
        match &self.display.bar {
            Some(bar) => {
                // Behind the spinner.
                let width = terminal_width().saturating_sub(2);
                bar.set_message(format!("{}\n  {}", fitted(&training, width), fitted(&network, width)));
                bar.tick();
            }
            None => tracing::info!("{training}  {network}"),
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
            parts.replica.swarm_step(),
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
