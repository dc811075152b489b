//! Which tensors people mean, by name or by the part that they have in the model.

use anyhow::{Result, bail, ensure};
use std::collections::BTreeSet;

use super::{AdapterSettings, Trained};
use crate::model::{Architecture, Part, Stage};

/// Most names in an error.
const NAMED: usize = 5;

impl Trained {
    /// What `text` says of the tensors of `architecture`: a list, divided by commas, of parts (`all`, `attention`,
    /// `mlp`, `norms`, `biases`, `embedding`, `head`), of `last:N`, the last N layers and what comes after them, and of
    /// names or parts of them (`q_proj`), in which `*` stands for anything. Errors name what means nothing here, and
    /// what there is.
    pub fn choose(text: &str, architecture: &dyn Architecture) -> Result<Self> {
        let names: Vec<String> = architecture.tensors().into_iter().map(|(name, _)| name).collect();
        let mut chosen = BTreeSet::new();
        for item in items(text) {
            let is_meant = meaning(item, architecture)?;
            let mut found = names.iter().filter(|name| is_meant(name)).peekable();
            match item {
                _ if found.peek().is_some() => chosen.extend(found.cloned()),
                "head" => bail!(
                    "this model's output head is its token embedding (tie_word_embeddings), and has no weights of its own; \
                     --train embedding trains both, as one"
                ),
                "attention" | "mlp" | "norms" | "biases" | "embedding" => {
                    bail!("this model has no {item}; leave {item} away")
                }
                _ => bail!(
                    "{item:?} is no tensor of this model; it takes all, attention, mlp, norms, biases, embedding, head, last:N, \
                     or names or parts of them, such as {}, in which * stands for anything",
                    names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ")
                ),
            }
        }
        ensure!(!chosen.is_empty(), "it names no tensor; say what to train, for example attention or last:4");
        Ok(if chosen.len() == names.len() { Self::All } else { Self::Only(chosen) })
    }

    /// What a run trains where people say `text`: those tensors, or, with a `rank`, adapters of the linear layers among
    /// them, over a base that stays as it is. `alpha`: as [`AdapterSettings::new`] takes it.
    pub fn or_adapters(
        text: &str,
        rank: Option<u32>,
        alpha: Option<f64>,
        architecture: &dyn Architecture,
    ) -> Result<(Self, Option<AdapterSettings>)> {
        let named = Self::choose(text, architecture)?;
        let Some(rank) = rank else { return Ok((named, None)) };
        let adapters = AdapterSettings::new(rank, alpha, &named, architecture)?;
        Ok((Self::Only(BTreeSet::new()), Some(adapters)))
    }

    /// The items of the list `text` that name no layer of which `adapters` has an adapter.
    pub fn without_adapter<'a>(
        text: &'a str,
        adapters: &AdapterSettings,
        architecture: &dyn Architecture,
    ) -> Result<Vec<&'a str>> {
        let mut without = Vec::new();
        for item in items(text) {
            let named = Self::choose(item, architecture)?;
            if !adapters.layers.iter().any(|layer| named.has(&format!("{layer}.weight"))) {
                without.push(item);
            }
        }
        Ok(without)
    }
}

/// What a list names.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// Whether a tensor of this name is meant.
type Meaning<'a> = Box<dyn Fn(&str) -> bool + 'a>;

/// Whether a tensor is one of those that `item` means.
fn meaning<'a>(item: &'a str, architecture: &'a dyn Architecture) -> Result<Meaning<'a>> {
    let of = |part: Part| -> Meaning<'a> { Box::new(move |name| architecture.part(name) == part) };
    Ok(match item {
        "all" => Box::new(|_| true),
        "attention" => of(Part::Attention),
        "mlp" => of(Part::Mlp),
        "norms" => of(Part::Norm),
        "embedding" => of(Part::Embedding),
        "head" => of(Part::Head),
        "biases" => Box::new(|name| name.ends_with(".bias")),
        _ => match item.strip_prefix("last:") {
            Some(count) => {
                let layers = architecture.layers();
                let Some(first) =
                    count.parse().ok().filter(|count| *count > 0).and_then(|count| layers.checked_sub(count))
                else {
                    bail!("{item}: the model has {layers} layers; give last:1 to last:{layers}");
                };
                Box::new(move |name| architecture.stage(name) >= Stage::Layer(first))
            }
            None => Box::new(move |name| means(item, name)),
        },
    })
}

/// Parts that nearly every name has, and one that is a letter off `norms`: alone they say too little to be meant.
const VAGUE: [&str; 7] = ["weight", "bias", "model", "layers", "transformer", "h", "norm"];

/// Whether `item` means the tensor `name`: the whole of it, or a run of its parts between dots, such as `q_proj`, as
/// PEFT has it; with `*` for anything.
fn means(item: &str, name: &str) -> bool {
    let is_vague = VAGUE.contains(&item) || item.parse::<u64>().is_ok();
    matches(item, name) || !is_vague && matches(&format!("*.{item}.*"), &format!(".{name}."))
}

/// Whether `name` is `pattern`, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(start) else { return false };
    name.char_indices().map(|(at, _)| at).chain([name.len()]).any(|at| matches(rest, &name[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architecture;
    use serde_json::json;

    fn llama_of(more: [(&str, bool); 2]) -> Box<dyn Architecture> {
        let mut config = json!({"model_type": "llama", "hidden_size": 8, "intermediate_size": 16,
            "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 11});
        more.into_iter().for_each(|(name, value)| config[name] = json!(value));
        architecture(config.to_string().as_bytes()).unwrap()
    }

    fn llama() -> Box<dyn Architecture> {
        llama_of([("attention_bias", true), ("tie_word_embeddings", false)])
    }

    fn chosen(text: &str) -> Vec<String> {
        match Trained::choose(text, &*llama()).unwrap_or_else(|error| panic!("{text}: {error:#}")) {
            Trained::All => vec!["all".into()],
            Trained::Only(names) => names.into_iter().collect(),
        }
    }

    #[test]
    fn parts_and_names_mean_their_tensors() {
        assert_eq!(chosen("all"), ["all"]);
        assert_eq!(chosen("head"), ["lm_head.weight"]);
        assert_eq!(chosen("embedding, head").len(), 2);
        assert_eq!(chosen("norms").len(), 3 * 2 + 1);
        assert_eq!(chosen("attention").len(), 3 * 8);
        assert_eq!(chosen("biases").len(), 3 * 4);
        assert_eq!(chosen("mlp").len(), 3 * 3);
        let last = chosen("last:1");
        assert!(last.contains(&"model.norm.weight".into()) && last.contains(&"lm_head.weight".into()), "{last:?}");
        assert!(last.iter().all(|name| !name.starts_with("model.layers.1.")), "{last:?}");
        assert_eq!(chosen("model.layers.*.mlp.up_proj.weight").len(), 3);
        assert_eq!(chosen("*up_proj*,*down_proj.weight").len(), 6);
        assert_eq!((chosen("q_proj,v_proj").len(), chosen("layers.1").len()), (3 * 4, 4 * 2 + 3 + 2));
        assert_eq!(chosen("layers.*.q_proj").len(), 3 * 2);
        assert_eq!(chosen("attention,mlp,norms,embedding,head"), ["all"], "everything, said in parts");
    }

    #[test]
    fn what_means_nothing_is_refused_with_what_there_is() {
        let refusal = |text: &str| Trained::choose(text, &*llama()).unwrap_err().to_string();
        for text in ["atention", "weight", "1", "norm", "model.layers.7.mlp.up_proj.weight", "*.lora", "all,nothing"] {
            let refused = refusal(text);
            assert!(refused.contains("attention, mlp") && refused.contains("model.embed_tokens.weight"), "{refused}");
        }
        for text in ["last:0", "last:4", "last:-1", "last:many"] {
            assert!(refusal(text).contains("3 layers"), "{text}");
        }
        assert!(refusal(" , ").contains("names no tensor"));
        let attention = Trained::choose("attention", &*llama()).unwrap();
        let adapters = AdapterSettings::new(4, Some(8.0), &attention, &*llama()).unwrap();
        let without = |text| Trained::without_adapter(text, &adapters, &*llama()).unwrap();
        assert_eq!(without("attention, head,norms,last:1"), ["head", "norms"]);
        assert!(without("all").is_empty());
        let plain = llama_of([("attention_bias", false), ("tie_word_embeddings", true)]);
        let refusal = |text: &str| Trained::choose(text, &*plain).unwrap_err().to_string();
        assert!(refusal("mlp,biases").contains("has no biases"), "{}", refusal("biases"));
        let head = refusal("head");
        assert!(head.contains("head is its token embedding") && head.contains("--train embedding"), "{head}");
    }
}
