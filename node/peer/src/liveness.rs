//! When the other end of a connection is gone: TCP itself takes a quarter of an hour to say so.
//!
//! Pings go every [`PING_MS`], so a peer that is there is never silent for long. Only silence counts, not how long an
//! answer takes: a link that is slow, or full, still brings bytes.

use crate::planted::{Fault, Planted};

/// Both ends ping this often, ms.
pub const PING_MS: u64 = 10_000;
/// Silence is counted in looks this far apart, ms.
pub const LOOK_MS: u64 = 5_000;
/// Looks without a byte after which the other end is gone: two pings and their answers are missing.
const SILENT_LOOKS_MAX: u32 = 5;
/// The same for connections that may have been dead before this machine slept.
const LOOKS_AFTER_SLEEP: u32 = 2;

/// How long one connection has been silent.
#[derive(Clone, Copy, Default, Debug)]
pub struct Silence {
    looks: u32,
    planted: Planted,
}

impl Silence {
    /// With a fault in its rule, for tests.
    #[cfg(feature = "planted")]
    pub fn with(fault: Option<Fault>) -> Self {
        Self { looks: 0, planted: fault.map_or_else(Planted::default, Planted::from) }
    }

    /// A byte came.
    pub fn heard(&mut self) {
        self.looks = 0;
    }

    /// [`LOOK_MS`] have passed. True if the other end is gone.
    pub fn look(&mut self) -> bool {
        self.looks += 1;
        self.looks >= SILENT_LOOKS_MAX && !self.planted.has(Fault::BearsSilence)
    }

    /// This machine slept: whoever does not answer soon was gone before.
    pub fn woke(&mut self) {
        self.looks = self.looks.max(SILENT_LOOKS_MAX - LOOKS_AFTER_SLEEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks_until_gone(mut silence: Silence) -> u32 {
        1 + (0..100).take_while(|_| !silence.look()).count() as u32
    }

    #[test]
    fn two_pings_may_be_missed_and_fewer_after_sleep_and_every_byte_starts_anew() {
        let mut silence = Silence::default();
        assert_eq!(looks_until_gone(silence), SILENT_LOOKS_MAX);
        assert!(u64::from(SILENT_LOOKS_MAX) * LOOK_MS > 2 * PING_MS);
        silence.woke();
        assert_eq!(looks_until_gone(silence), LOOKS_AFTER_SLEEP);
        silence.heard();
        assert_eq!(looks_until_gone(silence), SILENT_LOOKS_MAX);
    }
}
