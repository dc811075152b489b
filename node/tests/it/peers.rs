//! A node whose peer decides, among networks on loopback that do not: whom it calls, and whom it bans.

use crate::support::{
    PATIENCE,
    fed::{self, Births, Fed, Place},
    nodes::{Nodes, config},
};
use node::network::{Event, Multiaddr, Network, NetworkConfig, parse_bootstrap};
use peer::Notice;
use protocol::{
    machine::MachineId,
    message::{Gossip, Push, Question, Request, Response},
    segment::{Chunk, Digest, Segment},
    signature::{Ed25519Signer, Signer},
};
use std::{
    cell::RefCell,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::task::{LocalSet, spawn_local};

/// A node with a peer that decides, beside the nodes of a test.
struct Beside {
    name: String,
    notices: Rc<RefCell<Vec<Notice>>>,
}

impl Beside {
    /// Takes part until the test ends.
    async fn start(place: Place) -> Self {
        let mut fed = Fed::start(place, Instant::now(), Births::default()).await;
        let beside = Self { name: fed.address(), notices: fed.notices.clone() };
        spawn_local(async move { fed.run_until(Duration::from_secs(3_600), None).await });
        beside
    }

    /// Whether somebody was banned for this.
    fn has_banned_for(&self, why: &str) -> bool {
        let is_that = |notice: &Notice| matches!(notice, Notice::Fault { reason, banned: true, .. } if reason == why);
        self.notices.borrow().iter().any(is_that)
    }

    fn has_banned(&self) -> bool {
        self.notices.borrow().iter().any(|notice| matches!(notice, Notice::Fault { banned: true, .. }))
    }
}

/// Of the run that fed nodes are of.
fn config_of_fed(seed: u8) -> NetworkConfig {
    NetworkConfig { run: Some(fed::manifest().run_id().unwrap().0), ..config(seed) }
}

/// Segments of one sample each, one after the other, by a machine of the test's own.
struct Segments {
    signer: Ed25519Signer,
    next: (u64, Digest),
}

impl Segments {
    fn by(seed: u8) -> Self {
        Self { signer: Ed25519Signer::from_seed(&[seed; 32]), next: (0, [0; 32]) }
    }

    fn next(&mut self) -> Vec<u8> {
        let (first, previous) = self.next;
        let machine = MachineId { key: self.signer.key(), incarnation: 1 };
        let segment = Segment { first, swarm_step: 0, bytes: &[7] };
        let run = fed::manifest().run_id().unwrap();
        let (chunk, digest) = Chunk::sign(&run, machine, segment, previous, &self.signer);
        self.next = (first + 1, digest);
        Gossip::Segment(Push::of(&chunk)).encode().unwrap()
    }
}

#[tokio::test]
async fn a_bootstrap_machine_that_is_down_at_first_is_called_until_it_is_up() {
    LocalSet::new()
        .run_until(async {
            let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{free}").parse().unwrap();
            let later = Network::start(config_of_fed(9)).await.unwrap().peer_id();
            let node = Beside::start(Place::new(101, vec![format!("{address}/p2p/{later}")])).await;
            let begun = Instant::now();
            let is_unreachable =
                |notice: &Notice| matches!(notice, Notice::Unreachable { retry_in_ms, .. } if *retry_in_ms < 60_000);
            while !node.notices.borrow().iter().any(is_unreachable) {
                assert!(begun.elapsed() < PATIENCE, "nobody says that the bootstrap machine is down");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let mut nodes = Nodes::default();
            nodes.start_with(NetworkConfig { listen: vec![address], ..config_of_fed(9) }, &[]).await;
            nodes
                .until("the call once it is up", |_, _, event| matches!(event, Event::Connected(_)).then_some(()))
                .await;
        })
        .await;
}

#[tokio::test]
async fn faults_are_not_forgotten_by_reconnecting() {
    LocalSet::new()
        .run_until(async {
            let node = Beside::start(Place::new(101, Vec::new())).await;
            let (victim, _) = parse_bootstrap(&node.name).unwrap();
            let mut nodes = Nodes::default();
            // Three faults are forgiven.
            for (time, faults) in [("before", 3), ("after", 2)] {
                assert!(!node.has_banned(), "{time}");
                nodes.start_with(config_of_fed(2), std::slice::from_ref(&node.name)).await;
                nodes.until("a connection", |_, _, event| matches!(event, Event::Connected(_)).then_some(())).await;
                for fault in 0..faults {
                    nodes.nodes[0].request(victim, vec![0xff; 9 + fault]);
                }
                let noted =
                    |node: &Beside| node.notices.borrow().iter().filter(|n| matches!(n, Notice::Fault { .. })).count();
                let begun = Instant::now();
                while noted(&node) < if time == "before" { 3 } else { 5 } && !node.has_banned() {
                    assert!(begun.elapsed() < PATIENCE, "the faults {time} are not noted");
                    nodes.during(Duration::from_millis(20), |_, _, _| {}).await;
                }
                nodes.nodes.clear();
            }
            assert!(node.has_banned_for("malformed request"), "a new connection washed the faults off");
        })
        .await;
}

#[tokio::test]
async fn a_flood_bans_its_sender_while_others_are_served() {
    LocalSet::new()
        .run_until(async {
            let node = Beside::start(Place { slowed: 1_000, ..Place::new(101, Vec::new()) }).await;
            let (victim, _) = parse_bootstrap(&node.name).unwrap();
            let mut nodes = Nodes::default();
            let honest = nodes.start_with(config_of_fed(2), std::slice::from_ref(&node.name)).await;
            let flooder = nodes.start_with(config_of_fed(3), std::slice::from_ref(&node.name)).await;
            let mut segments = Segments::by(3);
            nodes.publish(flooder, &segments.next()).await;
            // How many arrive while a busy machine has no time for the other node, nobody knows: queues drop the rest.
            let begun = Instant::now();
            while !node.has_banned_for("a flood of gossip") {
                assert!(begun.elapsed() < PATIENCE, "a flood, and no ban");
                for _ in 0..100 {
                    let _ = nodes.nodes[flooder].publish(segments.next());
                }
                nodes.during(Duration::from_millis(10), |_, _, _| {}).await;
            }
            let request = Request { run: fed::manifest().run_id().unwrap(), question: Question::Manifest };
            let asked = nodes.nodes[honest].request(victim, request.encode().unwrap());
            let answer = nodes
                .until("the answer to an honest node", |_, index, event| match event {
                    Event::Response { request, result, .. } if index == honest && request == asked => Some(result),
                    _ => None,
                })
                .await;
            assert!(matches!(Response::decode(&answer.unwrap()), Ok(Response::Manifest(_))));
            nodes
                .until("the flooder to be cut off", |nodes, _, _| {
                    (!nodes[flooder].connected().any(|peer| *peer == victim)).then_some(())
                })
                .await;
            assert!(nodes.nodes[honest].connected().any(|peer| *peer == victim), "the honest node stays");
        })
        .await;
}

#[tokio::test]
async fn two_who_flood_within_their_allowance_do_not_get_the_one_between_banned() {
    LocalSet::new()
        .run_until(async {
            let between = Beside::start(Place { connections_target: 0, ..Place::new(101, Vec::new()) }).await;
            // It does not get to know the flooders: all that it hears comes through the one between.
            let place = Place { connections_target: 0, ..Place::new(102, vec![between.name.clone()]) };
            let behind = Beside::start(place).await;
            let mut nodes = Nodes::default();
            for seed in [3, 4] {
                let config = NetworkConfig { listen: Vec::new(), connections_target: 0, ..config_of_fed(seed) };
                nodes.start_with(config, std::slice::from_ref(&between.name)).await;
            }
            let mut segments = [Segments::by(3), Segments::by(4)];
            for flooder in [0, 1] {
                nodes.publish(flooder, &segments[flooder].next()).await;
            }
            for _ in 0..300 {
                for flooder in [0, 1] {
                    for _ in 0..11 {
                        let _ = nodes.nodes[flooder].publish(segments[flooder].next());
                    }
                }
                nodes.during(Duration::from_millis(5), |_, _, _| {}).await;
            }
            assert!(segments.iter().map(|by| by.next.0).sum::<u64>() > 5_000);
            nodes.during(Duration::from_secs(1), |_, _, _| {}).await;
            assert!(!behind.has_banned(), "an honest neighbour was banned for passing on what others sent");
            let (victim, _) = parse_bootstrap(&between.name).unwrap();
            let request = Request { run: fed::manifest().run_id().unwrap(), question: Question::Manifest };
            let asked = nodes.nodes[0].request(victim, request.encode().unwrap());
            nodes
                .until("an answer from the one between", |_, _, event| match event {
                    Event::Response { request, result, .. } if request == asked => result.ok(),
                    _ => None,
                })
                .await;
        })
        .await;
}
