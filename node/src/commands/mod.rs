//! What the binary can do besides training.

pub mod authority;
pub mod chat;
pub mod doctor;
pub mod inspect;
pub mod log;
pub mod pause;
mod recipe;
pub mod relay;
pub mod serve;
pub mod ticket;
pub mod top;
pub mod train;
