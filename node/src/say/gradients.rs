//! Why own gradients rest.

use std::path::Path;

use crate::{control::pause::Cause, system::name::program};

/// Own gradients rest from now on, for this cause, or go on.
pub fn paused(cause: Option<Cause>, state: &Path) {
    let going_on = "this node goes on replaying and answering";
    match cause {
        Some(Cause::Asked) => {
            tracing::info!(
                "paused: no own gradients, {going_on}; `{} resume --state {}` ends it",
                program(),
                state.display()
            )
        }
        Some(Cause::Battery) => tracing::info!(
            "on battery, so paused (--pause-on-battery): no own gradients until the machine is fed again, {going_on}"
        ),
        None => tracing::info!("no longer paused: own gradients go on"),
    }
}

/// A tensor, and how far of the way to its range's end one of its weights is; or none any more.
pub fn near_edge(near: Option<&(String, f64)>) {
    match near {
        Some((tensor, share)) => tracing::error!(
            "a weight is near the end of its range: own probes pause ({tensor}, {:.1}% of the way). A peer may be \
             pushing it: a revocation heals it, or others' gradients that move it back. Or the run outgrew its planned \
             gradients",
            100.0 * share
        ),
        None => tracing::info!("all weights are well within their ranges again: probing goes on"),
    }
}
