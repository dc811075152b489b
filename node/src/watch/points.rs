//! The held-out points of a running node: those of earlier sessions and its own, and which is the best.

use engine::objective::Evaluation;
use peer::CurvePoint;
use protocol::{replica::Replica, segment::Digest};
use std::collections::VecDeque;

use super::{
    HeldOut,
    journal::{Line, Measure, Point, Sparse, by_full_name, counted, now_ms},
};
use crate::system::hex::hex;

/// The best points that are remembered: so many may be touched by withdrawals until the next is looked for in the
/// journal only.
const BEST_MAX: usize = 32;
/// Looks that the peer may still make points of.
const LOOKS_MAX: usize = 64;

/// See the module's documentation.
#[derive(Default)]
pub struct Points {
    /// Of this session's looks; None without a held-out text.
    measure: Option<Measure>,
    /// Losses of earlier sessions, until the peer is told.
    earlier: Vec<CurvePoint>,
    /// This session's looks that are no points yet: digest of the weights, what was measured.
    looks: VecDeque<(Digest, Evaluation)>,
    best: Vec<Point>,
    /// How many there were.
    count: u64,
    sparse: Sparse,
    /// The first of `best` that nothing has touched.
    untouched: Option<usize>,
}

impl Points {
    /// Those of a journal's `lines` that are of this measure.
    pub fn of(lines: &[Line], measure: Measure) -> Self {
        let is_point = |line: &Line| matches!(line, Line::Point(_));
        let mut points = Self { sparse: Sparse::after(lines, is_point), ..Self::default() };
        for line in lines {
            if let Line::Point(point) = line
                && point.measure == measure
            {
                points.earlier.push(CurvePoint { gradients: point.gradients(), loss: point.loss });
                points.rank(point.clone());
            }
        }
        Self { measure: Some(measure), ..points }
    }

    /// Losses of earlier sessions, for the peer.
    pub fn take_earlier(&mut self) -> Vec<CurvePoint> {
        std::mem::take(&mut self.earlier)
    }

    /// The held-out text was looked at, at weights of this digest.
    pub fn looked(&mut self, digest: Digest, evaluation: Evaluation) {
        if self.looks.len() == LOOKS_MAX {
            self.looks.pop_front();
        }
        self.looks.push_back((digest, evaluation));
    }

    /// What a look's weights held is in the ledgers now. Returns what the journal should say.
    pub fn add(&mut self, point: &peer::Point) -> Option<Point> {
        let at = self.looks.iter().position(|(digest, _)| *digest == point.digest)?;
        // Those before it have become no points.
        let (_, evaluation) = self.looks.drain(..=at).next_back()?;
        if !self.sparse.takes(now_ms()) {
            return None;
        }
        let heights = point.contents.iter().map(|part| (part.machine, part.height));
        let point = Point {
            at_ms: now_ms(),
            weights: hex(&point.digest),
            heights: by_full_name(heights.filter(|(_, height)| *height > 0)),
            root: hex(&point.root),
            revoked: by_full_name(point.revoked.iter().copied()),
            measure: self.measure.clone()?,
            loss: evaluation.loss,
            bits_per_byte: evaluation.bits_per_byte,
            accuracy: evaluation.accuracy(),
            score: evaluation.score,
        };
        self.rank(point.clone());
        Some(point)
    }

    fn rank(&mut self, point: Point) {
        self.count += 1;
        let place = self.best.partition_point(|better| better.loss.total_cmp(&point.loss).is_le());
        if point.loss.is_finite() && place < BEST_MAX {
            self.best.truncate(BEST_MAX - 1);
            self.best.insert(place, point);
        }
    }

    /// Looks which points the ledgers still give: to be called when there is a new one, or something was withdrawn.
    pub fn compare(&mut self, replica: &Replica) {
        let counted = counted(replica);
        self.untouched = self.best.iter().position(|point| point.touched(&counted).is_none());
    }

    /// The best one that nothing has touched, as [`Self::compare`] found it.
    pub fn best(&self) -> Option<&Point> {
        self.best.get(self.untouched?)
    }

    /// The same, in short.
    pub fn best_look(&self) -> Option<HeldOut> {
        let point = self.best()?;
        let Point { loss, bits_per_byte, accuracy, score, .. } = *point;
        Some(HeldOut { loss, bits_per_byte, accuracy, score, gradients: point.gradients() })
    }

    /// Points that could be compared.
    pub fn count(&self) -> u64 {
        self.count
    }
}
