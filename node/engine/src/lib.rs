//! The half of onebyte that measures: models, data, losses, estimators, exact weights. It knows no swarm, no network
//! and no disk layout of a node.
//!
//! ```text
//! texts ─► data ─► Batch ─► Objective(Model) ─► losses ─► estimator ─► projected gradients ─► Normalizer ─► bytes
//!                              ▲
//!                           weights ◄── kernel ◄── probes, own bytes, others' bytes
//! ```
//!
//! | module | noun |
//! |---|---|
//! | [`model`] | [`Model`](model::Model), the one forward contract; a file per family; the parts that families share |
//! | [`chat`] | conversations → text, by the model's template |
//! | [`data`] | files → documents → windows → batches |
//! | [`embedded`] | the default model and its two texts |
//! | [`objective`] | [`Objective`](objective::Objective): a batch → a loss; the held-out evaluation |
//! | [`estimator`] | losses near θ → projected gradients → bytes |
//! | [`weights`], [`kernel`] | the exact in-place store; the sweep for any processor, AVX2, AVX-512 |
//! | [`base`] | what a run agrees on about its base model, computed from a checkpoint |
//! | [`recipe`] | what whoever starts a run decides for it: how the learning rate falls |
//! | [`trainer`] | own gradients: all of the above at work |
//! | [`packed`] | frozen matrices in the form in which they are stored |
//! | `device` | where tensors become slices of numbers, and slices tensors |
//!
//! Weights are plain tensors that the model shares with the store, which changes them in place between forwards.
//! Nothing here keeps a value that was derived from a weight.
//!
//! Losses are floating point and may differ between machines. What machines must agree on is integers, and the crate
//! `protocol` says how they are computed; this crate may compute them faster, and is tested against it bit for bit.

pub mod base;
pub mod chat;
pub mod data;
mod device;
pub mod embedded;
pub mod estimator;
pub mod kernel;
pub mod model;
pub mod objective;
pub mod packed;
pub mod recipe;
pub mod threads;
pub mod trainer;
pub mod weights;
