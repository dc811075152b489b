//! What whoever starts a run decides for it, so that nobody has to tune.

pub mod schedule;
pub mod survey;
