//! A shell between fakes: a trainer that answers at once, a disk that is slow or refuses, a network on which nobody is,
//! and people who lose patience.

use anyhow::{Result, anyhow, bail};
use engine::{objective::Evaluation, trainer::Step};
use peer::{Answer, Config, GoalSettings, Input, NodeId, Output, Peer, Run, backlog::WORKS_MAX};
use protocol::{
    machine::MachineId,
    replica::{OwnByte, Record, Settings},
    segment::{Chunk, Segment},
    signature::{Ed25519Signer, Ed25519Verifier, Signer as _},
};
use std::{
    cell::Cell,
    collections::VecDeque,
    path::Path,
    sync::{
        Arc, Mutex,
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};
use tokio::sync::{mpsc, watch};

use super::{Disk, Parts, People, Recording, Shell, Wire, create_recording};
use crate::{
    control::{
        interrupt::{Interrupt, Wish},
        pause::Pauses,
    },
    network::NetworkConfig,
    small,
    storage::{self, Row, StateDir, checkpoint::WrittenCheckpoint, records, spawn_on},
    system::display::Display,
    trainer::{Command, Event, TrainerHandle},
};

/// Own gradients of every node here.
const SAMPLES: u64 = 20;

/// A run whose arithmetic nobody needs.
fn run() -> Run {
    Run::decode(&small::manifest().encode().unwrap()).unwrap()
}

/// Does at once what it is told. Writes no checkpoints.
fn trainer() -> TrainerHandle {
    let (commands, received) = sync_channel(WORKS_MAX);
    let (events, receiver) = mpsc::channel(256);
    std::thread::spawn(move || {
        let mut position = None;
        let tell = |event| drop(events.blocking_send(event));
        while let Ok(command) = received.recv() {
            tell(Event::Took);
            match (command, &mut position) {
                (Command::Adopt(machine, sample), position) => {
                    *position = Some((machine, sample));
                    tell(Event::Adopted);
                }
                (Command::Train { until_sample }, Some((machine, next))) => {
                    for sample in *next..until_sample {
                        let own = vec![OwnByte { machine: *machine, sample, byte: 5, swarm_step: 0 }];
                        tell(Event::Step(Step { own, loss: 1.0 }));
                    }
                    *next = until_sample.max(*next);
                }
                (Command::Checkpoint(_), _) => tell(Event::CheckpointFailed(anyhow!("no files here"))),
                (Command::Digest(root), _) => tell(Event::Digest { root, digest: [0; 32] }),
                (Command::Stop, _) => return,
                _ => {}
            }
        }
    });
    // Nobody asks it for copies.
    let (copies, _) = std::sync::mpsc::sync_channel(1);
    TrainerHandle { commands, events: receiver, copies }
}

/// A disk that does before each write what it is told to.
struct Fake<F> {
    before: F,
    rows: Arc<Mutex<Vec<Row>>>,
}

impl<F: Fn() -> Result<()> + Send + 'static> storage::Disk for Fake<F> {
    fn store(&self, rows: &[Row]) -> Result<()> {
        (self.before)()?;
        self.rows.lock().unwrap().extend_from_slice(rows);
        Ok(())
    }

    fn commit_checkpoint(&self, _: WrittenCheckpoint, _: &[u8], _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// A node, what people may wish of it, and what its disk has.
struct Node {
    _directory: tempfile::TempDir,
    shell: Shell,
    wishes: watch::Sender<Wish>,
    rows: Arc<Mutex<Vec<Row>>>,
}

impl Node {
    /// Alone in its run. `before`: what its disk does before each write.
    async fn start(before: impl Fn() -> Result<()> + Send + 'static, exit_when_idle_ms: Option<u64>) -> Self {
        Self::with(before, exit_when_idle_ms, None, Vec::new()).await
    }

    /// `restored`: what the disk holds.
    async fn with(
        before: impl Fn() -> Result<()> + Send + 'static,
        exit_when_idle_ms: Option<u64>,
        recording: Option<&Path>,
        restored: Vec<Record>,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = Arc::new(StateDir::create_or_open(directory.path()).unwrap());
        let config = Config {
            key: Ed25519Signer::from_seed(&state.secret_key()).key(),
            incarnation: state.incarnation(),
            is_new_incarnation: true,
            seed: 1,
            run: None,
            bootstrap: Vec::new(),
            knows_others: false,
            connections_target: 1,
            replica: Settings::default(),
        };
        let recording = recording.map(|path| Recording::begin(create_recording(path).unwrap(), path, &config).unwrap());
        let (wishes, receiver) = watch::channel(Wish::Stay);
        let mut shell = Shell::new(Parts {
            peer: Peer::new(config, Box::new(Ed25519Verifier)),
            wire: Wire::default(),
            disk: Disk::new(state.clone()),
            people: People::new(Display::new(), None),
            interrupt: Interrupt::of(receiver),
            pauses: Pauses::new(state.path(), None),
            recording,
        });
        let rows = Arc::default();
        shell.set_run(run()).unwrap();
        shell.tell(Input::BaseReady).unwrap();
        restored.into_iter().for_each(|record| shell.tell(Input::Restored(record)).unwrap());
        let disk = spawn_on(Fake { before, rows: Arc::clone(&rows) }).unwrap();
        shell.equip(trainer(), disk, None, None);
        shell.open(NetworkConfig::new(state.secret_key(), Some(run().id.0), Vec::new()), &[]).await.unwrap().unwrap();
        let goals =
            GoalSettings { samples: Some(SAMPLES), can_train: true, exit_when_idle_ms, ..GoalSettings::default() };
        shell.start(goals).unwrap();
        Self { _directory: directory, shell, wishes, rows }
    }

    /// Runs until the peer has heard of all own samples.
    async fn until_made(&mut self) {
        let has_made = |shell: &Shell| shell.replica().is_some_and(|replica| replica.own_next_sample() == SAMPLES);
        self.shell.run_until(has_made).await.unwrap();
    }

    /// Runs until the shell has heard what people wish.
    async fn wish(&mut self, wish: Wish) {
        self.wishes.send(wish).unwrap();
        self.shell.run_until(|shell| shell.wish == wish).await.unwrap();
    }

    /// Runs to the end. Returns how that was, and how many own samples the disk has.
    async fn end(self) -> (Result<()>, u64) {
        let outcome = self.shell.run().await;
        (outcome, samples(&self.rows.lock().unwrap()))
    }

    /// The same, of one that is told to leave once all its samples are made.
    async fn leave(mut self) -> (Result<()>, u64) {
        self.until_made().await;
        self.wish(Wish::Leave).await;
        self.end().await
    }
}

/// What a disk does before a write that goes on when the sender is dropped.
fn held() -> (SyncSender<()>, impl Fn() -> Result<()> + Send + 'static) {
    let (gate, wait) = sync_channel(0);
    let before = move || {
        let _ = wait.recv();
        Ok(())
    };
    (gate, before)
}

/// Samples in the chunks among `rows`, of which one may take the place of others.
fn samples(rows: &[Row]) -> u64 {
    let chunks = rows.iter().filter_map(|row| match row {
        Row::Chunk { bytes, .. } => records::chunk(bytes).ok(),
        _ => None,
    });
    chunks.map(|chunk: Chunk| chunk.end()).max().unwrap_or(0)
}

#[tokio::test]
async fn leaves_of_its_own_accord_once_its_goal_is_reached() {
    let (outcome, stored) = Node::start(|| Ok(()), Some(100)).await.end().await;
    outcome.unwrap();
    assert_eq!(stored, SAMPLES);
}

#[tokio::test]
async fn a_slow_disk_is_waited_for_on_leaving_and_nothing_is_lost() {
    let (gate, before) = held();
    let mut node = Node::start(before, None).await;
    node.until_made().await;
    node.wish(Wish::Leave).await;
    let events = Cell::new(0);
    let happened = |_: &Shell| events.replace(events.get() + 1) == 10;
    node.shell.run_until(happened).await.unwrap();
    assert!(!node.shell.has_left(), "it left, and the disk had written nothing");
    drop(gate);
    let (outcome, stored) = node.end().await;
    outcome.unwrap();
    assert_eq!(stored, SAMPLES);
}

#[tokio::test]
async fn a_second_wish_cuts_the_wait_short_and_says_what_it_costs() {
    let (_gate, before) = held();
    let mut node = Node::start(before, None).await;
    node.until_made().await;
    node.wish(Wish::Leave).await;
    node.shell.run_until(|shell| shell.waiting().writes > 0).await.unwrap();
    node.wishes.send(Wish::LeaveNow).unwrap();
    let (outcome, stored) = node.end().await;
    let error = outcome.unwrap_err().to_string();
    assert!(error.starts_with("left at once: 20 own gradients") && error.contains("writes not done: "), "{error}");
    assert_eq!(stored, 0);
}

#[tokio::test]
async fn a_disk_that_refuses_everything_is_given_up_with_a_remedy() {
    let (outcome, _) = Node::start(|| bail!("no space left"), None).await.leave().await;
    let error = outcome.unwrap_err().to_string();
    for part in ["no space left", "20 own gradients", "Free some space", "start the node again"] {
        assert!(error.contains(part), "{part:?} is missing: {error}");
    }
}

#[tokio::test]
async fn a_disk_that_refuses_at_first_loses_nothing() {
    let refusals = Mutex::new(2);
    let hesitant = move || match &mut *refusals.lock().unwrap() {
        0 => Ok(()),
        left => {
            *left -= 1;
            bail!("read-only")
        }
    };
    let (outcome, stored) = Node::start(hesitant, None).await.leave().await;
    outcome.unwrap();
    assert_eq!(stored, SAMPLES);
}

#[tokio::test]
async fn what_is_recorded_replays_to_the_same_decisions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("recording");
    let node = Node::with(|| Ok(()), Some(100), Some(&path), Vec::new()).await;
    node.end().await.0.unwrap();
    let mut replay = peer::record::Replay::open(std::fs::File::open(&path).unwrap()).unwrap();
    let (mut steps, mut last) = (0, None);
    while let Some(step) = replay.next_step().unwrap() {
        assert!(step.is_as_recorded, "step {} came out otherwise", step.number);
        (steps, last) = (steps + 1, step.outputs.last().cloned());
    }
    assert!(!replay.is_cut() && steps > 20);
    assert!(matches!(last, Some(Output::Left(_))), "{last:?}");
    let refused = create_recording(&path).unwrap_err().to_string();
    assert!(refused.contains("is there already") && refused.contains("another file"), "{refused}");
}

/// While a joiner replayed, its looks were said to be after all gradients that it had fetched.
#[tokio::test]
async fn a_look_is_of_what_the_weights_hold_and_not_of_what_still_waits() {
    let signer = Ed25519Signer::from_seed(&[7; 32]);
    let machine = MachineId { key: signer.key(), incarnation: 1 };
    let segment = Segment { first: 0, swarm_step: 0, bytes: &[5; 30] };
    let (chunk, _) = Chunk::sign(&run().id, machine, segment, [0; 32], &signer);
    let mut node = Node::with(|| Ok(()), None, None, vec![Record::Chunk(chunk.into())]).await;
    let shell = &mut node.shell;
    let after = |replayed: usize| {
        shell.on_trainer(Event::Replayed(replayed, Duration::ZERO)).unwrap();
        let evaluation =
            Evaluation { loss: 2.0, count: 1, right: None, bytes: 1, bits_per_byte: Some(2.9), score: None };
        let (machine, digest) = (shell.own_machine(), [1; 32]);
        let look = Event::Evaluated { evaluation, digest, machine, next_sample: 0, took: Duration::ZERO };
        shell.on_trainer(look).unwrap();
        shell.people.session.held_out().unwrap().gradients
    };
    assert_eq!([0, 20, 10].map(after), [0, 20, 30]);
}

#[test]
fn what_needs_a_network_is_answered_at_once_if_there_is_none() {
    let (mut wire, mut answers) = (Wire::default(), VecDeque::new());
    let node = NodeId(7);
    for output in [
        Output::Ask { node, question: 3, bytes: Vec::new() },
        Output::Dial(node),
        Output::Publish(vec![1]),
        Output::Respond { request: 9, bytes: Vec::new() },
        Output::Ban(node),
        Output::Forget(node),
    ] {
        assert!(wire.carry_out(output, &mut answers).is_none());
    }
    let answers: Vec<Input> = answers.into();
    assert!(
        matches!(
            &answers[..],
            [
                Input::Answer { question: 3, answer: Answer::None },
                Input::DialFailed(NodeId(7)),
                Input::Unheard(bytes)
            ] if bytes == &[1]
        ),
        "{answers:?}"
    );
    assert!(matches!(wire.carry_out(Output::Resume(true), &mut VecDeque::new()), Some(Output::Resume(true))));
}
