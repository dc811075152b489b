//! A peer that fine-tunes a language model by exchanging one byte per gradient.

pub mod cli;
pub mod commands;
pub mod display;
pub mod hex;
pub mod http;
pub mod interrupt;
pub mod invitation;
pub mod log;
pub mod memory;
pub mod network;
pub mod opened;
pub mod output;
pub mod places;
pub mod random;
pub mod records;
pub mod say;
pub mod scan;
pub mod serve;
pub mod settings;
pub mod shell;
pub mod storage;
pub mod texts;
pub mod ticket;
pub mod trainer;
pub mod watch;
