//! What a starter finds out before its run begins.

use anyhow::Result;
use engine::{
    base::Base,
    recipe::{
        budget, rate,
        survey::{Ground, Survey, survey},
    },
};
use std::time::{Duration, Instant};

use crate::system::display::progress_bar;

/// Learning rate where none can be measured.
pub const LEARNING_RATE: f64 = 1e-3;
/// Gradients are measured for so long at most; what follows takes about as long.
pub const SURVEY_TIME_MAX: Duration = Duration::from_secs(30);

/// The learning rate that the base and the text of a new run ask for, which is planned for so many `gradients`. The
/// hyperparameters of `ground` are the run's but for the rate.
///
/// It needs a checkpoint of its own, which it snaps: the run's base must be snapped once.
pub fn learning_rate(gradients: Option<u64>, ground: Ground<'_>) -> f64 {
    let begin = Instant::now();
    tracing::info!("finding the learning rate for this model and text (--learning-rate <rate> skips it)");
    let Some(survey) = look(ground) else { return LEARNING_RATE };
    let rate = rate::first_rate(&survey, gradients);
    let fall = match gradients {
        Some(gradients) => format!("falling to {} of it over {gradients} gradients", rate::LAST),
        None => "falling as an inverse square root (--gradients <n> plans for n)".into(),
    };
    tracing::info!(
        "learning rate {rate:.2e}, {fall}: {} gradients at the base gain {:.2} nats at {:.1e}, and a walk at random as far \
         costs {:.2}; found in {:.0} s",
        survey.gradients,
        survey.gain,
        survey.greedy_rate,
        survey.walk_cost * survey.gradients as f64 * survey.greedy_rate.powi(2),
        begin.elapsed().as_secs_f64(),
    );
    rate
}

/// The replay budget of a new run on `base`, whose weights are the same afterwards.
pub fn replay_budget(base: &mut Base) -> Result<u32> {
    let rate = budget::replay_rate(&mut base.weights, &base.groups)?;
    let budget = budget::replay_budget(rate);
    tracing::info!(
        "replay budget {budget} gradients a second for all machines together, a quarter of the {rate:.0} that this machine \
         replays (--replay-budget <n> chooses another)"
    );
    Ok(budget)
}

/// Surveys with a line that shows how far it is. None, with a warning, if the base and the text tell nothing.
fn look(ground: Ground<'_>) -> Option<Survey> {
    let bar = progress_bar(None, "learning rate", "{spinner} {msg}, {elapsed}");
    let found = survey(ground, &mut |doing| {
        bar.set_message(format!("learning rate: {doing}"));
        bar.tick();
    });
    bar.finish_and_clear();
    match found {
        Ok(survey) => Some(survey),
        Err(error) => {
            tracing::warn!(
                "no learning rate could be measured ({error:#}); taking {LEARNING_RATE:e} (--learning-rate <rate> chooses another)"
            );
            None
        }
    }
}
