//! The base model of a run in a state directory: damaged, in other files, partly frozen.

use crate::support::{Workshop, in_shards, inspect};
use engine::{
    base::{Base, BaseSettings, Trained},
    embedded,
    model::Checkpoint,
};
use node::storage::{self, StateDir, opened::Opened, records, start_run};
use protocol::{
    manifest::{DirectionScale, ElementType, Hyperparameters, Manifest, Membership, ObjectiveLine, Role, Schedule},
    replica::Settings,
};
use std::{fs, path::Path, process::Command};

fn settings(trained: Trained) -> BaseSettings {
    let hyperparameters = Hyperparameters {
        learning_rate: 2e-3,
        epsilon: 1e-2,
        planned_gradients: 100_000,
        direction_scale: DirectionScale::Rms,
    };
    BaseSettings {
        objective: ObjectiveLine::NextToken,
        hyperparameters,
        schedule: Schedule::default(),
        ledger_samples_max: 1 << 32,
        replay_budget: 1_000_000,
        authority: None,
        trained,
        adapters: None,
    }
}

/// A new run in `state`.
fn begin(state: &StateDir, checkpoint: Checkpoint, trained: Trained) -> anyhow::Result<Manifest> {
    let settings = settings(trained);
    start_run(state, &Base::of_new_run(checkpoint, &settings, [7; 16])?, settings, Membership::Open, None)
}

/// What a command that must fail says.
fn refused(state: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_node")).args(arguments).arg("--state").arg(state).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && !error.contains("panicked"), "{arguments:?}: {error}");
    error
}

#[test]
fn a_damaged_base_is_named_by_file_or_tensor() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let state = StateDir::create_or_open(&path).unwrap();
    let manifest = begin(&state, embedded::checkpoint().unwrap(), Trained::All).unwrap();
    drop(state);
    let file = path.join("base");
    let sound = fs::read(&file).unwrap();
    let begins = |role| -> usize {
        manifest.base.files.iter().take_while(|file| file.role != role).map(|file| file.bytes as usize).sum()
    };
    let end_of_weights = begins(Role::Gguf);
    let cases = [
        (begins(Role::Config), "config.json in it is damaged"),
        (begins(Role::Tokenizer) + 9, "tokenizer.json in it is damaged"),
        (begins(Role::Weights), "model.safetensors"),
        (begins(Role::Weights) + 20, "model.safetensors"),
        (end_of_weights - 1, "has other values"),
    ];
    for (place, expected) in cases {
        let mut damaged = sound.clone();
        damaged[place] ^= 1;
        fs::write(&file, damaged).unwrap();
        let error = refused(&path, &["digest"]);
        assert!(error.contains(expected) && error.contains(&file.display().to_string()), "byte {place}: {error}");
    }
    for length in [0, 100, begins(Role::Weights) + 4, end_of_weights - 1] {
        fs::write(&file, &sound[..length]).unwrap();
        refused(&path, &["digest"]);
    }
    fs::write(&file, &sound).unwrap();
    inspect(&path, &["digest"]);
}

#[test]
fn the_same_tensors_in_other_files_are_kept_and_read_again_and_give_way_to_the_runs_files() {
    let workshop = Workshop::new();
    let started = StateDir::create_or_open(&workshop.state("started")).unwrap();
    let original = || Checkpoint::load(&workshop.model()).unwrap();
    let manifest = begin(&started, original(), Trained::All).unwrap();
    let joined = StateDir::create_or_open(&workshop.state("joined")).unwrap();
    joined.set_manifest(&manifest.encode().unwrap()).unwrap();
    let copy = Checkpoint::load(&in_shards(&workshop)).unwrap();
    let part = workshop.state("joined").join("base.part");
    fs::write(&part, "what peers had sent").unwrap();
    let other = joined.adopt_base(&manifest, &Base::of_run(&manifest, copy).unwrap()).unwrap();
    assert_eq!(other.as_deref(), Some("model.safetensors"), "what people are told to look for");
    assert!(!part.exists(), "what is here need not come");
    let reader = joined.base(&manifest).unwrap();
    assert!(reader.chunk_digests().is_none() && reader.chunk(0).is_err(), "it has none of the run's bytes to give");
    assert_eq!(reader.load().unwrap().weights.digest(), manifest.base_digest());
    assert_eq!(reader.checkpoint().unwrap().files.len(), 5);

    assert_eq!(joined.adopt_base(&manifest, &Base::of_run(&manifest, original()).unwrap()).unwrap(), None);
    let reader = joined.base(&manifest).unwrap();
    assert_eq!(reader.chunk_digests().unwrap().len() as u64, manifest.base.chunks());
    let string: Vec<u8> = (0..manifest.base.chunks()).flat_map(|index| reader.chunk(index).unwrap()).collect();
    assert!(string == fs::read(workshop.state("started").join("base")).unwrap());
    assert_eq!(manifest.base.source, "model", "the last part of its path");
    let encoded = manifest.encode().unwrap();
    let parent = workshop.model().parent().unwrap().to_str().unwrap().to_owned();
    assert!(!encoded.windows(parent.len()).any(|bytes| bytes == parent.as_bytes()), "no path gets into a manifest");
}

/// A start whose disk was full left as much of the base as had found room, and its directory with it.
#[test]
fn a_base_that_cannot_be_written_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let state = StateDir::create_or_open(&path).unwrap();
    // Nothing can be renamed to a directory.
    fs::create_dir(path.join("base")).unwrap();
    begin(&state, embedded::checkpoint().unwrap(), Trained::All).unwrap_err();
    fs::remove_dir(path.join("base")).unwrap();
    state.take_back();
    let left = fs::read_dir(&path).map(|left| left.map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>());
    assert!(left.is_err(), "{left:?}");
}

#[test]
fn frozen_tensors_survive_a_checkpoint_and_are_exported_as_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state");
    let trained = "model.norm.weight";
    let state = StateDir::create_or_open(&path).unwrap();
    let only = Trained::Only([trained.to_owned()].into());
    begin(&state, embedded::checkpoint().unwrap(), only).unwrap();
    let opened = Opened::of(state).unwrap();
    let base = opened.base_weights().unwrap();
    assert_eq!(base.specs().len(), 1);
    let written = opened.state.checkpoint_writer().unwrap().write(&base).unwrap();
    let mut disk = storage::spawn(&opened.state).unwrap();
    disk.commit_checkpoint(written, records::encode_contents(&[]).unwrap(), Vec::new());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(disk.drain()).unwrap();
    assert_eq!(fs::metadata(path.join("checkpoint-1")).unwrap().len(), 4 * opened.manifest.parameters());
    let mut replica = opened.replica(Settings::default()).unwrap();
    let resumed = opened.weights(|contents| Ok(replica.resume(&contents))).unwrap();
    let model = opened.model(&resumed);
    assert!(model.is_ok() && resumed.tensors().len() == base.tensors().len());
    drop((model, opened));

    let out = directory.path().join("out");
    inspect(&path, &["export", "--out", out.to_str().unwrap()]);
    let (exported, original) = (Checkpoint::load(&out).unwrap(), embedded::checkpoint().unwrap());
    for (name, _) in original.shapes() {
        let bytes = |checkpoint: &Checkpoint| {
            let mut all = Vec::new();
            checkpoint
                .for_each_bytes(name, |bytes| {
                    all.extend_from_slice(bytes);
                    Ok(())
                })
                .unwrap();
            all
        };
        match name == trained {
            true => assert_eq!(exported.element_type(name).unwrap(), ElementType::F32),
            false => assert!(bytes(&exported) == bytes(&original), "{name}"),
        }
    }
    // A frozen tensor is checked at every start, although no checkpoint holds it.
    let (manifest, _) =
        Manifest::decode(&StateDir::open_existing(&path).unwrap().manifest().unwrap().unwrap()).unwrap();
    let mut bytes = fs::read(path.join("base")).unwrap();
    let weights: u64 = manifest.base.files[..2].iter().map(|file| file.bytes).sum();
    let header = bytes[weights as usize..].first_chunk().map(|length| u64::from_le_bytes(*length)).unwrap();
    // The trained tensor comes last in this file.
    bytes[(weights + 8 + header) as usize] ^= 1;
    fs::write(path.join("base"), &bytes).unwrap();
    let error = refused(&path, &["digest"]);
    assert!(error.contains("damaged, or not the base of this run"), "{error}");
}
