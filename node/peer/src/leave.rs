//! Leaving: nothing acknowledged is lost, however slow the disk is. What bounds it is progress, not time.

use protocol::replica::Replica;
use serde::Serialize;

/// When for so long no further neighbour has agreed, the others are left as they are, ms.
const AGREEMENT_IDLE_MS: u64 = 20_000;
/// Neighbours are compared with this often, ms.
const COMPARE_INTERVAL_MS: u64 = 500;
/// People hear what leaving waits for after this long, ms, and again every so often.
const PATIENCE_MS: u64 = 2_000;
const REMIND_INTERVAL_MS: u64 = 10_000;
/// A disk that refuses this many writes in a row, with nothing stored between them, is given up.
const REFUSALS_MAX: u32 = 4;

/// What leaving waits for.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize)]
pub struct Waiting {
    /// Own gradients that are not durable yet.
    pub own: u64,
    /// Writes that are not durable yet.
    pub writes: u64,
    /// Whether a checkpoint is being written.
    pub checkpoint: bool,
}

impl Waiting {
    /// Whether there is nothing to wait for.
    pub fn is_over(&self) -> bool {
        *self == Self::default()
    }
}

/// How a peer left.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub enum Departure {
    /// Everything is stored and told.
    Clean,
    /// The disk refused all writes: this was given up. Whatever others hold comes again from them.
    GivenUp(Waiting),
    /// There is no run to join.
    NoRun,
}

/// A peer on its way out.
pub struct Leaving {
    since_ms: u64,
    told_ms: Option<u64>,
    /// Comparing with the neighbours; None once what is left is being stored.
    agreeing: Option<Agreeing>,
    refusals: u32,
}

struct Agreeing {
    compared_ms: Option<u64>,
    /// What the neighbours are to have: all that was here at this revision of the version vector. What comes later is
    /// not waited for, or a swarm that goes on training would never let anyone go.
    revision: u64,
    /// The fewest neighbours that lacked some of it, and since when there are no fewer.
    progress: (usize, u64),
}

impl Leaving {
    /// At a person's wish: what is left is stored, and that is all.
    pub fn at_once(now_ms: u64) -> Self {
        Self { since_ms: now_ms, told_ms: None, agreeing: None, refusals: 0 }
    }

    /// Of one's own accord: when the neighbours have what this machine has.
    pub fn once_all_agree(replica: &Replica, now_ms: u64) -> Self {
        let revision = replica.vector().revision();
        let agreeing = Agreeing { compared_ms: None, revision, progress: (replica.lacking(revision), now_ms) };
        Self { agreeing: Some(agreeing), ..Self::at_once(now_ms) }
    }

    /// A person does not want to wait for the neighbours.
    pub fn hurry(&mut self, now_ms: u64) {
        self.agreeing = None;
        self.since_ms = now_ms;
    }

    /// Whether the neighbours are still being compared with.
    pub fn is_agreeing(&self) -> bool {
        self.agreeing.is_some()
    }

    /// Whether to compare with all neighbours now.
    pub fn compares_now(&mut self, now_ms: u64) -> bool {
        let Some(agreeing) = &mut self.agreeing else { return false };
        let is_due = agreeing.compared_ms.is_none_or(|last_ms| now_ms.saturating_sub(last_ms) >= COMPARE_INTERVAL_MS);
        if is_due {
            agreeing.compared_ms = Some(now_ms);
        }
        is_due
    }

    /// Ends the comparing if all agree, or nothing comes of it any more. True if it has ended just now.
    pub fn agrees_now(&mut self, replica: &Replica, now_ms: u64) -> bool {
        let Some(agreeing) = &mut self.agreeing else { return false };
        let lacking = replica.lacking(agreeing.revision);
        if lacking < agreeing.progress.0 {
            agreeing.progress = (lacking, now_ms);
        }
        let (_, since_ms) = agreeing.progress;
        let has_ended = lacking == 0 || now_ms.saturating_sub(since_ms) >= AGREEMENT_IDLE_MS;
        if has_ended {
            self.agreeing = None;
            self.since_ms = now_ms;
        }
        has_ended
    }

    /// The disk refused a write.
    pub fn refused(&mut self) {
        self.refusals = self.refusals.saturating_add(1);
    }

    /// The disk took a write.
    pub fn stored(&mut self) {
        self.refusals = 0;
    }

    /// How it ends, if it does: nothing is left, or the disk takes nothing.
    pub fn departure(&self, waiting: Waiting) -> Option<Departure> {
        match () {
            () if self.is_agreeing() => None,
            () if waiting.is_over() => Some(Departure::Clean),
            () if self.refusals >= REFUSALS_MAX => Some(Departure::GivenUp(waiting)),
            () => None,
        }
    }

    /// Whether people should hear now what it waits for.
    pub fn tells_now(&mut self, now_ms: u64) -> bool {
        let (last_ms, pause_ms) =
            self.told_ms.map_or((self.since_ms, PATIENCE_MS), |told_ms| (told_ms, REMIND_INTERVAL_MS));
        let is_due = !self.is_agreeing() && now_ms.saturating_sub(last_ms) >= pause_ms;
        if is_due {
            self.told_ms = Some(now_ms);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITING: Waiting = Waiting { own: 3, writes: 1, checkpoint: false };

    #[test]
    fn a_slow_disk_is_waited_for_and_people_hear_of_it() {
        let mut leaving = Leaving::at_once(0);
        assert!(!leaving.tells_now(1_999) && leaving.tells_now(2_000));
        assert!(!leaving.tells_now(11_999) && leaving.tells_now(12_000), "not all the time");
        assert_eq!(leaving.departure(WAITING), None, "an hour is no reason to give up");
        assert_eq!(leaving.departure(Waiting::default()), Some(Departure::Clean));
    }

    #[test]
    fn a_disk_that_refuses_again_and_again_is_given_up() {
        let mut leaving = Leaving::at_once(0);
        (0..3).for_each(|_| leaving.refused());
        leaving.stored();
        (0..3).for_each(|_| leaving.refused());
        assert_eq!(leaving.departure(WAITING), None, "it took something in between");
        leaving.refused();
        assert_eq!(leaving.departure(WAITING), Some(Departure::GivenUp(WAITING)));
    }
}
