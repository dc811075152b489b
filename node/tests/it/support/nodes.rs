//! Networks without peers that decide: several in one process, over loopback.

use futures::future::select_all;
use node::network::{Event, Network, NetworkConfig, PublishError, parse_bootstrap};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::PATIENCE;

/// Of nodes that no manifest is asked for.
const RUN: [u8; 32] = [7; 32];

pub fn config(seed: u8) -> NetworkConfig {
    NetworkConfig::new([seed; 32], Some(RUN), vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()])
}

pub fn name(network: &Network) -> String {
    format!("{}/p2p/{}", network.listen_addresses()[0], network.peer_id())
}

/// Nodes that are all driven by whoever waits.
#[derive(Default)]
pub struct Nodes {
    pub nodes: Vec<Network>,
    turn: usize,
}

impl Nodes {
    /// Node `seed`, which calls those at `known`. Returns its index.
    pub async fn start(&mut self, seed: u8, known: &[String]) -> usize {
        self.start_with(config(seed), known).await
    }

    pub async fn start_with(&mut self, config: NetworkConfig, known: &[String]) -> usize {
        self.nodes.push(Network::start(config).await.unwrap());
        let index = self.nodes.len() - 1;
        known.iter().for_each(|name| self.call(index, name));
        index
    }

    pub fn call(&mut self, index: usize, name: &str) {
        let (peer, address) = parse_bootstrap(name).unwrap();
        self.nodes[index].dial(peer, vec![address]);
    }

    /// Two that know each other.
    pub async fn pair() -> Self {
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
    pub async fn until<T>(&mut self, what: &str, mut look: impl FnMut(&mut [Network], usize, Event) -> Option<T>) -> T {
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
    pub async fn during(&mut self, time: Duration, mut look: impl FnMut(&mut [Network], usize, Event)) {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            if let Ok((index, event)) = tokio::time::timeout(left, self.next()).await {
                look(&mut self.nodes, index, event);
            }
        }
    }

    /// Publishes as soon as somebody has subscribed.
    pub async fn publish(&mut self, from: usize, bytes: &[u8]) {
        let begun = Instant::now();
        while let Err(error) = self.nodes[from].publish(bytes.to_vec()) {
            assert!(matches!(error, PublishError::NoPeers), "{error}");
            assert!(begun.elapsed() < PATIENCE, "nobody subscribed to the run in {} s", PATIENCE.as_secs());
            self.during(Duration::from_millis(50), |_, _, _| {}).await;
        }
    }

    /// Asks, lets `answer` answer, and returns what came back.
    pub async fn ask(&mut self, from: usize, to: usize, question: &[u8]) -> Result<Vec<u8>, String> {
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
