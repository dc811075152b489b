//! The backward pass: from a loss to the gradients of all weights, in about twice the memory of inference.
//!
//! One forward keeps the hidden states before each layer. Then stage by stage, from the head to the embedding, a
//! stage's forward is done again, with a graph, and the backward pass goes through it: what lives at a time is one
//! layer's activations and its weights' gradients. A stage's gradients are handed out as soon as they are complete, so
//! that no second copy of the weights ever exists. That of an embedding stays until the end: a head may share the
//! weight.

use anyhow::{Context, Result, ensure};
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor, TensorId, Var};
use std::collections::HashSet;

use super::{
    Batch, Model,
    cross_entropy::{by_position, logit_gradients, losses_of_hidden, order_by_position},
    gradients::{Collector, Gradient},
};
use crate::device;

/// Bound on the logits that exist at once, bytes (one row, if a row is larger); their gradients take as much again.
/// More than without gradients: with every chunk of rows the head's whole gradient is gone over.
const LOGITS_BYTES_MAX: usize = 64 << 20;

/// Who takes the gradients.
type HandOut<'a> = dyn FnMut(Vec<Gradient>) -> Result<()> + 'a;

/// Hands out the gradients of `Σ weights · loss` over the targets of `batch` to `wanted`, clones of which `model`
/// computes with: some at a time, each weight once. It goes no further down than to the lowest of them. Returns the
/// targets' losses, −log p, nats, from which `weigh` computed the weights.
///
/// No weight may change before it returns. Errors as [`super::token_losses`] does, and if the model uses a wanted
/// weight in a way that records no gradient.
pub fn backward(
    model: &dyn Model,
    batch: &Batch,
    weigh: &dyn Fn(&[f64]) -> Vec<f64>,
    wanted: &[Tensor],
    hand_out: &mut HandOut<'_>,
) -> Result<Vec<f64>> {
    let Batch { tokens, layout, targets, .. } = batch;
    ensure!(!targets.is_empty(), "the batch predicts nothing: it has no targets");
    model.check(tokens, layout)?;
    let mut stages =
        Stages { collector: Collector::open(wanted)?, missing: wanted.iter().map(Tensor::id).collect(), hand_out };
    let embedded = model.embed(tokens, layout)?;
    let mut inputs = Vec::with_capacity(model.layers());
    let mut x = embedded.detach().copy()?;
    for index in 0..model.layers() {
        inputs.push(x.copy()?);
        x = model.layer(index, x, layout)?;
    }
    let (losses, mut gradient) = head_backward(model, x, batch, weigh, &mut stages)?;
    for index in (0..model.layers()).rev() {
        // No two layers share a weight, and an embedding's gradient is missing until the end: nothing below matters.
        if stages.missing.is_empty() {
            return Ok(losses);
        }
        let input = Var::from_tensor(&inputs.pop().context("a hidden state for each layer")?)?;
        let output = model.layer(index, input.as_tensor().clone(), layout)?;
        gradient = through(&output, gradient, &input)?;
        drop(output);
        stages.end(false)?;
    }
    if embedded.track_op() {
        embedded.apply_op1(Seed(gradient))?.backward()?;
    }
    stages.end(true)?;
    let missing = stages.missing.len();
    ensure!(missing == 0, "the model uses {missing} of its weights in a way that records no gradient");
    Ok(losses)
}

/// What comes out, stage by stage.
struct Stages<'a> {
    collector: Collector,
    /// Weights of which no gradient has come.
    missing: HashSet<TensorId>,
    hand_out: &'a mut HandOut<'a>,
}

impl Stages<'_> {
    /// A stage's backward pass is through.
    fn end(&mut self, embeddings_too: bool) -> Result<()> {
        let gradients = self.collector.take(embeddings_too);
        for (id, _) in &gradients {
            self.missing.remove(id);
        }
        (self.hand_out)(gradients)
    }
}

/// The targets' losses, and the gradient to the hidden states `x` after the last layer.
fn head_backward(
    model: &dyn Model,
    x: Tensor,
    batch: &Batch,
    weigh: &dyn Fn(&[f64]) -> Vec<f64>,
    stages: &mut Stages<'_>,
) -> Result<(Vec<f64>, Tensor)> {
    let targets = &batch.targets;
    let input = Var::from_tensor(&x)?;
    drop(x);
    let normed = model.norm(input.as_tensor())?;
    let losses = losses_of_hidden(model, &normed.detach(), targets)?;
    let weights = weigh(&losses);
    let order = order_by_position(targets);
    let by_position = by_position(&order, targets);
    let positions: Vec<u32> = by_position.iter().map(|same| targets[same[0]].position).collect();
    let normed = normed.index_select(&device::tensor(positions, by_position.len())?, 0)?;
    let rows_max = (LOGITS_BYTES_MAX / (model.interface().vocabulary * size_of::<f32>())).max(1);
    let mut gradients = Vec::new();
    for (chunk, by_position) in by_position.chunks(rows_max).enumerate() {
        let rows = Var::from_tensor(&normed.detach().narrow(0, chunk * rows_max, by_position.len())?)?;
        let logits = model.logits(rows.as_tensor())?;
        let gradient = logit_gradients(&logits, by_position, targets, &weights)?;
        gradients.push(through(&logits, gradient, &rows)?);
    }
    stages.end(false)?;
    let gradient = through(&normed, Tensor::cat(&gradients, 0)?, &input)?;
    stages.end(false)?;
    Ok((losses, gradient))
}

/// The gradient of `input`, given that of `output`, which was computed from it with a graph.
fn through(output: &Tensor, gradient: Tensor, input: &Var) -> Result<Tensor> {
    let mut gradients = output.apply_op1(Seed(gradient))?.backward()?;
    gradients.remove(input).context("the model's output does not depend on its input")
}

/// A number whose gradient to its argument is given: where a backward pass starts.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, _: &Tensor) -> candle_core::Result<Option<Tensor>> {
        self.0.reshape(x.shape()).map(Some)
    }
}
