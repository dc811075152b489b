//! The network on loopback: several nodes in one process, honest and not; with peers that decide, and without.

use crate::support::fed::{self, Births, Fed, Place};
use futures::future::select_all;
use node::network::{
    Event, Multiaddr, Network, NetworkConfig, PublishError, StartError, parse_bootstrap, parse_bootstrap_of_another,
};
use peer::Notice;
use protocol::{
    machine::MachineId,
    message::{GOSSIP_BYTES_MAX, Gossip, Push, Question, Request, Response},
    replica::Verdict,
    segment::{Chunk, Digest, Segment},
    signature::{Ed25519Signer, Signer},
};
use std::{
    cell::RefCell,
    collections::BTreeSet,
    rc::Rc,
    time::{Duration, Instant},
};
use tokio::task::{LocalSet, spawn_local};

const RUN: [u8; 32] = [7; 32];
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(900);

fn config(seed: u8) -> NetworkConfig {
    NetworkConfig::new([seed; 32], Some(RUN), vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()])
}

fn name(network: &Network) -> String {
    format!("{}/p2p/{}", network.listen_addresses()[0], network.peer_id())
}

/// Nodes that are all driven by whoever waits.
#[derive(Default)]
struct Nodes {
    nodes: Vec<Network>,
    turn: usize,
}

impl Nodes {
    /// Node `seed`, which calls those at `known`. Returns its index.
    async fn start(&mut self, seed: u8, known: &[String]) -> usize {
        self.start_with(config(seed), known).await
    }

    async fn start_with(&mut self, config: NetworkConfig, known: &[String]) -> usize {
        self.nodes.push(Network::start(config).await.unwrap());
        let index = self.nodes.len() - 1;
        known.iter().for_each(|name| self.call(index, name));
        index
    }

    fn call(&mut self, index: usize, name: &str) {
        let (peer, address) = parse_bootstrap(name).unwrap();
        self.nodes[index].dial(peer, vec![address]);
    }

    /// Two that know each other.
    async fn pair() -> Self {
        let mut nodes = Self::default();
        nodes.start(1, &[]).await;
        let first = name(&nodes.nodes[0]);
        nodes.start(2, &[first]).await;
        let mut connected = BTreeSet::new();
        nodes
            .until("two nodes to connect", |_, index, event| {
                if matches!(event, Event::Connected(_)) {
                    connected.insert(index);
                }
                (connected.len() == 2).then_some(())
            })
            .await;
        nodes
    }

    async fn next(&mut self) -> (usize, Event) {
        // Whoever is polled first must not starve the others.
        self.turn = (self.turn + 1) % self.nodes.len();
        let count = self.nodes.len();
        let mut waiting: Vec<_> = self
            .nodes
            .iter_mut()
            .enumerate()
            .map(|(index, node)| Box::pin(async move { (index, node.next().await) }))
            .collect();
        waiting.rotate_left(self.turn % count);
        select_all(waiting).await.0
    }

    /// Drives all nodes until `look` finds what is waited for.
    async fn until<T>(&mut self, what: &str, mut look: impl FnMut(&mut [Network], usize, Event) -> Option<T>) -> T {
        let search = async {
            loop {
                let (index, event) = self.next().await;
                if let Some(found) = look(&mut self.nodes, index, event) {
                    return found;
                }
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .unwrap_or_else(|_| panic!("waited {} s in vain for {what}", PATIENCE.as_secs()))
    }

    /// Drives all nodes for a while.
    async fn during(&mut self, time: Duration, mut look: impl FnMut(&mut [Network], usize, Event)) {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if let Ok((index, event)) = tokio::time::timeout(left, self.next()).await {
                look(&mut self.nodes, index, event);
            }
        }
    }

    /// Publishes as soon as somebody has subscribed.
    async fn publish(&mut self, from: usize, bytes: &[u8]) {
        let begun = Instant::now();
        while let Err(error) = self.nodes[from].publish(bytes.to_vec()) {
            assert!(matches!(error, PublishError::NoPeers), "{error}");
            assert!(begun.elapsed() < PATIENCE, "nobody subscribed to the run in {} s", PATIENCE.as_secs());
            self.during(Duration::from_millis(50), |_, _, _| {}).await;
        }
    }

    /// Asks, lets `answer` answer, and returns what came back.
    async fn ask(&mut self, from: usize, to: usize, question: &[u8]) -> Result<Vec<u8>, String> {
        let peer = self.nodes[to].peer_id();
        let asked = self.nodes[from].request(peer, question.to_vec());
        self.until("an answer, or the lack of one", |nodes, index, event| match event {
            Event::Request { bytes, responder, .. } => {
                let answer = [b"re: ", &bytes[..]].concat();
                nodes[index].respond(responder, answer);
                None
            }
            Event::Response { request, result, .. } if index == from && request == asked => {
                Some(result.map_err(|error| error.to_string()))
            }
            _ => None,
        })
        .await
    }
}

#[tokio::test]
async fn two_nodes_gossip_ask_and_answer() {
    let mut nodes = Nodes::pair().await;
    nodes.publish(1, b"one byte").await;
    let source = nodes.nodes[1].peer_id();
    nodes
        .until("the gossip to arrive", |nodes, index, event| match event {
            Event::Gossip { source: from, message, bytes } if index == 0 => {
                assert_eq!((from, &bytes[..]), (source, &b"one byte"[..]));
                nodes[0].report(&message, &from, Verdict::Accept);
                Some(())
            }
            _ => None,
        })
        .await;
    assert_eq!(nodes.ask(0, 1, b"who?").await.unwrap(), b"re: who?");
    assert_eq!(nodes.ask(1, 0, b"").await.unwrap(), b"re: ");
    let (sent, received) = (nodes.nodes[1].traffic(), nodes.nodes[0].traffic());
    assert_eq!((sent.gossip_out, received.gossip_in), (8, 8));
    assert!(sent.socket_out > 8 && received.socket_in > 8);
}

#[tokio::test]
async fn what_is_too_large_fails_where_it_is_sent_and_hurts_nobody() {
    let mut nodes = Nodes::pair().await;
    nodes.publish(0, b"they know each other").await;
    let refused = nodes.nodes[0].publish(vec![0; (1 << 16) + 1]).unwrap_err();
    assert!(matches!(refused, PublishError::Refused(_)), "{refused}");
    let error = nodes.ask(0, 1, &vec![0; 64 * 1024 + 1]).await.unwrap_err();
    assert!(!error.is_empty());
    assert_eq!(nodes.ask(0, 1, b"still there?").await.unwrap(), b"re: still there?");
    assert_eq!(nodes.ask(0, 1, &vec![3; 64 * 1024]).await.unwrap().len(), 64 * 1024 + 4, "the limit itself passes");
    nodes.publish(0, &vec![1; GOSSIP_BYTES_MAX]).await;
    nodes
        .until("the largest gossip to arrive", |_, index, event| match event {
            Event::Gossip { bytes, .. } if index == 1 => (bytes.len() == GOSSIP_BYTES_MAX).then_some(()),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_an_error_for_the_asker() {
    let mut nodes = Nodes::pair().await;
    let peer = nodes.nodes[1].peer_id();
    let asked = nodes.nodes[0].request(peer, b"all of it".to_vec());
    let result = nodes
        .until("the failure of an answer that is too large", |nodes, index, event| match event {
            Event::Request { responder, .. } => {
                nodes[index].respond(responder, vec![0; 2 << 20]);
                None
            }
            Event::Response { request, result, .. } if request == asked => Some(result),
            _ => None,
        })
        .await;
    assert!(result.is_err());
    assert_eq!(nodes.ask(0, 1, b"still there?").await.unwrap(), b"re: still there?");
}

#[tokio::test]
async fn a_chain_of_nodes_becomes_a_mesh_and_gossip_reaches_all() {
    let mut nodes = Nodes::default();
    let mut known = Vec::new();
    for seed in 1..=6 {
        let index = nodes.start(seed, &known).await;
        known = vec![name(&nodes.nodes[index])];
    }
    nodes
        .until("six nodes to know each other", |nodes, index, event| {
            if let Event::Found { peer, address } = event {
                nodes[index].dial(peer, vec![address]);
            }
            nodes.iter().all(|node| node.connected().count() == 5).then_some(())
        })
        .await;
    nodes.publish(0, b"to everyone").await;
    let mut reached = BTreeSet::new();
    nodes
        .until("a message to reach all", |nodes, index, event| {
            if let Event::Gossip { source, message, bytes } = event {
                assert_eq!(bytes, b"to everyone");
                assert!(reached.insert(index), "node {index} got it twice");
                nodes[index].report(&message, &source, Verdict::Accept);
            }
            (reached.len() == 5).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_peer_that_goes_while_it_is_asked_is_an_error_not_a_wait() {
    let mut nodes = Nodes::pair().await;
    let peer = nodes.nodes[1].peer_id();
    let asked = nodes.nodes[0].request(peer, b"are you there?".to_vec());
    nodes.until("the question to arrive", |_, _, event| matches!(event, Event::Request { .. }).then_some(())).await;
    drop(nodes.nodes.pop());
    let (mut failed, mut gone) = (false, false);
    nodes
        .until("the failure", |_, _, event| {
            match event {
                Event::Response { request, result, .. } if request == asked => failed = result.is_err(),
                Event::Disconnected(who) => gone = who == peer,
                _ => {}
            }
            (failed && gone).then_some(())
        })
        .await;
    let asked = nodes.nodes[0].request(peer, b"and now?".to_vec());
    nodes
        .until("the failure to reach it", |_, _, event| match event {
            Event::Response { request, result, .. } if request == asked => {
                assert!(result.is_err());
                Some(())
            }
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn a_call_that_nobody_takes_fails_in_words() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = Network::start(config(9)).await.unwrap().peer_id();
    let mut nodes = Nodes::default();
    nodes.start(1, &[format!("/ip4/127.0.0.1/tcp/{free}/p2p/{nobody}")]).await;
    let (peer, error) = nodes
        .until("word that nobody is there", |_, _, event| match event {
            Event::DialFailed { peer, error } => Some((peer, error)),
            _ => None,
        })
        .await;
    assert!(peer == nobody && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_blocked_peer_is_cut_off_and_cannot_come_back_until_it_is_unblocked() {
    let mut nodes = Nodes::pair().await;
    let bad = nodes.nodes[1].peer_id();
    let victim = name(&nodes.nodes[0]);
    assert_eq!(nodes.ask(1, 0, b"hello?").await.unwrap(), b"re: hello?");
    nodes.nodes[0].block(bad);
    nodes
        .until("the blocked peer to be cut off", |_, index, event| {
            matches!(event, Event::Disconnected(peer) if index == 0 && peer == bad).then_some(())
        })
        .await;
    for _ in 0..8 {
        nodes.call(1, &victim);
        nodes
            .during(Duration::from_millis(500), |_, index, event| {
                assert!(!(index == 0 && matches!(event, Event::Connected(_))), "the blocked peer came back");
            })
            .await;
    }
    assert_eq!(nodes.nodes[0].connected().count(), 0);
    nodes.nodes[0].unblock(bad);
    nodes.call(1, &victim);
    nodes
        .until("the peer to be back", |_, index, event| {
            matches!(event, Event::Connected(peer) if index == 0 && peer == bad).then_some(())
        })
        .await;
}

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

#[tokio::test]
async fn bad_bootstrap_addresses_are_refused_with_an_example() {
    let own = Network::start(config(1)).await.unwrap().peer_id();
    let cases = [
        ("somewhere:9713".to_owned(), "not a multiaddr"),
        ("/ip4/127.0.0.1/tcp/9713".to_owned(), "does not end with /p2p/"),
        (format!("/p2p/{own}"), "no address before /p2p/"),
        ("/ip4/127.0.0.1/tcp/99999/p2p/x".to_owned(), "not a multiaddr"),
        (String::new(), "does not end with /p2p/"),
        (format!("/ip4/127.0.0.1/tcp/9713/p2p/{own}"), "own peer id"),
    ];
    for (address, reason) in cases {
        let Err(error) = parse_bootstrap_of_another(&address, own) else {
            panic!("{address} was taken for an address")
        };
        assert!(matches!(error, StartError::Bootstrap { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(reason) && text.contains("/ip4/192.168.1.7/tcp/9713/p2p/"), "{address}: {text}");
    }
}

#[tokio::test]
async fn a_taken_port_is_told_from_other_failures() {
    let first = Network::start(config(1)).await.unwrap();
    let taken = first.listen_addresses()[0].clone();
    let Err(error) = Network::start(NetworkConfig { listen: vec![taken.clone()], ..config(2) }).await else {
        panic!("{taken} was taken twice")
    };
    assert!(error.is_occupied() && error.to_string().contains(&taken.to_string()), "{error}");
    let elsewhere: Multiaddr = "/ip4/192.0.2.1/tcp/0".parse().unwrap();
    let Err(error) = Network::start(NetworkConfig { listen: vec![elsewhere], ..config(2) }).await else {
        panic!("listens on another machine's address")
    };
    assert!(!error.is_occupied() && error.to_string().contains("for example"), "{error}");
}

#[tokio::test]
async fn an_address_that_leads_to_oneself_or_to_another_is_said_to() {
    let mut nodes = Nodes::default();
    nodes.start(1, &[]).await;
    let expected = Network::start(config(9)).await.unwrap().peer_id();
    let wrong = format!("{}/p2p/{expected}", nodes.nodes[0].listen_addresses()[0]);
    nodes.start(2, &[wrong]).await;
    let other = nodes.nodes[0].peer_id().to_string();
    let error = nodes
        .until("word that another node answers", |_, _, event| match event {
            Event::DialFailed { error, .. } => Some(error),
            _ => None,
        })
        .await;
    assert!(error.contains(&other), "{error}");

    // The own port: known before the node starts, since it was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let mut alone = Nodes::default();
    let own = format!("{address}/p2p/{expected}");
    alone.start_with(NetworkConfig { listen: vec![address], ..config(3) }, &[own]).await;
    let error = alone
        .until("word that the address is the own", |_, _, event| match event {
            Event::DialFailed { error, .. } => Some(error),
            _ => None,
        })
        .await;
    assert!(error.contains("itself"), "{error}");
    assert_eq!(alone.nodes[0].connected().count(), 0);
}
