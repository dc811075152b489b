//! A node that breaks the rules on purpose.

use node::network::{Event, Network, NetworkConfig, PeerId, parse_bootstrap};
use protocol::{
    anti_entropy::Want,
    machine::MachineId,
    manifest::RunId,
    message::{Gossip, Push, Question, Request, Response},
    replica::Verdict,
    segment::{Chunk, Digest, Segment},
    signature::{Ed25519Signer, Signer},
    version_vector::{Entry, Standing, Subject},
};
use std::time::{Duration, Instant};

use super::PATIENCE;

/// A node of the test's own, bound by no rule.
pub struct Attacker {
    pub network: Network,
    pub run: RunId,
    pub signer: Ed25519Signer,
    /// What it says that it holds.
    pub claims: Vec<Entry>,
    /// What it sends when asked.
    pub served: Vec<Chunk>,
    pub manifest: Vec<u8>,
    pub base_digests: Vec<[u8; 32]>,
    /// Sent for every chunk of the base.
    pub base_chunk: Vec<u8>,
    pub base_chunks_asked: usize,
    pub fetches: usize,
    pub connected: Vec<PeerId>,
    pub answers: Vec<Result<Response, String>>,
}

impl Attacker {
    /// Knows the nodes at `addresses`. With `gossips`, it takes part in gossip and discovery.
    pub async fn start(seed: u8, run: &str, addresses: &[&str], gossips: bool) -> Self {
        let run: RunId = run.parse().unwrap();
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let config = NetworkConfig::new([seed; 32], gossips.then_some(run.0), listen);
        let mut network = Network::start(config).await.unwrap();
        for address in addresses {
            let (peer, address) = parse_bootstrap(address).unwrap();
            network.dial(peer, vec![address]);
        }
        let mut attacker = Self {
            network,
            run,
            signer: Ed25519Signer::from_seed(&[seed; 32]),
            claims: Vec::new(),
            served: Vec::new(),
            manifest: Vec::new(),
            base_digests: Vec::new(),
            base_chunk: Vec::new(),
            base_chunks_asked: 0,
            fetches: 0,
            connected: Vec::new(),
            answers: Vec::new(),
        };
        attacker.until("a connection to its victims", |it| it.connected.len() == addresses.len()).await;
        attacker
    }

    pub fn address(&self) -> String {
        format!("{}/p2p/{}", self.network.listen_addresses()[0], self.network.peer_id())
    }

    pub fn machine(&self, incarnation: u64) -> MachineId {
        MachineId { key: self.signer.key(), incarnation }
    }

    pub fn sign(&self, incarnation: u64, first: u64, bytes: &[u8], previous: Digest) -> (Chunk, Digest) {
        let segment = Segment { first, swarm_step: 0, bytes };
        Chunk::sign(&self.run, self.machine(incarnation), segment, previous, &self.signer)
    }

    /// Claims to hold what it serves.
    pub fn serve(&mut self, chunk: Chunk, head: Digest) {
        self.claims.retain(|entry| entry.subject() != Subject::Ledger(chunk.machine));
        self.claims.push(Entry::Ledger(chunk.machine, Standing::Live { height: chunk.end(), head }));
        self.served.push(chunk);
    }

    pub fn response(&mut self, question: Question) -> Response {
        match question {
            Question::Summary { .. } if self.claims.is_empty() => Response::Same,
            Question::Summary { .. } | Question::Entries { .. } => {
                Response::Entries { entries: self.claims.clone(), more: None }
            }
            Question::Fetch { wants } => {
                self.fetches += 1;
                let wanted = |chunk: &&Chunk| {
                    wants.iter().any(|want| match want {
                        Want::Samples { machine, from } => chunk.machine == *machine && chunk.end() > *from,
                        Want::Revocation { .. } | Want::Member { .. } => false,
                    })
                };
                Response::Found { chunks: self.served.iter().filter(wanted).cloned().collect(), statements: Vec::new() }
            }
            Question::Manifest => Response::Manifest(self.manifest.clone()),
            Question::BaseDigests { .. } => Response::BaseDigests(self.base_digests.clone()),
            Question::BaseChunk { .. } => {
                self.base_chunks_asked += 1;
                Response::BaseChunk(self.base_chunk.clone())
            }
        }
    }

    pub fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected(peer) => self.connected.push(peer),
            Event::Disconnected(peer) => self.connected.retain(|other| *other != peer),
            Event::Found { peer, address } => self.network.dial(peer, vec![address]),
            Event::Gossip { source, message, .. } => self.network.report(&message, &source, Verdict::Accept),
            Event::Request { bytes, responder, .. } => {
                let request = Request::decode(&bytes).unwrap();
                let response = self.response(request.question).encode().unwrap();
                self.network.respond(responder, response);
            }
            Event::Response { result, .. } => self
                .answers
                .push(result.map_err(|error| error.to_string()).map(|bytes| Response::decode(&bytes).unwrap())),
            _ => {}
        }
    }

    pub async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "the attacker waited {} s in vain for {what}", PATIENCE.as_secs());
            if let Ok(event) = tokio::time::timeout(Duration::from_millis(50), self.network.next()).await {
                self.on_event(event);
            }
        }
    }

    pub async fn during(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if let Ok(event) = tokio::time::timeout(left, self.network.next()).await {
                self.on_event(event);
            }
        }
    }

    /// Publishes as soon as a victim has subscribed.
    pub async fn publish(&mut self, bytes: &[u8]) {
        let begun = Instant::now();
        while self.network.publish(bytes.to_vec()).is_err() {
            assert!(begun.elapsed() < PATIENCE, "nobody takes the attacker's gossip");
            self.during(Duration::from_millis(50)).await;
        }
        // It goes out only while the attacker is driven.
        self.during(Duration::from_millis(100)).await;
    }

    pub async fn push(&mut self, chunk: &Chunk) {
        self.publish(&Gossip::Segment(Push::of(chunk)).encode().unwrap()).await;
    }

    /// Asks the first victim.
    pub async fn ask(&mut self, run: RunId, question: Question) -> Response {
        let bytes = Request { run, question }.encode().unwrap();
        let before = self.answers.len();
        self.network.request(self.connected[0], bytes);
        self.until("an answer", |it| it.answers.len() > before).await;
        self.answers.pop().unwrap().unwrap()
    }

    /// The victim's machines and their heights.
    pub async fn heights(&mut self) -> Vec<(MachineId, u64)> {
        let question = Question::Entries { buckets: [0xff; 32], cursor: Default::default() };
        match self.ask(self.run, question).await {
            Response::Entries { entries, .. } => {
                let height = |entry| match entry {
                    Entry::Ledger(machine, standing) => Some((machine, standing.height())),
                    Entry::Member(..) => None,
                };
                entries.into_iter().filter_map(height).collect()
            }
            other => panic!("{other:?} instead of entries"),
        }
    }

    /// Waits until its victim knows of `samples` honest ones.
    pub async fn until_trained(&mut self, samples: u64) {
        let (begun, own) = (Instant::now(), self.signer.key());
        loop {
            let heights = self.heights().await;
            let honest = heights.iter().filter(|(machine, _)| machine.key != own);
            if honest.map(|(_, height)| height).sum::<u64>() >= samples {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "the honest nodes do not train: {heights:?}");
            self.during(Duration::from_millis(50)).await;
        }
    }

    /// Waits until its victim holds `height` samples of `machine`.
    pub async fn until_taken(&mut self, machine: MachineId, height: u64) {
        let begun = Instant::now();
        while !self.heights().await.contains(&(machine, height)) {
            assert!(begun.elapsed() < PATIENCE, "{machine} never stood at {height} there");
            self.during(Duration::from_millis(100)).await;
        }
    }
}
