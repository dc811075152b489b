//! Which GGUF file is meant, of those of a directory, of a snapshot in the hub's cache, or of a repository, by names
//! alone.

use anyhow::{Result, bail};
use std::fmt::Write as _;

/// How the names of GGUF files end, in whatever case.
const ENDING: &str = ".gguf";
/// Most files in an error.
const LISTED: usize = 40;

/// A file by its path in the directory or the repository that it is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// Divided by `/`.
    pub path: String,
    /// Its size, if it is known.
    pub bytes: Option<u64>,
}

/// Where the files are.
pub struct Place {
    /// A path, or `owner/name`.
    pub name: String,
    /// Whether it is a repository, of which a file is named behind a colon.
    pub is_hub: bool,
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// The name without its ending; None of what is no GGUF file.
fn stem(path: &str) -> Option<&str> {
    let name = file_name(path);
    let (stem, ending) = name.split_at_checked(name.len().checked_sub(ENDING.len())?)?;
    ending.eq_ignore_ascii_case(ENDING).then_some(stem)
}

/// Whether it is a language model: no projector, which sees or hears beside one (`mmproj`), and no importance matrix,
/// of which quantised files are made, and which some of them are called after.
pub fn is_model(path: &str) -> bool {
    let name = file_name(path).to_lowercase();
    stem(&name).is_some() && !name.contains("mmproj") && (!name.contains("imatrix") || kind(&name).is_some())
}

/// How the weights are stored, as llama.cpp's tools put it in a file's name: `Q4_K_M`.
pub fn kind(path: &str) -> Option<&str> {
    let is_kind = |part: &&str| {
        let part = part.to_ascii_uppercase();
        let numbered = |kind: &str| part.strip_prefix(kind).is_some_and(|rest| rest.starts_with(char::is_numeric));
        ["Q", "IQ", "TQ", "F", "BF", "FP", "MXFP", "NVFP"].into_iter().any(numbered)
    };
    stem(path)?.split(['-', '.', ' ']).rev().find(is_kind)
}

/// The same, if this node cannot read weights that are stored so.
pub fn unsupported_kind(path: &str) -> Option<&str> {
    let is_unsupported = |kind: &&str| {
        let kind = kind.to_ascii_uppercase();
        ["IQ", "TQ", "MXFP", "NVFP", "F64"].iter().any(|start| kind.starts_with(start))
    };
    kind(path).filter(is_unsupported)
}

/// (what comes before, number, of how many) of the name, without its ending, of a part of a model.
pub fn part_of(stem: &str) -> Option<(&str, usize, usize)> {
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (whole, number) = rest.rsplit_once('-')?;
    Some((whole, number.parse().ok()?, count.parse().ok()?))
}

/// The path of the whole model, and in how many parts it is, at least 2.
fn split(path: &str) -> Option<(&str, usize)> {
    stem(path)?;
    let (whole, _, count) = part_of(&path[..path.len() - ENDING.len()])?;
    (count > 1).then_some((whole, count))
}

/// Whether `asked` means the file at `path`: its path, its name, or a part of its name, such as how its weights are
/// stored.
pub fn is_meant(asked: &str, path: &str) -> bool {
    MEANINGS.iter().any(|meaning| meaning(asked, path))
}

/// The surest first.
const MEANINGS: [fn(&str, &str) -> bool; 3] = [
    |asked, path| asked == path,
    |asked, path| {
        let name = file_name(path);
        asked.eq_ignore_ascii_case(name) || stem(path).is_some_and(|stem| asked.eq_ignore_ascii_case(stem))
    },
    |asked, path| {
        let (asked, stem) = (asked.to_lowercase(), stem(path).unwrap_or_default().to_lowercase());
        let is_whole = |(at, _): (usize, &str)| {
            let (before, after) = (&stem[..at], &stem[at + asked.len()..]);
            let ends = |c: char| !c.is_alphanumeric();
            // Q4_K is no part of Q4_K_M.
            (before.is_empty() || before.ends_with(ends)) && (after.is_empty() || after.starts_with(['-', '.', ' ']))
        };
        !asked.is_empty() && stem.match_indices(&*asked).any(is_whole)
    },
];

/// The model among `files` that `asked` means, or the only one. None if there is none, and nothing was asked for.
/// Errors list what there is, and say how to name one of them.
pub fn choose<'a>(files: &'a [Named], asked: Option<&str>, place: &Place) -> Result<Option<&'a Named>> {
    let models: Vec<&Named> = files.iter().filter(|file| is_model(&file.path)).collect();
    let meant = |asked: &str| {
        let by = |meaning: &fn(&str, &str) -> bool| {
            models.iter().copied().filter(|file| meaning(asked, &file.path)).collect::<Vec<_>>()
        };
        MEANINGS.iter().map(by).find(|found| !found.is_empty()).unwrap_or_default()
    };
    let found = asked.map_or_else(|| models.clone(), meant);
    let name = &place.name;
    match (&found[..], asked) {
        ([], None) => Ok(None),
        ([], Some(asked)) if models.is_empty() => bail!("{name} has no GGUF file, so none that is called {asked}"),
        ([], Some(asked)) => {
            bail!("{name} has no GGUF file {asked}; {}. It has{}", remedy(&models, place), list(&models))
        }
        ([first, ..], _) => match split(&first.path) {
            Some(whole) if found.iter().all(|file| split(&file.path) == Some(whole)) => {
                bail!("{}", in_parts(&first.path, whole, place))
            }
            None if found.len() == 1 => Ok(Some(first)),
            _ => {
                let of = asked.map(|asked| format!(" that {asked} may mean")).unwrap_or_default();
                bail!("{name} has {} GGUF files{of}; {}. It has{}", found.len(), remedy(&found, place), list(&found))
            }
        },
    }
}

/// How one of `files` is named.
fn remedy(files: &[&Named], place: &Place) -> String {
    if !place.is_hub {
        return "give the path of one".into();
    }
    let usable = |file: &&&Named| unsupported_kind(&file.path).is_none() && split(&file.path).is_none();
    let example = files.iter().find(usable).or(files.first()).map_or("FILE", |file| &file.path);
    let is_only = |kind: &&str| files.iter().filter(|file| is_meant(kind, &file.path)).count() == 1;
    let short = kind(example).filter(is_only).unwrap_or(example);
    format!("name the one that you want behind a colon, for example --model {}:{short}", place.name)
}

/// A line for each model.
fn list(files: &[&Named]) -> String {
    let mut text = String::new();
    let is_first =
        |file: &&&Named| part_of(stem(&file.path).unwrap_or_default()).is_none_or(|(_, number, _)| number == 1);
    let models: Vec<_> = files.iter().filter(is_first).collect();
    for file in models.iter().take(LISTED) {
        let _ = write!(text, "\n  {}", file.path);
        if let Some(bytes) = file.bytes.filter(|_| split(&file.path).is_none()) {
            let _ = write!(text, "  {} MiB", bytes.div_ceil(1 << 20));
        }
        if let Some((_, count)) = split(&file.path) {
            let _ = write!(text, "  in {count} parts, which must be joined first");
        }
        if let Some(kind) = unsupported_kind(&file.path) {
            let _ = write!(text, "  ({kind} cannot be read)");
        }
    }
    if models.len() > LISTED {
        let _ = write!(text, "\n  and {} more", models.len() - LISTED);
    }
    text
}

/// What to do with a model in parts.
fn in_parts(first: &str, (whole, count): (&str, usize), place: &Place) -> String {
    let name = &place.name;
    let (model, _) = name.split_once('@').unwrap_or((name, ""));
    let (download, at) = match place.is_hub {
        true => (format!("download them (hf download {model} --include '{whole}-*' --local-dir DIR), "), "DIR".into()),
        false => (String::new(), name.clone()),
    };
    let first = first.replacen(&format!("-{:05}-of-", part_number(first)), "-00001-of-", 1);
    format!(
        "{name} has {whole}.gguf in {count} parts: {download}join them with llama.cpp's `llama-gguf-split --merge \
         {at}/{first} {at}/{}.gguf`, and give the path of that",
        file_name(whole)
    )
}

fn part_number(path: &str) -> usize {
    stem(path).and_then(part_of).map_or(1, |(_, number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], asked: Option<&str>) -> Result<Option<String>> {
        let named = |path: &&str| Named { path: (*path).to_owned(), bytes: Some(3 << 20) };
        let files: Vec<Named> = files.iter().map(named).collect();
        let place = Place { name: "owner/name".into(), is_hub: true };
        Ok(choose(&files, asked, &place)?.map(|file| file.path.clone()))
    }

    #[test]
    fn a_model_is_told_from_what_lies_beside_it() {
        for path in ["m.gguf", "Q4/M-Q4_K_M.GGUF", "m.imatrix-Q4_K_M.gguf", "m-imatrix.Q8_0.gguf"] {
            assert!(is_model(path), "{path}");
            assert_eq!(
                chosen(&[path, "mmproj-m-f16.gguf", "m.mmproj.gguf", "m.imatrix.gguf"], None).unwrap().unwrap(),
                path
            );
        }
        assert_eq!(chosen(&["mmproj-F16.gguf", "imatrix.gguf", "README.md"], None).unwrap(), None);
    }

    #[test]
    fn one_of_several_is_named_by_path_name_or_how_it_is_stored() {
        let files = ["a/x-Q4_K_M.gguf", "x-Q4_K.gguf", "x-Q8_0.gguf", "x-iq4_xs.gguf", "b/x-Q8_0.gguf"];
        for (asked, expected) in [
            ("Q4_K_M", "a/x-Q4_K_M.gguf"),
            ("q4_k", "x-Q4_K.gguf"),
            ("X-Q4_K_M.gguf", "a/x-Q4_K_M.gguf"),
            ("x-q4_k", "x-Q4_K.gguf"),
            ("b/x-Q8_0.gguf", "b/x-Q8_0.gguf"),
            ("x-Q8_0.gguf", "x-Q8_0.gguf"),
        ] {
            assert_eq!(chosen(&files, Some(asked)).unwrap().as_deref(), Some(expected), "{asked}");
        }
        let refused = |asked| chosen(&files, asked).unwrap_err().to_string();
        let all = refused(None);
        assert!(all.contains("5 GGUF files") && all.contains("--model owner/name:Q4_K_M"), "{all}");
        assert!(all.contains("x-Q8_0.gguf  3 MiB") && all.contains("iq4_xs cannot be read"), "{all}");
        assert!(refused(Some("Q8_0")).contains("2 GGUF files that Q8_0 may mean"), "{}", refused(Some("Q8_0")));
        let none = refused(Some("Q5_K_M"));
        assert!(none.contains("no GGUF file Q5_K_M") && none.contains("x-Q4_K.gguf"), "{none}");
    }

    #[test]
    fn parts_of_a_model_are_to_be_joined() {
        let parts = ["q/m-Q8_0-00001-of-00002.gguf", "q/m-Q8_0-00002-of-00002.gguf"];
        for (files, asked) in [(&parts[..], None), (&parts[1..], None), (&parts, Some("Q8_0"))] {
            let refused = chosen(files, asked).unwrap_err().to_string();
            assert!(refused.contains("in 2 parts") && refused.contains("hf download owner/name"), "{refused}");
            assert!(refused.contains("--merge DIR/q/m-Q8_0-00001-of-00002.gguf DIR/m-Q8_0.gguf"), "{refused}");
        }
        let with_other = [&parts[..], &["m-Q4_0.gguf"]].concat();
        assert_eq!(chosen(&with_other, Some("Q4_0")).unwrap().unwrap(), "m-Q4_0.gguf");
        let refused = chosen(&with_other, None).unwrap_err().to_string();
        assert!(refused.contains("owner/name:Q4_0") && !refused.contains("00002-of-00002"), "{refused}");
        assert_eq!(chosen(&["m-00001-of-00001.gguf"], None).unwrap().unwrap(), "m-00001-of-00001.gguf");
    }
}
