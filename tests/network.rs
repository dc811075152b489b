//! The network on loopback: several nodes in one process, honest and not.

use futures::future::select_all;
use node::network::{
    Event, GOSSIP_BYTES_MAX, Multiaddr, Network, NetworkConfig, PublishError, Severity, StartError, Verdict,
};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

const RUN: [u8; 32] = [7; 32];
/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(20);

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
    /// Node `seed`, which knows `bootstrap`. Returns its index.
    async fn start(&mut self, seed: u8, bootstrap: &[String]) -> usize {
        let config = NetworkConfig { bootstrap: bootstrap.to_vec(), ..config(seed) };
        self.nodes.push(Network::start(config).await.unwrap());
        self.nodes.len() - 1
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
                if matches!(event, Event::PeerConnected(_)) {
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
    let refused = nodes.nodes[0].publish(vec![0; GOSSIP_BYTES_MAX + 1]).unwrap_err();
    assert!(matches!(refused, PublishError::Refused(_)) && refused.to_string().contains("57001"), "{refused}");
    let error = nodes.ask(0, 1, &vec![0; 64 * 1024 + 1]).await.unwrap_err();
    assert!(!error.is_empty());
    assert_eq!(nodes.ask(0, 1, b"still there?").await.unwrap(), b"re: still there?");
    assert_eq!(nodes.ask(0, 1, &vec![3; 64 * 1024]).await.unwrap().len(), 64 * 1024 + 4, "the limit itself passes");
    nodes.publish(0, &vec![1; GOSSIP_BYTES_MAX]).await;
    nodes
        .until("the largest gossip to arrive", |_, index, event| match event {
            Event::Gossip { bytes, .. } if index == 1 => {
                assert_eq!(bytes.len(), GOSSIP_BYTES_MAX);
                Some(())
            }
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
        .until("six nodes to know each other", |nodes, _, _| {
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
    let begun = Instant::now();
    drop(nodes.nodes.pop());
    let (mut failed, mut gone) = (false, false);
    nodes
        .until("the failure", |_, _, event| {
            match event {
                Event::Response { request, result, .. } if request == asked => failed = result.is_err(),
                Event::PeerGone(who) => gone = who == peer,
                _ => {}
            }
            (failed && gone).then_some(())
        })
        .await;
    assert!(begun.elapsed() < Duration::from_secs(10));
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
async fn a_bootstrap_machine_that_is_down_at_first_is_called_until_it_is_up() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{free}").parse().unwrap();
    let mut nodes = Nodes::default();
    let later = Network::start(config(9)).await.unwrap().peer_id();
    nodes.start(1, &[format!("{address}/p2p/{later}")]).await;
    let (told, error, retry_in) = nodes
        .until("word that the bootstrap machine is down", |_, _, event| match event {
            Event::BootstrapUnreachable { address, error, retry_in } => Some((address, error, retry_in)),
            _ => None,
        })
        .await;
    assert_eq!(told, address);
    assert!(error.contains("refused"), "{error}");
    assert!(retry_in < Duration::from_secs(60));
    nodes.nodes.push(Network::start(NetworkConfig { listen: vec![address], ..config(9) }).await.unwrap());
    nodes
        .until("the connection once it is up", |_, index, event| {
            matches!(event, Event::PeerConnected(peer) if index == 0 && peer == later).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_banned_peer_is_cut_off_and_cannot_come_back() {
    let mut nodes = Nodes::pair().await;
    let bad = nodes.nodes[1].peer_id();
    for _ in 0..3 {
        nodes.nodes[0].penalize(&bad, Severity::Fault, "three faults are forgiven");
    }
    assert!(!nodes.nodes[0].is_banned(&bad));
    assert_eq!(nodes.ask(1, 0, b"hello?").await.unwrap(), b"re: hello?");
    nodes.nodes[0].penalize(&bad, Severity::Ban, "enough");
    assert!(nodes.nodes[0].is_banned(&bad));
    nodes
        .until("the banned peer to be cut off", |_, index, event| {
            matches!(event, Event::PeerGone(peer) if index == 0 && peer == bad).then_some(())
        })
        .await;
    nodes
        .during(Duration::from_secs(4), |_, index, event| {
            assert!(!(index == 0 && matches!(event, Event::PeerConnected(_))), "the banned peer came back");
        })
        .await;
    assert_eq!(nodes.nodes[0].connected().count(), 0);
}

#[tokio::test]
async fn faults_are_not_forgotten_by_reconnecting() {
    let mut nodes = Nodes::pair().await;
    let bad = nodes.nodes[1].peer_id();
    for _ in 0..3 {
        nodes.nodes[0].penalize(&bad, Severity::Fault, "before");
    }
    drop(nodes.nodes.pop());
    nodes.until("the peer to go", |_, _, event| matches!(event, Event::PeerGone(_)).then_some(())).await;
    let known = name(&nodes.nodes[0]);
    nodes.start(2, &[known]).await;
    nodes
        .until("the peer to be back", |_, index, event| {
            matches!(event, Event::PeerConnected(_) if index == 0).then_some(())
        })
        .await;
    nodes.nodes[0].penalize(&bad, Severity::Fault, "after");
    nodes.nodes[0].penalize(&bad, Severity::Fault, "after");
    assert!(nodes.nodes[0].is_banned(&bad), "a new connection washed the faults off");
}

#[tokio::test]
async fn a_flood_bans_its_sender_while_others_are_served() {
    let mut nodes = Nodes::pair().await;
    let known = name(&nodes.nodes[0]);
    let flooder = nodes.start(3, &[known]).await;
    let bad = nodes.nodes[flooder].peer_id();
    nodes.publish(flooder, b"hello").await;
    let (mut sent, mut refused) = (0u32, 0u32);
    while !nodes.nodes[0].is_banned(&bad) {
        assert!(sent < 5_000, "5,000 messages of 57 kB, and no ban ({refused} were not sent)");
        for _ in 0..10 {
            sent += 1;
            let mut bytes = vec![5; GOSSIP_BYTES_MAX];
            bytes[..4].copy_from_slice(&sent.to_le_bytes());
            refused += u32::from(nodes.nodes[flooder].publish(bytes).is_err());
        }
        nodes
            .during(Duration::from_millis(20), |nodes, index, event| {
                if let Event::Gossip { source, message, .. } = event {
                    nodes[index].report(&message, &source, Verdict::Ignore);
                }
            })
            .await;
    }
    let begun = Instant::now();
    assert_eq!(nodes.ask(1, 0, b"what about me?").await.unwrap(), b"re: what about me?");
    assert!(begun.elapsed() < Duration::from_secs(5));
    nodes
        .until("the flooder to be cut off", |nodes, _, _| {
            (!nodes[0].connected().any(|peer| *peer == bad)).then_some(())
        })
        .await;
    assert_eq!(nodes.nodes[0].connected().count(), 1, "the honest peer stays");
}

#[tokio::test]
async fn two_who_flood_within_their_allowance_do_not_get_the_one_between_banned() {
    let mut nodes = Nodes::pair().await;
    let between = name(&nodes.nodes[0]);
    // The flooders neither listen nor get to know node 1: all that it hears comes through node 0.
    for seed in [3, 4] {
        let config = NetworkConfig {
            bootstrap: vec![between.clone()],
            listen: Vec::new(),
            connections_target: 0,
            ..config(seed)
        };
        nodes.nodes.push(Network::start(config).await.unwrap());
    }
    for flooder in [2, 3] {
        nodes.publish(flooder, &[flooder as u8]).await;
    }
    let mut heard = 0u32;
    for round in 0..300u32 {
        for flooder in [2u8, 3] {
            for n in 0..11u32 {
                let mut bytes = vec![flooder; 100];
                bytes[..8].copy_from_slice(&u64::from(round << 8 | n).to_le_bytes());
                let _ = nodes.nodes[usize::from(flooder)].publish(bytes);
            }
        }
        nodes
            .during(Duration::from_millis(5), |nodes, index, event| {
                if let Event::Gossip { source, message, .. } = event {
                    heard += u32::from(index == 0);
                    nodes[index].report(&message, &source, Verdict::Accept);
                }
            })
            .await;
    }
    let honest = nodes.nodes[0].peer_id();
    assert!(heard > 5_000, "the flood was only {heard} messages");
    assert!(!nodes.nodes[1].is_banned(&honest), "an honest neighbour was banned for passing on what others sent");
    assert_eq!(nodes.ask(1, 0, b"still friends?").await.unwrap(), b"re: still friends?");
}

#[tokio::test]
async fn bad_bootstrap_addresses_are_refused_with_an_example() {
    let own = Network::start(config(1)).await.unwrap().peer_id();
    let cases = [
        ("somewhere:9713".to_owned(), "not a multiaddr"),
        ("/ip4/127.0.0.1/tcp/9713".to_owned(), "does not end with /p2p/"),
        (format!("/p2p/{own}"), "does not end with /p2p/"),
        ("/ip4/127.0.0.1/tcp/99999/p2p/x".to_owned(), "not a multiaddr"),
        (String::new(), "does not end with /p2p/"),
        (format!("/ip4/127.0.0.1/tcp/9713/p2p/{own}"), "own peer id"),
    ];
    for (address, reason) in cases {
        let config = NetworkConfig { bootstrap: vec![address.clone()], ..config(1) };
        let Err(error) = Network::start(config).await else { panic!("{address} was taken for an address") };
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
    assert!(!error.is_occupied() && error.to_string().contains("an example"), "{error}");
}

#[tokio::test]
async fn a_bootstrap_address_that_leads_to_oneself_or_to_another_is_said_to() {
    let mut nodes = Nodes::default();
    nodes.start(1, &[]).await;
    let expected = Network::start(config(9)).await.unwrap().peer_id();
    let wrong = format!("{}/p2p/{expected}", nodes.nodes[0].listen_addresses()[0]);
    nodes.start(2, &[wrong]).await;
    let other = nodes.nodes[0].peer_id().to_string();
    let error = nodes
        .until("word that another node answers", |_, _, event| match event {
            Event::BootstrapUnreachable { error, .. } => Some(error),
            _ => None,
        })
        .await;
    assert!(error.contains(&other), "{error}");

    // The own port: known before the node starts, since it was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let config =
        NetworkConfig { bootstrap: vec![format!("{address}/p2p/{expected}")], listen: vec![address], ..config(3) };
    let mut alone = Nodes { nodes: vec![Network::start(config).await.unwrap()], turn: 0 };
    let error = alone
        .until("word that the address is the own", |_, _, event| match event {
            Event::BootstrapUnreachable { error, .. } => Some(error),
            _ => None,
        })
        .await;
    assert!(error.contains("itself"), "{error}");
    assert_eq!(alone.nodes[0].connected().count(), 0);
}
