//! What users' files have beside what they should: what is read of it, and what is said.

use crate::forms::{read, read_with, rows, rows_of};
use engine::data::Columns;
use std::{fs, io::Write};
use tempfile::TempDir;

const LONG: &str = "a line of some words";

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

/// The report, or the error.
fn said(name: &str, content: impl AsRef<[u8]>) -> String {
    read(name, content).map_or_else(|error| error, |read| read.report().to_string())
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

#[test]
fn a_quote_that_is_not_closed_is_an_error_and_glues_no_rows_together() {
    let good = |count: usize| lines(count, |i| format!("1,{LONG} {i}\n"));
    for after in [20, 300] {
        let error = said("rows.csv", format!("label,text\n{}1,\"oops\n{}", good(20), good(after)));
        let lost = after + 1;
        assert!(error.contains(&format!("{lost} of {} rows cannot be used", 20 + lost)), "{error}");
        assert!(error.contains("line 22") && error.contains("opened in line 22 is not closed to the end"), "{error}");
    }
    // The first cell of a row, and a TSV.
    let error = said("rows.tsv", format!("text\tlabel\n{}\"oops\n{}", "a\t1\n".repeat(9), "b\t1\n".repeat(9)));
    assert!(error.contains("10 of 19 rows") && error.contains("line 11"), "{error}");
    // A later quote closes it: what glues rows together is told by the text behind that.
    let content = format!("label,text\n{}1,\"oops\n{}1,\"fine\"\n{}", good(5), good(9), good(5));
    let error = said("rows.csv", content);
    assert!(error.contains("11 of 21 rows") && error.contains("opened in line 7 has text right behind"), "{error}");
    // Few of many are skipped and counted; what is sound stays whole.
    let report = read("rows.csv", format!("label,text\n{}1,\"oops\n1,lost\n", good(100))).unwrap();
    assert_eq!((report.windows(), report.report().bad_rows()), (100, 2));
    let sound = "text,label\n\"a\n\"\"b\"\",\nc\" ,1\n5\" of it,2\nd \"e\" f,3\n\"said\" he,4\n";
    assert_eq!(rows_of("rows.csv", sound).len(), 4);
}

/// A backslash before a quote was taken for the last of the cell, and what followed went behind it: `He said \hi\""`.
#[test]
fn a_quote_behind_a_backslash_is_named_and_spoils_no_cell() {
    let table = |text: &str| format!("id,text\n1,fine\n2,\"{text}\"\n3,fine\n");
    for text in [r#"He said \"hi\""#, r#"\"Hi,\" he said"#, r#"5\" pipe"#] {
        let error = said("rows.csv", table(text));
        assert!(error.contains(r#"opened in line 3 has \" in it"#), "{text}: {error}");
    }
    // What ends in one, and quotes that are written twice behind one.
    for text in [r"C:\", r#"\""hi\"" he said"#] {
        assert_eq!(rows_of("rows.csv", table(text)).len(), 3, "{text}");
    }
}

#[test]
fn two_stray_quotes_glue_no_rows_together_and_a_text_of_several_lines_stays_whole() {
    let (stray, good) = ("1,\"He said hello\n2,it rains\n3,we left\"\n", lines(9, |i| format!("{},{LONG}\n", i + 4)));
    for (name, separator, end) in [("rows.csv", ",", "\n"), ("rows.csv", ",", "\r\n"), ("rows.tsv", "\t", "\n")] {
        let content = format!("id,text\n{stray}{good}").replace(',', separator).replace('\n', end);
        let error = said(name, content);
        assert!(error.contains("3 of 12 rows cannot be used"), "{error}");
        assert!(error.contains("opened in line 2 closes in line 4, though each line"), "{error}");
    }
    // In the middle of a row, behind a line of Excel's, and at an end without a line's.
    let wide = "sep=;\nid;text;label\n1;\"oops;x\n2;two words;y\n3;three words\";z\n4;four;x";
    assert!(said("rows.csv", wide).contains("opened in line 3 closes in line 5"), "{}", said("rows.csv", wide));
    let error = said("rows.csv", format!("id,text\n{good}{}", stray.trim_end()));
    assert!(error.contains("opened in line 11 closes in line 13"), "{error}");
    // Commas as prose and programs have them, and two lines, of which nobody can tell.
    let texts = [
        "Roses are red\nViolets, blue\nSugar, sweet",
        "Dear Anna,\nhello,\nbye,",
        "Where?\nParis,France",
        "def f(a):\n    g(a,1)\n    h(a,2)",
        "one\ntwo\nthree",
        "a\n\nb,c",
    ];
    let records: String = texts.iter().map(|text| format!("1,\"{text}\"\n")).collect();
    assert_eq!(rows_of("rows.csv", format!("id,text\n{records}")).len(), texts.len());
    let log = lines(12, |second| format!("12:00:{second:02},123 INFO it works\n"));
    let log = said("rows.csv", format!("id,text\n1,\"{}\"\n{good}", log.trim_end()));
    assert!(!log.contains("closes in line") && log.contains("10 rows"), "{log}");
    let indented = "id\ttext\n1\t\"if x:\n\ty\n\tz\"\n2\tone two\n";
    assert_eq!(rows_of("rows.tsv", indented).len(), 2);
}

#[test]
fn what_is_learned_is_what_the_columns_say_together() {
    for (row, expected, left) in [
        (r#"{"target": "4", "ids": "1", "user": "bob", "text": "one two"}"#, "o[ne two]", "target; user; ids"),
        (r#"{"text": "one two", "query": "q", "target": "t"}"#, "o[ne two]", "query; target"),
        (r#"{"id": 1, "user": "bob", "text": "one two", "response": "yes"}"#, "o[ne two]", "response; user; id"),
        (r#"{"url": "x", "content": "one two", "input": "p", "target": "t"}"#, "o[ne two]", "input; target; url"),
        (r#"{"a": 1, "instruction": "hi", "output": "ho", "text": "t"}"#, "User: hi\nAssistant:[ ho$]", "text; a"),
        (
            r#"{"instruction": "hi", "input": null, "output": "ho", "": 1}"#,
            "User: hi\nAssistant:[ ho$]",
            "one without a name",
        ),
        (r#"{"prompt": "hi", "response": "ho"}"#, "User: hi\nAssistant:[ ho$]", ""),
        (r#"{"inputs": "hi", "targets": "ho"}"#, "User: hi\nAssistant:[ ho$]", ""),
        (r#"{"user": "hi", "assistant": "ho"}"#, "User: hi\nAssistant:[ ho$]", ""),
    ] {
        let read = read("rows", format!("{row}\n{row}\n")).unwrap();
        assert_eq!(rows(&read), [expected; 2], "{row}");
        let report = read.report().to_string();
        let said = report.split("columns left alone: ").nth(1).unwrap_or("");
        assert!(said.starts_with(left), "{row}: {report}");
    }
    let csv = format!("target,ids,date,flag,user,text\n{}", "4,1,Mon,NO_QUERY,bob,one two\n".repeat(9));
    assert_eq!(rows_of("rows.csv", csv), ["o[ne two]"; 9]);
}

#[test]
fn rows_with_nothing_in_their_column_are_empty_whatever_else_they_have() {
    let text = |value: &str| {
        lines(40, |i| match i % 4 {
            0 => format!("{{\"id\": {i}, {value}}}\n"),
            _ => format!("{{\"id\": {i}, \"text\": \"one two\"}}\n"),
        })
    };
    for value in [r#""text": null"#, r#""text": """#, r#""text": []"#, r#""messages": null"#, r#""messages": []"#] {
        let read = read("rows", text(value)).unwrap();
        assert_eq!(rows(&read), ["o[ne two]"; 30], "{value}");
        assert!(read.report().to_string().contains("10 rows empty"), "{value}");
    }
    // A field that is not there; where most rows lack it, it is no field of theirs.
    let read = read("rows", text(r#""x": 1"#)).unwrap();
    assert_eq!((rows(&read).len(), read.report().bad_rows()), (30, 10));
    let report = read.report().to_string();
    assert!(
        report.contains("10 rows with no column that is read") && report.contains("line 1: the row has id, x"),
        "{report}"
    );
    let error = said("rows", "{\"id\": 1}\n{\"id\": 2}\n{\"text\": \"one two\"}\n");
    assert!(error.contains("2 of 3 rows cannot be used") && error.contains("--text-field"), "{error}");
    // Beside a text.
    let beside = "{\"messages\": [], \"text\": \"one two\"}\n{\"messages\": null, \"text\": \"one two\"}\n";
    assert_eq!(rows_of("rows", beside), ["o[ne two]"; 2]);
    let csv = format!("messages,text\n{}", ",one two\n[],one two\n".repeat(2));
    assert_eq!(rows_of("rows.csv", csv), ["o[ne two]"; 4]);
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("rows.jsonl");
    fs::write(&path, "{\"id\": 1, \"body\": null}\n{\"id\": 2, \"body\": \"one two\"}\n").unwrap();
    let field = |name: &str| {
        let columns = Columns::new(Some(name.into()), None).unwrap();
        read_with(&columns, &path, 64).map(|read| read.report().to_string())
    };
    assert!(field("body").unwrap().contains("1 row empty"));
    let error = field("text").unwrap_err();
    assert!(error.contains("the row has id; and no column \"text\""), "{error}");
}

#[test]
fn rows_in_lines_are_rows_whatever_the_first_line_is() {
    let good = lines(40, |_| "{\"text\": \"one two\"}\n".into());
    for first in
        ["# made by a tool", "// made by a tool", "2026-01-01 INFO start", "f a line\"}", "null", "{\"text\": \"cut"]
    {
        for name in ["rows", "rows.jsonl", "rows.txt"] {
            let read = read(name, format!("{first}\n{good}")).unwrap();
            assert_eq!((rows(&read).len(), read.report().bad_rows()), (40, 1), "{name}: {first}");
        }
    }
    for name in ["rows", "rows.jsonl", "rows.txt"] {
        let sequence = "\u{1e}{\"text\": \"one two\"}\n".repeat(3);
        assert_eq!(rows_of(name, sequence), ["o[ne two]"; 3], "{name}");
    }
    assert_eq!(rows_of("rows", "\"one two\"\n".repeat(6)), ["o[ne two]"; 6]);
    assert!(said("rows", "{'text': 'one two'}\n".repeat(6)).contains("json.dumps"));
    assert_eq!(rows_of("rows", "text|label\none two|1\none two|0\n"), ["o[ne two]"; 2]);
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("notes");
    fs::write(&path, format!("{LONG}\n").repeat(9)).unwrap();
    let columns = Columns::new(Some("body".into()), None).unwrap();
    let error = read_with(&columns, &path, 64).err().unwrap();
    assert!(error.contains("--text-field names columns, and this is plain text"), "{error}");
}

#[test]
fn no_text_of_a_row_goes_to_the_log() {
    let secret = r#"[{"role": "user", "content": "a secret"}, {"role": "assistant", "content": "b"}]"#;
    let report = said("rows", format!("{secret}\n{secret}\n"));
    assert!(
        report.contains("2 rows (messages)") && !report.contains("left alone") && !report.contains("secret"),
        "{report}"
    );
    assert!(!said("rows", "\"one two\"\n".repeat(6)).contains("left alone"));
    let report = said("rows.csv", "text,\"a\nWARN forged\"\none,1\ntwo,2\n");
    assert!(report.contains("a\\nWARN forged") && !report.contains('\n'), "{report}");
    let many = lines(200, |i| format!("{{\"text\": \"one\", \"{i:03}{}\": 1, \"query\": \"q\"}}\n", "n".repeat(50)));
    let report = said("rows", many);
    let left = format!("columns left alone: query; 000{0}…; 001{0}…; and 61 more at least", "n".repeat(37));
    assert!(report.contains(&left) && report.len() < 700, "{report}");
}

#[test]
fn a_conversation_in_two_columns_is_a_row_and_no_table() {
    let pretty = "{\n \"prompt\": [\n  {\"role\": \"user\", \"content\": \"hi\"}\n ],\n \"completion\": [\n  {\"role\": \"assistant\", \
                  \"content\": \"ho\"}\n ]\n}\n";
    for content in [pretty.to_owned(), pretty.replace('\n', "")] {
        assert_eq!(rows_of("rows.json", &content), ["User: hi\nAssistant:[ ho$]"], "{content}");
    }
    assert_eq!(rows_of("rows", pretty.repeat(3)).len(), 3);
    let bad = said("rows.json", "{\n\"text\": [\"a\"]\n}\n{\n\"text\": [true]\n}\n");
    assert!(bad.contains("row 1 of value 2, which ends in line 6"), "{bad}");
}

#[test]
fn of_several_lists_of_rows_the_one_that_is_called_so_is_read_and_the_others_are_named() {
    let row = r#"{"text": "one two"}"#;
    let wrapped = format!(r#"{{"row_idx": 0, "row": {row}, "truncated_cells": []}}"#);
    for (content, left) in [
        (format!(r#"{{"features": [{{"name": "text"}}], "rows": [{wrapped}, {wrapped}], "total": 2}}"#), "features"),
        (format!(r#"{{"train": [{row}, {row}], "test": [{row}]}}"#), "test"),
        (format!(r#"{{"test": [{row}], "data": [{row}, {row}], "info": [{{"a": 1}}]}}"#), "info; test"),
    ] {
        for content in [content.clone(), content.replacen(':', ":\n", 1)] {
            let read = read("rows.json", &content).unwrap();
            assert_eq!(rows(&read), ["o[ne two]"; 2], "{content}");
            let report = read.report().to_string();
            assert!(report.contains(&format!("lists of rows left alone: {left}")), "{report}");
        }
    }
    let error = said("rows.json", format!(r#"{{"a": [{row}], "b": [{row}]}}"#));
    assert!(error.contains("several lists of rows (a; b)"), "{error}");
    assert_eq!(rows_of("rows.json", format!("[{wrapped}, {wrapped}]")), ["o[ne two]"; 2]);
}

#[test]
fn an_empty_prompt_is_no_prompt_and_what_follows_is_learned() {
    // The embedded model has no token that starts a text: the one that ends a text stands before it.
    assert_eq!(rows_of("rows", "{\"prompt\": \"\", \"completion\": \"one\"}\n".repeat(2)), ["$[one$]"; 2]);
    let choices = r#"{"prompt": "", "choices": ["one", "two"], "answer": 1}"#;
    assert_eq!(read("rows", choices).unwrap().windows(), 1);
}

#[test]
fn what_is_compressed_several_times_or_padded_is_read_and_what_is_cut_off_is_named() {
    let lines = lines(6000, |i| format!("{{\"text\": \"{LONG} {} {}\"}}\n", i * 7919 % 10007, i * 104_729 % 99991));
    let (one, two) = (gzip(lines.as_bytes()), gzip(&gzip(lines.as_bytes())));
    let zstd = |bytes: &[u8]| zstd::stream::encode_all(bytes, 1).unwrap();
    let padded = [&one[..], &[0; 512]].concat();
    let between = [&padded[..], &one, &[0; 70_000]].concat();
    let frame = zstd(lines.as_bytes());
    let frames = [&frame[..], &[0; 512], &frame, &[0; 70_000]].concat();
    for (bytes, count) in [
        (&one, 6000),
        (&two, 6000),
        (&zstd(&one), 6000),
        (&gzip(&zstd(lines.as_bytes())), 6000),
        (&padded, 6000),
        (&between, 12_000),
        (&frames, 12_000),
    ] {
        assert_eq!(read("rows", bytes).unwrap().windows(), count);
    }
    assert!(said("rows", gzip(&gzip(&two))).contains("compressed more than 3 times"));
    assert!(said("rows", [&one[..], b"garbage"].concat()).contains("the gzip file is damaged"));
    assert!(said("rows", [&frame[..], b"garbage"].concat()).contains("the zstd file is damaged"));
    let cut = &one[..one.len() / 2];
    let error = said("rows.jsonl.gz", cut);
    assert!(error.contains("the gzip file is cut off: download or copy it again"), "{error}");
    // In a directory what came before is used, and said; a text is left out as a whole.
    let directory = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
    let text = gzip(lines.replace('{', "").as_bytes());
    write("a.jsonl.gz", cut);
    write("b.jsonl", b"{\"text\": \"one two\"}\n");
    write("c.txt.gz", &text[..text.len() / 2]);
    let read = read_with(&Columns::default(), directory.path(), 64).unwrap();
    assert!((1500..6000).contains(&read.windows()), "{}", read.windows());
    let report = read.report().to_string();
    let rows = read.windows() - 1;
    let part = format!("a.jsonl.gz: its end, after {},{:03} rows: the gzip file is cut off", rows / 1000, rows % 1000);
    assert!(report.contains(&part), "{report}");
    assert!(report.contains("c.txt.gz: the gzip file is cut off"), "{report}");
    // What is held out of a text is told once it lies on the disk, which is not to blame.
    let (tokenizer, path) = (crate::forms::tokenizer(), directory.path().join("c.txt.gz"));
    let error =
        engine::data::Dataset::load_split(&path, &tokenizer, 64).err().map(|error| format!("{error:#}")).unwrap();
    assert!(error.contains("cut off") && !error.contains("disk"), "{error}");
}

#[test]
fn a_copy_of_a_text_is_read_once_where_a_part_is_held_out_compressed_or_not() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, bytes: &[u8]| fs::write(directory.path().join(name), bytes).unwrap();
    let text = lines(4000, |i| format!("{LONG} {i}\n"));
    let utf16: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    write("a.txt", text.as_bytes());
    write("a.txt.gz", &gzip(text.as_bytes()));
    write("b.txt", format!("\u{feff}{text}").as_bytes());
    write("c.txt", &utf16);
    // It has the same beginning, and another end.
    let longer = format!("{text}And so on.\n");
    write("d.txt.gz", &gzip(longer.as_bytes()));
    let (train, held_out) =
        engine::data::Dataset::load_split(directory.path(), &crate::forms::tokenizer(), 64).unwrap();
    let report = train.report().to_string();
    assert_eq!(train.bytes() + held_out.bytes(), (text.len() + longer.len()) as u64, "{report}");
    for name in ["a.txt.gz", "b.txt", "c.txt"] {
        assert!(report.contains(&format!("{name}: the same text as one before")), "{report}");
    }
    // What is not read is not said to be read as text.
    let directory = TempDir::new().unwrap();
    let table = lines(400, |i| format!("{i},a good one\n"));
    ["a.txt", "b.txt"].iter().for_each(|name| fs::write(directory.path().join(name), &table).unwrap());
    let (train, _) = engine::data::Dataset::load_split(directory.path(), &crate::forms::tokenizer(), 64).unwrap();
    let report = train.report().to_string();
    assert!(report.contains("though commas separate columns: a.txt (--text-field"), "{report}");
}

#[test]
fn a_directory_that_cannot_be_listed_is_named_and_left() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("a.txt"), format!("{LONG}\n").repeat(9)).unwrap();
    let inner = directory.path().join("inner");
    fs::create_dir(&inner).unwrap();
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o0)).unwrap();
    if fs::read_dir(&inner).is_ok() {
        println!("skipped: this user may list every directory");
        return;
    }
    let report = read_with(&Columns::default(), directory.path(), 8).unwrap().report().to_string();
    fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(report.contains("inner: a directory that cannot be listed"), "{report}");
}

#[test]
fn what_python_reads_is_read() {
    let mark = "\u{feff}";
    for row in [
        r#"{"text": "one two", "x": 1e400}"#.to_owned(),
        r#"{"text": "one two", "x": "\ud83d"}"#.to_owned(),
        "{\"text\": \"one two\", \"x\": \"a\tb\"}".to_owned(),
        format!("{mark}{{\"text\": \"one two\"}}"),
    ] {
        for content in [format!("{row}\n{row}\n"), format!("{mark}{mark}{row}\n{row}\n")] {
            for name in ["rows", "rows.jsonl"] {
                assert_eq!(rows_of(name, &content), ["o[ne two]"; 2], "{name}: {content}");
            }
        }
        let list = format!("[\n{},\n{}\n]", row.trim_start_matches(mark), row.trim_start_matches(mark));
        assert_eq!(rows_of("rows.json", &list), ["o[ne two]"; 2], "{list}");
    }
    let text = read("text", format!("{mark}{mark}{}", LONG.repeat(9))).unwrap();
    assert_eq!(text.bytes(), 9 * LONG.len() as u64);
}

#[test]
fn a_nul_is_the_matter_of_its_row() {
    let good = lines(40, |i| format!("{{\"text\": \"{LONG} {i}\"}}\n"));
    let read_bad = |name: &str, content: String| {
        let read = read(name, content).unwrap();
        (rows(&read).len(), read.report().bad_rows())
    };
    assert_eq!(read_bad("rows", format!("{good}{{\"text\": \"a\0b\"}}\n")), (40, 1));
    assert_eq!(read_bad("rows.csv", format!("text,label\n{}a\0b,1\n", "one two,1\n".repeat(40))), (40, 1));
    assert!(said("text", format!("{LONG}\0")).contains("is NUL"));
}

#[test]
fn tables_of_pandas_and_of_people_are_read() {
    assert_eq!(rows_of("rows.csv", "id,text,label\n1,one two\n2,one two,\n"), ["o[ne two]"; 2]);
    let twice = read("rows.csv", "text,text\none two,second\none two,second\n").unwrap();
    assert_eq!(rows(&twice), ["o[ne two]"; 2]);
    assert!(twice.report().to_string().contains("columns left alone: text.1"));
    assert!(said("rows.csv", "review\ngood\nbad\n").contains("--text-field 'review'"));
    let answers = |answer: &str, labels: &str| {
        let row = format!(r#"{{"prompt": "It is", "choices": [" good", " bad"], "answer": {answer}{labels}}}"#);
        let read = read("rows", format!("{row}\n{row}\n"))?;
        Ok::<usize, String>(read.batch_of(&[0]).unwrap().rows[0].answer)
    };
    for answer in ["1", "1.0", "\"1\"", "\"1.0\"", "\"B\"", "\"b\"", "\"(B)\"", "\"B.\"", "\"bad\""] {
        assert_eq!(answers(answer, ""), Ok(1), "{answer}");
    }
    for answer in ["0.5", "2.0", "-1.0", "\"c\"", "\"(C)\"", "true", "1e300"] {
        assert!(answers(answer, "").unwrap_err().contains("answer is"), "{answer}");
    }
}

#[test]
fn json_that_is_broken_is_no_prose_whatever_it_is_called() {
    let row = |i: usize| format!("  {{\n    \"text\": \"one two {i}\"\n  }}");
    let rows: Vec<String> = (0..9).map(row).collect();
    let list = format!("[\n{}\n]\n", rows.join(",\n"));
    let cut = &list[..list.len() - 20];
    let comma = list.replace("\n]", ",\n]");
    for content in [cut.to_owned(), format!("{{\"data\": {cut}"), comma.clone()] {
        for name in ["rows", "rows.txt", "rows.json"] {
            let error = said(name, &content);
            assert!(error.contains("malformed JSON: ") && error.contains(" at line "), "{name}: {error}");
        }
    }
    // In a directory what comes before is used.
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("rows"), &comma).unwrap();
    fs::write(directory.path().join("text.txt"), format!("{LONG}\n").repeat(9)).unwrap();
    let read = read_with(&Columns::default(), directory.path(), 64).unwrap();
    assert!(read.report().to_string().contains("its end, after 9 rows"), "{}", read.report());
}

#[test]
fn text_that_is_nearly_json_is_said_to_be() {
    let list = "[\n  {\n    \"text\": \"one two\"\n  },\n  {\n    \"text\": \"one two\"\n  }\n]\n";
    let long =
        format!("[\n{}  {{\n  \"text\": \"end\"\n  }}\n]\n", "  {\n  \"text\": \"one two\"\n  },\n".repeat(4000));
    for (content, has) in [
        (format!("/* rows */\n{list}"), "comments"),
        (format!("// rows\n// of {{}}\n\n{list}"), "comments"),
        (format!("# rows\n{long}"), "comments"),
        (format!("# rows\n{{\n\"data\": {list}}}\n"), "comments"),
        (format!("[\n  // the first\n{}", &list[2..]), "comments"),
        (format!("/* rows */\n{}", list.replace("\n]", ",\n]")), "comments"),
        ("[ {text: \"one two\"},\n  {text: \"one two\"} ]\n".repeat(4), "names or texts without double quotes"),
        ("{\n  text: 'one two',\n  id: 1\n}\n".repeat(4), "names or texts without double quotes"),
        ("{\"text\": 'one two'}\n{\"text\": 'one two'}\n".repeat(4), "names or texts without double quotes"),
        ("# rows\n{\n  'text': 'one two'\n}\n".repeat(4), "names or texts without double quotes"),
    ] {
        for name in ["rows", "rows.txt"] {
            let read = read(name, &content).unwrap();
            assert_eq!(read.bytes(), content.len() as u64, "{name}: {content}");
            let report = read.report().to_string();
            assert!(report.contains(&format!("it would be JSON if it had no {has}: {name}")), "{content}: {report}");
        }
    }
    // Programs, and what else people write.
    for (name, text) in [
        ("a.js", "// rows\nconst rows = [\n  {text: 'one two'},\n];\nexport default rows;\n"),
        ("a.js", "/* a block */\n{\n  let text = 'one two';\n  text: for (;;) break text;\n}\n"),
        ("a.py", "# rows\nrows = [\n    {'text': 'one two'},\n    {'text': 'three'},\n]\n"),
        ("a.c", "/* pairs */\n#include <stdio.h>\n\nstatic int pairs[][2] = {\n    {1, 2},\n};\n"),
        ("a.inc", "// pairs\n{ \"a\", 1 },\n{ \"b\", 2 },\n"),
        ("a.nix", "# a shell\n{ pkgs ? import <nixpkgs> {} }:\npkgs.mkShell { }\n"),
        ("a.graphql", "# a query\n{\n  hero {\n    name\n  }\n}\n"),
        ("a.tex", "{\\bf A title}\n\nAnd a text.\n"),
        ("a.md", "# A title\n\n[a link]: https://example.org\n"),
        ("a.md", "# A title\n{\"a\": 1} is an object, they say.\n"),
        ("a.html", "{{ title }}\n{% for row in rows %}{{ row }}{% endfor %}\n"),
        ("a.txt", "[Verse 1]\n{sung: softly}\nla la la\n"),
    ] {
        let content = text.repeat(3);
        let read = read(name, &content).unwrap();
        assert_eq!(read.bytes(), content.len() as u64, "{name}: {text}");
        let report = read.report().to_string();
        assert!(!report.contains("would be JSON"), "{name}: {text}: {report}");
    }
}

#[test]
fn text_that_begins_like_json_is_text() {
    for text in ["{} is the empty set, they say.\n", "[\"Hello\"] she said.\n"] {
        for name in ["text", "text.txt"] {
            let content = format!("{text}{}", format!("{LONG}\n").repeat(9));
            assert_eq!(read(name, &content).unwrap().bytes(), content.len() as u64, "{name}: {text}");
        }
    }
}
