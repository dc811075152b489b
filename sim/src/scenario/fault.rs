//! Faults and adversaries, as a scenario says them.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use super::MACHINES_MAX;

/// A fault of machines that the seed chooses among the honest ones that are up, never the one that started the run.
// serde cannot deny unknown fields beside a flattened one; `What` does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fault {
    pub at_seconds: f64,
    #[serde(flatten)]
    pub what: What,
}

/// See [`Fault`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// New machines join.
    Join {
        machines: usize,
        /// Within how long.
        #[serde(default)]
        over_seconds: f64,
    },
    /// Machines sign and send what they have, and leave.
    Leave { machines: usize },
    /// Machines are killed.
    Crash {
        machines: usize,
        /// When they come back; never, if not said.
        back_after_seconds: Option<f64>,
    },
    /// Again and again machines leave or are killed for good, half and half, and as many join.
    Churn {
        /// How many each time.
        machines: usize,
        times: usize,
        every_seconds: f64,
    },
    /// The machines are split at random; nothing passes between the parts.
    Partition {
        parts: usize,
        /// Until it heals.
        lasts_seconds: f64,
    },
    /// Links lose everything for a while. Machines keep their addresses.
    LinkLoss {
        machines: usize,
        /// Until they are back.
        lasts_seconds: f64,
    },
    /// Links are down for a while, and machines have other addresses afterwards: connections from before are dead, and
    /// nobody closes them.
    AddressChange {
        machines: usize,
        /// Until the links are back.
        lasts_seconds: f64,
    },
    /// The link of the machine that started the run loses everything for a while.
    FirstAway {
        /// Until it is back.
        lasts_seconds: f64,
    },
    /// Machines sleep, as laptops do.
    Sleep {
        machines: usize,
        /// Until they wake up.
        lasts_seconds: f64,
    },
    /// Disks take no writes.
    DiskFull {
        machines: usize,
        /// Until there is room.
        lasts_seconds: f64,
    },
    /// Disks say that they synced and did not; the power fails later.
    DiskLies {
        machines: usize,
        /// From the first lie to the power failure.
        lasts_seconds: f64,
        /// When they come back after it.
        back_after_seconds: f64,
    },
    /// Machines are killed, and come back with their key and nothing else of the ledger.
    DiskLost {
        machines: usize,
        /// When they come back.
        back_after_seconds: f64,
    },
    /// Machines are killed, and come back with the disk as it was some time before.
    DiskRolledBack {
        machines: usize,
        /// How much older the disk is.
        by_seconds: f64,
        /// When they come back.
        back_after_seconds: f64,
    },
    /// The directories of running machines are copied, and the copies started as machines of their own.
    DiskCopied { machines: usize },
    /// Clocks jump, as when a laptop wakes up.
    ClockJump {
        machines: usize,
        /// By how much; may be negative.
        by_seconds: f64,
    },
    /// The run's authority admits machines that it has not spoken of.
    Admit { machines: usize },
    /// The run's authority withdraws keys that it admitted: half of what it knows of each incarnation stays, and of the
    /// last one nothing if there are several.
    Withdraw { machines: usize },
    /// The run's authority revokes all that adversaries of this strategy gave.
    Revoke { whose: Strategy },
}

impl Fault {
    /// Refuses what cannot be injected, in words.
    pub fn check(&self) -> Result<()> {
        let (machines, seconds): (usize, Vec<f64>) = match &self.what {
            What::Join { machines, over_seconds } => (*machines, vec![*over_seconds]),
            What::Leave { machines }
            | What::DiskCopied { machines }
            | What::Admit { machines }
            | What::Withdraw { machines } => (*machines, vec![]),
            What::Crash { machines, back_after_seconds } => (*machines, back_after_seconds.iter().copied().collect()),
            What::Churn { machines, times, every_seconds } => {
                ensure!((1..=10_000).contains(times), "fault.times is {times}: 1 to 10,000");
                (*machines, vec![*every_seconds])
            }
            What::Partition { parts, lasts_seconds } => {
                ensure!((2..=255).contains(parts), "fault.parts is {parts}: 2 to 255");
                (1, vec![*lasts_seconds])
            }
            What::FirstAway { lasts_seconds } => (1, vec![*lasts_seconds]),
            What::LinkLoss { machines, lasts_seconds }
            | What::AddressChange { machines, lasts_seconds }
            | What::Sleep { machines, lasts_seconds }
            | What::DiskFull { machines, lasts_seconds } => (*machines, vec![*lasts_seconds]),
            What::DiskLies { machines, lasts_seconds, back_after_seconds } => {
                (*machines, vec![*lasts_seconds, *back_after_seconds])
            }
            What::DiskLost { machines, back_after_seconds } => (*machines, vec![*back_after_seconds]),
            What::DiskRolledBack { machines, by_seconds, back_after_seconds } => {
                (*machines, vec![*by_seconds, *back_after_seconds])
            }
            What::ClockJump { machines, by_seconds } => {
                let at = self.at_seconds;
                ensure!(-by_seconds <= at, "fault.by_seconds is {by_seconds} at second {at}: before the run began");
                (*machines, vec![by_seconds.abs()])
            }
            What::Revoke { .. } => (1, vec![]),
        };
        ensure!((1..=MACHINES_MAX).contains(&machines), "fault.machines is {machines}: 1 to {MACHINES_MAX}");
        for seconds in seconds.iter().chain([&self.at_seconds]) {
            ensure!(
                (0.0..=1e7).contains(seconds),
                "a fault's time is {seconds} seconds: it must be between 0 and 10^7"
            );
        }
        Ok(())
    }
}

/// Machines that break the rules on purpose.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adversaries {
    #[serde(rename = "malice")]
    pub strategy: Strategy,
    pub machines: usize,
    /// When they join.
    #[serde(default)]
    pub at_seconds: f64,
}

/// What an adversary does; otherwise it behaves like an honest machine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Signs two segments for the same samples and shows one to each half of its neighbours.
    ForkOverlap,
    /// Signs a segment that follows one it never showed.
    ForkWithheld,
    /// Signs two histories of equal height, shows one to each half, and is never heard of again.
    ForkSilent,
    /// Sends the bytes that push one weight out of its range.
    PushWeight,
    /// Sends bytes that are no messages, and answers with them.
    Garbage,
    /// Sends old segments of others again, and again.
    Replayer,
    /// Sends bytes of the largest magnitude.
    LargestBytes,
    /// Sends gradients with the opposite sign.
    FlippedSigns,
    /// Sends as much as it can.
    Flood,
    /// Says that ledgers are longer than they are, and cannot show it.
    Liar,
    /// Never shows a machine that asks the end of that machine's own ledger.
    HeadHider,
    /// Makes gradients as fast as it can, whatever the replay budget is.
    Overspend,
    /// Sends joiners a base model that is not the run's.
    WrongBase,
}
