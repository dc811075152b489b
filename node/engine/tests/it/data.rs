//! Data files, windows, batches.

use engine::{
    data::Dataset,
    embedded,
    model::{Batch, Target, Tokenizer},
};
use std::{collections::BTreeSet, fs, path::PathBuf};
use tempfile::TempDir;

/// The embedded tokenizer: a token is a byte, 256 ends a text.
fn tokenizer() -> Tokenizer {
    let checkpoint = embedded::checkpoint().unwrap();
    Tokenizer::of(&checkpoint).unwrap()
}

fn file(directory: &TempDir, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.path().join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    path
}

/// The packed tokens.
fn tokens(batch: &Batch) -> Vec<u32> {
    batch.tokens.to_vec1::<u32>().unwrap()
}

/// Inputs and targets of one window as text; what is not predicted is `_`.
fn shown(dataset: &Dataset, window: usize) -> (String, String) {
    let batch = dataset.batch_of(&[window]).unwrap();
    let inputs = tokens(&batch);
    assert_eq!((batch.layout.spans().len(), batch.layout.tokens()), (1, inputs.len()));
    assert_eq!(batch.rows[0].choices.first(), Some(&(0..batch.targets.len())));
    let shown = |id: u32| if id == 256 { '$' } else { char::from(id as u8) };
    let mut targets = vec!['_'; inputs.len()];
    batch.targets.iter().for_each(|target| targets[target.position as usize] = shown(target.token));
    (inputs.into_iter().map(shown).collect(), targets.into_iter().collect())
}

fn load_error(directory: &TempDir, name: &str, content: impl AsRef<[u8]>, sequence_length: usize) -> String {
    let path = file(directory, name, content);
    format!("{:#}", Dataset::load(&path, &tokenizer(), sequence_length).err().expect("loading should fail"))
}

#[test]
fn text_is_one_stream_of_windows_that_predict_all_but_their_first_token() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "a.txt", "abcdefghij");
    let dataset = Dataset::load(&path, &tokenizer(), 4).unwrap();
    assert_eq!((dataset.windows(), dataset.tokens(), dataset.bytes()), (2, 10, 10));
    assert_eq!(shown(&dataset, 0), ("abc".into(), "bcd".into()));
    assert_eq!(shown(&dataset, 1), ("efg".into(), "fgh".into()));
    assert!(dataset.batch_of(&[2]).is_err());
    assert!(dataset.batch_of(&[]).is_err());
}

#[test]
fn the_last_tenth_of_the_bytes_is_held_out() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "a.txt", (b'a'..=b'z').cycle().take(100).collect::<Vec<_>>());
    let (train, held_out) = Dataset::load_split(&path, &tokenizer(), 5).unwrap();
    assert_eq!((train.windows(), train.bytes(), held_out.windows(), held_out.bytes()), (18, 90, 2, 10));
    assert_eq!(shown(&held_out, 0), ("mnop".into(), "nopq".into()));
    let path = file(&directory, "short.txt", "abcdefghij");
    let error = Dataset::load_split(&path, &tokenizer(), 5).err().unwrap().to_string();
    assert!(error.contains("--eval"), "{error}");
}

#[test]
fn a_split_does_not_cut_a_character() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "a.txt", "é".repeat(51));
    let (train, held_out) = Dataset::load_split(&path, &tokenizer(), 4).unwrap();
    assert_eq!((train.bytes(), held_out.bytes()), (90, 12));
}

#[test]
fn a_directory_is_read_in_order_with_its_subdirectories() {
    let directory = TempDir::new().unwrap();
    file(&directory, "b.md", "BBBB");
    file(&directory, "a/z.txt", "AAAA");
    file(&directory, "c.png", [0x89, b'P', b'N', b'G', 0]);
    file(&directory, "d.jsonl", "{\"text\": \"document\"}\n");
    let dataset = Dataset::load(directory.path(), &tokenizer(), 4).unwrap();
    let windows: Vec<String> = (0..dataset.windows()).map(|window| shown(&dataset, window).0).collect();
    assert_eq!(windows, ["AAA", "BBB", "doc", "men"]);
    let empty = TempDir::new().unwrap();
    let error = Dataset::load(empty.path(), &tokenizer(), 4).err().unwrap().to_string();
    assert!(error.contains("has no files with text"), "{error}");
}

#[test]
fn documents_are_cut_into_windows_of_which_the_last_is_shorter() {
    let directory = TempDir::new().unwrap();
    let path = file(&directory, "a.jsonl", "{\"text\": \"abcdefg\"}\n\n{\"text\": \"x\"}\n{\"text\": \"yz\"}\n");
    let dataset = Dataset::load(&path, &tokenizer(), 5).unwrap();
    assert_eq!(dataset.windows(), 3);
    assert_eq!(shown(&dataset, 0), ("abcd".into(), "bcde".into()));
    assert_eq!(shown(&dataset, 1), ("f".into(), "g".into()));
    assert_eq!(shown(&dataset, 2), ("y".into(), "z".into()));
    let report = dataset.report().to_string();
    assert!(report.contains("2 rows (text)") && report.contains("1 row of one token, which predicts"), "{report}");
}

#[test]
fn only_completions_are_predicted() {
    let directory = TempDir::new().unwrap();
    let lines = "{\"prompt\": \"ab\", \"completion\": \"cd\"}\n{\"prompt\": \"0123456789\", \"completion\": \"xy\"}\n{\"prompt\": \"q\", \"completion\": \"0123456789\"}";
    let path = file(&directory, "a.jsonl", lines);
    let dataset = Dataset::load(&path, &tokenizer(), 7).unwrap();
    assert_eq!(shown(&dataset, 0), ("abcd".into(), "_cd$".into()));
    assert_eq!(shown(&dataset, 1), ("6789xy".into(), "___xy$".into()));
    // The third needs two windows, of which the second has what room allows of what comes before.
    assert_eq!(dataset.windows(), 4);
    assert_eq!(shown(&dataset, 2), ("q01234".into(), "012345".into()));
    assert_eq!(shown(&dataset, 3), ("456789".into(), "_6789$".into()));
    assert_eq!((dataset.tokens(), dataset.bytes(), dataset.report().prompts_cut()), (17, 14, 1));
}

#[test]
fn rows_with_choices_hold_their_prompt_once() {
    let directory = TempDir::new().unwrap();
    let lines = "{\"prompt\": \"ab\", \"choices\": [\"xyz\", \"q\"], \"answer\": 1}\n\
                 {\"prompt\": \"0123456789\", \"choices\": [\"rst\", \"uvw\", \"rsu\"], \"answer\": 0, \"id\": 7}";
    let path = file(&directory, "a.jsonl", lines);
    let dataset = Dataset::load(&path, &tokenizer(), 7).unwrap();
    assert!(dataset.has_choices());
    // The two rows have four and ten tokens that a forward sees, a window six.
    assert_eq!((dataset.rows_of_windows(2), dataset.rows_of_windows(35)), (1, 30));
    // The second prompt keeps four of its ten bytes beside three of a choice.
    assert_eq!((dataset.windows(), dataset.report().prompts_cut()), (2, 1));
    let batch = dataset.batch_of(&[0, 1]).unwrap();
    let text: String = tokens(&batch).into_iter().map(|id| char::from(id as u8)).collect();
    assert_eq!(text, "abxy6789rsuvrs");
    assert_eq!(batch.layout.positions().collect::<Vec<_>>(), [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 4, 5, 4, 5]);
    let predicted = |range: std::ops::Range<usize>| {
        let show = |target: &Target| (target.position, char::from(target.token as u8));
        batch.targets[range].iter().map(show).collect::<Vec<_>>()
    };
    let [first, second] = &batch.rows[..] else { panic!("two rows") };
    assert_eq!((first.answer, second.answer, first.choices.len(), second.choices.len()), (1, 0, 2, 3));
    assert_eq!(predicted(first.choices[0].clone()), [(1, 'x'), (2, 'y'), (3, 'z')]);
    assert_eq!(predicted(first.choices[1].clone()), [(1, 'q')]);
    assert_eq!(predicted(second.choices[1].clone()), [(7, 'u'), (10, 'v'), (11, 'w')]);
    assert!(Dataset::load_split(&path, &tokenizer(), 7).is_err(), "two rows are too few to hold one out");
    // Of a prompt that is longer by far the same is left.
    let long = lines.replace("0123456789", &"0123456789".repeat(20_000));
    let both = file(&directory, "b.jsonl", format!("{long}\n{lines}"));
    let dataset = Dataset::load(&both, &tokenizer(), 7).unwrap();
    let row = |index: usize| tokens(&dataset.batch_of(&[index]).unwrap());
    assert_eq!((row(1), dataset.report().prompts_cut()), (row(3), 2));
    let numbered = |row: usize| format!("{{\"prompt\": \"a{row}\", \"choices\": [\"xyz\", \"q\"], \"answer\": 1}}\n");
    let many = file(&directory, "c.jsonl", (0..20).map(numbered).collect::<String>());
    let (train, held_out) = Dataset::load_split(&many, &tokenizer(), 7).unwrap();
    assert_eq!((train.windows(), held_out.windows()), (18, 2));
}

#[test]
fn each_bad_row_with_choices_is_refused_with_its_line_and_a_remedy() {
    let directory = TempDir::new().unwrap();
    let good = r#"{"prompt": "a", "choices": ["b", "c"], "answer": 0}"#;
    let cases = [
        (r#"{"prompt": "a", "choices": ["b", "c"], "answer": 2}"#, "answer is 2; it must be the index"),
        (r#"{"prompt": "a", "choices": ["b", "c"], "answer": -1}"#, "answer is -1;"),
        (r#"{"prompt": "a", "choices": ["b", "c"], "answer": "d"}"#, "answer is \"d\";"),
        (r#"{"prompt": "a", "choices": ["b", "c"], "answer": 0.5}"#, "0 to 1, its letter from A on, or its text"),
        (r#"{"prompt": "a", "choices": ["b", "c"]}"#, "prompt (or question), choices and answer"),
        (r#"{"choices": ["b", "c"], "answer": 0}"#, "prompt (or question), choices and answer"),
        (
            r#"{"prompt": "a", "completion": "b", "choices": ["b", "c"], "answer": 0}"#,
            "prompt (or question), choices and answer",
        ),
        (r#"{"prompt": "a", "choices": ["b"], "answer": 0}"#, "choices has 1 of at least two; use completion"),
        (r#"{"prompt": "a", "choices": [], "answer": 0}"#, "choices has 0"),
        (r#"{"prompt": "a", "choices": ["b", ""], "answer": 0}"#, "choices[1] is empty"),
        (
            r#"{"prompt": "a", "choices": ["b", "c", "b"], "answer": 0}"#,
            "choices[0] and choices[2], \"b\", are the same",
        ),
        (r#"{"prompt": "a", "choices": ["b", "12345678"], "answer": 0}"#, "choices[1] has 8 tokens"),
        (r#"{"prompt": "a", "choices": "bc", "answer": 0}"#, "malformed"),
        (r#"{"prompt": "a", "completion": "b"}"#, "this row has no choices, those before have"),
    ];
    for (line, part) in cases {
        let error = load_error(&directory, "a.jsonl", format!("{good}\n\n{line}\n"), 8);
        assert!(error.contains("a.jsonl, line 3") && error.contains(part), "{line}: {error}");
    }
    let error = load_error(&directory, "b.jsonl", format!("{{\"text\": \"abc\"}}\n{good}"), 8);
    assert!(error.contains("b.jsonl, line 2") && error.contains("this row has choices"), "{error}");
    let mixed = TempDir::new().unwrap();
    file(&mixed, "a.txt", "some text");
    file(&mixed, "b.jsonl", good);
    let error = format!("{:#}", Dataset::load(mixed.path(), &tokenizer(), 8).err().unwrap());
    assert!(error.contains("plain texts"), "{error}");
}

#[test]
fn each_bad_file_is_refused_with_its_place_and_a_remedy() {
    let directory = TempDir::new().unwrap();
    let cases = [
        (load_error(&directory, "a.txt", "", 8), vec!["a.txt", "no text"]),
        (load_error(&directory, "b.txt", "12345", 8), vec!["b.txt", "5 tokens", "needs 8", "--sequence-length"]),
        (load_error(&directory, "c.txt", b"good\xff", 8), vec!["c.txt", "byte 4", "UTF-8"]),
        (
            load_error(&directory, "d.jsonl", "{\"text\": \"a\"}\n{\"text\"", 8),
            vec!["d.jsonl", "line 2", "column 7", "object"],
        ),
        (
            load_error(&directory, "e.jsonl", "\n{\"body\": \"a\"}", 8),
            vec!["e.jsonl", "line 2", "prompt and completion"],
        ),
        (load_error(&directory, "f.jsonl", "{\"prompt\": \"a\"}", 8), vec!["line 1", "prompt and completion"]),
        (load_error(&directory, "g.jsonl", "{\"prompt\": \"a\", \"completion\": \"\"}", 8), vec!["line 1", "empty"]),
        (load_error(&directory, "h.jsonl", "{\"text\": \"a\"}", 8), vec!["h.jsonl", "1 row of one token", "longer"]),
        (load_error(&directory, "i.txt", "abc", 1), vec!["--sequence-length 1"]),
    ];
    for (error, parts) in cases {
        assert!(parts.iter().all(|part| error.contains(part)), "{error} should have {parts:?}");
    }
    let missing = directory.path().join("missing.txt");
    let error = format!("{:#}", Dataset::load(&missing, &tokenizer(), 8).err().unwrap());
    assert!(error.contains("missing.txt"), "{error}");
}

#[test]
fn an_epoch_has_every_window_once_and_a_restart_goes_on() {
    let text: String = (0..50).map(|i| format!("{i:04}")).collect();
    let dataset = Dataset::from_text(&text, &tokenizer(), 4).unwrap();
    let drawn = |sample: u64| {
        let batch = dataset.batch(9, sample, 5).unwrap();
        let inputs = tokens(&batch);
        let windows = batch.rows.iter().zip(inputs.chunks(3)).map(|(row, inputs)| {
            let last = batch.targets[row.choices[0].end - 1].token;
            inputs.iter().chain([&last]).map(|id| char::from(*id as u8)).collect()
        });
        windows.collect::<Vec<String>>()
    };
    let epoch: Vec<String> = (0..10).flat_map(drawn).collect();
    let next: Vec<String> = (10..20).flat_map(drawn).collect();
    let all: BTreeSet<String> = (0..50).map(|i| format!("{i:04}")).collect();
    assert_eq!(epoch.iter().cloned().collect::<BTreeSet<_>>(), all);
    assert_eq!(next.iter().cloned().collect::<BTreeSet<_>>(), all);
    assert_ne!(epoch, next);
    assert_eq!(drawn(7), epoch[35..40]);
}

#[test]
fn a_long_text_is_tokenised_in_pieces_without_loss() {
    let text: String = (0..120_000).map(|i| format!("é{i}")).collect();
    let dataset = Dataset::from_text(&text, &tokenizer(), 128).unwrap();
    assert_eq!(dataset.tokens(), text.len() as u64);
    let ids: Vec<u32> = (0..dataset.windows())
        .flat_map(|window| {
            let batch = dataset.batch_of(&[window]).unwrap();
            let first = tokens(&batch)[0];
            std::iter::once(first).chain(batch.targets.into_iter().map(|target| target.token)).collect::<Vec<_>>()
        })
        .collect();
    assert!(ids.into_iter().eq(text.bytes().take(dataset.windows() * 128).map(u32::from)));
}

#[test]
fn batches_of_rows_of_many_lengths_have_about_equal_tokens() {
    let directory = TempDir::new().unwrap();
    let lines = (0..997usize).map(|row| format!("{{\"text\": \"{}\"}}\n", "a".repeat(2 + row * 7919 % 50)));
    let path = file(&directory, "a.jsonl", lines.collect::<String>());
    let dataset = Dataset::load(&path, &tokenizer(), 128).unwrap();
    let mut seen = BTreeSet::new();
    // The epoch ends in the middle of batch 124, which is of two orders.
    for sample in (0..200).filter(|sample| *sample != 124) {
        let batch = dataset.batch(4, sample, 8).unwrap();
        seen.extend(batch.layout.spans().iter().map(|span| span.length));
        assert_eq!(batch.rows.len(), 8);
        // 204 on average; each of eight rows is within 4 of the middle of its eighth. Drawn at random, a batch would
        // have a standard deviation of 41.
        assert!(batch.layout.tokens().abs_diff(204) <= 32, "{} tokens", batch.layout.tokens());
    }
    assert_eq!(seen.len(), 50);
}
