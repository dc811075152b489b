//! What the binary can do besides training.

pub mod doctor;
pub mod inspect;
pub mod log;
pub mod members;
mod recipe;
pub mod relay;
pub mod ticket;
pub mod top;
pub mod train;
