//! The world around a [`Peer`]: events of network, disk, trainer, clock and people become inputs; outputs are carried
//! out. Nothing is decided here.
//!
//! ```text
//!              inputs                  outputs
//!   network ───────►┐                ┌────────► network   (wire)
//!   disk    ───────►│      peer      │────────► disk      (disk; the storage thread)
//!   trainer ───────►│                │────────► trainer   (a thread)
//!   clock   ───────►│                │────────► key
//!   people  ───────►┘                └────────► people    (people; words are in `say`)
//! ```

use anyhow::{Context, Result, bail};
use peer::{Input, Look, Notice, Output, Peer, Work, leave::Departure};
use protocol::{
    machine::MachineId,
    replay::Contribution,
    replica::{LedgerRange, Replica, Report},
    signature::{Ed25519Signer, Signer as _},
};
use std::{
    collections::VecDeque,
    sync::mpsc::TrySendError,
    time::{Duration, Instant},
};

use crate::{
    control::{
        authority::Inbox,
        interrupt::{Interrupt, Wish},
        pause::Pauses,
    },
    say,
    trainer::{Command, Event, TrainerHandle},
};

mod disk;
mod leave;
mod people;
mod recording;
mod start;
mod wire;

#[cfg(test)]
mod tests;

pub use disk::Disk;
pub use people::People;
pub use recording::{RECORDING_BYTES_MAX, Recording, create as create_recording};
pub use wire::Wire;

/// Peers' addresses go to the disk this often if they changed: a node that is killed must find its swarm again.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(5);
/// Windows of a passing look at the held-out text.
pub const EVALUATION_WINDOWS: usize = 128;

/// See the module's documentation.
pub struct Shell {
    peer: Peer,
    begun: Instant,
    /// What the peer is to be told next: an event, and what was answered at once.
    inputs: VecDeque<Input>,
    wire: Wire,
    disk: Disk,
    /// Once the peer runs.
    trainer: Option<TrainerHandle>,
    people: People,
    signer: Ed25519Signer,
    recording: Option<Recording>,
    interrupt: Interrupt,
    pauses: Pauses,
    /// What the run's authority said while this node ran.
    inbox: Inbox,
    /// What people wished so far.
    wish: Wish,
    remembered: Instant,
    /// Whether the checkpoint on the disk fits the ledgers, once the peer has said so.
    resumes: Option<bool>,
    departure: Option<Departure>,
}

/// What a shell is made of.
pub struct Parts {
    /// Not told anything yet.
    pub peer: Peer,
    /// Without a network.
    pub wire: Wire,
    /// Without a thread.
    pub disk: Disk,
    /// Whom to tell.
    pub people: People,
    /// Ctrl-C.
    pub interrupt: Interrupt,
    /// Why it may have to rest.
    pub pauses: Pauses,
    /// Begun with the peer's configuration.
    pub recording: Option<Recording>,
}

impl Shell {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        let Parts { peer, wire, disk, people, interrupt, pauses, recording } = parts;
        Self {
            signer: Ed25519Signer::from_seed(&disk.state.secret_key()),
            inbox: Inbox::of(disk.state.path()),
            peer,
            begun: Instant::now(),
            inputs: VecDeque::new(),
            wire,
            disk,
            trainer: None,
            people,
            recording,
            interrupt,
            pauses,
            wish: Wish::Stay,
            remembered: Instant::now(),
            resumes: None,
            departure: None,
        }
    }

    /// The ledgers, once a run is known.
    pub fn replica(&self) -> Option<&Replica> {
        self.peer.replica()
    }

    /// Whether a recording holds anything that the peer was told.
    pub fn has_recorded(&self) -> bool {
        self.recording.as_ref().is_some_and(Recording::has_steps)
    }

    /// Milliseconds since this shell began: the peer's clock.
    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Waits and works until `is_done`, or until the peer has left. A second wish to leave is an error that says what
    /// it costs.
    async fn run_until(&mut self, is_done: impl Fn(&Self) -> bool) -> Result<()> {
        let mut ticker = tokio::time::interval(Duration::from_millis(peer::TICK_MS));
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while self.departure.is_none() && !is_done(self) {
            tokio::select! {
                wish = self.interrupt.wait(self.wish) => self.on_wish(wish)?,
                () = self.disk.progress() => self.on_disk()?,
                Some(event) = event_of(&mut self.trainer) => self.on_trainer(event)?,
                input = self.wire.next() => self.tell(input)?,
                _ = ticker.tick() => self.on_tick()?,
            }
        }
        Ok(())
    }

    /// Tells the peer, and carries out all that it wants done, until nothing is left to tell.
    fn tell(&mut self, input: Input) -> Result<()> {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            let now_ms = self.now_ms();
            let told = self.recording.is_some().then(|| input.clone());
            let outputs = self.peer.step(input, now_ms);
            if let (Some(recording), Some(told)) = (&mut self.recording, told) {
                recording.step(now_ms, &told, &outputs);
            }
            for output in outputs {
                self.carry_out(output)?;
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, output: Output) -> Result<()> {
        let Some(output) = self.wire.carry_out(output, &mut self.inputs) else { return Ok(()) };
        if let (Output::Commit { contents }, Some(digest)) = (&output, self.disk.written()) {
            self.people.digested(digest, contents);
        }
        let Some(output) = self.disk.carry_out(output, &mut self.inputs)? else { return Ok(()) };
        match output {
            Output::Sign { token, message } => {
                self.inputs.push_back(Input::Signed { token, signature: self.signer.sign(&message) });
            }
            Output::Serve { request, piece } => {
                if let Ok(bytes) = self.disk.serve(piece).encode() {
                    self.wire.respond(request, bytes);
                }
            }
            Output::StoreChunk { question, index } => {
                if let Some(chunk) = self.wire.take_chunk(question) {
                    self.inputs.push_back(self.disk.store_chunk(index, &chunk)?);
                }
            }
            Output::Resume(fits) => self.resumes = Some(fits),
            Output::Damaged { machine, first, reason } => {
                bail!(say::damaged(self.disk.state.path(), &machine, first, &reason));
            }
            Output::Work(work) => self.hand_out(work)?,
            Output::Notice(notice) => self.on_notice(&notice),
            Output::Left(departure) => self.departure = Some(departure),
            // The wire and the disk have taken all others.
            other => bail!("nobody carries out {other:?}"),
        }
        Ok(())
    }

    fn hand_out(&mut self, work: Work) -> Result<()> {
        let command = match work {
            Work::Adopt(machine, next_sample) => Command::Adopt(machine, next_sample),
            Work::SwarmStep(step) => Command::SwarmStep(step),
            Work::Train { until_sample } => Command::Train { until_sample },
            Work::Replay(entries) => Command::Replay(entries),
            Work::ReplayLedgers(ranges) => {
                self.people.arrived(&ranges);
                Command::Replay(self.spell_out(&ranges))
            }
            Work::Evaluate => Command::Evaluate(EVALUATION_WINDOWS),
            Work::Checkpoint => Command::Checkpoint(self.disk.state.clone()),
            Work::Digest(root) => Command::Digest(root),
        };
        let trainer = self.trainer.as_ref().context("there is work, and no trainer")?;
        match trainer.commands.try_send(command) {
            // One that is gone has said why in its last event.
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
            Err(TrySendError::Full(_)) => bail!("the trainer was handed more work than it has room for"),
        }
    }

    fn spell_out(&self, ranges: &[LedgerRange]) -> Vec<Contribution> {
        let replica = self.peer.replica();
        ranges
            .iter()
            .flat_map(|range| replica.map(|replica| replica.contributions(range)).unwrap_or_default())
            .collect()
    }

    fn on_notice(&mut self, notice: &Notice) {
        if let Notice::Fetched { here, .. } = notice {
            self.disk.show_progress(*here);
        }
        if let Notice::Report(Report::Withdrawn { key, is_own: false }) = notice {
            self.wire.refuse(key);
        }
        self.people.hear(notice, self.wire.nodes(), &self.peer);
    }

    fn on_wish(&mut self, wish: Wish) -> Result<()> {
        self.wish = wish;
        match wish {
            Wish::LeaveNow => bail!(say::cut_short(&self.waiting())),
            Wish::Leave | Wish::Stay => self.tell(Input::Leave),
        }
    }

    fn on_disk(&mut self) -> Result<()> {
        let (inputs, turn) = self.disk.look();
        match turn {
            Some(disk::Turn::Failing(error)) => say::storage_fails(&error),
            Some(disk::Turn::Recovered) => say::storage_recovered(),
            None => {}
        }
        inputs.into_iter().try_for_each(|input| self.tell(input))
    }

    fn on_trainer(&mut self, event: Event) -> Result<()> {
        let ms = |took: Duration| took.as_millis() as u64;
        let input = match event {
            Event::Took => Input::Took,
            Event::Step(step) => {
                self.people.session.stepped(&step);
                Input::Stepped(step.own)
            }
            Event::Replayed(entries, took) => {
                Input::Replayed { entries: entries as u64, took_us: took.as_micros() as u64 }
            }
            Event::Adopted => Input::Adopted,
            Event::NearEdge(near) => {
                say::near_edge(near.as_ref());
                Input::NearEdge(near.is_some())
            }
            Event::Looking { done, all } => {
                self.people.session.looking(done, all);
                return Ok(());
            }
            Event::Evaluated { evaluation, digest, machine, next_sample, took } => {
                self.people.evaluated(&evaluation, digest, &self.peer);
                Input::Evaluated(Look { loss: evaluation.loss, digest, machine, next_sample, took_ms: ms(took) })
            }
            Event::Sampled(sampled) => {
                self.people.sampled(sampled, &self.peer);
                return Ok(());
            }
            Event::Checkpoint { written, machine, next_sample, normalizer, took } => {
                self.disk.wrote(written, normalizer);
                Input::Written { machine, next_sample, took_ms: ms(took) }
            }
            Event::CheckpointFailed(error) => {
                say::checkpoint_failed(&error);
                Input::WriteFailed
            }
            Event::Digest { root, digest } => Input::Digested { root, digest },
            Event::Failed(error) => return Err(error.context("training stopped")),
        };
        self.tell(input)
    }

    fn on_tick(&mut self) -> Result<()> {
        // Before there is a trainer nothing is measured, and nobody listens.
        if self.trainer.is_some() && self.pauses.look() {
            let cause = self.pauses.cause();
            say::paused(cause, self.disk.state.path());
            self.tell(Input::Pause(cause.is_some()))?;
        }
        if self.trainer.is_some() && self.wish == Wish::Stay {
            self.read_inbox()?;
        }
        self.tell(Input::Tick)?;
        if let Some(input) = self.disk.pump() {
            self.tell(input)?;
        }
        if self.remembered.elapsed() >= REMEMBER_INTERVAL {
            self.remembered = Instant::now();
            self.remember();
        }
        self.people.look(&self.peer, &mut self.wire, self.pauses.cause());
        Ok(())
    }

    /// What the run's authority said takes effect, and leaves the inbox once it is durable.
    fn read_inbox(&mut self) -> Result<()> {
        for (file, statement) in self.inbox.look() {
            self.tell(Input::Stated(statement.clone()))?;
            let is_known = self.peer.replica().is_some_and(|replica| replica.knows(&statement));
            if !is_known {
                say::not_of_authority(&file);
            }
            self.inbox.taken(file, self.disk.writes().0);
        }
        self.inbox.clear(self.disk.writes().1);
        Ok(())
    }

    fn remember(&mut self) {
        if let Some(network) = self.wire.network() {
            self.disk.remember(network.known_peers());
        }
    }

    pub fn own_machine(&self) -> MachineId {
        self.peer.own_machine()
    }
}

/// The trainer's next event; none ever comes if there is no trainer.
async fn event_of(trainer: &mut Option<TrainerHandle>) -> Option<Event> {
    match trainer {
        Some(trainer) => trainer.events.recv().await,
        None => std::future::pending().await,
    }
}
