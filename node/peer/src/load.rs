//! How much comes, how much of it gets into the weights, and whether the one keeps up with the other.

use serde::Serialize;

/// Rates are measured over so long, ms.
const WINDOW_MS: u64 = 10_000;
/// A machine is said to be behind if it needs at least so long for what waits, seconds, ...
const BEHIND_SECONDS: u64 = 30;
/// ... and more has waited at the end of each of so many windows.
const GROWING_WINDOWS: u32 = 3;
const SECONDS_PER_DAY: u64 = 86_400;

/// A look at it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Load {
    /// Gradients of others that the weights lack.
    pub backlog: u64,
    /// By how much that grows in a minute; it shrinks where this is negative.
    pub backlog_per_minute: i64,
    /// Time that this machine needs for what waits at its present pace, seconds. Unknown before it has replayed.
    pub seconds_behind: Option<u64>,
    /// Gradients that all machines together make in a day, at the present rate.
    pub gradients_per_day: u64,
    /// Gradients that this machine replays in a second if it does nothing else. Unknown before it has.
    pub replays_per_second: Option<u64>,
}

impl Load {
    /// Gradients that all machines together make in a second.
    pub fn gradients_per_second(&self) -> f64 {
        self.gradients_per_day as f64 / SECONDS_PER_DAY as f64
    }

    /// How long this machine would need to catch up with a day of the present rate, seconds.
    pub fn catch_up_seconds_per_day(&self) -> Option<u64> {
        Some(self.gradients_per_day / self.replays_per_second?.max(1))
    }
}

/// Counts.
#[derive(Default)]
pub struct LoadMeter {
    begun_ms: u64,
    /// Of others, and own, in this window.
    came: u64,
    made: u64,
    replayed: u64,
    /// Replayed by sweeps of their own, and the time that those took, microseconds. They fade by half with every
    /// window that has any.
    swept: u64,
    swept_us: u64,
    last: Load,
    growing: u32,
    has_told: bool,
}

impl LoadMeter {
    /// Nothing has come before `now_ms`.
    pub fn new(now_ms: u64) -> Self {
        Self { begun_ms: now_ms, ..Self::default() }
    }

    /// Entries of others came.
    pub fn came(&mut self, entries: u64) {
        self.came = self.came.saturating_add(entries);
    }

    /// Own gradients were made.
    pub fn made(&mut self, samples: u64) {
        self.made = self.made.saturating_add(samples);
    }

    /// Entries of others are in the weights. `took_us`: if by sweeps of their own, how long those took.
    pub fn replayed(&mut self, entries: u64, took_us: u64) {
        self.replayed = self.replayed.saturating_add(entries);
        if took_us > 0 {
            self.swept = self.swept.saturating_add(entries);
            self.swept_us = self.swept_us.saturating_add(took_us);
        }
    }

    /// How things stand, with so many entries owed.
    pub fn load(&self, owed: u64) -> Load {
        Load { backlog: owed, ..self.last }
    }

    /// Time has passed. True if people should hear that this machine, once it was `current`, falls behind: once until
    /// it has caught up.
    pub fn advance(&mut self, owed: u64, current: bool, now_ms: u64) -> bool {
        if owed == 0 || !current {
            (self.has_told, self.growing) = (false, 0);
        }
        let passed_ms = now_ms.saturating_sub(self.begun_ms);
        if passed_ms < WINDOW_MS {
            return false;
        }
        let per_second = |count: u64| count.saturating_mul(1_000) / passed_ms;
        let grown = owed as i64 - self.last.backlog as i64;
        let capacity = (self.swept_us > 0).then(|| self.swept.saturating_mul(1_000_000) / self.swept_us);
        let pace = Some(per_second(self.replayed)).filter(|pace| *pace > 0).or(capacity.filter(|pace| *pace > 0));
        self.growing = if grown > 0 { self.growing.saturating_add(1) } else { 0 };
        self.last = Load {
            backlog: owed,
            backlog_per_minute: grown.saturating_mul(60_000) / passed_ms as i64,
            seconds_behind: if owed == 0 { Some(0) } else { pace.map(|pace| owed / pace) },
            gradients_per_day: (self.came + self.made).saturating_mul(SECONDS_PER_DAY * 1_000) / passed_ms,
            replays_per_second: capacity,
        };
        if self.replayed > 0 {
            (self.swept, self.swept_us) = (self.swept / 2, self.swept_us / 2);
        }
        (self.begun_ms, self.came, self.made, self.replayed) = (now_ms, 0, 0, 0);
        let is_behind = self.last.seconds_behind.is_none_or(|seconds| seconds >= BEHIND_SECONDS);
        let tells = self.growing >= GROWING_WINDOWS && is_behind && !self.has_told;
        self.has_told |= tells;
        tells
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of ten seconds in which so much comes and is replayed; returns those after which it tells.
    fn windows(meter: &mut LoadMeter, from: u64, rates: &[(u64, u64)], owed: &mut u64) -> Vec<u64> {
        let mut told = Vec::new();
        for (window, (comes, replays)) in (from + 1..).zip(rates) {
            let replayed = (*owed + comes * 10).min(replays * 10);
            *owed = *owed + comes * 10 - replayed;
            meter.came(comes * 10);
            meter.made(50);
            meter.replayed(replayed, replayed * 1_000_000 / replays.max(&1));
            if meter.advance(*owed, true, window * WINDOW_MS) {
                told.push(window);
            }
        }
        told
    }

    #[test]
    fn who_falls_behind_is_told_once_and_again_after_it_has_caught_up() {
        let (mut meter, mut owed) = (LoadMeter::new(0), 0);
        assert!(windows(&mut meter, 0, &[(100, 1_000); 10], &mut owed).is_empty(), "it keeps up");
        assert_eq!(windows(&mut meter, 10, &[(1_000, 100); 10], &mut owed), [13], "it grew three times");
        let load = meter.load(owed);
        assert_eq!((load.backlog, load.backlog_per_minute, load.replays_per_second), (90_000, 54_000, Some(100)));
        assert_eq!((load.seconds_behind, load.gradients_per_day), (Some(900), 1_005 * 86_400));
        assert_eq!(load.catch_up_seconds_per_day(), Some(1_005 * 864));
        assert!(windows(&mut meter, 20, &[(0, 10_000); 2], &mut owed).is_empty() && owed == 0);
        assert_eq!(meter.load(0).seconds_behind, Some(0));
        assert_eq!(windows(&mut meter, 22, &[(1_000, 100); 10], &mut owed).len(), 1);
    }

    #[test]
    fn a_burst_that_goes_down_again_is_nothing_to_tell() {
        let (mut meter, mut owed) = (LoadMeter::new(0), 0);
        let burst = [(100_000, 1_000), (0, 1_000), (2_000, 1_000), (0, 1_000), (2_000, 1_000), (2_000, 1_000)];
        assert!(windows(&mut meter, 0, &burst, &mut owed).is_empty() && owed > 0);
    }
}
