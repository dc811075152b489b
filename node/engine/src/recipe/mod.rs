//! What whoever starts a run decides for it, so that nobody has to tune.
//!
//! | file | noun |
//! |---|---|
//! | `survey.rs` | what gradients at the base say about the steps that a run can take |
//! | `rate.rs` | from a survey and a planned length to a learning rate and its fall |
//! | `schedule.rs` | falls as a manifest holds them |
//! | `budget.rs` | from a machine's replay to what a swarm may make |

pub mod budget;
pub mod rate;
pub mod schedule;
pub mod survey;
