//! Leaving: nothing acknowledged is lost, and it takes at most two seconds.

use anyhow::Result;
use std::time::{Duration, Instant};

use super::{Driver, TICK};
use crate::{interrupt::Interrupt, trainer::Command, watch::Phase};

/// Own bytes get this long to become durable and go out.
const FLUSH_MAX: Duration = Duration::from_millis(700);
/// A checkpoint is written on leaving if it is no larger, and the last one took no longer, than this.
const CHECKPOINT_BYTES_MAX: u64 = 128 << 20;
const CHECKPOINT_MAX: Duration = Duration::from_millis(400);
/// The last status and metrics get this long to be written.
const RECORD_MAX: Duration = Duration::from_millis(100);
/// Neighbours get this long to agree before a node that is done leaves.
const AGREEMENT_MAX: Duration = Duration::from_secs(20);

impl Driver {
    /// Compares with the neighbours until all agree, for a bounded time, or until Ctrl-C.
    pub(super) async fn agree_with_neighbours(&mut self, interrupt: &mut Interrupt) -> Result<()> {
        let begun = Instant::now();
        let mut compared = None::<Instant>;
        while begun.elapsed() < AGREEMENT_MAX && !self.replica.agrees_with_all() {
            if compared.is_none_or(|last| last.elapsed() >= Duration::from_millis(500)) {
                compared = Some(Instant::now());
                let now_ms = self.now_ms();
                self.replica.compare_with_all(now_ms);
            }
            self.carry_out()?;
            self.command_trainer();
            tokio::select! {
                () = interrupt.wait() => return Ok(()),
                Ok(()) = self.storage.state.changed() => self.on_storage(),
                Some(event) = self.trainer.events.recv() => self.on_trainer(event)?,
                event = self.network.next() => self.on_network(event),
                () = tokio::time::sleep(TICK) => self.on_tick()?,
            }
        }
        Ok(())
    }

    /// Signs, stores and sends what is left, writes a checkpoint if that is quick, and closes everything.
    pub(super) async fn leave(mut self) -> Result<()> {
        self.carry_out()?;
        self.status.clear();
        self.command(Command::Train { until_sample: 0 });
        let bytes = 4 * self.replica.manifest().parameters();
        let is_quick = self.goals.checkpoint_took() <= CHECKPOINT_MAX && bytes <= CHECKPOINT_BYTES_MAX;
        if self.replica.signs() && is_quick && !self.is_checkpointing() {
            self.checkpoint_now();
        }
        let begun = Instant::now();
        while begun.elapsed() < FLUSH_MAX {
            self.replica.flush();
            self.carry_out()?;
            self.command_trainer();
            self.commit_checkpoint();
            let waiting = self.replica.signs() && self.replica.own_waiting() > 0;
            if !waiting && !self.is_checkpointing() {
                break;
            }
            tokio::select! {
                Ok(()) = self.storage.state.changed() => self.on_storage(),
                Some(event) = self.trainer.events.recv() => self.on_trainer(event)?,
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
        }
        self.carry_out()?;
        // Published bytes are still in the connections' buffers: give them a moment.
        let drain = tokio::time::sleep(Duration::from_millis(50));
        tokio::pin!(drain);
        loop {
            tokio::select! {
                () = &mut drain => break,
                event = self.network.next() => self.on_network(event),
            }
        }
        self.remember_peers();
        self.status.leaving(&mut self.replica);
        self.observe_now(Some(Phase::Left));
        self.observer.close(RECORD_MAX);
        let _ = self.trainer.commands.try_send(Command::Stop);
        self.network.close().await;
        self.storage.stop(Duration::from_millis(400))
    }
}
