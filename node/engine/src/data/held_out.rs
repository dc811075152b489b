//! Which files of plain text are held out, and which are by their names.

use std::{collections::BTreeSet, path::Path};

/// The held-out part is whole files if some at the end have a share of all bytes between these.
const WHOLE_FILES_SHARE: [f64; 2] = [0.4, 2.0];

/// From which file on, and from which share of that file on, the last `held_out` of files of these sizes begins: whole
/// files if some at the end have about as many bytes, and else the end of one.
pub fn held_out_files(sizes: &[u64], held_out: f64) -> (usize, f64) {
    let total: u64 = sizes.iter().sum();
    let wanted = total as f64 * held_out;
    if held_out == 0.0 || total == 0 {
        return (sizes.len(), 0.0);
    }
    let suffix = |from: usize| sizes[from..].iter().sum::<u64>() as f64;
    let is_near = |from: &usize| {
        let share = suffix(*from) / wanted;
        (WHOLE_FILES_SHARE[0]..=WHOLE_FILES_SHARE[1]).contains(&share)
    };
    let distance = |from: &usize| (suffix(*from) - wanted).abs();
    if let Some(from) = (1..sizes.len()).filter(is_near).min_by(|a, b| distance(a).total_cmp(&distance(b))) {
        return (from, 0.0);
    }
    let from = (0..sizes.len()).rev().find(|from| suffix(*from) >= wanted).unwrap_or(0);
    let after = suffix(from + 1);
    (from, 1.0 - (wanted - after) / sizes[from] as f64)
}

/// What names of files say.
const TRAIN: &str = "train";
const HELD_OUT: [&str; 6] = ["test", "valid", "validation", "val", "dev", "eval"];

/// The files and directories that are to be trained on, and those that are to be measured by, as the names of these
/// `files` have it in their words; None unless there are both.
pub fn mixed<'a>(files: impl Iterator<Item = &'a Path>) -> Option<[Vec<String>; 2]> {
    let (mut train, mut held_out) = (BTreeSet::new(), BTreeSet::new());
    for file in files {
        for part in file.ancestors() {
            // A directory has no extension.
            let name = if part == file { part.file_stem() } else { part.file_name() };
            let name = name.unwrap_or_default().to_string_lossy().to_lowercase();
            let says = |word: &str| name.split(|character: char| !character.is_alphanumeric()).any(|own| own == word);
            match (says(TRAIN), HELD_OUT.into_iter().any(says)) {
                (true, false) => train.insert(part.display().to_string()),
                (false, true) => held_out.insert(part.display().to_string()),
                _ => false,
            };
        }
    }
    let is_both = !train.is_empty() && !held_out.is_empty();
    is_both.then(|| [train, held_out].map(|names| names.into_iter().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_apart_by_their_names_are_told_by_whole_words() {
        let apart = |files: &[&str]| mixed(files.iter().map(|file| Path::new(*file)));
        let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<String>>();
        for (files, train, held_out) in [
            (
                &["test.jsonl", "train.jsonl", "validation.jsonl"][..],
                &["train.jsonl"][..],
                &["test.jsonl", "validation.jsonl"][..],
            ),
            (&["a/train/1.txt", "a/train/2.txt", "a/test/1.txt"], &["a/train"], &["a/test"]),
            (&["wiki.train.tokens", "wiki.test.tokens"], &["wiki.train.tokens"], &["wiki.test.tokens"]),
            (
                &["Train-00000-of-00002.parquet", "squad_dev.json"],
                &["Train-00000-of-00002.parquet"],
                &["squad_dev.json"],
            ),
        ] {
            assert_eq!(apart(files), Some([named(train), named(held_out)]), "{files:?}");
        }
        let alone: [&[&str]; 4] = [
            &["train.jsonl", "trains.jsonl"],
            &["test.jsonl", "dev.jsonl"],
            &["training/testing.txt", "x.train"],
            &["train_test.txt"],
        ];
        for files in alone {
            assert_eq!(apart(files), None, "{files:?}");
        }
    }

    #[test]
    fn whole_files_are_held_out_where_some_at_the_end_have_about_a_tenth() {
        assert_eq!(held_out_files(&[100; 10], 0.1), (9, 0.0));
        assert_eq!(held_out_files(&[100; 40], 0.1), (36, 0.0));
        assert_eq!(held_out_files(&[500, 400, 60, 40], 0.1), (2, 0.0));
        // The last one alone is too large, or too small.
        assert_eq!(held_out_files(&[100, 100], 0.1), (1, 0.8));
        assert_eq!(held_out_files(&[1000], 0.1), (0, 0.9));
        let (from, share) = held_out_files(&[990, 10], 0.1);
        assert!(from == 0 && (share - 900.0 / 990.0).abs() < 1e-9);
        assert_eq!(held_out_files(&[10, 10], 0.0), (2, 0.0));
        assert_eq!(held_out_files(&[], 0.1), (0, 0.0));
    }
}
