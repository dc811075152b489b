//! Attention's backward pass, by head: scores are computed anew, so that nothing of them is kept.
//!
//! With P the softmax of the scores, G the gradient of the result: dV = Pᵀ·G, dP = G·Vᵀ, dS = P ∘ (dP − Σ P ∘ dP), dQ =
//! dS·K, dK = dSᵀ·Q, and what was rotated is rotated back.

use candle_core::{Result, Tensor};
use rayon::prelude::*;

use super::{
    layout::{self, Span},
    queries::{Heads, Lanes, TILE, cap_scores, mix, products, softmax_numerators, spread},
    rotary::Rotary,
    vector::{LANES, VectorLoop, dispatch},
};
use crate::device;

/// Gradients of q, k and v, from those of the result.
pub fn backward(
    heads: Heads,
    layout: &layout::Layout,
    rotary: &Rotary,
    inputs: [&Tensor; 3],
    gradient: &Tensor,
) -> Result<[Tensor; 3]> {
    let gradient = gradient.contiguous()?;
    let [q, k, v] = inputs;
    let parts: Vec<Head> = device::read_all([q, k, v, &gradient], |[q, k, v, gradient]| {
        let tasks =
            layout.spans().par_iter().flat_map(|span| (0..heads.keys).into_par_iter().map(move |key| (span, key)));
        tasks
            .map(|(span, key_head)| {
                let prefix = span.prefix.map(|prefix| layout.spans()[prefix]);
                let mut out = Head::new(heads, span);
                dispatch(HeadBackward { heads, rotary, span, prefix, q, k, v, gradient, key_head, out: &mut out });
                out
            })
            .collect()
    })?;
    let (width, kv_width) = (heads.queries * heads.size, heads.keys * heads.size);
    let mut sums = [width, kv_width, kv_width].map(|width| vec![0f32; layout.tokens() * width]);
    // In the order of the spans: a prefix takes from all that continue it, always in the same order.
    for (span, parts) in layout.spans().iter().zip(parts.chunks_exact(heads.keys)) {
        let start = span.prefix.map_or(0, |prefix| layout.spans()[prefix].start);
        for (key_head, part) in parts.iter().enumerate() {
            let group = heads.queries / heads.keys;
            for (head, rows) in part.q.chunks_exact(span.length * heads.size).enumerate() {
                add_rows(
                    &mut sums[0][span.start * width..],
                    width,
                    (key_head * group + head) * heads.size,
                    rows,
                    heads,
                );
            }
            for (sums, rows) in sums[1..].iter_mut().zip([&part.k, &part.v]) {
                let (of_prefix, own) = rows.split_at(span.position * heads.size);
                add_rows(&mut sums[start * kv_width..], kv_width, key_head * heads.size, of_prefix, heads);
                add_rows(&mut sums[span.start * kv_width..], kv_width, key_head * heads.size, own, heads);
            }
        }
    }
    let [q_sums, k_sums, v_sums] = sums;
    let tensor = |values, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
    Ok([tensor(q_sums, q)?, tensor(k_sums, k)?, tensor(v_sums, v)?])
}

/// Adds the rows of one head to those of all, `width` wide, at `column`.
fn add_rows(sums: &mut [f32], width: usize, column: usize, rows: &[f32], heads: Heads) {
    for (sums, row) in sums.chunks_exact_mut(width).zip(rows.chunks_exact(heads.size)) {
        sums[column..][..heads.size].iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
    }
}

/// Gradients that come of the queries of one span and the key head that they attend with.
struct Head {
    /// [query head, span's length, size].
    q: Vec<f32>,
    /// [prefix and span, size].
    k: Vec<f32>,
    /// [prefix and span, size].
    v: Vec<f32>,
}

impl Head {
    fn new(heads: Heads, span: &Span) -> Self {
        let of = |rows: usize| vec![0f32; rows * heads.size];
        let seen = span.position + span.length;
        Self { q: of(heads.queries / heads.keys * span.length), k: of(seen), v: of(seen) }
    }
}

/// One key head of one span.
struct HeadBackward<'a> {
    heads: Heads,
    rotary: &'a Rotary,
    span: &'a Span,
    prefix: Option<Span>,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    gradient: &'a [f32],
    key_head: usize,
    out: &'a mut Head,
}

impl HeadBackward<'_> {
    /// Rows that the span sees of `values`, which has `width` columns, at the key head's: [prefix and span, size].
    #[inline(always)]
    fn seen(&self, values: &[f32]) -> Vec<f32> {
        let (size, width) = (self.heads.size, self.heads.keys * self.heads.size);
        let spans = self.prefix.iter().chain([self.span]);
        let rows = spans.flat_map(|span| values[span.start * width..][..span.length * width].chunks_exact(width));
        rows.flat_map(|row| &row[self.key_head * size..][..size]).copied().collect()
    }
}

/// Rows of up to [`LANES`] queries, and the same one query to a lane.
struct Block {
    /// [LANES, size].
    rows: Vec<f32>,
    /// [size].
    lanes: Vec<Lanes>,
}

impl Block {
    fn new(size: usize) -> Self {
        Self { rows: vec![0f32; LANES * size], lanes: vec![[0f32; LANES]; size] }
    }

    /// The rows of `values` at `column`, as many as there are; the others are zero.
    #[inline(always)]
    fn load(&mut self, values: &[f32], width: usize, column: usize) {
        self.rows.fill(0.0);
        let size = self.lanes.len();
        for (own, row) in self.rows.chunks_exact_mut(size).zip(values.chunks_exact(width)) {
            own.copy_from_slice(&row[column..][..size]);
        }
    }

    #[inline(always)]
    fn fill_lanes(&mut self) {
        for (lane, row) in self.rows.chunks_exact(self.lanes.len()).enumerate() {
            for (lanes, value) in self.lanes.iter_mut().zip(row) {
                lanes[lane] = *value;
            }
        }
    }
}

/// Turns a row by its position's angles, or back.
#[inline(always)]
fn rotate(row: &mut [f32], rotary: &Rotary, position: usize, back: bool) {
    let (cos, sin) = rotary.at(position);
    let (a, b) = row[..2 * cos.len()].split_at_mut(cos.len());
    for i in 0..cos.len() {
        let sin = if back { -sin[i] } else { sin[i] };
        (a[i], b[i]) = (a[i] * cos[i] - b[i] * sin, b[i] * cos[i] + a[i] * sin);
    }
}

/// Lays rows out [tile][element][position in tile]; positions past the end are zero.
#[inline(always)]
fn tiles_of(rows: &[f32], size: usize) -> Vec<f32> {
    let mut tiles = vec![0f32; (rows.len() / size).next_multiple_of(TILE) * size];
    for (position, row) in rows.chunks_exact(size).enumerate() {
        let tile = &mut tiles[position / TILE * TILE * size..];
        for (element, value) in row.iter().enumerate() {
            tile[element * TILE + position % TILE] = *value;
        }
    }
    tiles
}

impl VectorLoop for HeadBackward<'_> {
    #[inline(always)]
    fn run<const FMA: bool>(self) {
        let (mut keys, values) = (self.seen(self.k), self.seen(self.v));
        let Self { heads, rotary, span, key_head, out, .. } = self;
        let size = heads.size;
        let (width, group) = (heads.queries * size, heads.queries / heads.keys);
        let Heads { scale, cap, window, .. } = heads;
        for (position, row) in keys.chunks_exact_mut(size).enumerate() {
            rotate(row, rotary, position, false);
        }
        let (key_tiles, value_tiles) = (tiles_of(&keys, size), tiles_of(&values, size));
        let (mut queries, mut gradients) = (Block::new(size), Block::new(size));
        let mut weights = vec![[0f32; LANES]; key_tiles.len() / size];
        let mut slopes = weights.clone();
        // What a cap leaves of the slope of each score.
        let mut left = cap.map(|_| weights.clone()).unwrap_or_default();
        for (head, own) in out.q.chunks_exact_mut(span.length * size).enumerate() {
            let column = (key_head * group + head) * size;
            for (block, own) in own.chunks_mut(LANES * size).enumerate() {
                let (count, from) = (own.len() / size, (span.start + block * LANES) * width);
                let first = span.position + block * LANES;
                queries.load(&self.q[from..][..count * width], width, column);
                for (lane, row) in queries.rows.chunks_exact_mut(size).take(count).enumerate() {
                    rotate(row, rotary, first + lane, false);
                    row.iter_mut().for_each(|q| *q *= scale);
                }
                queries.fill_lanes();
                gradients.load(&self.gradient[from..][..count * width], width, column);
                gradients.fill_lanes();
                let positions = first + count;
                let tiles = ..positions.next_multiple_of(TILE) * size;
                products::<FMA>(&queries.lanes, &key_tiles[tiles], &mut weights);
                products::<FMA>(&gradients.lanes, &value_tiles[tiles], &mut slopes);
                if let Some(cap) = cap {
                    cap_scores::<FMA>(&mut weights[..positions], cap);
                    left.copy_from_slice(&weights);
                }
                let sums = softmax_numerators::<FMA>(&mut weights[..positions], first, window);
                softmax_backward(&mut weights[..positions], &mut slopes[..positions], &sums);
                if let Some(cap) = cap {
                    for (slopes, capped) in slopes[..positions].iter_mut().zip(&left) {
                        for lane in 0..LANES {
                            slopes[lane] *= 1.0 - (capped[lane] / cap) * (capped[lane] / cap);
                        }
                    }
                }
                let (weights, slopes) = (&weights[..positions], &slopes[..positions]);
                spread::<FMA>(weights, &gradients.rows, &mut out.v, size);
                spread::<FMA>(slopes, &queries.rows, &mut out.k, size);
                let mut from = 0;
                while from < size {
                    let parts = [(slopes, &keys[from..]), (&[][..], &[][..])];
                    from += match size - from {
                        4.. => mix::<FMA, 4>(parts, &[1.0; LANES], size, &mut own[from..], size),
                        _ => mix::<FMA, 2>(parts, &[1.0; LANES], size, &mut own[from..], size),
                    };
                }
                for (lane, row) in own.chunks_exact_mut(size).enumerate() {
                    rotate(row, rotary, first + lane, true);
                    row.iter_mut().for_each(|q| *q *= scale);
                }
            }
        }
        for (position, row) in out.k.chunks_exact_mut(size).enumerate() {
            rotate(row, rotary, position, true);
        }
    }
}

/// Replaces the softmax's numerators, whose sums are `sums`, by the softmax P, and the gradients of P by those of the
/// scores.
#[inline(always)]
fn softmax_backward(scores: &mut [Lanes], gradients: &mut [Lanes], sums: &Lanes) {
    let scale = sums.map(|sum| 1.0 / sum);
    let mut shared = [0f32; LANES];
    for (scores, gradients) in scores.iter_mut().zip(gradients.iter()) {
        for lane in 0..LANES {
            scores[lane] *= scale[lane];
            shared[lane] += scores[lane] * gradients[lane];
        }
    }
    for (scores, gradients) in scores.iter().zip(gradients) {
        for lane in 0..LANES {
            gradients[lane] = scores[lane] * (gradients[lane] - shared[lane]);
        }
    }
}
