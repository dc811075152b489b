//! What is measured while the swarm runs.

use protocol::replica::LedgerRange;

use crate::{
    record::{BytesByCause, CurvePoint, Quantiles, SpreadPoint},
    truth::Truth,
};

/// Buckets per doubling: quantiles are right within 3%.
const PER_DOUBLING: f64 = 24.0;
const BUCKETS: usize = 1024;

/// Counts of values at least 0, on a log scale.
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

impl Histogram {
    /// Counts a value.
    pub fn add(&mut self, value: u64) {
        let bucket = ((value as f64 + 1.0).log2() * PER_DOUBLING) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.total += 1;
        self.max = self.max.max(value);
    }

    /// Order statistics; zeros if nothing was counted.
    pub fn quantiles(&self) -> Quantiles {
        let at = |share: f64| {
            let rank = (share * self.total as f64).ceil() as u64;
            let mut seen = 0;
            let bucket = self.counts.iter().position(|count| {
                seen += count;
                seen >= rank.max(1)
            });
            bucket.map_or(0.0, |b| (2f64.powf((b as f64 + 0.5) / PER_DOUBLING) - 1.0).min(self.max as f64).max(0.0))
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
    /// Loss.
    pub curve: Vec<CurvePoint>,
    /// Spread.
    pub spread: Vec<SpreadPoint>,
    /// Most that waited in one machine's queues.
    pub queued_max: usize,
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
    fn quantiles_are_right_within_three_percent() {
        let mut histogram = Histogram::default();
        (0..=10_000u64).for_each(|value| histogram.add(value));
        let quantiles = histogram.quantiles();
        for (found, right) in [(quantiles.median, 5e3), (quantiles.p90, 9e3), (quantiles.p99, 9.9e3)] {
            assert!((found / right - 1.0).abs() < 0.03, "{found} instead of {right}");
        }
        assert_eq!(quantiles.max, 1e4);
        assert_eq!(Histogram::default().quantiles(), Quantiles::default());
    }
}
