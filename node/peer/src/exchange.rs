//! Questions and answers.

use protocol::{
    message::{BASE_DIGESTS_MAX, Response},
    segment::Digest,
};

use crate::{Answer, Piece};

/// A question without answer fails after this long, ms. Shells keep to it.
pub const ANSWER_MS_MAX: u64 = 20_000;

/// Reads what came in answer to a question; `None`: nothing did. A chunk of the base model is returned apart, for the shell to
/// hold until the peer says what to do with it.
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

/// The answer to a request for a piece of the base model whose chunks have these digests. `chunk` reads one, or returns None
/// if it cannot.
pub fn serve(piece: Piece, digests: &[Digest], chunk: impl FnOnce(u64) -> Option<Vec<u8>>) -> Response {
    match piece {
        Piece::Digests { from } => {
            let from = usize::try_from(from).unwrap_or(usize::MAX).min(digests.len());
            Response::BaseDigests(digests[from..].iter().take(BASE_DIGESTS_MAX).copied().collect())
        }
        Piece::Chunk { index } => chunk(index).map_or(Response::Unavailable, Response::BaseChunk),
    }
}
