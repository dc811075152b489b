//! The state directory: what it takes, and what is wrong with it.

use protocol::machine::MachineId;
use std::path::Path;

/// The disk refuses writes.
pub fn storage_fails(error: &str) {
    tracing::error!(
        "the state directory takes no writes ({error}); own gradients wait unsent until it does. Free some space, or make it \
         writable"
    );
}

/// It takes them again.
pub fn storage_recovered() {
    tracing::info!("the state directory takes writes again");
}

/// The disk refuses the name under which this machine is to go on.
pub fn no_incarnation(error: &anyhow::Error) {
    tracing::error!(
        "the state directory takes no new incarnation ({error:#}), and without one this machine makes no gradients; trying \
         again. Free some space, or make it writable"
    );
}

/// No checkpoint file could be written.
pub fn checkpoint_failed(error: &anyhow::Error) {
    tracing::warn!(
        "no checkpoint this time ({error:#}); the ledger is safe, the next start replays more. Is the disk full?"
    );
}

/// Why a state directory cannot be used.
pub fn damaged(directory: &Path, machine: &MachineId, first: u64, reason: &str) -> String {
    format!(
        "{}: the ledger of {machine} is damaged at sample {first}: {reason}. Keep the directory, and join the run anew with another \
         --state; what peers hold of this machine is not lost",
        directory.display()
    )
}

/// A file in the state directory says nothing that counts.
pub fn not_of_authority(file: &Path) {
    tracing::warn!("{}: not signed by this run's authority, so it changes nothing; removed", file.display());
}
