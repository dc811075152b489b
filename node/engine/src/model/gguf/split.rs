//! How a text is cut before byte pairs are merged, by the names that llama.cpp has for it (`tokenizer.ggml.pre`;
//! `llm_tokenizer_bpe` in its `llama-vocab.cpp`): expressions, each of which cuts what the one before has left.

/// GPT-2's.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK3: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const HAN: &str = "[一-龥ࠀ-一가-퟿]+";

/// How one kind of tokenizer cuts texts.
pub struct Kind {
    /// As `tokenizer.ggml.pre` says it.
    names: &'static [&'static str],
    pub expressions: &'static [&'static str],
    /// Whether a piece that is a token as a whole is one, whatever the merges.
    pub ignores_merges: bool,
    /// Whether a text begins with BOS where the file does not say.
    pub adds_bos: bool,
    /// Whether texts are brought into normal form C first.
    pub is_normalized: bool,
}

const fn kind(names: &'static [&'static str], expressions: &'static [&'static str]) -> Kind {
    Kind { names, expressions, ignores_merges: false, adds_bos: false, is_normalized: false }
}

const KINDS: &[Kind] = &[
    kind(
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "roberta-bpe",
        ],
        &[GPT2],
    ),
    kind(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[r"\p{N}", GPT2],
    ),
    Kind {
        ignores_merges: true,
        adds_bos: true,
        ..kind(&["llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"], &[LLAMA3])
    },
    kind(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    Kind { ignores_merges: true, ..kind(&["glm4"], &[LLAMA3]) },
    Kind { is_normalized: true, ..kind(&["qwen2", "deepseek-r1-qwen", "kormo", "megrez", "f2llmv2"], &[QWEN2]) },
    kind(&["stablelm2", "hunyuan", "solar-open", "grok-2"], &[QWEN2]),
    Kind { ignores_merges: true, adds_bos: true, ..kind(&["tekken"], &[TEKKEN]) },
    kind(&["gpt-4o", "llama4", "kanana2"], &[GPT4O]),
    kind(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    kind(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    kind(&["deepseek-coder"], &["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN, r"\p{N}"]),
    kind(&["deepseek-v3", "hunyuan-dense", "joyai-llm"], &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3]),
];

impl Kind {
    /// The kind of this name, if it is known.
    pub fn of(name: &str) -> Option<&'static Self> {
        KINDS.iter().find(|kind| kind.names.contains(&name))
    }

    /// All names.
    pub fn names() -> String {
        KINDS.iter().flat_map(|kind| kind.names).copied().collect::<Vec<_>>().join(", ")
    }
}
