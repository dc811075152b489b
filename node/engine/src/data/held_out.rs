//! Which files of plain text are held out, and which are by their names.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

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

/// Names that say the same of their files: for each place, what else they say, and their paths.
type Named = BTreeMap<PathBuf, BTreeSet<(String, String)>>;

/// The files and directories that are to be trained on, and those that are to be measured by, as the names of these
/// `files` have it in their words; None unless there are both.
///
/// They are parts of one set where they are in one place and say the same otherwise, or one of them nothing: notes of a
/// train's journey and a developer's are no such parts.
pub fn mixed<'a>(files: impl Iterator<Item = &'a Path>) -> Option<[Vec<String>; 2]> {
    let (mut train, mut held_out) = (Named::new(), Named::new());
    for file in files {
        for part in file.ancestors() {
            // A directory has no extension.
            let name = if part == file { part.file_stem() } else { part.file_name() };
            let name = name.unwrap_or_default().to_string_lossy().to_lowercase();
            let words = || name.split(|character: char| !character.is_alphanumeric());
            let is_held_out = |word: &str| HELD_OUT.contains(&word);
            let side = match (words().any(|word| word == TRAIN), words().any(is_held_out)) {
                (true, false) => &mut train,
                (false, true) => &mut held_out,
                _ => continue,
            };
            // Parts of a set come in parts themselves: 00000-of-00002.
            let is_number = |word: &str| word == "of" || word.chars().all(char::is_numeric);
            let is_rest = |word: &&str| *word != TRAIN && !is_held_out(word) && !is_number(word);
            let rest: Vec<&str> = words().filter(is_rest).collect();
            let place = part.parent().unwrap_or(Path::new("")).to_owned();
            side.entry(place).or_default().insert((rest.join(" "), part.display().to_string()));
        }
    }
    let parts = [apart(&train, &held_out), apart(&held_out, &train)];
    parts.iter().all(|names| !names.is_empty()).then_some(parts)
}

/// The paths of those of `own` that have a counterpart among `others`.
fn apart(own: &Named, others: &Named) -> Vec<String> {
    let mut paths = Vec::new();
    for (place, names) in own {
        let rests: BTreeSet<&str> = others.get(place).into_iter().flatten().map(|(rest, _)| rest.as_str()).collect();
        let is_apart = |rest: &str| rests.contains(rest) || rests.contains("") || rest.is_empty() && !rests.is_empty();
        paths.extend(names.iter().filter(|(rest, _)| is_apart(rest)).map(|(_, path)| path.clone()));
    }
    paths.sort();
    paths
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
            (&["squad_train.json", "squad_dev.json", "dev_diary.txt"], &["squad_train.json"], &["squad_dev.json"]),
            (
                &["Train-00000-of-00002.parquet", "squad_dev.json"],
                &["Train-00000-of-00002.parquet"],
                &["squad_dev.json"],
            ),
        ] {
            assert_eq!(apart(files), Some([named(train), named(held_out)]), "{files:?}");
        }
        let alone: [&[&str]; 6] = [
            &["train.jsonl", "trains.jsonl"],
            &["test.jsonl", "dev.jsonl"],
            &["training/testing.txt", "x.train"],
            &["train_test.txt"],
            &["train_rides.txt", "dev_diary.txt"],
            &["a/train.jsonl", "b/test.jsonl"],
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
