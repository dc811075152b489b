//! What the bytes of a log look like: per machine, over time, and against the swarm.

use protocol::{codec::VOID, ledger::Ledger, machine::MachineId};
use serde::Serialize;

/// Parts that a ledger's life is cut into.
pub const PARTS: usize = 10;
/// Columns of the histogram: bytes −127 to 127, in steps of 15 around zero.
pub const COLUMNS: usize = 17;
/// Ledgers shorter than this are not judged.
const JUDGED_MIN: u64 = 64;
/// |mean| / standard error from which signs are called one-sided. A fair coin does this once in 10^9.
const ONE_SIDED: f64 = 6.0;

/// Of a run of bytes. Void bytes (−128: the loss was not finite) count in `gradients` and `voids` only.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Distribution {
    pub gradients: u64,
    /// Of these, void.
    pub voids: u64,
    /// Of these, ±127: the largest that a byte can say.
    pub saturated: u64,
    /// Mean of the others, in units of the run's levels: 1 is a standard deviation, as its maker estimated it.
    pub mean: f64,
    /// Root mean square, in the same units.
    pub rms: f64,
    /// How many in each of [`COLUMNS`] equal ranges of the byte.
    pub histogram: [u64; COLUMNS],
}

impl Distribution {
    /// Of `bytes`, in a run of `levels` levels.
    pub fn of(bytes: impl Iterator<Item = i8>, levels: u8) -> Self {
        let mut distribution = Self::default();
        let (mut sum, mut squares) = (0i64, 0u64);
        for byte in bytes {
            distribution.gradients += 1;
            if byte == VOID {
                distribution.voids += 1;
                continue;
            }
            let value = i64::from(byte);
            distribution.saturated += u64::from(value.abs() == 127);
            distribution.histogram[(value + 127) as usize * COLUMNS / 255] += 1;
            sum += value;
            squares += (value * value) as u64;
        }
        let counted = (distribution.gradients - distribution.voids).max(1) as f64;
        distribution.mean = sum as f64 / counted / f64::from(levels);
        distribution.rms = (squares as f64 / counted).sqrt() / f64::from(levels);
        distribution
    }

    /// As a share of all.
    fn saturation(&self) -> f64 {
        self.saturated as f64 / self.gradients.max(1) as f64
    }

    /// |mean| over its standard error: how far the signs are from balance.
    pub fn bias(&self) -> f64 {
        let counted = self.gradients - self.voids;
        if self.rms > 0.0 { self.mean.abs() / self.rms * (counted as f64).sqrt() } else { 0.0 }
    }
}

/// One machine's bytes.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MachineStatistics {
    /// Its name in full.
    pub machine: String,
    pub all: Distribution,
    /// The same in [`PARTS`] equal parts, oldest first. Fewer if there are fewer bytes.
    pub parts: Vec<Distribution>,
    /// What sets it apart from the swarm, in words. Empty for most.
    pub remarks: Vec<String>,
}

/// Statistics of every machine, in the order of `machines`, each judged against the median of all.
pub fn statistics<'a>(
    machines: impl Iterator<Item = (&'a MachineId, &'a Ledger)>,
    levels: u8,
) -> Vec<MachineStatistics> {
    let mut all: Vec<MachineStatistics> = machines
        .map(|(machine, ledger)| {
            let height = ledger.height();
            let bytes = |from, to| Distribution::of(ledger.entries(from, to).map(|(_, byte, _)| byte), levels);
            let parts = PARTS as u64;
            let cuts = (0..parts).map(|part| (height * part / parts, height * (part + 1) / parts));
            MachineStatistics {
                machine: format!("{machine:#}"),
                all: bytes(0, height),
                parts: cuts.filter(|(from, to)| from < to).map(|(from, to)| bytes(from, to)).collect(),
                remarks: Vec::new(),
            }
        })
        .collect();
    let judged = |statistics: &&MachineStatistics| statistics.all.gradients >= JUDGED_MIN;
    let median = |value: fn(&Distribution) -> f64| {
        let mut values: Vec<f64> = all.iter().filter(judged).map(|machine| value(&machine.all)).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    let (rms, saturation) = (median(|d| d.rms), median(Distribution::saturation));
    for machine in all.iter_mut().filter(|machine| judged(&&**machine)) {
        machine.remarks = remarks(&machine.all, rms, saturation);
    }
    all
}

/// `rms` and `saturation`: the swarm's medians.
fn remarks(bytes: &Distribution, rms: f64, saturation: f64) -> Vec<String> {
    let mut remarks = Vec::new();
    let counted = bytes.gradients - bytes.voids;
    if bytes.voids * 10 > bytes.gradients {
        remarks.push(format!("{:.0}% void: its losses are often not finite", percent(bytes.voids, bytes.gradients)));
    }
    if counted > 0 && bytes.rms > 2.0 * rms {
        remarks.push(format!("bytes {:.1} times as large as the swarm's", bytes.rms / rms));
    } else if counted > 0 && bytes.rms < 0.5 * rms {
        remarks.push(format!("bytes {:.2} times as large as the swarm's", bytes.rms / rms));
    }
    if bytes.saturation() > 0.02 + 4.0 * saturation {
        remarks.push(format!("{:.0}% of its bytes are ±127", 100.0 * bytes.saturation()));
    }
    if bytes.bias() > ONE_SIDED {
        let sign = if bytes.mean > 0.0 { "positive" } else { "negative" };
        remarks.push(format!("mostly {sign}: {:.0} standard errors from balance", bytes.bias()));
    }
    remarks
}

fn percent(part: u64, all: u64) -> f64 {
    100.0 * part as f64 / all.max(1) as f64
}
