//! A peer that fine-tunes a language model by exchanging one byte per gradient.

// Of a program: a name that says it all needs no second one.
#![allow(missing_docs)]

mod authority;
mod cli;
mod clock;
mod commands;
mod display;
mod hex;
pub mod http;
mod hub;
mod interrupt;
mod invitation;
pub mod log;
mod memory;
mod name;
pub mod network;
pub mod opened;
mod output;
mod pause;
mod places;
mod power;
mod priority;
pub mod program;
mod random;
pub mod records;
mod sampler;
mod say;
mod scan;
mod scorer;
mod serve;
mod settings;
pub mod shell;
#[cfg(test)]
#[path = "../../protocol/tests/support/small.rs"]
mod small;
pub mod storage;
mod texts;
pub mod ticket;
mod trainer;
pub mod watch;
