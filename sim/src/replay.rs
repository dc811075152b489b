//! `sim replay`: tells a peer again what a real node was told, and compares what it wants done with what it wanted
//! then.

use anyhow::{Context, Result};
use peer::{
    Output,
    record::{Replay, Step},
};
use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Write as _},
    fs::File,
    io::BufReader,
};

use crate::{
    cli::ReplayArgs,
    process::{Interrupt, say, say_while_read},
    progress::Meter,
};

/// How often each kind of input, or output, came.
#[derive(Default)]
struct Counts {
    by_kind: BTreeMap<String, u64>,
    name: String,
}

impl Counts {
    fn add(&mut self, thing: &impl Debug) {
        write_kind(&mut self.name, thing);
        match self.by_kind.get_mut(&self.name) {
            Some(count) => *count += 1,
            None => {
                self.by_kind.insert(self.name.clone(), 1);
            }
        }
    }

    fn total(&self) -> u64 {
        self.by_kind.values().sum()
    }

    /// The most frequent first.
    fn sorted(&self) -> Vec<(&str, u64)> {
        let mut counts: Vec<(&str, u64)> = self.by_kind.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        counts.sort_by_key(|(kind, count)| (std::cmp::Reverse(*count), *kind));
        counts
    }
}

/// Writes the name of a variant, and none of what is in it: that may be long.
fn write_kind(name: &mut String, thing: &impl Debug) {
    /// Takes the first thing that is written.
    struct First<'a>(&'a mut String);
    impl fmt::Write for First<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            if !self.0.is_empty() {
                return Err(fmt::Error);
            }
            self.0.push_str(text);
            Ok(())
        }
    }
    name.clear();
    // The error is how it ends.
    let _ = write!(First(name), "{thing:?}");
}

/// What a whole recording comes to.
#[derive(Default)]
struct Totals {
    inputs: Counts,
    outputs: Counts,
    steps: u64,
    span_ms: Option<(u64, u64)>,
    /// The first step that wanted something else than it did then, in words.
    differs: Option<String>,
}

impl Totals {
    fn add(&mut self, step: &Step) {
        self.steps += 1;
        self.inputs.add(&step.input);
        step.outputs.iter().for_each(|output: &Output| self.outputs.add(output));
        let begun_ms = self.span_ms.map_or(step.now_ms, |(begun_ms, _)| begun_ms);
        self.span_ms = Some((begun_ms, step.now_ms));
        if !step.is_as_recorded && self.differs.is_none() {
            self.differs = Some(format!("step {} at {} ms, {:?}", step.number, step.now_ms, step.input));
        }
    }

    fn say(&self) -> Result<()> {
        let (begun_ms, ended_ms) = self.span_ms.unwrap_or_default();
        let seconds = ended_ms.saturating_sub(begun_ms) as f64 / 1e3;
        say(format!("{} steps in {seconds:.1} seconds", self.steps))?;
        for (what, counts) in [("inputs", &self.inputs), ("outputs", &self.outputs)] {
            say(format!("{what}: {}", counts.total()))?;
            for (kind, count) in counts.sorted() {
                say(format!("  {kind:<18} {count:>12}"))?;
            }
        }
        match &self.differs {
            None => say("every step wants done what it wanted when it was recorded"),
            Some(step) => say(format!("this release decides otherwise, first in {step}")),
        }
    }
}

/// Runs a recording through a peer. False if any step wants something else than was recorded.
pub fn replay(args: &ReplayArgs, interrupt: &Interrupt) -> Result<bool> {
    let name = args.file.display();
    let file = File::open(&args.file).with_context(|| format!("{name} cannot be read"))?;
    let (mut meter, file) = Meter::of_file(file, "replaying").with_context(|| format!("{name}"))?;
    let mut replay = Replay::open(BufReader::new(file)).with_context(|| format!("{name}"))?;
    let mut totals = Totals::default();
    while let Some(step) = replay.next_step().with_context(|| format!("{name}, after {} steps", totals.steps))? {
        totals.add(&step);
        meter.say();
        if args.outputs && !meter.beside(|| say_while_read(line(&step)))? || interrupt.is_pressed() {
            break;
        }
    }
    drop(meter);
    totals.say()?;
    if replay.is_cut() {
        say("the recording ends within a step, as a crash leaves it")?;
    }
    Ok(totals.differs.is_none())
}

/// One step with its outputs.
fn line(step: &Step) -> String {
    let mark = if step.is_as_recorded { "" } else { " (recorded otherwise)" };
    format!("{} {} ms {:?} -> {:?}{mark}", step.number, step.now_ms, step.input, step.outputs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use peer::{Config, Input, NodeId, Peer, record::Recorder};
    use protocol::{replica::Settings, signature::Ed25519Verifier};

    /// A joiner that calls and asks two machines. Of the step at `forgets_at`, no outputs are recorded.
    fn recording(forgets_at: Option<u64>) -> Vec<u8> {
        let config = Config {
            key: [1; 32],
            incarnation: 1,
            is_new_incarnation: true,
            seed: 1,
            run: None,
            bootstrap: vec![NodeId(1)],
            knows_others: false,
            connections_target: 10,
            replica: Settings::default(),
        };
        let mut bytes = Vec::new();
        let mut recorder = Recorder::begin(&mut bytes, &config, 1 << 20).unwrap();
        let mut peer = Peer::new(config, Box::new(Ed25519Verifier));
        let inputs = [Input::Tick, Input::Connected(NodeId(1)), Input::Connected(NodeId(2)), Input::Tick];
        for (number, input) in (0..).zip(inputs) {
            let mut outputs = peer.step(input.clone(), 1_000 * number);
            if Some(number) == forgets_at {
                assert!(!outputs.is_empty(), "step {number} wants nothing done");
                outputs.clear();
            }
            assert!(recorder.step(1_000 * number, &input, &outputs).unwrap());
        }
        recorder.flush().unwrap();
        bytes
    }

    fn replayed(bytes: &[u8]) -> Result<bool> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("recording");
        std::fs::write(&file, bytes).unwrap();
        replay(&ReplayArgs { file, outputs: true }, &Interrupt::default())
    }

    #[test]
    fn a_recording_leads_to_the_same_decisions() {
        assert!(replayed(&recording(None)).unwrap());
        let whole = recording(None);
        assert!(replayed(&whole[..whole.len() - 3]).unwrap(), "a last step that was cut short is left out");
    }

    #[test]
    fn another_decision_and_damage_are_told_apart() {
        assert!(!replayed(&recording(Some(1))).unwrap());
        let mut damaged = recording(None);
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        let error = format!("{:#}", replayed(&damaged).unwrap_err());
        assert!(error.contains("after 3 steps: damaged in step 3"), "{error}");
        assert!(replayed(b"something else").is_err());
    }

    #[test]
    fn the_first_step_that_differs_is_named() {
        let (mut totals, bytes) = (Totals::default(), recording(Some(1)));
        let mut replay = Replay::open(&bytes[..]).unwrap();
        while let Some(step) = replay.next_step().unwrap() {
            totals.add(&step);
        }
        assert_eq!(totals.differs.as_deref(), Some("step 1 at 1000 ms, Connected(NodeId(1))"));
        assert_eq!((totals.steps, totals.span_ms), (4, Some((0, 3_000))));
    }

    #[test]
    fn things_are_counted_by_the_name_of_their_kind() {
        let mut counts = Counts::default();
        let gossip = Input::Gossip { from: NodeId(1), message: 1, bytes: vec![0; 5] };
        for input in [Input::Tick, gossip, Input::Found(NodeId(2)), Input::Tick] {
            counts.add(&input);
        }
        assert_eq!(counts.sorted(), [("Tick", 2), ("Found", 1), ("Gossip", 1)]);
        assert_eq!(counts.total(), 4);
    }
}
