//! Which files of a model on the hub belong: those that a base has.

use anyhow::{Result, bail, ensure};
use engine::model::hub::{HubName, choice, choice::Named, is_path_below};
use protocol::manifest::Role;
use serde::Deserialize;

use super::unusable::{without_config, without_tokenizer, without_weights};

/// Most files of a repository.
const FILES_MAX: usize = 10_000;

/// What the hub says of a revision.
#[derive(Deserialize)]
pub struct Revision {
    /// Its commit.
    pub sha: String,
    pub siblings: Vec<Sibling>,
    /// What the hub has read in its GGUF files.
    pub gguf: Option<Gguf>,
}

#[derive(Deserialize)]
pub struct Gguf {
    /// `general.architecture`.
    pub architecture: Option<String>,
}

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

    /// Whether it holds weights: it is fetched when the small files are here, and in order.
    pub fn has_weights(&self) -> bool {
        self.rfilename.ends_with(".safetensors") || choice::is_model(&self.rfilename)
    }
}

/// What of a revision is a base.
pub struct Wanted {
    /// Small files first: what is wrong with them is known early.
    pub files: Vec<Sibling>,
    /// The one GGUF file, if that is all.
    pub gguf: Option<String>,
}

/// Weights of the model that a directory would be read with, by the name of a file at its root.
fn is_weights(file: &str) -> bool {
    // An adapter beside the model, and the same weights once more, as their makers name them.
    let is_other = file.starts_with("adapter") || file.starts_with("consolidated");
    file.ends_with(".safetensors") && !file.contains('/') && !is_other
}

fn names(files: &[Sibling]) -> Vec<&str> {
    files.iter().map(|file| &*file.rfilename).collect()
}

fn has(files: &[Sibling], name: &str) -> bool {
    files.iter().any(|file| file.rfilename == name)
}

/// Whether a repository is an adapter, and nothing that it could be an adapter of.
pub fn is_adapter(files: &[Sibling]) -> bool {
    let any = |is: fn(&str) -> bool| files.iter().any(|file| is(&file.rfilename));
    let is_model = any(is_weights) && has(files, "config.json") || any(choice::is_model);
    has(files, "adapter_config.json") && !is_model
}

/// Those of a revision's files that are a model's: as of a directory, or the GGUF file that the name means. Errors say
/// what the repository is instead.
pub fn wanted(mut files: Vec<Sibling>, name: &HubName) -> Result<Wanted> {
    ensure!(files.len() <= FILES_MAX, "{name} has {} files, supported are {FILES_MAX}", files.len());
    files.retain(|file| is_path_below(&file.rfilename));
    if name.file.is_some() || !files.iter().any(|file| is_weights(&file.rfilename)) {
        let named = |file: &Sibling| Named { path: file.rfilename.clone(), bytes: file.size };
        let all: Vec<Named> = files.iter().map(named).collect();
        let Some(path) = name.gguf(&all)?.map(|file| file.path.clone()) else {
            bail!("{}", without_weights(&names(&files), name));
        };
        if let Some(kind) = choice::unsupported_kind(&path) {
            bail!(
                "{name}: the weights of {path} are stored as {kind}, which cannot be read; take a file in F16, Q8_0 or the \
                 K-quants, for example Q4_K_M"
            );
        }
        files.retain(|file| file.rfilename == path);
        return Ok(Wanted { files, gguf: Some(path) });
    }
    ensure!(has(&files, "config.json"), "{}", without_config(&names(&files), name));
    ensure!(has(&files, "tokenizer.json"), "{}", without_tokenizer(&names(&files), name));
    let single = "model.safetensors";
    let has_single = has(&files, single);
    files.retain(|Sibling { rfilename: file, .. }| match has_single {
        true => file == single || Role::of_path(file).is_some_and(|role| role != Role::WeightsIndex),
        false => Role::of_path(file).is_some() || is_weights(file),
    });
    for file in &files {
        let limit = Role::of_path(&file.rfilename).map_or(u64::MAX, Role::bytes_max);
        let (file, bytes) = (&file.rfilename, file.size.unwrap_or(0));
        ensure!(bytes <= limit, "{name}: {file} has {bytes} bytes, a base may have {limit}");
    }
    files.sort_by_key(|file| (file.has_weights(), file.rfilename.clone()));
    Ok(Wanted { files, gguf: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::model::hub;

    fn listed(files: &[&str]) -> Vec<Sibling> {
        let sibling = |file: &&str| Sibling { rfilename: (*file).to_owned(), size: Some(1), blob_id: None, lfs: None };
        files.iter().map(sibling).collect()
    }

    fn chosen(name: &str, files: &[&str]) -> Result<Vec<String>> {
        let wanted = wanted(listed(files), &hub::parse(name).unwrap())?;
        assert_eq!(wanted.gguf.is_some(), wanted.files.len() == 1 && wanted.files[0].rfilename.ends_with(".gguf"));
        Ok(wanted.files.into_iter().map(|file| file.rfilename).collect())
    }

    const SMALL: [&str; 6] =
        ["config.json", "tokenizer.json", "README.md", ".gitattributes", "onnx/model.onnx", "pytorch_model.bin"];

    #[test]
    fn only_the_files_of_a_model_are_fetched() {
        let with = |more: &[&str]| chosen("owner/name", &[&SMALL[..], more].concat()).unwrap();
        assert_eq!(with(&["model.safetensors"]), ["config.json", "tokenizer.json", "model.safetensors"]);
        let folder =
            ["tool_use.jinja", "sub/x.jinja", "README.md"].map(|name| format!("additional_chat_templates/{name}"));
        assert_eq!(with(&[&folder.each_ref().map(String::as_str)[..], &["model.safetensors"]].concat())[0], folder[0]);
        let sharded = ["a-1.safetensors", "a-2.safetensors", "model.safetensors.index.json", "sub/b.safetensors"];
        let shards =
            ["config.json", "model.safetensors.index.json", "tokenizer.json", "a-1.safetensors", "a-2.safetensors"];
        assert_eq!(with(&sharded), shards);
        assert_eq!(with(&["model.safetensors", "../../x.safetensors"]).len(), 3);
        for beside in ["mmproj-x.gguf", "adapter_model.safetensors", "sub/x.safetensors", "x.imatrix.gguf"] {
            assert_eq!(with(&["x.Q4_0.gguf", beside]), ["x.Q4_0.gguf"], "{beside}");
        }
        assert_eq!(with(&["Q4/x.gguf"]), ["Q4/x.gguf"]);
        let both = ["model.safetensors", "config.json", "tokenizer.json", "x.Q4_0.gguf", "x.Q8_0.gguf"];
        assert_eq!(chosen("owner/name", &both).unwrap().len(), 3);
        assert_eq!(chosen("owner/name:Q8_0", &both).unwrap(), ["x.Q8_0.gguf"]);
    }

    #[test]
    fn what_is_no_base_is_called_by_its_name_before_anything_is_fetched() {
        let refused = |files: &[&str]| chosen("owner/name", files).unwrap_err().to_string();
        let weights = "model.safetensors";
        for (files, said) in [
            (&["x.Q4_0.gguf", "x.Q8_0.gguf"][..], "--model owner/name:Q4_0"),
            (&["x-IQ4_XS.gguf"], "IQ4_XS"),
            (&SMALL, "save_pretrained"),
            (&["../../etc/passwd.safetensors", "x.bin"], "save_pretrained"),
            (&["model_index.json", "unet/diffusion.safetensors"], "diffusers"),
            (&["config.json", "tokenizer.json", "sub/model.safetensors"], "sub/model.safetensors"),
            (&["config.json", "flax_model.msgpack"], "Flax"),
            (&["README.md"], "no weights"),
            (&["tokenizer.json", weights], "no config.json"),
            (&["params.json", "tokenizer.model", weights], "makers"),
            (&["config.json", weights, "tokenizer.model"], "tokenizer.model, and no tokenizer.json"),
            (&["config.json", weights], "no tokenizer.json"),
        ] {
            assert!(refused(files).contains(said), "{files:?}: {}", refused(files));
        }
        assert!(is_adapter(&listed(&["adapter_config.json", "adapter_model.safetensors", "tokenizer.json"])));
        for model in [&["config.json", "model.safetensors"][..], &["x.gguf"]] {
            assert!(!is_adapter(&listed(&[&["adapter_config.json"], model].concat())));
        }
        let mut large = listed(&["config.json", "tokenizer.json", "model.safetensors"]);
        large[1].size = Some(1 << 40);
        let refused = wanted(large, &hub::parse("owner/name").unwrap()).err().unwrap().to_string();
        assert!(refused.contains("tokenizer.json") && refused.contains("1099511627776"), "{refused}");
    }
}
