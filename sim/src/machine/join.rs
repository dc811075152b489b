//! The way into a run: manifest and base model, before the replica starts. As `node::join` goes it, but on connections that stay.

use anyhow::Result;
use node::network::Severity;
use protocol::{
    manifest::{Manifest, RunId},
    message::{Question, Request, Response},
    replica::{NodeId, OwnHead},
};
use std::collections::{BTreeMap, BTreeSet};

use super::Machine;
use crate::{event::Number, event_log::Kind, objective::Objective, queue::Micros, swarm::Swarm};

/// Questions that may be under way at one neighbour, as in `node`.
const QUESTIONS_PER_NEIGHBOUR: usize = 4;
/// A neighbour that had no answer is left alone for so long, as in `node`.
const REST: Micros = 5_000_000;

/// A part of what a joiner lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Piece {
    Manifest,
    Digests,
    Chunk(u64),
}

/// What became of an answer.
enum Taken {
    Well,
    /// The neighbour does not have it either.
    Unavailable,
    Wrong,
}

/// Manifest and base model on their way.
pub struct Download {
    /// Whether the replica may start without having been shown its head (see `Replica::start`).
    sure: bool,
    lacks_manifest: bool,
    /// Digests of the base's chunks that are here.
    digests: u64,
    lacks_digests: bool,
    /// Chunks that are not here.
    lacks: BTreeSet<u64>,
    asked: BTreeMap<u64, (Number, Piece)>,
    /// Neighbours that had no answer, and when they may be asked again.
    resting: BTreeMap<Number, Micros>,
}

impl Download {
    /// Nothing is here.
    pub fn new(sure: bool, objective: &dyn Objective) -> Self {
        let chunks = objective.base().map_or(0, |base| base.digests().len() as u64);
        Self {
            sure,
            lacks_manifest: true,
            digests: 0,
            lacks_digests: chunks > 0,
            lacks: (0..chunks).collect(),
            asked: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// A neighbour has gone, and will answer nothing.
    pub fn gone(&mut self, neighbour: Number) {
        self.asked.retain(|_, (of, _)| *of != neighbour);
    }

    /// What `neighbour` should be asked now. The manifest is asked of all, the list of digests of one at a time.
    fn next_piece(&self, neighbour: Number, now: Micros) -> Option<Piece> {
        let its = self.asked.values().filter(|(of, _)| *of == neighbour).count();
        if its >= QUESTIONS_PER_NEIGHBOUR || self.resting.get(&neighbour).is_some_and(|until| *until > now) {
            return None;
        }
        let is_asked = |piece| self.asked.values().any(|(_, asked)| *asked == piece);
        match (self.lacks_manifest, self.lacks_digests) {
            (true, _) => (its == 0).then_some(Piece::Manifest),
            (false, true) => (!is_asked(Piece::Digests)).then_some(Piece::Digests),
            (false, false) => self.lacks.iter().copied().map(Piece::Chunk).find(|piece| !is_asked(*piece)),
        }
    }

    fn take(&mut self, piece: Piece, response: Response, objective: &dyn Objective) -> Taken {
        let right = match (piece, response) {
            (_, Response::Unavailable) => return Taken::Unavailable,
            (Piece::Manifest, Response::Manifest(bytes)) => {
                let right = Manifest::decode(&bytes).is_ok_and(|(_, run)| run == objective.run());
                self.lacks_manifest &= !right;
                right
            }
            (Piece::Digests, Response::BaseDigests(page)) => {
                let right = objective.base().is_some_and(|base| base.page(self.digests) == page);
                if right {
                    self.digests += page.len() as u64;
                    self.lacks_digests = objective.base().is_some_and(|base| !base.page(self.digests).is_empty());
                }
                right
            }
            (Piece::Chunk(index), Response::BaseChunk(bytes)) => {
                let digest = objective.base().and_then(|base| base.digests().get(index as usize));
                let right = digest == Some(blake3::hash(&bytes).as_bytes());
                if right {
                    self.lacks.remove(&index);
                }
                right
            }
            _ => false,
        };
        if right { Taken::Well } else { Taken::Wrong }
    }

    fn is_complete(&self) -> bool {
        !self.lacks_manifest && !self.lacks_digests && self.lacks.is_empty()
    }
}

/// What a machine that has the base answers a joiner.
pub(super) fn answer(question: &Question, objective: &dyn Objective) -> Result<Response> {
    Ok(match (question, objective.base()) {
        (Question::Manifest, _) => Response::Manifest(objective.manifest().encode()?),
        (Question::BaseDigests { from }, Some(base)) => Response::BaseDigests(base.page(*from).to_vec()),
        (Question::BaseChunk { index }, Some(base)) => {
            base.chunk(*index).map_or(Response::Unavailable, |chunk| Response::BaseChunk(chunk.to_vec()))
        }
        _ => Response::Unavailable,
    })
}

impl Machine {
    /// Asks every neighbour for what it may be asked; starts the replica once nothing is lacking.
    pub(super) fn download(&mut self, swarm: &mut Swarm) -> Result<()> {
        let Some(running) = self.running.as_ref().filter(|running| running.download.is_some()) else { return Ok(()) };
        for neighbour in running.neighbours.numbers().collect::<Vec<_>>() {
            while let Some(piece) = self.next_piece(neighbour, swarm.queue.now()) {
                let question = match piece {
                    Piece::Manifest => Question::Manifest,
                    Piece::Digests => Question::BaseDigests { from: self.digests_here() },
                    Piece::Chunk(index) => Question::BaseChunk { index },
                };
                let run = if piece == Piece::Manifest { RunId([0; 32]) } else { swarm.objective.run() };
                let bytes = Request { run, question }.encode()?;
                let question = self.send_question(neighbour, true, bytes, swarm)?;
                if let Some(download) = self.download_mut() {
                    download.asked.insert(question, (neighbour, piece));
                }
            }
        }
        match self.download_mut().is_some_and(|download| download.is_complete()) {
            true => self.start(swarm),
            false => Ok(()),
        }
    }

    fn download_mut(&mut self) -> Option<&mut Download> {
        self.running.as_mut().and_then(|running| running.download.as_mut())
    }

    fn next_piece(&mut self, neighbour: Number, now: Micros) -> Option<Piece> {
        self.download_mut().and_then(|download| download.next_piece(neighbour, now))
    }

    fn digests_here(&mut self) -> u64 {
        self.download_mut().map_or(0, |download| download.digests)
    }

    /// A neighbour answered a question of the download, or (None) did not.
    pub(super) fn piece(&mut self, question: u64, answer: Option<&[u8]>, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let Some(download) = self.download_mut() else { return Ok(()) };
        let Some((neighbour, piece)) = download.asked.remove(&question) else { return Ok(()) };
        let taken = match answer.map(Response::decode) {
            None => Taken::Unavailable,
            Some(Ok(response)) => download.take(piece, response, &*swarm.objective),
            Some(Err(_)) => Taken::Wrong,
        };
        match taken {
            Taken::Well => {}
            Taken::Unavailable => {
                download.resting.insert(neighbour, now + REST);
            }
            Taken::Wrong => {
                download.resting.insert(neighbour, now + REST);
                self.hold_against(neighbour, Severity::Ban, "a wrong piece of the run", swarm)?;
            }
        }
        self.download(swarm)
    }

    /// Manifest and base are here: the replica starts, and meets the neighbours that there are.
    fn start(&mut self, swarm: &mut Swarm) -> Result<()> {
        let now = swarm.queue.now();
        let Some(running) = &mut self.running else { return Ok(()) };
        let Some(download) = running.download.take() else { return Ok(()) };
        running.disk.contents_mut().has_base = true;
        let now_ms = running.now_ms(now);
        running.started_ms = now_ms;
        running.replica.start(if download.sure { OwnHead::Sure } else { OwnHead::Unconfirmed }, now_ms);
        for neighbour in running.neighbours.numbers() {
            running.replica.peer_connected(NodeId(u64::from(neighbour)), now_ms);
        }
        swarm.note(Kind::Started, self.number, self.life, 0)?;
        self.adopt_own();
        self.carry_out(swarm)
    }
}
