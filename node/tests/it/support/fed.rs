//! Real networks over loopback with peers that are fed with ready bytes: a shell as `node::shell` is one, without model
//! and disk.

#![allow(dead_code, missing_docs)]

#[path = "../../../../protocol/tests/support/small.rs"]
mod small;

pub use small::manifest;

use node::{
    network::{Multiaddr, NetworkConfig, PeerId, Traffic, parse_bootstrap},
    shell::Wire,
};
use peer::{Config, GoalSettings, Input, NodeId, Notice, Output, Peer, Run, Work};
use protocol::{
    machine::MachineId,
    replica::{LedgerRange, OwnByte, Replica, Settings},
    signature::{Ed25519Signer, Ed25519Verifier, Signer},
};
use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::{Duration, Instant},
};

/// Several bytes are fed at once rather than more often than this.
const FEED_PAUSE_MIN: Duration = Duration::from_millis(10);

/// What every node of the swarm does.
#[derive(Clone)]
pub struct Plan {
    /// Whom: node 0 calls nobody, the others call node 0.
    pub nodes: usize,
    /// Own bytes a second of each of the first `feeding` nodes.
    pub per_second: f64,
    /// Nodes that have own bytes.
    pub feeding: usize,
    /// Bytes are fed from this time on; before, connections are made.
    pub feed_from: Duration,
    /// Own bytes of each feeding node in all.
    pub samples: u64,
    /// What is counted comes within these times.
    pub measured: (Duration, Duration),
    /// Then nothing is fed any more, and at this time all leave.
    pub lasts: Duration,
    /// Of the replicas.
    pub settings: Settings,
}

/// What one node had counted within the measured time, and where it stood when it left.
pub struct Outcome {
    /// Sockets' bytes.
    pub traffic: Traffic,
    /// Sockets' bytes before the measured time.
    pub before: Traffic,
    /// Others' gradients that went into the weights.
    pub delivered: u64,
    /// From being made to that, ms.
    pub delays_ms: Vec<u32>,
    /// Connected nodes.
    pub neighbours: usize,
    /// Hash of the version vector at the end.
    pub root: [u8; 32],
}

/// When each byte of each machine was fed, ms.
pub type Births = Rc<RefCell<HashMap<MachineId, Vec<u32>>>>;

/// A peer on a real network. Whatever it wants stored is stored, and whatever it wants in the weights is in them.
pub struct Fed {
    number: usize,
    signer: Ed25519Signer,
    machine: MachineId,
    pub wire: Wire,
    pub peer: Peer,
    inputs: VecDeque<Input>,
    /// What people would hear.
    pub notices: Rc<RefCell<Vec<Notice>>>,
    begun: Instant,
    slowed: u32,
    births: Births,
    delivered: u64,
    delays_ms: Vec<u32>,
}

/// How a fed node takes part.
pub struct Place {
    /// Names its key.
    pub number: usize,
    /// Addresses of nodes that it calls for ever.
    pub bootstrap: Vec<String>,
    /// Below so many connections it calls nodes that it finds.
    pub connections_target: usize,
    pub settings: Settings,
    /// Its clock goes so many times too slow: then any sender is fast, however slow the machine that tests.
    pub slowed: u32,
}

impl Place {
    pub fn new(number: usize, bootstrap: Vec<String>) -> Self {
        let connections_target = peer::config::CONNECTIONS_TARGET;
        Self { number, bootstrap, connections_target, settings: Settings::default(), slowed: 1 }
    }
}

impl Fed {
    pub async fn start(place: Place, begun: Instant, births: Births) -> Self {
        let Place { number, bootstrap, connections_target, settings, slowed } = place;
        let secret = [number as u8 + 1; 32];
        let signer = Ed25519Signer::from_seed(&secret);
        let run = Run::decode(&manifest().encode().unwrap()).unwrap();
        let mut wire = Wire::default();
        let mut know = |text: &String| {
            let (peer, address): (PeerId, Multiaddr) = parse_bootstrap(text).unwrap();
            wire.know(peer, address).unwrap()
        };
        let bootstrap: Vec<NodeId> = bootstrap.iter().map(&mut know).collect();
        let config = Config {
            key: signer.key(),
            incarnation: 1,
            is_new_incarnation: true,
            seed: number as u64,
            run: None,
            bootstrap,
            knows_others: false,
            connections_target,
            replica: settings,
        };
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let network = NetworkConfig { connections_target, ..NetworkConfig::new(secret, Some(run.id.0), listen) };
        let opened = wire.open(network).await.unwrap();
        let mut fed = Self {
            number,
            machine: MachineId { key: signer.key(), incarnation: 1 },
            signer,
            wire,
            peer: Peer::new(config, Box::new(Ed25519Verifier)),
            inputs: VecDeque::new(),
            notices: Rc::default(),
            begun,
            slowed,
            births,
            delivered: 0,
            delays_ms: Vec::new(),
        };
        for input in [Input::Run(run), Input::BaseReady, opened, Input::Start(GoalSettings::default())] {
            fed.tell(input);
        }
        fed
    }

    pub fn address(&self) -> String {
        let network = self.wire.network().unwrap();
        format!("{}/p2p/{}", network.listen_addresses()[0], network.peer_id())
    }

    pub fn replica(&self) -> &Replica {
        self.peer.replica().unwrap()
    }

    fn now_ms(&self) -> u64 {
        (self.begun.elapsed() / self.slowed).as_millis() as u64
    }

    async fn take_part(mut self, plan: &Plan) -> Outcome {
        self.run_until(plan.measured.0, Some(plan)).await;
        let before = self.wire.traffic();
        (self.delivered, self.delays_ms) = (0, Vec::new());
        self.run_until(plan.measured.1, Some(plan)).await;
        let traffic = self.wire.traffic();
        let (delivered, delays_ms) = (self.delivered, std::mem::take(&mut self.delays_ms));
        let neighbours = self.peer.neighbours().count();
        self.run_until(plan.lasts, None).await;
        Outcome { traffic, before, delivered, delays_ms, neighbours, root: self.replica().root() }
    }

    /// Takes part until a time after the beginning, and feeds its bytes if there is a plan for them.
    pub async fn run_until(&mut self, until: Duration, feeding: Option<&Plan>) {
        let end = tokio::time::sleep_until((self.begun + until).into());
        tokio::pin!(end);
        let feeding = feeding.filter(|plan| self.number < plan.feeding);
        let pause = feeding.map_or(until, |plan| Duration::from_secs_f64(1.0 / plan.per_second).max(FEED_PAUSE_MIN));
        let mut feed = tokio::time::interval(pause);
        let mut tick = tokio::time::interval(Duration::from_millis(peer::TICK_MS));
        loop {
            tokio::select! {
                () = &mut end => return,
                input = self.wire.next() => self.tell(input),
                _ = tick.tick() => self.tell(Input::Tick),
                _ = feed.tick(), if feeding.is_some() => feeding.into_iter().for_each(|plan| self.feed(plan)),
            }
        }
    }

    /// All bytes that are due. Machines of a swarm do not work in step: each begins a little after the one before.
    fn feed(&mut self, plan: &Plan) {
        let phase = Duration::from_secs(1).mul_f64(self.number as f64 / plan.feeding as f64);
        let fed_for = self.begun.elapsed().saturating_sub(plan.feed_from + phase);
        let due = ((fed_for.as_secs_f64() * plan.per_second) as u64).min(plan.samples);
        let now_ms = self.now_ms();
        while self.births.borrow_mut().entry(self.machine).or_default().len() < due as usize {
            let sample = self.replica().own_next_sample();
            let byte = (sample * 37 % 255) as u8 as i8;
            self.births.borrow_mut().entry(self.machine).or_default().push(now_ms as u32);
            self.tell(Input::Stepped(vec![OwnByte { machine: self.machine, sample, byte, swarm_step: 0 }]));
        }
    }

    pub fn tell(&mut self, input: Input) {
        self.inputs.push_back(input);
        while let Some(input) = self.inputs.pop_front() {
            let now_ms = self.now_ms();
            for output in self.peer.step(input, now_ms) {
                self.carry_out(output);
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match self.wire.carry_out(output, &mut self.inputs) {
            None => {}
            Some(Output::Sign { token, message }) => {
                self.inputs.push_back(Input::Signed { token, signature: self.signer.sign(&message) });
            }
            Some(Output::Persist { write, .. }) => self.inputs.push_back(Input::Stored { write }),
            Some(Output::Work(work)) => {
                self.inputs.push_back(Input::Took);
                self.work(&work);
            }
            Some(Output::Notice(notice)) => self.notices.borrow_mut().push(notice),
            Some(other) => panic!("{other:?}"),
        }
    }

    fn work(&mut self, work: &Work) {
        match work {
            Work::Adopt(..) => self.inputs.push_back(Input::Adopted),
            Work::ReplayLedgers(ranges) => {
                ranges.iter().for_each(|range| self.deliver(range));
                let entries = ranges.iter().map(LedgerRange::samples).sum();
                self.inputs.push_back(Input::Replayed { entries, took_us: 0 });
            }
            Work::Checkpoint => self.inputs.push_back(Input::WriteFailed),
            Work::Digest(root) => self.inputs.push_back(Input::Digested { root: *root, digest: [0; 32] }),
            Work::SwarmStep(_) | Work::Train { .. } | Work::Replay(_) | Work::Evaluate => {}
        }
    }

    fn deliver(&mut self, range: &LedgerRange) {
        let now_ms = self.now_ms() as u32;
        self.delivered += range.samples();
        let births = self.births.borrow();
        // Of machines that are not fed nobody knows when their bytes were born.
        if let Some(births) = births.get(&range.machine) {
            let births = &births[range.from as usize..range.to as usize];
            self.delays_ms.extend(births.iter().map(|birth| now_ms - birth));
        }
    }
}

/// Runs the plan on one thread, and returns what each node counted.
pub fn run(plan: &Plan) -> Vec<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (begun, births) = (Instant::now(), Births::default());
        let mut swarm: Vec<Fed> = Vec::new();
        for number in 0..plan.nodes {
            let bootstrap = swarm.first().map(Fed::address).into_iter().collect();
            let place = Place { settings: plan.settings.clone(), ..Place::new(number, bootstrap) };
            swarm.push(Fed::start(place, begun, births.clone()).await);
        }
        futures::future::join_all(swarm.into_iter().map(|fed| fed.take_part(plan))).await
    })
}
