//! What the network says.

use protocol::{
    manifest::{Manifest, RunId},
    message::{BASE_DIGESTS_MAX, Question, Request, Response},
    replica::{NodeId, Offence, Verdict as ReplicaVerdict},
};

use super::{Asked, Driver};
use crate::network::{Event, PeerId, RequestError, RequestId, Responder, Severity, Verdict};

impl Driver {
    pub(super) fn on_network(&mut self, event: Event) {
        let now_ms = self.now_ms();
        match event {
            Event::PeerConnected(peer_id) => {
                self.next_peer += 1;
                let peer = NodeId(self.next_peer);
                self.peers.insert(peer_id, peer);
                self.peer_ids.insert(peer, peer_id);
                self.replica.peer_connected(peer, now_ms);
                self.status.peers(self.peers.len());
            }
            Event::PeerGone(peer_id) => {
                if let Some(peer) = self.peers.remove(&peer_id) {
                    self.peer_ids.remove(&peer);
                    self.replica.peer_gone(peer);
                }
                self.status.peers(self.peers.len());
            }
            Event::Gossip { source, message, bytes } => {
                let peer = self.peers.get(&source).copied();
                let verdict = match peer.map(|peer| self.replica.gossip(peer, &bytes, now_ms)) {
                    Some(ReplicaVerdict::Accept) => Verdict::Accept,
                    Some(ReplicaVerdict::Reject) => Verdict::Reject,
                    // From someone who has gone: others have it, too.
                    Some(ReplicaVerdict::Ignore) | None => Verdict::Ignore,
                };
                self.network.report(&message, &source, verdict);
            }
            Event::Request { peer, bytes, responder } => self.on_request(peer, &bytes, responder),
            Event::Response { peer, request, result } => self.on_response(peer, request, result),
            Event::ListenAddress(address) => self.status.listening(&address),
            Event::BootstrapUnreachable { address, error, retry_in } => {
                self.status.bootstrap_unreachable(&address, &error, retry_in);
            }
        }
    }

    fn on_request(&mut self, peer_id: PeerId, bytes: &[u8], responder: Responder) {
        let request = match Request::decode(bytes) {
            Ok(request) => request,
            Err(error) => {
                tracing::debug!(peer = %peer_id, %error, "a request is no message");
                self.network.penalize(&peer_id, Severity::Fault, "malformed request");
                return;
            }
        };
        let response = self.response(peer_id, &request);
        if let Ok(bytes) = response.encode() {
            self.network.respond(responder, bytes);
        }
    }

    fn response(&mut self, peer_id: PeerId, request: &Request) -> Response {
        let run = *self.replica.run();
        let knows_run = matches!(request.question, Question::Manifest);
        if request.run != run && !knows_run {
            return Response::WrongRun(run);
        }
        match &request.question {
            Question::Manifest => Response::Manifest(self.manifest_bytes.clone()),
            Question::BaseDigests { from } => {
                let digests = self.base.chunk_digests();
                let from = usize::try_from(*from).unwrap_or(usize::MAX).min(digests.len());
                Response::BaseDigests(digests[from..].iter().take(BASE_DIGESTS_MAX).copied().collect())
            }
            Question::BaseChunk { index } => match self.base.chunk(*index) {
                Ok(bytes) => Response::BaseChunk(bytes),
                Err(error) => {
                    tracing::debug!(index, %error, "a chunk of the base model that cannot be served");
                    Response::Unavailable
                }
            },
            question => {
                let now_ms = self.now_ms();
                let peer = self.peers.get(&peer_id).copied();
                let answer = peer.and_then(|peer| self.replica.answer(peer, question, now_ms));
                answer.unwrap_or(Response::Unavailable)
            }
        }
    }

    fn on_response(&mut self, peer_id: PeerId, request: RequestId, result: Result<Vec<u8>, RequestError>) {
        let now_ms = self.now_ms();
        let asked = self.asked.remove(&request);
        let response = match result.map_err(|error| error.to_string()).and_then(|bytes| {
            Response::decode(&bytes).map_err(|error| {
                self.network.penalize(&peer_id, Severity::Fault, "malformed response");
                error.to_string()
            })
        }) {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(peer = %peer_id, error, "no answer");
                if let Some(Asked::Replica(peer)) = asked {
                    self.replica.no_answer(peer);
                }
                return;
            }
        };
        match (asked, response) {
            (Some(Asked::Replica(peer)), Response::WrongRun(run)) => {
                self.replica.no_answer(peer);
                self.on_wrong_run(peer_id, run);
            }
            (Some(Asked::Replica(peer)), response) => self.replica.answered(peer, response, now_ms),
            (Some(Asked::StrangersManifest(peer)), Response::Manifest(bytes)) => self.refuse_stranger(peer, &bytes),
            (Some(Asked::StrangersManifest(_)) | None, _) => {}
        }
    }

    /// A peer of another run: fetch its manifest, so that people can be told what differs.
    fn on_wrong_run(&mut self, peer_id: PeerId, run: RunId) {
        tracing::debug!(peer = %peer_id, %run, "a peer of another run");
        let request = Request { run, question: Question::Manifest };
        if let Ok(bytes) = request.encode() {
            let id = self.network.request(peer_id, bytes);
            self.asked.insert(id, Asked::StrangersManifest(peer_id));
        }
    }

    fn refuse_stranger(&mut self, peer_id: PeerId, manifest: &[u8]) {
        let differences = match Manifest::decode(manifest) {
            Ok((theirs, _)) => self.replica.manifest().differences(&theirs).join("; "),
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            peer = %peer_id,
            "refused: this peer is of another run ({differences}). To join its run, start a node with another --state and \
             this peer as --bootstrap"
        );
        self.network.penalize(&peer_id, Severity::Ban, "another run");
    }

    pub(super) fn penalize(&mut self, peer: NodeId, offence: &Offence) {
        let Some(peer_id) = self.peer_ids.get(&peer).copied() else { return };
        let reason = match offence {
            Offence::Malformed(reason) | Offence::Invalid(reason) => reason.as_str(),
            Offence::Unasked => "an answer to another question",
        };
        self.network.penalize(&peer_id, Severity::Fault, reason);
    }

    /// Keeps the addresses of peers for the next start.
    pub(super) fn remember_peers(&mut self) {
        let mut peers = self.network.known_peers();
        peers.sort();
        if !peers.is_empty() && peers != self.remembered {
            self.remembered.clone_from(&peers);
            self.storage.submit(vec![crate::records::known_peers(&peers)], None);
        }
    }
}
