//! The cache of Hugging Face's hub on disk: `HF_HOME/hub/models--owner--name/snapshots/revision/`, files being links
//! into `blobs`. A path to any level of it means the model in it.

use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// How the directory of a model in the cache begins.
const MODEL: &str = "models--";
/// The revision that is meant where none is named.
const MAIN: &str = "main";
/// Most names in an error.
const NAMED: usize = 8;
/// Digits of a commit's name.
const COMMIT_DIGITS: usize = 40;

/// The directory of the checkpoint that `path` means: `path` itself, or the one snapshot of the one model in it where
/// `path` is the cache, at any level. Errors name the models, or the revisions, of which one must be chosen.
pub fn snapshot(path: &Path) -> Result<PathBuf> {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if full.join("config.json").exists() {
        return Ok(path.to_owned());
    }
    let parent = full.parent().filter(|parent| is_model(parent));
    match parent {
        Some(model) if ["snapshots", "refs", "blobs"].iter().any(|part| full.ends_with(part)) => {
            return of_model(model);
        }
        _ if is_model(&full) => return of_model(&full),
        _ => {}
    }
    for place in [path.join("hub"), path.to_owned()] {
        match &models(&place)[..] {
            [] => {}
            [one] => return of_model(one),
            several => bail!(
                "{} is a cache of {} models: give the directory of one, {}",
                path.display(),
                several.len(),
                listed(several, path)
            ),
        }
    }
    Ok(path.to_owned())
}

/// Where Hugging Face's programs keep what is theirs.
pub fn home() -> Option<PathBuf> {
    said("HF_HOME").or_else(|| {
        let caches = said("XDG_CACHE_HOME").or_else(|| Some(said("HOME")?.join(".cache")));
        Some(caches?.join("huggingface"))
    })
}

/// Where the cache is, as huggingface_hub looks for it.
pub fn root() -> Option<PathBuf> {
    let whole = said("HF_HUB_CACHE").or_else(|| said("HUGGINGFACE_HUB_CACHE"));
    whole.or_else(|| Some(home()?.join("hub")))
}

/// A path of the environment; `~` at its beginning is the user's home.
fn said(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from)?;
    match path.strip_prefix("~") {
        Ok(rest) => Some(PathBuf::from(std::env::var_os("HOME")?).join(rest)),
        Err(_) => Some(path),
    }
}

/// A model of the hub, by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HubName {
    /// `owner/name`.
    pub model: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.revision {
            MAIN => write!(f, "{}", self.model),
            revision => write!(f, "{}@{revision}", self.model),
        }
    }
}

/// What `owner/name` or `owner/name@revision` means; None if `text` is no such name.
pub fn parse(text: &str) -> Option<HubName> {
    let (model, revision) = text.split_once('@').unwrap_or((text, MAIN));
    let is_plain = |part: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_allowed)
    };
    let (owner, name) = model.split_once('/')?;
    let is_name = is_plain(owner) && is_plain(name) && revision.split('/').all(is_plain);
    is_name.then(|| HubName { model: model.to_owned(), revision: revision.to_owned() })
}

impl HubName {
    /// Whether a commit is named, all of it: it never changes.
    pub fn is_commit(&self) -> bool {
        self.revision.len() == COMMIT_DIGITS && self.revision.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// The same model at the revision that `source` names, if it is of this model, and this name asks for that one or
    /// for main.
    pub fn at_revision_of(&self, source: &str) -> Option<Self> {
        parse(source).filter(|other| other.model == self.model && [MAIN, &other.revision].contains(&&*self.revision))
    }
}

/// Its snapshot in the cache, if it is there. What is in it may not be all.
pub fn cached(name: &HubName) -> Option<PathBuf> {
    let (owner, model) = name.model.split_once('/')?;
    in_cache(&root()?, owner, model, &name.revision).ok()
}

/// The snapshot of a model that is called `owner/name` or `owner/name@revision`; None if `text` is no such name. Errors
/// if it is not in the cache.
pub fn by_name(text: &str) -> Result<Option<PathBuf>> {
    let Some(HubName { model, revision }) = parse(text) else { return Ok(None) };
    let root = root().with_context(|| format!("{text}: no cache of the hub: set HF_HOME"))?;
    let (owner, name) = model.split_once('/').unwrap_or_default();
    in_cache(&root, owner, name, &revision).map(Some)
}

fn in_cache(root: &Path, owner: &str, name: &str, revision: &str) -> Result<PathBuf> {
    let model = root.join(format!("{MODEL}{owner}--{name}"));
    let snapshots = model.join("snapshots");
    let commit = fs::read_to_string(model.join("refs").join(revision)).unwrap_or_else(|_| revision.to_owned());
    let snapshot = snapshots.join(commit.trim());
    if snapshot.is_dir() {
        return Ok(snapshot);
    }
    // A beginning of a commit's name will do.
    let begins = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(revision));
    if let [one] = &subdirectories(&snapshots).into_iter().filter(begins).collect::<Vec<_>>()[..] {
        return Ok(one.clone());
    }
    let of_revision = if revision == "main" { String::new() } else { format!(" --revision {revision}") };
    bail!(
        "{owner}/{name}@{revision} is neither a directory nor in the hub's cache, {}: download it (hf download \
         {owner}/{name}{of_revision}; pip install huggingface_hub brings hf), then say the same again",
        root.display()
    )
}

/// `owner/name@revision` of the snapshot at `full`, or `name@revision` of a model without an owner.
pub fn hub_name(full: &Path) -> Option<String> {
    let parts: Vec<&str> = full.iter().rev().take(3).filter_map(|part| part.to_str()).collect();
    let [revision, "snapshots", model] = parts[..] else { return None };
    Some(format!("{}@{revision}", model.strip_prefix(MODEL)?.replacen("--", "/", 1)))
}

fn is_model(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(MODEL)) && path.join("snapshots").is_dir()
}

fn models(place: &Path) -> Vec<PathBuf> {
    subdirectories(place).into_iter().filter(|path| is_model(path)).collect()
}

fn subdirectories(place: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    found.sort();
    found
}

/// The snapshot that `main` refers to, or the only one.
fn of_model(model: &Path) -> Result<PathBuf> {
    let snapshots = subdirectories(&model.join("snapshots"));
    if let Ok(revision) = fs::read_to_string(model.join("refs/main")) {
        let main = model.join("snapshots").join(revision.trim());
        if main.is_dir() {
            return Ok(main);
        }
        ensure!(
            !snapshots.is_empty(),
            "{}: its main revision was never downloaded; download it again",
            model.display()
        );
    }
    match &snapshots[..] {
        [one] => Ok(one.clone()),
        [] => bail!("{} has no snapshot: its download never finished; download it again", model.display()),
        several => bail!(
            "{} has {} revisions, and none is main: give the directory of one, {}",
            model.display(),
            several.len(),
            listed(several, model)
        ),
    }
}

/// The first few, as seen from `place`.
fn listed(paths: &[PathBuf], place: &Path) -> String {
    let place = place.canonicalize().unwrap_or_else(|_| place.to_owned());
    let names = paths.iter().take(NAMED).map(|path| {
        let path = path.canonicalize().unwrap_or_else(|_| path.clone());
        path.strip_prefix(&place).unwrap_or(&path).display().to_string()
    });
    let mut text = names.collect::<Vec<_>>().join(", ");
    if paths.len() > NAMED {
        text.push_str(&format!(" and {} more", paths.len() - NAMED));
    }
    text
}

/// Errors if the file at `path` is a link into a part of the cache that is not there.
pub fn check_link(path: &Path) -> Result<()> {
    if path.is_symlink() && !path.exists() {
        let target = fs::read_link(path).with_context(|| format!("cannot read {}", path.display()))?;
        bail!("{} is a link to {}, which is not there; download the model again", path.display(), target.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache of models with these revisions, the first of each being main where it says so.
    fn cache(models: &[(&str, &[&str], bool)]) -> tempfile::TempDir {
        let home = tempfile::tempdir().unwrap();
        for (name, revisions, has_main) in models {
            let model = home.path().join("hub").join(name);
            for revision in *revisions {
                fs::create_dir_all(model.join("snapshots").join(revision)).unwrap();
                fs::write(model.join("snapshots").join(revision).join("config.json"), "{}").unwrap();
            }
            fs::create_dir_all(model.join("blobs")).unwrap();
            fs::create_dir_all(model.join("refs")).unwrap();
            if *has_main {
                fs::write(model.join("refs/main"), revisions[0]).unwrap();
            }
        }
        home
    }

    #[test]
    fn every_level_of_a_cache_of_one_model_means_its_snapshot() {
        let home = cache(&[("models--owner--name", &["0f3e", "77aa"], true)]);
        let model = "hub/models--owner--name";
        let snapshots = format!("{model}/snapshots");
        let main = format!("{snapshots}/0f3e");
        for level in ["", "hub", model, &snapshots, &format!("{model}/blobs"), &format!("{model}/refs"), &main] {
            let found = snapshot(&home.path().join(level)).unwrap().canonicalize().unwrap();
            assert_eq!(found, home.path().join(&main).canonicalize().unwrap(), "{level:?}");
        }
        let other = home.path().join(format!("{snapshots}/77aa"));
        assert_eq!(snapshot(&other).unwrap(), other, "what is named is taken");
        assert_eq!(hub_name(&other).unwrap(), "owner/name@77aa");
        assert_eq!(hub_name(Path::new("/x/models--gpt2/snapshots/1")).unwrap(), "gpt2@1");
    }

    #[test]
    fn a_name_means_its_snapshot_in_the_cache() {
        let home = cache(&[("models--owner--name", &["0f3e", "77aa", "77ab"], true)]);
        let hub = home.path().join("hub");
        let snapshots = hub.join("models--owner--name/snapshots");
        let find = |revision: &str| in_cache(&hub, "owner", "name", revision);
        assert_eq!(find("main").unwrap(), snapshots.join("0f3e"));
        assert_eq!(find("77aa").unwrap(), snapshots.join("77aa"));
        assert_eq!(find("0f").unwrap(), snapshots.join("0f3e"));
        let refused = find("77").unwrap_err().to_string();
        assert!(refused.contains("hf download owner/name --revision 77"), "{refused}");
        let refused = in_cache(&hub, "owner", "other", "main").unwrap_err().to_string();
        assert!(refused.contains("hf download owner/other;") && refused.contains("hub's cache"), "{refused}");
        for path in ["name", "./models/llama", "../llama", "/models/llama", "a/b/c", "a b/c", "a/b@..", "a/b@x/../y"] {
            assert!(by_name(path).unwrap().is_none(), "{path}");
        }
        assert_eq!(parse("a/b@refs/pr/1").unwrap().revision, "refs/pr/1");
    }

    #[test]
    fn a_name_without_a_revision_means_the_runs_own() {
        let at = |name: &str, source| parse(name).unwrap().at_revision_of(source).map(|name| name.to_string());
        assert_eq!(at("a/b", "a/b@0f3e").unwrap(), "a/b@0f3e");
        assert_eq!(at("a/b@0f3e", "a/b@0f3e").unwrap(), "a/b@0f3e");
        assert_eq!(at("a/b@77aa", "a/b@0f3e"), None);
        assert_eq!(at("a/c", "a/b@0f3e"), None);
        assert_eq!(at("a/b", "model"), None);
        let commit = format!("a/b@{}", "0f3e".repeat(10));
        assert!(parse(&commit).unwrap().is_commit() && !parse("a/b@0f3e").unwrap().is_commit());
    }

    #[test]
    fn where_there_is_a_choice_all_of_it_is_named() {
        let home = cache(&[("models--a--one", &["1"], true), ("models--b--two", &["2"], true)]);
        let error = snapshot(home.path()).unwrap_err().to_string();
        assert!(error.contains("2 models") && error.contains("hub/models--b--two"), "{error}");
        let home = cache(&[("models--a--one", &["1", "2"], false)]);
        let error = snapshot(home.path()).unwrap_err().to_string();
        assert!(error.contains("2 revisions") && error.contains("snapshots/2"), "{error}");
        let home = cache(&[("models--a--one", &["1"], false)]);
        assert!(snapshot(home.path()).is_ok(), "a single one needs no name");
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(snapshot(empty.path()).unwrap(), empty.path());
    }
}
