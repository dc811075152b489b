//! What is measured while the swarm runs.

use protocol::replica::LedgerRange;

use crate::{
    summary::{BytesByCause, CurvePoint, Mark, Quantiles, SpreadPoint},
    truth::Truth,
};

/// Every doubling has 2^5 buckets: quantiles are right within 2%.
const PRECISION_BITS: u32 = 5;
const BUCKETS: usize = (64 - PRECISION_BITS as usize + 1) << PRECISION_BITS;

/// Counts of values at least 0, in buckets that grow with the value.
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS], total: 0, max: 0 }
    }
}

/// The bucket of a value: its first bits, after those of its magnitude.
fn bucket(value: u64) -> usize {
    let shift = (64 - value.leading_zeros()).saturating_sub(PRECISION_BITS + 1);
    ((shift as usize) << PRECISION_BITS) + (value >> shift) as usize
}

/// The middle of a bucket.
fn middle(bucket: usize) -> f64 {
    let shift = (bucket >> PRECISION_BITS).saturating_sub(1);
    let first = (bucket - (shift << PRECISION_BITS)) as f64;
    if shift == 0 { first } else { (first + 0.5) * 2f64.powi(shift as i32) }
}

impl Histogram {
    pub fn add(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// Order statistics; zeros if nothing was counted.
    pub fn quantiles(&self) -> Quantiles {
        let at = |share: f64| {
            let rank = ((share * self.total as f64).ceil() as u64).max(1);
            let mut seen = 0;
            let found = self.counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            found.map_or(0.0, |bucket| middle(bucket).min(self.max as f64))
        };
        Quantiles { median: at(0.5), p90: at(0.9), p99: at(0.99), max: self.max as f64 }
    }
}

/// See the module's documentation.
#[derive(Default)]
pub struct Metrics {
    /// Received, all machines.
    pub bytes: BytesByCause,
    /// Gradients received, all machines.
    pub deliveries: u64,
    /// From making to arrival in other weights, virtual milliseconds, of machines that were there all the time.
    pub delay_ms: Histogram,
    /// Gradients that a machine lacked when it began a probe.
    pub staleness: Histogram,
    pub curve: Vec<CurvePoint>,
    pub spread: Vec<SpreadPoint>,
    /// What befell the swarm.
    pub marks: Vec<Mark>,
    /// Most that waited in one machine's queues.
    pub queued_max: usize,
    /// What gradients had cost before the first restart.
    pub before_restart: Option<Cost>,
    /// The same once those that were restarted last had caught up.
    pub after_restart: Option<Cost>,
}

/// What came so far, but for joiners and for keeping connections.
#[derive(Clone, Copy, Default, Debug)]
pub struct Cost {
    pub bytes: u64,
    pub deliveries: u64,
}

impl Metrics {
    /// Ledger entries went into a machine's weights.
    pub fn delivered(&mut self, truth: &Truth, range: &LedgerRange, joined_ms: u64, now_ms: u64) {
        for birth in truth.births(&range.machine, range.from, range.to) {
            let birth = u64::from(*birth);
            if birth >= joined_ms {
                self.delay_ms.add(now_ms.saturating_sub(birth));
            }
        }
    }

    /// What came so far.
    pub fn cost(&self) -> Cost {
        let bytes = self.bytes.total() - self.bytes.joins - self.bytes.upkeep;
        Cost { bytes, deliveries: self.deliveries }
    }

    /// A machine began a probe without so many gradients of the swarm.
    pub fn began(&mut self, lacks: u64) {
        self.staleness.add(lacks);
    }

    /// A frame of the mesh without a message that was new.
    pub fn mesh_frame(&mut self, is_message: bool, bytes: u64) {
        let cause = if is_message { &mut self.bytes.duplicates } else { &mut self.bytes.mesh_control };
        *cause += bytes;
    }

    /// A gossiped message that was new to the mesh brought `fresh` gradients.
    pub fn gossiped(&mut self, fresh: u64, bytes: u64) {
        self.deliveries += fresh;
        if fresh == 0 {
            self.bytes.duplicates += bytes;
        } else {
            self.bytes.payload += fresh;
            self.bytes.heads += bytes - fresh;
        }
    }

    /// A question came, of a joiner or of anti-entropy, or the end of one without an answer.
    pub fn asked(&mut self, joins: bool, bytes: u64) {
        let cause = if joins { &mut self.bytes.joins } else { &mut self.bytes.anti_entropy };
        *cause += bytes;
    }

    /// An answer brought `fresh` gradients.
    pub fn fetched(&mut self, fresh: u64, bytes: u64) {
        self.deliveries += fresh;
        self.bytes.payload += fresh;
        self.bytes.anti_entropy += bytes - fresh;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_two_percent() {
        let mut histogram = Histogram::default();
        (0..=10_000u64).for_each(|value| histogram.add(value));
        let quantiles = histogram.quantiles();
        for (found, right) in [(quantiles.median, 5e3), (quantiles.p90, 9e3), (quantiles.p99, 9.9e3)] {
            assert!((found / right - 1.0).abs() < 0.02, "{found} instead of {right}");
        }
        assert_eq!(quantiles.max, 1e4);
        assert_eq!(Histogram::default().quantiles(), Quantiles::default());
    }
}
