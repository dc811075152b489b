//! The honest sender's limit: the run's replay budget over the machines that are live.
//!
//! A bucket of tokens, one for each own gradient, fills by the machine's share of the budget and holds what a few
//! seconds bring. Whoever measures by forwards hardly ever sees its bottom. A machine that makes a thousand gradients
//! from one backward pass does: it waits until the bucket holds a batch. The batch shrinks with the share, but not
//! below `BATCH_MIN`: a backward pass costs the same whatever it brings, and up to so many bytes of one batch count
//! in full. So a projector in a large swarm makes sound batches rarely, not poor ones often.

use std::collections::BTreeMap;

/// A machine is live if something new of it came within so long, s.
pub const LIVE_SECONDS: u32 = 60;
/// The bucket holds what comes in so long, ms, or a batch if that is more.
const BURST_MS: u64 = 4_000;
/// The same in seconds.
pub const BURST_SECONDS: f64 = BURST_MS as f64 / 1e3;
/// A batch has at most what comes in so long, ms: what waits longer for its tokens is measured the more rarely.
const BATCH_MS: u64 = 4_000;
/// A batch has at least so many samples, if the machine's setting has: bytes of one batch that add up in full.
const BATCH_MIN: u64 = 256;
/// Parts of a token: a share may be less than one gradient in a tick.
const TOKEN: i64 = 1_000_000;

/// See the module's documentation.
pub struct Pace {
    /// Gradients a second of the whole swarm.
    budget: u64,
    /// Samples that this machine measures together.
    batch: u64,
    /// Others: in which second something new of each key came last. Of a key the start is enough, in a third of the
    /// memory: those who make theirs alike count as one.
    seen: BTreeMap<[u8; 8], u32>,
    /// No second in `seen` is before this one, so that a tick rarely has to look through a large swarm.
    oldest: u32,
    /// In the bucket, parts. Less than none after a batch that began when there were fewer machines.
    tokens: i64,
    filled_ms: u64,
    /// Own samples that were counted.
    counted: u64,
}

impl Pace {
    /// An empty bucket.
    pub fn new(budget: u32, batch: u64, now_ms: u64) -> Self {
        let (seen, oldest, tokens, counted) = (BTreeMap::new(), 0, 0, 0);
        Self { budget: budget.max(1).into(), batch: batch.max(1), seen, oldest, tokens, filled_ms: now_ms, counted }
    }

    /// Something new of another machine came.
    pub fn saw(&mut self, key: [u8; 32], now_ms: u64) {
        self.seen.insert(std::array::from_fn(|index| key[index]), second(now_ms));
    }

    /// Own samples below this were made, or are not this machine's to make: they take no tokens.
    pub fn begin_at(&mut self, next_sample: u64) {
        self.counted = next_sample;
    }

    /// Machines that are live, this one included.
    pub fn live(&self) -> u64 {
        1 + self.seen.len() as u64
    }

    /// Own gradients a second.
    pub fn share(&self) -> f64 {
        self.budget as f64 / self.live() as f64
    }

    /// Samples of a batch.
    fn batch(&self) -> u64 {
        let comes = self.budget.saturating_mul(BATCH_MS) / (1_000 * self.live());
        self.batch.min(comes.max(BATCH_MIN))
    }

    /// Tokens that the bucket can hold.
    fn room(&self) -> u64 {
        (self.budget.saturating_mul(BURST_MS) / (1_000 * self.live())).max(self.batch())
    }

    /// Time has passed, and own samples below `next_sample` are made.
    pub fn advance(&mut self, next_sample: u64, now_ms: u64) {
        self.forget(second(now_ms));
        let passed_ms = now_ms.saturating_sub(self.filled_ms);
        self.filled_ms = now_ms;
        let came = parts(self.budget.saturating_mul(passed_ms)) / 1_000 / self.live() as i64;
        let made = next_sample.saturating_sub(self.counted);
        self.counted = next_sample;
        self.tokens = self.tokens.saturating_add(came).saturating_sub(parts(made)).min(parts(self.room()));
    }

    /// Those of whom nothing new came for long are live no more.
    fn forget(&mut self, now: u32) {
        if now.saturating_sub(self.oldest) >= LIVE_SECONDS {
            self.seen.retain(|_, last| now.saturating_sub(*last) < LIVE_SECONDS);
            self.oldest = self.seen.values().min().copied().unwrap_or(now);
        }
    }

    /// First sample that is not to be made yet, in whole batches. `allowed` was said before: while the trainer is far
    /// from it, it stands.
    pub fn limit(&self, allowed: u64) -> u64 {
        let (tokens, batch) = (u64::try_from(self.tokens / TOKEN).unwrap_or(0), self.batch());
        let until = self.counted.saturating_add(tokens);
        let whole = self.counted.saturating_add(tokens / batch * batch);
        let is_ample = allowed >= self.counted.saturating_add(tokens / 2).max(self.counted + 1);
        if is_ample && allowed <= until { allowed } else { whole }
    }
}

fn second(now_ms: u64) -> u32 {
    u32::try_from(now_ms / 1_000).unwrap_or(u32::MAX)
}

/// As parts of tokens.
fn parts(tokens: u64) -> i64 {
    i64::try_from(tokens).unwrap_or(i64::MAX).saturating_mul(TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TICK_MS;

    /// Runs for `seconds`, making all that is allowed at once, in batches of `batch` at most. Returns the batches.
    fn run(pace: &mut Pace, batch: u64, machines: u8, seconds: u64) -> Vec<u64> {
        let (mut next, mut allowed, mut batches) = (0, 0, Vec::new());
        for tick in 1..=seconds * 1_000 / TICK_MS {
            let now_ms = tick * TICK_MS;
            (1..machines).for_each(|key| pace.saw([key; 32], now_ms));
            pace.advance(next, now_ms);
            allowed = pace.limit(allowed);
            while next < allowed {
                batches.push(batch.min(allowed - next));
                next += batches[batches.len() - 1];
            }
        }
        batches
    }

    #[test]
    fn a_machine_makes_its_share_and_no_more() {
        for (budget, machines, batch) in [(1_000, 1, 16), (1_000, 4, 16), (1_000, 4, 1_024), (100, 16, 1), (7, 3, 1)] {
            let mut pace = Pace::new(budget, batch, 0);
            let made: u64 = run(&mut pace, batch, machines, 1_000).iter().sum();
            let share = 1_000 * u64::from(budget) / u64::from(machines);
            assert!(made <= share && made + 2 * batch + 8 >= share, "{budget} {machines} {batch}: {made} of {share}");
        }
    }

    #[test]
    fn a_small_share_means_sound_batches_rarely_and_a_large_one_full_ones() {
        let of = |budget: u32, machines: u8| run(&mut Pace::new(budget, 1_024, 0), 1_024, machines, 1_000);
        assert!(of(100_000, 4).iter().all(|batch| *batch == 1_024), "there is enough");
        assert!(of(1_024, 4).iter().all(|batch| *batch == 1_024), "four seconds bring a batch");
        assert!(of(1_000, 8).iter().all(|batch| *batch == 500), "four seconds bring half of one");
        let rare = of(100, 16);
        assert!(rare.len() == 24 && rare.iter().all(|batch| *batch == 256), "{rare:?}");
    }

    #[test]
    fn whoever_is_far_below_its_share_is_told_rarely_and_never_waits() {
        let mut pace = Pace::new(1_000, 16, 0);
        let (mut next, mut allowed, mut told) = (0, 0, 0);
        for tick in 1..20_000u64 {
            pace.advance(next, tick * TICK_MS);
            let limit = pace.limit(allowed);
            told += u32::from(limit != allowed);
            allowed = limit;
            if tick > 1 {
                assert!(allowed >= next + 16, "tick {tick}: {allowed} after {next}");
                // 16 in a tick of 50 ms are 320 a second.
                next += if tick % 2 == 0 { 16 } else { 0 };
            }
        }
        assert!(told < 400, "{told} limits in a thousand seconds");
    }

    #[test]
    fn machines_are_live_for_a_minute_and_more_of_them_take_back_what_was_allowed() {
        let mut pace = Pace::new(1_000, 16, 0);
        pace.advance(0, 10_000);
        assert_eq!(pace.limit(0), 4_000, "four seconds' worth");
        (1..=9).for_each(|key| pace.saw([key; 32], 10_000));
        pace.advance(0, 10_000);
        assert_eq!((pace.live(), pace.limit(4_000)), (10, 400));
        pace.advance(0, 69_999);
        assert_eq!(pace.live(), 10);
        pace.saw([1; 32], 40_000);
        pace.saw([2; 32], 69_999);
        pace.advance(0, 70_000);
        assert_eq!((pace.live(), pace.share()), (3, 1_000.0 / 3.0));
        pace.advance(0, 100_000);
        assert_eq!(pace.live(), 2, "the one that was heard at 40 s is gone");
        pace.advance(0, 129_000);
        assert_eq!(pace.live(), 1);
    }

    #[test]
    fn another_ledger_takes_no_tokens_for_what_was_not_made() {
        let mut pace = Pace::new(1_000, 16, 0);
        pace.begin_at(500);
        pace.advance(500, 1_000);
        assert_eq!(pace.limit(0), 1_492, "whole batches");
        pace.begin_at(0);
        pace.advance(0, 1_000);
        assert_eq!(pace.limit(0), 992);
        pace.advance(u64::MAX, u64::MAX);
        assert_eq!(pace.limit(u64::MAX), u64::MAX, "nothing overflows");
    }
}
