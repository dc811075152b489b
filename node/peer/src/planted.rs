//! Deliberate faults in a peer's rules. Tests show that the simulator finds each of them.

/// A rule that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A joiner stores whatever chunk of the base it is sent.
    AcceptsAnyChunk,
    /// Own samples of earlier incarnations are not counted against the goal.
    CountsOneIncarnation,
    /// A checkpoint claims what is in the ledgers when it is committed, not when it was written.
    ClaimsLate,
    /// A start never asks others for the own head.
    TrustsItsDisk,
    /// Leaving waits for nothing.
    LeavesAtOnce,
    /// Own gradients are made without regard to the replay budget.
    IgnoresBudget,
    /// What others made is replayed in the order in which it came, whoever made it.
    TakesNoTurns,
    /// A machine that falls further and further behind tells nobody.
    HidesItsBacklog,
}

/// Which rule is broken: none, and the question costs nothing, without the crate's feature `planted`.
#[derive(Clone, Copy, Default, Debug)]
pub struct Planted {
    #[cfg(feature = "planted")]
    fault: Option<Fault>,
}

#[cfg(feature = "planted")]
impl From<Fault> for Planted {
    fn from(fault: Fault) -> Self {
        Self { fault: Some(fault) }
    }
}

impl Planted {
    /// Whether `fault` is planted.
    #[cfg(feature = "planted")]
    pub fn has(self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    /// No fault is.
    #[cfg(not(feature = "planted"))]
    pub fn has(self, _: Fault) -> bool {
        false
    }
}
