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
    let (length, head_dim) = (q.dim(0)?, attention.head_dim);
    let table =
        |values: &[f32]| Tensor::from_slice(&values[..length * head_dim / 2], (length, head_dim / 2), &Device::Cpu);
    let (cos, sin) = (table(&attention.rotary.cos)?, table(&attention.rotary.sin)?);
    let heads = |x: &Tensor, heads: usize| x.reshape((1, length, heads, head_dim))?.transpose(1, 2)?.contiguous();
    let group = attention.heads / attention.kv_heads;
    let repeat = |x: Tensor| {
        let x = x.unsqueeze(2)?.broadcast_as((1, attention.kv_heads, group, length, head_dim))?;
        x.reshape((1, attention.heads, length, head_dim))
    };
    let q = candle_nn::rotary_emb::rope_slow(&heads(q, attention.heads)?, &cos, &sin)?;
    let k = repeat(candle_nn::rotary_emb::rope_slow(&heads(k, attention.kv_heads)?, &cos, &sin)?)?;
    let v = repeat(heads(v, attention.kv_heads)?)?;
    let scores = (q.matmul(&k.t()?)? / (head_dim as f64).sqrt())?;
    let mask: Vec<f32> =
        (0..length * length).map(|i| if i % length > i / length { f32::NEG_INFINITY } else { 0.0 }).collect();
    let scores = scores.broadcast_add(&Tensor::from_vec(mask, (length, length), &Device::Cpu)?)?;
    let mixed = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?;
    mixed.transpose(1, 2)?.flatten_from(2)?.squeeze(0)
}

/// Any table of `positions` will do.
fn rotary(positions: usize, head_dim: usize) -> Arc<Rotary> {
    let angles: Vec<f32> = (0..positions * head_dim / 2).map(|i| i as f32 * 0.37).collect();
    Rotary { cos: angles.iter().map(|a| a.cos()).collect(), sin: angles.iter().map(|a| a.sin()).collect() }.into()
}

fn assert_agrees(layout: &layout::Layout, heads: usize, kv_heads: usize, head_dim: usize) {
    let rotary = rotary(layout.longest() + 3, head_dim);
    let attention = Attention { heads, kv_heads, head_dim, layout, rotary };
    let random = |heads: usize| Tensor::randn(0f32, 1.5, (layout.tokens(), heads * head_dim), &Device::Cpu).unwrap();
    let (q, k, v) = (random(heads), random(kv_heads), random(kv_heads));
    let difference = (attention.forward(&q, &k, &v).unwrap() - plain(&attention, &q, &k, &v)).unwrap();
    let difference = difference.abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
    assert!(difference < 2e-5, "{heads}/{kv_heads} x {head_dim}, {layout:?}: {difference}");
}

#[test]
fn fused_attention_agrees_with_the_plain_formula() {
    let cases: [(&[usize], usize, usize, usize); 6] = [
        (&[1], 1, 1, 2),
        (&[37, 37], 8, 4, 8),
        (&[16, 1, 15], 6, 2, 22),
        (&[130], 4, 4, 64),
        (&[5, 33, 4, 32], 3, 1, 26),
        (&[7, 1, 2, 3, 64, 31], 2, 2, 10),
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
        (tree, 4, 2, 14),
    ];
    for (layout, heads, kv_heads, head_dim) in cases {
        let attention =
            Attention { heads, kv_heads, head_dim, layout: &layout, rotary: rotary(layout.longest() + 3, head_dim) };
        let random = |heads: usize| variable(1.5, (layout.tokens(), heads * head_dim));
        let (q, k, v) = (random(heads), random(kv_heads), random(kv_heads));
        let ours = gradients(&attention.forward(&q, &k, &v).unwrap(), &[&q, &k, &v]);
        let expected = gradients(&plain(&attention, &q, &k, &v), &[&q, &k, &v]);
        ours.iter().zip(&expected).for_each(|(ours, plain)| assert_close(ours, plain, 3e-5));
    }
}

#[test]
fn attention_refuses_shapes_that_do_not_fit() {
    let layout = layout::Layout::of_rows([2, 3]).unwrap();
    let attention = Attention { heads: 2, kv_heads: 1, head_dim: 8, layout: &layout, rotary: rotary(3, 8) };
    let zeros = |shape: (usize, usize)| Tensor::zeros(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
    let (q, k) = (zeros((5, 16)), zeros((5, 8)));
    assert!(attention.forward(&q, &k, &k).is_ok());
    assert!(attention.forward(&q, &q, &k).is_err());
    assert!(attention.forward(&zeros((6, 16)), &zeros((6, 8)), &zeros((6, 8))).is_err());
    assert!(attention.forward(&q, &k, &zeros((4, 8))).is_err());
    let short = Attention { rotary: rotary(2, 8), ..attention };
    assert!(short.forward(&q, &k, &k).is_err());
}
