//! How this machine measures: what people asked for, or what its memory allows.

use anyhow::{Result, ensure};
use bytesize::ByteSize;
use engine::estimator::Estimator;

use crate::{cli::settings::Settings, system::memory};

/// Bytes of a backward pass beside weights: logits, hidden states, activations of one layer.
const BACKWARD_BYTES: u64 = 256 << 20;
/// Windows or rows of a batch.
const ROWS: usize = 2;
const ROWS_PROJECTION: usize = 8;

/// Rows of a batch that is measured by forwards.
pub fn rows_by_forwards(settings: &Settings) -> usize {
    settings.batch_size.unwrap_or(ROWS)
}

/// Rows of this machine's batches.
pub fn rows(settings: &Settings, estimator: Estimator) -> usize {
    match estimator {
        Estimator::Projection { .. } => rows_of_projection(settings),
        _ => rows_by_forwards(settings),
    }
}

/// Rows of a batch of a machine that measures by projection.
pub fn rows_of_projection(settings: &Settings) -> usize {
    settings.batch_size.unwrap_or(ROWS_PROJECTION)
}

/// Rows of the held-out text that are looked at side by side, where a batch has `rows`: forwards alone, so as many as a
/// backward pass has, if the system has the memory and people do not limit it.
pub fn rows_of_look(settings: &Settings, rows: usize) -> usize {
    let is_free = settings.memory.is_none() && memory::available_bytes().is_some_and(|free| free / 2 >= BACKWARD_BYTES);
    if is_free { rows.max(ROWS_PROJECTION) } else { rows }
}

/// Bytes that a backward pass takes at most in a run that trains so many `parameters`: an embedding's gradient is at
/// most as large as all trained weights.
pub fn projection_bytes(parameters: u64) -> u64 {
    4 * parameters + BACKWARD_BYTES
}

/// Memory for a backward pass, beside a model that is loaded.
struct Room {
    /// Bytes that it takes at most.
    needed: u64,
    /// Bytes that people allow it.
    allowed: Option<u64>,
    /// Bytes that the system has.
    free: Option<u64>,
}

impl Room {
    /// Of a run that trains so many `parameters`, after its weights were loaded.
    fn of(settings: &Settings, parameters: u64) -> Self {
        let allowed = settings.memory.map(|memory| memory.saturating_sub(memory::resident_bytes().unwrap_or(0)));
        Self { needed: projection_bytes(parameters), allowed, free: memory::available_bytes() }
    }

    /// Whether a machine takes it unasked.
    fn is_ample(&self) -> bool {
        match (self.allowed, self.free) {
            (Some(allowed), _) => self.needed <= allowed,
            (None, Some(free)) => self.needed <= free / 2,
            (None, None) => false,
        }
    }

    fn check(&self, asked: Option<Estimator>) -> Result<()> {
        let fits = self.allowed.is_none_or(|allowed| self.needed <= allowed);
        ensure!(
            fits || !matches!(asked, Some(Estimator::Projection { .. })),
            "--estimator projection: {}; allow more, or take --estimator fzoo, which needs none",
            self.words()
        );
        Ok(())
    }

    /// What there is, in words.
    fn words(&self) -> String {
        let left = match (self.allowed, self.free) {
            (Some(allowed), _) => format!("--memory leaves {}", ByteSize(allowed)),
            (None, Some(free)) => format!("{} are free", ByteSize(free)),
            (None, None) => "the system does not tell what is free".to_owned(),
        };
        format!("a backward pass takes up to {}, and {left}", ByteSize(self.needed))
    }
}

/// Fails if people ask for more than they allow, in a run with so many trained `parameters` whose weights are loaded.
pub fn check(settings: &Settings, parameters: u64) -> Result<()> {
    Room::of(settings, parameters).check(settings.estimator)
}

/// How own gradients of a run with so many trained `parameters` are measured. Says what was chosen, and why. Fails as
/// [`check`] does.
pub fn choose(settings: &Settings, parameters: u64) -> Result<Estimator> {
    chosen(settings.estimator, &Room::of(settings, parameters))
}

fn chosen(asked: Option<Estimator>, room: &Room) -> Result<Estimator> {
    room.check(asked)?;
    let words = room.words();
    match asked {
        Some(estimator @ Estimator::Projection { .. }) => {
            if room.free.is_some_and(|free| room.needed > free) {
                tracing::warn!("{words}: smaller batches take less, --estimator fzoo takes none");
            }
            Ok(estimator)
        }
        Some(estimator) => Ok(estimator),
        None if room.is_ample() => {
            tracing::info!(
                "measuring by projection: {words} (--estimator fzoo takes none, and learns less in a second)"
            );
            Ok(Estimator::Projection { projections: Estimator::PROJECTIONS })
        }
        None => {
            tracing::info!(
                "measuring by forwards alone: {words} (--estimator projection learns faster, if that is enough)"
            );
            Ok(Estimator::default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROJECTION: Estimator = Estimator::Projection { projections: Estimator::PROJECTIONS };

    fn room(needed: u64, allowed: Option<u64>, free: Option<u64>) -> Room {
        Room { needed, allowed, free }
    }

    #[test]
    fn a_machine_projects_unasked_only_where_there_is_room() {
        let by = |room: Room| chosen(None, &room).unwrap();
        assert_eq!(by(room(100, None, Some(200))), PROJECTION);
        assert_eq!(by(room(101, None, Some(200))), Estimator::default());
        assert_eq!(by(room(100, None, None)), Estimator::default());
        assert_eq!(by(room(100, Some(99), Some(1_000))), Estimator::default());
        assert_eq!(by(room(100, Some(100), Some(110))), PROJECTION);
    }

    #[test]
    fn what_people_ask_for_is_done_unless_they_forbid_it() {
        assert_eq!(chosen(Some(PROJECTION), &room(100, None, Some(1))).unwrap(), PROJECTION);
        assert_eq!(chosen(Some(Estimator::Spsa), &room(100, None, Some(1_000))).unwrap(), Estimator::Spsa);
        let refused = chosen(Some(PROJECTION), &room(100 << 20, Some(1 << 20), None)).unwrap_err().to_string();
        for part in ["--memory leaves 1.0 MiB", "100.0 MiB", "--estimator fzoo"] {
            assert!(refused.contains(part), "{part} in {refused}");
        }
    }
}
