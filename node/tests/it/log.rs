//! The log in a directory that a node is using, and in a file; and what people hear when it is damaged, cut short, of
//! another run, or forked.

use crate::support::{
    Workshop, assert_agreement, inspect,
    logs::{fails, heights, json, text, trained, until_contributed, works},
};
use node::log::{Log, export};
use protocol::{
    segment::{Chunk, Digest, Segment},
    signature::{Ed25519Signer, Signer},
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

/// Names, contents and times of a directory's files.
fn files(directory: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let file = |path: PathBuf| {
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        (path.clone(), (fs::read(&path).unwrap(), modified))
    };
    entries.map(file).collect()
}

#[test]
fn a_directory_is_read_while_its_node_trains_and_neither_suffers() {
    let workshop = Workshop::new();
    // So slowly that no weight nears the end of its range, however many gradients are made meanwhile.
    let mut node = workshop.first("node", &["--learning-rate", "1e-7"]);
    let state = workshop.state("node");
    until_contributed(&state, 50);
    let mut seen = 0;
    for round in 0..8 {
        let shown = json(&["log", "show", "--state", text(&state)]);
        let height = heights(&shown);
        assert!(height >= seen, "round {round}: {height} gradients after {seen}");
        seen = height;
        assert_eq!(shown["machines"].as_array().unwrap().len(), 1, "an inspector opens no incarnation: {shown:#}");
        assert_eq!(shown["machines"][0]["own"], true);
        let verified = json(&["log", "verify", "--state", text(&state)]);
        assert_eq!(verified["checkpoint_agrees"], true, "round {round}: {verified:#}");
        works(&["log", "export", "--state", text(&state), "--out", text(&workshop.state(&format!("{round}.1byte")))]);
    }
    until_contributed(&state, seen + 50);
    assert!(node.is_running() && !node.said("WARN") && !node.said("ERROR"), "{}", node.lines().join("\n"));
    node.leave();
    assert!(heights(&json(&["log", "show", "--state", text(&state)])) >= seen + 50);
    assert_agreement(&[state]);
}

#[test]
fn looking_at_a_directory_changes_nothing_in_it_not_even_in_a_copy() {
    let workshop = Workshop::new();
    let state = trained(&workshop, "node", 60);
    let copy = workshop.state("copy");
    fs::create_dir(&copy).unwrap();
    for name in files(&state).keys().filter_map(|path| path.file_name()) {
        fs::copy(state.join(name), copy.join(name)).unwrap();
    }
    let shown = inspect(&state, &["log", "show", "--json"]);
    for directory in [&state, &copy] {
        let before = files(directory);
        for command in ["show", "tail", "verify"] {
            inspect(directory, &["log", command]);
        }
        assert_eq!(inspect(directory, &["log", "show", "--json"]), shown);
        assert!(files(directory) == before, "{} was touched", directory.display());
    }
}

#[test]
fn an_exported_log_is_imported_with_the_same_vector_and_a_node_goes_on_with_it() {
    let workshop = Workshop::new();
    let first = workshop.first("first", &["--samples", "200"]);
    let (address, _) = first.join_line();
    first.until_gradients(200);
    let second =
        workshop.node("second", &["--bootstrap", &address, "--samples", "150", "--exit-when-idle", "2"]).finish();
    let state = first.leave();
    let (file, again) = (workshop.state("log.1byte"), workshop.state("again.1byte"));
    let exported = works(&["log", "export", "--state", text(&state), "--out", text(&file)]);
    assert!(exported.contains("350 gradients of 2 machines"), "{exported}");
    assert!(fails(&["log", "export", "--state", text(&state), "--out", text(&file)]).contains("is there already"));
    let show = |source: &[&str]| json(&[&["log", "show"], source].concat());
    let vector = show(&["--state", text(&state)])["vector"].clone();
    assert_eq!(show(&["--file", text(&file)])["vector"], vector);
    assert_eq!(show(&["--state", text(&second)])["vector"], vector);

    let fresh = workshop.state("fresh");
    let imported = works(&["log", "import", "--file", text(&file), "--state", text(&fresh)]);
    assert!(imported.contains("350 gradients are new, 350 are there now"), "{imported}");
    assert!(imported.contains("the base model is not there yet"), "{imported}");
    assert_eq!(show(&["--state", text(&fresh)])["vector"], vector);
    works(&["log", "export", "--state", text(&fresh), "--out", text(&again)]);
    assert!(fs::read(&again).unwrap() == fs::read(&file).unwrap(), "exports of one log differ");
    let imported = works(&["log", "import", "--file", text(&file), "--state", text(&fresh)]);
    assert!(imported.contains("0 gradients are new"), "{imported}");

    let verified = works(&["log", "verify", "--file", text(&file)]);
    assert!(verified.contains("all sound") && verified.contains("were not replayed"), "{verified}");
    let weights =
        json(&["log", "verify", "--file", text(&file), "--model", text(&workshop.model())])["weights"].clone();
    assert_eq!(weights, json(&["log", "verify", "--state", text(&state)])["weights"]);

    let error = fails(&["--state", text(&fresh), "--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0"]);
    assert!(error.contains("base model") && error.contains("--model") && error.contains("--bootstrap"), "{error}");
    let model = workshop.model();
    let node = workshop.node("fresh", &["--model", text(&model), "--samples", "10"]);
    until_contributed(&fresh, 360);
    let error = fails(&["log", "import", "--file", text(&file), "--state", text(&fresh)]);
    assert!(error.contains("in use by process"), "{error}");
    node.leave();
    let verified = json(&["log", "verify", "--state", text(&fresh)]);
    assert_eq!((&verified["entries"], &verified["checkpoint_agrees"]), (&360.into(), &true.into()), "{verified:#}");
}

#[test]
fn a_log_on_the_embedded_model_needs_no_base_beside_it() {
    let workshop = Workshop::new();
    let node = workshop.node("node", &["--samples", "30"]);
    until_contributed(&workshop.state("node"), 30);
    let state = node.leave();
    let (file, fresh) = (workshop.state("log.1byte"), workshop.state("fresh"));
    works(&["log", "export", "--state", text(&state), "--out", text(&file)]);
    let of_file = json(&["log", "verify", "--file", text(&file)]);
    let of_state = json(&["log", "verify", "--state", text(&state)]);
    assert_eq!((&of_file["weights"], &of_file["entries"]), (&of_state["weights"], &30.into()), "{of_file:#}");
    works(&["log", "import", "--file", text(&file), "--state", text(&fresh)]);
    let node = workshop.node("fresh", &["--samples", "5"]);
    until_contributed(&fresh, 35);
    node.leave();
    assert_agreement(&[fresh]);
}

#[test]
fn import_merges_what_is_new_and_refuses_another_run() {
    let workshop = Workshop::new();
    let state = trained(&workshop, "node", 60);
    let (old, new) = (workshop.state("old.1byte"), workshop.state("new.1byte"));
    works(&["log", "export", "--state", text(&state), "--out", text(&old)]);
    let node = workshop.node("node", &["--samples", "150"]);
    until_contributed(&state, 150);
    node.leave();
    works(&["log", "export", "--state", text(&state), "--out", text(&new)]);
    let target = workshop.state("target");
    for (file, expected) in
        [(&old, "60 gradients are new, 60"), (&new, "90 gradients are new, 150"), (&old, "0 gradients are new")]
    {
        let imported = works(&["log", "import", "--file", text(file), "--state", text(&target)]);
        assert!(imported.contains(expected), "{imported}");
    }
    assert_eq!(json(&["log", "diff", text(&target), text(&state)])["same"], true);
    let other = trained(&workshop, "other", 20);
    let before = json(&["log", "show", "--state", text(&other)]);
    let error = fails(&["log", "import", "--file", text(&new), "--state", text(&other)]);
    assert!(error.contains("two runs of the same settings") && error.contains("--state"), "{error}");
    assert_eq!(json(&["log", "show", "--state", text(&other)]), before);
    let error = fails(&["log", "diff", text(&old), text(&other)]);
    assert!(error.contains("two runs: "), "{error}");
}

/// An export of what `state` has, and behind sample `keep` of its machine another history under the same key.
fn forked_export(state: &Path, keep: u64, file: &Path) {
    let log = Log::of_state(state).unwrap();
    let own = log.own.unwrap();
    let signer = Ed25519Signer::from_seed(&log.state.as_ref().unwrap().secret_key());
    assert_eq!(signer.key(), own.key);
    let mut replica = node::log::onlooker(log.run, &log.manifest).unwrap();
    let (mut first, mut previous): (u64, Digest) = (0, [0; 32]);
    for segment in log.replica.ledger(&own).unwrap().chunks().iter().flat_map(|chunk| chunk.segments()) {
        let bytes = if segment.first < keep { segment.bytes.to_vec() } else { vec![7; segment.bytes.len()] };
        let segment = Segment { first, swarm_step: segment.swarm_step, bytes: &bytes };
        let (chunk, digest) = Chunk::sign(&log.run, own, segment, previous, &signer);
        (first, previous) = (chunk.end(), digest);
        replica.restore_chunk(chunk).unwrap();
    }
    export::write(&mut fs::File::create(file).unwrap(), &log.manifest_bytes, &replica).unwrap();
}

#[test]
fn two_histories_are_told_apart_and_become_a_fork_proof_on_import() {
    let workshop = Workshop::new();
    let state = trained(&workshop, "node", 400);
    let log = Log::of_state(&state).unwrap();
    let ledger = log.replica.ledger(&log.own.unwrap()).unwrap();
    let boundary = ledger.chunks()[0].segments().nth(1).unwrap().first;
    let forked = workshop.state("forked.1byte");
    forked_export(&state, boundary, &forked);
    let diff = json(&["log", "diff", text(&state), text(&forked)]);
    assert_eq!((&diff["same"], &diff["machines"][0]["fork"]), (&false.into(), &boundary.into()), "{diff:#}");
    let table = works(&["log", "diff", text(&state), text(&forked)]);
    assert!(table.contains(&format!("two histories from sample {boundary} on")), "{table}");
    let target = workshop.state("target");
    let honest = workshop.state("honest.1byte");
    works(&["log", "export", "--state", text(&state), "--out", text(&honest)]);
    works(&["log", "import", "--file", text(&honest), "--state", text(&target)]);
    let imported = works(&["log", "import", "--file", text(&forked), "--state", text(&target)]);
    assert!(imported.contains("signed two histories: all of it is out, 400 gradients"), "{imported}");
    let diff = json(&["log", "diff", text(&target), text(&honest)]);
    assert!(diff["machines"][0]["revoked_first"].as_str().unwrap().contains("forked"), "{diff:#}");
    // The other way round it ends the same.
    let other = workshop.state("other-way-round");
    works(&["log", "import", "--file", text(&forked), "--state", text(&other)]);
    works(&["log", "import", "--file", text(&honest), "--state", text(&other)]);
    assert_eq!(json(&["log", "diff", text(&target), text(&other)])["same"], true);
}

#[test]
fn damage_to_a_file_is_found_and_named_by_every_command() {
    let workshop = Workshop::new();
    let state = trained(&workshop, "node", 300);
    let file = workshop.state("log.1byte");
    works(&["log", "export", "--state", text(&state), "--out", text(&file)]);
    let bytes = fs::read(&file).unwrap();
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    println!("seed {seed}");
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let names = ["the header", "the manifest", "the contents", "machine ", "the statements", "the end"];
    for _ in 0..200 {
        let mut damaged = bytes.clone();
        let place = (random.next_u64() % bytes.len() as u64) as usize;
        damaged[place] ^= 1 + (random.next_u64() % 255) as u8;
        fs::write(&file, &damaged).unwrap();
        let error = format!("{:#}", Log::of_file(&file).err().unwrap_or_else(|| panic!("seed {seed}: byte {place}")));
        assert!(names.iter().any(|name| error.contains(name)), "seed {seed}: byte {place}: {error}");
    }
    // A byte of the ledger itself: right before its check, the statements', the end.
    let mut damaged = bytes.clone();
    damaged[bytes.len() - 64 - 16 - 16 - 1] ^= 0x10;
    fs::write(&file, &damaged).unwrap();
    let fresh = workshop.state("fresh");
    for command in ["show", "tail", "verify"] {
        let error = fails(&["log", command, "--file", text(&file)]);
        assert!(error.contains("machine ") && error.contains(" samples 0..300;"), "{error}");
    }
    fails(&["log", "import", "--file", text(&file), "--state", text(&fresh)]);
    assert!(!fresh.exists(), "a damaged file makes no directory");
    fs::write(&file, &bytes[..bytes.len() - 200]).unwrap();
    let error = fails(&["log", "show", "--file", text(&file)]);
    assert!(error.contains("ends in machine ") && error.contains("sections are sound"), "{error}");
}
