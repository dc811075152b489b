//! Prints this node's logits of a text as JSON, for `scripts/check_export.py`.
//!
//! `cargo run --release -p engine --example logits -- DIRECTORY TEXT [OUT] > logits.json`: with OUT, the model is also
//! exported there.

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};
use engine::model::{Checkpoint, Layout, export, load};
use std::path::Path;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let directory = arguments.next().context("usage: logits DIRECTORY TEXT [OUT]")?;
    let text = arguments.next().context("usage: logits DIRECTORY TEXT [OUT]")?;
    let out = arguments.next();
    let checkpoint = Checkpoint::load(Path::new(&directory))?;
    let tensors = checkpoint.tensors()?;
    let (model, tokenizer) = load(&checkpoint, &tensors)?;
    let tokens = tokenizer.encode(&text)?;
    if let Some(out) = out {
        export(Path::new(&out), &checkpoint, &tensors)?;
    }
    let layout = Layout::of_rows([tokens.len()])?;
    let hidden = model.hidden(&Tensor::new(tokens.as_slice(), &Device::Cpu)?, &layout)?;
    let logits = model.logits(&hidden)?.to_vec2::<f32>()?;
    // As transformers has them by default.
    let whole = [tokenizer.opening(), &tokens, tokenizer.closing()].concat();
    println!("{}", serde_json::json!({"text": text, "tokens": tokens, "whole": whole, "logits": logits}));
    Ok(())
}
