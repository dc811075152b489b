//! The end of a shell.

use anyhow::{Result, bail};
use peer::leave::{Departure, Waiting};
use protocol::replica::Replica;
use std::time::Duration;

use super::Shell;
use crate::{control::interrupt::Wish, say, trainer::Command};

/// What was published last is still in the connections' buffers, and gets this long to go out. Nothing depends on it:
/// what is not heard comes with the next start, from the disk.
const SENDING_MAX: Duration = Duration::from_millis(50);

impl Shell {
    /// Runs until the goals are reached or somebody wishes to leave. Leaves cleanly, however long the disk takes.
    pub async fn run(mut self) -> Result<()> {
        self.interrupt.take_over();
        self.run_until(|_| false).await?;
        self.close().await
    }

    /// Whether the peer has left already.
    pub(super) fn has_left(&self) -> bool {
        self.departure.is_some()
    }

    /// The peer has left: closes everything else. A second wish to leave cuts even this short.
    pub async fn close(mut self) -> Result<()> {
        self.interrupt.take_over();
        self.people.clear();
        let (departure, mut interrupt, wish) = (self.departure, self.interrupt.clone(), self.wish);
        let waiting = self.waiting();
        tokio::select! {
            biased;
            Wish::LeaveNow = interrupt.wait(wish.max(Wish::Leave)) => bail!(say::cut_short(&waiting)),
            outcome = self.close_all(departure) => outcome,
        }
    }

    async fn close_all(&mut self, departure: Option<Departure>) -> Result<()> {
        let sent = async {
            loop {
                self.wire.drive().await;
            }
        };
        let _ = tokio::time::timeout(SENDING_MAX, sent).await;
        self.remember();
        if let Some(recording) = &mut self.recording {
            recording.finish();
        }
        self.people.close(&self.peer, &self.wire, self.disk.state.path()).await;
        if let Some(trainer) = &self.trainer {
            let _ = trainer.commands.try_send(Command::Stop);
        }
        self.wire.close().await;
        match departure {
            Some(Departure::NoRun) => bail!(self.people.refusal()),
            Some(Departure::GivenUp(waiting)) => {
                let error = self.disk.error().unwrap_or("no reason is known");
                bail!(say::left_without(&waiting, error, self.disk.state.path()))
            }
            Some(Departure::Clean) | None => {}
        }
        // Only addresses are left to be written.
        if let Err(error) = self.disk.drain().await {
            tracing::warn!("the addresses of neighbours are not stored ({error})");
        }
        Ok(())
    }

    /// What is not durable yet.
    pub(super) fn waiting(&self) -> Waiting {
        Waiting {
            own: self.peer.replica().map_or(0, Replica::own_waiting),
            writes: self.peer.facts().unstored,
            checkpoint: false,
        }
    }
}
