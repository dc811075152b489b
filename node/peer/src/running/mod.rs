//! A peer that has a run and its base: the replica, and all that surrounds it.
//!
//! - `state`: what such a peer holds; it knows none of the files below, which add to what it can do;
//! - `dispatch`: one input in, and what follows from every input;
//! - `begin`: from the disk's records to the first work, and on under a new incarnation;
//! - `effects`: what the replica wants done;
//! - `talk`: gossip, requests and answers of neighbours;
//! - `duties`: what a tick brings: goals, checkpoints, digests at rest;
//! - `depart`: the way out.

mod begin;
mod depart;
mod dispatch;
mod duties;
mod effects;
mod state;
mod talk;

pub use state::{Context, Running};
