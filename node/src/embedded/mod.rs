//! The embedded default: a small model and a task that need no download.

pub mod corpus;
