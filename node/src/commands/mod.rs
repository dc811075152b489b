//! What the binary can do besides training.

pub mod inspect;
pub mod log;
pub mod members;
mod recipe;
pub mod top;
pub mod train;
