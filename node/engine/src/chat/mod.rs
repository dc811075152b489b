//! Conversations: from messages to the text that a model was trained on, and which part of it the model says.
//!
//! | file | noun |
//! |---|---|
//! | `message.rs` | messages of the usual data sets (OpenAI, TRL, ShareGPT), in one form |
//! | `template.rs` | the model's own template, or a plain one for a model without |
//! | `conversation.rs` | messages and a template → text, and the ranges of it that are learned |
//! | `namespace.rs` | what a template keeps from one turn of a loop to the next |
//! | `python.rs` | what templates expect of Python: `tojson`, `strftime`, how values are written |

mod conversation;
mod message;
mod namespace;
mod python;
mod template;

pub use conversation::{Conversation, Rendered};
pub(crate) use message::{from_json, is_by_field, kind, present};
pub use message::{message, messages, tools};
/// A value of JSON or of a template; maps keep the order of their keys.
pub use minijinja::Value;
pub(crate) use template::on_deep_threads;
pub use template::{ChatTemplate, Formatter};
