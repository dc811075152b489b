//! Causal grouped-query attention with rotary embeddings over packed rows, fused: no T × T matrix, no repeated keys, no
//! rotated copies of queries.

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use std::sync::Arc;

use super::{
    attention_backward,
    layout::{self, Span},
    past::LayerPast,
    queries::{Heads, Lanes, TILE, cap_scores, mix, products, softmax_numerators},
    rotary::Rotary,
    vector::{LANES, VectorLoop, dispatch},
};
use crate::device::slice;

/// Query positions per parallel task: whole groups of [`LANES`], the queries that one vector holds.
const TASK_ROWS: usize = 2 * LANES;

/// Attention of each token to what its [`Span`] says, `softmax(cap(rotate(q) · rotate(k)ᵀ · scale)) · v`.
///
/// Shapes, N tokens as `layout` packs them: `q` [N, query heads · size], `k` and `v` [N, key heads · size]; the result
/// is like `q`. Query head h attends with key head h / (query heads / key heads). Rotation is as [`Rotary`] has it.
pub struct Attention<'a> {
    pub heads: Heads,
    pub layout: &'a layout::Layout,
    /// Of all positions of `layout`, or more.
    pub rotary: Arc<Rotary>,
}

impl Attention<'_> {
    /// Applies it.
    pub fn forward(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        match q.track_op() || k.track_op() || v.track_op() {
            _ if !self.heads.size.is_multiple_of(2) => self.forward_padded(q, k, v),
            true => q.apply_op3(k, v, self.recorded()),
            false => q.apply_op3_no_bwd(k, v, self),
        }
    }

    /// The same of heads of an odd size, with an element more that is zero: the loops take two at once, at least.
    fn forward_padded(&self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
        let Heads { queries, keys, size, .. } = self.heads;
        let padded = |x: &Tensor, heads: usize| {
            let tokens = x.dim(0)?;
            x.reshape((tokens, heads, size))?.pad_with_zeros(2, 0, 1)?.reshape((tokens, heads * (size + 1)))
        };
        let heads = Heads { size: size + 1, ..self.heads };
        let even = Attention { heads, layout: self.layout, rotary: self.rotary.clone() };
        let mixed = even.forward(&padded(q, queries)?, &padded(k, keys)?, &padded(v, keys)?)?;
        let tokens = mixed.dim(0)?;
        mixed.reshape((tokens, queries, size + 1))?.narrow(2, 0, size)?.reshape((tokens, queries * size))
    }

    /// The same where `past` has what the row's earlier tokens left, and `layout` is one span that goes on behind them.
    /// Their own keys and values are appended.
    pub fn forward_after(&self, q: &Tensor, k: &Tensor, v: &Tensor, past: &mut LayerPast) -> Result<Tensor> {
        let is_first = past.is_empty();
        past.append(self.heads, &self.rotary, k, v)?;
        // The first tokens of a row are many: the fused way is quicker, and sees the same.
        if is_first { self.forward(q, k, v) } else { past.attend(self.heads, &self.rotary, q) }
    }

    fn recorded(&self) -> Recorded {
        Recorded { heads: self.heads, layout: self.layout.clone(), rotary: self.rotary.clone() }
    }

    /// Elements of the rotated keys of one head of `span`.
    fn head_keys(&self, span: &Span) -> usize {
        span.length.next_multiple_of(TILE) * self.heads.size
    }

    /// The rotated keys of all spans, each [kv_heads][tile][dimension][key in tile].
    fn rotated_keys(&self, k: &[f32]) -> Vec<f32> {
        let Heads { keys: kv_heads, size, .. } = self.heads;
        let kv_width = kv_heads * size;
        let spans = self.layout.spans();
        let mut keys = vec![0f32; kv_heads * spans.iter().map(|span| self.head_keys(span)).sum::<usize>()];
        let mut rest = &mut keys[..];
        let mut tasks = Vec::with_capacity(spans.len() * kv_heads);
        for span in spans {
            let k = &k[span.start * kv_width..][..span.length * kv_width];
            for head in 0..kv_heads {
                let out = rest.split_off_mut(..self.head_keys(span)).unwrap_or_default();
                tasks.push(RotateKeys { attention: self, k, head, position: span.position, out });
            }
        }
        tasks.into_par_iter().for_each(dispatch);
        keys
    }

    /// What each span's tokens see of their own span, in the order of the spans.
    fn contexts<'k>(&self, keys: &'k [f32], v: &'k [f32]) -> Vec<Context<'k>> {
        let Heads { keys: kv_heads, size, .. } = self.heads;
        let kv_width = kv_heads * size;
        let mut rest = keys;
        let contexts = self.layout.spans().iter().map(|span| {
            let (keys, after) = rest.split_at(kv_heads * self.head_keys(span));
            rest = after;
            Context { keys, v: &v[span.start * kv_width..][..span.length * kv_width], positions: span.length }
        });
        contexts.collect()
    }
}

impl CustomOp3 for Attention<'_> {
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
        let (tokens, width) = ql.shape().dims2()?;
        let Heads { queries, keys, size, .. } = self.heads;
        let kv_width = keys * size;
        let fits = width == queries * size
            && kl.dims() == [tokens, kv_width]
            && vl.dims() == [tokens, kv_width]
            && size >= 2
            && size.is_multiple_of(2)
            && 2 * self.rotary.pairs <= size
            && self.rotary.reaches(self.layout.longest())
            && keys > 0
            && queries.is_multiple_of(keys)
            && self.heads.window != Some(0)
            && self.layout.tokens() == tokens
            && tokens > 0;
        if !fits {
            bail!("attention of {:?}, {:?}, {:?}", ql.dims(), kl.dims(), vl.dims());
        }
        let (q, k, v) = (slice(q, ql)?, slice(k, kl)?, slice(v, vl)?);
        let keys = self.rotated_keys(k);
        let contexts = self.contexts(&keys, v);
        let mut out = vec![0f32; q.len()];
        let (mut q_rest, mut out_rest) = (q, &mut out[..]);
        let mut tasks = Vec::new();
        for (span, own) in self.layout.spans().iter().zip(&contexts) {
            let prefix = span.prefix.map_or(Context::default(), |prefix| contexts[prefix]);
            for first in (0..span.length).step_by(TASK_ROWS) {
                let elements = TASK_ROWS.min(span.length - first) * width;
                let q = q_rest.split_off(..elements).unwrap_or_default();
                let out = out_rest.split_off_mut(..elements).unwrap_or_default();
                tasks.push(Rows { attention: self, q, prefix, own: *own, first, out });
            }
        }
        tasks.into_par_iter().for_each(dispatch);
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

/// Attention in a graph, which outlives the caller's layout.
struct Recorded {
    heads: Heads,
    layout: layout::Layout,
    rotary: Arc<Rotary>,
}

impl CustomOp3 for Recorded {
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
        let &Self { heads, ref layout, ref rotary } = self;
        Attention { heads, layout, rotary: rotary.clone() }.cpu_fwd(q, ql, k, kl, v, vl)
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [q, k, v] = attention_backward::backward(self.heads, &self.layout, &self.rotary, [q, k, v], gradient)?;
        Ok((Some(q), Some(k), Some(v)))
    }
}

/// Keys and values that queries attend to.
#[derive(Clone, Copy, Default)]
struct Context<'a> {
    /// Rotated, [kv_heads][tile][dimension][key in tile]; keys past the end are zero.
    keys: &'a [f32],
    /// [positions, kv_heads · head_dim].
    v: &'a [f32],
    positions: usize,
}

impl<'a> Context<'a> {
    /// The values from element `offset` of the first one on; none where there are no positions.
    #[inline(always)]
    fn values_from(self, offset: usize) -> &'a [f32] {
        self.v.get(offset..).unwrap_or_default()
    }
}

/// Rotates the keys of one head of a span whose first token is at `position`, and lays them out
/// [tile][dimension][key in tile]. Keys past the end stay zero.
struct RotateKeys<'a> {
    attention: &'a Attention<'a>,
    k: &'a [f32],
    head: usize,
    position: usize,
    out: &'a mut [f32],
}

impl VectorLoop for RotateKeys<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Heads { keys: kv_heads, size, .. } = self.attention.heads;
        for (index, row) in self.k.chunks_exact(kv_heads * size).enumerate() {
            let (cos, sin) = self.attention.rotary.at(self.position + index);
            let row = &row[self.head * size..][..size];
            let (turning, still) = row.split_at(2 * cos.len());
            let (a, b) = turning.split_at(cos.len());
            let tile = self.out[index / TILE * TILE * size..].as_chunks_mut::<TILE>().0;
            let (tile_turning, tile_still) = tile[..size].split_at_mut(2 * cos.len());
            let (tile_a, tile_b) = tile_turning.split_at_mut(cos.len());
            for i in 0..cos.len() {
                tile_a[i][index % TILE] = a[i] * cos[i] - b[i] * sin[i];
                tile_b[i][index % TILE] = b[i] * cos[i] + a[i] * sin[i];
            }
            for (tile, still) in tile_still.iter_mut().zip(still) {
                tile[index % TILE] = *still;
            }
        }
    }
}

/// The attention of up to [`TASK_ROWS`] consecutive tokens of a span, from its token `first` on, all heads. Each lane
/// of a vector is a query: its maximum and its sum are then sums of vectors, never sums within one.
struct Rows<'a> {
    attention: &'a Attention<'a>,
    q: &'a [f32],
    prefix: Context<'a>,
    own: Context<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl VectorLoop for Rows<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let Heads { queries: heads, keys: kv_heads, size: head_dim, cap, window, .. } = self.attention.heads;
        let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let Self { prefix, own, .. } = self;
        let (prefix_head_keys, head_keys) = (prefix.keys.len() / kv_heads, own.keys.len() / kv_heads);
        let mut queries = vec![[0f32; LANES]; head_dim];
        let mut scores = vec![[0f32; LANES]; prefix.positions + head_keys / head_dim];
        let groups = self.out.chunks_mut(LANES * width).zip(self.q.chunks(LANES * width));
        for (first, (out, q)) in (self.first..).step_by(LANES).zip(groups) {
            let positions = first + out.len() / width;
            for head in 0..heads {
                let kv_head = head / (heads / kv_heads);
                self.attention.rotate_queries(q, head, prefix.positions + first, &mut queries);
                products::<FMA>(&queries, &prefix.keys[kv_head * prefix_head_keys..][..prefix_head_keys], &mut scores);
                // Over the products with what follows the prefix's last key in its tile.
                let keys = &own.keys[kv_head * head_keys..][..positions.next_multiple_of(TILE) * head_dim];
                products::<FMA>(&queries, keys, &mut scores[prefix.positions..]);
                let scores = &mut scores[..prefix.positions + positions];
                if let Some(cap) = cap {
                    cap_scores::<FMA>(scores, cap);
                }
                let sums = softmax_numerators::<FMA>(scores, prefix.positions + first, window);
                let scale = sums.map(|sum| 1.0 / sum);
                let (given, scores) = scores.split_at(prefix.positions);
                let mut from = 0;
                while from < head_dim {
                    let offset = kv_head * head_dim + from;
                    let parts = [(given, prefix.values_from(offset)), (scores, own.values_from(offset))];
                    let out = &mut out[head * head_dim + from..];
                    from += match head_dim - from {
                        4.. => mix::<FMA, 4>(parts, &scale, kv_width, out, width),
                        _ => mix::<FMA, 2>(parts, &scale, kv_width, out, width),
                    };
                }
            }
        }
    }
}

impl Attention<'_> {
    /// Rotated and scaled queries of one head, the first at position `first`, one per lane, [head_dim]. Lanes past the
    /// end keep older, finite or unused, values.
    #[inline(always)]
    fn rotate_queries(&self, q: &[f32], head: usize, first: usize, out: &mut [Lanes]) {
        let Heads { queries, size, scale, .. } = self.heads;
        let half = self.rotary.pairs;
        let (out_turning, out_still) = out.split_at_mut(2 * half);
        let (out_a, out_b) = out_turning.split_at_mut(half);
        for (lane, row) in q.chunks_exact(queries * size).enumerate().take(LANES) {
            let (turning, still) = row[head * size..][..size].split_at(2 * half);
            let (a, b) = turning.split_at(half);
            let (cos, sin) = self.rotary.at(first + lane);
            for i in 0..half {
                out_a[i][lane] = (a[i] * cos[i] - b[i] * sin[i]) * scale;
                out_b[i][lane] = (b[i] * cos[i] + a[i] * sin[i]) * scale;
            }
            for (out, still) in out_still.iter_mut().zip(still) {
                out[lane] = still * scale;
            }
        }
    }
}

#[cfg(test)]
mod tests;
