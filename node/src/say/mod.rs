//! All that a running node says to people, and what commands say of it: facts come in, words go out. Nothing is decided
//! here.
//!
//! | file | what is said |
//! |---|---|
//! | `news.rs` | news of the peer: who cannot be reached, who is banned, what was revoked |
//! | `network.rs` | of other releases, routers, listeners, relays |
//! | `run.rs` | of the run that a node joins, and its base model |
//! | `directory.rs` | of the state directory |
//! | `gradients.rs` | why own gradients rest |
//! | `figures.rs` | what was measured |
//! | `leaving.rs` | what leaving waits for, and the end |
//! | `prompt.rs` | of a prompt that is too long |
//!
//! What one noun alone has to say is with that noun (`join/invitation.rs`, `trainer/texts.rs`, `watch/machines.rs`).

mod directory;
mod figures;
mod gradients;
mod leaving;
mod network;
mod news;
mod prompt;
mod run;

pub use directory::{checkpoint_failed, damaged, no_incarnation, not_of_authority, storage_fails, storage_recovered};
pub use figures::{CHOSEN, best, evaluated, evaluation_words, figures};
pub use gradients::{near_edge, paused};
pub use leaving::{cut_short, left, left_without};
pub use network::{not_listening, older, relay_gone, router};
pub use news::{Names, caught_up, ledgers_fetched, news, not_the_wished_run};
pub use prompt::prompt_outgrows;
pub use run::{
    base_damaged, base_in_other_files, fetched, fetching, is_demonstration, joined, looking_for_run, told_paths,
};
