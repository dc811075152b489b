//! The one state machine: what a node knows and decides, without IO, clocks or threads.
//!
//! The driving contract: give one input (a method call), then drain [`Replica::poll_output`] until it is `None`, then
//! wait for the next input. Time is an argument, in milliseconds of any monotonic clock. Given equal inputs, two
//! replicas make equal outputs.
//!
//! - `interface`: what goes in and what comes out;
//! - `state`: what a replica holds; it knows none of those that change it;
//! - `signing`, `own`: own bytes, signing, the confirmation of this machine's head after a start;
//! - `absorb`: chunks of others on their way in; `statements`: what is said of machines and keys;
//! - `sync`, `answers`, `peers`: anti-entropy with each connected peer: own questions, answers to theirs;
//! - `accounts`: what is known of each machine, and the version vector;
//! - `commons`: what replicas of one process share.

mod absorb;
mod accounts;
mod answers;
mod commons;
mod interface;
mod own;
mod peers;
mod signing;
mod state;
mod statements;
mod sync;

pub use accounts::VersionVector;
pub use commons::Commons;
pub use interface::{
    Contained, IncarnationCause, LedgerRange, NodeId, Offence, Output, OwnByte, OwnHead, Record, Report, Settings,
    Verdict,
};
pub use state::Replica;

#[cfg(test)]
mod tests;
