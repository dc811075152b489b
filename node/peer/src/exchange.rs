//! Questions and answers: which are under way, and what the bytes say.

use protocol::{
    manifest::RunId,
    message::{BASE_DIGESTS_MAX, Question, Request, Response},
    segment::Digest,
};
use std::collections::BTreeMap;

use crate::{Answer, NodeId, Output, Piece};

/// A question without answer fails after this long, ms. Shells keep to it.
pub const ANSWER_MS_MAX: u64 = 20_000;

/// What a question is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Anti-entropy.
    Replica,
    /// To tell people in what another run differs.
    OtherRun,
    /// A joiner's: which run is yours?
    Manifest,
    /// A joiner's: digests of the base's chunks.
    Digests,
    /// A joiner's: this chunk of the base.
    Chunk(u64),
}

/// Questions that wait for their answers.
#[derive(Default)]
pub struct Questions {
    next: u64,
    open: BTreeMap<u64, (NodeId, Purpose)>,
}

impl Questions {
    /// Asks; None if the question is too large to send.
    pub fn ask(&mut self, node: NodeId, purpose: Purpose, run: RunId, question: Question) -> Option<Output> {
        let bytes = Request { run, question }.encode().ok()?;
        let question = self.next;
        self.next += 1;
        self.open.insert(question, (node, purpose));
        Some(Output::Ask { node, question, bytes })
    }

    /// Whom a question was put to, and what for. None if it is not awaited any more.
    pub fn close(&mut self, question: u64) -> Option<(NodeId, Purpose)> {
        self.open.remove(&question)
    }

    /// The node is gone: nothing is awaited from it.
    pub fn gone(&mut self, node: NodeId) {
        self.open.retain(|_, (asked, _)| *asked != node);
    }

    /// Questions that are under way, whom they were put to and what for.
    pub fn open(&self) -> impl Iterator<Item = (NodeId, Purpose)> {
        self.open.values().copied()
    }
}

/// Reads what came in answer to a question; `None`: nothing did. A chunk of the base model is returned apart, for the
/// shell to hold until the peer says what to do with it.
pub fn read_answer(bytes: Option<&[u8]>) -> (Answer, Option<Vec<u8>>) {
    match bytes.map(Response::decode) {
        None => (Answer::None, None),
        Some(Err(error)) => (Answer::Malformed(error.to_string()), None),
        Some(Ok(Response::BaseChunk(chunk))) => {
            let digest = *blake3::hash(&chunk).as_bytes();
            (Answer::Chunk { digest, length: chunk.len() as u64 }, Some(chunk))
        }
        Some(Ok(response)) => (Answer::Message(response), None),
    }
}

/// The answer to a request for a piece of the base model whose chunks have these digests. `chunk` reads one, or returns
/// None if it cannot.
pub fn serve(piece: Piece, digests: &[Digest], chunk: impl FnOnce(u64) -> Option<Vec<u8>>) -> Response {
    match piece {
        Piece::Digests { from } => {
            let from = usize::try_from(from).unwrap_or(usize::MAX).min(digests.len());
            Response::BaseDigests(digests[from..].iter().take(BASE_DIGESTS_MAX).copied().collect())
        }
        Piece::Chunk { index } => chunk(index).map_or(Response::Unavailable, Response::BaseChunk),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_belongs_to_its_question_and_dies_with_its_connection() {
        let mut questions = Questions::default();
        let mut ask = |node| match questions.ask(NodeId(node), Purpose::Replica, RunId([1; 32]), Question::Manifest) {
            Some(Output::Ask { question, .. }) => question,
            other => panic!("{other:?}"),
        };
        let (first, second) = (ask(1), ask(2));
        assert_ne!(first, second);
        questions.gone(NodeId(2));
        assert_eq!(questions.close(second), None);
        assert_eq!(questions.close(first), Some((NodeId(1), Purpose::Replica)));
        assert_eq!(questions.close(first), None, "an answer counts once");
    }

    #[test]
    fn a_chunk_is_told_by_its_digest_and_its_bytes_stay_with_the_shell() {
        let bytes = Response::BaseChunk(vec![5; 9]).encode().unwrap();
        let (answer, chunk) = read_answer(Some(&bytes));
        assert_eq!(answer, Answer::Chunk { digest: *blake3::hash(&[5; 9]).as_bytes(), length: 9 });
        assert_eq!(chunk, Some(vec![5; 9]));
        assert_eq!(read_answer(None), (Answer::None, None));
        assert!(matches!(read_answer(Some(&[0xff; 3])), (Answer::Malformed(_), None)));
    }

    #[test]
    fn pieces_of_a_base_are_served_within_bounds() {
        let digests: Vec<Digest> = vec![[3; 32]; BASE_DIGESTS_MAX + 5];
        let page = |from| match serve(Piece::Digests { from }, &digests, |_| None) {
            Response::BaseDigests(page) => page.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!((page(0), page(BASE_DIGESTS_MAX as u64), page(u64::MAX)), (BASE_DIGESTS_MAX, 5, 0));
        assert_eq!(serve(Piece::Chunk { index: 9 }, &digests, |_| None), Response::Unavailable);
    }
}
