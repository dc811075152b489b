//! A tokenizer's files, as transformers has them, of what the metadata say of tokens.

use anyhow::{Context, Result, bail, ensure};
use protocol::manifest::Role;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

use super::{
    super::{OriginalFile, architecture::VOCABULARY_MAX},
    metadata::Metadata,
    split::Kind,
};

/// Types of tokens, llama.cpp's `llama_token_type`.
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;
const BYTE: u64 = 6;
/// Tokens that end a turn, where a file does not name its own: llama.cpp knows them by their texts, too.
const TURN_ENDS: [&str; 6] =
    ["<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>"];
/// Longest token of a SentencePiece vocabulary, bytes: each is cut in all ways.
const PIECE_BYTES_MAX: usize = 256;

/// `tokenizer.json`, `tokenizer_config.json`, `generation_config.json`, and `chat_template.jinja` if there is one.
pub fn files(metadata: &Metadata<'_>) -> Result<Vec<OriginalFile>> {
    let source = Source::read(metadata)?;
    let model = metadata.text("tokenizer.ggml.model")?.context("it has no tokenizer.ggml.model")?;
    let tokenizer = match model {
        "gpt2" => source.byte_pairs()?,
        "llama" => source.sentence_pieces()?,
        other => bail!("it is of kind {other:?}; supported are gpt2 (byte-level BPE) and llama (SentencePiece)"),
    };
    let mut files = vec![
        OriginalFile::made(Role::Tokenizer, serde_json::to_vec(&tokenizer)?),
        OriginalFile::made(Role::TokenizerConfig, serde_json::to_vec_pretty(&source.config()?)?),
        OriginalFile::made(Role::GenerationConfig, serde_json::to_vec_pretty(&source.generation()?)?),
    ];
    if let Some(template) = metadata.text("tokenizer.chat_template")? {
        ensure!(
            template.len() as u64 <= Role::ChatTemplate.bytes_max(),
            "its chat template has {} bytes, supported are {}",
            template.len(),
            Role::ChatTemplate.bytes_max()
        );
        if !template.is_empty() {
            files.insert(2, OriginalFile::made(Role::ChatTemplate, template.as_bytes().to_vec()));
        }
    }
    Ok(files)
}

struct Source<'a> {
    metadata: &'a Metadata<'a>,
    tokens: Vec<&'a str>,
    types: Vec<u64>,
}

impl<'a> Source<'a> {
    fn read(metadata: &'a Metadata<'a>) -> Result<Self> {
        let tokens = metadata.texts("tokenizer.ggml.tokens")?.context("it has no tokenizer.ggml.tokens")?;
        ensure!(tokens.len() <= VOCABULARY_MAX, "it has {} tokens, supported are {VOCABULARY_MAX}", tokens.len());
        let types = metadata.numbers("tokenizer.ggml.token_type")?.unwrap_or_else(|| vec![1.0; tokens.len()]);
        ensure!(types.len() == tokens.len(), "it has {} tokens, and types of {}", tokens.len(), types.len());
        Ok(Self { metadata, tokens, types: types.into_iter().map(|kind| kind as u64).collect() })
    }

    /// Id and text of a special token.
    fn special(&self, name: &str) -> Result<Option<(u64, &'a str)>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = self.metadata.size(&key)? else { return Ok(None) };
        let token = usize::try_from(id).ok().and_then(|id| self.tokens.get(id).copied());
        Ok(Some((id, token.with_context(|| format!("{key} is {id}, it has {} tokens", self.tokens.len()))?)))
    }

    /// The vocabulary: of tokens of one text the first.
    fn vocabulary(&self) -> Map<String, Value> {
        let mut vocabulary = Map::new();
        for (id, token) in self.tokens.iter().enumerate() {
            vocabulary.entry(*token).or_insert_with(|| json!(id));
        }
        vocabulary
    }

    /// Tokens that texts are searched for before anything else.
    fn added(&self) -> Vec<Value> {
        let added = self.tokens.iter().zip(&self.types).enumerate();
        let added =
            added.filter(|(_, (token, kind))| matches!(**kind, UNKNOWN | CONTROL | USER_DEFINED) && !token.is_empty());
        let strips = self.is_phi3();
        let entry = |(id, (token, kind)): (usize, (&&str, &u64))| {
            let rstrip = strips && !["<unk>", "<s>", "<|endoftext|>"].contains(token);
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": rstrip,
                "normalized": false, "special": *kind != USER_DEFINED})
        };
        added.map(entry).collect()
    }

    /// Whether white space behind special tokens is theirs, which a file does not say: llama.cpp's rule.
    fn is_phi3(&self) -> bool {
        let text = |key: &str| self.metadata.text(key).ok().flatten().unwrap_or_default().to_lowercase();
        let name = text("general.name");
        text("tokenizer.ggml.model") == "llama" && ["phi-3", "phi3"].iter().any(|part| name.contains(part))
    }

    /// What is put around a text.
    fn post_processor(&self, adds_bos: bool) -> Result<Value> {
        let said = |name: &str, usual: bool| -> Result<bool> {
            Ok(self.metadata.flag(&format!("tokenizer.ggml.add_{name}_token"))?.unwrap_or(usual))
        };
        let bos = self.special("bos")?.filter(|_| said("bos", adds_bos).unwrap_or(false));
        let eos = self.special("eos")?.filter(|_| said("eos", false).unwrap_or(false));
        if bos.is_none() && eos.is_none() {
            return Ok(Value::Null);
        }
        let around = |text: &str, kind: u32| {
            let token = |(_, token): (u64, &str)| json!({"SpecialToken": {"id": token, "type_id": kind}});
            let sequence = json!({"Sequence": {"id": text, "type_id": kind}});
            [bos.map(token), Some(sequence), eos.map(token)].into_iter().flatten().collect::<Vec<_>>()
        };
        let mut tokens = Map::new();
        for (id, token) in [bos, eos].into_iter().flatten() {
            tokens.insert(token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]}));
        }
        let pair = [around("A", 0), around("B", 1)].concat();
        Ok(json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": tokens}))
    }

    /// Byte-level BPE.
    fn byte_pairs(&self) -> Result<Value> {
        let name = match self.metadata.text("tokenizer.ggml.pre")? {
            Some(name) => name,
            None if self.metadata.text("general.architecture")? == Some("gpt2") => "gpt-2",
            None => bail!(
                "it has no tokenizer.ggml.pre, which says how texts are cut: an early converter made it; take a newer file \
                 of the model"
            ),
        };
        let Some(kind) = Kind::of(name) else {
            bail!("tokenizer.ggml.pre is {name:?}; known are {}", Kind::names());
        };
        let merges = self.metadata.texts("tokenizer.ggml.merges")?.context("it has no tokenizer.ggml.merges")?;
        let cut = |expression: &&str| json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false});
        let bytes = |uses_regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": uses_regex});
        let cuts: Vec<Value> = kind.expressions.iter().map(cut).chain([bytes(false)]).collect();
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": self.added(),
            "normalizer": if kind.is_normalized { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts},
            "post_processor": self.post_processor(kind.adds_bos)?,
            "decoder": bytes(true),
            "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
                "ignore_merges": kind.ignores_merges, "vocab": self.vocabulary(), "merges": merges},
        }))
    }

    /// SentencePiece, which merges the pair of the highest score: BPE with merges in the order of scores.
    fn sentence_pieces(&self) -> Result<Value> {
        let merges = match self.metadata.texts("tokenizer.ggml.merges")? {
            Some(merges) => merges.into_iter().map(|merge| json!(merge)).collect(),
            None => self.merges()?,
        };
        let has_prefix = self.metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        let mut normalizers = vec![spaces];
        if has_prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        let unknown = self.special("unknown")?.map(|(_, token)| token);
        let has_bytes = self.types.contains(&BYTE);
        Ok(json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": self.added(),
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": null,
            "post_processor": self.post_processor(true)?,
            "decoder": {"type": "Sequence", "decoders": decoders},
            "model": {"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": has_bytes, "ignore_merges": false,
                "vocab": self.vocabulary(), "merges": merges},
        }))
    }

    /// Every way to make a token of two, the token of the highest score first; as transformers' `generate_merges`.
    fn merges(&self) -> Result<Vec<Value>> {
        let scores = self.metadata.numbers("tokenizer.ggml.scores")?.context("it has no tokenizer.ggml.scores")?;
        ensure!(
            scores.len() == self.tokens.len(),
            "it has {} tokens, and scores of {}",
            self.tokens.len(),
            scores.len()
        );
        let ids: HashMap<&str, usize> = self.tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
        let mut merges = Vec::new();
        for (id, token) in self.tokens.iter().enumerate() {
            if matches!(self.types[id], UNKNOWN | CONTROL | BYTE) || token.len() > PIECE_BYTES_MAX {
                continue;
            }
            let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
            let mut found: Vec<(&str, &str)> =
                cuts.filter(|(left, right)| ids.contains_key(left) && ids.contains_key(right)).collect();
            found.sort_by_key(|(left, right)| (ids[left], ids[right]));
            merges.extend(found.into_iter().map(|(left, right)| (scores[id], left, right)));
        }
        let size = |left: &str, right: &str| (left.chars().count(), right.chars().count());
        merges.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| size(b.1, b.2).cmp(&size(a.1, a.2))));
        Ok(merges.into_iter().map(|(_, left, right)| json!([left, right])).collect())
    }

    fn config(&self) -> Result<Value> {
        let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
        for (ours, theirs) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
            if let Some((_, token)) = self.special(theirs)? {
                config[format!("{ours}_token")] = json!(token);
            }
        }
        Ok(config)
    }

    /// All tokens at which generation ends.
    fn generation(&self) -> Result<Value> {
        let mut stops = Vec::new();
        for name in ["eos", "eot", "eom"] {
            stops.extend(self.special(name)?.map(|(id, _)| id));
        }
        if let (None, Some(template)) = (self.special("eot")?, self.metadata.text("tokenizer.chat_template")?) {
            let is_end = |id: &usize| {
                self.types[*id] == CONTROL
                    && TURN_ENDS.contains(&self.tokens[*id])
                    && template.contains(self.tokens[*id])
            };
            stops.extend((0..self.tokens.len()).filter(is_end).map(|id| id as u64));
        }
        let mut seen = Vec::new();
        stops.retain(|id| {
            !seen.contains(id) && {
                seen.push(*id);
                true
            }
        });
        let mut config = Map::new();
        if let Some((id, _)) = self.special("bos")? {
            config.insert("bos_token_id".into(), json!(id));
        }
        if !stops.is_empty() {
            config.insert("eos_token_id".into(), json!(stops));
        }
        Ok(Value::Object(config))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::header::Header, *};
    use std::{fs, path::Path};

    /// llama.cpp's own test of its tokenizers: vocabularies, texts, and the ids that it and transformers make of them.
    #[test]
    fn llama_cpps_vocabularies_make_its_ids() {
        let Some(checkout) = std::env::var_os("LLAMA_CPP") else {
            println!(
                "skipped: LLAMA_CPP does not name a checkout of llama.cpp, whose models/ggml-vocab-*.gguf this reads"
            );
            return;
        };
        let kinds =
            ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "starcoder", "refact", "command-r", "mpt", "falcon"];
        for kind in kinds {
            let path = Path::new(&checkout).join(format!("models/ggml-vocab-{kind}.gguf"));
            let header = Header::read(&OriginalFile::at(Role::Gguf, path.clone()).unwrap()).unwrap();
            let made = files(&Metadata(&header.metadata)).unwrap_or_else(|error| panic!("{kind}: {error:#}"));
            let tokenizer = tokenizers::Tokenizer::from_bytes(made[0].read().unwrap()).unwrap();
            let beside = |ending: &str| fs::read_to_string(format!("{}.{ending}", path.display())).unwrap();
            let (texts, ids) = (beside("inp"), beside("out"));
            let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
            let (mut count, mut wrong) = (0, Vec::new());
            for (text, ids) in texts.iter().zip(ids.lines()) {
                let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
                let own = tokenizer.encode(*text, false).unwrap();
                count += 1;
                if own.get_ids() != ids {
                    wrong.push((*text, own.get_ids().to_vec(), ids));
                }
            }
            println!("{kind}: {count} texts, {} differ", wrong.len());
            assert!(count > 20 && wrong.is_empty(), "{kind}: {wrong:?}");
        }
    }
}
