//! `sim explore`: many seeds, until an invariant breaks.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write, stderr};

use crate::{
    cli::ExploreArgs,
    process::say,
    scenario::Scenario,
    world::{Label, World},
};

/// Too slow to be run a thousand times.
const LEFT_OUT: [&str; 2] = ["thousand", "real_model"];

/// Without a terminal, how far it is is said after so many seeds.
const SAID_EVERY: u64 = 25;

/// Runs until a seed fails or all have passed. True if all have.
pub fn explore(args: &ExploreArgs) -> Result<bool> {
    let names: Vec<String> = match args.scenarios.is_empty() {
        true => Scenario::names().filter(|name| !LEFT_OUT.contains(name)).map(Into::into).collect(),
        false => args.scenarios.clone(),
    };
    let scenarios = names.iter().map(|name| Scenario::load(name)).collect::<Result<Vec<_>>>()?;
    let bar = ProgressBar::new(args.seeds * scenarios.len() as u64);
    bar.set_style(ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} runs, {elapsed}, {eta} left")?);
    let mut after_loss = 0usize;
    for seed in args.first_seed..args.first_seed.saturating_add(args.seeds) {
        for ((name, scenario), asked) in scenarios.iter().zip(&names) {
            bar.set_message(format!("seed {seed}, {name}"));
            let reproduce = format!("sim run {asked} --seed {seed}");
            let label = Label { scenario: name.clone(), reproduce: reproduce.clone() };
            let record = World::new(scenario.clone(), seed, None)?.run(&label, |_| true)?;
            let Some(record) = record else { return Ok(false) };
            after_loss += record.signed_after_loss;
            if !record.passed() {
                bar.abandon();
                say(format!("seed {seed} breaks {name}:"))?;
                for (check, verdict) in record.checks.iter().filter(|(_, verdict)| verdict.is_failure()) {
                    say(format!("  {check}: {verdict}"))?;
                }
                say(format!("reproduce it with\n  {reproduce}"))?;
                return Ok(false);
            }
            bar.inc(1);
        }
        let done = seed - args.first_seed + 1;
        if !stderr().is_terminal() && done.is_multiple_of(SAID_EVERY) && done < args.seeds {
            let seconds = bar.elapsed().as_secs();
            // Nobody may be reading.
            let _ = writeln!(stderr(), "{done} of {} seeds passed, up to seed {seed}, {seconds} s", args.seeds);
        }
    }
    bar.finish_and_clear();
    say(format!(
        "{} runs, {} scenarios, seeds {} to {}: every invariant held",
        args.seeds * scenarios.len() as u64,
        scenarios.len(),
        args.first_seed,
        args.first_seed + args.seeds.saturating_sub(1)
    ))?;
    if after_loss > 0 {
        say(format!("{after_loss} samples were signed again by machines whose disks had lost what they acknowledged"))?;
    }
    Ok(true)
}
