//! A peer that fine-tunes a language model by exchanging one byte per gradient.

// Of a program: a name that says it all needs no second one.
#![allow(missing_docs)]

mod cli;
mod commands;
mod control;
mod hub;
pub mod join;
pub mod log;
pub mod network;
pub mod program;
mod say;
mod serve;
pub mod shell;
#[cfg(test)]
#[path = "../../protocol/tests/support/small.rs"]
mod small;
pub mod storage;
pub mod system;
mod trainer;
pub mod watch;
