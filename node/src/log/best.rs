//! The best held-out point of a node's journal, and the weights that it was measured at.

use anyhow::{Context, Result, ensure};

use super::{Base, Log, past::Cut};
use crate::{
    system::{hex::hex, name::program},
    watch::journal::{Point, counted},
};

/// A point, and what it was compared with.
#[derive(Debug)]
pub struct Best {
    /// The lowest held-out loss among points of which everything still counts.
    pub point: Point,
    /// Points of its measure, itself and those passed over among them.
    pub compared: usize,
    /// Points of other measures: nothing follows from them.
    pub incomparable: usize,
    /// Better ones of which not everything counts any more, best first.
    pub passed_over: Vec<PassedOver>,
}

/// A point whose weights hold what the run has withdrawn since, or what is not in this log.
#[derive(Debug)]
pub struct PassedOver {
    pub point: Point,
    /// Of which machine something is missing.
    pub machine: String,
    /// Samples of it that the weights held.
    pub held: u64,
    /// Samples of it that count now.
    pub counted: u64,
}

impl Best {
    /// Looks in the journal of `log`. The latest point's measure is the one: same text, cut alike, as much of it.
    ///
    /// Errors if there is no journal, no point, or none of which everything counts.
    pub fn find(log: &Log) -> Result<Self> {
        let origin = &log.origin;
        let journal = log.journal.as_ref().with_context(|| {
            format!(
                "{origin}: no journal here. The best point is known where it was measured: name that node's --state"
            )
        })?;
        let latest = journal.points().last().with_context(|| {
            format!(
                "{origin}: no held-out point here. A node notes one whenever it looks at a held-out text while it trains: give \
                 it one with --eval <path> (without it, the last tenth of --data is held out)"
            )
        })?;
        let mut points: Vec<&Point> = journal.points().iter().filter(|point| point.measure == latest.measure).collect();
        let (compared, incomparable) = (points.len(), journal.points().len() - points.len());
        points.retain(|point| point.loss.is_finite());
        points.sort_by(|a, b| a.loss.total_cmp(&b.loss));
        let (counted, mut passed_over) = (counted(&log.replica), Vec::new());
        for point in points {
            let Some((machine, counted)) = point.touched(&counted) else {
                return Ok(Self { point: point.clone(), compared, incomparable, passed_over });
            };
            let (machine, held) = (machine.to_owned(), point.heights[machine]);
            passed_over.push(PassedOver { point: point.clone(), machine, held, counted });
        }
        let why = passed_over.first().map_or_else(
            || "their losses are not finite numbers".to_owned(),
            |best| {
                format!(
                    "{} had {} samples in the best of them, of which {} count",
                    best.machine, best.held, best.counted
                )
            },
        );
        anyhow::bail!(
            "{origin}: none of {compared} held-out points can be used ({why}). Let the node look at its held-out text again: it \
             does while it trains"
        )
    }

    /// Brings the weights of `base` to the point, and makes sure that they are those that were measured.
    pub fn replay(&self, log: &Log, base: &mut Base) -> Result<()> {
        let heights = self.point.heights.iter().map(|(name, height)| Ok((log.find(name)?, *height)));
        let heights = heights.collect::<Result<Vec<_>>>()?;
        let cut = Cut { counted: heights.clone(), heights, at_ms: Some(self.point.at_ms) };
        cut.replay(log, &mut base.weights)?;
        let (digest, recorded) = (hex(&base.weights.digest()), &self.point.weights);
        ensure!(
            digest == *recorded,
            "{}: the weights at the best point come out as {digest}, but {recorded} were measured. The journal, the ledgers or \
             the base were changed since; `{} log verify` looks at the latter two",
            log.origin,
            program()
        );
        Ok(())
    }
}
