//! Parquet files of pyarrow's (`scripts/compare_forms.py --fixtures`), whole and broken.

use crate::forms::{read, read_with, rows};
use engine::data::Columns;
use std::{fs, path::PathBuf};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parquet").join(name)
}

#[test]
fn parquet_has_the_rows_that_json_lines_have_whatever_its_codec() {
    let lines = read_with(&Columns::default(), &fixture("chat.jsonl"), 256).unwrap();
    assert_eq!(rows(&lines).len(), 6);
    for codec in ["snappy", "zstd", "gzip", "none"] {
        let path = fixture(&format!("chat-{codec}.parquet"));
        let read = read_with(&Columns::default(), &path, 256).unwrap();
        assert_eq!(rows(&read), rows(&lines), "{codec}");
        let (report, of_lines) = (read.report().to_string(), lines.report().to_string());
        assert!(report.contains("Parquet, 6 rows (messages)"), "{report}");
        assert_eq!(
            report.split_once("; columns"),
            of_lines.split_once("; columns").map(|(_, left)| (report.split_once("; columns").unwrap().0, left))
        );
    }
}

#[test]
fn parquet_is_told_by_content_in_a_directory_and_compressed_as_a_whole() {
    let whole = fs::read(fixture("chat-snappy.parquet")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &whole).unwrap();
    write("a.txt", &whole);
    write("b.gz", &gzip.finish().unwrap());
    write("c.parquet", &whole[..whole.len() / 2]);
    fs::copy(fixture("empty.parquet"), directory.path().join("d.parquet")).unwrap();
    fs::copy(fixture("chat.jsonl"), directory.path().join("e")).unwrap();
    let read = read_with(&Columns::default(), directory.path(), 256).unwrap();
    assert_eq!(read.windows(), 3 * 6);
    let report = read.report().to_string();
    for part in ["1 JSON Lines", "3 Parquet (gzip)", "c.parquet: the Parquet file is cut off"] {
        assert!(report.contains(part), "{part} in {report}");
    }
}

#[test]
fn a_codec_that_is_not_read_is_named_and_the_file_is_not_called_damaged() {
    for (codec, name) in [("brotli", "Brotli"), ("lz4", "LZ4")] {
        let error = read_with(&Columns::default(), &fixture(&format!("chat-{codec}.parquet")), 256).err().unwrap();
        assert!(error.contains(&format!("compressed by {name}, which is not read: write it with snappy")), "{error}");
    }
}

#[test]
fn every_kind_of_column_becomes_what_json_has() {
    let shown = |template: &str| {
        let columns = Columns::new(None, Some(template)).unwrap();
        let read = read_with(&columns, &fixture("kinds.parquet"), 256);
        read.map(|read| rows(&read)[0].replace(['[', ']'], "|"))
    };
    let all = "x{% for c in [none, yes, small, large, half, day, price, bytes] %} {{ c }}{% endfor %}";
    assert_eq!(shown(all).unwrap(), "x| None True -3 9223372036854775809 0.5 2024-02-29 1.50 café|".replace('é', "Ã©"));
    let nested =
        "x {{ list | length }} {{ list[2] }} {{ pairs.k }} {{ deep.a[0].b }} {{ deep.d }} {{ noise is string }}";
    assert_eq!(shown(nested).unwrap(), "x| 3 3 1 c None False|");
}

#[test]
fn what_is_damaged_is_an_error_with_a_remedy_and_never_a_panic() {
    let empty = read_with(&Columns::default(), &fixture("empty.parquet"), 256).err().unwrap();
    assert!(empty.contains("empty.parquet has no text"), "{empty}");
    for codec in ["snappy", "none"] {
        let whole = fs::read(fixture(&format!("chat-{codec}.parquet"))).unwrap();
        for length in (4..whole.len()).step_by(61) {
            let error = read("cut.parquet", &whole[..length]).err().unwrap();
            assert!(error.contains("Parquet file is") && error.contains("JSON Lines"), "{length}: {error}");
        }
        // Any byte may be wrong: what comes out is rows, or an error.
        for at in (4..whole.len() - 4).step_by(7) {
            for flip in [0x01, 0x80, 0xff] {
                let mut damaged = whole.clone();
                damaged[at] ^= flip;
                if let Err(error) = read("damaged.parquet", &damaged) {
                    assert!(error.contains("damaged.parquet"), "byte {at}: {error}");
                }
            }
        }
    }
}

/// The library goes through columns level by level, and a node was aborted.
#[test]
fn columns_that_lie_deep_within_columns_are_an_error() {
    // Version 1, and the list of 60,002 columns: a root, groups within each other, a number.
    let mut footer = vec![0x15, 0x02, 0x19, 0xfc, 0xe2, 0xd4, 0x03, 0x48, 1, b'r', 0x15, 0x02, 0];
    footer.extend([0x35, 0, 0x18, 1, b'a', 0x15, 0x02, 0].repeat(60_000));
    footer.extend([0x15, 0x02, 0x25, 0, 0x18, 1, b'x', 0]);
    // No rows, no row groups.
    footer.extend([0x16, 0, 0x19, 0x0c, 0]);
    let size = u32::try_from(footer.len()).unwrap().to_le_bytes();
    let error = read("deep.parquet", [&b"PAR1"[..], &footer, &size, b"PAR1"].concat()).err().unwrap();
    assert!(error.contains("nested more than 32 deep"), "{error}");
}
