//! `sim run`: one scenario, one or several sizes, a report.

use anyhow::{Context, Result, ensure};
use std::{
    fs::{self, File},
    io::{BufWriter, Write},
};

use crate::{
    cli::{Changes, RunArgs},
    process::{Interrupt, say},
    progress::Meter,
    report,
    scenario::{LanguageSettings, MACHINES_MAX, Scenario},
    summary::Summary,
    world::{Label, Progress, World},
};

impl Changes {
    /// Applies what was said to a scenario.
    pub fn apply(&self, scenario: &mut Scenario) -> Result<()> {
        fn set<T: Clone>(target: &mut T, said: &Option<T>) {
            if let Some(said) = said {
                *target = said.clone();
            }
        }
        set(&mut scenario.gradients, &self.gradients);
        set(&mut scenario.speed.gradients_per_second, &self.gradients_per_second);
        set(&mut scenario.speed.replay_us, &self.replay_us);
        set(&mut scenario.link.latency_ms, &self.latency_ms);
        set(&mut scenario.link.jitter_ms, &self.jitter_ms);
        set(&mut scenario.link.loss, &self.loss);
        set(&mut scenario.link.up_mbps, &self.up_mbps);
        set(&mut scenario.link.down_mbps, &self.down_mbps);
        set(&mut scenario.replica.flush_samples, &self.flush_samples);
        set(&mut scenario.replica.staleness_ms_max, &self.staleness_ms);
        set(&mut scenario.quadratic.dimensions, &self.dimensions);
        set(&mut scenario.quadratic.learning_rate, &self.learning_rate);
        if let Some(model) = &self.model {
            let language = scenario.language.get_or_insert_with(LanguageSettings::default);
            language.model = (model != "embedded").then(|| model.into());
        }
        match (&mut scenario.language, &self.data) {
            (Some(language), Some(data)) => language.data = Some(data.clone()),
            (None, Some(_)) => anyhow::bail!("--data is for language models: say --model, too"),
            _ => {}
        }
        if let Some(language) = &mut scenario.language {
            set(&mut language.learning_rate, &self.learning_rate);
            language.estimator = self.estimator.or(language.estimator);
            language.probes = self.probes.or(language.probes);
            language.projections = self.projections.or(language.projections);
        }
        scenario.check().with_context(|| format!("with{}", self.flags()))
    }

    /// As it is said on the command line.
    pub fn flags(&self) -> String {
        let mut flags = String::new();
        let mut say = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                flags.push_str(&format!(" --{name} {value}"));
            }
        };
        say("gradients", self.gradients.map(|v| v.to_string()));
        say("gradients-per-second", self.gradients_per_second.map(|v| v.to_string()));
        say("replay-us", self.replay_us.map(|v| v.to_string()));
        say("latency-ms", self.latency_ms.map(|v| v.to_string()));
        say("jitter-ms", self.jitter_ms.map(|v| v.to_string()));
        say("loss", self.loss.map(|v| v.to_string()));
        say("up-mbps", self.up_mbps.map(|v| v.to_string()));
        say("down-mbps", self.down_mbps.map(|v| v.to_string()));
        say("flush-samples", self.flush_samples.map(|v| v.to_string()));
        say("staleness-ms", self.staleness_ms.map(|v| v.to_string()));
        say("learning-rate", self.learning_rate.map(|v| v.to_string()));
        say("estimator", self.estimator.map(|v| v.to_string()));
        say("probes", self.probes.map(|v| v.to_string()));
        say("projections", self.projections.map(|v| v.to_string()));
        say("dimensions", self.dimensions.map(|v| v.to_string()));
        say("model", self.model.clone());
        say("data", self.data.as_ref().map(|v| v.display().to_string()));
        flags
    }
}

/// Runs, writes the report, prints the table. False if an invariant was broken, the machines did not become equal, or
/// it was interrupted: then there is no report.
pub fn run(args: &RunArgs, interrupt: &Interrupt) -> Result<bool> {
    let (name, mut scenario) = Scenario::load(&args.scenario)?;
    args.changes.apply(&mut scenario)?;
    let sizes = if args.nodes.is_empty() { vec![scenario.machines] } else { args.nodes.clone() };
    for size in &args.nodes {
        ensure!((1..=MACHINES_MAX).contains(size), "--nodes {size}: a run has 1 to {MACHINES_MAX} machines");
    }
    let largest = sizes.iter().max().copied().unwrap_or(1) as u64;
    let total = if sizes.len() > 1 { scenario.gradients * largest } else { scenario.gradients * sizes[0] as u64 };
    fs::create_dir_all(&args.out).with_context(|| format!("{}: cannot be made", args.out.display()))?;
    let mut summaries = Vec::new();
    for size in &sizes {
        let mut scenario = scenario.clone();
        scenario.machines = *size;
        scenario.gradients = (total / *size as u64).max(1);
        let reproduce =
            format!("sim run {} --seed {} --nodes {size}{}", args.scenario, args.seed, args.changes.flags());
        let label = Label { scenario: name.clone(), reproduce };
        let events = match sizes.len() {
            1 => args.out.join("events.bin"),
            _ => args.out.join(format!("events-{size}.bin")),
        };
        // It has its name once it is whole.
        let part = events.with_added_extension("part");
        let log: Option<Box<dyn Write>> = match args.event_log {
            true => {
                let file = File::create(&part).with_context(|| format!("{}: cannot be made", part.display()))?;
                Some(Box::new(BufWriter::new(file)))
            }
            false => None,
        };
        let world = World::new(scenario, args.seed, log)?;
        let Some(summary) = with_progress(world, &label, interrupt)? else {
            if args.event_log {
                fs::remove_file(&part).with_context(|| format!("{}: cannot be removed", part.display()))?;
            }
            return Ok(false);
        };
        summaries.push(summary);
        if args.event_log {
            fs::rename(&part, &events).with_context(|| format!("{}: cannot be made", events.display()))?;
        }
    }
    let page = report::write(&args.out, &summaries)?;
    say(report::table(&summaries))?;
    say(format!("report: {}", page.display()))?;
    Ok(summaries.iter().all(Summary::passed))
}

/// Runs one world, and shows how far it is; None if it was interrupted.
fn with_progress(world: World, label: &Label, interrupt: &Interrupt) -> Result<Option<Summary>> {
    let mut meter = Meter::new("gradients", "{elapsed}")?;
    world.run(label, |Progress { made, expected, seconds, machines }| {
        meter.set(made, expected, format!("{}: {machines} machines, {seconds:.0} s", label.scenario));
        !interrupt.is_pressed()
    })
}
