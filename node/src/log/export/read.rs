//! From the file to a replica. The file may be damaged, or made by someone who means harm: nothing in it is believed
//! before its check holds, and no more memory is taken than it has bytes.

use anyhow::{Context, Result, anyhow, bail, ensure};
use protocol::{
    machine::MachineId,
    manifest::{MANIFEST_BYTES_MAX, Manifest, PROTOCOL_VERSION},
    replica::Replica,
    segment::{CHUNK_SAMPLES_MAX, CHUNK_SEGMENTS_MAX, Chunk, Part},
    signature::Signature,
};
use std::io::Read;

use super::{CHECK_BYTES, END_BYTES, HEADER_BYTES, Header, MAGIC, Section, Totals, VERSION, check, columns};
use crate::{
    log::{Content, onlooker},
    storage::records::{self, RECORD_BYTES_MAX},
    system::name::program,
};

/// Damaged sections that an error names.
const NAMED_MAX: usize = 5;
/// Of a machine in the contents, without its chunks.
const MACHINE_BYTES: usize = 44;
/// Of a chunk in the contents.
const ENTRY_BYTES: usize = 4;
/// Signature and number of segments.
const CHUNK_HEAD_BYTES: usize = 66;
/// Machines in one file.
const MACHINES_MAX: u64 = 1 << 24;

/// Reads an export of `bytes` bytes, and checks all of it: sections, digest, signatures, the version vector's root.
///
/// Errors name every damaged section (the first few, if they are many) and say whether the others are sound. `name` is
/// what they call the file.
pub fn read(input: impl Read, bytes: u64, name: &str) -> Result<Content> {
    let mut sections = Sections::of(input, name);
    let header = sections.header(bytes)?;
    let sections_all = header.sections();
    let manifest = sections.next(header.manifest_bytes as usize, Section::Manifest)?;
    let contents = sections.next(header.contents_bytes as usize, Section::Contents)?;
    let Some(contents) = contents else { bail!(sections.verdict(&header, bytes)) };
    let contents = Contents::decode(&contents, &header).with_context(|| format!("{name}: not a usable export"))?;
    let mut content = match manifest {
        Some(manifest) => Some(content_of(manifest, name)?),
        None => None,
    };
    for (machine, first, entry) in contents.chunks() {
        let section = Section::Chunk { machine, first, end: first + u64::from(entry.samples) };
        let payload = sections.next(usize::from(entry.bytes), section)?;
        // Once a part is known to be damaged, the rest is only checked.
        let (Some(payload), Some(content), true) = (payload, &mut content, sections.is_sound()) else { continue };
        restore_chunk(&mut content.replica, machine, first, entry, &payload)
            .with_context(|| format!("{name}: {section} cannot be believed, although it is not damaged"))?;
    }
    let statements = sections.next(header.statements_bytes as usize, Section::Statements)?;
    let root = sections.end()?;
    let (Some(mut content), Some(statements), Some(root), true) = (content, statements, root, sections.is_sound())
    else {
        bail!(sections.verdict(&header, bytes))
    };
    ensure!(
        bytes == header.totals.bytes,
        "{name}: {} bytes follow behind the end of its {sections_all} sections; cut them off, or export it anew",
        bytes.saturating_sub(header.totals.bytes)
    );
    restore_statements(&mut content.replica, &statements).with_context(|| format!("{name}: the statements"))?;
    ensure!(
        content.replica.root() == root,
        "{name}: the end names another version vector than its ledgers give; export it anew"
    );
    Ok(content)
}

fn content_of(manifest_bytes: Vec<u8>, name: &str) -> Result<Content> {
    let (manifest, run) =
        Manifest::decode(&manifest_bytes).with_context(|| format!("{name}: the run's manifest is not usable"))?;
    let replica = onlooker(run, &manifest)?;
    Ok(Content { run, manifest: manifest.into(), manifest_bytes, replica })
}

/// Reads section by section, and remembers what was damaged.
struct Sections<'a, R> {
    input: R,
    name: &'a str,
    hasher: blake3::Hasher,
    number: u32,
    read_bytes: u64,
    sound: u64,
    damaged: u64,
    /// The first of them.
    named: Vec<Section>,
    /// Where the file ended.
    cut_in: Option<Section>,
}

impl<'a, R: Read> Sections<'a, R> {
    fn of(input: R, name: &'a str) -> Self {
        Self {
            input,
            name,
            hasher: blake3::Hasher::new(),
            number: 0,
            read_bytes: 0,
            sound: 0,
            damaged: 0,
            named: Vec::new(),
            cut_in: None,
        }
    }

    fn is_sound(&self) -> bool {
        self.damaged == 0 && self.cut_in.is_none()
    }

    /// At most `bytes`, fewer if the file ends.
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>> {
        let mut taken = Vec::new();
        let result = self.input.by_ref().take(bytes as u64).read_to_end(&mut taken);
        result.with_context(|| format!("{}: cannot be read", self.name))?;
        self.read_bytes += taken.len() as u64;
        Ok(taken)
    }

    fn header(&mut self, file_bytes: u64) -> Result<Header> {
        let name = self.name;
        let bytes = self.take(HEADER_BYTES)?;
        ensure!(!bytes.is_empty(), "{name}: empty; an export is made with {} log export --out", program());
        let start = &bytes[..bytes.len().min(MAGIC.len())];
        ensure!(
            start == &MAGIC[..start.len()],
            "{name}: not an export of a log: the header begins with {:02x?} instead of {MAGIC:02x?}; exports are made with node \
             log export --out",
            start
        );
        let cut = || anyhow!("{name}: ends in the header, after {file_bytes} bytes; copy it anew");
        let damaged = || anyhow!("{name}: damaged in {}; copy it anew from where it was exported", Section::Header);
        let (stable, rest) = bytes.split_at_checked(16).ok_or_else(cut)?;
        if stable[12..] != check(0, &stable[..12])[..4] {
            return Err(damaged());
        }
        let (version, protocol) =
            (u16::from_le_bytes([stable[8], stable[9]]), u16::from_le_bytes([stable[10], stable[11]]));
        ensure!(
            version == VERSION,
            "{name}: an export of format {version}, this program reads format {VERSION}; read it with the release that made it"
        );
        ensure!(
            protocol == PROTOCOL_VERSION,
            "{name}: the log of a run that speaks protocol version {protocol}, this program speaks {PROTOCOL_VERSION}; use a {} \
             release",
            if protocol > PROTOCOL_VERSION { "newer" } else { "matching, older" }
        );
        if bytes.len() < HEADER_BYTES {
            return Err(cut());
        }
        let (checked, sum) = bytes.split_at(HEADER_BYTES - CHECK_BYTES);
        if check(0, checked) != sum {
            return Err(damaged());
        }
        self.hasher.update(&bytes);
        (self.number, self.sound) = (1, 1);
        decode_header(rest).with_context(|| format!("{name}: not a usable export"))
    }

    /// The next section's payload; None if it is damaged or not there.
    fn next(&mut self, length: usize, section: Section) -> Result<Option<Vec<u8>>> {
        if self.cut_in.is_some() {
            return Ok(None);
        }
        let mut bytes = self.take(length.saturating_add(CHECK_BYTES))?;
        if bytes.len() < length.saturating_add(CHECK_BYTES) {
            self.cut_in = Some(section);
            return Ok(None);
        }
        self.hasher.update(&bytes);
        let sum = bytes.split_off(length);
        let number = self.number;
        self.number = self.number.wrapping_add(1);
        if check(number, &bytes) == sum[..] {
            self.sound += 1;
            return Ok(Some(bytes));
        }
        self.damage(section);
        Ok(None)
    }

    fn damage(&mut self, section: Section) {
        self.damaged += 1;
        if self.named.len() < NAMED_MAX {
            self.named.push(section);
        }
    }

    /// The version vector's root.
    fn end(&mut self) -> Result<Option<[u8; 32]>> {
        if self.cut_in.is_some() {
            return Ok(None);
        }
        let bytes = self.take(END_BYTES)?;
        let Some((root, digest)) = bytes.split_first_chunk::<32>().filter(|_| bytes.len() == END_BYTES) else {
            self.cut_in = Some(Section::End);
            return Ok(None);
        };
        self.hasher.update(root);
        // If another section is damaged, this cannot be right.
        if self.is_sound() && self.hasher.finalize().as_bytes() != digest {
            self.damage(Section::End);
            return Ok(None);
        }
        self.sound += 1;
        Ok(Some(*root))
    }

    /// What is wrong with the file, in one line.
    fn verdict(&self, header: &Header, bytes: u64) -> String {
        let (name, all) = (self.name, header.sections());
        let mut named = self.named.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        if self.damaged > self.named.len() as u64 {
            named.push_str(&format!(", and {} more", self.damaged - self.named.len() as u64));
        }
        if let Some(section) = self.cut_in {
            let damaged = if self.damaged > 0 { format!("; damaged: {named}") } else { String::new() };
            return format!(
                "{name}: ends in {section}, after {} of {all} sections and {bytes} of {} bytes; {} sections are sound{damaged}. Copy \
                 it anew from where it was exported",
                self.sound + self.damaged,
                header.totals.bytes,
                self.sound,
            );
        }
        let others = match self.named.contains(&Section::Contents) {
            true => "what follows cannot be found without them".into(),
            false => format!("the other {} are sound", all.saturating_sub(self.damaged)),
        };
        format!(
            "{name}: damaged in {} of {all} sections: {named}; {others}. Copy it anew from where it was exported",
            self.damaged
        )
    }
}

/// `rest` is what follows the first 16 bytes, checked.
fn decode_header(rest: &[u8]) -> Result<Header> {
    let mut rest = rest;
    let mut u32 = || take_u32(&mut rest);
    let (manifest_bytes, contents_bytes, statements_bytes, machines) = (u32()?, u32()?, u32()?, u32()?);
    let mut u64 = || take_array(&mut rest).map(u64::from_le_bytes);
    let totals = Totals { machines: machines.into(), chunks: u64()?, gradients: u64()?, bytes: u64()? };
    ensure!(manifest_bytes as usize <= MANIFEST_BYTES_MAX, "a manifest of {manifest_bytes} bytes is no run's");
    ensure!(totals.machines <= MACHINES_MAX, "{} machines are more than {MACHINES_MAX}", totals.machines);
    Ok(Header { manifest_bytes, contents_bytes, statements_bytes, totals })
}

fn take_array<const N: usize>(bytes: &mut &[u8]) -> Result<[u8; N]> {
    let (array, rest) = bytes.split_first_chunk().context("it ends early")?;
    *bytes = rest;
    Ok(*array)
}

fn take_u32(bytes: &mut &[u8]) -> Result<u32> {
    take_array(bytes).map(u32::from_le_bytes)
}

fn take_u16(bytes: &mut &[u8]) -> Result<u16> {
    take_array(bytes).map(u16::from_le_bytes)
}

/// A chunk, as the contents have it.
#[derive(Clone, Copy)]
struct Entry {
    samples: u16,
    bytes: u16,
}

struct Contents(Vec<(MachineId, Vec<Entry>)>);

impl Contents {
    fn decode(mut bytes: &[u8], header: &Header) -> Result<Self> {
        let mut machines: Vec<(MachineId, Vec<Entry>)> = Vec::new();
        let (mut chunks, mut gradients) = (0u64, 0u64);
        while !bytes.is_empty() {
            ensure!(bytes.len() >= MACHINE_BYTES, "the contents end within a machine");
            let machine =
                MachineId { key: take_array(&mut bytes)?, incarnation: u64::from_le_bytes(take_array(&mut bytes)?) };
            ensure!(machines.last().is_none_or(|(last, _)| *last < machine), "machine {machine} is out of order");
            let count = take_u32(&mut bytes)? as usize;
            ensure!(
                count > 0 && count <= bytes.len() / ENTRY_BYTES,
                "machine {machine}: {count} chunks are not listed"
            );
            let mut entries = Vec::with_capacity(count);
            for _ in 0..count {
                let entry = Entry { samples: take_u16(&mut bytes)?, bytes: take_u16(&mut bytes)? };
                let samples = usize::from(entry.samples);
                ensure!(
                    (1..=CHUNK_SAMPLES_MAX).contains(&samples),
                    "machine {machine}: a chunk of {samples} samples, they have 1 to {CHUNK_SAMPLES_MAX}"
                );
                gradients += u64::from(entry.samples);
                entries.push(entry);
            }
            chunks += count as u64;
            machines.push((machine, entries));
        }
        let Totals { machines: machines_all, chunks: chunks_all, gradients: gradients_all, .. } = header.totals;
        ensure!(
            (machines.len() as u64, chunks, gradients) == (machines_all, chunks_all, gradients_all),
            "the contents have {} machines, {chunks} chunks and {gradients} gradients, the header says {machines_all}, {chunks_all} \
             and {gradients_all}",
            machines.len()
        );
        Ok(Self(machines))
    }

    /// (machine, first sample, entry) in the order of the file.
    fn chunks(&self) -> impl Iterator<Item = (MachineId, u64, Entry)> {
        self.0.iter().flat_map(|(machine, entries)| {
            entries.iter().scan(0u64, |first, entry| {
                let start = *first;
                *first += u64::from(entry.samples);
                Some((*machine, start, *entry))
            })
        })
    }
}

fn restore_chunk(replica: &mut Replica, machine: MachineId, first: u64, entry: Entry, payload: &[u8]) -> Result<()> {
    ensure!(replica.manifest().admits(&machine), "it is not a member of this run");
    let previous = replica.ledger(&machine).map(|ledger| ledger.head()).unwrap_or_default();
    let (parts, signature, bytes) = decode_payload(payload, usize::from(entry.samples))?;
    let chunk = Chunk { machine, first, previous, parts, bytes, signature };
    replica.restore_chunk(chunk)?;
    Ok(())
}

/// Segments, signature and bytes of a chunk's section.
pub(super) fn decode_payload(payload: &[u8], samples: usize) -> Result<(Vec<Part>, Signature, Vec<u8>)> {
    ensure!(payload.len() >= CHUNK_HEAD_BYTES + samples, "{} bytes are too few for {samples} samples", payload.len());
    let malformed = |_| anyhow!("its segments are malformed");
    let mut rest = payload;
    let signature = Signature(take_array(&mut rest)?);
    let segments = usize::from(take_u16(&mut rest)?);
    ensure!((1..=CHUNK_SEGMENTS_MAX).contains(&segments), "{segments} segments, a chunk has 1 to {CHUNK_SEGMENTS_MAX}");
    let lengths = columns::take(&mut rest, segments).map_err(malformed)?;
    let mut swarm_step = columns::take_varint(&mut rest).map_err(malformed)?;
    let increases = columns::take(&mut rest, segments - 1).map_err(malformed)?;
    ensure!(rest.len() == samples, "{} bytes for {samples} samples", rest.len());
    let mut parts = Vec::with_capacity(segments);
    for (length, increase) in lengths.into_iter().zip([0].into_iter().chain(increases)) {
        swarm_step = swarm_step.checked_add(increase).context("a swarm step exceeds all bounds")?;
        parts.push(Part { samples: u16::try_from(length).context("a segment is too long")?, swarm_step });
    }
    Ok((parts, signature, rest.to_vec()))
}

fn restore_statements(replica: &mut Replica, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let length = take_u32(&mut bytes)? as usize;
        ensure!(length <= RECORD_BYTES_MAX, "one of {length} bytes, they have at most {RECORD_BYTES_MAX}");
        let (statement, rest) = bytes.split_at_checked(length).context("the last one ends early")?;
        replica.restore_statement(records::statement(statement)?)?;
        bytes = rest;
    }
    Ok(())
}
