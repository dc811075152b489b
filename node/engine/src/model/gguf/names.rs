//! How llama.cpp calls and lays out the tensors of a family (its `gguf-py/gguf/tensor_mapping.py` and `conversion/`).

use std::collections::HashMap;

use super::super::plan::{AttentionPlan, Inputs, MlpInputs, NormKind, Plan};

/// In what a tensor of a GGUF file differs from transformers'.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Layout {
    pub order: Order,
    /// What is added to each value where it is read.
    pub shift: f32,
}

/// In what order rows are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    #[default]
    Same,
    /// Of queries and keys: the halves of each head interleaved, for a rotary that turns neighbours.
    Turned { head_dim: usize },
    /// All queries, all keys, all values, where transformers has them head by head.
    ByPart { heads: usize, head_dim: usize },
}

impl Order {
    /// The stored row that is row `row` of transformers'.
    pub fn stored(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Turned { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * pair + half
            }
            Self::ByPart { heads, head_dim } => {
                let (head, within) = (row / (3 * head_dim), row % (3 * head_dim));
                let (part, element) = (within / head_dim, within % head_dim);
                (part * heads + head) * head_dim + element
            }
        }
    }
}

/// llama.cpp's name and layout of each tensor of `plan`, by transformers' name.
pub fn layouts(plan: &Plan) -> HashMap<String, (String, Layout)> {
    let mut all = HashMap::new();
    let shift = match plan.norms.kind {
        NormKind::Rms(offset) => -offset as f32,
        NormKind::Layer | NormKind::Bare => 0.0,
    };
    let mut add = |ours: String, theirs: String, layout: Layout| {
        for part in ["weight", "bias"] {
            all.insert(format!("{ours}.{part}"), (format!("{theirs}.{part}"), layout));
        }
    };
    let (plain, normed) = (Layout::default(), Layout { shift, ..Layout::default() });
    add(plan.embedding.name.to_owned(), "token_embd".into(), plain);
    add(plan.head.name.to_owned(), "output".into(), plain);
    if let Some((positions, _)) = plan.embedding.positions {
        add(positions.to_owned(), "position_embd".into(), plain);
    }
    if let Some(last) = plan.norms.last {
        add(last.to_owned(), "output_norm".into(), normed);
    }
    for index in 0..plan.kinds.len() {
        for (ours, theirs) in norms(plan) {
            add(plan.in_layer(index, ours), format!("blk.{index}.{theirs}"), normed);
        }
        for (ours, theirs, order) in linear_layers(plan) {
            let layout = Layout { order, ..Layout::default() };
            add(plan.in_layer(index, ours), format!("blk.{index}.{theirs}"), layout);
        }
    }
    all
}

/// Norms of a layer: both names.
fn norms(plan: &Plan) -> Vec<(&'static str, &'static str)> {
    let norms = &plan.norms;
    let of_layer = [
        (norms.before_attention, "attn_norm"),
        (norms.after_attention, "post_attention_norm"),
        (norms.before_mlp, "ffn_norm"),
        (norms.after_mlp, "post_ffw_norm"),
    ];
    let of_queries = plan.attention.norms.map(|(q, k, _)| [(q, "attn_q_norm"), (k, "attn_k_norm")]);
    let of_layer = of_layer.into_iter().filter_map(|(ours, theirs)| Some((ours?, theirs)));
    of_layer.chain(of_queries.into_iter().flatten()).collect()
}

/// Linear layers of a layer: both names, and the order of rows.
fn linear_layers(plan: &Plan) -> Vec<(&'static str, &'static str, Order)> {
    let AttentionPlan { heads, head_dim, output, .. } = plan.attention;
    let turned = if is_turned(plan) { Order::Turned { head_dim } } else { Order::Same };
    let mut layers = match plan.attention.inputs {
        Inputs::Separate([q, k, v]) => {
            vec![(q, "attn_q", turned), (k, "attn_k", turned), (v, "attn_v", Order::Same)]
        }
        Inputs::Joined(name) => vec![(name, "attn_qkv", Order::Same)],
        Inputs::ByHead(name) => vec![(name, "attn_qkv", Order::ByPart { heads, head_dim })],
    };
    layers.push((output, "attn_output", Order::Same));
    match plan.mlp.inputs {
        MlpInputs::Gated(gate, up) => layers.extend([(gate, "ffn_gate", Order::Same), (up, "ffn_up", Order::Same)]),
        MlpInputs::GatedJoined(name) | MlpInputs::Plain(name) => layers.push((name, "ffn_up", Order::Same)),
    }
    layers.push((plan.mlp.output, "ffn_down", Order::Same));
    layers
}

/// Whether llama.cpp turns neighbouring elements of this family's heads, and its converter reorders rows for that.
fn is_turned(plan: &Plan) -> bool {
    ["LlamaForCausalLM", "MistralForCausalLM", "GraniteForCausalLM", "SmolLM3ForCausalLM"].contains(&plan.class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_those_of_the_converter() {
        // Of 2 heads of 4: reshape(2, 2, 2).swapaxes(1, 2) stores rows 0 2 1 3 4 6 5 7.
        let stored: Vec<usize> = (0..8).map(|row| Order::Turned { head_dim: 4 }.stored(row)).collect();
        assert_eq!(stored, [0, 2, 1, 3, 4, 6, 5, 7]);
        // Of 2 heads of 1: q0 k0 v0 q1 k1 v1 are stored q0 q1 k0 k1 v0 v1.
        let stored: Vec<usize> = (0..6).map(|row| Order::ByPart { heads: 2, head_dim: 1 }.stored(row)).collect();
        assert_eq!(stored, [0, 2, 4, 1, 3, 5]);
    }

    #[test]
    fn no_order_loses_a_row() {
        for order in [Order::Same, Order::Turned { head_dim: 6 }, Order::ByPart { heads: 4, head_dim: 3 }] {
            let mut stored: Vec<usize> = (0..36).map(|row| order.stored(row)).collect();
            stored.sort_unstable();
            assert!(stored.into_iter().eq(0..36), "{order:?}");
        }
    }
}
