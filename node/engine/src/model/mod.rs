//! Llama-family models: loading, forward, loss, export, generation.
//!
//! Weights are plain tensors that somebody else mutates in place between forwards; nothing here keeps a value derived
//! from them. Losses are floating point and may differ between machines: nothing that machines must agree on is made here.

// The kernels index lanes in loops of constant length, which is what the compiler turns into vector registers.
#![allow(clippy::needless_range_loop)]

mod attention;
mod checkpoint;
mod config;
mod evaluation;
mod export;
mod generate;
mod llama;
mod loss;
mod operations;
mod tokenizer;
mod vector;

pub use checkpoint::Checkpoint;
pub use config::{LlamaConfig, expected_tensors};
pub use evaluation::Evaluation;
pub use export::export;
pub use generate::Sampling;
pub use llama::Llama;
pub use tokenizer::Tokenizer;
