//! What attention does with [`LANES`] queries of one head at a time, one to a lane: sums over keys are then sums of
//! vectors, never sums within one.

use super::vector::{LANES, exponential, larger, multiply_add};

/// Positions whose scores are computed together.
pub const TILE: usize = 4;

/// One value for each of [`LANES`] queries.
pub type Lanes = [f32; LANES];

/// How attention is cut into heads, and what is done to its scores.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Heads {
    /// Number of query heads, a multiple of that of key heads.
    pub queries: usize,
    /// Number of key heads, and of value heads.
    pub keys: usize,
    /// Elements of one, even here.
    pub size: usize,
    /// Multiplies products of queries and keys.
    pub scale: f32,
    /// Scores s become cap · tanh(s / cap).
    pub cap: Option<f32>,
    /// Tokens that a token sees, itself included, if not all.
    pub window: Option<usize>,
}

/// Dot products of the queries with whole tiles of keys.
#[inline(always)]
pub fn products<const FMA: bool>(queries: &[Lanes], keys: &[f32], scores: &mut [Lanes]) {
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

/// Replaces scores by cap · tanh(score / cap).
#[inline(always)]
pub fn cap_scores<const FMA: bool>(scores: &mut [Lanes], cap: f32) {
    let scale = 2.0 / cap;
    for scores in scores.iter_mut() {
        for lane in 0..LANES {
            scores[lane] = cap - 2.0 * cap / (1.0 + exponential::<FMA>(scores[lane] * scale));
        }
    }
}

/// Fills the scores of positions that a query (position `first` + lane) does not see: those after it, and those before
/// its `window`.
#[inline(always)]
fn blank(scores: &mut [Lanes], first: usize, window: Option<usize>, value: f32) {
    for (offset, scores) in scores[first..].iter_mut().enumerate() {
        scores[..offset].fill(value);
    }
    let Some(window) = window else { return };
    let before = (first + LANES).saturating_sub(window).min(scores.len());
    for (position, scores) in scores[..before].iter_mut().enumerate() {
        scores[(position + window).saturating_sub(first)..].fill(value);
    }
}

/// Replaces scores by exp(score − max), those of positions that the query (position `first` + lane) does not see by
/// zero; returns the sums.
#[inline(always)]
pub fn softmax_numerators<const FMA: bool>(scores: &mut [Lanes], first: usize, window: Option<usize>) -> Lanes {
    blank(scores, first, window, f32::NEG_INFINITY);
    // Lanes past the end may see nothing: their largest score is finite, so that what comes of them is zero, not NaN.
    let mut max = [f32::MIN; LANES];
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
    blank(scores, first, window, 0.0);
    sums
}

/// `out[query][..W] = scale[query] · Σ_position scores[position][query] · v[position][..W]`, over the positions of both
/// `parts`, (scores, v), for as many queries as `out` has rows. Strides are `width` and `v_width`. Returns W.
#[inline(always)]
pub fn mix<const FMA: bool, const W: usize>(
    parts: [(&[Lanes], &[f32]); 2],
    scale: &Lanes,
    v_width: usize,
    out: &mut [f32],
    width: usize,
) -> usize {
    let mut sums = [[0f32; LANES]; W];
    for (scores, v) in parts {
        for (scores, value) in scores.iter().zip(v.chunks(v_width)) {
            let Some(value) = value.first_chunk::<W>() else { break };
            for d in 0..W {
                sums[d] = accumulate::<FMA>(sums[d], value[d], scores);
            }
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

/// `out[position][..] += Σ_query scores[position][query] · rows[query][..]`; `rows` and `out` are `width` wide.
#[inline(always)]
pub fn spread<const FMA: bool>(scores: &[Lanes], rows: &[f32], out: &mut [f32], width: usize) {
    for (scores, out) in scores.iter().zip(out.chunks_exact_mut(width)) {
        let mut from = 0;
        while from < width {
            from += match width - from {
                16.. => spread_part::<FMA, 16>(scores, &rows[from..], &mut out[from..], width),
                8.. => spread_part::<FMA, 8>(scores, &rows[from..], &mut out[from..], width),
                _ => spread_part::<FMA, 2>(scores, &rows[from..], &mut out[from..], width),
            };
        }
    }
}

#[inline(always)]
fn spread_part<const FMA: bool, const W: usize>(scores: &Lanes, rows: &[f32], out: &mut [f32], width: usize) -> usize {
    let Some(out) = out.first_chunk_mut::<W>() else { return W };
    let mut sums = *out;
    for (score, row) in scores.iter().zip(rows.chunks(width)) {
        let Some(row) = row.first_chunk::<W>() else { break };
        for d in 0..W {
            sums[d] = multiply_add::<FMA>(*score, row[d], sums[d]);
        }
    }
    *out = sums;
    W
}
