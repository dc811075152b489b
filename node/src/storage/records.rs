//! Between the replica's records and the database's rows.

use anyhow::{Context, Result};
use libp2p::{Multiaddr, PeerId};
use protocol::{
    encoding::{decode, encode},
    replica,
    segment::Chunk,
    statement::Statement,
};

use super::Row;

/// Largest chunk or statement on disk, bytes.
pub const RECORD_BYTES_MAX: usize = 64 * 1024;

/// A record as the database stores it.
pub fn to_row(record: &replica::Record) -> Result<Row> {
    Ok(match record {
        replica::Record::Chunk(chunk) => Row::Chunk {
            machine: chunk.machine,
            first: chunk.first,
            end: chunk.end(),
            bytes: encode::<_, RECORD_BYTES_MAX>(&**chunk)?,
        },
        replica::Record::Statement(statement) => {
            Row::Statement { name: statement.name(), bytes: encode::<_, RECORD_BYTES_MAX>(statement)? }
        }
    })
}

pub fn chunk(bytes: &[u8]) -> Result<Chunk> {
    decode::<_, RECORD_BYTES_MAX>(bytes).context("a damaged ledger record")
}

pub fn statement(bytes: &[u8]) -> Result<Statement> {
    decode::<_, RECORD_BYTES_MAX>(bytes).context("a damaged statement record")
}

/// Addresses to try at the next start.
pub fn known_peers(peers: &[(PeerId, Multiaddr)]) -> Row {
    Row::KnownPeers(peers.iter().map(|(peer, address)| (peer.to_bytes(), address.to_string())).collect())
}

/// Addresses from earlier sessions, as far as they still parse.
pub fn peers(stored: Vec<(Vec<u8>, String)>) -> Vec<(PeerId, Multiaddr)> {
    let parse = |(peer, address): (Vec<u8>, String)| Some((PeerId::from_bytes(&peer).ok()?, address.parse().ok()?));
    stored.into_iter().filter_map(parse).collect()
}

/// What a checkpoint contains.
pub fn encode_contents(contents: &[replica::Contained]) -> Result<Vec<u8>> {
    Ok(encode::<_, CONTENTS_BYTES_MAX>(&contents)?)
}

/// What a checkpoint contains.
pub fn contents(bytes: &[u8]) -> Result<Vec<replica::Contained>> {
    decode::<_, CONTENTS_BYTES_MAX>(bytes).context("a damaged checkpoint record")
}

/// Largest list of a checkpoint's contents: 72 bytes a machine.
const CONTENTS_BYTES_MAX: usize = 16 << 20;
