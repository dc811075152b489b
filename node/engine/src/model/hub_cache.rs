//! The cache of Hugging Face's hub on disk: `HF_HOME/hub/models--owner--name/snapshots/revision/`, files being links
//! into `blobs`. A path to any level of it means the model in it.

use anyhow::{Context, Result, bail, ensure};
use std::{
    fs,
    path::{Path, PathBuf},
};

use super::gguf::choice::{Named, Place, choose};

/// How the directory of a model in the cache begins.
const MODEL: &str = "models--";
/// The revision that is meant where none is named.
const MAIN: &str = "main";
/// Most names in an error.
const NAMED: usize = 8;
/// Most files of a snapshot, and how deep they may lie.
const FILES_MAX: usize = 10_000;
const DEPTH_MAX: usize = 8;
/// What names of files end in, and of models without an owner do not.
const ENDINGS: [&str; 5] = [".gguf", ".safetensors", ".json", ".bin", ".txt"];
/// Where the hub's pages are.
const HOSTS: [&str; 2] = ["huggingface.co", "hf.co"];
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
    /// `owner/name`, or `name` of a model without an owner.
    pub model: String,
    /// A branch, a tag or a commit.
    pub revision: String,
    /// Which of its GGUF files is meant, if said: its path, its name, or how its weights are stored.
    pub file: Option<String>,
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.place())?;
        self.file.iter().try_for_each(|file| write!(f, ":{file}"))
    }
}

/// What `owner/name` or `owner/name@revision` means, with `:FILE` or `:Q4_K_M` behind it where one GGUF file of several
/// is meant, or as `owner/name/FILE.gguf`; a model may have no owner. The address of a model's page, or of a file on
/// it, means the same. None if `text` is no such name.
pub fn parse(text: &str) -> Option<HubName> {
    let on_page = shown_at(text);
    let text = on_page.as_deref().unwrap_or(text);
    let (name, file) = match text.split_once(':') {
        Some((name, file)) => (name, Some(file)),
        None => (text, None),
    };
    let (model, revision) = name.split_once('@').unwrap_or((name, MAIN));
    let below = model.match_indices('/').nth(1).map(|(at, _)| (&model[..at], &model[at + 1..]));
    let (model, file) = match (below, file) {
        (Some((model, file)), None) if file.to_lowercase().ends_with(ENDINGS[0]) => (model, Some(file)),
        _ => (model, file),
    };
    let is_plain = |part: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        !part.is_empty() && !part.starts_with('.') && part.bytes().all(is_allowed)
    };
    let is_model = match model.split_once('/') {
        Some((owner, name)) => is_plain(owner) && is_plain(name),
        None => is_plain(model) && !ENDINGS.iter().any(|ending| model.to_lowercase().ends_with(ending)),
    };
    let is_name = is_model && revision.split('/').all(is_plain) && file.is_none_or(is_path_below);
    is_name.then(|| HubName { model: model.to_owned(), revision: revision.to_owned(), file: file.map(str::to_owned) })
}

/// The name of the model that the page at `address` shows, if it is one of the hub's:
/// `https://huggingface.co/owner/name`, with `/tree/REVISION` or `/blob/REVISION/FILE.gguf` behind it or not,
/// `hf.co/owner/name:Q4_K_M`, `hf://owner/name`.
fn shown_at(address: &str) -> Option<String> {
    let path = address.strip_prefix("hf://").or_else(|| {
        let (host, path) = address.strip_prefix("https://").unwrap_or(address).split_once('/')?;
        HOSTS.contains(&host).then_some(path)
    })?;
    let path = path.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    let parts: Vec<&str> = path.splitn(5, '/').collect();
    let (model, rest) = parts.split_at(parts.len().min(2));
    let model = model.join("/");
    match rest {
        ["tree" | "blob" | "resolve", revision, file @ ..] => {
            let gguf = file.iter().find(|file| file.to_lowercase().ends_with(ENDINGS[0]));
            Some(gguf.map_or(format!("{model}@{revision}"), |file| format!("{model}@{revision}:{file}")))
        }
        _ => Some(path.to_owned()),
    }
}

/// Whether it is the path of a file below a directory, and of nothing above it or hidden in it.
pub fn is_path_below(path: &str) -> bool {
    let is_odd = |c: char| c.is_control() || matches!(c, '\\' | ':');
    !path.contains(is_odd) && path.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
}

impl HubName {
    /// `owner/name`, with `@revision` unless it is main.
    fn place(&self) -> String {
        match &*self.revision {
            MAIN => self.model.clone(),
            revision => format!("{}@{revision}", self.model),
        }
    }

    /// The GGUF file among `files`, of its repository or of a snapshot of that, that the name means, or the only one.
    /// None if there is none, and the name asks for none. Errors list what there is.
    pub fn gguf<'a>(&self, files: &'a [Named]) -> Result<Option<&'a Named>> {
        choose(files, self.file.as_deref(), &Place { name: self.place(), is_hub: true })
    }

    /// Whether a commit is named, all of it: it never changes.
    pub fn is_commit(&self) -> bool {
        self.revision.len() == COMMIT_DIGITS && self.revision.bytes().all(|byte| byte.is_ascii_hexdigit())
    }

    /// The same model at the revision that `source` names, if it is of this model, and this name asks for that one or
    /// for main.
    pub fn at_revision_of(&self, source: &str) -> Option<Self> {
        let other = parse(source)
            .filter(|other| other.model == self.model && [MAIN, &other.revision].contains(&&*self.revision))?;
        Some(Self { file: self.file.clone(), ..other })
    }
}

/// Its snapshot in the cache, or the GGUF file in that; None if nothing of the model is there. What is in a snapshot
/// may not be all. Errors say what there is instead of what the name means.
pub fn cached(name: &HubName) -> Result<Option<PathBuf>> {
    root().map_or(Ok(None), |root| in_cache(&root, name))
}

/// The same of a model that is called `text`; None if that is no name ([`parse`]). Errors if it is not in the cache.
pub fn by_name(text: &str) -> Result<Option<PathBuf>> {
    let Some(name) = parse(text) else { return Ok(None) };
    let root = root().with_context(|| format!("{text}: no cache of the hub: set HF_HOME"))?;
    if let Some(found) = in_cache(&root, &name)? {
        return Ok(Some(found));
    }
    let HubName { model, revision, .. } = &name;
    let of_revision = if revision == MAIN { String::new() } else { format!(" --revision {revision}") };
    bail!(
        "{name} is neither a file or directory nor in the hub's cache, {}: download it (hf download {model}{of_revision}; pip \
         install huggingface_hub brings hf), then say the same again",
        root.display()
    )
}

fn in_cache(root: &Path, name: &HubName) -> Result<Option<PathBuf>> {
    let HubName { model, revision, .. } = name;
    let place = root.join(format!("{MODEL}{}", model.replace('/', "--")));
    if !place.is_dir() {
        return Ok(None);
    }
    let snapshots = place.join("snapshots");
    let noted = fs::read_to_string(place.join("refs").join(revision)).ok();
    let snapshot = snapshots.join(noted.as_deref().unwrap_or(revision).trim());
    if snapshot.is_dir() {
        return in_snapshot(snapshot, name).map(Some);
    }
    let all = subdirectories(&snapshots);
    // A beginning of a commit's name will do.
    let begins = |path: &&PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(revision));
    if let [one] = all.iter().filter(begins).collect::<Vec<_>>()[..] {
        return in_snapshot(one.clone(), name).map(Some);
    }
    ensure!(!all.is_empty(), "{} has no snapshot: its download never finished; download it again", place.display());
    let what = match noted {
        Some(commit) => format!("{revision} of it is {}, which was never downloaded", commit.trim()),
        None => format!("it is not known which revision of it {revision} is"),
    };
    bail!("{what}; the cache has {}: say which one you want, as {model}@REVISION", listed(&all, &snapshots))
}

/// What of a snapshot the name means: all of it, or a GGUF file where its weights are in one.
fn in_snapshot(snapshot: PathBuf, name: &HubName) -> Result<PathBuf> {
    let is_weights = |file: &Named| file.path.ends_with(".safetensors") && !file.path.starts_with("adapter");
    let files = files_below(&snapshot);
    if name.file.is_none() && files.iter().any(|file| is_weights(file) && !file.path.contains('/')) {
        return Ok(snapshot);
    }
    let file = name.gguf(&files)?.map(|file| snapshot.join(&file.path));
    Ok(file.unwrap_or(snapshot))
}

/// The files in a directory and below it.
fn files_below(directory: &Path) -> Vec<Named> {
    let (mut files, mut places) = (Vec::new(), vec![(String::new(), 0)]);
    while let Some((below, depth)) = places.pop() {
        for entry in fs::read_dir(directory.join(&below)).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path = format!("{below}{name}");
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && depth < DEPTH_MAX => places.push((format!("{path}/"), depth + 1)),
                Ok(kind) if !kind.is_dir() && files.len() < FILES_MAX => {
                    let bytes = entry.path().metadata().ok().map(|metadata| metadata.len());
                    files.push(Named { path, bytes });
                }
                _ => {}
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
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
        let find = |name: &str| in_cache(&hub, &parse(name).unwrap());
        assert_eq!(find("owner/name").unwrap().unwrap(), snapshots.join("0f3e"));
        assert_eq!(find("owner/name@77aa").unwrap().unwrap(), snapshots.join("77aa"));
        assert_eq!(find("owner/name@0f").unwrap().unwrap(), snapshots.join("0f3e"));
        let refused = find("owner/name@77").unwrap_err().to_string();
        assert!(refused.contains("which revision of it 77 is") && refused.contains("0f3e, 77aa, 77ab"), "{refused}");
        assert_eq!(find("owner/other").unwrap(), None);
        for path in ["./models/llama", "../llama", "/models/llama", "a/b/c", "a b/c", "a/b@..", "a/b@x/../y"] {
            assert!(by_name(path).unwrap().is_none(), "{path}");
        }
        for path in
            ["model.gguf", "C:\\model", "https://hub.example/a/b", "a/b:../x.gguf", "a/b:", "a/b/../x.gguf", "~"]
        {
            assert!(parse(path).is_none(), "{path}");
        }
        assert_eq!(parse("a/b@refs/pr/1").unwrap().revision, "refs/pr/1");
    }

    #[test]
    fn the_address_of_a_page_means_the_model_that_it_shows() {
        for (address, expected) in [
            ("https://huggingface.co/a/b", "a/b"),
            ("https://huggingface.co/gpt2/", "gpt2"),
            ("https://huggingface.co/a/b/tree/main", "a/b"),
            ("https://huggingface.co/a/b/tree/0f3e?x=1#y", "a/b@0f3e"),
            ("https://huggingface.co/a/b/blob/main/config.json", "a/b"),
            ("https://huggingface.co/a/b/resolve/main/q/b-Q4_0.gguf?download=true", "a/b:q/b-Q4_0.gguf"),
            ("hf.co/a/b:Q4_K_M", "a/b:Q4_K_M"),
            ("hf://a/b", "a/b"),
        ] {
            assert_eq!(parse(address).map(|name| name.to_string()).as_deref(), Some(expected), "{address}");
        }
        for other in
            ["https://huggingface.co/datasets/a/b", "https://huggingface.co/", "https://huggingface.co.evil/a/b"]
        {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn what_the_cache_has_in_place_of_a_name_is_said() {
        let models: [(&str, &[&str], bool); 3] = [
            ("models--gpt2", &["0f3e"], true),
            ("models--a--two", &["1", "2"], false),
            ("models--a--none", &[], false),
        ];
        let home = cache(&models);
        let hub = home.path().join("hub");
        let find = |name: &str| in_cache(&hub, &parse(name).unwrap());
        assert_eq!(find("gpt2").unwrap().unwrap(), hub.join("models--gpt2/snapshots/0f3e"), "it has no owner");
        fs::write(hub.join("models--gpt2/refs/main"), "77aa").unwrap();
        let refused = find("gpt2").unwrap_err().to_string();
        assert!(
            refused.contains("main of it is 77aa, which was never") && refused.contains("gpt2@REVISION"),
            "{refused}"
        );
        let refused = find("a/two").unwrap_err().to_string();
        assert!(refused.contains("the cache has 1, 2"), "{refused}");
        assert!(find("a/none").unwrap_err().to_string().contains("never finished"));
    }

    #[test]
    fn a_file_of_a_snapshot_is_named_behind_a_colon_or_a_slash() {
        let home = cache(&[("models--a--b", &["0f3e"], true)]);
        let hub = home.path().join("hub");
        let snapshot = hub.join("models--a--b/snapshots/0f3e");
        fs::create_dir_all(snapshot.join("q4")).unwrap();
        for file in ["q4/b-Q4_K_M.gguf", "b-Q8_0.gguf", "mmproj-b.gguf", "adapter_model.safetensors"] {
            fs::write(snapshot.join(file), "GGUF").unwrap();
        }
        let find = |name: &str| in_cache(&hub, &parse(name).unwrap());
        for name in ["a/b:Q4_K_M", "a/b@0f3e:q4/b-Q4_K_M.gguf", "a/b/b-q4_k_m.gguf", "a/b/q4/b-Q4_K_M.gguf@main"] {
            assert_eq!(find(name).unwrap().unwrap(), snapshot.join("q4/b-Q4_K_M.gguf"), "{name}");
        }
        assert_eq!(parse("a/b@0f3e:Q4_K_M").unwrap().to_string(), "a/b@0f3e:Q4_K_M");
        let refused = find("a/b@0f3e").unwrap_err().to_string();
        assert!(refused.contains("a/b@0f3e has 2 GGUF files") && refused.contains("--model a/b@0f3e:Q"), "{refused}");
        fs::remove_file(snapshot.join("b-Q8_0.gguf")).unwrap();
        assert_eq!(find("a/b").unwrap().unwrap(), snapshot.join("q4/b-Q4_K_M.gguf"), "the only one");
        fs::write(snapshot.join("model.safetensors"), "").unwrap();
        assert_eq!(find("a/b").unwrap().unwrap(), snapshot, "weights of its own go first");
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
