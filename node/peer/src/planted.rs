//! Deliberate faults in a peer's rules. Tests show that the simulator finds each of them.

use protocol::{
    machine::{Handle, MachineId},
    message::{Author, Gossip},
};
use std::{borrow::Cow, collections::BTreeSet};

/// A rule that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// A joiner stores whatever chunk of the base it is sent.
    AcceptsAnyChunk,
    /// Own samples of earlier incarnations are not counted against the goal.
    CountsOneIncarnation,
    /// A checkpoint claims what is in the ledgers when it is committed, not when it was written.
    ClaimsLate,
    /// A start never asks others for this machine's head.
    TrustsItsDisk,
    /// Leaving waits for nothing.
    LeavesAtOnce,
    /// Own gradients are made without regard to the replay budget.
    IgnoresBudget,
    /// What others made is replayed in the order in which it came, whoever made it.
    TakesNoTurns,
    /// A machine that falls further and further behind tells nobody.
    HidesItsBacklog,
    /// Addresses that mean this machine are called as those of others that list them, and whatever call fails puts off
    /// the next to that node.
    StrandsItself,
    /// A connection that says nothing is kept.
    BearsSilence,
    /// What machines push whose ledgers come from the disk is read as of somebody whose beginning was missed.
    ForgetsWhomItRestored,
}

/// With [`Fault::ForgetsWhomItRestored`], machines whose ledgers came from the disk.
#[derive(Default)]
pub struct Forgotten(BTreeSet<Handle>);

impl Forgotten {
    /// This machine's ledger came from the disk.
    pub fn restored(&mut self, planted: Planted, machine: &MachineId) {
        if planted.has(Fault::ForgetsWhomItRestored) {
            self.0.insert(machine.handle());
        }
    }

    /// A gossip message as it is read.
    pub fn read<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        if !self.0.is_empty()
            && let Ok(Gossip::Segment(mut push)) = Gossip::decode(bytes)
            && let Author::Known(handle) = &mut push.author
            && self.0.contains(&*handle)
        {
            handle.0.iter_mut().for_each(|byte| *byte ^= 0xff);
            return Gossip::Segment(push).encode().map_or(Cow::Borrowed(bytes), Cow::Owned);
        }
        Cow::Borrowed(bytes)
    }
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
