//! One program for all tests but those of `original_files.rs`, which has an allocator of its own: each file more would
//! be linked with everything once more.

mod adapters;
mod chat;
mod checkpoint;
mod columns;
mod data;
mod families;
mod forms;
mod found;
mod gguf;
mod gradients;
mod kernel_parity;
mod model;
mod parquet;
mod projection_parity;
mod random;
mod reference;
mod special_tokens;
mod suffix;
mod unusable;

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).fold(0.0, |largest, (a, b)| largest.max((a - b).abs()))
}
