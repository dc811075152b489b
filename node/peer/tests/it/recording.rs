//! Recordings: what a peer did, it does again; what was changed is found where it was changed.

use crate::support::{Lab, goal};
use peer::{
    Config, Input, Output, Peer,
    record::{Recorder, Replay, ReplayError},
};
use protocol::{replica::Verdict, signature::Ed25519Verifier};

const MAGIC_BYTES: usize = 20;
const HEAD_BYTES: usize = 20;

/// A joiner, two others, gossip, a crash and a departure: recordings of all three.
fn recorded() -> (Lab, Vec<Vec<u8>>) {
    let mut lab = Lab::new(7);
    lab.record();
    for number in 0..3 {
        match number {
            2 => lab.add(),
            _ => lab.add_with_base(30),
        };
        lab.nodes[number].goals = goal(30);
        lab.nodes[number].disk.knows_others = number == 1;
        lab.nodes[number].bootstrap = if number == 0 { Vec::new() } else { vec![0] };
        lab.boot(number);
    }
    lab.pass_until(60_000, "all agree", |lab| lab.nodes[2].disk.has_base && lab.is_at_rest());
    lab.tell(1, Input::Leave);
    lab.pass(1_000);
    let files = (0..3).map(|number| lab.recorded(number)).collect();
    (lab, files)
}

/// Where each frame begins, the config's first, and where the file ends.
fn frames(file: &[u8]) -> Vec<usize> {
    let mut starts = vec![MAGIC_BYTES];
    while let Some(length) = file[starts[starts.len() - 1]..].first_chunk::<4>() {
        starts.push(starts[starts.len() - 1] + HEAD_BYTES + u32::from_le_bytes(*length) as usize);
    }
    assert_eq!(starts.last(), Some(&file.len()));
    starts
}

/// Steps until the end or the first error; the first step that is not as recorded.
fn replay(file: &[u8]) -> Result<(u64, Option<u64>), ReplayError> {
    let mut replay = Replay::open(file)?;
    let (mut steps, mut differs) = (0, None);
    while let Some(step) = replay.next_step()? {
        assert_eq!(step.number, steps);
        steps += 1;
        if !step.is_as_recorded {
            differs.get_or_insert(step.number);
        }
    }
    Ok((steps, differs))
}

#[test]
fn a_recorded_run_of_several_peers_replays_to_equal_outputs() {
    let (lab, files) = recorded();
    for (number, file) in files.iter().enumerate() {
        let steps = frames(file).len() as u64 - 2;
        assert_eq!(replay(file).unwrap(), (steps, None), "node {number}");
        let mut replayed = Replay::open(&file[..]).unwrap();
        while replayed.next_step().unwrap().is_some() {}
        assert!(!replayed.is_cut());
        assert_eq!(replayed.bytes(), file.len() as u64);
        assert_eq!(replayed.peer().facts(), lab.nodes[number].peer().facts());
        let root = |peer: &Peer| peer.replica().unwrap().root();
        assert_eq!(root(replayed.peer()), root(lab.nodes[number].peer()));
    }
}

/// Steps of a recording, decoded: times, inputs, and what came of them.
fn steps(file: &[u8]) -> Vec<(u64, Input, Vec<Output>)> {
    let mut replay = Replay::open(file).unwrap();
    let mut steps = Vec::new();
    while let Some(step) = replay.next_step().unwrap() {
        steps.push((step.now_ms, step.input, step.outputs));
    }
    steps
}

/// The recording with the content of step `number` replaced by another input, and right checks.
fn with_input(file: &[u8], number: usize, input: &Input) -> Vec<u8> {
    let starts = frames(file);
    let (start, end) = (starts[number + 1], starts[number + 2]);
    let content = &file[start + HEAD_BYTES..end];
    let (now_ms, old, _) = &steps(&file[..end])[number];
    let encode = |input: &Input| protocol::encoding::encode::<_, { 1 << 26 }>(&(*now_ms, input)).unwrap();
    let outputs = &content[encode(old).len()..];
    let content = [&encode(input)[..], outputs].concat();
    let check = |bytes: &[u8]| {
        let hash = blake3::Hasher::new().update(&(number as u64 + 1).to_le_bytes()).update(bytes).finalize();
        hash.as_bytes()[..8].to_vec()
    };
    let length = (content.len() as u32).to_le_bytes();
    [&file[..start], &length, &check(&length), &check(&content), &content, &file[end..]].concat()
}

#[test]
fn an_input_that_was_changed_is_found_at_exactly_its_step() {
    let (_, files) = recorded();
    let mut changed = 0;
    for file in &files {
        for (number, (_, input, outputs)) in steps(file).iter().enumerate() {
            let is_unheard = |output: &Output| match output {
                Output::Validate { verdict, .. } => *verdict == Verdict::Ignore,
                Output::Drop { .. } => true,
                _ => false,
            };
            let other = match input {
                // To a joiner, all questions are alike.
                _ if outputs.iter().any(is_unheard) => continue,
                Input::Gossip { from, message, .. } => {
                    Input::Gossip { from: *from, message: *message, bytes: vec![0xff; 3] }
                }
                Input::Request { from, request, .. } => {
                    Input::Request { from: *from, request: *request, bytes: vec![0xff; 3] }
                }
                Input::Signed { token, signature } => {
                    let mut signature = *signature;
                    signature.0[0] ^= 1;
                    Input::Signed { token: *token, signature }
                }
                _ => continue,
            };
            changed += 1;
            let file = with_input(file, number, &other);
            assert_eq!(replay(&file).unwrap().1, Some(number as u64), "{input:?}");
        }
    }
    assert!(changed > 40, "{changed} inputs could be changed");
}

#[test]
fn an_unchanged_input_written_again_is_the_same_file() {
    let (_, files) = recorded();
    let all = steps(&files[0]);
    for number in [0, 3, all.len() / 2, all.len() - 1] {
        assert!(with_input(&files[0], number, &all[number].1) == files[0]);
    }
}

#[test]
fn a_flipped_byte_is_named_at_its_step() {
    let (_, files) = recorded();
    let file = &files[2];
    let starts = frames(file);
    for (place, at) in
        (MAGIC_BYTES..file.len()).step_by(997).chain(starts[1..starts.len() - 1].iter().copied()).enumerate()
    {
        let mut bytes = file.clone();
        bytes[at] ^= 1 << (place % 8);
        let frame = starts.iter().rposition(|start| *start <= at).unwrap();
        match replay(&bytes) {
            Err(ReplayError::Damaged { step, at: begins, .. }) => {
                assert_eq!((step, begins), ((frame as u64).saturating_sub(1), starts[frame] as u64), "byte {at}");
            }
            other => panic!("byte {at}: {other:?}"),
        }
    }
    for at in 0..MAGIC_BYTES {
        let mut bytes = file.clone();
        bytes[at] ^= 1;
        assert!(matches!(replay(&bytes), Err(ReplayError::NotOne)));
    }
}

#[test]
fn every_byte_of_a_length_counts() {
    let (_, files) = recorded();
    let start = frames(&files[0])[5];
    for at in start..start + 4 {
        for bit in 0..8 {
            let mut bytes = files[0].clone();
            bytes[at] ^= 1 << bit;
            assert!(matches!(replay(&bytes), Err(ReplayError::Damaged { step: 4, .. })), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_file_that_is_cut_anywhere_ends_cleanly() {
    let (_, files) = recorded();
    let file = &files[0][..files[0].len().min(40_000)];
    let starts = {
        let all = frames(&files[0]);
        all.into_iter().filter(|start| *start <= file.len()).collect::<Vec<_>>()
    };
    for end in (0..file.len()).step_by(61).chain(starts.iter().copied()) {
        let cut = &file[..end];
        let mut replay = match Replay::open(cut) {
            Ok(replay) => replay,
            Err(ReplayError::NotOne) if end < starts[1] => continue,
            Err(error) => panic!("cut at {end}: {error}"),
        };
        let mut steps = 0;
        while let Some(step) = replay.next_step().unwrap() {
            assert!(step.is_as_recorded);
            steps += 1;
        }
        let whole = starts.iter().filter(|start| **start <= end).count() - 2;
        assert_eq!(steps, whole, "cut at {end}");
        assert_eq!(replay.is_cut(), !starts.contains(&end), "cut at {end}");
        assert!(replay.next_step().unwrap().is_none(), "and nothing comes after the end");
    }
}

fn config() -> Config {
    Config {
        key: crate::support::machine(0, 1).key,
        incarnation: 1,
        is_new_incarnation: true,
        seed: 5,
        run: None,
        bootstrap: Vec::new(),
        knows_others: false,
        connections_target: 4,
        replica: protocol::replica::Settings::default(),
    }
}

#[test]
fn a_recording_ends_at_its_bound_and_still_replays() {
    let mut whole = Vec::new();
    let (config, inputs) = (config(), vec![Input::Tick; 300]);
    for bytes_max in [0, 30, 400, 2_000, 9_000] {
        let mut file = Vec::new();
        let mut recorder = Recorder::begin(&mut file, &config, bytes_max).unwrap();
        let mut peer = Peer::new(config.clone(), Box::new(Ed25519Verifier));
        let mut has_ended = false;
        for (at, input) in inputs.iter().enumerate() {
            let outputs = peer.step(input.clone(), 50 * at as u64);
            let is_written = recorder.step(50 * at as u64, input, &outputs).unwrap();
            assert!(!(has_ended && is_written), "what has ended does not begin again");
            has_ended |= !is_written;
        }
        assert!(has_ended);
        assert!(file.len() <= (bytes_max as usize).max(MAGIC_BYTES), "{} of {bytes_max} bytes", file.len());
        if bytes_max >= 400 {
            let (steps, differs) = replay(&file).unwrap();
            assert!(steps > 0 && differs.is_none());
            assert!(file.starts_with(&whole));
            whole = file;
        }
    }
}

/// A file on a disk that is full after so many bytes.
struct Full(usize, Vec<u8>);

impl std::io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = self.0.min(bytes.len());
        self.0 -= room;
        self.1.extend(&bytes[..room]);
        if room > 0 { Ok(room) } else { Err(std::io::Error::other("no room")) }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_recording_on_a_full_disk_ends_where_it_was_torn() {
    let mut file = Full(500, Vec::new());
    let mut recorder = Recorder::begin(&mut file, &config(), u64::MAX).unwrap();
    let written: Vec<bool> =
        (0..40).map(|at| recorder.step(at, &Input::Tick, &[]).is_ok_and(|is_written| is_written)).collect();
    let steps = written.iter().take_while(|is_written| **is_written).count();
    assert!(steps > 0 && written[steps..].iter().all(|is_written| !is_written));
    // Space comes back, and nothing is written behind the torn frame.
    let (replayed, differs) = replay(&file.1).unwrap();
    assert_eq!((replayed, differs), (steps as u64, None));
}

#[test]
fn no_recording_holds_a_secret_or_a_text() {
    const TEXT: &[u8] = b"Once upon a time a machine was told something in confidence.";
    let (lab, files) = recorded();
    let holds = |file: &[u8], what: &[u8]| file.windows(what.len()).any(|window| window == what);
    for file in &files {
        for number in 0..3 {
            let secret = lab.secret(number);
            assert!(!holds(file, &secret) && !holds(file, &secret[..16]) && !holds(file, &secret[16..]));
        }
        assert!(!holds(file, TEXT) && !holds(file, &TEXT[..16]));
        assert!(
            !crate::support::base().iter().any(|chunk| holds(file, &chunk[..64])),
            "nor the base, which has the tokenizer in it"
        );
    }
    assert!(
        holds(&files[0], &crate::support::machine(0, 0).key),
        "the public key is in it, so the search would find one"
    );
}
