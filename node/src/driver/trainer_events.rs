//! What the trainer says, and checkpoints.

use anyhow::Result;

use super::{Driver, PendingCheckpoint, observer::heights_of};
use crate::trainer::{Command, Event};

impl Driver {
    pub(super) fn on_trainer(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Step(step) => {
                let now_ms = self.now_ms();
                self.status.stepped(&step);
                self.replica.own_bytes(&step.own, now_ms);
            }
            Event::Evaluated(evaluation, took) => {
                self.goals.evaluated(took);
                self.status.evaluated(&evaluation, self.replica.swarm_step());
            }
            Event::Checkpoint { written, machine, next_sample, spsa, took } => {
                self.goals.checkpoint_written(took);
                if let Some(others) = self.checkpoint_others.take() {
                    self.pending_checkpoint = Some(PendingCheckpoint { written, others, machine, next_sample, spsa });
                }
            }
            Event::Digest { root, digest } => self.at_rest(root, digest),
            Event::Adopted => self.adopting -= 1,
            Event::CheckpointFailed(error) => {
                self.status.checkpoint_failed(&error);
                self.checkpoint_others = None;
                self.goals.checkpointed();
            }
            Event::NearEdge(near) => self.status.near_edge(near.as_ref()),
            Event::Replayed(entries) => self.status.replayed(entries),
            Event::Failed(error) => return Err(error.context("training stopped")),
        }
        Ok(())
    }

    fn at_rest(&mut self, root: [u8; 32], digest: [u8; 32]) {
        self.status.at_rest(root, digest);
        if root != self.replica.root() {
            // Something came meanwhile: what the weights held then is not known here any more.
            return;
        }
        let mut contents = self.replica.contents_of_others();
        contents.extend(self.replica.contents_of_own(&self.replica.own_machine(), self.replica.own_next_sample()));
        self.observer.weighed(&digest, heights_of(&contents));
    }

    /// Whether a checkpoint file written now would hold nothing that is in no ledger: no other one is under way, and of an
    /// incarnation given up no sample is still on its way.
    pub(super) fn may_checkpoint(&self) -> bool {
        self.checkpoint_others.is_none()
            && self.pending_checkpoint.is_none()
            && self.adopting == 0
            && self.replica.own_is_settled()
    }

    /// Asks for a checkpoint file. It will contain what was handed out so far.
    pub(super) fn begin_checkpoint(&mut self) {
        match self.state.checkpoint_writer() {
            Ok(writer) => {
                self.checkpoint_others = Some(self.replica.contents_of_others());
                self.command(Command::Checkpoint(writer));
            }
            Err(error) => {
                self.status.checkpoint_failed(&error);
                self.goals.checkpointed();
            }
        }
    }

    /// Makes the written file the checkpoint, once the own samples in it are in the ledger (ledger before checkpoint; the
    /// storage thread is first in, first out, so others' samples are).
    pub(super) fn commit_checkpoint(&mut self) {
        let Some(pending) = &self.pending_checkpoint else { return };
        if pending.machine != self.replica.own_machine() {
            // The own ledger began anew meanwhile: the file holds samples that are in no ledger.
            self.pending_checkpoint = None;
            self.goals.checkpointed();
            return;
        }
        let own = match pending.next_sample {
            0 => None,
            height => match self.replica.contents_of_own(&pending.machine, height) {
                Some(own) => Some(own),
                None => return self.replica.flush(),
            },
        };
        let Some(mut pending) = self.pending_checkpoint.take() else { return };
        pending.others.extend(own);
        self.observer.weighed(pending.written.digest(), heights_of(&pending.others));
        match crate::records::encode_contents(&pending.others) {
            Ok(contents) => self.storage.commit_checkpoint(pending.written, contents, pending.spsa),
            Err(error) => {
                tracing::warn!("no checkpoint: {error:#}");
                self.goals.checkpointed();
            }
        }
    }
}
