//! A peer that fine-tunes a language model by exchanging one byte per gradient.

pub mod dataset;
pub mod embedded;
pub mod kernel;
pub mod model;
pub mod network;
pub mod storage;
pub mod weights;
