//! Which files of a model on the hub belong: those that a base has.

use anyhow::{Result, bail, ensure};
use engine::model::hub::HubName;
use protocol::manifest::Role;
use serde::Deserialize;

/// Most files of a repository.
const FILES_MAX: usize = 10_000;

/// What the hub says of a revision.
#[derive(Deserialize)]
pub struct Revision {
    /// Its commit.
    pub sha: String,
    pub siblings: Vec<Sibling>,
}

/// A file.
#[derive(Deserialize)]
pub struct Sibling {
    pub rfilename: String,
    /// Bytes.
    pub size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: Option<String>,
}

impl Sibling {
    /// The digest of its content, of large ones.
    pub fn sha256(&self) -> Option<&str> {
        self.lfs.as_ref()?.sha256.as_deref()
    }

    /// What the hub calls its content, if the list says so.
    pub fn tag(&self) -> Option<&str> {
        self.sha256().or(self.blob_id.as_deref())
    }
}

/// Those of a revision's files that are a model's: as of a directory.
pub fn wanted(mut files: Vec<Sibling>, name: &HubName) -> Result<Vec<Sibling>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use engine::model::hub;

    fn name() -> HubName {
        hub::parse("owner/name").unwrap()
    }

    fn chosen(files: &[&str]) -> Result<Vec<String>> {
        let sibling = |file: &&str| Sibling { rfilename: (*file).to_owned(), size: None, blob_id: None, lfs: None };
        let files = wanted(files.iter().map(sibling).collect(), &name())?;
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
