//! A peer that fine-tunes a language model by exchanging one byte per gradient.

pub mod cli;
pub mod commands;
pub mod driver;
pub mod interrupt;
pub mod join;
pub mod log;
pub mod network;
pub mod opened;
pub mod records;
pub mod settings;
pub mod storage;
pub mod trainer;
pub mod watch;
