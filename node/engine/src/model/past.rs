//! What earlier tokens of a row left for later ones: rotated keys, and values, of every layer.
//!
//! Attention to them is spelled out one query at a time, which is what generation asks for, and what the fused way is
//! compared with.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

use super::{
    queries::Heads,
    rotary::Rotary,
    vector::{VectorLoop, dispatch, dot, exponential, multiply_add},
};
use crate::device;

/// Products of queries and keys below which another thread costs more than it saves.
const TASK_PRODUCTS: usize = 1 << 15;

/// What the tokens of one row left so far.
#[derive(Default)]
pub struct Past {
    /// One a layer.
    pub layers: Vec<LayerPast>,
    /// Number of tokens.
    pub length: usize,
}

impl Past {
    /// Of no tokens, for a model of so many layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: (0..layers).map(|_| LayerPast::default()).collect(), length: 0 }
    }
}

/// Of one layer: for each key head, [tokens, size].
#[derive(Default)]
pub struct LayerPast {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
}

impl LayerPast {
    /// Whether no token has left anything.
    pub fn is_empty(&self) -> bool {
        self.keys.first().is_none_or(Vec::is_empty)
    }

    /// Number of tokens.
    fn length(&self, heads: Heads) -> usize {
        self.keys.first().map_or(0, |keys| keys.len() / heads.size)
    }

    /// Appends keys, which are turned first, and values of the tokens that follow, [N, key heads · size].
    pub fn append(&mut self, heads: Heads, rotary: &Rotary, k: &Tensor, v: &Tensor) -> Result<()> {
        let Heads { keys, size, .. } = heads;
        self.keys.resize_with(keys, Vec::new);
        self.values.resize_with(keys, Vec::new);
        let first = self.length(heads);
        if k.dims() != v.dims() || k.dim(1)? != keys * size || !rotary.reaches(first + k.dim(0)?) {
            bail!("keys {:?} and values {:?} behind {first} tokens", k.dims(), v.dims());
        }
        device::read_all([k, v], |[k, v]| {
            for (token, (k, v)) in k.chunks_exact(keys * size).zip(v.chunks_exact(keys * size)).enumerate() {
                for (head, (k, v)) in k.chunks_exact(size).zip(v.chunks_exact(size)).enumerate() {
                    let own = &mut self.keys[head];
                    own.extend(k);
                    let start = own.len() - size;
                    turn(&mut own[start..], rotary, first + token);
                    self.values[head].extend(v);
                }
            }
        })
    }

    /// Attention of the last tokens, whose queries are `q` [N, query heads · size], to all up to themselves.
    pub fn attend(&self, heads: Heads, rotary: &Rotary, q: &Tensor) -> Result<Tensor> {
        let Heads { queries, keys, size, window, .. } = heads;
        let (tokens, width) = q.dims2()?;
        let length = self.length(heads);
        if width != queries * size || tokens > length {
            bail!("queries {:?} of {length} tokens", q.dims());
        }
        let mut out = vec![0f32; tokens * width];
        device::read_all([q], |[q]| {
            let one = |(index, (out, q)): (usize, (&mut [f32], &[f32]))| {
                let position = length - tokens + index / queries;
                let head = index % queries / (queries / keys);
                let from = window.map_or(0, |window| (position + 1).saturating_sub(window));
                let range = from * size..(position + 1) * size;
                let (keys, values) = (&self.keys[head][range.clone()], &self.values[head][range]);
                dispatch(OneQuery { heads, rotary, position, q, keys, values, out });
            };
            let products = tokens * width * length;
            match products < TASK_PRODUCTS {
                true => out.chunks_exact_mut(size).zip(q.chunks_exact(size)).enumerate().for_each(one),
                false => out.par_chunks_exact_mut(size).zip(q.par_chunks_exact(size)).enumerate().for_each(one),
            }
        })?;
        Tensor::from_vec(out, q.shape(), q.device())
    }
}

/// Turns a head's elements by the angles of a position.
fn turn(row: &mut [f32], rotary: &Rotary, position: usize) {
    let (cos, sin) = rotary.at(position);
    let (a, b) = row[..2 * cos.len()].split_at_mut(cos.len());
    for i in 0..cos.len() {
        (a[i], b[i]) = (a[i] * cos[i] - b[i] * sin[i], b[i] * cos[i] + a[i] * sin[i]);
    }
}

/// The attention of one query of one head to keys and values, [tokens, size].
struct OneQuery<'a> {
    heads: Heads,
    rotary: &'a Rotary,
    position: usize,
    q: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    out: &'a mut [f32],
}

impl VectorLoop for OneQuery<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Heads { size, scale, cap, .. } = self.heads;
        let mut query = self.q.to_vec();
        turn(&mut query, self.rotary, self.position);
        query.iter_mut().for_each(|q| *q *= scale);
        let mut scores: Vec<f32> = self.keys.chunks_exact(size).map(|key| dot::<FMA>(&query, key)).collect();
        if let Some(cap) = cap {
            scores.iter_mut().for_each(|score| *score = cap * (*score / cap).tanh());
        }
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0;
        for score in &mut scores {
            *score = exponential::<FMA>(*score - largest);
            sum += *score;
        }
        for (score, value) in scores.iter().zip(self.values.chunks_exact(size)) {
            for (out, value) in self.out.iter_mut().zip(value) {
                *out = multiply_add::<FMA>(*score, *value, *out);
            }
        }
        self.out.iter_mut().for_each(|out| *out /= sum);
    }
}
