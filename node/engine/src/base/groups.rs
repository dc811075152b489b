//! How the starter of a run cuts the trained tensors into groups.

use protocol::manifest::Groups;
use std::collections::BTreeMap;

use crate::model::{Architecture, Stage};

/// Most groups: more make the groups of a deep model small, and each machine's rounds rarer in each.
const GROUPS_MAX: usize = 32;
/// A group has at least this part of the weights, unless everything is one group: sweeping one that is smaller costs
/// what it costs to begin.
const PART_MIN: f64 = 1.0 / 256.0;

/// How tensors were cut.
pub struct Cut {
    pub groups: Groups,
    /// The number of each tensor's group, by the tensor's name.
    pub group_of: BTreeMap<String, u16>,
}

/// Cuts tensors into groups of neighbours in the forward pass.
///
/// Each stage of the model is a group (the tensors of a layer together, an embedding with what is tied to it); the
/// final norm goes with the last layer. Then neighbours are merged, the smallest pair first, until no group is tiny and
/// there are not too many. All groups weigh the same and are probed at the run's ε. Weights were not measured: the only
/// model at hand that trains in minutes has groups of one size. A group's own ε, larger as its loss differences are
/// smaller, brought nothing (ARCHITECTURE, *Decisions*).
pub fn cut(architecture: &dyn Architecture, elements: &BTreeMap<String, u64>) -> Cut {
    let mut stages: BTreeMap<Stage, (u64, Vec<&String>)> = BTreeMap::new();
    for (name, count) in elements {
        let stage = stages.entry(architecture.stage(name)).or_default();
        stage.0 += count;
        stage.1.push(name);
    }
    let mut groups: Vec<(u64, Vec<&String>)> = stages.into_values().collect();
    let total: u64 = elements.values().sum();
    let tiny = |group: &(u64, Vec<&String>)| (group.0 as f64) < PART_MIN * total as f64;
    while groups.len() > 1 && (groups.len() > GROUPS_MAX || groups.iter().any(tiny)) {
        merge_smallest(&mut groups);
    }
    let numbers = (0u16..).zip(&groups);
    let group_of = numbers.flat_map(|(number, (_, names))| names.iter().map(move |name| ((*name).clone(), number)));
    Cut { groups: Groups::equal(groups.len()), group_of: group_of.collect() }
}

/// Merges the smallest group with the smaller of its neighbours.
fn merge_smallest(groups: &mut Vec<(u64, Vec<&String>)>) {
    let size = |at: usize| groups[at].0;
    let Some(smallest) = (0..groups.len()).min_by_key(|at| size(*at)) else { return };
    let before = smallest.checked_sub(1);
    let after = Some(smallest + 1).filter(|after| *after < groups.len());
    let Some(other) = before.into_iter().chain(after).min_by_key(|at| size(*at)) else { return };
    let (first, second) = (smallest.min(other), smallest.max(other));
    let (count, names) = groups.remove(second);
    groups[first].0 += count;
    groups[first].1.extend(names);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architecture;

    fn llama(hidden: usize, layers: usize, vocabulary: usize, tied: bool) -> Box<dyn Architecture> {
        let config = format!(
            r#"{{"model_type": "llama", "hidden_size": {hidden}, "intermediate_size": {}, "num_hidden_layers": {layers},
            "num_attention_heads": 4, "vocab_size": {vocabulary}, "max_position_embeddings": 512, "rms_norm_eps": 1e-5,
            "tie_word_embeddings": {tied}}}"#,
            2 * hidden
        );
        architecture(config.as_bytes()).unwrap()
    }

    fn groups(architecture: &dyn Architecture) -> (usize, BTreeMap<String, u16>) {
        let elements =
            architecture.tensors().into_iter().map(|(name, dims)| (name, dims.iter().product::<usize>() as u64));
        let Cut { groups, group_of } = cut(architecture, &elements.collect());
        (groups.members.len(), group_of)
    }

    #[test]
    fn a_layer_is_a_group_and_what_is_tied_stays_together() {
        let (count, of) = groups(&*llama(64, 5, 512, true));
        assert_eq!(count, 6);
        assert_eq!(of["model.embed_tokens.weight"], 0);
        assert!((0..5u16).all(|layer| of[&format!("model.layers.{layer}.mlp.up_proj.weight")] == layer + 1));
        assert!((0..5u16).all(|layer| of[&format!("model.layers.{layer}.input_layernorm.weight")] == layer + 1));
        assert_eq!(of["model.norm.weight"], 5, "the final norm goes with the last layer");
    }

    #[test]
    fn an_output_head_of_its_own_is_a_group_of_its_own() {
        let (count, of) = groups(&*llama(64, 12, 512, false));
        assert_eq!((count, of["lm_head.weight"], of["model.layers.11.mlp.up_proj.weight"]), (14, 13, 12));
        assert_eq!(of["model.layers.10.mlp.up_proj.weight"], 11, "layers go by number, not by name");
    }

    #[test]
    fn many_layers_and_tiny_ones_are_merged_with_their_neighbours() {
        let (count, of) = groups(&*llama(64, 100, 512, true));
        assert!((16..=GROUPS_MAX).contains(&count), "{count} groups");
        let of_layers = (0..100).map(|layer| of[&format!("model.layers.{layer}.mlp.up_proj.weight")]);
        assert!(of_layers.is_sorted(), "groups are runs of neighbours");
        let (count, of) = groups(&*llama(8, 2, 128_000, true));
        assert_eq!(count, 1, "layers of 600 weights beside an embedding of 1,024,000: {of:?}");
    }
}
