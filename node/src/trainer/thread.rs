//! The trainer's thread: commands in, events out, both bounded.

use anyhow::Result;
use engine::{
    objective::Evaluation,
    trainer::{Step, Trainer},
    weights::{ENTRIES_PER_SWEEP, Weights},
};
use peer::{backlog::WORKS_MAX, time_share::TimeShare};
use protocol::{codec, machine::MachineId, replay::Contribution};
use std::{
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

use super::sampler::{Sampled, Sampler};
use crate::storage::{StateDir, checkpoint::WrittenCheckpoint};

/// Events that may wait for the shell.
const EVENTS_MAX: usize = 256;

/// So many entries get a sweep of their own before a step, which tells how long they take.
const ENTRIES_ALONE_MIN: usize = 256;

/// While it rests, the trainer looks so often whether somebody wants a copy.
const COPY_PAUSE: Duration = Duration::from_millis(50);
/// Wishes for copies that may wait.
const COPIES_MAX: usize = 16;

/// Where a copy of the exact weights is to go.
pub type CopyFor = SyncSender<Result<Weights>>;

/// What the shell wants of the trainer. Carried out in order, each after [`Event::Took`].
pub enum Command {
    /// Bring entries into the weights, or out.
    Replay(Vec<Contribution>),
    /// Work for this machine, from this sample on.
    Adopt(MachineId, u64),
    /// Use the learning rate of this swarm step.
    SwarmStep(u64),
    /// Measure own gradients of samples below this one, then rest.
    Train {
        /// Zero: rest.
        until_sample: u64,
    },
    /// Measure the held-out loss on at most so many windows.
    Evaluate(usize),
    /// Write the weights to a file of this directory that is not yet the checkpoint.
    Checkpoint(Arc<StateDir>),
    /// Hash the weights, which stand at this root of the version vector.
    Digest([u8; 32]),
    /// End the thread.
    Stop,
}

/// What the shell hears.
pub enum Event {
    /// A command was taken out of the queue.
    Took,
    /// Own gradients; the weights contain them.
    Step(Step),
    /// A look at the held-out text is under way: so many of its rows are done.
    Looking {
        /// Rows.
        done: usize,
        /// Of so many.
        all: usize,
    },
    /// The held-out loss.
    Evaluated {
        evaluation: Evaluation,
        /// Of the weights.
        digest: [u8; 32],
        machine: MachineId,
        /// Own samples below this are in the weights.
        next_sample: u64,
        /// How long it took.
        took: Duration,
    },
    /// What the model writes after a few prompts, now and then after a look at the held-out text.
    Sampled(Vec<Sampled>),
    /// The file, and the own samples that it contains.
    Checkpoint {
        written: WrittenCheckpoint,
        machine: MachineId,
        /// Own samples below this are in it.
        next_sample: u64,
        /// State of the estimator, encoded.
        normalizer: Vec<u8>,
        /// How long it took.
        took: Duration,
    },
    /// The weights' digest, and the root that was said with the command.
    Digest {
        /// Of the version vector.
        root: [u8; 32],
        /// Of the weights.
        digest: [u8; 32],
    },
    /// All steps for the machine before are told.
    Adopted,
    /// The file could not be written; training goes on.
    CheckpointFailed(anyhow::Error),
    /// Some weight is near its range's end, or no longer.
    NearEdge(Option<(String, f64)>),
    /// So many entries of others are in the weights now; how long that took, if it was a sweep of their own.
    Replayed(usize, Duration),
    /// The thread cannot go on.
    Failed(anyhow::Error),
}

/// The shell's end.
pub struct TrainerHandle {
    /// Where commands go. Has room for all that a peer hands out at a time.
    pub commands: SyncSender<Command>,
    /// What comes back.
    pub events: mpsc::Receiver<Event>,
    /// For who speaks with the model: a copy of the weights, made between two steps.
    pub copies: SyncSender<CopyFor>,
}

/// Starts the thread. `sampler`: for who watches, if anybody does.
pub fn spawn(trainer: Trainer, sampler: Option<Sampler>) -> Result<TrainerHandle> {
    let (commands, command_receiver) = sync_channel(WORKS_MAX);
    let (event_sender, events) = mpsc::channel(EVENTS_MAX);
    let (copies, wishes) = sync_channel(COPIES_MAX);
    std::thread::Builder::new().name("trainer".into()).spawn(move || {
        let (commands, events, share) = (command_receiver, event_sender, TimeShare::default());
        let mut worker =
            Worker { trainer, commands, wishes, events, until_sample: 0, edge: false, share, put_off: None, sampler };
        if let Err(error) = worker.run() {
            let _ = worker.events.blocking_send(Event::Failed(error));
        }
    })?;
    Ok(TrainerHandle { commands, events, copies })
}

struct Worker {
    trainer: Trainer,
    commands: Receiver<Command>,
    wishes: Receiver<CopyFor>,
    events: mpsc::Sender<Event>,
    until_sample: u64,
    edge: bool,
    share: TimeShare,
    /// Entries that came when it was own gradients' turn.
    put_off: Option<Command>,
    sampler: Option<Sampler>,
}

impl Worker {
    fn run(&mut self) -> Result<()> {
        loop {
            self.grant_wishes()?;
            let busy = self.is_busy();
            let heard = self.put_off.take().map_or_else(|| self.commands.try_recv(), Ok);
            let command = match heard {
                Ok(replay @ Command::Replay(_)) if busy && self.share.is_own_turn() => {
                    self.put_off = Some(replay);
                    None
                }
                Ok(command) => Some(command),
                Err(TryRecvError::Disconnected) => return Ok(()),
                Err(TryRecvError::Empty) if busy => None,
                Err(TryRecvError::Empty) => {
                    // Nothing to measure: bring in what waits, then sleep until the next command.
                    self.sweep_in()?;
                    let edge = self.edge;
                    self.watch_edge();
                    if edge != self.edge {
                        continue;
                    }
                    match self.commands.recv_timeout(COPY_PAUSE) {
                        Ok(command) => Some(command),
                        Err(RecvTimeoutError::Timeout) => continue,
                        Err(RecvTimeoutError::Disconnected) => return Ok(()),
                    }
                }
            };
            match command {
                Some(Command::Stop) => return Ok(()),
                Some(command) => {
                    self.tell(Event::Took);
                    self.obey(command)?;
                }
                None => self.step()?,
            }
            if self.trainer.waiting() >= ENTRIES_PER_SWEEP {
                self.sweep_in()?;
            }
            self.watch_edge();
        }
    }

    /// Measures the next own gradients. Few entries of others come in with the first of its sweeps.
    fn step(&mut self) -> Result<()> {
        if self.trainer.waiting() >= ENTRIES_ALONE_MIN {
            self.sweep_in()?;
        }
        let (waiting, begun) = (self.trainer.waiting(), Instant::now());
        let step = self.trainer.step(self.until_sample)?;
        self.share.measured(begun.elapsed().as_micros() as u64);
        warn_of_voids(&step);
        self.tell(Event::Step(step));
        if waiting > 0 {
            self.tell(Event::Replayed(waiting, Duration::ZERO));
        }
        Ok(())
    }

    /// Copies the weights for whoever asked. That takes less time than a forward.
    fn grant_wishes(&mut self) -> Result<()> {
        while let Ok(wish) = self.wishes.try_recv() {
            self.sweep_in()?;
            // Who has gone needs none.
            let _ = wish.try_send(self.trainer.weights()?.copy());
        }
        Ok(())
    }

    /// Whether own gradients are wanted.
    fn is_busy(&self) -> bool {
        self.trainer.position().1 < self.until_sample && !self.edge
    }

    fn watch_edge(&mut self) {
        let near = self.trainer.near_edge().map(|(tensor, share)| (tensor.to_owned(), share));
        if self.edge != near.is_some() {
            self.edge = near.is_some();
            self.tell(Event::NearEdge(near));
        }
    }

    fn sweep_in(&mut self) -> Result<()> {
        let entries = self.trainer.waiting();
        if entries > 0 {
            let begun = Instant::now();
            self.trainer.settle()?;
            if self.is_busy() {
                self.share.replayed(begun.elapsed().as_micros() as u64);
            }
            self.tell(Event::Replayed(entries, begun.elapsed()));
        }
        Ok(())
    }

    fn obey(&mut self, command: Command) -> Result<()> {
        if let Command::Evaluate(_) | Command::Checkpoint(_) | Command::Digest(_) = command {
            // They settle the weights, and what is in them is to be told.
            self.sweep_in()?;
        }
        match command {
            Command::Replay(entries) => self.trainer.replay(entries),
            Command::Adopt(machine, next_sample) => {
                self.trainer.adopt(machine, next_sample);
                self.tell(Event::Adopted);
            }
            Command::SwarmStep(step) => self.trainer.set_swarm_step(step),
            Command::Train { until_sample } => self.until_sample = until_sample,
            Command::Evaluate(windows_max) => {
                let begun = Instant::now();
                let events = self.events.clone();
                let mut watch = |done, all| drop(events.blocking_send(Event::Looking { done, all }));
                if let Some(evaluation) = self.trainer.evaluate_watched(windows_max, &mut watch)? {
                    let digest = self.trainer.weights()?.digest();
                    let (machine, next_sample) = self.trainer.position();
                    self.tell(Event::Evaluated { evaluation, digest, machine, next_sample, took: begun.elapsed() });
                }
                self.sample();
            }
            Command::Checkpoint(state) => {
                // The database may be in the middle of a write: it is asked here, where nobody else has to wait for it.
                let writer = state.checkpoint_writer();
                let begun = Instant::now();
                let weights = self.trainer.weights()?;
                let written = match writer.and_then(|writer| writer.write(weights)) {
                    Ok(written) => written,
                    Err(error) => {
                        self.tell(Event::CheckpointFailed(error));
                        return Ok(());
                    }
                };
                let (machine, next_sample) = self.trainer.position();
                let normalizer = serde_json::to_vec(self.trainer.normalizer())?;
                self.tell(Event::Checkpoint { written, machine, next_sample, normalizer, took: begun.elapsed() });
            }
            Command::Digest(root) => {
                let digest = self.trainer.weights()?.digest();
                self.tell(Event::Digest { root, digest });
            }
            Command::Stop => {}
        }
        Ok(())
    }

    /// Lets the model write for people, if it is time. What cannot be written is no reason to stop.
    fn sample(&mut self) {
        let Some(sampler) = &mut self.sampler else { return };
        match sampler.look(&mut self.trainer) {
            Ok(sampled) if sampled.is_empty() => {}
            Ok(sampled) => self.tell(Event::Sampled(sampled)),
            Err(error) => {
                tracing::warn!("the page shows no more samples of what the model writes: {error:#}");
                self.sampler = None;
            }
        }
    }

    /// The shell always drains its end, so this waits only for it to come round.
    fn tell(&self, event: Event) {
        let _ = self.events.blocking_send(event);
    }
}

fn warn_of_voids(step: &Step) {
    if step.own.iter().any(|own| own.byte == codec::VOID) {
        tracing::warn!(
            first_sample = step.own[0].sample,
            loss = step.loss,
            "a loss is not finite: that sample is void. If it happens again and again, the learning rate of the run is too \
             high for this model, or the data holds what the model cannot read"
        );
    }
}
