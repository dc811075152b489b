//! Looks at the held-out text, each until it is known what its weights held.
//!
//! The trainer measures at what it was told before it was asked, and at own bytes that may not be in the ledger yet. A
//! look becomes a *point* once they are: then anyone who has the ledgers can replay the weights that it was measured
//! at. A look whose own bytes come into no ledger becomes none.

use protocol::{
    machine::MachineId,
    replica::{Contained, Replica},
    segment::Digest,
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

use crate::curve::{Curve, CurvePoint};

/// Looks that wait for own bytes to be durable. An older one is given up.
const WAITING_MAX: usize = 64;

/// What a trainer measured on the held-out text.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Look {
    /// Held-out loss, in the units of the objective.
    pub loss: f64,
    /// Of the weights.
    pub digest: Digest,
    /// The own machine at that moment.
    pub machine: MachineId,
    /// Own samples below this are in the weights.
    pub next_sample: u64,
    /// How long it took, ms.
    pub took_ms: u64,
}

/// A look, and what its weights held: all of it is in ledgers here.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Point {
    /// Held-out loss, in the units of the objective.
    pub loss: f64,
    /// Of the weights.
    pub digest: Digest,
    /// Gradients in the weights.
    pub gradients: u64,
    /// Each machine's part.
    pub contents: Vec<Contained>,
    /// The version vector's root when the trainer was asked; the weights may lack some of what it stands for.
    pub root: Digest,
    /// Revocations that were known then: whose, and the first sample that did not count.
    pub revoked: Vec<(MachineId, u64)>,
}

/// What the weights hold besides own bytes.
struct Asked {
    others: Vec<Contained>,
    root: Digest,
    revoked: Vec<(MachineId, u64)>,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Points {
    /// Of the look under way; None if nobody could tell what it measures.
    asked: Option<Asked>,
    waiting: VecDeque<(Look, Asked)>,
    curve: Curve,
}

impl Points {
    /// Points of earlier sessions, in the order in which they were measured.
    pub fn restore(&mut self, points: Vec<CurvePoint>) {
        points.into_iter().for_each(|point| self.curve.push(point));
    }

    /// The trainer is asked for a look. All outputs of the replica must have been taken. `held` tells of how many
    /// samples of a machine the trainer knows, if others of it still wait (see [`crate::backlog::Backlog::held`]): of
    /// the own ledger none may. `is_certain`: of no incarnation given up, and of no withdrawn one, own samples are in
    /// the weights.
    pub fn begin(&mut self, replica: &Replica, held: impl Fn(&MachineId) -> Option<u64>, is_certain: bool) {
        let is_certain = is_certain && held(&replica.own_machine()).is_none();
        let revoked = || {
            let revocations = replica.machines().filter_map(|(machine, _, revocation)| Some((*machine, revocation?)));
            revocations.map(|(machine, revocation)| (machine, revocation.floor())).collect()
        };
        self.asked = (is_certain && replica.own_is_settled()).then(|| Asked {
            others: replica.contents_of_others(held),
            root: replica.root(),
            revoked: revoked(),
        });
    }

    /// The look that was asked for is there.
    pub fn looked(&mut self, look: Look) {
        let Some(asked) = self.asked.take() else { return };
        if self.waiting.len() == WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back((look, asked));
    }

    /// The next look of which all is in ledgers now; it is on the curve afterwards.
    pub fn next(&mut self, replica: &Replica) -> Option<Point> {
        loop {
            let (look, _) = self.waiting.front()?;
            let own = match look.next_sample {
                0 => None,
                height if replica.refused(&look.machine, height) => {
                    self.waiting.pop_front();
                    continue;
                }
                height => Some(replica.contents_of_own(&look.machine, height)?),
            };
            let (look, Asked { others, root, revoked }) = self.waiting.pop_front()?;
            let contents: Vec<Contained> = others.into_iter().chain(own).collect();
            let gradients = contents.iter().fold(0u64, |sum, contained| sum.saturating_add(contained.height));
            self.curve.push(CurvePoint { gradients, loss: look.loss });
            return Some(Point { loss: look.loss, digest: look.digest, gradients, contents, root, revoked });
        }
    }

    /// Loss by gradients.
    pub fn curve(&self) -> &Curve {
        &self.curve
    }
}
