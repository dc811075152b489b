//! The model that a run starts from: its original files, byte for byte.
//!
//! The base is one string of bytes: the files in the manifest's order, then the [`Appendix`]. It is cut in chunks of
//! [`BASE_CHUNK_BYTES`], the last one shorter; `chunks_root` is the BLAKE3 of their concatenated BLAKE3 digests. Files
//! are in the order of (role, name), so that the few that every joiner reads first come first.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use super::appendix::{APPENDIX_BYTES_MAX, Appendix};
use crate::error::{InvalidBase, WireError};

/// Bytes per chunk of the base model, the unit that is fetched and checked.
pub const BASE_CHUNK_BYTES: usize = 256 * 1024;
/// Most files of a base.
pub const BASE_FILES_MAX: usize = 4_096;
/// Longest name of a file, bytes.
const NAME_BYTES_MAX: usize = 255;
/// Longest name of a source, bytes.
const SOURCE_BYTES_MAX: usize = 255;
/// Largest file of weights, and largest base, bytes: 2^44.
const WEIGHTS_BYTES_MAX: u64 = 1 << 44;

/// What a file of a base is for. Nothing else belongs to a base.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Role {
    /// The shape of the model: `config.json`.
    Config,
    /// `tokenizer.json`.
    Tokenizer,
    /// What transformers needs beside the tokenizer: `tokenizer_config.json`.
    TokenizerConfig,
    /// How a conversation becomes text: `chat_template.jinja`.
    ChatTemplate,
    /// How text is sampled: `generation_config.json`.
    GenerationConfig,
    /// Which tokens are special: `special_tokens_map.json`.
    SpecialTokens,
    /// Which shard holds which tensor: `model.safetensors.index.json`.
    WeightsIndex,
    /// Tensors: `model.safetensors`, or a shard under any name that ends in `.safetensors`.
    Weights,
    /// Everything in one file, whose name ends in `.gguf`.
    Gguf,
    /// What tools other than ours read of the tokenizer: `tokenizer.model`, `vocab.json`, `merges.txt` and the like.
    TokenizerPart,
    /// Templates with names of their own, such as `tool_use.jinja`, which stand in the folder
    /// `additional_chat_templates`.
    NamedTemplate,
}

/// Names of the files of role [`Role::TokenizerPart`].
const TOKENIZER_PARTS: [&str; 11] = [
    "added_tokens.json",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tekken.json",
    "tokenizer.model",
    "tokenizer.model.v3",
    "vocab.bpe",
    "vocab.json",
    "vocab.txt",
];

impl Role {
    /// Every role, in order.
    pub const ALL: [Self; 11] = [
        Self::Config,
        Self::Tokenizer,
        Self::TokenizerConfig,
        Self::ChatTemplate,
        Self::GenerationConfig,
        Self::SpecialTokens,
        Self::WeightsIndex,
        Self::Weights,
        Self::Gguf,
        Self::TokenizerPart,
        Self::NamedTemplate,
    ];

    /// The role of what stands at `path` in a model's directory; None for weights, which have any name, and for what is
    /// not part of a base.
    pub fn of_path(path: &str) -> Option<Self> {
        match path.split_once('/') {
            Some((folder, name)) => {
                let is_ours = |role: &Self| role.folder() == Some(folder) && role.fits(name) && is_plain(name);
                Self::ALL.into_iter().find(is_ours)
            }
            None => Self::ALL.into_iter().find(|role| role.folder().is_none() && role.file_names().contains(&path)),
        }
    }

    /// Where files of this role stand in a model's directory, if not beside the others.
    pub fn folder(self) -> Option<&'static str> {
        (self == Self::NamedTemplate).then_some("additional_chat_templates")
    }

    /// The names that a file of this role may have; none for weights and named templates, which have any.
    pub fn file_names(self) -> Vec<&'static str> {
        match self {
            Self::TokenizerPart => TOKENIZER_PARTS.to_vec(),
            _ => self.file_name().into_iter().collect(),
        }
    }

    /// The one name that a file of this role may have; None for those that have many.
    pub fn file_name(self) -> Option<&'static str> {
        Some(match self {
            Self::Config => "config.json",
            Self::Tokenizer => "tokenizer.json",
            Self::TokenizerConfig => "tokenizer_config.json",
            Self::ChatTemplate => "chat_template.jinja",
            Self::GenerationConfig => "generation_config.json",
            Self::SpecialTokens => "special_tokens_map.json",
            Self::WeightsIndex => "model.safetensors.index.json",
            Self::Weights | Self::Gguf | Self::TokenizerPart | Self::NamedTemplate => return None,
        })
    }

    /// Largest file of this role, bytes.
    pub fn bytes_max(self) -> u64 {
        match self {
            Self::Config | Self::ChatTemplate | Self::GenerationConfig | Self::SpecialTokens | Self::NamedTemplate => {
                1 << 20
            }
            Self::TokenizerConfig => 1 << 24,
            Self::WeightsIndex => 1 << 24,
            Self::Tokenizer | Self::TokenizerPart => 1 << 26,
            Self::Weights | Self::Gguf => WEIGHTS_BYTES_MAX,
        }
    }

    fn fits(self, name: &str) -> bool {
        match self {
            Self::Weights => name.ends_with(".safetensors"),
            Self::Gguf => name.ends_with(".gguf"),
            Self::NamedTemplate => name.ends_with(".jinja") && Some(name) != Self::ChatTemplate.file_name(),
            _ => self.file_names().contains(&name),
        }
    }
}

/// One original file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BaseFile {
    /// What it is for.
    pub role: Role,
    /// Its name: [A-Za-z0-9._-], no leading dot.
    pub name: String,
    /// Its size, at least 1.
    pub bytes: u64,
    /// BLAKE3 of the file.
    pub digest: [u8; 32],
}

/// Where the base model's bytes come from and how they are checked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BaseModel {
    /// What the starter called it, for people: a hub id with its revision (`owner/name@revision`), or the last part of
    /// a path. Never a path.
    pub source: String,
    /// The original files, in the order of (role, name).
    pub files: Vec<BaseFile>,
    /// Size of the encoded appendix, bytes.
    pub appendix_bytes: u64,
    /// BLAKE3 of the encoded appendix.
    pub appendix_digest: [u8; 32],
    /// BLAKE3 of the concatenated chunk digests.
    pub chunks_root: [u8; 32],
}

impl BaseModel {
    /// A base whose files, given in order, are in memory, and the string that it is. Checks nothing.
    pub fn of_files(
        source: &str,
        files: &[(Role, &str, &[u8])],
        appendix: &Appendix,
    ) -> Result<(Self, Vec<u8>), WireError> {
        let appendix = appendix.encode()?;
        let describe = |(role, name, bytes): &(Role, &str, &[u8])| BaseFile {
            role: *role,
            name: (*name).to_owned(),
            bytes: bytes.len() as u64,
            digest: *blake3::hash(bytes).as_bytes(),
        };
        let mut string: Vec<u8> = files.iter().flat_map(|(_, _, bytes)| *bytes).copied().collect();
        string.extend(&appendix);
        let chunks = string.chunks(BASE_CHUNK_BYTES).map(|chunk| *blake3::hash(chunk).as_bytes());
        let base = Self {
            source: source.to_owned(),
            files: files.iter().map(describe).collect(),
            appendix_bytes: appendix.len() as u64,
            appendix_digest: *blake3::hash(&appendix).as_bytes(),
            chunks_root: combine_digests(chunks),
        };
        Ok((base, string))
    }

    /// Length of the base's byte string (valid manifests do not overflow).
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum::<u64>() + self.appendix_bytes
    }

    /// Number of chunks.
    pub fn chunks(&self) -> u64 {
        self.bytes().div_ceil(BASE_CHUNK_BYTES as u64)
    }

    /// The first file of a role.
    pub fn file(&self, role: Role) -> Option<&BaseFile> {
        self.files.iter().find(|file| file.role == role)
    }

    /// Checks the names, the sizes, and that the files make a model.
    pub(super) fn validate(&self) -> Result<(), InvalidBase> {
        if !is_source(&self.source) {
            return Err(InvalidBase::Source(self.source.clone()));
        }
        if self.files.len() > BASE_FILES_MAX {
            return Err(InvalidBase::Files(self.files.len()));
        }
        let mut names = BTreeSet::new();
        let mut bytes = self.appendix_bytes;
        for file in &self.files {
            if !is_plain(&file.name) || file.name.len() > NAME_BYTES_MAX || !file.role.fits(&file.name) {
                return Err(InvalidBase::Name(file.name.clone()));
            }
            if !names.insert(file.name.to_ascii_lowercase()) {
                return Err(InvalidBase::SameName(file.name.clone()));
            }
            if !(1..=file.role.bytes_max()).contains(&file.bytes) {
                let (name, bytes, limit) = (file.name.clone(), file.bytes, file.role.bytes_max());
                return Err(InvalidBase::FileSize { name, bytes, limit });
            }
            // At most 4,096 times 2^44.
            bytes = bytes.saturating_add(file.bytes);
        }
        if !self.files.is_sorted_by(|a, b| (a.role, &a.name) < (b.role, &b.name)) {
            return Err(InvalidBase::Order);
        }
        if !(1..=APPENDIX_BYTES_MAX as u64).contains(&self.appendix_bytes) || bytes > WEIGHTS_BYTES_MAX {
            return Err(InvalidBase::Size { bytes, appendix: self.appendix_bytes });
        }
        self.check_roles()
    }

    /// Config, tokenizer and weights; or one GGUF, which may hold all three.
    fn check_roles(&self) -> Result<(), InvalidBase> {
        let count = |role| self.files.iter().filter(|file| file.role == role).count();
        let single = self.file(Role::Weights).is_some_and(|file| file.name == "model.safetensors");
        let is_complete = match (count(Role::Weights), count(Role::WeightsIndex), count(Role::Gguf)) {
            (0, 0, 1) => true,
            (1, 0, 0) => single && count(Role::Config) == 1 && count(Role::Tokenizer) == 1,
            (1.., 1, 0) => count(Role::Config) == 1 && count(Role::Tokenizer) == 1,
            _ => false,
        };
        if is_complete { Ok(()) } else { Err(InvalidBase::Roles) }
    }
}

/// Whether `name` is [A-Za-z0-9._-]+ without a leading dot.
fn is_plain(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(is_allowed)
}

/// Whether `source` is `owner/name@revision`, or anything printable without a path's separator.
pub fn is_source(source: &str) -> bool {
    let is_hub_id = || {
        let (owner, rest) = source.split_once('/')?;
        let (name, revision) = rest.split_once('@')?;
        Some(is_plain(owner) && is_plain(name) && is_plain(revision))
    };
    let is_sized = (1..=SOURCE_BYTES_MAX).contains(&source.len());
    let is_name = !source.chars().any(|c| c.is_control() || matches!(c, '/' | '\\'));
    is_sized && (is_name && source != "." && source != ".." || is_hub_id().unwrap_or(false))
}

/// BLAKE3 of concatenated digests.
pub fn combine_digests(digests: impl IntoIterator<Item = [u8; 32]>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for digest in digests {
        hasher.update(&digest);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> BaseModel {
        let files: [(Role, &str, &[u8]); 4] = [
            (Role::Config, "config.json", b"{}"),
            (Role::Tokenizer, "tokenizer.json", b"{}"),
            (Role::GenerationConfig, "generation_config.json", b"{}"),
            (Role::Weights, "model.safetensors", &[7; 300_000]),
        ];
        BaseModel::of_files("a model", &files, &Appendix::default()).unwrap().0
    }

    fn weights(name: &str) -> BaseFile {
        BaseFile { role: Role::Weights, name: name.into(), bytes: 9, digest: [0; 32] }
    }

    fn refusal(change: impl FnOnce(&mut BaseModel)) -> InvalidBase {
        let mut base = base();
        change(&mut base);
        base.validate().unwrap_err()
    }

    #[test]
    fn chunks_run_on_over_the_borders_of_files() {
        let base = base();
        assert_eq!(base.validate(), Ok(()));
        let string: Vec<u8> = [&b"{}{}{}"[..], &[7; 300_000], &[0]].concat();
        assert_eq!((base.bytes(), base.chunks()), (string.len() as u64, 2));
        let digests = string.chunks(BASE_CHUNK_BYTES).map(|chunk| *blake3::hash(chunk).as_bytes());
        assert_eq!(base.chunks_root, combine_digests(digests));
    }

    #[test]
    fn a_source_is_no_path() {
        for sound in ["embedded", "My Model (v2)", "größe", "owner/name@main", "a-b/c.d@0f3e", "C:"] {
            assert!(is_source(sound), "{sound}");
        }
        let long = "x".repeat(256);
        for path in
            ["", ".", "..", "/home/me/model", "a/b", "./a", "a\\b", "../a@b", "a/../b@c", "a/b@c/d", "a\nb", &long]
        {
            assert_eq!(refusal(|base| base.source = path.into()), InvalidBase::Source(path.into()));
        }
    }

    #[test]
    fn names_are_plain_fit_their_roles_and_differ_in_more_than_case() {
        for name in
            ["", ".safetensors", "a/b.safetensors", "..\\x.safetensors", "ä.safetensors", "x.bin", "config.json"]
        {
            assert_eq!(refusal(|base| base.files[3].name = name.into()), InvalidBase::Name(name.into()));
        }
        let long = "x".repeat(300) + ".safetensors";
        assert_eq!(refusal(|base| base.files[3].name = long.clone()), InvalidBase::Name(long.clone()));
        assert_eq!(refusal(|base| base.files[0].name = "Config.json".into()), InvalidBase::Name("Config.json".into()));
        let same = |base: &mut BaseModel| base.files.push(weights("Model.safetensors"));
        assert_eq!(refusal(same), InvalidBase::SameName("Model.safetensors".into()));
        assert_eq!(refusal(|base| base.files.swap(0, 1)), InvalidBase::Order);
    }

    #[test]
    fn sizes_are_bounded() {
        for (index, role) in [(0, Role::Config), (1, Role::Tokenizer), (3, Role::Weights)] {
            for bytes in [0, role.bytes_max() + 1, u64::MAX] {
                let refused = refusal(|base| base.files[index].bytes = bytes);
                assert!(matches!(refused, InvalidBase::FileSize { .. }), "{role:?} of {bytes} bytes: {refused:?}");
            }
        }
        for bytes in [0, 1 + APPENDIX_BYTES_MAX as u64, u64::MAX] {
            assert!(matches!(refusal(|base| base.appendix_bytes = bytes), InvalidBase::Size { .. }), "{bytes}");
        }
        let whole = |base: &mut BaseModel| base.files[3].bytes = WEIGHTS_BYTES_MAX;
        assert!(matches!(refusal(whole), InvalidBase::Size { .. }), "each fits, all together do not");
        let many = |base: &mut BaseModel| base.files = vec![weights("x.safetensors"); BASE_FILES_MAX + 1];
        assert_eq!(refusal(many), InvalidBase::Files(BASE_FILES_MAX + 1));
    }

    #[test]
    fn the_files_make_a_model() {
        let index = BaseFile { role: Role::WeightsIndex, name: "model.safetensors.index.json".into(), ..weights("") };
        let gguf = BaseFile { role: Role::Gguf, name: "model.Q4_K.gguf".into(), ..weights("") };
        for missing in [0, 1, 3] {
            assert_eq!(refusal(|base| drop(base.files.remove(missing))), InvalidBase::Roles);
        }
        assert_eq!(refusal(|base| base.files[3] = weights("other.safetensors")), InvalidBase::Roles);
        assert_eq!(refusal(|base| base.files.push(weights("other.safetensors"))), InvalidBase::Roles);
        assert_eq!(refusal(|base| base.files.push(gguf.clone())), InvalidBase::Roles);
        let mut sharded = base();
        sharded.files.splice(3.., [index, weights("a.safetensors"), weights("b.safetensors")]);
        assert_eq!(sharded.validate(), Ok(()));
        let alone = BaseModel { files: vec![gguf], ..base() };
        assert_eq!(alone.validate(), Ok(()));
    }
}
