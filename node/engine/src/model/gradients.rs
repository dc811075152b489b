//! Gradients of the weights, while a backward pass runs on this thread.
//!
//! Weights are plain tensors, no variables: a graph over all of them would be as large as the activations of all
//! layers, and candle cannot make a variable that shares a tensor's storage. So the parts that hold weights (linear
//! layers, norms, embeddings) record themselves where their input is part of a graph, and hand in what their weights'
//! gradients are when the backward pass comes through them. A family of models has nothing to do with it.

use candle_core::{Result, Tensor, TensorId, Var, bail};
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
};

use crate::device;

/// A weight's id, and the gradient of the loss to it, in the weight's shape.
pub type Gradient = (TensorId, Tensor);

thread_local! {
    static OPEN: RefCell<Option<Collection>> = const { RefCell::new(None) };
}

struct Collection {
    /// Weights whose gradients are wanted.
    wanted: HashSet<TensorId>,
    /// Where embeddings hang in the graph: tokens are no part of it.
    root: Var,
    /// Embeddings that were recorded.
    embeddings: HashSet<TensorId>,
    gradients: HashMap<TensorId, Tensor>,
}

/// A collection of gradients that is open on this thread until it is dropped.
pub struct Collector(());

impl Collector {
    /// Opens a collection for `wanted`, clones of which the model computes with. Errors if one is open already.
    pub fn open(wanted: &[Tensor]) -> Result<Self> {
        let root = Var::zeros(1, candle_core::DType::F32, &candle_core::Device::Cpu)?;
        let wanted = wanted.iter().map(Tensor::id).collect();
        OPEN.with_borrow_mut(|open| {
            if open.is_some() {
                bail!("another backward pass is under way on this thread");
            }
            let (embeddings, gradients) = (HashSet::new(), HashMap::new());
            *open = Some(Collection { wanted, root, embeddings, gradients });
            Ok(Self(()))
        })
    }

    /// The gradients that are complete, in no particular order: all that were handed in, but those of embeddings only
    /// if `embeddings_too`, since a head that shares the weight hands in first.
    pub fn take(&self, embeddings_too: bool) -> Vec<Gradient> {
        with_open(|open| {
            let Collection { embeddings, gradients, .. } = open;
            gradients.extract_if(|id, _| embeddings_too || !embeddings.contains(id)).collect()
        })
        .unwrap_or_default()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        OPEN.set(None);
    }
}

fn with_open<T>(f: impl FnOnce(&mut Collection) -> T) -> Option<T> {
    OPEN.with_borrow_mut(|open| open.as_mut().map(f))
}

/// Whether somebody wants the gradient of `weight`.
pub fn is_wanted(weight: &Tensor) -> bool {
    with_open(|open| open.wanted.contains(&weight.id())).unwrap_or(false)
}

/// The root of the graph, where an embedding records itself. None while no gradients are collected, or if nobody wants
/// that of `embedding`.
pub fn root_for(embedding: &Tensor) -> Option<Tensor> {
    with_open(|open| {
        let is_wanted = open.wanted.contains(&embedding.id());
        is_wanted.then(|| {
            open.embeddings.insert(embedding.id());
            open.root.as_tensor().clone()
        })
    })
    .flatten()
}

/// Adds `gradient` to that of `weight`. It must be contiguous and have the weight's shape.
pub fn hand_in(weight: &Tensor, gradient: Tensor) -> Result<()> {
    let earlier = with_open(|open| open.gradients.get(&weight.id()).cloned()).flatten();
    match earlier {
        Some(sum) => super::operations::add_in_place(&sum, &gradient),
        None => {
            with_open(|open| open.gradients.insert(weight.id(), gradient));
            Ok(())
        }
    }
}

/// Adds to the gradient of `embedding` [V, H] what `rows` [N, H] add to those of its rows that `indices` name.
pub fn hand_in_rows(embedding: &Tensor, indices: &[u32], rows: &Tensor) -> anyhow::Result<()> {
    let earlier = with_open(|open| open.gradients.get(&embedding.id()).cloned()).flatten();
    let sum = match earlier {
        Some(sum) => sum,
        None => {
            let zeros = embedding.zeros_like()?;
            with_open(|open| open.gradients.insert(embedding.id(), zeros.clone()));
            zeros
        }
    };
    let width = embedding.dim(1)?;
    device::read(rows, |rows| {
        device::change(&sum, &|sum| {
            for (index, row) in indices.iter().zip(rows.chunks_exact(width)) {
                let own = &mut sum[*index as usize * width..][..width];
                own.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
            }
        })
    })?
}

/// What tests of recorded operations share.
#[cfg(test)]
pub mod testing {
    use super::*;
    use candle_core::Device;

    /// A variable of normal values of this deviation.
    pub fn variable(deviation: f32, shape: impl Into<candle_core::Shape>) -> Var {
        Var::randn(0f32, deviation, shape, &Device::Cpu).unwrap()
    }

    /// Gradients of `Σ output · weights` to `inputs`, for some fixed weights.
    pub fn gradients(output: &Tensor, inputs: &[&Var]) -> Vec<Tensor> {
        let weights: Vec<f32> = (0..output.elem_count()).map(|i| (i as f32 * 0.7).sin()).collect();
        let weights = Tensor::from_vec(weights, output.shape(), &Device::Cpu).unwrap();
        let mut store = (output * weights).unwrap().sum_all().unwrap().backward().unwrap();
        inputs.iter().map(|input| store.remove(input).expect("the output depends on its inputs")).collect()
    }

    /// Fails unless the two differ by at most `tolerance` of the largest value.
    pub fn assert_close(ours: &Tensor, expected: &Tensor, tolerance: f32) {
        let largest = |x: &Tensor| x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar::<f32>().unwrap();
        let difference = largest(&(ours - expected).unwrap());
        assert!(difference <= tolerance * largest(expected), "differ by {difference} of {}", largest(expected));
    }
}
