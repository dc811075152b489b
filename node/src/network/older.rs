//! Nodes of earlier releases, which speak version 1: recognised, refused once in words that they can read, and left
//! alone after that. They are no neighbours: nothing else of this program hears of them.

use libp2p::{PeerId, StreamProtocol, identify};
use protocol::{encoding::encode, manifest::RunId};
use std::collections::{HashMap, HashSet};

use super::codec::EXCHANGE;

/// Questions and answers of version 1.
pub const EXCHANGE_1: StreamProtocol = StreamProtocol::new("/onebyte/1");
/// Nodes whose refusals are remembered.
const REFUSED_MAX: usize = 1_024;
/// Version 1's encoding: a request is the run (32), then the question's number; an answer is its number, then the rest.
const MANIFEST_QUESTION: u8 = 0;
const MANIFEST: u8 = 0;
const WRONG_RUN: u8 = 7;
const UNAVAILABLE: u8 = 8;
/// The run that such a node is told of: it asks for its manifest, which says the version.
const NO_RUN: RunId = RunId([0xff; 32]);

/// What a node was told already.
#[derive(Clone, Copy, Default)]
struct Refusal {
    run: bool,
    manifest: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Older {
    connected: HashSet<PeerId>,
    /// Calls to those who are connected; they end when the connection does.
    called: HashSet<PeerId>,
    refused: HashMap<PeerId, Refusal>,
}

/// Whether a node speaks version 1 and nothing later.
pub fn is_older(info: &identify::Info) -> bool {
    info.protocols.contains(&EXCHANGE_1) && !info.protocols.contains(&EXCHANGE)
}

/// A manifest in version 1's layout, of which nothing is right but the version: a node of version 1 says that it does
/// not speak it, and that another release does.
fn manifest() -> Vec<u8> {
    // Later versions have another layout, which it could not read at all.
    const VERSION: u16 = 2;
    let base = ("", 0u64, [0u8; 32], 0u64, [0u8; 32], [0u8; 32]);
    let (tensors, hyperparameters, knots) = ([0u8; 0].as_slice(), (0f64, 0f64, 0u64, 0u8), [0u8; 0].as_slice());
    let (levels, ledger_samples_max, membership, authority) = (1u8, 1u64, 0u8, 0u8);
    let layout =
        (VERSION, [0u8; 16], base, tensors, hyperparameters, knots, levels, ledger_samples_max, membership, authority);
    encode::<_, 1024>(&layout).unwrap_or_default()
}

impl Older {
    /// A connected node turned out to be one. True the first time.
    pub fn recognise(&mut self, peer: PeerId) -> bool {
        self.connected.insert(peer)
    }

    /// Whether a connected node is one.
    pub fn is_connected(&self, peer: &PeerId) -> bool {
        self.connected.contains(peer)
    }

    /// Somebody calls it, and it is connected.
    pub fn call(&mut self, peer: PeerId) {
        self.called.insert(peer);
    }

    /// The last connection to a node is gone. None if it was not one, else whether it was called meanwhile.
    pub fn gone(&mut self, peer: &PeerId) -> Option<bool> {
        self.connected.remove(peer).then(|| self.called.remove(peer))
    }

    /// The answer to a question of version 1: once that this is another run, and once why; nothing after that. So who
    /// asks says it once, and has no reason to ban this node again and again.
    pub fn answer(&mut self, peer: PeerId, request: &[u8]) -> Vec<u8> {
        if self.refused.len() >= REFUSED_MAX && !self.refused.contains_key(&peer) {
            self.refused.clear();
        }
        let refusal = self.refused.entry(peer).or_default();
        let asks_for_manifest = request.get(32) == Some(&MANIFEST_QUESTION);
        let told = if asks_for_manifest { &mut refusal.manifest } else { &mut refusal.run };
        match (std::mem::replace(told, true), asks_for_manifest) {
            (true, _) => vec![UNAVAILABLE],
            (false, true) => {
                // A joiner asks for nothing else; its other questions come once it has joined another run.
                let manifest = manifest();
                [&[MANIFEST][..], &encode::<_, 2048>(&manifest).unwrap_or_default()].concat()
            }
            (false, false) => [&[WRONG_RUN][..], &NO_RUN.0].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::message::{Question, Request};

    #[test]
    fn a_node_of_version_1_is_refused_once_in_each_way() {
        let (mut older, peer) = (Older::default(), PeerId::random());
        let mut ask = |question| older.answer(peer, &Request { run: RunId([3; 32]), question }.encode().unwrap());
        let summary = || Question::Summary { root: [1; 32] };
        assert_eq!(ask(summary()), [&[7][..], &[0xff; 32]].concat());
        assert_eq!(ask(summary()), [8]);
        let manifest = ask(Question::Manifest);
        // The answer's number, the length, the version.
        assert_eq!((manifest[0], usize::from(manifest[1]), manifest[2]), (0, manifest.len() - 2, 2));
        assert_eq!(ask(Question::Manifest), [8]);
        assert_eq!(older.answer(peer, &[]), [8], "nothing at all is no question either");
    }

    #[test]
    fn a_call_to_one_that_is_connected_ends_when_it_goes() {
        let (mut older, peer) = (Older::default(), PeerId::random());
        assert_eq!(older.gone(&peer), None);
        assert!(older.recognise(peer) && !older.recognise(peer) && older.is_connected(&peer));
        older.call(peer);
        assert_eq!(older.gone(&peer), Some(true));
        assert!(older.recognise(peer));
        assert_eq!(older.gone(&peer), Some(false));
    }
}
