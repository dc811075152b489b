//! From a replica to the file.

use anyhow::{Context, Result, bail};
use protocol::{encoding::encode, manifest::PROTOCOL_VERSION, replica::Replica, segment::Chunk};
use std::io::Write;

use super::{CHECK_BYTES, END_BYTES, HEADER_BYTES, Header, Totals, check, columns};
use crate::storage::records::RECORD_BYTES_MAX;

/// Writes the log that `replica` holds.
///
/// Fails if `out` does, or if a part of the log is too large for the format: 4 GiB of contents or of statements.
pub fn write(out: &mut impl Write, manifest: &[u8], replica: &Replica) -> Result<Totals> {
    let (contents, chunks, mut totals) = ledgers(replica)?;
    let statements = statements(replica)?;
    let payloads = manifest.len() + contents.len() + statements.len() + chunks.iter().map(Vec::len).sum::<usize>();
    totals.bytes = (HEADER_BYTES + payloads + CHECK_BYTES * (chunks.len() + 3) + END_BYTES) as u64;
    let size = |bytes: &[u8], what: &str| u32::try_from(bytes.len()).with_context(|| format!("{what} exceed 4 GiB"));
    let header = Header {
        manifest_bytes: size(manifest, "the manifest's bytes")?,
        contents_bytes: size(&contents, "the contents")?,
        statements_bytes: size(&statements, "the statements")?,
        totals,
    };
    let mut out = Hashing { out, hasher: blake3::Hasher::new() };
    out.put(&header.encode(PROTOCOL_VERSION))?;
    let payloads = [manifest, &contents].into_iter().chain(chunks.iter().map(Vec::as_slice)).chain([&statements[..]]);
    for (number, payload) in (1u32..).zip(payloads) {
        out.put(payload)?;
        out.put(&check(number, payload))?;
    }
    out.put(&replica.root())?;
    let digest = *out.hasher.finalize().as_bytes();
    out.put(&digest)?;
    Ok(totals)
}

struct Hashing<W> {
    out: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Hashing<W> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        Ok(self.out.write_all(bytes)?)
    }
}

/// The contents, and every chunk's payload in their order.
fn ledgers(replica: &Replica) -> Result<(Vec<u8>, Vec<Vec<u8>>, Totals)> {
    let (mut contents, mut payloads, mut totals) = (Vec::new(), Vec::new(), Totals::default());
    for (machine, ledger, _) in replica.machines().filter(|(_, ledger, _)| ledger.height() > 0) {
        contents.extend(machine.key);
        contents.extend(machine.incarnation.to_le_bytes());
        contents.extend((ledger.chunks().len() as u32).to_le_bytes());
        for chunk in ledger.chunks() {
            let payload = payload(chunk);
            let (Ok(samples), Ok(bytes)) = (u16::try_from(chunk.bytes.len()), u16::try_from(payload.len())) else {
                bail!("machine {machine}: the chunk at sample {} is larger than a chunk may be", chunk.first)
            };
            contents.extend(samples.to_le_bytes());
            contents.extend(bytes.to_le_bytes());
            payloads.push(payload);
        }
        totals.machines += 1;
        totals.chunks += ledger.chunks().len() as u64;
        totals.gradients += ledger.height();
    }
    Ok((contents, payloads, totals))
}

/// A chunk without its check.
pub(super) fn payload(chunk: &Chunk) -> Vec<u8> {
    let mut payload = chunk.signature.0.to_vec();
    payload.extend((chunk.parts.len() as u16).to_le_bytes());
    let lengths: Vec<u64> = chunk.parts.iter().map(|part| u64::from(part.samples)).collect();
    columns::put(&mut payload, &lengths);
    columns::put_varint(&mut payload, chunk.parts.first().map_or(0, |part| part.swarm_step));
    // Never negative: a ledger's steps do not fall.
    let increase = |pair: &[protocol::segment::Part]| pair[1].swarm_step.saturating_sub(pair[0].swarm_step);
    let increases: Vec<u64> = chunk.parts.windows(2).map(increase).collect();
    columns::put(&mut payload, &increases);
    payload.extend(&chunk.bytes);
    payload
}

fn statements(replica: &Replica) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for statement in replica.statements() {
        let encoded = encode::<_, RECORD_BYTES_MAX>(&statement)?;
        bytes.extend((encoded.len() as u32).to_le_bytes());
        bytes.extend(encoded);
    }
    Ok(bytes)
}
