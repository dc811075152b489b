//! The line that a node shows while it runs: live on a terminal, in the log elsewhere.

use peer::Facts;
use protocol::replica::Replica;
use std::time::{Duration, Instant};

use super::{HeldOut, PER_GRADIENTS_MIN, Session};
use crate::{network::Traffic, system::display::Display};

/// Off a terminal, a line this often.
const LINE_INTERVAL: Duration = Duration::from_secs(5);
/// On a terminal, the live line changes this often.
const REFRESH_INTERVAL: Duration = Duration::from_millis(250);
/// So many gradients that the weights lack are worth a word; a swarm's ordinary delay is far below.
const SHOWN_OWED_MIN: u64 = 10_000;

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
        self.display.clear();
    }

    /// Whether it is time for another look.
    pub fn is_due(&self) -> bool {
        let interval = if self.display.is_terminal() { REFRESH_INTERVAL } else { LINE_INTERVAL };
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
        let (training, network) = (self.training(parts), network(parts, swarm.saturating_sub(start)));
        match self.display.is_terminal() {
            true => {
                // Behind the spinner.
                let width = terminal_width().saturating_sub(2);
                let line = format!("{}\n  {}", fitted(&training, width), fitted(&network, width));
                self.display.show(line);
            }
            false => tracing::info!("{training}  {network}"),
        }
    }

    fn training(&self, parts: &LineParts<'_>) -> String {
        let held_out = parts.session.held_out();
        let loss = loss_in_words(parts.session.loss(), held_out);
        let paused = parts.paused.map_or_else(String::new, |why| format!("paused ({why})  "));
        let looking = looking(parts.session);
        format!(
            "{paused}{looking}own {} ({:.1}/s)  swarm {} ({:.1}/s)  loss {}  held-out {}",
            own(parts.replica),
            self.rates.0,
            swarm(parts.replica),
            self.rates.1,
            loss,
            held_out.map_or("-".into(), |held_out| held_out.to_string()),
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
        "peers {}  bytes per gradient {} in {} out",
        parts.facts.neighbours,
        per_gradient(parts.traffic.socket_in, gradients),
        per_gradient(parts.traffic.socket_out, gradients),
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

/// With its unit, which is another than that of the look beside it, once one tells.
fn loss_in_words(loss: Option<f64>, held_out: Option<HeldOut>) -> String {
    let unit = held_out.map_or_else(String::new, |look| format!(" {}", look.measured().unit_of_loss()));
    loss.map_or("-".into(), |loss| format!("{loss:.4}{unit}"))
}

/// Nothing while there are few: what connections cost is no gradient's.
fn per_gradient(bytes: u64, gradients: u64) -> String {
    match gradients >= PER_GRADIENTS_MIN {
        true => format!("{:.1}", bytes as f64 / gradients as f64),
        false => "-".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mean in nats stood beside a look in bits, neither of them said to be what it is.
    #[test]
    fn a_loss_has_its_unit_beside_a_look_that_has_another() {
        let look = HeldOut { loss: 2.5, bits_per_byte: Some(3.6), ..HeldOut::default() };
        assert_eq!(loss_in_words(Some(3.8986), Some(look)), "3.8986 nats/token");
        let rows = HeldOut { accuracy: Some(0.5), bits_per_byte: None, ..look };
        assert_eq!(loss_in_words(Some(0.7), Some(rows)), "0.7000 nats/row");
        let scored = HeldOut { score: Some(0.5), bits_per_byte: None, ..look };
        assert_eq!(loss_in_words(Some(-0.4), Some(scored)), "-0.4000 (minus the score)");
        assert_eq!([loss_in_words(Some(1.0), None), loss_in_words(None, Some(look))], ["1.0000", "-"]);
    }

    /// A restart took 104752 bytes per gradient.
    #[test]
    fn bytes_are_divided_among_gradients_once_there_are_enough() {
        assert_eq!([0, 2, 99].map(|gradients| per_gradient(104_752, gradients)), ["-"; 3]);
        assert_eq!(per_gradient(1_600, 1_000), "1.6");
    }

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
