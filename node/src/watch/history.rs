//! What the curves are drawn from: points of this session and of those before it, few enough for a page.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use super::Metrics;

/// Most points in a [`History`].
pub const POINTS_MAX: usize = 1_500;
/// Points are never closer than this.
const INTERVAL_MS_MIN: u64 = 900;
/// Longer lines of `metrics.jsonl` are not looked at.
const LINE_BYTES_MAX: u64 = 16 * 1024;

/// At most [`POINTS_MAX`] points over the whole time, first and last among them. The longer the time, the farther
/// apart. Their bytes are those of all sessions together, where a line of `metrics.jsonl` has those of its session.
#[derive(Clone, Debug)]
pub struct History {
    points: Vec<Metrics>,
    /// The last one, if it is not in `points`.
    last: Option<Metrics>,
    interval_ms: u64,
    /// Bytes of earlier sessions, (received, sent).
    before: (u64, u64),
    /// Bytes of the current session so far.
    session: (u64, u64),
}

impl Default for History {
    fn default() -> Self {
        Self { points: Vec::new(), last: None, interval_ms: INTERVAL_MS_MIN, before: (0, 0), session: (0, 0) }
    }
}

impl History {
    /// The points of a `metrics.jsonl`. No file: no points. A line that cannot be read (a crash may leave half a line)
    /// is passed over.
    pub fn read(path: &Path) -> Self {
        let mut history = Self::default();
        let Ok(file) = File::open(path) else { return history };
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            match (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return history,
                Ok(_) => {
                    if let Ok(point) = serde_json::from_slice(&line) {
                        history.push(point);
                    }
                }
            }
        }
    }

    /// What comes now belongs to another session: bytes are counted from zero again.
    pub fn begin_session(&mut self) {
        self.before = (self.before.0 + self.session.0, self.before.1 + self.session.1);
        self.session = (0, 0);
    }

    /// Adds a point, later than those before. Fewer bytes than before mean that a session began.
    pub fn push(&mut self, mut point: Metrics) {
        if point.received < self.session.0 || point.sent < self.session.1 {
            self.begin_session();
        }
        self.session = (point.received, point.sent);
        point.received += self.before.0;
        point.sent += self.before.1;
        // Clocks are set back; points are kept all the same.
        let far = |last: &Metrics| point.time_ms.abs_diff(last.time_ms) >= self.interval_ms;
        if !self.points.last().is_none_or(far) {
            self.last = Some(point);
            return;
        }
        self.last = None;
        self.points.push(point);
        if self.points.len() >= POINTS_MAX {
            self.thin();
        }
    }

    /// First and last included, in the order in which they came.
    pub fn points(&self) -> impl Iterator<Item = &Metrics> {
        self.points.iter().chain(&self.last)
    }

    /// Leaves every second point.
    fn thin(&mut self) {
        self.interval_ms *= 2;
        let mut number = 0;
        self.last = if self.points.len().is_multiple_of(2) { self.points.last().cloned() } else { None };
        self.points.retain(|_| {
            number += 1;
            number % 2 == 1
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Bytes, Gradients, Snapshot};
    use std::io::Write;

    fn at(time_ms: u64, gradients: u64, received: u64, sent: u64) -> Metrics {
        let swarm = Gradients { total: gradients, ..Gradients::default() };
        let traffic = Bytes { received, sent, ..Bytes::default() };
        Metrics::from(&Snapshot { time_ms, swarm, traffic, ..Snapshot::default() })
    }

    fn point(second: u64) -> Metrics {
        at(1_000 * second, second, 10 * second, second)
    }

    #[test]
    fn keeps_first_and_last_and_never_too_many() {
        let mut history = History::default();
        for second in 0..20_000 {
            history.push(point(second));
            let points: Vec<&Metrics> = history.points().collect();
            assert!(points.len() <= POINTS_MAX);
            assert_eq!((points[0].gradients, points[points.len() - 1].gradients), (0, second));
        }
        let points: Vec<u64> = history.points().map(|point| point.gradients).collect();
        assert!(points.len() > POINTS_MAX / 2 - 2, "{}", points.len());
        assert!(points.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn bytes_go_on_growing_over_a_restart() {
        let mut history = History::default();
        [point(5), point(6)].into_iter().for_each(|point| history.push(point));
        history.push(at(9_000, 7, 3, 2));
        history.begin_session();
        history.push(at(20_000, 8, 100, 200));
        let bytes: Vec<(u64, u64)> = history.points().map(|point| (point.received, point.sent)).collect();
        assert_eq!(bytes, [(50, 5), (60, 6), (63, 8), (163, 208)]);
    }

    #[test]
    fn reads_what_can_be_read_of_a_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let whole = serde_json::to_string(&point(1)).unwrap();
        let unknown = serde_json::to_string(&point(2)).unwrap().replace('{', r#"{"unknown":[1],"#);
        write!(file, "{whole}\nrubbish\n{}\n{unknown}\n{{\"time_ms\":3", "x".repeat(3 * LINE_BYTES_MAX as usize))
            .unwrap();
        let points: Vec<Metrics> = History::read(file.path()).points().cloned().collect();
        assert_eq!(points, [point(1), point(2)]);
        assert_eq!(History::read(Path::new("/nowhere/metrics.jsonl")).points().count(), 0);
    }
}
