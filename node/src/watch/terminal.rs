//! A snapshot in a terminal: one plain line, or a screen.

use protocol::machine::short_name;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style, Stylize},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Table},
};
use std::{path::Path, time::Duration};

use super::{
    Forecast, HeldOut, Machine, Measured, Metrics, PER_GRADIENTS_MIN, Phase, Snapshot,
    history::History,
    journal::now_ms,
    marks::{curve, figure, size, span, strip},
    recorder::{METRICS, STATUS},
};
use crate::system::name::program;

/// A snapshot that is older makes one ask whether the node still runs. It makes one a second.
const STALE: Duration = Duration::from_secs(5);
/// Below so many rows there is no room for curves.
const CURVES_ROWS_MIN: u16 = 30;
const CURVES_ROWS: u16 = 9;
/// Peers that are shown at most.
const PEERS_MAX: usize = 6;

/// Why a state directory cannot be watched. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// There is no `status.json`.
    #[error(
        "{0}: no node runs there, or none has run. Start one with `{program} --state {0}`, or name the directory of one with --state",
        program = program()
    )]
    NoStatus(String),
    /// It cannot be read.
    #[error("{0}: cannot be read ({1})")]
    Unreadable(String, std::io::Error),
    /// It is not what this program writes.
    #[error("{0}: not a status of this version ({1}). Use the same version of `{program}` for both", program = program())]
    Foreign(String, serde_json::Error),
}

/// What a running node says of itself in its state directory.
pub struct View {
    snapshot: Snapshot,
    history: History,
    order: Order,
    /// Machines above the first that is shown.
    scrolled: usize,
}

/// By what machines are listed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Order {
    /// As the node tells them: its own, then those heard of last.
    Heard,
    Gradients,
    Rate,
}

impl Order {
    fn next(self) -> Self {
        match self {
            Self::Heard => Self::Gradients,
            Self::Gradients => Self::Rate,
            Self::Rate => Self::Heard,
        }
    }

    fn in_words(self) -> &'static str {
        match self {
            Self::Heard => "heard of last",
            Self::Gradients => "gradients",
            Self::Rate => "per second",
        }
    }
}

impl View {
    /// Reads `status.json` and `metrics.jsonl` in `state`.
    pub fn open(state: &Path) -> Result<Self, TopError> {
        let snapshot = read(state)?;
        let history = History::read(&state.join(METRICS));
        Ok(Self { snapshot, history, order: Order::Heard, scrolled: 0 })
    }

    /// Reads `status.json` again.
    pub fn refresh(&mut self, state: &Path) -> Result<(), TopError> {
        let snapshot = read(state)?;
        if snapshot.time_ms != self.snapshot.time_ms {
            self.history.push(Metrics::from(&snapshot));
            self.snapshot = snapshot;
        }
        Ok(())
    }

    /// Lists machines by the next thing.
    pub fn reorder(&mut self) {
        self.order = self.order.next();
        self.scrolled = 0;
    }

    /// Shows machines further down, or up.
    pub fn scroll(&mut self, by: isize) {
        let last = self.snapshot.machines.len().saturating_sub(1);
        self.scrolled = self.scrolled.saturating_add_signed(by).min(last);
    }

    /// Whether the figures may be old.
    fn is_past(&self) -> bool {
        self.notice().is_some()
    }

    /// Whether the node said that it left.
    pub fn has_left(&self) -> bool {
        self.snapshot.phase == Phase::Left
    }

    /// Why the figures may be old, if they may.
    fn notice(&self) -> Option<String> {
        let age = Duration::from_millis(now_ms().saturating_sub(self.snapshot.time_ms));
        match (self.has_left(), age > STALE) {
            (true, _) => Some(format!("the node left {} ago", span(age.as_secs_f64()))),
            (false, true) => Some(format!("no status for {}: has the node stopped?", span(age.as_secs_f64()))),
            (false, false) => None,
        }
    }

    pub fn line(&self) -> String {
        let shown = &self.snapshot;
        let unit = shown.held_out.map_or_else(String::new, |look| format!(" {}", look.measured().unit_of_loss()));
        let loss = shown.training_loss.map_or("-".into(), |loss| figure(Some(loss)) + &unit);
        let mut line = format!(
            "{}  gradients {} ({:.1}/s)  own {} ({:.1}/s)  loss {}  held-out {}  machines {}  peers {}  bytes per gradient {} in {} out",
            shown.doing(),
            shown.swarm.total,
            shown.swarm.per_second,
            shown.own.total,
            shown.own.per_second,
            loss,
            shown.held_out.map_or("-".into(), |look| look.to_string()),
            shown.machine_count,
            shown.peers.len(),
            figure(per_gradient(shown, shown.traffic.received)),
            figure(per_gradient(shown, shown.traffic.sent)),
        );
        if let Some(best) = shown.best {
            line.push_str(&format!("  best held-out {}", best_in_words(best)));
        }
        if let Some(forecast) = shown.forecast {
            line.push_str(&format!("  held-out loss: {}", forecast.in_words()));
        }
        line.push_str(&format!("  {}", shown.load.in_words()));
        if let Some(notice) = self.notice() {
            line.push_str(&format!("  ({notice})"));
        }
        line
    }

    pub fn draw(&self, frame: &mut Frame) {
        let with_curves = frame.area().height >= CURVES_ROWS_MIN;
        // All causes of traffic have room, however few the peers.
        let rows = self.snapshot.traffic.causes().len().max(self.snapshot.peers.len().min(PEERS_MAX)) as u16;
        let [head, keys, curves, machines, below, foot] = Layout::vertical([
            Constraint::Length(3),
            Constraint::Length(5),
            Constraint::Length(if with_curves { CURVES_ROWS } else { 0 }),
            Constraint::Fill(1),
            Constraint::Length(1 + rows),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(), head);
        frame.render_widget(self.keys(), keys);
        if with_curves {
            self.curves(frame, curves);
        }
        self.machines(frame, machines);
        let [bytes, peers] = Layout::horizontal([Constraint::Length(40), Constraint::Fill(1)]).spacing(2).areas(below);
        frame.render_widget(self.bytes(), bytes);
        frame.render_widget(self.peers(), peers);
        let keys = format!("q leaves  ↑↓ machines  s sorts (by {})  p pauses or resumes", self.order.in_words());
        frame.render_widget(Line::from(keys).dim(), foot);
        if self.is_past() {
            let all = frame.area();
            // What it says of the node's end stays bright.
            let below = Rect { y: all.y + head.height, height: all.height.saturating_sub(head.height), ..all };
            frame.buffer_mut().set_style(below, Style::new().fg(Color::DarkGray));
        }
    }

    fn head(&self) -> Paragraph<'_> {
        let shown = &self.snapshot;
        let colour = match shown.phase {
            Phase::Training => Color::Green,
            Phase::CatchingUp | Phase::Serving => Color::Blue,
            Phase::Paused | Phase::Left => Color::Yellow,
        };
        let phase = match self.is_past() && !self.has_left() {
            true => Span::styled(format!("○ was {}", shown.doing()), Color::DarkGray),
            false => Span::styled(format!("● {}", shown.doing()), colour),
        };
        let short = |text: &str| text.chars().take(8).collect::<String>();
        Paragraph::new(vec![
            Line::from(vec!["onebyte  ".bold(), phase, format!("  up {}", span(shown.uptime_seconds)).into()]),
            Line::from(format!(
                "run {}…  {} ({} parameters)  machine {}",
                short(&shown.run),
                shown.model,
                shown.parameters,
                short_name(&shown.machine)
            ))
            .dim(),
            Line::from(self.notice().unwrap_or_default()).style((Color::Red, Modifier::BOLD)),
        ])
    }

    fn keys(&self) -> Table<'_> {
        let shown = &self.snapshot;
        let look = shown.held_out;
        let kind = Measured::of(look.and_then(|look| look.accuracy), look.and_then(|look| look.score));
        let [held_out, training] = match kind {
            Measured::BitsPerByte => ["held-out bits/byte", "training nats/token"],
            Measured::Accuracy => ["held-out accuracy", "training nats/row"],
            Measured::Score => ["held-out score", "training minus score"],
        };
        let pairs = [
            (held_out, figure(look.and_then(|look| look.figure()))),
            (training, figure(shown.training_loss)),
            ("gradients", format!("{} (own {})", shown.swarm.total, shown.own.total)),
            ("per second", format!("{:.1} (own {:.1})", shown.swarm.per_second, shown.own.per_second)),
            ("bytes in/gradient", figure(per_gradient(shown, shown.traffic.received))),
            ("staleness", shown.staleness.map_or("-".into(), |staleness| staleness.to_string())),
            ("best so far", shown.best.map_or("-".into(), best_in_words)),
            ("held-out loss", shown.forecast.map_or("-".into(), in_short)),
        ];
        let cells = |(name, value): &(&'static str, String)| [Cell::from(name.dim()), Cell::from(value.clone().bold())];
        let rows = pairs.chunks(2).map(|pair| Row::new(pair.iter().flat_map(cells)));
        // As many as the names and usual values take; the last has the rest.
        let widths = [18, 20, 19].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
        Table::new(rows.collect::<Vec<_>>(), widths).column_spacing(1)
    }

    fn curves(&self, frame: &mut Frame, area: Rect) {
        let points = || self.history.points();
        let shown = Metrics::shown(points());
        let title = match shown {
            Measured::BitsPerByte => "held-out bits per byte, over gradients",
            Measured::Accuracy => "held-out accuracy, over gradients",
            Measured::Score => "held-out mean score, over gradients",
        };
        let look = |point: &Metrics| Some((point.held_out_gradients? as f64, point.figure(shown)?));
        let looks: Vec<(f64, f64)> = points().filter_map(look).collect();
        let swarm: Vec<(f64, f64)> = points().map(|point| (point.gradients as f64, point.swarm_per_second)).collect();
        let own: Vec<(f64, f64)> = points().map(|point| (point.gradients as f64, point.own_per_second)).collect();
        let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).spacing(2).areas(area);
        curve(frame, left, title, &[(&looks, Color::Blue)], false);
        curve(
            frame,
            right,
            "gradients per second, swarm and own",
            &[(&swarm, Color::Blue), (&own, Color::Yellow)],
            true,
        );
    }

    fn machines(&self, frame: &mut Frame, area: Rect) {
        let shown = &self.snapshot;
        let bytes = usize::from(area.width.saturating_sub(60)).min(super::RECENT_BYTES);
        let mut machines: Vec<&Machine> = shown.machines.iter().collect();
        match self.order {
            Order::Heard => {}
            Order::Gradients => machines.sort_by_key(|machine| std::cmp::Reverse(machine.counted)),
            Order::Rate => machines.sort_by(|a, b| b.per_second.total_cmp(&a.per_second)),
        }
        let rows = machines.into_iter().skip(self.scrolled).map(|machine| row(machine, shown.swarm.total, bytes));
        let widths = [18, 10, 6, 8, 10].map(Constraint::Length).into_iter().chain([Constraint::Fill(1)]);
        let head = Row::new(["machine", "gradients", "share", "per s", "seen", "latest bytes, newest right"]).dim();
        let count = format!(" {} machines, {} peers ", shown.machine_count, shown.peers.len());
        let block = Block::new().borders(Borders::TOP).title(count);
        frame.render_widget(Table::new(rows, widths).column_spacing(1).header(head).block(block), area);
    }

    fn bytes(&self) -> Table<'_> {
        let shown = &self.snapshot;
        let all = shown.traffic.received.max(1) as f64;
        let rows = shown.traffic.causes().map(|(cause, bytes)| {
            let per = figure(per_gradient(shown, bytes));
            Row::new([cause.to_owned(), size(bytes), format!("{:.0}%", 100.0 * bytes as f64 / all), per])
        });
        let block = Block::new().borders(Borders::TOP).title(" received, share, per gradient ");
        Table::new(rows, [12, 10, 5, 8].map(Constraint::Length)).block(block)
    }

    fn peers(&self) -> Table<'_> {
        let rows = self.snapshot.peers.iter().map(|peer| {
            let time = peer.round_trip_ms.map_or("-".into(), |ms| format!("{ms:.1} ms"));
            let address = peer.address.clone().unwrap_or_else(|| peer.peer_id.clone());
            Row::new([time, address])
        });
        let block = Block::new().borders(Borders::TOP).title(" peers, round trip ");
        Table::new(rows, [Constraint::Length(9), Constraint::Fill(1)]).block(block)
    }
}

fn read(state: &Path) -> Result<Snapshot, TopError> {
    let path = state.join(STATUS);
    let name = || path.display().to_string();
    let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => TopError::NoStatus(state.display().to_string()),
        _ => TopError::Unreadable(name(), error),
    })?;
    serde_json::from_slice(&bytes).map_err(|error| TopError::Foreign(name(), error))
}

fn row(machine: &Machine, total: u64, bytes: usize) -> Row<'_> {
    let share = 100.0 * machine.counted as f64 / total.max(1) as f64;
    let seen = match machine.last_seen_seconds {
        None => "earlier".into(),
        Some(seconds) if seconds < 2.0 => "now".into(),
        Some(seconds) => format!("{} ago", span(seconds)),
    };
    let latest = match &machine.revoked {
        Some(why) => Line::from(why.as_str()).red(),
        None => strip(&machine.recent, bytes),
    };
    let row = Row::new([
        Cell::from(short_name(&machine.machine)),
        Cell::from(Line::from(machine.height.to_string()).right_aligned()),
        Cell::from(Line::from(format!("{share:.1}%")).right_aligned()),
        Cell::from(Line::from(format!("{:.1}", machine.per_second)).right_aligned()),
        Cell::from(Line::from(seen).right_aligned()),
        Cell::from(latest),
    ]);
    if machine.own { row.bold() } else { row }
}

/// What the held-out curve says, where there is little room.
fn in_short(forecast: Forecast) -> String {
    match (forecast.is_flat, forecast.gradients_to_next) {
        (true, _) => "flat".into(),
        (false, Some(gradients)) => format!("next 0.01 takes {gradients}"),
        (false, None) => "not falling".into(),
    }
}

fn best_in_words(best: HeldOut) -> String {
    format!("{} at {}", figure(best.figure()), best.gradients)
}

fn per_gradient(shown: &Snapshot, bytes: u64) -> Option<f64> {
    (shown.swarm.session >= PER_GRADIENTS_MIN).then(|| bytes as f64 / shown.swarm.session as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Bytes, Gradients, Neighbour, VERSION};
    use ratatui::{Terminal, backend::TestBackend};

    fn snapshot(time_ms: u64) -> Snapshot {
        Snapshot {
            version: VERSION,
            time_ms,
            run: "ab".repeat(32),
            phase: Phase::Training,
            swarm: Gradients { total: 200, session: 100, per_second: 7.5 },
            held_out: Some(HeldOut {
                loss: 2.5,
                bits_per_byte: Some(3.625),
                accuracy: None,
                score: None,
                gradients: 150,
            }),
            best: Some(HeldOut { loss: 2.4, bits_per_byte: Some(3.5), accuracy: None, score: None, gradients: 120 }),
            forecast: Some(Forecast { gradients_to_next: Some(77), ..Forecast::default() }),
            traffic: Bytes { received: 1_000, ..Bytes::default() },
            machine_count: 1,
            machines: vec![Machine { machine: "0123.45".into(), recent: "0180ff7f".into(), ..Machine::default() }],
            peers: vec![Neighbour { peer_id: "12D3".into(), ..Neighbour::default() }],
            ..Snapshot::default()
        }
    }

    fn written(snapshot: &Snapshot) -> tempfile::TempDir {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join(STATUS), serde_json::to_vec(snapshot).unwrap()).unwrap();
        state
    }

    fn screen(view: &View, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn shows_the_essentials_at_any_size() {
        let state = written(&snapshot(now_ms()));
        let mut view = View::open(state.path()).unwrap();
        view.refresh(state.path()).unwrap();
        let text = screen(&view, 120, 40);
        for part in ["training", "3.625", "200", "0123.45", "7.5", "▁×▁█", "12D3", "3.500 at 120", "next 0.01 takes 77"]
        {
            assert!(text.contains(part), "no {part} in\n{text}");
        }
        assert!(!text.contains("no status"), "{text}");
        for (width, height) in [(1, 1), (20, 5), (40, 24), (80, 23), (300, 100)] {
            screen(&view, width, height);
        }
        assert!(
            [
                "gradients 200 (7.5/s)",
                "3.6250 bits/byte",
                "best held-out 3.500 at 120",
                "the next 0.01 takes 77 gradients"
            ]
            .iter()
            .all(|part| view.line().contains(part)),
            "{}",
            view.line()
        );
    }

    #[test]
    fn every_cause_of_traffic_is_shown_at_every_width_and_machines_are_listed_in_any_order() {
        let machine = |name: &str, counted: u64, per_second: f64| Machine {
            machine: name.into(),
            counted,
            per_second,
            ..Machine::default()
        };
        let machines = vec![machine("own", 5, 2.0), machine("many", 90, 0.0), machine("fast", 7, 9.0)];
        let state = written(&Snapshot { machines, ..snapshot(now_ms()) });
        let mut view = View::open(state.path()).unwrap();
        for (width, height) in [(80, 24), (120, 24), (120, 40)] {
            let text = screen(&view, width, height);
            for cause in [
                "gossip",
                "duplicates",
                "exchange",
                "upkeep",
                "q leaves",
                "training nats/token",
                "own ",
                "next 0.01 takes 77",
            ] {
                assert!(text.contains(cause), "no {cause} at {width} x {height} in\n{text}");
            }
        }
        let listed = |view: &View| {
            let text = screen(view, 120, 40);
            let mut places: Vec<(usize, &str)> = ["own ", "many ", "fast "]
                .into_iter()
                .filter_map(|name| Some((text.find(&format!("\"{name}"))?, name)))
                .collect();
            places.sort_unstable();
            places.into_iter().map(|(_, name)| name.trim()).collect::<Vec<_>>()
        };
        assert_eq!(listed(&view), ["own", "many", "fast"]);
        view.reorder();
        assert_eq!(listed(&view), ["many", "fast", "own"]);
        view.reorder();
        assert_eq!(listed(&view), ["fast", "own", "many"]);
        view.scroll(1);
        assert_eq!(listed(&view), ["own", "many"]);
        view.scroll(100);
        assert_eq!(listed(&view), ["many"]);
        view.scroll(-100);
        view.reorder();
        assert_eq!(listed(&view), ["own", "many", "fast"]);
    }

    #[test]
    fn says_that_the_node_may_have_stopped() {
        let state = written(&snapshot(now_ms() - 12_000));
        let view = View::open(state.path()).unwrap();
        assert!(view.line().ends_with("(no status for 12 s: has the node stopped?)"), "{}", view.line());
        let text = screen(&view, 80, 24);
        assert!(
            text.contains("no status for 12 s: has the node stopped?") && text.contains("○ was training"),
            "{text}"
        );
    }

    #[test]
    fn says_what_to_do_without_a_status() {
        let state = tempfile::tempdir().unwrap();
        let error = View::open(state.path()).err().unwrap().to_string();
        assert!(error.contains("no node runs there") && error.contains("--state"), "{error}");
        std::fs::write(state.path().join(STATUS), "{").unwrap();
        let error = View::open(state.path()).err().unwrap().to_string();
        assert!(error.contains("status.json") && error.contains("same version"), "{error}");
    }
}
