//! The published vectors of everything normative: `tests/vectors/protocol_2.json`.
//!
//! `ONEBYTE_WRITE_VECTORS=1` rewrites the file, which is right only together with a new protocol version.
//! `scripts/vectors.py` recomputes it in pure Python from the documented formulas alone.

use protocol::{
    codec::{self, MULTIPLIER_ONE, VOID},
    machine::MachineId,
    manifest::{
        ADAPTER_ONE, Adapter, Appendix, BaseModel, BaseTensor, DirectionScale, EPSILON_ONE, ElementType, Group, Groups,
        Half, HeldOut, Hyperparameters, Knot, Manifest, Membership, ObjectiveLine, Origin, PROTOCOL_VERSION, Role,
        RunId, Schedule, TensorSpec, Treatment, combine_digests,
    },
    perturbation::{BLOCK, BlockSigns, STEP, lane_states, sign},
    replay::{Contribution, Sweep, sweep_reference},
    seed::{EntrySeed, EntrySeeds, TensorKey},
};
use serde_json::{Value, json};
use std::collections::BTreeSet;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn words(words: &[u64]) -> Vec<String> {
    words.iter().map(|word| format!("{word:016x}")).collect()
}

fn run() -> RunId {
    RunId(std::array::from_fn(|index| index as u8))
}

fn machine() -> MachineId {
    MachineId { key: std::array::from_fn(|index| 32 + index as u8), incarnation: 0x0123_4567_89AB_CDEF }
}

/// Of the tensors of [`specs`].
fn groups() -> Groups {
    let member = |weight| Group { weight, epsilon: EPSILON_ONE };
    Groups { members: [1, 2, 4].map(member).to_vec(), round_samples: 16 }
}

fn entry_seed(sample: u64) -> EntrySeed {
    EntrySeed::derive(&run(), &machine(), sample, &groups())
}

fn seeds() -> Value {
    let samples = [0, 1, (1 << 40) - 1];
    let seeds = samples.map(|sample| json!({ "sample": sample, "seed": hex(&entry_seed(sample).bytes) }));
    json!({
        "run": hex(&run().0), "key": hex(&machine().key), "incarnation": format!("{:016x}", machine().incarnation),
        "handle": hex(&machine().handle().0), "seeds": seeds,
    })
}

/// Groups of samples around the ends of rounds: of a machine that measures from sample 0 on, of one that goes on at
/// sample 7, and of another incarnation.
fn round_groups() -> Value {
    let groups = groups();
    let of = |machine: MachineId, samples: &[u64]| -> Vec<Value> {
        let run = run();
        let mut seeds = EntrySeeds::new(&run, &machine, &groups);
        samples.iter().map(|sample| json!([sample, seeds.of(*sample).group])).collect()
    };
    let samples = [0, 1, 15, 16, 17, 31, 32, 33, 47, 48, 64, 80, 96, 112, 1 << 20, (1 << 40) - 1];
    let restarted = [7, 8, 15, 16, 17];
    let incarnation = 1;
    let unequal = Groups { members: vec![Group { weight: 1 << 20, epsilon: EPSILON_ONE }; 1024], ..groups.clone() };
    let many: Vec<_> = (0..8).map(|round| json!([round, unequal.of_round(&run(), &machine(), round)])).collect();
    json!({
        "weights": groups.members.iter().map(|group| group.weight).collect::<Vec<_>>(),
        "round_samples": groups.round_samples, "groups": of(machine(), &samples),
        "restarted_at_7": of(machine(), &restarted), "incarnation": incarnation,
        "of_incarnation": of(MachineId { incarnation, ..machine() }, &samples),
        "of_1024_of_weight_1048576": many,
    })
}

fn tensor_keys() -> Value {
    let key = |(sample, tensor): (u64, u32)| {
        let key = entry_seed(sample).tensor_key(tensor);
        json!({ "sample": sample, "tensor": tensor, "words": words(&key.words), "rounding": key.rounding })
    };
    Value::from([(0, 0), (0, 1), (1, 0), (1, u32::MAX)].map(key).to_vec())
}

fn key() -> TensorKey {
    entry_seed(0).tensor_key(0)
}

/// Of tensor 0 of sample 0.
fn lanes() -> Value {
    let lanes = |block: u64| {
        let states: Vec<_> = lane_states(&key(), block).iter().map(|state| words(state)).collect();
        json!({ "block": format!("{block:016x}"), "lanes": states })
    };
    Value::from([0, 1, 1 << 40, u64::MAX].map(lanes).to_vec())
}

/// Of tensor 0 of sample 0: first, second and last step of a block, and single elements of a block that is not full.
fn signs() -> Value {
    let steps = |block: u64| -> Vec<[u64; 8]> {
        let mut signs = BlockSigns::new(&key(), block);
        (0..BLOCK / STEP).map(|_| signs.next_step()).collect()
    };
    let step =
        |(block, step): (u64, usize)| json!({ "block": block, "step": step, "words": words(&steps(block)[step]) });
    // As kernels see it: a tensor of 16,384 + 700 elements moved by +1 · z.
    let mut partial = vec![0.0f32; BLOCK + 700];
    let sweep = protocol::replay::TensorSweep { wide: vec![(key(), 1)], narrow: vec![], shift: 0 };
    sweep_reference(&mut partial, 1.0, &sweep, 0);
    let elements = [0, 1, 63, 64, 511, 512, BLOCK - 1, BLOCK, BLOCK + 512, BLOCK + 699];
    let element = |element: usize| {
        let direct = sign(&steps((element / BLOCK) as u64)[element % BLOCK / STEP], element % STEP);
        assert_eq!(partial[element], direct as f32);
        json!({ "element": element, "sign": direct })
    };
    json!({
        "steps": Vec::from([(0, 0), (0, 1), (0, 31), (1, 0), (7, 31)].map(step)),
        "elements_of_17084": elements.map(element).to_vec(),
    })
}

fn decoded() -> Value {
    let largest = ((254u64) << 32) / 127;
    assert!(codec::unit_is_valid(largest) && !codec::unit_is_valid(largest + 1));
    let mut rows = Vec::new();
    for unit in [1u64 << 32, largest, 0x1234_5678, 0] {
        for byte in [0, 1, -1, 32, -32, 127, -127, VOID] {
            for rounding in [0, 1 << 31, u32::MAX] {
                rows.push(json!([byte, unit, rounding, codec::decode(byte, unit, rounding)]));
            }
        }
    }
    Value::from(rows)
}

fn units() -> Value {
    let rows =
        [(1 << 32, MULTIPLIER_ONE), (1 << 32, 1), ((254 << 32) / 127, MULTIPLIER_ONE - 1), (12345, 1 << 23), (7, 0)];
    Value::from(rows.map(|(unit, multiplier)| json!([unit, multiplier, codec::unit_at(unit, multiplier)])).to_vec())
}

fn schedule() -> Schedule {
    let knot = |step, multiplier| Knot { step, multiplier };
    Schedule { knots: vec![knot(10, 0), knot(110, MULTIPLIER_ONE), knot(1110, MULTIPLIER_ONE / 7), knot(1111, 5)] }
}

fn multipliers() -> Value {
    let steps = [0, 9, 10, 11, 60, 109, 110, 111, 113, 1109, 1110, 1111, 1112, 1 << 40];
    let rows = steps.map(|step| json!([step, schedule().multiplier(step)])).to_vec();
    let knots: Vec<_> = schedule().knots.iter().map(|knot| json!([knot.step, knot.multiplier])).collect();
    assert_eq!(Schedule::default().multiplier(77), MULTIPLIER_ONE);
    json!({ "knots": knots, "multipliers": rows })
}

fn specs() -> Vec<TensorSpec> {
    let spec = |name: &str, shape: &[u64], group, range_log2, epsilon, unit, shift| {
        let (shape, origin) = (shape.to_vec(), Origin::Base { digest: [0; 32] });
        TensorSpec { name: name.into(), shape, group, range_log2, epsilon, unit, shift, origin }
    };
    let half = |half: Half, shape: &[u64], initial| {
        let adapter = Adapter { half, rank: 4, scaling: 2 * ADAPTER_ONE, direction_scale: ADAPTER_ONE, initial };
        let spec = spec(&format!("d{}", half.suffix()), shape, 1, 2, 4_194, 3 << 31, 1);
        TensorSpec { origin: Origin::Adapter(adapter), ..spec }
    };
    vec![
        spec("a", &[3, 5], 0, 0, 1, 0x1_2345_6789, 0),
        spec("b", &[2, 8250], 1, 1, 16_777, (254 << 32) / 127, 3),
        spec("c", &[700], 2, 40, 8_388_607, 1 << 32, 16),
        half(Half::A, &[4, 300], 1 << 20),
        half(Half::B, &[20, 4], 0),
    ]
}

/// Of the run whose adapters are in [`specs`].
const NONCE: [u8; 16] = [0xA5; 16];

/// First values of the adapter in [`specs`].
fn adapters() -> Value {
    let values = |spec: &TensorSpec| {
        let values = base(spec);
        let first: Vec<i32> = values[..8].iter().map(|value| (value / spec.quantum()) as i32).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        json!({ "name": spec.name, "first_quanta": first, "digest": hex(blake3::hash(&bytes).as_bytes()) })
    };
    let specs = specs();
    let adapters = specs.iter().filter(|spec| spec.adapter().is_some());
    json!({ "nonce": hex(&NONCE), "values": adapters.map(values).collect::<Vec<_>>() })
}

/// Weight number `element` of a base: `(element · 2654435761 mod 2^25) − 2^24` quanta, so that some entries wrap
/// around; an adapter's first values are its own.
fn base(spec: &TensorSpec) -> Vec<f32> {
    if let Some(adapter) = spec.adapter() {
        return adapter.initial_values(&spec.name, spec.elements() as usize, spec.quantum(), &NONCE);
    }
    let n = |element: u64| (element.wrapping_mul(2_654_435_761) % (1 << 25)) as i32 - (1 << 24);
    (0..spec.elements()).map(|element| n(element) as f32 * spec.quantum()).collect()
}

/// [sample, byte, swarm step, removed].
const ENTRIES: [(u64, i8, u64, bool); 12] = [
    (0, 100, 110, false),
    (1, -100, 110, false),
    (7, 1, 60, false),
    (15, -1, 11, false),
    (16, 90, 110, false),
    (17, -128, 110, false),
    (32, -127, 111, true),
    (33, 0, 110, false),
    (48, 127, 1 << 40, false),
    (64, 77, 110, false),
    (80, -3, 110, false),
    (96, -99, 110, false),
];
/// [sample, multiple]: sample 0 is an own entry that contributes as well.
const PROBES: [(u64, i32); 3] = [(0, 1), (18, -2), (65, 1)];

fn replay() -> Value {
    let contribution = |(sample, byte, step, removed): (u64, i8, u64, bool)| Contribution {
        removed,
        ..protocol::replay::contribution(entry_seed(sample), byte, step, &schedule())
    };
    let moved: BTreeSet<u16> = ENTRIES.iter().map(|(sample, ..)| entry_seed(*sample).group).collect();
    assert_eq!(moved.len(), groups().members.len(), "the entries move every group");
    let sweep = Sweep {
        probes: PROBES.map(|(sample, multiple)| (entry_seed(sample), multiple)).to_vec(),
        contributions: ENTRIES.map(contribution).to_vec(),
    };
    let digest = |(index, spec): (u32, &TensorSpec)| {
        let mut weights = base(spec);
        sweep_reference(&mut weights, spec.quantum(), &sweep.for_tensor(index, spec), 0);
        let bytes: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
        *blake3::hash(&bytes).as_bytes()
    };
    let digests: Vec<[u8; 32]> = (0..).zip(&specs()).map(digest).collect();
    let table: Vec<_> = specs()
        .iter()
        .zip(&digests)
        .map(|(spec, digest)| {
            let mut row = json!({
                "name": spec.name, "shape": spec.shape, "group": spec.group, "range_log2": spec.range_log2, "epsilon": spec.epsilon,
                "unit": spec.unit, "shift": spec.shift, "digest": hex(digest),
            });
            if let Some(adapter) = spec.adapter() {
                row["initial"] = adapter.initial.into();
            }
            row
        })
        .collect();
    let groups: Vec<_> = ENTRIES.iter().map(|(sample, ..)| entry_seed(*sample).group).collect();
    json!({ "entries": ENTRIES, "entries_groups": groups, "probes": PROBES, "tensors": table, "digest": hex(&combine_digests(digests)) })
}

/// Byte i of file number f of a base is (31·i + 7·f) mod 251.
const BASE_FILES: [(Role, &str, usize); 5] = [
    (Role::Config, "config.json", 300),
    (Role::Tokenizer, "tokenizer.json", 5_000),
    (Role::WeightsIndex, "model.safetensors.index.json", 1),
    (Role::Weights, "model-00001-of-00002.safetensors", 250_000),
    (Role::Weights, "model-00002-of-00002.safetensors", 30_000),
];

/// Its files, its tensors, and what follows from them.
fn base_model() -> Value {
    let bytes = |(file, length)| (0..length).map(|i: usize| ((31 * i + 7 * file) % 251) as u8).collect::<Vec<u8>>();
    let contents: Vec<Vec<u8>> =
        (0usize..).zip(BASE_FILES).map(|(file, (_, _, length))| bytes((file, length))).collect();
    let files: Vec<(Role, &str, &[u8])> =
        BASE_FILES.iter().zip(&contents).map(|((role, name, _), bytes)| (*role, *name, &bytes[..])).collect();
    let tensor = |name: &str, shape: &[u64], treatment| BaseTensor {
        name: name.into(),
        shape: shape.to_vec(),
        treatment,
        digest: *blake3::hash(name.as_bytes()).as_bytes(),
    };
    let tensors = vec![
        tensor("model.embed_tokens.weight", &[250, 251], Treatment::Trained),
        tensor("model.größe", &[], Treatment::Frozen(ElementType::F32)),
        tensor("model.norm.weight", &[3, 1 << 32], Treatment::Frozen(ElementType::Bf16)),
        tensor("rest", &[70_000, 300, 2], Treatment::Frozen(ElementType::Q8K)),
    ];
    let number = |treatment| match treatment {
        Treatment::Trained => Value::Null,
        Treatment::Frozen(element) => json!(element as u32),
    };
    let rows: Vec<_> = tensors
        .iter()
        .map(|tensor| json!({ "name": tensor.name, "shape": tensor.shape, "frozen_as": number(tensor.treatment) }))
        .collect();
    let (base, _) = BaseModel::of_files("a base", &files, &Appendix { tensors }).unwrap();
    let files: Vec<_> = base
        .files
        .iter()
        .map(|file| json!({ "name": file.name, "bytes": file.bytes, "digest": hex(&file.digest) }))
        .collect();
    json!({
        "files": files, "tensors": rows, "appendix_bytes": base.appendix_bytes,
        "appendix_digest": hex(&base.appendix_digest), "chunks_root": hex(&base.chunks_root),
    })
}

/// Every field of a manifest, in the order in which it is encoded.
fn manifest() -> Value {
    let files: [(Role, &str, &[u8]); 3] = [
        (Role::Config, "config.json", b"{}"),
        (Role::Tokenizer, "tokenizer.json", b"{}"),
        (Role::Weights, "model.safetensors", b"weights"),
    ];
    let manifest = Manifest {
        protocol_version: PROTOCOL_VERSION,
        nonce: NONCE,
        base: BaseModel::of_files("a base", &files, &Appendix::default()).unwrap().0,
        tensors: specs(),
        groups: groups(),
        objective: ObjectiveLine::Choices { normalize: true },
        hyperparameters: Hyperparameters {
            learning_rate: 2e-4,
            epsilon: 3e-3,
            planned_gradients: 100_000,
            direction_scale: DirectionScale::Rms,
        },
        schedule: schedule(),
        levels: codec::LEVELS,
        ledger_samples_max: 1 << 32,
        replay_budget: 1_500,
        membership: Membership::ByAuthority,
        authority: Some(machine().key),
        held_out: Some(HeldOut { bytes: 70_000, digest: [5; 32], chunks_root: [6; 32] }),
        private: None,
    };
    let bytes = manifest.encode().unwrap();
    let (decoded, run) = Manifest::decode(&bytes).unwrap();
    assert_eq!(decoded, manifest);
    json!({ "fields": manifest, "bytes": hex(&bytes), "run": hex(&run.0) })
}

#[test]
fn everything_normative_equals_its_published_vectors() {
    let vectors = json!({
        "protocol_version": PROTOCOL_VERSION, "seeds": seeds(), "groups": round_groups(),
        "tensor_keys": tensor_keys(), "lane_states": lanes(),
        "signs": signs(), "decode": decoded(), "unit_at": units(), "schedule": multipliers(), "adapters": adapters(), "replay": replay(),
        "base": base_model(), "manifest": manifest(),
    });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/protocol_2.json");
    if std::env::var("ONEBYTE_WRITE_VECTORS").is_ok_and(|value| value == "1") {
        std::fs::write(path, format!("{vectors:#}\n")).expect("the vectors are writable");
    }
    let published = std::fs::read_to_string(path).expect("the vectors are there");
    let published: Value = serde_json::from_str(&published).expect("the vectors are JSON");
    for (name, section) in vectors.as_object().expect("sections") {
        assert_eq!(published.get(name), Some(section), "section {name} differs from what was published");
    }
    assert_eq!(published.as_object().map(|sections| sections.len()), Some(13));
}
