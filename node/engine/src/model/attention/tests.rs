use super::*;
use candle_core::{D, Device};

use super::super::gradients::testing::{assert_close, gradients, variable};

/// One row after the other by the plain formula, each a row of its own, prefixes included: [N, heads · head_dim].
fn plain(attention: &Attention<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let spans = attention.layout.spans();
    let rows = spans.iter().map(|span| {
        let prefix = span.prefix.map(|prefix| spans[prefix]);
        let row = |x: &Tensor| {
            let own = x.narrow(0, span.start, span.length).unwrap();
            match prefix {
                Some(prefix) => Tensor::cat(&[&x.narrow(0, prefix.start, prefix.length).unwrap(), &own], 0).unwrap(),
                None => own,
            }
        };
        let mixed = plain_row(attention, &row(q), &row(k), &row(v)).unwrap();
        mixed.narrow(0, span.position, span.length).unwrap()
    });
    Tensor::cat(&rows.collect::<Vec<_>>(), 0).unwrap()
}

fn plain_row(attention: &Attention<'_>, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Tensor> {
    let Heads { queries, keys, size: head_dim, scale, cap, window } = attention.heads;
    let (length, pairs) = (q.dim(0)?, attention.rotary.pairs);
    let table = |values: &[f32]| Tensor::from_slice(&values[..length * pairs], (length, pairs), &Device::Cpu);
    let heads = |x: &Tensor, heads: usize| x.reshape((1, length, heads, head_dim))?.transpose(1, 2)?.contiguous();
    let repeat = |x: Tensor| {
        let x = x.unsqueeze(2)?.broadcast_as((1, keys, queries / keys, length, head_dim))?;
        x.reshape((1, queries, length, head_dim))
    };
    let turn = |x: Tensor| {
        if pairs == 0 {
            return Ok(x);
        }
        let (cos, sin) = (table(&attention.rotary.cos)?, table(&attention.rotary.sin)?);
        let turning = candle_nn::rotary_emb::rope_slow(&x.narrow(3, 0, 2 * pairs)?.contiguous()?, &cos, &sin)?;
        match head_dim - 2 * pairs {
            0 => Ok(turning),
            still => Tensor::cat(&[&turning, &x.narrow(3, 2 * pairs, still)?], 3),
        }
    };
    let (q, k) = (turn(heads(q, queries)?)?, repeat(turn(heads(k, keys)?)?)?);
    let v = repeat(heads(v, keys)?)?;
    let scores = (q.matmul(&k.t()?)? * f64::from(scale))?;
    let scores = match cap {
        Some(cap) => ((scores / f64::from(cap))?.tanh()? * f64::from(cap))?,
        None => scores,
    };
    let sees = |i: usize| {
        let (query, key) = (i / length, i % length);
        key <= query && window.is_none_or(|window| key + window > query)
    };
    let mask: Vec<f32> = (0..length * length).map(|i| if sees(i) { 0.0 } else { f32::NEG_INFINITY }).collect();
    let scores = scores.broadcast_add(&Tensor::from_vec(mask, (length, length), &Device::Cpu)?)?;
    let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
    mixed.transpose(1, 2)?.flatten_from(2)?.squeeze(0)
}

/// Any table of `positions` will do.
fn rotary(positions: usize, pairs: usize) -> Arc<Rotary> {
    let angles: Vec<f32> = (0..positions * pairs).map(|i| i as f32 * 0.37).collect();
    let (cos, sin) = (angles.iter().map(|a| a.cos()).collect(), angles.iter().map(|a| a.sin()).collect());
    Rotary { cos, sin, pairs }.into()
}

/// Heads as Llama has them, and as other families do: (heads, pairs that turn).
fn variants(queries: usize, keys: usize, size: usize) -> Vec<(Heads, usize)> {
    let usual = Heads { queries, keys, size, scale: 1.0 / (size as f32).sqrt(), cap: None, window: None };
    vec![
        (usual, size / 2),
        (Heads { window: Some(5), ..usual }, size / 2),
        (Heads { cap: Some(1.5), scale: 0.4, ..usual }, size / 4),
        (Heads { window: Some(21), cap: Some(3.0), ..usual }, 0),
        (Heads { window: Some(1), ..usual }, 0),
    ]
}

fn largest_difference(ours: &Tensor, expected: &Tensor) -> f32 {
    (ours - expected).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap()
}

fn assert_agrees(layout: &layout::Layout, queries: usize, keys: usize, size: usize) {
    for (heads, pairs) in variants(queries, keys, size) {
        let attention = Attention { heads, layout, rotary: rotary(layout.longest() + 3, pairs) };
        let random = |heads: usize| Tensor::randn(0f32, 1.5, (layout.tokens(), heads * size), &Device::Cpu).unwrap();
        let (q, k, v) = (random(queries), random(keys), random(keys));
        let difference = largest_difference(&attention.forward(&q, &k, &v).unwrap(), &plain(&attention, &q, &k, &v));
        assert!(difference < 3e-5, "{heads:?}, {layout:?}: {difference}");
    }
}

/// A row in pieces, each behind what the earlier ones left, is the row in one piece.
#[test]
fn attention_to_a_past_agrees_with_the_plain_formula() {
    for pieces in [&[7usize, 1, 1, 12, 1][..], &[1, 1, 30], &[40, 2]] {
        let length = pieces.iter().sum();
        let whole = layout::Layout::of_rows([length]).unwrap();
        for (heads, pairs) in variants(6, 2, 8) {
            let rotary = rotary(length, pairs);
            let random = |heads: usize| Tensor::randn(0f32, 1.5, (length, heads * 8), &Device::Cpu).unwrap();
            let (q, k, v) = (random(6), random(2), random(2));
            let expected = plain(&Attention { heads, layout: &whole, rotary: rotary.clone() }, &q, &k, &v);
            let (mut past, mut start) = (LayerPast::default(), 0);
            for count in pieces {
                let layout = layout::Layout::behind(start, *count).unwrap();
                let attention = Attention { heads, layout: &layout, rotary: rotary.clone() };
                let [q, k, v] = [&q, &k, &v].map(|x| x.narrow(0, start, *count).unwrap());
                let ours = attention.forward_after(&q, &k, &v, &mut past).unwrap();
                let difference = largest_difference(&ours, &expected.narrow(0, start, *count).unwrap());
                assert!(difference < 3e-5, "{heads:?}, {count} behind {start}: {difference}");
                start += count;
            }
        }
    }
}

#[test]
fn fused_attention_agrees_with_the_plain_formula() {
    let cases: [(&[usize], usize, usize, usize); 8] = [
        (&[1], 1, 1, 2),
        (&[37, 37], 8, 4, 8),
        (&[16, 1, 15], 6, 2, 22),
        (&[130], 4, 4, 64),
        (&[5, 33, 4, 32], 3, 1, 26),
        (&[7, 1, 2, 3, 64, 31], 2, 2, 10),
        (&[5, 37], 6, 2, 15),
        (&[19], 2, 1, 1),
    ];
    for (lengths, heads, kv_heads, head_dim) in cases {
        let layout = layout::Layout::of_rows(lengths.iter().copied()).unwrap();
        assert_agrees(&layout, heads, kv_heads, head_dim);
    }
}

#[test]
fn continuations_see_their_prefix_and_nothing_of_each_other() {
    for prefix in [1, 3, 4, 15, 16, 33] {
        let mut layout = layout::Layout::of_rows([6]).unwrap();
        let prompt = layout.push_row(prefix).unwrap();
        for length in [1, 2, 17, 40] {
            layout.push_continuation(prompt, length).unwrap();
        }
        layout.push_row(9).unwrap();
        layout.push_continuation(0, 5).unwrap();
        assert_agrees(&layout, 4, 2, 14);
    }
}

#[test]
fn its_gradients_agree_with_those_of_the_plain_formula() {
    let mut tree = layout::Layout::of_rows([6]).unwrap();
    let prompt = tree.push_row(19).unwrap();
    for length in [1, 2, 17, 40] {
        tree.push_continuation(prompt, length).unwrap();
    }
    tree.push_continuation(0, 5).unwrap();
    let rows = |lengths: &[usize]| layout::Layout::of_rows(lengths.iter().copied()).unwrap();
    let cases = [
        (rows(&[37, 37]), 8, 4, 8),
        (rows(&[16, 1, 15]), 6, 2, 22),
        (rows(&[130]), 4, 4, 64),
        (rows(&[5, 33, 4, 32]), 3, 1, 26),
        (rows(&[3, 18]), 4, 2, 7),
        (tree, 4, 2, 14),
    ];
    for (layout, queries, keys, size) in cases {
        // Who sees only itself has no slope to compare.
        for (heads, pairs) in variants(queries, keys, size).into_iter().filter(|(heads, _)| heads.window != Some(1)) {
            let attention = Attention { heads, layout: &layout, rotary: rotary(layout.longest() + 3, pairs) };
            let random = |heads: usize| variable(1.5, (layout.tokens(), heads * size));
            let (q, k, v) = (random(queries), random(keys), random(keys));
            let ours = gradients(&attention.forward(&q, &k, &v).unwrap(), &[&q, &k, &v]);
            let expected = gradients(&plain(&attention, &q, &k, &v), &[&q, &k, &v]);
            ours.iter().zip(&expected).for_each(|(ours, plain)| assert_close(ours, plain, 5e-5));
        }
    }
}

#[test]
fn attention_refuses_shapes_that_do_not_fit() {
    let layout = layout::Layout::of_rows([2, 3]).unwrap();
    let heads = Heads { queries: 2, keys: 1, size: 8, scale: 1.0, cap: None, window: None };
    let attention = Attention { heads, layout: &layout, rotary: rotary(3, 4) };
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let (q, k) = (zeros((5, 16)), zeros((5, 8)));
    assert!(attention.forward(&q, &k, &k).is_ok());
    assert!(attention.forward(&q, &q, &k).is_err());
    assert!(attention.forward(&zeros((6, 16)), &zeros((6, 8)), &zeros((6, 8))).is_err());
    assert!(attention.forward(&q, &k, &zeros((4, 8))).is_err());
    for rotary in [rotary(2, 4), rotary(3, 5)] {
        assert!(Attention { rotary, heads, layout: &layout }.forward(&q, &k, &k).is_err());
    }
    let blind = Heads { window: Some(0), ..heads };
    assert!(Attention { heads: blind, ..attention }.forward(&q, &k, &k).is_err());
}
