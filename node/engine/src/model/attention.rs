//! Causal grouped-query attention with rotary embeddings, fused: no T × T matrix, no repeated keys, no rotated copies
//! of queries.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::Arc;

use super::{
    rotary::Rotary,
    vector::{LANES, VectorLoop, dispatch, exponential, larger, multiply_add},
};
use crate::device::slice;

/// Query positions per parallel task: whole groups of [`LANES`], the queries that one vector holds.
const TASK_ROWS: usize = 2 * LANES;
/// Positions whose scores are computed together.
const TILE: usize = 4;

/// Attention of T positions to themselves and earlier ones, `softmax(rotate(q) · rotate(k)ᵀ / √head_dim) · v`.
///
/// Shapes: `q` [B, T, heads · head_dim], `k` and `v` [B, T, kv_heads · head_dim]; the result is like `q`. Query head h
/// attends with key head h / (heads / kv_heads). Rotation pairs element i with i + head_dim / 2, as in Hugging Face.
pub struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rotary: Arc<Rotary>,
}

impl Attention {
    /// Applies it. Forward only.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        q.apply_op3_no_bwd(k, v, self)
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (batch, length, width) = ql.shape().dims3()?;
        let kv_width = self.kv_heads * self.head_dim;
        let fits = width == self.heads * self.head_dim
            && kl.dims() == [batch, length, kv_width]
            && vl.dims() == [batch, length, kv_width]
            && self.rotary.cos.len() == length * (self.head_dim / 2)
            && self.rotary.sin.len() == self.rotary.cos.len()
            && self.head_dim >= 2
            && self.head_dim.is_multiple_of(2)
            && self.kv_heads > 0
            && self.heads.is_multiple_of(self.kv_heads)
            && batch * length > 0;
        if !fits {
            bail!("attention of {:?}, {:?}, {:?}", ql.dims(), kl.dims(), vl.dims());
        }
        let (q, k, v) = (slice(q, ql)?, slice(k, kl)?, slice(v, vl)?);
        let head_keys = length.next_multiple_of(TILE) * self.head_dim;
        let mut keys = vec![0f32; batch * self.kv_heads * head_keys];
        keys.par_chunks_mut(head_keys).enumerate().for_each(|(index, out)| {
            let (element, head) = (index / self.kv_heads, index % self.kv_heads);
            let k = &k[element * length * kv_width..][..length * kv_width];
            dispatch(RotateKeys { attention: self, k, head, out });
        });
        let mut out = vec![0f32; q.len()];
        out.par_chunks_mut(length * width)
            .enumerate()
            .flat_map(|(element, rows)| {
                let tasks = rows.par_chunks_mut(TASK_ROWS * width).enumerate();
                tasks.map(move |(task, rows)| (element, task * TASK_ROWS, rows))
            })
            .for_each(|(element, first, out)| {
                let q = &q[(element * length + first) * width..][..out.len()];
                let keys = &keys[element * self.kv_heads * head_keys..][..self.kv_heads * head_keys];
                let v = &v[element * length * kv_width..][..length * kv_width];
                dispatch(Rows { attention: self, q, keys, v, first, out });
            });
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

/// Rotates the keys of one head and lays them out [tile][dimension][key in tile]. Keys past the end stay zero.
struct RotateKeys<'a> {
    attention: &'a Attention,
    k: &'a [f32],
    head: usize,
    out: &'a mut [f32],
}

impl VectorLoop for RotateKeys<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let &Attention { kv_heads, head_dim, .. } = self.attention;
        for (position, row) in self.k.chunks_exact(kv_heads * head_dim).enumerate() {
            let (a, b) = row[self.head * head_dim..][..head_dim].split_at(head_dim / 2);
            let tile = self.out[position / TILE * TILE * head_dim..].as_chunks_mut::<TILE>().0;
            let (tile_a, tile_b) = tile[..head_dim].split_at_mut(head_dim / 2);
            let (cos, sin) = self.attention.rotary.at(position, head_dim / 2);
            for i in 0..cos.len() {
                tile_a[i][position % TILE] = a[i] * cos[i] - b[i] * sin[i];
                tile_b[i][position % TILE] = b[i] * cos[i] + a[i] * sin[i];
            }
        }
    }
}

/// The attention of up to [`TASK_ROWS`] consecutive positions, from position `first` on, all heads. Each lane of a
/// vector is a query: its maximum and its sum are then sums of vectors, never sums within one.
struct Rows<'a> {
    attention: &'a Attention,
    q: &'a [f32],
    keys: &'a [f32],
    v: &'a [f32],
    first: usize,
    out: &'a mut [f32],
}

/// One value for each of [`LANES`] queries.
type Lanes = [f32; LANES];

impl VectorLoop for Rows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let &Attention { heads, kv_heads, head_dim, .. } = self.attention;
        let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let head_keys = self.keys.len() / kv_heads;
        let mut queries = vec![[0f32; LANES]; head_dim];
        let mut scores = vec![[0f32; LANES]; head_keys / head_dim];
        let groups = self.out.chunks_mut(LANES * width).zip(self.q.chunks(LANES * width));
        for (first, (out, q)) in (self.first..).step_by(LANES).zip(groups) {
            let positions = first + out.len() / width;
            for head in 0..heads {
                let kv_head = head / (heads / kv_heads);
                self.attention.rotate_queries(q, head, first, &mut queries);
                let keys = &self.keys[kv_head * head_keys..][..positions.next_multiple_of(TILE) * head_dim];
                products::<FMA>(&queries, keys, &mut scores);
                let scores = &mut scores[..positions];
                let scale = softmax_numerators::<FMA>(scores, first).map(|sum| 1.0 / sum);
                let mut from = 0;
                while from < head_dim {
                    let v = &self.v[kv_head * head_dim + from..];
                    let out = &mut out[head * head_dim + from..];
                    from += match head_dim - from {
                        4.. => mix::<FMA, 4>(scores, &scale, v, kv_width, out, width),
                        _ => mix::<FMA, 2>(scores, &scale, v, kv_width, out, width),
                    };
                }
            }
        }
    }
}

impl Attention {
    /// Rotated and scaled queries of one head, one per lane, [head_dim]. Lanes past the end keep older, finite or
    /// unused, values.
    #[inline(always)]
    fn rotate_queries(&self, q: &[f32], head: usize, first: usize, out: &mut [Lanes]) {
        let half = self.head_dim / 2;
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let (out_a, out_b) = out.split_at_mut(half);
        for (lane, row) in q.chunks_exact(self.heads * self.head_dim).enumerate().take(LANES) {
            let (a, b) = row[head * self.head_dim..][..self.head_dim].split_at(half);
            let (cos, sin) = self.rotary.at(first + lane, half);
            for i in 0..half {
                out_a[i][lane] = (a[i] * cos[i] - b[i] * sin[i]) * scale;
                out_b[i][lane] = (b[i] * cos[i] + a[i] * sin[i]) * scale;
            }
        }
    }
}

/// Dot products of the queries with whole tiles of keys.
#[inline(always)]
fn products<const FMA: bool>(queries: &[Lanes], keys: &[f32], scores: &mut [Lanes]) {
    let tiles = keys.chunks_exact(TILE * queries.len()).zip(scores.as_chunks_mut::<TILE>().0);
    for (keys, scores) in tiles {
        let mut sums = [[0f32; LANES]; TILE];
        for (query, keys) in queries.iter().zip(keys.as_chunks::<TILE>().0) {
            for key in 0..TILE {
                sums[key] = accumulate::<FMA>(sums[key], keys[key], query);
            }
        }
        *scores = sums;
    }
}

/// `sums + factor · values`. By value, so that the sums stay in registers.
#[inline(always)]
fn accumulate<const FMA: bool>(sums: Lanes, factor: f32, values: &Lanes) -> Lanes {
    std::array::from_fn(|lane| multiply_add::<FMA>(factor, values[lane], sums[lane]))
}

/// Replaces scores by exp(score − max), those of positions after the query (position `first` + lane) by zero; returns
/// the sums.
#[inline(always)]
fn softmax_numerators<const FMA: bool>(scores: &mut [Lanes], first: usize) -> Lanes {
    let blank = |own: &mut [Lanes], value: f32| {
        for (offset, scores) in own.iter_mut().enumerate() {
            scores[..offset].fill(value);
        }
    };
    blank(&mut scores[first..], f32::NEG_INFINITY);
    let mut max = [f32::NEG_INFINITY; LANES];
    for scores in scores.iter() {
        for lane in 0..LANES {
            max[lane] = larger(scores[lane], max[lane]);
        }
    }
    // What was blanked adds e^-87, which is nothing next to the 1 of the largest score.
    let mut sums = [0f32; LANES];
    for scores in scores.iter_mut() {
        for lane in 0..LANES {
            scores[lane] = exponential::<FMA>(scores[lane] - max[lane]);
            sums[lane] += scores[lane];
        }
    }
    blank(&mut scores[first..], 0.0);
    sums
}

/// `out[query][..W] = scale[query] · Σ_position scores[position][query] · v[position][..W]`, for as many queries as
/// `out` has rows. Strides are `width` and `v_width`. Returns W.
#[inline(always)]
fn mix<const FMA: bool, const W: usize>(
    scores: &[Lanes],
    scale: &Lanes,
    v: &[f32],
    v_width: usize,
    out: &mut [f32],
    width: usize,
) -> usize {
    let mut sums = [[0f32; LANES]; W];
    for (scores, value) in scores.iter().zip(v.chunks(v_width)) {
        let Some(value) = value.first_chunk::<W>() else { break };
        for d in 0..W {
            sums[d] = accumulate::<FMA>(sums[d], value[d], scores);
        }
    }
    // A copy by loops of constant length: an index that is not constant would push the sums out of the registers.
    let mut mixed = [[0f32; LANES]; W];
    for d in 0..W {
        mixed[d] = std::array::from_fn(|lane| sums[d][lane] * scale[lane]);
    }
    for (lane, out) in out.chunks_mut(width).enumerate().take(LANES) {
        if let Some(out) = out.first_chunk_mut::<W>() {
            *out = std::array::from_fn(|d| mixed[d][lane]);
        }
    }
    W
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{D, Device};

    fn plain(attention: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let (batch, length, _) = q.dims3()?;
        let half = attention.head_dim / 2;
        let table = |values: &[f32]| Tensor::from_slice(values, (length, half), &Device::Cpu);
        let (cos, sin) = (table(&attention.rotary.cos)?, table(&attention.rotary.sin)?);
        let heads = |x: &Tensor, heads: usize| {
            x.reshape((batch, length, heads, attention.head_dim))?.transpose(1, 2)?.contiguous()
        };
        let group = attention.heads / attention.kv_heads;
        let repeat = |x: Tensor| {
            let x = x.unsqueeze(2)?.broadcast_as((batch, attention.kv_heads, group, length, attention.head_dim))?;
            x.reshape((batch, attention.heads, length, attention.head_dim))
        };
        let q = candle_nn::rotary_emb::rope_slow(&heads(q, attention.heads)?, &cos, &sin)?;
        let k = repeat(candle_nn::rotary_emb::rope_slow(&heads(k, attention.kv_heads)?, &cos, &sin)?)?;
        let v = repeat(heads(v, attention.kv_heads)?)?;
        let scores = (q.matmul(&k.t()?)? / (attention.head_dim as f64).sqrt())?;
        let mask: Vec<f32> =
            (0..length * length).map(|i| if i % length > i / length { f32::NEG_INFINITY } else { 0.0 }).collect();
        let scores = scores.broadcast_add(&Tensor::from_vec(mask, (length, length), &Device::Cpu)?)?;
        candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?.transpose(1, 2)?.flatten_from(2)
    }

    #[test]
    fn fused_attention_agrees_with_the_plain_formula() {
        let cases = [(1, 1, 1, 1, 2), (2, 37, 8, 4, 8), (3, 16, 6, 2, 22), (1, 130, 4, 4, 64), (2, 5, 3, 1, 26)];
        for (batch, length, heads, kv_heads, head_dim) in cases {
            let angles: Vec<f32> = (0..length * head_dim / 2).map(|i| i as f32 * 0.37).collect();
            let rotary =
                Rotary { cos: angles.iter().map(|a| a.cos()).collect(), sin: angles.iter().map(|a| a.sin()).collect() };
            let attention = Attention { heads, kv_heads, head_dim, rotary: rotary.into() };
            let random = |heads: usize| Tensor::randn(0f32, 1.5, (batch, length, heads * head_dim), &Device::Cpu);
            let (q, k, v) = (random(heads).unwrap(), random(kv_heads).unwrap(), random(kv_heads).unwrap());
            let difference = (attention.forward(&q, &k, &v).unwrap() - plain(&attention, &q, &k, &v).unwrap()).unwrap();
            let difference = difference.abs().unwrap().flatten_all().unwrap().max(0).unwrap();
            let difference = difference.to_scalar::<f32>().unwrap();
            assert!(difference < 2e-5, "{batch} x {length}, {heads}/{kv_heads} x {head_dim}: {difference}");
        }
    }

    #[test]
    fn attention_refuses_shapes_that_do_not_fit() {
        let rotary = Rotary { cos: vec![1.0; 12], sin: vec![0.0; 12] };
        let attention = Attention { heads: 2, kv_heads: 1, head_dim: 8, rotary: rotary.into() };
        let zeros = |shape: (usize, usize, usize)| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        let (q, k) = (zeros((1, 3, 16)), zeros((1, 3, 8)));
        assert!(attention.forward(&q, &k, &k).is_ok());
        assert!(attention.forward(&q, &q, &k).is_err());
        assert!(attention.forward(&zeros((1, 4, 16)), &zeros((1, 4, 8)), &zeros((1, 4, 8))).is_err());
        assert!(attention.forward(&q, &k, &zeros((1, 2, 8))).is_err());
    }
}
