//! What leaving waits for, what it may cost, and the end.

use peer::leave::Waiting;
use protocol::replica::Replica;
use std::path::Path;

use crate::{
    system::hex::hex,
    watch::{Session, machines_in_words},
};

/// What leaving waits for.
pub(super) fn in_words(waiting: &Waiting) -> String {
    let own = (waiting.own > 0).then(|| format!("{} own gradients to be stored", waiting.own));
    let writes = (waiting.writes > 0).then(|| format!("{} writes to the disk", waiting.writes));
    let checkpoint = waiting.checkpoint.then(|| "a checkpoint".to_owned());
    let parts: Vec<String> = [own, writes, checkpoint].into_iter().flatten().collect();
    if parts.is_empty() { "the last messages to go out".into() } else { parts.join(", ") }
}

/// What is lost when leaving is cut short.
fn given_up(waiting: &Waiting) -> String {
    let own = match waiting.own {
        0 => "no own gradient is lost".to_owned(),
        own => format!("{own} own gradients that were neither stored nor sent are lost"),
    };
    let writes = match waiting.writes {
        0 => String::new(),
        writes => format!("; writes not done: {writes}, and what they hold of others comes again from peers"),
    };
    format!("{own}{writes}")
}

/// Why the node ends with an error after the second Ctrl-C.
pub fn cut_short(waiting: &Waiting) -> String {
    format!("left at once: {}", given_up(waiting))
}

/// Why the node ends with an error when the disk takes nothing.
pub fn left_without(waiting: &Waiting, error: &str, directory: &Path) -> String {
    format!(
        "{}: the state directory takes no writes ({error}): {}. Free some space, or make it writable, and start the node again",
        directory.display(),
        given_up(waiting)
    )
}

pub fn left(replica: &Replica, session: &Session) {
    tracing::info!(
        "left with {} gradients of {}, {} of them made here in this session{}; version vector {}",
        replica.swarm_step(),
        machines_in_words(replica),
        session.own(),
        session.own_rate().map_or(String::new(), |rate| format!(" ({rate:.2} a second)")),
        hex(&replica.root())
    );
}
