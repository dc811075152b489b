//! Gossip, requests and answers of neighbours. Floods were cut before they come here.

use protocol::{
    message::{Question, Request, Response},
    replica::{NodeId, Verdict},
};

use super::state::{Context, Running};
use crate::{Answer, Notice, Output, Piece, exchange::Purpose, join};

impl Running {
    /// A gossip message: judged, and passed on as far as neighbours would take it.
    pub(super) fn gossip(&mut self, from: NodeId, message: u64, bytes: &[u8], cx: &mut Context<'_>) {
        // From someone who has gone: others have it, too.
        let is_heard = cx.links.neighbours().contains(&from);
        let verdict = match is_heard {
            true => self.replica.gossip(from, &self.forgotten.read(bytes), cx.now_ms),
            false => Verdict::Ignore,
        };
        let may_go_on = verdict != Verdict::Accept || cx.links.may_forward(bytes.len(), cx.now_ms);
        let verdict = if may_go_on { verdict } else { Verdict::Ignore };
        cx.outputs.push_back(Output::Validate { message, from, verdict });
    }

    /// A question: answered, or dropped if it is none.
    pub(super) fn request(&mut self, from: NodeId, request: u64, bytes: &[u8], cx: &mut Context<'_>) {
        let dropped = Output::Drop { request };
        let Ok(asked) = Request::decode(bytes) else {
            cx.links.fault(from, "malformed request", cx.now_ms, cx.outputs);
            return cx.outputs.push_back(dropped);
        };
        let output = match self.response(from, &asked, cx) {
            Ok(response) => response.encode().map_or(dropped, |bytes| Output::Respond { request, bytes }),
            Err(piece) => Output::Serve { request, piece },
        };
        cx.outputs.push_back(output);
    }

    /// The answer, or the piece of the base that is one.
    fn response(&mut self, from: NodeId, asked: &Request, cx: &Context<'_>) -> Result<Response, Piece> {
        let is_other_run = asked.run != self.run.id;
        match &asked.question {
            Question::Manifest => Ok(Response::Manifest(self.run.bytes.to_vec())),
            _ if is_other_run => Ok(Response::WrongRun(self.run.id)),
            Question::BaseDigests { from } => Err(Piece::Digests { from: *from }),
            Question::BaseChunk { index } => Err(Piece::Chunk { index: *index }),
            question if cx.links.neighbours().contains(&from) => {
                Ok(self.replica.answer(from, question, cx.now_ms).unwrap_or(Response::Unavailable))
            }
            _ => Ok(Response::Unavailable),
        }
    }

    /// An answer to a question that was asked for `purpose`. Those to a joiner's questions are of no use any more.
    pub fn answer(&mut self, node: NodeId, purpose: Purpose, answer: Answer, cx: &mut Context<'_>) {
        if !self.is_going() {
            return;
        }
        if let Answer::Malformed(_) = answer {
            cx.links.fault(node, "malformed response", cx.now_ms, cx.outputs);
        }
        match (purpose, answer) {
            // See `take_in`: nothing more of others.
            (Purpose::Replica, _) if self.is_flushing() => self.replica.no_answer(node),
            (Purpose::Replica, Answer::Message(Response::WrongRun(run))) => {
                self.replica.no_answer(node);
                // Its manifest tells people what differs.
                cx.links.ask(node, Purpose::OtherRun, run, Question::Manifest, cx.outputs);
            }
            (Purpose::Replica, Answer::Message(response)) => self.replica.answered(node, response, cx.now_ms),
            (Purpose::Replica, Answer::Chunk { .. }) => {
                self.replica.answered(node, Response::BaseChunk(Vec::new()), cx.now_ms);
            }
            (Purpose::Replica, Answer::None | Answer::Malformed(_)) => self.replica.no_answer(node),
            (Purpose::OtherRun, answer) => self.part_with_other_run(node, &answer, cx),
            (Purpose::Manifest | Purpose::Digests | Purpose::Chunk(_), _) => {}
        }
        self.carry_out(cx);
        self.move_on(cx);
    }

    fn part_with_other_run(&mut self, node: NodeId, answer: &Answer, cx: &mut Context<'_>) {
        let Some((run, differences)) = join::differences(&self.run.manifest, answer) else { return };
        cx.outputs.push_back(Output::Notice(Notice::OtherRun { node, run, differences }));
        cx.links.part(node, cx.now_ms, cx.outputs);
        self.replica.peer_gone(node);
    }
}
