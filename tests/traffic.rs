//! The simulator's bytes against those of a real swarm: the same machines, the same gradients, real libp2p over loopback.

use node::network::{Event, Network, NetworkConfig, PeerId, RequestId, Verdict};
use protocol::{
    machine::MachineId,
    message::{Question, Request, Response},
    replica::{Output, OwnByte, Peer, Replica, Settings, Verdict as ReplicaVerdict},
    signature::{Ed25519Signer, Ed25519Verifier, Signer},
};
use sim::{
    objective::{Objective, Quadratic},
    scenario::{QuadraticSettings, Scenario},
    world::{Label, World},
};
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

const MACHINES: u8 = 6;
const SAMPLES: u64 = 600;
const PER_SECOND: u64 = 40;

/// A real network and a replica that is fed with ready bytes: what `node::driver` does, without model and disk.
struct Fed {
    network: Network,
    replica: Replica,
    machine: MachineId,
    peers: HashMap<PeerId, Peer>,
    ids: HashMap<Peer, PeerId>,
    asked: HashMap<RequestId, Peer>,
    begun: Instant,
}

impl Fed {
    async fn start(number: u8, objective: &Quadratic, bootstrap: Vec<String>) -> Self {
        let secret = [number + 1; 32];
        let signer = Ed25519Signer::from_seed(&secret);
        let machine = MachineId { key: signer.key(), incarnation: 1 };
        let run = objective.run();
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let config = NetworkConfig { bootstrap, ..NetworkConfig::new(secret, Some(run.0), listen) };
        let network = Network::start(config).await.unwrap();
        let (manifest, verifier) = ((**objective.manifest()).clone(), Box::new(Ed25519Verifier));
        let settings = Settings::default();
        let mut replica = Replica::new(run, manifest, settings, machine, Box::new(signer), verifier, u64::from(number));
        replica.start(true, 0);
        let (peers, ids, asked) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { network, replica, machine, peers, ids, asked, begun: Instant::now() }
    }

    fn address(&self) -> String {
        format!("{}/p2p/{}", self.network.listen_addresses()[0], self.network.peer_id())
    }

    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Feeds its bytes, takes part for `lasts`, and returns what it received.
    async fn take_part(mut self, lasts: Duration) -> (u64, [u8; 32]) {
        let mut byte_due = tokio::time::interval(Duration::from_micros(1_000_000 / PER_SECOND));
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        let end = tokio::time::sleep(lasts);
        tokio::pin!(end);
        let mut sample = 0;
        loop {
            tokio::select! {
                () = &mut end => break,
                event = self.network.next() => self.on_network(event),
                _ = tick.tick() => {
                    let now_ms = self.now_ms();
                    self.replica.tick(now_ms);
                }
                _ = byte_due.tick(), if sample < SAMPLES => {
                    let byte = (sample * 37 % 255) as u8 as i8;
                    let own = OwnByte { machine: self.machine, sample, byte, swarm_step: 0 };
                    let now_ms = self.now_ms();
                    self.replica.own_bytes(&[own], now_ms);
                    sample += 1;
                }
            }
            self.carry_out();
        }
        (self.network.traffic().socket_in, self.replica.root())
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
                Output::Persist(_, Some(token)) => {
                    let now_ms = self.now_ms();
                    self.replica.persisted(token, now_ms);
                }
                _ => {}
            }
        }
    }

    fn on_network(&mut self, event: Event) {
        let now_ms = self.now_ms();
        match event {
            Event::PeerConnected(id) => {
                let peer = Peer(self.ids.len() as u64 + 1);
                self.peers.insert(id, peer);
                self.ids.insert(peer, id);
                self.replica.peer_connected(peer, now_ms);
            }
            Event::Gossip { source, message, bytes } => {
                let verdict = match self.replica.gossip(self.peers[&source], &bytes, now_ms) {
                    ReplicaVerdict::Accept => Verdict::Accept,
                    ReplicaVerdict::Ignore => Verdict::Ignore,
                    ReplicaVerdict::Reject => Verdict::Reject,
                };
                self.network.report(&message, &source, verdict);
            }
            Event::Request { peer, bytes, responder } => {
                let question: Question = Request::decode(&bytes).unwrap().question;
                let answer = self.replica.answer(self.peers[&peer], &question, now_ms);
                self.network.respond(responder, answer.unwrap_or(Response::Unavailable).encode().unwrap());
            }
            Event::Response { request, result, .. } => {
                let Some(peer) = self.asked.remove(&request) else { return };
                match result {
                    Ok(bytes) => self.replica.answered(peer, Response::decode(&bytes).unwrap(), now_ms),
                    Err(_) => self.replica.no_answer(peer),
                }
            }
            Event::PeerGone(_) | Event::ListenAddress(_) | Event::BootstrapUnreachable { .. } => {}
        }
    }
}

/// Bytes received per gradient received, in a real swarm.
fn real() -> f64 {
    let objective = Quadratic::new(&QuadraticSettings::default(), None, 1).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let received = runtime.block_on(async {
        let mut swarm: Vec<Fed> = Vec::new();
        for number in 0..MACHINES {
            let bootstrap = swarm.first().map(Fed::address).into_iter().collect();
            swarm.push(Fed::start(number, &objective, bootstrap).await);
        }
        let lasts = Duration::from_secs(SAMPLES / PER_SECOND + 6);
        futures::future::join_all(swarm.into_iter().map(|fed| fed.take_part(lasts))).await
    });
    assert!(received.iter().all(|(_, root)| *root == received[0].1), "the real swarm did not become equal");
    let bytes: u64 = received.iter().map(|(bytes, _)| bytes).sum();
    let machines = u64::from(MACHINES);
    bytes as f64 / (machines * (machines - 1) * SAMPLES) as f64
}

#[test]
fn the_simulator_counts_the_bytes_of_a_real_swarm_within_fifteen_percent() {
    let (_, mut scenario) = Scenario::load("calm").unwrap();
    scenario.machines = usize::from(MACHINES);
    scenario.gradients = SAMPLES;
    scenario.joins_over_seconds = 0.1;
    (scenario.speed.gradients_per_second, scenario.speed.spread) = (PER_SECOND as f64, 1.0);
    (scenario.link.latency_ms, scenario.link.jitter_ms) = (0.1, 0.0);
    let label = Label { scenario: "traffic".into(), reproduce: String::new() };
    let record = World::new(scenario, 1, None).unwrap().run(&label, |_| true).unwrap().unwrap();
    let (simulated, real) = (record.bytes_per_gradient(), real());
    println!("bytes per gradient: {simulated:.1} simulated, {real:.1} real; simulated: {:?}", record.bytes);
    assert!((simulated / real - 1.0).abs() < 0.15, "{simulated:.1} simulated, {real:.1} real");
}
