//! A decoder as a [`Plan`] has it: the forward pass of every family.

use anyhow::Result;
use candle_core::Tensor;
use std::{collections::BTreeMap, sync::Arc};

use super::{
    Architecture, Interface, Layout, Model, Part, Stage,
    architecture::{Adapters, Head},
    attention::Attention,
    embedding::Embedding,
    linear::Linear,
    norms::{LayerNorm, Norm, RmsNorm},
    operations::{activate, activate_multiply, add, soft_cap},
    parameters::Parameters,
    past::LayerPast,
    plan::{Inputs, LayerKind, MlpInputs, NormKind, NormedBy, Plan, Residual},
    queries::Heads,
    rotary::{Rotary, RotaryTable},
};
use crate::{device, packed::Packed};

impl Architecture for Plan {
    fn interface(&self) -> &Interface {
        &self.interface
    }

    fn class(&self) -> &'static str {
        self.class
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.tensors()
    }

    fn prefix(&self) -> &'static str {
        self.prefix
    }

    fn head(&self) -> Head {
        Head {
            name: format!("{}.weight", self.head.name),
            embedding: format!("{}.weight", self.embedding.name),
            is_tied: self.head.is_tied,
        }
    }

    fn stage(&self, name: &str) -> Stage {
        let layer = name.strip_prefix(self.layers).and_then(|rest| rest.split('.').next()?.parse().ok());
        let last = Stage::Layer(self.kinds.len() - 1);
        let is_of = |of: &str| name.strip_prefix(of).is_some_and(|rest| rest.starts_with('.'));
        match layer {
            Some(layer) => Stage::Layer(layer),
            None if self.norms.last.is_some_and(is_of) => last,
            None if self.embedding.projections.is_some_and(|(_, outward)| is_of(outward)) => last,
            None if is_of(self.head.name) => Stage::Head,
            None => Stage::Embedding,
        }
    }

    fn layers(&self) -> usize {
        self.kinds.len()
    }

    fn part(&self, name: &str) -> Part {
        let norms = &self.norms;
        let is_of = |of: &str| name.strip_prefix(of).is_some_and(|rest| rest.starts_with('.'));
        let Some((_, own)) = name.strip_prefix(self.layers).and_then(|rest| rest.split_once('.')) else {
            return match () {
                () if norms.last.is_some_and(is_of) => Part::Norm,
                () if is_of(self.head.name) => Part::Head,
                () => Part::Embedding,
            };
        };
        let is = |part: &str| own.strip_prefix(part).is_some_and(|rest| rest.starts_with('.'));
        let of_queries = self.attention.norms.map(|(q, k, _)| [Some(q), Some(k)]).unwrap_or_default();
        let of_layer = [norms.before_attention, norms.after_attention, norms.before_mlp, norms.after_mlp];
        let is_attention = match &self.attention.inputs {
            Inputs::Separate(names) => names.iter().any(|name| is(name)),
            Inputs::Joined(name) | Inputs::ByHead(name) => is(name),
        };
        match () {
            () if of_queries.into_iter().chain(of_layer).flatten().any(is) => Part::Norm,
            () if is_attention || is(self.attention.output) => Part::Attention,
            () => Part::Mlp,
        }
    }

    /// Measured with Llamas; what has the same part in another family is taken to be alike.
    fn emphasis(&self, name: &str) -> f64 {
        let norms = &self.norms;
        let is = |part: Option<&str>| part.is_some_and(|part| name.contains(part));
        let keys = match self.attention.inputs {
            Inputs::Separate([_, keys, _]) => Some(keys),
            _ => None,
        };
        match () {
            () if is(Some(self.embedding.name)) || is(Some(self.head.name)) => 1.5,
            () if is(keys) => 0.4,
            () if is(norms.before_mlp) || is(norms.last) => 0.7,
            () if is(norms.before_attention) => 0.8,
            () => 1.0,
        }
    }

    fn is_redundant(&self, name: &str) -> bool {
        // Frequencies and masks that older releases of transformers stored, some with the model's name, some without.
        let constants =
            ["rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"];
        constants.iter().any(|ending| name.ends_with(ending))
    }

    fn is_transposed(&self) -> bool {
        self.is_transposed
    }

    fn adapted(
        &self,
        tensors: &BTreeMap<String, Tensor>,
        packed: &BTreeMap<String, Packed>,
        adapters: &Adapters,
    ) -> Result<Box<dyn Model>> {
        let all = Parameters::new(tensors, packed, &self.tensors(), adapters)?;
        let weight = |name: &str| all.matrix(&format!("{name}.weight"));
        let embedding = weight(self.embedding.name)?;
        let head = if self.head.is_tied { embedding.clone() } else { weight(self.head.name)? };
        let positions = self
            .embedding
            .positions
            .map(|(name, first)| -> Result<_> { Ok((Embedding { weight: weight(name)? }, first)) });
        let projection = |name: &str| all.linear(name, false);
        let projections = self.embedding.projections;
        Ok(Box::new(Decoder {
            rotaries: self
                .rotaries
                .iter()
                .map(|rotary| RotaryTable::new(rotary.clone(), self.attention.head_dim))
                .collect(),
            embedding: Embedding { weight: embedding },
            positions: positions.transpose()?,
            inward: projections.map(|(inward, _)| projection(inward)).transpose()?,
            outward: projections.map(|(_, outward)| projection(outward)).transpose()?,
            layers: (0..self.kinds.len()).map(|index| Layer::new(self, index, &all)).collect::<Result<_>>()?,
            norm: self.norms.last.map(|name| norm(self, name, &all)).transpose()?,
            head: Linear { weight: head, is_transposed: false, bias: None, adapter: None },
            plan: self.clone(),
        }))
    }
}

/// The norm of this full name.
fn norm(plan: &Plan, name: &str, all: &Parameters) -> Result<Norm> {
    let epsilon = plan.norms.epsilon;
    let tensor = |part: &str| all.tensor(&format!("{name}.{part}"));
    Ok(match plan.norms.kind {
        NormKind::Rms(offset) => Norm::Rms(RmsNorm { weight: tensor("weight")?, offset, epsilon }),
        NormKind::Layer => Norm::Layer(LayerNorm { weight: tensor("weight")?, bias: tensor("bias")?, epsilon }),
        NormKind::Bare => {
            let of = |value: f32| device::tensor(vec![value; plan.hidden], plan.hidden);
            Norm::Layer(LayerNorm { weight: of(1.0)?, bias: of(0.0)?, epsilon })
        }
    })
}

struct Decoder {
    plan: Plan,
    rotaries: Vec<RotaryTable>,
    embedding: Embedding,
    positions: Option<(Embedding, usize)>,
    inward: Option<Linear>,
    outward: Option<Linear>,
    layers: Vec<Layer>,
    norm: Option<Norm>,
    head: Linear,
}

/// One layer.
struct Layer {
    kind: LayerKind,
    heads: Heads,
    before_attention: Option<Norm>,
    after_attention: Option<Norm>,
    before_mlp: Option<Norm>,
    after_mlp: Option<Norm>,
    inputs: Vec<Linear>,
    query_norms: Option<(Norm, Norm)>,
    output: Linear,
    mlp_inputs: Vec<Linear>,
    mlp_output: Linear,
}

impl Layer {
    fn new(plan: &Plan, index: usize, all: &Parameters) -> Result<Self> {
        let linear = |name: &str| all.linear(&plan.in_layer(index, name), plan.is_transposed);
        let norm = |name: &str| norm(plan, &plan.in_layer(index, name), all);
        let of = |name: Option<&str>| name.map(norm).transpose();
        let inputs: Vec<&str> = match &plan.attention.inputs {
            Inputs::Separate(names) => names.to_vec(),
            Inputs::Joined(name) | Inputs::ByHead(name) => vec![*name],
        };
        let mlp_inputs: Vec<&str> = match &plan.mlp.inputs {
            MlpInputs::Gated(gate, up) => vec![*gate, *up],
            MlpInputs::GatedJoined(name) | MlpInputs::Plain(name) => vec![*name],
        };
        let kind = plan.kinds[index].clone();
        Ok(Self {
            heads: Heads {
                queries: plan.attention.heads,
                keys: plan.attention.kv_heads,
                size: plan.attention.head_dim,
                scale: kind.scale as f32,
                cap: plan.attention.cap.map(|cap| cap as f32),
                window: kind.window,
            },
            kind,
            before_attention: of(plan.norms.before_attention)?,
            after_attention: of(plan.norms.after_attention)?,
            before_mlp: of(plan.norms.before_mlp)?,
            after_mlp: of(plan.norms.after_mlp)?,
            inputs: inputs.into_iter().map(linear).collect::<Result<_>>()?,
            query_norms: plan
                .attention
                .norms
                .map(|(q, k, _)| Ok::<_, anyhow::Error>((norm(q)?, norm(k)?)))
                .transpose()?,
            output: linear(plan.attention.output)?,
            mlp_inputs: mlp_inputs.into_iter().map(linear).collect::<Result<_>>()?,
            mlp_output: linear(plan.mlp.output)?,
        })
    }

    /// Queries, keys and values of `x`, [N, H].
    fn queries_keys_values(&self, plan: &Plan, x: &Tensor) -> Result<[Tensor; 3]> {
        let Heads { queries, keys, size, .. } = self.heads;
        let parts = [queries * size, keys * size, keys * size];
        let [q, k, v] = match (&plan.attention.inputs, &self.inputs[..]) {
            (Inputs::Separate(_), [q, k, v]) => [q.forward(x)?, k.forward(x)?, v.forward(x)?],
            (Inputs::Joined(_), [joined, ..]) => {
                let joined = joined.forward(x)?;
                let (q, rest) = (columns(&joined, 0, parts[0])?, parts[0]);
                [q, columns(&joined, rest, parts[1])?, columns(&joined, rest + parts[1], parts[2])?]
            }
            (_, layers) => {
                let joined = layers[0].forward(x)?;
                let tokens = joined.dim(0)?;
                let by_head = joined.reshape((tokens * queries, 3 * size))?;
                let part = |index: usize| columns(&by_head, index * size, size)?.reshape((tokens, queries * size));
                [part(0)?, part(1)?, part(2)?]
            }
        };
        let (Some((q_norm, k_norm)), Some((.., by))) = (&self.query_norms, plan.attention.norms) else {
            return Ok([q, k, v]);
        };
        let normed = |x: Tensor, norm: &Norm| -> Result<Tensor> {
            let shape = x.shape().clone();
            Ok(match by {
                NormedBy::AllHeads => norm.forward(&x)?,
                NormedBy::Head => norm.forward(&x.reshape(((), size))?)?.reshape(shape)?,
            })
        };
        Ok([normed(q, q_norm)?, normed(k, k_norm)?, v])
    }

    fn mlp(&self, plan: &Plan, x: &Tensor) -> Result<Tensor> {
        let activation = plan.mlp.activation;
        let inner = match (&plan.mlp.inputs, &self.mlp_inputs[..]) {
            (MlpInputs::Gated(..), [gate, up]) => activate_multiply(gate.forward(x)?, &up.forward(x)?, activation)?,
            (MlpInputs::GatedJoined(_), [joined, ..]) => {
                let joined = joined.forward(x)?;
                let width = plan.mlp.width;
                activate_multiply(columns(&joined, 0, width)?, &columns(&joined, width, width)?, activation)?
            }
            (_, layers) => activate(layers[0].forward(x)?, activation)?,
        };
        self.mlp_output.forward(&inner)
    }
}

/// Columns of a matrix, in storage of their own: what follows may change them in place.
fn columns(x: &Tensor, from: usize, count: usize) -> candle_core::Result<Tensor> {
    x.narrow(1, from, count)?.force_contiguous()
}

/// `x`, or its norm.
fn normed(norm: Option<&Norm>, x: Tensor) -> Result<Tensor> {
    Ok(match norm {
        Some(norm) => norm.forward(&x)?,
        None => x,
    })
}

fn scaled(x: Tensor, scale: f64) -> Result<Tensor> {
    Ok(if scale == 1.0 { x } else { (x * scale)? })
}

impl Decoder {
    /// What attention adds to `x`, before any norm of it.
    fn attend(&self, layer: &Layer, x: &Tensor, layout: &Layout, past: Option<&mut LayerPast>) -> Result<Tensor> {
        let [q, k, v] = layer.queries_keys_values(&self.plan, x)?;
        let rotary: Arc<Rotary> = match layer.kind.rotary {
            Some(rotary) => self.rotaries[rotary].of_length(layout.longest()),
            None => Arc::default(),
        };
        let attention = Attention { heads: layer.heads, layout, rotary };
        let mixed = match past {
            Some(past) => attention.forward_after(&q, &k, &v, past)?,
            None => attention.forward(&q, &k, &v)?,
        };
        layer.output.forward(&mixed)
    }
}

impl Model for Decoder {
    fn interface(&self) -> &Interface {
        &self.plan.interface
    }

    fn layers(&self) -> usize {
        self.layers.len()
    }

    fn stage(&self, name: &str) -> Stage {
        Architecture::stage(&self.plan, name)
    }

    fn keeps_past(&self, length: usize, grown: usize) -> bool {
        self.rotaries.iter().all(|rotary| rotary.keeps_past(length, grown))
    }

    fn embed(&self, tokens: &Tensor, layout: &Layout) -> Result<Tensor> {
        let x = scaled(self.embedding.forward(tokens)?, self.plan.embedding.scale)?;
        let x = match &self.inward {
            Some(inward) => inward.forward(&x)?,
            None => x,
        };
        let Some((positions, first)) = &self.positions else { return Ok(x) };
        let rows: Vec<u32> = layout.positions().map(|position| (position + first) as u32).collect();
        let count = rows.len();
        Ok(add(x, &positions.forward(&device::tensor(rows, count)?)?)?)
    }

    fn layer_after(&self, index: usize, x: Tensor, layout: &Layout, past: Option<&mut LayerPast>) -> Result<Tensor> {
        let (layer, scale) = (&self.layers[index], self.plan.residual_scale);
        if self.plan.residual == Residual::NormedSum {
            let attended = self.attend(layer, &x, layout, past)?;
            let x = normed(layer.after_attention.as_ref(), add(x, &attended)?)?;
            let inner = layer.mlp(&self.plan, &x)?;
            return normed(layer.after_mlp.as_ref(), add(x, &inner)?);
        }
        let before = |norm: &Option<Norm>, x: &Tensor| -> Result<Tensor> {
            Ok(match norm {
                Some(norm) => norm.forward(x)?,
                None => x.clone(),
            })
        };
        let attended = self.attend(layer, &before(&layer.before_attention, &x)?, layout, past)?;
        let attended = scaled(normed(layer.after_attention.as_ref(), attended)?, scale)?;
        if self.plan.residual == Residual::Parallel {
            let inner = layer.mlp(&self.plan, &before(&layer.before_mlp, &x)?)?;
            return Ok(add(add(x, &attended)?, &scaled(inner, scale)?)?);
        }
        let x = add(x, &attended)?;
        let inner = layer.mlp(&self.plan, &before(&layer.before_mlp, &x)?)?;
        let inner = scaled(normed(layer.after_mlp.as_ref(), inner)?, scale)?;
        Ok(add(x, &inner)?)
    }

    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        let x = match &self.norm {
            Some(norm) => norm.forward(x)?,
            None => x.clone(),
        };
        match &self.outward {
            Some(outward) => outward.forward(&x),
            None => Ok(x),
        }
    }

    fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        let logits = scaled(self.head.forward(rows)?, self.plan.head.scale)?;
        Ok(match self.plan.head.cap {
            Some(cap) => soft_cap(logits, cap)?,
            None => logits,
        })
    }
}
