//! Real networks over loopback with replicas that are fed with ready bytes: what `node::driver` does, without model and disk.

#![allow(dead_code)]

use node::network::{Event, Network, NetworkConfig, PeerId, RequestId, Traffic, Verdict};
use protocol::{
    machine::MachineId,
    manifest::{
        BaseModel, DirectionScale, Hyperparameters, Manifest, Membership, PROTOCOL_VERSION, Schedule, TensorSpec,
    },
    message::{Question, Request, Response},
    replica::{LedgerRange, NodeId, Output, OwnByte, OwnHead, Replica, Settings, Verdict as ReplicaVerdict},
    signature::{Ed25519Signer, Ed25519Verifier, Signer},
};
use std::{
    cell::RefCell,
    collections::HashMap,
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
type Births = Rc<RefCell<HashMap<MachineId, Vec<u32>>>>;

struct Fed {
    number: usize,
    signer: Ed25519Signer,
    network: Network,
    replica: Replica,
    machine: MachineId,
    peers: HashMap<PeerId, NodeId>,
    ids: HashMap<NodeId, PeerId>,
    asked: HashMap<RequestId, NodeId>,
    begun: Instant,
    births: Births,
    next_peer: u64,
    delivered: u64,
    delays_ms: Vec<u32>,
}

/// A run whose arithmetic nobody needs.
fn manifest() -> Manifest {
    let hyperparameters = Hyperparameters {
        learning_rate: 3e-4,
        epsilon: 1e-3,
        planned_gradients: 1000,
        direction_scale: DirectionScale::Rms,
    };
    let base = BaseModel {
        source: "none".into(),
        config_bytes: 1,
        config_digest: [0; 32],
        tokenizer_bytes: 1,
        tokenizer_digest: [0; 32],
        chunks_root: [0; 32],
    };
    let tensor = TensorSpec {
        name: "w".into(),
        shape: vec![4],
        range_log2: 0,
        epsilon: 100,
        unit: 1 << 33,
        shift: 0,
        digest: [0; 32],
    };
    Manifest {
        protocol_version: PROTOCOL_VERSION,
        nonce: [1; 16],
        base,
        tensors: vec![tensor],
        hyperparameters,
        schedule: Schedule::default(),
        levels: 32,
        ledger_samples_max: 1 << 24,
        membership: Membership::Open,
        authority: None,
    }
}

impl Fed {
    async fn start(number: usize, settings: Settings, bootstrap: Vec<String>, begun: Instant, births: Births) -> Self {
        let secret = [number as u8 + 1; 32];
        let signer = Ed25519Signer::from_seed(&secret);
        let machine = MachineId { key: signer.key(), incarnation: 1 };
        let manifest = manifest();
        let run = manifest.run_id().unwrap();
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let config = NetworkConfig { bootstrap, ..NetworkConfig::new(secret, Some(run.0), listen) };
        let network = Network::start(config).await.unwrap();
        let verifier = Box::new(Ed25519Verifier);
        let mut replica = Replica::new(run, manifest.into(), settings, machine, verifier, number as u64);
        replica.start(OwnHead::Sure, 0);
        let (peers, ids, asked) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (next_peer, delivered, delays_ms) = (0, 0, Vec::new());
        Self {
            number,
            signer,
            network,
            replica,
            machine,
            peers,
            ids,
            asked,
            begun,
            births,
            next_peer,
            delivered,
            delays_ms,
        }
    }

    fn address(&self) -> String {
        format!("{}/p2p/{}", self.network.listen_addresses()[0], self.network.peer_id())
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    async fn take_part(mut self, plan: &Plan) -> Outcome {
        self.run_until(plan.measured.0, Some(plan)).await;
        let before = self.network.traffic();
        (self.delivered, self.delays_ms) = (0, Vec::new());
        self.run_until(plan.measured.1, Some(plan)).await;
        let traffic = self.network.traffic();
        let (delivered, delays_ms) = (self.delivered, std::mem::take(&mut self.delays_ms));
        let neighbours = self.ids.len();
        self.replica.flush();
        self.carry_out();
        self.run_until(plan.lasts, None).await;
        Outcome { traffic, before, delivered, delays_ms, neighbours, root: self.replica.root() }
    }

    /// Takes part until a time after the beginning, and feeds its bytes if there is a plan for them.
    async fn run_until(&mut self, until: Duration, feeding: Option<&Plan>) {
        let end = tokio::time::sleep_until((self.begun + until).into());
        tokio::pin!(end);
        let feeding = feeding.filter(|plan| self.number < plan.feeding);
        let pause = feeding.map_or(until, |plan| Duration::from_secs_f64(1.0 / plan.per_second).max(FEED_PAUSE_MIN));
        let mut feed = tokio::time::interval(pause);
        let mut tick = tokio::time::interval(node::driver::TICK);
        loop {
            tokio::select! {
                () = &mut end => return,
                event = self.network.next() => self.on_network(event),
                _ = tick.tick() => {
                    let now_ms = self.now_ms();
                    self.replica.tick(now_ms);
                }
                _ = feed.tick(), if feeding.is_some() => feeding.into_iter().for_each(|plan| self.feed(plan)),
            }
            self.carry_out();
        }
    }

    /// All bytes that are due. Machines of a swarm do not work in step: each begins a little after the one before.
    fn feed(&mut self, plan: &Plan) {
        let phase = Duration::from_secs(1).mul_f64(self.number as f64 / plan.feeding as f64);
        let fed_for = self.begun.elapsed().saturating_sub(plan.feed_from + phase);
        let due = ((fed_for.as_secs_f64() * plan.per_second) as u64).min(plan.samples);
        let now_ms = self.now_ms();
        while self.births.borrow_mut().entry(self.machine).or_default().len() < due as usize {
            let sample = self.replica.own_next_sample();
            let byte = (sample * 37 % 255) as u8 as i8;
            self.births.borrow_mut().entry(self.machine).or_default().push(now_ms as u32);
            self.replica.own_bytes(&[OwnByte { machine: self.machine, sample, byte, swarm_step: 0 }], now_ms);
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.replica.poll_output() {
            match output {
                Output::Ask(peer, question) => {
                    let request = Request { run: *self.replica.run(), question };
                    let id = self.network.request(self.ids[&peer], request.encode().unwrap());
                    self.asked.insert(id, peer);
                }
                Output::Publish(gossip) => {
                    let _ = self.network.publish(gossip.encode().unwrap());
                }
                Output::Sign { token, message } => {
                    let now_ms = self.now_ms();
                    self.replica.signed(token, self.signer.sign(&message), now_ms);
                }
                Output::Persist(_, Some(token)) => {
                    let now_ms = self.now_ms();
                    self.replica.persisted(token, now_ms);
                }
                Output::ReplayLedger(range) => self.deliver(&range),
                Output::Penalize(_, offence) => panic!("nobody means harm: {offence:?}"),
                _ => {}
            }
        }
    }

    fn deliver(&mut self, range: &LedgerRange) {
        let now_ms = self.now_ms() as u32;
        self.delivered += range.samples();
        let births = self.births.borrow();
        let births = &births[&range.machine][range.from as usize..range.to as usize];
        self.delays_ms.extend(births.iter().map(|birth| now_ms - birth));
    }

    fn on_network(&mut self, event: Event) {
        let now_ms = self.now_ms();
        match event {
            Event::PeerConnected(id) => {
                self.next_peer += 1;
                let peer = NodeId(self.next_peer);
                self.peers.insert(id, peer);
                self.ids.insert(peer, id);
                self.replica.peer_connected(peer, now_ms);
            }
            Event::PeerGone(id) => {
                let peer = self.peers.remove(&id).unwrap();
                self.ids.remove(&peer);
                self.replica.peer_gone(peer);
            }
            Event::Gossip { source, message, bytes } => {
                let peer = self.peers.get(&source).copied();
                let verdict = match peer.map(|peer| self.replica.gossip(peer, &bytes, now_ms)) {
                    Some(ReplicaVerdict::Accept) => Verdict::Accept,
                    Some(ReplicaVerdict::Reject) => Verdict::Reject,
                    Some(ReplicaVerdict::Ignore) | None => Verdict::Ignore,
                };
                self.network.report(&message, &source, verdict);
            }
            Event::Request { peer, bytes, responder } => {
                let Some(peer) = self.peers.get(&peer).copied() else { return };
                let question: Question = Request::decode(&bytes).unwrap().question;
                let answer = self.replica.answer(peer, &question, now_ms);
                self.network.respond(responder, answer.unwrap_or(Response::Unavailable).encode().unwrap());
            }
            Event::Response { request, result, .. } => {
                let Some(peer) = self.asked.remove(&request) else { return };
                match result {
                    Ok(bytes) => self.replica.answered(peer, Response::decode(&bytes).unwrap(), now_ms),
                    Err(_) => self.replica.no_answer(peer),
                }
            }
            Event::ListenAddress(_) | Event::BootstrapUnreachable { .. } => {}
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
            swarm.push(Fed::start(number, plan.settings.clone(), bootstrap, begun, births.clone()).await);
        }
        futures::future::join_all(swarm.into_iter().map(|fed| fed.take_part(plan))).await
    })
}
