//! Rows of a Parquet file.

use anyhow::{Context, Result, anyhow, bail, ensure};
use minijinja::Value;
use parquet::{
    basic::{Compression, ConvertedType},
    file::{
        metadata::ParquetMetaData,
        reader::{FileReader, SerializedFileReader},
    },
    record::Field,
    schema::types::Type,
};
use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

use super::row::{Content, Row};

const MAGIC: &[u8] = b"PAR1";
/// Largest table of contents that is read, bytes: it is in memory as a whole.
const FOOTER_BYTES_MAX: u32 = 1 << 28;
/// Largest page, bytes as they are once unpacked: of each column one is in memory.
const PAGE_BYTES_MAX: i64 = 1 << 30;
/// Deepest nesting of columns.
const DEPTH_MAX: usize = 32;
/// What the library takes of the stack for each byte of the table of contents, at most: some 900 for each level of
/// columns, of which one takes seven bytes. It goes through them level by level, before their depth can be asked.
const STACK_PER_BYTE: usize = 160;
/// Smallest and largest stack to read it with. It is address space; what is not used costs nothing.
const STACK_BYTES: (usize, usize) = (1 << 21, 1 << 30);
/// What to do about a file that cannot be read.
const REMEDY: &str = "write or download it again, or give its rows as JSON Lines (datasets: to_json, pandas: to_json with \
                      lines=True)";

/// Reads all rows; `sink` gets each. `progress` counts bytes of the file. Errors name the row, if some could be read.
pub fn read(mut file: File, progress: &AtomicU64, sink: &mut dyn FnMut(Row) -> Result<()>) -> Result<()> {
    let footer = check_ends(&mut file)?;
    let reader = open(file, footer)?;
    let mut number = 0u64;
    for group in 0..reader.num_row_groups() {
        let place = format!("row group {group}");
        let group = sound(&place, || reader.get_row_group(group))?;
        let rows = u64::try_from(group.metadata().num_rows()).unwrap_or(0);
        let mut of_group = sound(&place, || group.get_row_iter(None))?;
        for _ in 0..rows {
            number += 1;
            let place = format!("row {number}");
            let Some(row) = sound(&place, || of_group.next().transpose())? else { break };
            let fields = row.get_column_iter().map(|(name, field)| (name.as_str(), value(field)));
            sink(Row { place, content: Content::Value(Value::from_pairs(fields)) })?;
        }
        progress.fetch_add(u64::try_from(group.metadata().compressed_size()).unwrap_or(0), Ordering::Relaxed);
    }
    Ok(())
}

/// A reader of a file with a table of contents of `footer` bytes, if its columns are of a shape that has rows.
fn open(file: File, footer: u32) -> Result<SerializedFileReader<File>> {
    let (smallest, largest) = STACK_BYTES;
    let stack = (footer as usize).saturating_mul(STACK_PER_BYTE).clamp(smallest, largest);
    let opening = thread::Builder::new().stack_size(stack).spawn(move || -> Result<_> {
        let reader = sound("its table of contents", || SerializedFileReader::new(file))?;
        check(reader.metadata())?;
        Ok(reader)
    });
    let opened = opening.context("cannot start a thread to read a Parquet file")?.join();
    opened.unwrap_or_else(|_| Err(anyhow!("the Parquet file is damaged: its table of contents; {REMEDY}")))
}

/// What the library makes of a file, at `place`. Where it meets what its authors thought impossible it panics: an error
/// here.
fn sound<T>(place: &str, read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    let damaged = |why: &str| anyhow!("the Parquet file is damaged: {place}: {why}; {REMEDY}");
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(read) => read.map_err(|error| damaged(&error.to_string())),
        Err(panic) => {
            let words = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(damaged(words.unwrap_or("it breaks the format")))
        }
    }
}

/// Bytes of the table of contents. Errors if the file does not end as it begins, or its end asks for more memory than a
/// sound one does.
fn check_ends(file: &mut File) -> Result<u32> {
    let size = file.seek(SeekFrom::End(0))?;
    let mut end = [0; 8];
    let is_long = size >= 12;
    if is_long {
        file.seek(SeekFrom::End(-8))?;
        file.read_exact(&mut end)?;
    }
    let [a, b, c, d, magic @ ..] = end;
    ensure!(magic != *b"PARE", "an encrypted Parquet file; decrypt it");
    ensure!(is_long && magic == *MAGIC, "the Parquet file is cut off: its last bytes are not PAR1; {REMEDY}");
    let footer = u32::from_le_bytes([a, b, c, d]);
    let is_within = u64::from(footer) <= size - 12 && footer <= FOOTER_BYTES_MAX;
    ensure!(is_within, "the Parquet file is damaged: its table of contents has {footer} bytes of {size}; {REMEDY}");
    Ok(footer)
}

/// Errors if the columns are of no shape that has rows.
fn check(metadata: &ParquetMetaData) -> Result<()> {
    let schema = metadata.file_metadata().schema();
    check_fields(schema, DEPTH_MAX)?;
    for (group, metadata) in metadata.row_groups().iter().enumerate() {
        ensure!(
            metadata.num_rows() >= 0,
            "the Parquet file is damaged: row group {group} has {} rows; {REMEDY}",
            metadata.num_rows()
        );
        for column in metadata.columns() {
            let (name, bytes) = (column.column_path().string(), column.uncompressed_size());
            ensure!(
                (0..=PAGE_BYTES_MAX).contains(&bytes),
                "column {name} of row group {group} has {bytes} bytes, and {PAGE_BYTES_MAX} are read at most: write the file \
                 with smaller row groups"
            );
            check_codec(column.compression())?;
        }
    }
    Ok(())
}

/// Errors if the pages are compressed by what is not read.
fn check_codec(codec: Compression) -> Result<()> {
    let name = match codec {
        Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::GZIP(_) | Compression::ZSTD(_) => return Ok(()),
        Compression::BROTLI(_) => "Brotli",
        Compression::LZ4 | Compression::LZ4_RAW => "LZ4",
        Compression::LZO => "LZO",
    };
    bail!("the Parquet file is compressed by {name}, which is not read: write it with snappy, gzip or zstd")
}

/// Errors if a group of columns is empty, or a list or a map has not the shape that the format gives it.
fn check_fields(group: &Type, depth: usize) -> Result<()> {
    let name = group.name();
    ensure!(!group.get_fields().is_empty(), "the Parquet file has no columns in {name:?}; {REMEDY}");
    ensure!(depth > 0, "the columns of the Parquet file are nested more than {DEPTH_MAX} deep; {REMEDY}");
    for field in group.get_fields().iter().filter(|field| field.is_group()) {
        check_fields(field, depth - 1)?;
        let kind = field.get_basic_info().converted_type();
        let is_map = matches!(kind, ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE);
        let [inner] = field.get_fields() else {
            ensure!(
                !is_map && kind != ConvertedType::LIST,
                "the Parquet file is damaged: column {:?} is no list; {REMEDY}",
                field.name()
            );
            continue;
        };
        let is_pairs = inner.is_group() && inner.get_fields().len() <= 2;
        ensure!(!is_map || is_pairs, "the Parquet file is damaged: column {:?} is no map; {REMEDY}", field.name());
    }
    Ok(())
}

fn value(field: &Field) -> Value {
    match field {
        Field::Null => Value::from(()),
        Field::Bool(value) => Value::from(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        Field::Float16(value) => Value::from(f32::from(*value)),
        Field::Float(value) => Value::from(*value),
        Field::Double(value) => Value::from(*value),
        Field::Str(text) => Value::from(text.as_str()),
        // Older writers do not say which bytes are text.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::from(text),
            Err(_) => Value::from_bytes(bytes.data().to_vec()),
        },
        Field::Group(row) => {
            Value::from_pairs(row.get_column_iter().map(|(name, field)| (name.as_str(), value(field))))
        }
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            Value::from_pairs(map.entries().iter().map(|(key, field)| (value(key).to_string(), value(field))))
        }
        // Dates, times and decimals: as they are written.
        other => Value::from(other.to_string()),
    }
}
