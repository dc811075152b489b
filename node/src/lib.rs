//! A peer that fine-tunes a language model by exchanging one byte per gradient.

pub mod authority;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod display;
pub mod hex;
pub mod http;
pub mod hub;
pub mod interrupt;
pub mod invitation;
pub mod log;
pub mod memory;
pub mod name;
pub mod network;
pub mod opened;
pub mod output;
pub mod pause;
pub mod places;
pub mod power;
pub mod priority;
pub mod program;
pub mod random;
pub mod records;
pub mod sampler;
pub mod say;
pub mod scan;
pub mod scorer;
pub mod serve;
pub mod settings;
pub mod shell;
#[cfg(test)]
#[path = "../../protocol/tests/support/small.rs"]
mod small;
pub mod storage;
pub mod texts;
pub mod ticket;
pub mod trainer;
pub mod watch;
