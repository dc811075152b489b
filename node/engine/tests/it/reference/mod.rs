//! Llama as its paper and Hugging Face's `modeling_llama.py` spell it out: one position after the other, in f64,
//! without a tensor library. Slow, and written apart from the model that it checks.

use candle_core::Tensor;
use serde_json::Value;
use std::{collections::BTreeMap, f64::consts::PI};

type Vector = Vec<f64>;

pub struct Llama<'a> {
    config: &'a Value,
    tensors: BTreeMap<String, Vec<Vector>>,
}

impl<'a> Llama<'a> {
    pub fn new(config: &'a Value, tensors: &BTreeMap<String, Tensor>) -> Self {
        let rows = |tensor: &Tensor| -> Vec<Vector> {
            let rows = if tensor.rank() == 1 { tensor.unsqueeze(0).unwrap() } else { tensor.clone() };
            let rows = rows.to_vec2::<f32>().unwrap();
            rows.into_iter().map(|row| row.into_iter().map(f64::from).collect()).collect()
        };
        Self { config, tensors: tensors.iter().map(|(name, tensor)| (name.clone(), rows(tensor))).collect() }
    }

    fn number(&self, name: &str) -> f64 {
        self.config[name].as_f64().unwrap_or_else(|| panic!("config.json lacks {name}"))
    }

    fn size(&self, name: &str) -> usize {
        self.number(name) as usize
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vector {
        self.tensors[&format!("{name}.weight")].iter().map(|row| dot(row, x)).collect()
    }

    /// x over its root mean square, times the weight.
    fn norm(&self, name: &str, x: &[f64]) -> Vector {
        let weight = &self.tensors[&format!("{name}.weight")][0];
        let scale = (dot(x, x) / x.len() as f64 + self.number("rms_norm_eps")).sqrt();
        x.iter().zip(weight).map(|(x, weight)| x / scale * weight).collect()
    }

    /// Angle of each pair of a head's numbers at position 1.
    fn frequencies(&self, head: usize) -> Vector {
        let theta = self.number("rope_theta");
        let plain = (0..head / 2).map(|pair| theta.powf(-2.0 * pair as f64 / head as f64));
        let scaling = &self.config["rope_scaling"];
        let of = |name: &str| scaling[name].as_f64().unwrap();
        if scaling.is_null() {
            return plain.collect();
        }
        assert_eq!(scaling["rope_type"], "llama3");
        let (low, high) = (of("low_freq_factor"), of("high_freq_factor"));
        let scaled = |frequency: f64| {
            let turns = of("original_max_position_embeddings") * frequency / (2.0 * PI);
            let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 - share) * frequency / of("factor") + share * frequency
        };
        plain.map(scaled).collect()
    }

    /// Number i of a head turns with number i + head / 2.
    fn rotate(&self, x: &mut [f64], head: usize, position: usize) {
        let frequencies = self.frequencies(head);
        for head in x.chunks_mut(head) {
            let (first, second) = head.split_at_mut(frequencies.len());
            for ((a, b), frequency) in first.iter_mut().zip(second).zip(&frequencies) {
                let (sin, cos) = (frequency * position as f64).sin_cos();
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }

    /// What attention finds for a query. `keys` and `values`: of all positions up to its own.
    fn attend(&self, query: &[f64], keys: &[Vector], values: &[Vector]) -> Vector {
        let (heads, groups) = (self.size("num_attention_heads"), self.size("num_key_value_heads"));
        let size = query.len() / heads;
        let mut out = Vec::new();
        for head in 0..heads {
            let of_group = head / (heads / groups) * size;
            let part = |x: &'_ Vector| x[of_group..of_group + size].to_vec();
            let query = &query[head * size..][..size];
            let scores = keys.iter().map(|key| dot(query, &part(key)) / (size as f64).sqrt()).collect();
            let weights = softmax(scores);
            let values: Vec<Vector> = values.iter().map(part).collect();
            out.extend(
                (0..size).map(|i| weights.iter().zip(&values).map(|(weight, value)| weight * value[i]).sum::<f64>()),
            );
        }
        out
    }

    /// Logits of every position.
    pub fn logits(&self, tokens: &[u32]) -> Vec<Vector> {
        let embedding = &self.tensors["model.embed_tokens.weight"];
        let mut xs: Vec<Vector> = tokens.iter().map(|token| embedding[*token as usize].clone()).collect();
        let head = self.size("hidden_size") / self.size("num_attention_heads");
        for layer in 0..self.size("num_hidden_layers") {
            let name = |part: &str| format!("model.layers.{layer}.{part}");
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for (position, x) in xs.iter_mut().enumerate() {
                let normed = self.norm(&name("input_layernorm"), x);
                let project = |part: &str| self.linear(&name(&format!("self_attn.{part}_proj")), &normed);
                let (mut query, mut key) = (project("q"), project("k"));
                self.rotate(&mut query, head, position);
                self.rotate(&mut key, head, position);
                keys.push(key);
                values.push(project("v"));
                let attended = self.attend(&query, &keys, &values);
                add(x, &self.linear(&name("self_attn.o_proj"), &attended));
                let normed = self.norm(&name("post_attention_layernorm"), x);
                let (gate, up) =
                    (self.linear(&name("mlp.gate_proj"), &normed), self.linear(&name("mlp.up_proj"), &normed));
                let inner: Vector = gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
                add(x, &self.linear(&name("mlp.down_proj"), &inner));
            }
        }
        let is_tied = self.config["tie_word_embeddings"] == true;
        let head = if is_tied { "model.embed_tokens" } else { "lm_head" };
        xs.iter().map(|x| self.linear(head, &self.norm("model.norm", x))).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn softmax(scores: Vector) -> Vector {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vector = scores.iter().map(|score| (score - highest).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}
