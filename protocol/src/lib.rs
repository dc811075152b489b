//! The pure half of onebyte.

pub mod codec;
pub mod error;
pub mod machine;
pub mod manifest;
pub mod message;
pub mod perturbation;
pub mod replay;
pub mod seed;
pub mod spsa;
