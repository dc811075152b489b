//! The way into a run: its manifest, then its base model chunk by chunk, from whichever nodes have them.

use protocol::{
    manifest::{BASE_CHUNK_BYTES, Manifest, RunId, combine_digests},
    message::{BASE_DIGESTS_MAX, Question, Response},
    segment::Digest,
};
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Answer, NodeId, Run,
    exchange::{ANSWER_MS_MAX, Purpose},
    planted::{Fault, Planted},
};

/// Questions that may be under way at one node.
const QUESTIONS_PER_NODE: usize = 4;
/// The same at a node that once had no answer in time: what a slow link brings together comes too late together.
const QUESTIONS_PER_SLOW_NODE: usize = 1;
/// A node that had no answer is left alone for so long, ms, and for twice as long each time that it has none again:
/// those who never answer must not take turns at keeping a joiner from those who would.
const REST_MS: u64 = 5_000;
const REST_MS_MAX: u64 = 80_000;
/// People hear that nobody can help this often, ms.
const NOBODY_INTERVAL_MS: u64 = 15_000;

/// What an answer leads to.
#[derive(Debug)]
pub enum Taken {
    /// Nothing to do but to ask on.
    Well,
    /// The node does not have it, or does not answer: it is asked again later.
    Rests,
    /// No usable manifest.
    NoManifest(String),
    /// A wrong piece of the base: the node is asked for no more of it.
    Wrong(String),
    /// The node is of another run than the one that was wished for.
    OtherRun {
        /// Its run.
        run: RunId,
        /// Whether every bootstrap node is of another run.
        is_last: bool,
    },
    /// The manifest of a run to join.
    Manifest(Run),
    /// All digests are here, and are the run's.
    Digests(Vec<Digest>),
    /// This chunk is the run's.
    Chunk(u64),
}

/// A joiner's state.
pub struct Join {
    wished: Option<RunId>,
    bootstraps: BTreeSet<NodeId>,
    /// Bootstrap nodes that turned out to be of another run than the one that was wished for.
    of_other_runs: BTreeSet<NodeId>,
    run: Option<Run>,
    fetch: Option<Fetch>,
    /// Nodes that had no answer.
    resting: BTreeMap<NodeId, Rest>,
    /// Nodes from which a chunk did not come in time.
    slow: BTreeSet<NodeId>,
    /// When somebody last sent something of use.
    helped_ms: u64,
    planted: Planted,
}

/// How a node that had no answer is left alone.
struct Rest {
    until_ms: u64,
    lasts_ms: u64,
}

/// The base model on its way.
struct Fetch {
    root: Digest,
    chunks: u64,
    bytes: u64,
    /// Bytes that are not on the disk yet.
    lacking: u64,
    digests: Vec<Digest>,
    /// Whose list `digests` is, while it is not complete.
    digests_from: Option<NodeId>,
    /// Whether the list is complete and on the disk.
    has_digests: bool,
    /// Chunks that are neither on the disk nor on their way there.
    missing: BTreeSet<u64>,
    storing: BTreeSet<u64>,
}

impl Join {
    /// Nothing is here. `wished`: the only run to join; `bootstraps`: nodes that people named to be asked.
    pub fn new(wished: Option<RunId>, bootstraps: &[NodeId]) -> Self {
        Self {
            wished,
            bootstraps: bootstraps.iter().copied().collect(),
            of_other_runs: BTreeSet::new(),
            run: None,
            fetch: None,
            resting: BTreeMap::new(),
            slow: BTreeSet::new(),
            helped_ms: 0,
            planted: Planted::default(),
        }
    }

    /// Breaks a rule.
    #[cfg(feature = "planted")]
    pub fn plant(&mut self, planted: Planted) {
        self.planted = planted;
    }

    /// The run is known, and stays the one to join.
    pub fn set_run(&mut self, run: Run) {
        if self.run.is_none() {
            self.run = Some(run);
            self.resting.clear();
        }
    }

    /// The run, once it is known.
    pub fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// Peers are to send the base: see [`crate::Input::FetchBase`].
    pub fn fetch(&mut self, digests: Vec<Digest>, missing: Vec<u64>, now_ms: u64) {
        let Some(run) = &self.run else { return };
        let manifest = &run.manifest;
        let are_all = digests.len() as u64 == manifest.base.chunks();
        self.helped_ms = now_ms;
        let mut fetch = Fetch {
            root: manifest.base.chunks_root,
            chunks: manifest.base.chunks(),
            bytes: manifest.base.bytes(),
            lacking: manifest.base.bytes(),
            digests: if are_all { digests } else { Vec::new() },
            digests_from: None,
            has_digests: false,
            missing: BTreeSet::new(),
            storing: BTreeSet::new(),
        };
        fetch.digests_stored(missing);
        self.fetch = Some(fetch);
    }

    /// The digests are on the disk, which lacks these chunks.
    pub fn digests_stored(&mut self, missing: Vec<u64>) {
        if let Some(fetch) = &mut self.fetch {
            fetch.digests_stored(missing);
        }
    }

    /// A chunk is on the disk. Returns (bytes here, bytes in all), if it was on its way there.
    pub fn chunk_stored(&mut self, index: u64) -> Option<(u64, u64)> {
        let fetch = self.fetch.as_mut()?;
        if !fetch.storing.remove(&index) {
            return None;
        }
        fetch.lacking = fetch.lacking.saturating_sub(fetch.extent(index));
        Some((fetch.bytes.saturating_sub(fetch.lacking), fetch.bytes))
    }

    /// Whether everything was fetched and stored.
    pub fn is_complete(&self) -> bool {
        self.fetch
            .as_ref()
            .is_some_and(|fetch| fetch.has_digests && fetch.missing.is_empty() && fetch.storing.is_empty())
    }

    /// The base is complete: nothing is fetched any more.
    pub fn finish(&mut self) {
        self.fetch = None;
    }

    /// The next question to `node`, given those under way: what for, of which run, and the question itself.
    pub fn next_question(
        &self,
        node: NodeId,
        open: &[(NodeId, Purpose)],
        now_ms: u64,
    ) -> Option<(Purpose, RunId, Question)> {
        let its = open.iter().filter(|(asked, _)| *asked == node).count();
        let most = if self.slow.contains(&node) { QUESTIONS_PER_SLOW_NODE } else { QUESTIONS_PER_NODE };
        if its >= most || self.rests(node, now_ms) {
            return None;
        }
        let is_open = |purpose: Purpose| open.iter().any(|(_, asked)| *asked == purpose);
        let Some(run) = &self.run else {
            // The first who answers is believed. A run that was named can come from anyone; one that was not, only from
            // nodes that were: whoever calls first could name a run of its own. Where nothing was named, people want
            // whatever run is near.
            let is_believed = self.wished.is_some() || self.bootstraps.is_empty() || self.bootstraps.contains(&node);
            return (its == 0 && is_believed).then_some((Purpose::Manifest, RunId([0; 32]), Question::Manifest));
        };
        let fetch = self.fetch.as_ref()?;
        if !fetch.has_digests {
            let may_ask = fetch.digests_from.is_none_or(|from| from == node) && !is_open(Purpose::Digests);
            let from = fetch.digests.len() as u64;
            let is_listed = from == fetch.chunks;
            return (may_ask && !is_listed).then_some((Purpose::Digests, run.id, Question::BaseDigests { from }));
        }
        let index = fetch.missing.iter().copied().find(|index| !is_open(Purpose::Chunk(*index)))?;
        Some((Purpose::Chunk(index), run.id, Question::BaseChunk { index }))
    }

    /// Takes the answer of `node` to a question that was asked for `purpose`.
    pub fn take(&mut self, node: NodeId, purpose: Purpose, answer: Answer, now_ms: u64) -> Taken {
        if let (Purpose::Chunk(_), Answer::None) = (purpose, &answer) {
            self.slow.insert(node);
        }
        let taken = match (purpose, answer) {
            (Purpose::Manifest, answer) if self.run.is_none() => self.take_manifest(node, answer),
            (Purpose::Digests | Purpose::Chunk(_), answer) => self.take_piece(node, purpose, answer),
            _ => Taken::Well,
        };
        match &taken {
            Taken::Rests | Taken::NoManifest(_) | Taken::Wrong(_) | Taken::OtherRun { .. } => {
                self.leave_alone(node, now_ms);
                self.forget_digests(node);
            }
            Taken::Well | Taken::Manifest(_) | Taken::Digests(_) | Taken::Chunk(_) => {
                self.resting.remove(&node);
                self.helped_ms = now_ms;
            }
        }
        taken
    }

    /// What it was asked at once, it fails to answer at once: that is one failure.
    fn leave_alone(&mut self, node: NodeId, now_ms: u64) {
        if !self.rests(node, now_ms) {
            let lasts_ms = self.resting.get(&node).map_or(REST_MS, |rest| (2 * rest.lasts_ms).min(REST_MS_MAX));
            self.resting.insert(node, Rest { until_ms: now_ms.saturating_add(lasts_ms), lasts_ms });
        }
    }

    /// Whether the base is on its way.
    pub fn fetches(&self) -> bool {
        self.fetch.is_some()
    }

    /// Whether the node is left alone for now.
    pub fn rests(&self, node: NodeId, now_ms: u64) -> bool {
        self.resting.get(&node).is_some_and(|rest| rest.until_ms > now_ms)
    }

    fn take_manifest(&mut self, node: NodeId, answer: Answer) -> Taken {
        let bytes = match answer {
            Answer::Message(Response::Manifest(bytes)) => bytes,
            Answer::Message(Response::Unavailable) | Answer::None => return Taken::Rests,
            Answer::Malformed(reason) => return Taken::NoManifest(reason),
            Answer::Message(_) | Answer::Chunk { .. } => return Taken::NoManifest(ANOTHER_QUESTION.into()),
        };
        match Run::decode(&bytes) {
            Err(error) => Taken::NoManifest(error.to_string()),
            Ok(run) if self.wished.is_some_and(|wished| wished != run.id) => {
                let is_bootstrap = self.bootstraps.contains(&node);
                if is_bootstrap {
                    self.of_other_runs.insert(node);
                }
                let is_last = is_bootstrap && self.of_other_runs.len() >= self.bootstraps.len();
                Taken::OtherRun { run: run.id, is_last }
            }
            Ok(run) => Taken::Manifest(run),
        }
    }

    fn take_piece(&mut self, node: NodeId, purpose: Purpose, answer: Answer) -> Taken {
        let accepts_any_chunk = self.planted.has(Fault::AcceptsAnyChunk);
        let Some(fetch) = &mut self.fetch else { return Taken::Well };
        match (purpose, answer) {
            (_, Answer::None | Answer::Message(Response::Unavailable)) => Taken::Rests,
            (_, Answer::Malformed(reason)) => Taken::Wrong(reason),
            // No offence: on a local network, every neighbour is asked.
            (_, Answer::Message(Response::WrongRun(run))) => Taken::OtherRun { run, is_last: false },
            (Purpose::Digests, Answer::Message(Response::BaseDigests(page))) => fetch.take_digests(node, page),
            (Purpose::Chunk(index), Answer::Chunk { digest, .. }) => {
                let expected = usize::try_from(index).ok().and_then(|index| fetch.digests.get(index));
                if expected != Some(&digest) && !accepts_any_chunk {
                    return Taken::Wrong(format!("chunk {index} of the base model is wrong"));
                }
                if !fetch.missing.remove(&index) {
                    return Taken::Well;
                }
                fetch.storing.insert(index);
                Taken::Chunk(index)
            }
            (_, Answer::Message(_) | Answer::Chunk { .. }) => Taken::Wrong(ANOTHER_QUESTION.into()),
        }
    }

    /// The node is gone: what it had sent of the list of digests is of no use without the rest.
    pub fn gone(&mut self, node: NodeId) {
        self.forget_digests(node);
        self.resting.remove(&node);
        self.slow.remove(&node);
    }

    fn forget_digests(&mut self, node: NodeId) {
        if let Some(fetch) = self.fetch.as_mut().filter(|fetch| fetch.digests_from == Some(node)) {
            fetch.digests_from = None;
            fetch.digests.clear();
        }
    }

    /// Whether people should hear that for a while nobody sent anything of the base, or of a run to join.
    pub fn nobody_helps(&mut self, neighbours: &BTreeSet<NodeId>, now_ms: u64) -> bool {
        if self.fetch.is_none() && self.run.is_some() {
            self.helped_ms = now_ms;
        }
        // Who is being asked may take a while.
        let is_asking = neighbours.iter().any(|node| !self.rests(*node, now_ms));
        let patience_ms = NOBODY_INTERVAL_MS + if is_asking { ANSWER_MS_MAX } else { 0 };
        let is_due = now_ms.saturating_sub(self.helped_ms) >= patience_ms;
        if is_due {
            self.helped_ms = now_ms;
        }
        is_due
    }
}

/// Characters of what is wrong with somebody's manifest that people are shown.
const ERROR_MAX: usize = 400;
const ANOTHER_QUESTION: &str = "it sent an answer to another question";

impl Fetch {
    /// The digests, all of which are here, are on the disk, which lacks these chunks. A second time changes nothing:
    /// some of the chunks may have come since.
    fn digests_stored(&mut self, missing: Vec<u64>) {
        if self.has_digests || self.digests.len() as u64 != self.chunks {
            return;
        }
        self.has_digests = true;
        self.missing = missing.into_iter().filter(|index| *index < self.chunks).collect();
        self.lacking = self.missing.iter().map(|index| self.extent(*index)).sum();
    }

    /// Takes one page of the list of digests, all of which come from one node. Pages are full but for the last: a node
    /// that sent one digest at a time could keep a joiner waiting for days.
    fn take_digests(&mut self, node: NodeId, page: Vec<Digest>) -> Taken {
        let here = self.digests.len() as u64;
        if self.has_digests || here >= self.chunks || self.digests_from.is_some_and(|from| from != node) {
            return Taken::Well;
        }
        let expected = (self.chunks - here).min(BASE_DIGESTS_MAX as u64);
        if page.len() as u64 != expected {
            return Taken::Wrong(format!("it sent {} digests of chunks instead of {expected}", page.len()));
        }
        self.digests_from = Some(node);
        self.digests.extend(page);
        if (self.digests.len() as u64) < self.chunks {
            return Taken::Well;
        }
        if combine_digests(self.digests.iter().copied()) != self.root {
            return Taken::Wrong("the list of chunks does not fit the run's manifest".into());
        }
        self.digests_from = None;
        Taken::Digests(self.digests.clone())
    }

    /// Bytes of one chunk.
    fn extent(&self, index: u64) -> u64 {
        self.bytes.saturating_sub(index.saturating_mul(BASE_CHUNK_BYTES as u64)).min(BASE_CHUNK_BYTES as u64)
    }
}

/// The run of a node of another run, and in what its manifest differs from `ours`, in words.
pub fn differences(ours: &Manifest, answer: &Answer) -> Option<(RunId, Vec<String>)> {
    match answer {
        Answer::Message(Response::Manifest(bytes)) => Some(match Manifest::decode(bytes) {
            Ok((theirs, run)) => (run, ours.differences(&theirs)),
            Err(error) => {
                (RunId(*blake3::hash(bytes).as_bytes()), vec![error.to_string().chars().take(ERROR_MAX).collect()])
            }
        }),
        _ => None,
    }
}
