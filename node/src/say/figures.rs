//! What was measured, in figures.

use engine::objective::Evaluation;
use std::path::Path;

use crate::{
    system::name::program,
    watch::{Points, journal::Point},
};

/// The held-out loss is known.
pub fn evaluated(evaluation: &Evaluation, gradients: u64) {
    tracing::info!("held-out {}, after {gradients} gradients", evaluation_words(evaluation));
}

/// What an evaluation says.
pub fn evaluation_words(evaluation: &Evaluation) -> String {
    let loss = evaluation.loss;
    if let Some(score) = evaluation.score {
        return format!("mean score {score:.4} of {} completions", evaluation.count);
    }
    match (evaluation.accuracy(), evaluation.bits_per_byte) {
        (Some(accuracy), _) if evaluation.is_wrong_share() => format!("accuracy {accuracy:.4}"),
        (Some(accuracy), _) => format!("accuracy {accuracy:.4}, loss {loss:.4} nats per row"),
        (None, Some(bits)) => format!("loss {loss:.4} nats per token, {bits:.4} bits per byte"),
        (None, None) => format!("loss {loss:.4} nats per token"),
    }
}

/// The best held-out point that a node which leaves knows, and what to do with it.
pub fn best(points: &Points, state: &Path) {
    // The base is there without it.
    let Some(point) = points.best().filter(|point| is_learned(point)) else { return };
    tracing::info!(
        "best held-out point: {}, of {} looks; to have it: {} export --best --state {} --out <dir>. {CHOSEN}",
        figures(point),
        points.count(),
        program(),
        state.display()
    );
}

/// Whether any gradient is in it.
fn is_learned(point: &Point) -> bool {
    point.gradients() > 0
}

/// What choosing a point means.
pub const CHOSEN: &str =
    "It was chosen on that text, so its figure there flatters it: keep another text for the final word";

/// What a point measured, and after how many gradients.
pub fn figures(point: &Point) -> String {
    let (loss, unit, gradients) = (point.loss, &point.measure.unit, point.gradients());
    if let Some(score) = point.score {
        return format!("mean score {score:.4} after {gradients} gradients");
    }
    match (point.accuracy, point.bits_per_byte) {
        // A loss that is the share of what accuracy is not says nothing more.
        (Some(accuracy), _) if (loss + accuracy - 1.0).abs() < 1e-9 => {
            format!("accuracy {accuracy:.4} after {gradients} gradients")
        }
        (Some(accuracy), _) => format!("accuracy {accuracy:.4} ({loss:.4} {unit}) after {gradients} gradients"),
        (None, Some(bits)) => format!("{bits:.4} bits per byte ({loss:.4} {unit}) after {gradients} gradients"),
        (None, None) => format!("{loss:.4} {unit} after {gradients} gradients"),
    }
}
