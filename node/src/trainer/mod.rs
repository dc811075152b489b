//! The trainer, and the thread that it runs on.

pub use engine::trainer::*;

pub mod thread;

#[cfg(test)]
mod tests;
