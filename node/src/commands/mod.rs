//! What the binary can do besides training.

pub mod exchange;
pub mod inspect;
pub mod log;
pub mod train;
pub mod verify;
