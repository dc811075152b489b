//! Writes the gradients of a model's weights on a fixed batch, for `scripts/compare_gradients.py`.
//!
//! `cargo run --release -p engine --example gradients -- MODEL_DIR OUT.safetensors [WINDOWS LENGTH]`. Input i of the
//! batch is token (7919 · i + 13) mod vocabulary, its target token (104,729 · i + 5) mod vocabulary.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use engine::{
    model::{Batch, Checkpoint, Layout, Row, Target, load},
    objective::{NextToken, Objective},
};
use std::{collections::HashMap, time::Instant};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, out, sizes @ ..] = arguments.as_slice() else {
        anyhow::bail!("usage: gradients MODEL_DIR OUT.safetensors [WINDOWS LENGTH]")
    };
    let size = |index: usize, usual: usize| sizes.get(index).map_or(Ok(usual), |text| text.parse());
    let (windows, length) = (size(0, 8)?, size(1, 128)?);
    let checkpoint = Checkpoint::load(directory.as_ref())?;
    let tensors = checkpoint.tensors()?;
    let (model, _) = load(&checkpoint, &tensors)?;
    let vocabulary = model.interface().vocabulary;
    let token = |factor: usize, first: usize| move |i: usize| ((factor * i + first) % vocabulary) as u32;
    let ids: Vec<u32> = (0..windows * length).map(token(7_919, 13)).collect();
    let target = |i: usize| Target { position: i as u32, token: token(104_729, 5)(i) };
    let batch = Batch {
        tokens: Tensor::from_vec(ids, windows * length, &Device::Cpu)?,
        layout: Layout::of_rows(std::iter::repeat_n(length, windows))?,
        targets: (0..windows * length).map(target).collect(),
        rows: (0..windows).map(|row| Row::of_text(row * length..(row + 1) * length)).collect(),
    };
    let wanted: Vec<Tensor> = tensors.values().cloned().collect();
    let names: HashMap<_, _> = tensors.iter().map(|(name, tensor)| (tensor.id(), name.clone())).collect();
    let mut gradients = HashMap::new();
    let begin = Instant::now();
    let loss = NextToken.differentiate(&*model, &batch, &wanted, &mut |some| {
        for (id, gradient) in some {
            gradients.insert(names.get(&id).context("a gradient of no weight")?.clone(), gradient);
        }
        Ok(())
    })?;
    println!("loss {:.6}, {:.2} s", loss.mean(), begin.elapsed().as_secs_f64());
    Ok(candle_core::safetensors::save(&gradients, out)?)
}
