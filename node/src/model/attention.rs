//! Causal grouped-query attention with rotary embeddings, fused: no T × T matrix, no repeated keys, no rotated copies of queries.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::operations::slice;
use super::vector::{Kernel, LANES, dispatch, exponential, multiply_add};

/// Query positions that share each load of a key and a value.
const ROWS: usize = 4;
/// Query positions per parallel task.
const TASK_ROWS: usize = 32;

/// cos and sin of position × frequency, [T, head_dim / 2] each, row-major.
pub struct Rotary {
    pub cos: Vec<f32>,
    pub sin: Vec<f32>,
}

/// Attention of T positions to themselves and earlier ones, `softmax(rotate(q) · rotate(k)ᵀ / √head_dim) · v`.
///
/// Shapes: `q` [B, T, heads · head_dim], `k` and `v` [B, T, kv_heads · head_dim]; the result is like `q`. Query head h
/// attends with key head h / (heads / kv_heads). Rotation pairs element i with i + head_dim / 2, as in Hugging Face.
pub struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub rotary: Rotary,
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
        let blocks = length.div_ceil(LANES);
        let mut keys = vec![0f32; batch * self.kv_heads * blocks * self.head_dim * LANES];
        keys.par_chunks_mut(blocks * self.head_dim * LANES).enumerate().for_each(|(index, out)| {
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
                let keys = &keys[element * self.kv_heads * blocks * self.head_dim * LANES..];
                let v = &v[element * length * kv_width..][..length * kv_width];
                dispatch(Rows { attention: self, q, keys, v, first, blocks, out });
            });
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

/// Rotates the keys of one head and lays them out [block][dimension][key in block], so that one load takes the same
/// dimension of 16 keys. Keys past the end stay zero.
struct RotateKeys<'a> {
    attention: &'a Attention,
    k: &'a [f32],
    head: usize,
    out: &'a mut [f32],
}

impl Kernel for RotateKeys<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Attention { kv_heads, head_dim, rotary, .. } = self.attention;
        let half = head_dim / 2;
        for (position, row) in self.k.chunks_exact(kv_heads * head_dim).enumerate() {
            let key = &row[self.head * head_dim..][..*head_dim];
            let block = &mut self.out[position / LANES * head_dim * LANES..][..head_dim * LANES];
            let (cos, sin) = (&rotary.cos[position * half..][..half], &rotary.sin[position * half..][..half]);
            for i in 0..half {
                let (a, b) = (key[i], key[i + half]);
                block[i * LANES + position % LANES] = a * cos[i] - b * sin[i];
                block[(i + half) * LANES + position % LANES] = b * cos[i] + a * sin[i];
            }
        }
    }
}

/// The attention of up to [`TASK_ROWS`] consecutive positions, from position `first` on, all heads.
struct Rows<'a> {
    attention: &'a Attention,
    q: &'a [f32],
    keys: &'a [f32],
    v: &'a [f32],
    first: usize,
    blocks: usize,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Attention { heads, kv_heads, head_dim, .. } = *self.attention;
        let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let mut queries = vec![0f32; ROWS * head_dim];
        let mut scores = vec![0f32; ROWS * self.blocks * LANES];
        let mut scale = [0f32; ROWS];
        let groups = self.out.chunks_mut(ROWS * width).zip(self.q.chunks(ROWS * width));
        for (first, (out, q)) in (self.first..).step_by(ROWS).zip(groups) {
            let rows = out.len() / width;
            let last = first + rows - 1;
            for head in 0..heads {
                let kv_head = head / (heads / kv_heads);
                self.attention.rotate_queries(q, head, first, &mut queries);
                let keys = &self.keys[kv_head * self.blocks * head_dim * LANES..];
                products::<FMA>(&queries, head_dim, &keys[..(last / LANES + 1) * head_dim * LANES], &mut scores);
                for (row, scores) in scores.chunks_exact_mut(self.blocks * LANES).take(rows).enumerate() {
                    scale[row] =
                        1.0 / softmax_numerators::<FMA>(&mut scores[..(last / LANES + 1) * LANES], first + row);
                }
                let v = &self.v[kv_head * head_dim..];
                let mut from = 0;
                while from < head_dim {
                    let out = &mut out[head * head_dim + from..];
                    let v = &v[from..];
                    from += match head_dim - from {
                        16.. => mix::<FMA, 16>(&scores, &scale, v, kv_width, last + 1, out, width),
                        8.. => mix::<FMA, 8>(&scores, &scale, v, kv_width, last + 1, out, width),
                        _ => mix::<FMA, 2>(&scores, &scale, v, kv_width, last + 1, out, width),
                    };
                }
            }
        }
    }
}

impl Attention {
    /// Rotated and scaled queries of one head, [ROWS, head_dim]. Rows past the end keep older, finite or unused, values.
    #[inline(always)]
    fn rotate_queries(&self, q: &[f32], head: usize, first: usize, out: &mut [f32]) {
        let half = self.head_dim / 2;
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let rows = q.chunks_exact(self.heads * self.head_dim).zip(out.chunks_exact_mut(self.head_dim));
        for (position, (q, out)) in (first..).zip(rows) {
            let (a, b) = q[head * self.head_dim..][..self.head_dim].split_at(half);
            let (out_a, out_b) = out.split_at_mut(half);
            let (cos, sin) = (&self.rotary.cos[position * half..][..half], &self.rotary.sin[position * half..][..half]);
            for i in 0..half {
                out_a[i] = (a[i] * cos[i] - b[i] * sin[i]) * scale;
                out_b[i] = (b[i] * cos[i] + a[i] * sin[i]) * scale;
            }
        }
    }
}

/// Dot products of ROWS queries with whole blocks of keys; `scores` is [ROWS, capacity].
#[inline(always)]
fn products<const FMA: bool>(queries: &[f32], head_dim: usize, keys: &[f32], scores: &mut [f32]) {
    let capacity = scores.len() / ROWS;
    for (block, keys) in keys.chunks_exact(head_dim * LANES).enumerate() {
        let mut sums = [[0f32; LANES]; ROWS];
        for (d, key) in keys.as_chunks::<LANES>().0.iter().enumerate() {
            for (row, sums) in sums.iter_mut().enumerate() {
                *sums = accumulate::<FMA, LANES>(*sums, queries[row * head_dim + d], key);
            }
        }
        for (row, sums) in sums.iter().enumerate() {
            scores[row * capacity + block * LANES..][..LANES].copy_from_slice(sums);
        }
    }
}

/// `sums + factor · values`. By value, so that the sums stay in registers.
#[inline(always)]
fn accumulate<const FMA: bool, const W: usize>(sums: [f32; W], factor: f32, values: &[f32; W]) -> [f32; W] {
    std::array::from_fn(|lane| multiply_add::<FMA>(factor, values[lane], sums[lane]))
}

/// Replaces scores up to position `last` by exp(score − max), later ones by zero; returns the sum.
#[inline(always)]
fn softmax_numerators<const FMA: bool>(scores: &mut [f32], last: usize) -> f32 {
    scores[last + 1..].fill(f32::NEG_INFINITY);
    let (chunks, _) = scores.as_chunks_mut::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks.iter() {
        for lane in 0..LANES {
            lanes[lane] = if chunk[lane] > lanes[lane] { chunk[lane] } else { lanes[lane] };
        }
    }
    let max = lanes.iter().fold(f32::NEG_INFINITY, |max, lane| max.max(*lane));
    for chunk in chunks.iter_mut() {
        for score in chunk {
            *score = exponential::<FMA>(*score - max);
        }
    }
    scores[last + 1..].fill(0.0);
    let mut sums = [0f32; LANES];
    for chunk in scores.as_chunks::<LANES>().0 {
        for lane in 0..LANES {
            sums[lane] += chunk[lane];
        }
    }
    sums.iter().sum()
}

/// `out[row][..W] = scale[row] · Σ_position scores[row][position] · v[position][..W]`, for as many rows as `out` has.
/// Strides are `width` and `v_width`. Returns W.
#[inline(always)]
fn mix<const FMA: bool, const W: usize>(
    scores: &[f32],
    scale: &[f32; ROWS],
    v: &[f32],
    v_width: usize,
    positions: usize,
    out: &mut [f32],
    width: usize,
) -> usize {
    let capacity = scores.len() / ROWS;
    let rows: [&[f32]; ROWS] = std::array::from_fn(|row| &scores[row * capacity..][..positions]);
    let mut sums = [[0f32; W]; ROWS];
    for position in 0..positions {
        let Some(value) = v[position * v_width..].first_chunk::<W>() else { break };
        for (sums, scores) in sums.iter_mut().zip(&rows) {
            *sums = accumulate::<FMA, W>(*sums, scores[position], value);
        }
    }
    // A loop of constant length: an index that is not constant would push the sums out of the registers.
    for row in 0..ROWS {
        let mixed: [f32; W] = std::array::from_fn(|lane| sums[row][lane] * scale[row]);
        if let Some(out) = out.get_mut(row * width..).and_then(|out| out.first_chunk_mut::<W>()) {
            *out = mixed;
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
            let attention = Attention { heads, kv_heads, head_dim, rotary };
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
        let attention = Attention { heads: 2, kv_heads: 1, head_dim: 8, rotary };
        let zeros = |shape: (usize, usize, usize)| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
        let (q, k) = (zeros((1, 3, 16)), zeros((1, 3, 8)));
        assert!(attention.forward(&q, &k, &k).is_ok());
        assert!(attention.forward(&q, &q, &k).is_err());
        assert!(attention.forward(&zeros((1, 4, 16)), &zeros((1, 4, 8)), &zeros((1, 4, 8))).is_err());
        assert!(attention.forward(&q, &k, &zeros((1, 2, 8))).is_err());
    }
}
