//! `sim explore`: many seeds, until an invariant breaks.

use anyhow::Result;

use crate::{
    cli::ExploreArgs,
    process::{Interrupt, say},
    progress::Meter,
    scenario::Scenario,
    world::{Label, World},
};

/// Too slow to be run a thousand times: the one has a thousand machines, the others a real language model.
const LEFT_OUT: [&str; 3] = ["thousand", "real_model", "mixed"];

/// Runs until a seed fails or all have passed. True if all have.
pub fn explore(args: &ExploreArgs, interrupt: &Interrupt) -> Result<bool> {
    let names: Vec<String> = match args.scenarios.is_empty() {
        true => Scenario::names().filter(|name| !LEFT_OUT.contains(name)).map(Into::into).collect(),
        false => args.scenarios.clone(),
    };
    let scenarios = names.iter().map(|name| Scenario::load(name)).collect::<Result<Vec<_>>>()?;
    let all = args.seeds * scenarios.len() as u64;
    let mut meter = Meter::new("runs", "{elapsed}, {eta} left")?;
    let (mut passed, mut after_loss) = (0, 0usize);
    for seed in args.first_seed..args.first_seed.saturating_add(args.seeds) {
        for ((name, scenario), asked) in scenarios.iter().zip(&names) {
            meter.set(passed, all, format!("seed {seed}, {name}"));
            let reproduce = format!("sim run {asked} --seed {seed}");
            let label = Label { scenario: name.clone(), reproduce: reproduce.clone() };
            let summary = World::new(scenario.clone(), seed, None)?.run(&label, |_| !interrupt.is_pressed())?;
            let Some(summary) = summary else { return Ok(false) };
            after_loss += summary.signed_after_loss;
            if !summary.passed() {
                drop(meter);
                say(format!("seed {seed} breaks {name}:"))?;
                for (check, result) in summary.checks.iter().filter(|(_, result)| result.is_failure()) {
                    say(format!("  {check}: {result}"))?;
                }
                say(format!("reproduce it with\n  {reproduce}"))?;
                return Ok(false);
            }
            passed += 1;
        }
    }
    drop(meter);
    say(format!(
        "{passed} runs, {} scenarios, seeds {} to {}: every invariant held",
        scenarios.len(),
        args.first_seed,
        args.first_seed + args.seeds.saturating_sub(1)
    ))?;
    if after_loss > 0 {
        say(format!("{after_loss} samples were signed again by machines whose disks had lost what they acknowledged"))?;
    }
    Ok(true)
}
