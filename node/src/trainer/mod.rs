//! Own gradients: the thread that makes them, and what they are made from.
//!
//! | file | noun |
//! |---|---|
//! | `thread.rs` | the thread: commands in, events out |
//! | `texts.rs` | own and held-out text, read once and before anything is stored |
//! | `sampler.rs` | what the model writes over the course of the run |
//! | `scorer.rs` | a person's program that scores it |

pub mod sampler;
pub mod scorer;
pub mod texts;
mod thread;

pub use thread::{Command, CopyFor, Event, TrainerHandle, spawn};
