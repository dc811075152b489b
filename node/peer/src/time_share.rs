//! How a trainer divides its time while more of others waits than it can replay: own measuring keeps a quarter.
//!
//! For every trainer that drives a peer's [`crate::Work`], real or virtual.

/// For each part of the time that own measuring takes, replay may take so many.
const REPLAY_PARTS: u64 = 3;

/// What replay and own measuring took. Own time that nobody had to give up is not saved beyond the last batch.
#[derive(Default)]
pub struct TimeShare {
    /// Replay's time for which own measuring has had none yet, and the other way round, microseconds.
    owed_us: u64,
    ahead_us: u64,
}

impl TimeShare {
    /// Others' entries were replayed, alone.
    pub fn replayed(&mut self, took_us: u64) {
        let uncovered = took_us.saturating_sub(self.ahead_us);
        self.ahead_us = self.ahead_us.saturating_sub(took_us);
        self.owed_us = self.owed_us.saturating_add(uncovered);
    }

    /// Own gradients were measured.
    pub fn measured(&mut self, took_us: u64) {
        let covers = took_us.saturating_mul(REPLAY_PARTS);
        self.ahead_us = covers.saturating_sub(self.owed_us);
        self.owed_us = self.owed_us.saturating_sub(covers);
    }

    /// Whether own gradients, if any are wanted, come before what waits to be replayed.
    pub fn is_own_turn(&self) -> bool {
        self.owed_us > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Own share of the time, with so much to replay that it never ends.
    fn own_share(replay_us: u64, batch_us: u64) -> f64 {
        let (mut share, mut own, mut replay) = (TimeShare::default(), 0u64, 0u64);
        while own + replay < 1_000_000_000 {
            match share.is_own_turn() {
                true => {
                    share.measured(batch_us);
                    own += batch_us;
                }
                false => {
                    share.replayed(replay_us);
                    replay += replay_us;
                }
            }
        }
        own as f64 / (own + replay) as f64
    }

    #[test]
    fn own_measuring_keeps_a_quarter_however_long_either_takes() {
        for (replay_us, batch_us) in [(1_000, 1_000), (1_000, 300_000), (300_000, 1_000), (7, 11)] {
            let share = own_share(replay_us, batch_us);
            assert!((share - 0.25).abs() < 0.01, "{replay_us} {batch_us}: {share}");
        }
    }

    #[test]
    fn time_that_nobody_wanted_is_not_saved() {
        let mut share = TimeShare::default();
        (0..1_000).for_each(|_| share.measured(1_000));
        share.replayed(3_000);
        assert!(!share.is_own_turn(), "the last batch covers it");
        share.replayed(1);
        assert!(share.is_own_turn());
    }
}
