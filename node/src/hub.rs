//! Models from Hugging Face's hub, into its cache: the crate `hf-hub` has the protocol and the layout, and goes on with
//! what broke off. Here is what it leaves to others: which files belong, what is checked, and what to say.

use anyhow::{Context, Result, bail, ensure};
use engine::model::hub::{self, HubName};
use hf_hub::{
    Repo, RepoType,
    api::sync::{ApiBuilder, ApiError, ApiRepo},
};
use protocol::manifest::Role;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::{fs::File, io::Read, path::Path};

/// A transfer that breaks off goes on so many times.
const RETRIES: usize = 5;
const ENDPOINT: &str = "https://huggingface.co";
/// Most files of a repository.
const FILES_MAX: usize = 10_000;

/// What the hub says of a revision.
#[derive(Deserialize)]
struct Revision {
    siblings: Vec<Sibling>,
}

/// A file.
#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: Option<String>,
}

/// Fetches the files of the model that are not in the cache. `HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE` and
/// `HF_HUB_OFFLINE` mean what they do to Hugging Face's own programs. Errors say what the hub refused, and what to do.
pub fn fetch(name: &HubName) -> Result<()> {
    let said = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let endpoint = said("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
    let is_offline =
        said("HF_HUB_OFFLINE").is_some_and(|flag| !["0", "false", "no", "off"].contains(&&*flag.to_lowercase()));
    ensure!(
        !is_offline,
        "{name} is not in the hub's cache, and HF_HUB_OFFLINE keeps from downloading it: unset it, or give a directory"
    );
    let cache = hub::root().with_context(|| format!("{name}: there is no place for the hub's cache: set HF_HOME"))?;
    let builder = ApiBuilder::from_cache(hf_hub::Cache::new(cache.clone()))
        .with_endpoint(endpoint.trim_end_matches('/').to_owned());
    let builder = builder.with_retries(RETRIES).with_user_agent("onebyte", env!("CARGO_PKG_VERSION"));
    let builder = match said("HF_TOKEN") {
        Some(token) => builder.with_token(Some(token)),
        None => builder,
    };
    let api = builder.build().with_context(|| format!("{name}: cannot reach {endpoint}"))?;
    let repo = api.repo(Repo::with_revision(name.model.clone(), RepoType::Model, name.revision.clone()));
    let refused = |error: &ApiError| refusal(name, &endpoint, error);
    let files = wanted(list(&repo).map_err(|error| anyhow::anyhow!("{}", refused(&error)))?, name)?;
    let bytes: u64 = files.iter().filter_map(|file| file.size).sum();
    tracing::info!(
        "downloading {name} from {endpoint}: {} files, {} MiB, into {}",
        files.len(),
        bytes >> 20,
        cache.display()
    );
    for file in &files {
        let path =
            repo.get(&file.rfilename).map_err(|error| anyhow::anyhow!("{}: {}", file.rfilename, refused(&error)))?;
        check(file, &path).with_context(|| format!("{name}: {}", file.rfilename))?;
    }
    Ok(())
}

fn list(repo: &ApiRepo) -> Result<Revision, ApiError> {
    let mut response = repo.info_request().query("blobs", "true").call().map_err(Box::new)?;
    Ok(response.body_mut().read_json().map_err(Box::new)?)
}

/// Those of a revision's files that are a model's: as of a directory.
fn wanted(revision: Revision, name: &HubName) -> Result<Vec<Sibling>> {
    let mut files = revision.siblings;
    ensure!(files.len() <= FILES_MAX, "{name} has {} files, supported are {FILES_MAX}", files.len());
    let has = |file: &str| files.iter().any(|own| own.rfilename == file);
    let (single, is_sharded) = ("model.safetensors", has("model.safetensors.index.json"));
    let has_single = has(single);
    let at_root = |file: &str| !file.contains(['/', '\\']) && !file.starts_with('.');
    let is_gguf = |file: &str| file.ends_with(".gguf") && !file.starts_with("mmproj");
    let ggufs: Vec<&str> =
        files.iter().map(|file| &*file.rfilename).filter(|file| at_root(file) && is_gguf(file)).collect();
    let takes_gguf = !has_single && !is_sharded && !files.iter().any(|file| file.rfilename.ends_with(".safetensors"));
    if takes_gguf {
        match ggufs[..] {
            [] => bail!(
                "{name} has no weights in safetensors and no GGUF file; take a version that has (files of PyTorch are \
                 converted with transformers: from_pretrained(...), then save_pretrained(...))"
            ),
            [_] => {}
            _ => bail!(
                "{name} has {} GGUF files ({}): download the one that you want (hf download {} FILE --local-dir DIR), and give \
                 its path",
                ggufs.len(),
                ggufs.join(", "),
                name.model
            ),
        }
    }
    // An adapter beside the model, and the same weights once more, as their makers name them.
    let is_other = |file: &str| file.starts_with("adapter") || file.starts_with("consolidated");
    let is_small = |file: &str| Role::ALL.iter().any(|role| role.file_names().contains(&file));
    files.retain(|file| {
        let file = &*file.rfilename;
        at_root(file)
            && match takes_gguf {
                true => is_gguf(file),
                false if has_single => file == single || is_small(file) && !file.ends_with("index.json"),
                false => is_small(file) || file.ends_with(".safetensors") && !is_other(file),
            }
    });
    // Small files first: what is wrong with them is known early.
    files.sort_by_key(|file| (file.rfilename.ends_with(".safetensors"), file.rfilename.clone()));
    Ok(files)
}

/// Errors, and takes the file out of the cache, if it is not what the hub says.
fn check(file: &Sibling, path: &Path) -> Result<()> {
    let blob = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
    let bytes = blob.metadata()?.len();
    let is_sized = file.size.is_none_or(|size| size == bytes);
    let expected = file.lfs.as_ref().and_then(|lfs| lfs.sha256.as_deref());
    let is_same = match expected.filter(|_| is_sized) {
        None => is_sized,
        Some(expected) => {
            let (mut hasher, mut file, mut buffer) = (Sha256::new(), File::open(&blob)?, vec![0; 1 << 18]);
            loop {
                let read = file.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                hasher.update(&buffer[..read]);
            }
            crate::hex::hex(&hasher.finalize()) == expected.to_lowercase()
        }
    };
    if !is_same {
        // The link and what it leads to: another try begins anew.
        let _ = (std::fs::remove_file(path), std::fs::remove_file(&blob));
        bail!("what came ({bytes} bytes) is not what the hub says it is; it was removed: try again");
    }
    Ok(())
}

/// What the hub, or the way to it, refused.
fn refusal(name: &HubName, endpoint: &str, error: &ApiError) -> String {
    let mut inner = error;
    while let ApiError::TooManyRetries(last) = inner {
        inner = last;
    }
    let status = match inner {
        ApiError::RequestError(error) => match **error {
            ureq::Error::StatusCode(status) => Some(status),
            _ => None,
        },
        _ => None,
    };
    match status {
        Some(401 | 403) => format!(
            "{endpoint} does not give {name} to this machine (status {}): it does not exist, or asks for access. Ask for it on \
             the model's page, and set HF_TOKEN to a token of yours",
            status.unwrap_or_default()
        ),
        Some(404) => format!("{endpoint} has no {name}: check the owner, the name and the revision"),
        Some(429) => format!("{endpoint} asks to wait (status 429): try again later, or set HF_TOKEN"),
        _ => format!(
            "{name} cannot be downloaded from {endpoint}: {inner}. What came is kept: the same command goes on with it; or give \
             a directory with --model"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> HubName {
        hub::parse("owner/name").unwrap()
    }

    fn chosen(files: &[&str]) -> Result<Vec<String>> {
        let sibling = |file: &&str| Sibling { rfilename: (*file).to_owned(), size: None, lfs: None };
        let files = wanted(Revision { siblings: files.iter().map(sibling).collect() }, &name())?;
        Ok(files.into_iter().map(|file| file.rfilename).collect())
    }

    #[test]
    fn only_the_files_of_a_model_are_fetched() {
        let small =
            ["config.json", "tokenizer.json", "README.md", ".gitattributes", "onnx/model.onnx", "pytorch_model.bin"];
        let with = |more: &[&str]| chosen(&[&small[..], more].concat());
        assert_eq!(with(&["model.safetensors"]).unwrap(), ["config.json", "tokenizer.json", "model.safetensors"]);
        let sharded = ["a-1.safetensors", "a-2.safetensors", "model.safetensors.index.json", "sub/b.safetensors"];
        let shards =
            ["config.json", "model.safetensors.index.json", "tokenizer.json", "a-1.safetensors", "a-2.safetensors"];
        assert_eq!(with(&sharded).unwrap(), shards);
        assert_eq!(with(&["x.Q4_0.gguf", "mmproj-x.gguf"]).unwrap(), ["x.Q4_0.gguf"]);
        let refused = with(&["x.Q4_0.gguf", "x.Q8_0.gguf"]).unwrap_err().to_string();
        assert!(refused.contains("2 GGUF files") && refused.contains("hf download owner/name"), "{refused}");
        assert!(with(&[]).unwrap_err().to_string().contains("save_pretrained"));
        assert!(chosen(&["../../etc/passwd.safetensors", "x.bin"]).is_ok_and(|files| files.is_empty()));
    }
}
