//! What real nodes were told is told again: `node --record`, and the peer that the simulator runs.

use crate::support::{Workshop, command};
use node::storage::StateDir;
use peer::record::{Replay, ReplayError};
use std::{
    fs,
    io::BufReader,
    path::{Path, PathBuf},
};

/// Steps of the recording, all of which come out as they were recorded.
fn replays(file: &Path) -> u64 {
    let mut replay = Replay::open(BufReader::new(fs::File::open(file).unwrap())).unwrap();
    let mut steps = 0;
    while let Some(step) = replay.next_step().unwrap() {
        assert!(step.is_as_recorded, "{}: step {} at {} ms differs", file.display(), step.number, step.now_ms);
        steps += 1;
    }
    steps
}

/// Whether `needle` is anywhere in the file.
fn holds(file: &Path, needle: &[u8]) -> bool {
    fs::read(file).unwrap().windows(needle.len()).any(|window| window == needle)
}

/// The step at which a flipped bit is found.
fn damaged_at(file: &Path, byte: usize, flipped: &Path) -> u64 {
    let mut bytes = fs::read(file).unwrap();
    bytes[byte] ^= 4;
    fs::write(flipped, bytes).unwrap();
    let mut replay = Replay::open(BufReader::new(fs::File::open(flipped).unwrap())).unwrap();
    loop {
        match replay.next_step() {
            Ok(Some(step)) => assert!(step.is_as_recorded, "step {} is before the damage", step.number),
            Ok(None) => panic!("a flipped bit was not seen"),
            Err(ReplayError::Damaged { step, at, .. }) => {
                assert!(at as usize <= byte, "the step begins at byte {at}, the damage is at {byte}");
                return step;
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn what_three_nodes_were_told_gives_the_same_outputs_again_also_of_one_that_was_killed() {
    let workshop = Workshop::new();
    let text = fs::read_to_string(workshop.state("text.txt")).unwrap();
    let file = |name: &str| workshop.state(name).with_extension("recording");
    let names = ["first", "second", "third", "third-again"].map(|name| file(name).display().to_string());
    let record = |index: usize| ["--record", names[index].as_str()];
    let first = workshop.first("first", &[&["--samples", "80"], &record(0)[..]].concat());
    let (address, run) = first.join_line();
    let join = ["--bootstrap", &address, "--run", &run, "--samples", "60"];
    let second = workshop.node("second", &[&join, &record(1)[..]].concat());
    let third = workshop.node("third", &[&join, &record(2)[..]].concat());
    third.hear("caught up");
    second.hear("caught up");
    let recorded = Path::new(&names[2]);
    let has_steps = || fs::metadata(recorded).is_ok_and(|file| file.len() > 0) && replays(recorded) > 50;
    third.until("recorded", |_| has_steps());
    // Killed with -9, and started again with a recording of its own.
    drop(third);
    let third = workshop.node("third", &[&join, &record(3)[..]].concat());
    for node in [&first, &second, &third] {
        node.hear("at rest: ");
    }
    let states: Vec<PathBuf> = [first, second, third].into_iter().map(crate::support::Node::leave).collect();
    let files = names.map(PathBuf::from);
    for file in &files {
        let steps = replays(file);
        assert!(steps > 50, "{}: only {steps} steps", file.display());
        assert!(!holds(file, text.lines().next().unwrap().as_bytes()), "{}: a text is in it", file.display());
        for state in &states {
            let secret = StateDir::open_existing(state).unwrap().secret_key();
            assert!(!holds(file, &secret), "{}: the key of {} is in it", file.display(), state.display());
        }
    }
    let length = fs::metadata(&files[0]).unwrap().len() as usize;
    let steps: Vec<u64> =
        (1..6).map(|sixth| damaged_at(&files[0], sixth * length / 6, &workshop.state("flipped"))).collect();
    assert!(steps.is_sorted() && steps[0] < steps[4], "{steps:?}");
}

#[test]
fn a_recording_takes_no_others_place() {
    let workshop = Workshop::new();
    let file = workshop.state("kept");
    fs::write(&file, "something else").unwrap();
    let output =
        command(&workshop.state("state"), &["--samples", "0", "--record", file.to_str().unwrap()]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("kept") && error.contains("--record"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "something else");
}
