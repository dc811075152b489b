//! Every form of data, read by content, with what was skipped and cut.

use engine::{
    chat::ChatTemplate,
    data::{Columns, Dataset, Reader},
    embedded,
    model::Tokenizer,
};
use std::{collections::BTreeMap, fs, path::Path, sync::Arc};
use tempfile::TempDir;

/// The embedded tokenizer: a token is a byte, 256 ends a text.
pub fn tokenizer() -> Tokenizer {
    let checkpoint = embedded::checkpoint().unwrap();
    Tokenizer::of(&checkpoint).unwrap()
}

pub fn read_with(columns: &Columns, path: &Path, sequence_length: usize) -> Result<Dataset, String> {
    let (tokenizer, template) = (tokenizer(), ChatTemplate::plain(BTreeMap::new()).unwrap());
    let (progress, scratch) = (Arc::default(), std::env::temp_dir());
    let reader =
        Reader { tokenizer: &tokenizer, template: &template, columns, sequence_length, scratch: &scratch, progress };
    reader.load(path).map_err(|error| format!("{error:#}"))
}

/// What is read of a file with this content, or why it is not.
pub fn read(name: &str, content: impl AsRef<[u8]>) -> Result<Dataset, String> {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join(name);
    fs::write(&path, content).unwrap();
    read_with(&Columns::default(), &path, 64)
}

/// All rows as text: what is given, then `[` what is predicted `]`.
pub fn rows(dataset: &Dataset) -> Vec<String> {
    let row = |index: usize| {
        let batch = dataset.batch_of(&[index]).unwrap();
        let tokens: Vec<u32> = batch.tokens.to_vec1().unwrap();
        let shown = |id: u32| if id == 256 { '$' } else { char::from(id as u8) };
        let mut text = String::from(shown(tokens[0]));
        let mut open = false;
        for (position, token) in (0..).zip(tokens.iter().skip(1).map(Some).chain([None])) {
            let target = batch.targets.iter().find(|target| target.position == position);
            if target.is_some() != open {
                text.push(if open { ']' } else { '[' });
                open = !open;
            }
            text.extend(target.map(|target| target.token).or(token.copied()).map(shown));
        }
        if open { text + "]" } else { text }
    };
    (0..dataset.windows()).map(row).collect()
}

pub fn rows_of(name: &str, content: impl AsRef<[u8]>) -> Vec<String> {
    rows(&read(name, content).unwrap())
}

pub const TWO: [&str; 2] = ["o[ne two three]", "f[our five six]"];

#[test]
fn the_same_rows_come_out_of_every_form() {
    let lines = "{\"text\": \"one two three\"}\n{\"text\": \"four five six\"}\n";
    // Made by Python's gzip and zstandard; the latter are two frames, which may follow one to be skipped.
    let gzip = [
        31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 171, 86, 42, 73, 173, 40, 81, 178, 82, 80, 202, 207, 75, 85, 40, 41, 207, 87,
        40, 201, 40, 74, 77, 85, 170, 229, 170, 134, 203, 164, 229, 151, 22, 41, 164, 101, 150, 165, 42, 20, 103, 86,
        0, 101, 0, 215, 225, 220, 165, 52, 0, 0, 0,
    ];
    let zstd = [
        40, 181, 47, 253, 36, 26, 209, 0, 0, 123, 34, 116, 101, 120, 116, 34, 58, 32, 34, 111, 110, 101, 32, 116, 119,
        111, 32, 116, 104, 114, 101, 101, 34, 125, 10, 64, 219, 115, 239, 40, 181, 47, 253, 32, 26, 209, 0, 0, 123, 34,
        116, 101, 120, 116, 34, 58, 32, 34, 102, 111, 117, 114, 32, 102, 105, 118, 101, 32, 115, 105, 120, 34, 125, 10,
    ];
    let utf16 = |unit: fn(u16) -> [u8; 2]| lines.encode_utf16().flat_map(unit).collect::<Vec<u8>>();
    let forms: Vec<Vec<u8>> = vec![
        lines.into(),
        format!("\u{feff}{lines}").into(),
        lines.replace('\n', "\r\n").into(),
        utf16(u16::to_le_bytes),
        utf16(u16::to_be_bytes),
        [&[0xff, 0xfe][..], &utf16(u16::to_le_bytes)].concat(),
        gzip.into(),
        zstd.into(),
        [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 7, 7][..], &zstd].concat(),
        r#"[{"text": "one two three"}, {"text": "four five six"}]"#.into(),
        "[\n {\"text\": \"one two three\", \"score\": NaN},\n {\"text\": \"four five six\", \"score\": -Infinity}\n]"
            .into(),
        r#"["one two three", "four five six"]"#.into(),
        r#"{"version": 1, "data": [{"text": "one two three"}, {"text": "four five six"}]}"#.into(),
        r#"{"text": ["one two three", "four five six"], "id": [1, 2]}"#.into(),
        r#"{"text": {"0": "one two three", "1": "four five six"}, "id": {"0": 1, "1": 2}}"#.into(),
        r#"{"a": {"text": "one two three"}, "b": {"text": "four five six"}}"#.into(),
        "{\n \"text\": \"one two three\"\n}\n{\n \"text\": \"four five six\"\n}\n".into(),
        "{\n \"text\": \"one two three\"\n},\n{\n \"text\": \"four five six\"\n},\n".into(),
        "\u{1e}{\n \"text\": \"one two three\"\n}\n\u{1e}{\n \"text\": \"four five six\"\n}\n".into(),
        r#"{"text": "one two three"}, {"text": "four five six"}"#.into(),
        "id,text\n1,one two three\n2,\"four five six\"\n".into(),
        "id;text\r\n1;one two three\r\n2;four five six\r\n".into(),
        "sep=;\nid;text\n1;one two three\n2;four five six\n".into(),
        "\u{feff}Text\tid\none two three\t1\nfour five six\t2\n".into(),
    ];
    for content in forms {
        for name in ["rows", "rows.txt"] {
            assert_eq!(rows_of(name, &content), TWO, "{name}: {:?}", String::from_utf8_lossy(&content));
        }
    }
}

#[test]
fn rows_of_all_kinds_are_learned_in_their_answers() {
    let chat = "User: hi\nAssistant:[ hello$]";
    for (content, expected) in [
        (r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}"#, chat),
        (r#"{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}"#, chat),
        (r#"[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]"#, chat),
        (
            r#"{"messages": "[{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": \"hello\"}]"}"#,
            chat,
        ),
        (
            r#"{"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "hello"}]}"#,
            chat,
        ),
        (r#"{"instruction": "hi", "input": "", "output": "hello"}"#, chat),
        (r#"{"question": "hi", "answer": "hello", "id": 7}"#, chat),
        (r#"{"instruction": "hi", "input": "you", "output": "hello"}"#, "User: hi\n\nyou\nAssistant:[ hello$]"),
        (r#"{"system": "Be.", "instruction": "hi", "output": "hello"}"#, "Be.\nUser: hi\nAssistant:[ hello$]"),
        (r#"{"prompt": "hi", "completion": " hello"}"#, "hi[ hello$]"),
        (r#"{"text": "one two three", "prompt": "", "meta": 1}"#, TWO[0]),
    ] {
        assert_eq!(rows_of("rows", format!("{content}\n{content}\n")), [expected; 2], "{content}");
    }
    let turns = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]}"#;
    // Only the last turn ends a text: the embedded model has no special token that a template could write.
    assert_eq!(rows_of("rows", turns), ["User: a\nAssistant:[ b\n]User: c\nAssistant:[ d$]"]);
    let weighted = turns.replacen("\"content\": \"b\"", "\"content\": \"b\", \"weight\": 0", 1);
    assert_eq!(rows_of("rows", weighted), ["User: a\nAssistant: b\nUser: c\nAssistant:[ d$]"]);
}

#[test]
fn other_columns_are_named_by_flags() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("rows.csv");
    fs::write(&path, "title,body\na,one two three\nb,four five six\n").unwrap();
    let with = |field: Option<&str>, template: Option<&str>| {
        let columns = Columns::new(field.map(str::to_owned), template).unwrap();
        read_with(&columns, &path, 64).map(|dataset| rows(&dataset))
    };
    assert_eq!(with(Some("body"), None).unwrap(), TWO);
    assert_eq!(with(None, Some("{{ title }}: {{ body }}")).unwrap(), ["a[: one two three]", "b[: four five six]"]);
    let marked = "{{ title }}:{% generation %} {{ body }}{% endgeneration %}";
    assert_eq!(with(None, Some(marked)).unwrap(), ["a:[ one two three$]", "b:[ four five six$]"]);
    assert!(with(None, None).unwrap_err().contains("--text-field"));
    assert!(with(Some("text"), None).unwrap_err().contains("--text-field"));
    assert!(with(None, Some("{{ text }}")).unwrap_err().contains("line 2"));
    assert!(Columns::new(None, Some("{{ open")).is_err());
    assert!(Columns::new(Some("a".into()), Some("{{ a }}")).is_err());
}

/// The templates stand in GUIDE.md.
#[test]
fn squad_and_hellaswag_are_read_by_templates() {
    let guide = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../GUIDE.md")).unwrap();
    for (template, row, expected) in [
        (
            "{{ context }} {{ question }}{% generation %} {{ answers.text[0] }}{% endgeneration %}",
            r#"{"id": "1", "context": "Paris is in France.", "question": "Where is it?", "answers": {"text": ["France"], "answer_start": [12]}}"#,
            "Paris is in France. Where is it?[ France$]",
        ),
        (
            "{{ ctx }}{% generation %} {{ endings[label | int] }}{% endgeneration %}",
            r#"{"ind": 4, "ctx": "A man sits.", "endings": ["He flies.", "He stands."], "label": "1"}"#,
            "A man sits.[ He stands.$]",
        ),
    ] {
        assert!(guide.contains(&format!("`--template '{template}'`")), "{template}");
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("rows.jsonl");
        fs::write(&path, format!("{row}\n{row}\n")).unwrap();
        let dataset = read_with(&Columns::new(None, Some(template)).unwrap(), &path, 64).unwrap();
        assert_eq!(rows(&dataset), [expected; 2]);
    }
}

#[test]
fn what_was_read_of_a_row_is_told_by_the_names_of_its_columns() {
    for (row, columns) in [
        (r#"{"question": "hi", "answer": "hello"}"#, "question and answer"),
        (r#"{"instruction": "hi", "input": "", "output": "hello"}"#, "instruction and output"),
        (r#"{"prompt": "hi", "response": "hello"}"#, "prompt and response"),
    ] {
        let report = read("rows", format!("{row}\n").repeat(3)).unwrap().report().to_string();
        assert!(report.contains(&format!("3 rows ({columns})")), "{report}");
    }
}

#[test]
fn few_bad_rows_are_skipped_and_counted_and_many_are_an_error_that_names_three() {
    let good = "{\"prompt\": \"a\", \"completion\": \"bcd\"}\n";
    let (empty, broken) = ("{\"prompt\": \"a\", \"completion\": \"\"}\n", "{\"prompt\": \"a\", \n");
    let dataset = read("rows", format!("{}{empty}{broken}", good.repeat(60))).unwrap();
    let report = dataset.report().to_string();
    assert_eq!((dataset.windows(), dataset.report().bad_rows()), (60, 2));
    assert!(
        report.contains("60 rows (prompt and completion)") && report.contains("line 61: the completion is"),
        "{report}"
    );
    assert!(report.contains("line 62: column 15: malformed"), "{report}");
    let error = read("rows", format!("{}{}", good.repeat(40), empty.repeat(7))).err().unwrap();
    assert!(error.contains("7 of 47 rows"), "{error}");
    assert!(error.contains("line 41") && error.contains("line 43") && !error.contains("line 44"), "{error}");
    // A text that is empty has nothing wrong with it.
    let dataset = read("rows", "{\"text\": \"\"}\n{\"text\": null}\n{\"text\": \"abc\"}\n").unwrap();
    assert!(dataset.windows() == 1 && dataset.report().to_string().contains("2 rows empty"));
}

#[test]
fn each_kind_of_bad_row_says_what_is_wrong_with_it() {
    for (row, part) in [
        (r#"{"text": true}"#, "column text is true, not a text; write it as one"),
        (r#"{"messages": [{"role": "user", "content": "a"}]}"#, "no turn of the assistant"),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}"#,
            "no turn of the assistant",
        ),
        (r#"{"messages": [{"role": "alien", "content": "a"}]}"#, "message 0: a message's role is \"alien\""),
        (r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#, "chosen and rejected"),
        (r#"{"instruction": "a", "output": ""}"#, "the output is empty"),
        (r#"{"body": "a"}"#, "--text-field"),
        ("{\"text\": \"a\0\"}", "malformed"),
        ("{\"text\": \"a}", "malformed"),
    ] {
        let error = read("rows.jsonl", format!("{row}\n{row}\n")).err().unwrap();
        assert!(error.contains(part) && error.contains("line 1"), "{row}: {error}");
    }
    let error = read("rows.csv", "id,text\n1,a\n2,b,c\n3,\"d\n").err().unwrap();
    assert!(error.contains("line 3: 3 fields, and the header has 2"), "{error}");
    let error = read("rows.json", "[{\"text\": \"a\"},\n {\"text\": }]").err().unwrap();
    assert!(error.contains("line 2") && error.contains("malformed JSON"), "{error}");
}

#[test]
fn a_directory_says_what_it_left_alone() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, content: &[u8]| fs::write(directory.path().join(name), content).unwrap();
    let text = "a line of text\n".repeat(10);
    for name in ["README", "a.txt", "b.markdown", "c.py", "d.org", "e.log"] {
        write(name, text.as_bytes());
    }
    write("f.json", b"{\"text\": \"one two three\"}\n{\"text\": \"four five six\"}\n");
    write("g.png", b"\x89PNG\r\n\x1a\n\0\0");
    write("h.bin", b"\0\x01\x02\x03");
    write("i.txt", b"");
    write("package.json", b"{\n  \"name\": \"x\",\n  \"version\": 1\n}\n");
    write("j.txt", b"caf\xe9 in Latin-1\n");
    write(".hidden.txt", text.as_bytes());
    let dataset = read_with(&Columns::default(), directory.path(), 8).unwrap();
    assert_eq!(dataset.bytes(), 6 * text.len() as u64 + 26);
    let report = dataset.report().to_string();
    for part in ["7 files", "1 JSON Lines, 6 text", "5 files (g.png: a PNG image", "and 2 more", "1 hidden"] {
        assert!(report.contains(part), "{part} in {report}");
    }
    {
        let elsewhere = TempDir::new().unwrap();
        let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, directory.path().join(name)).unwrap();
        fs::remove_file(directory.path().join("g.png")).unwrap();
        fs::remove_file(directory.path().join("h.bin")).unwrap();
        link(elsewhere.path(), "corpus");
        link(&directory.path().join("a.txt"), "again.txt");
        link(Path::new("/nowhere"), "broken");
        let dataset = read_with(&Columns::default(), directory.path(), 8).unwrap();
        assert_eq!(dataset.bytes(), 6 * text.len() as u64 + 26, "no text twice");
        let report = dataset.report().to_string();
        for part in ["the same file", "leads nowhere", "a link to a directory"] {
            assert!(report.contains(part), "{part} in {report}");
        }
    }
}

#[test]
fn a_state_directory_is_no_text_and_names_that_are_apart_are_said() {
    let directory = TempDir::new().unwrap();
    let write = |name: &str, content: &str| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    };
    let read = |name: &str| read_with(&Columns::default(), &directory.path().join(name), 64);
    let row = "{\"text\": \"one two three\"}\n";
    write("notes/rows.jsonl", row);
    write("notes/run/state/node.redb", "redb");
    write("notes/run/state/ticket", &"a secret of a private run\n".repeat(9));
    let dataset = read("notes").unwrap();
    let report = dataset.report().to_string();
    assert_eq!(rows(&dataset), [TWO[0]]);
    assert!(report.contains("skipped: 1 file (run/state: a node's state directory)"), "{report}");
    assert!(!dataset.report().is_mixed(), "{report}");
    write("hidden/.rows.jsonl", row);
    for (name, part) in [
        ("notes/run/state", "is a node's state directory, and no text"),
        ("notes/run", "has no files with text (state: a node's state directory)"),
        ("hidden", "has no files with text (1 hidden"),
    ] {
        let error = read(name).err().unwrap();
        assert!(error.contains(part), "{name}: {error}");
    }
    write("both/train.jsonl", row);
    write("both/test.jsonl", row);
    let dataset = read("both").unwrap();
    let report = dataset.report().to_string();
    assert!(dataset.report().is_mixed() && dataset.windows() == 2, "{report}");
    assert!(
        report.contains("to train on (train.jsonl) and to measure by (test.jsonl): name only those that are"),
        "{report}"
    );
}

#[test]
fn what_is_no_text_is_named() {
    for (content, part) in [
        (&b"PAR1\0\0\0\0PAR1"[..], "the Parquet file is damaged"),
        (b"%PDF-1.7 and so on", "PDF"),
        (b"PK\x03\x04\0\0", "ZIP"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"some text\0and more", "byte 9 is NUL"),
        (b"caf\xe9", "byte 3, 0xe9"),
        (b"\x82\xb1\x82\xea and so on", "SHIFT_JIS"),
        (b"\x1f\x8bdamaged", "gzip"),
        // Cut off in its block, and a window of 2 GiB.
        (&[40, 181, 47, 253, 36, 26, 209, 0, 0, 123, 34], "the zstd file is cut off: download or copy it again"),
        (&[40, 181, 47, 253, 0, 168, 9, 0, 0, 97], "the zstd file is damaged"),
        (b"\xff\xff\xff\xff\x78\0\0\0", "an Arrow stream"),
        (b"", "no text"),
        (b" \n\n", "no text"),
    ] {
        let error = read("file", content).err().unwrap();
        assert!(error.contains("file") && error.contains(part), "{error}");
    }
}

#[test]
fn white_space_is_no_text_however_much_there_is() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("b.txt"), "a line of text\n".repeat(9)).unwrap();
    for white in [" \n".repeat(50_000), "\u{3000}".repeat(50_000), "\u{a0}\u{3000}\n".repeat(9)] {
        let error = read("file", &white).err().unwrap();
        assert!(error.contains("file") && error.contains("no text"), "{error}");
        let path = directory.path().join("a.txt");
        fs::write(&path, &white).unwrap();
        let error = Dataset::load_split(&path, &tokenizer(), 64).err().map(|error| format!("{error:#}")).unwrap();
        assert!(error.contains("no text"), "{error}");
        let read = read_with(&Columns::default(), directory.path(), 64).unwrap();
        assert_eq!((read.bytes(), read.report().files_skipped()), (135, 1), "{}", read.report());
    }
    let text = " ".repeat(100_000) + "and a text.";
    assert_eq!(read("file", &text).unwrap().bytes(), text.len() as u64);
}

#[test]
fn a_long_answer_is_cut_into_windows_and_keeps_its_prompt_and_its_end() {
    let answer: String = (0..500).map(|i| char::from(b'a' + (i % 26) as u8)).collect();
    let line = format!("{{\"prompt\": \"question\", \"completion\": \"{answer}\"}}\n");
    let dataset = read("rows", format!("{line}{line}")).unwrap();
    let rows = rows(&dataset);
    assert!(rows[0].starts_with("question[abc"), "{}", rows[0]);
    let predicted: String = rows[..rows.len() / 2].iter().flat_map(|row| row.split(['[', ']']).nth(1)).collect();
    assert_eq!(predicted, format!("{answer}$"), "each token of the answer once");
    assert_eq!((dataset.tokens(), dataset.bytes()), (2 * 501, 2 * 500));
    assert!(dataset.report().to_string().contains("2 rows longer than a window"));
}

#[test]
fn the_held_out_part_shares_no_document_with_the_training_part() {
    let directory = TempDir::new().unwrap();
    let (tokenizer, path) = (tokenizer(), directory.path().join("rows.jsonl"));
    let line = |i: usize| format!("{{\"text\": \"document {}\"}}\n", if i == 95 { 3 } else { i });
    fs::write(&path, (0..100).map(line).collect::<String>()).unwrap();
    let (train, held_out) = Dataset::load_split(&path, &tokenizer, 64).unwrap();
    let (train_rows, held_rows) = (rows(&train), rows(&held_out));
    assert_eq!((train_rows.len(), held_rows.len()), (90, 10));
    assert_eq!(held_rows.iter().filter(|row| row.ends_with("ocument 3]")).count(), 2, "equal rows stay together");
    assert!(held_rows.iter().all(|row| !train_rows.contains(row)));
    let report = train.report().to_string();
    assert!(report.contains("held out: the last 10 rows"), "{report}");
    fs::write(&path, line(0).repeat(50)).unwrap();
    let (train, held_out) = Dataset::load_split(&path, &tokenizer, 64).unwrap();
    assert_eq!((train.windows(), held_out.windows()), (45, 5));
    assert!(train.report().to_string().contains("nearly all rows are equal"));
    // Four rows, again and again: one of them is held out with all its copies.
    fs::write(&path, (0..200).map(|i| line(i % 4)).collect::<String>()).unwrap();
    let (train, held_out) = Dataset::load_split(&path, &tokenizer, 64).unwrap();
    assert_eq!((train.windows(), held_out.windows()), (150, 50));
    assert!(rows(&held_out).iter().all(|row| !rows(&train).contains(row)));
    // Files are held out whole, if that comes near a tenth.
    let files = TempDir::new().unwrap();
    (0..9).for_each(|i| fs::write(files.path().join(format!("{i}.txt")), format!("{i}").repeat(120)).unwrap());
    let (train, held_out) = Dataset::load_split(files.path(), &tokenizer, 40).unwrap();
    assert_eq!((train.bytes(), held_out.bytes()), (960, 120));
    assert!(rows(&held_out).iter().all(|row| row.replace(['[', ']'], "").chars().all(|c| c == '8')));
    // A copy is read once, so that it is not on both sides.
    (0..10).for_each(|i| fs::write(files.path().join(format!("{i}.txt")), format!("{}", i / 5).repeat(1200)).unwrap());
    let (train, held_out) = Dataset::load_split(files.path(), &tokenizer, 40).unwrap();
    assert_eq!(train.bytes() + held_out.bytes(), 2400);
    let report = train.report().to_string();
    assert!(report.contains("8 files (1.txt: the same text as one before"), "{report}");
}

#[test]
fn of_rows_that_only_ask_the_answer_is_left_to_the_model() {
    let asked = |content: &str| {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("rows.jsonl");
        fs::write(&path, content).unwrap();
        read_with(&Columns::default().asking(), &path, 24)
    };
    let prompt = |content: &str| {
        let data = asked(content).unwrap();
        let batch = data.batch_of(&[0]).unwrap();
        let tokens: Vec<u32> = batch.tokens.to_vec1().unwrap();
        assert!(data.is_prompts() && batch.targets.is_empty());
        let told: serde_json::Value = serde_json::from_str(&batch.rows[0].asked.as_ref().unwrap().row).unwrap();
        let row: serde_json::Value = serde_json::from_str(content).unwrap();
        assert_eq!(told["row"], row, "the judge gets all columns");
        let text: String = tokens.into_iter().map(|id| char::from(id as u8)).collect();
        assert!(told["prompt"].as_str().unwrap().ends_with(&text));
        text
    };
    assert_eq!(prompt(r#"{"prompt": "2+2=", "completion": "4", "level": 3}"#), "2+2=");
    assert_eq!(prompt(r#"{"prompt": "2+2=", "nested": {"a": [1, null]}}"#), "2+2=");
    assert_eq!(prompt(r#"{"question": "2+2?", "answer": "4"}"#), "User: 2+2?\nAssistant:");
    assert_eq!(prompt(r#"{"prompt": "2+2?", "answer": "4"}"#), "User: 2+2?\nAssistant:");
    let turns = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}"#;
    assert_eq!(prompt(turns), "User: Hi\nAssistant:");
    for length in [40, 100_000] {
        let long = format!(r#"{{"prompt": "{}end"}}"#, "x".repeat(length));
        assert_eq!(prompt(&long), format!("{}end", "x".repeat(21)), "{length}");
    }
    let error = asked(r#"{"text": "only a text"}"#).err().unwrap();
    assert!(error.contains("completions of what is asked"), "{error}");
    // What a program is told is what the file has: digits where a number has no room, and null where it is none.
    let told = |value: &str| {
        let data = asked(&format!("{{\"prompt\": \"2+2=\", \"target\": {value}}}\n")).unwrap();
        let row = data.batch_of(&[0]).unwrap().rows[0].asked.clone().unwrap().row;
        row.split("\"target\":").nth(1).unwrap().trim_end_matches('}').to_owned()
    };
    let factorial = "138683118545689835737939019720389406345902876772687432540821294940160000000000000";
    for (value, expected) in [
        (factorial, &format!("\"{factorial}\"")[..]),
        ("-9223372036854775809", "\"-9223372036854775809\""),
        ("-9223372036854775808", "-9223372036854775808"),
        ("18446744073709551615", "18446744073709551615"),
        ("18446744073709551616", "\"18446744073709551616\""),
        ("0.1234567890123456789", "0.12345678901234568"),
        ("NaN", "null"),
        ("-Infinity", "null"),
        ("1e400", "null"),
    ] {
        assert_eq!(told(value), expected, "{value}");
    }
}
