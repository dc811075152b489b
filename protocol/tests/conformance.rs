//! The published vectors of everything normative: `tests/vectors/protocol_1.json`.
//!
//! `ONEBYTE_WRITE_VECTORS=1` rewrites the file, which is right only together with a new protocol version.
//! `scripts/vectors.py` recomputes it in pure Python from the documented formulas alone.

use protocol::{
    codec::{self, MULTIPLIER_ONE, VOID},
    machine::MachineId,
    manifest::{Knot, PROTOCOL_VERSION, RunId, Schedule, TensorSpec, combine_digests},
    perturbation::{BLOCK, BlockSigns, STEP, lane_states, sign},
    replay::{Contribution, Sweep, sweep_reference},
    seed::{EntrySeed, TensorKey},
};
use serde_json::{Value, json};

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

fn entry_seed(sample: u64) -> EntrySeed {
    EntrySeed::derive(&run(), &machine(), sample)
}

fn seeds() -> Value {
    let samples = [0, 1, (1 << 40) - 1];
    let seeds = samples.map(|sample| json!({ "sample": sample, "seed": hex(&entry_seed(sample).0) }));
    json!({
        "run": hex(&run().0), "key": hex(&machine().key), "incarnation": format!("{:016x}", machine().incarnation),
        "handle": hex(&machine().handle().0), "seeds": seeds,
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
    let spec = |name: &str, shape: &[u64], range_log2, epsilon, unit, shift| {
        let shape = shape.to_vec();
        TensorSpec { name: name.into(), shape, range_log2, epsilon, unit, shift, digest: [0; 32] }
    };
    vec![
        spec("a", &[3, 5], 0, 1, 0x1_2345_6789, 0),
        spec("b", &[2, 8250], 1, 16_777, (254 << 32) / 127, 3),
        spec("c", &[700], 40, 8_388_607, 1 << 32, 16),
    ]
}

/// Weight number `element` of a base: `(element · 2654435761 mod 2^25) − 2^24` quanta, so that some entries wrap
/// around.
fn base(spec: &TensorSpec) -> Vec<f32> {
    let n = |element: u64| (element.wrapping_mul(2_654_435_761) % (1 << 25)) as i32 - (1 << 24);
    (0..spec.elements()).map(|element| n(element) as f32 * spec.quantum()).collect()
}

/// [sample, byte, swarm step, removed].
const ENTRIES: [(u64, i8, u64, bool); 8] = [
    (0, 100, 110, false),
    (1, -100, 110, false),
    (2, 1, 60, false),
    (3, -1, 11, false),
    (4, 0, 110, false),
    (5, VOID, 110, false),
    (6, -127, 111, true),
    (7, 127, 1 << 40, false),
];
/// [sample, multiple]: sample 0 is an own entry that contributes as well.
const PROBES: [(u64, i32); 2] = [(0, 1), (9, -2)];

fn replay() -> Value {
    let contribution = |(sample, byte, step, removed): (u64, i8, u64, bool)| Contribution {
        removed,
        ..protocol::replay::contribution(entry_seed(sample), byte, step, &schedule())
    };
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
            json!({
                "name": spec.name, "shape": spec.shape, "range_log2": spec.range_log2, "epsilon": spec.epsilon,
                "unit": spec.unit, "shift": spec.shift, "digest": hex(digest),
            })
        })
        .collect();
    json!({ "entries": ENTRIES, "probes": PROBES, "tensors": table, "digest": hex(&combine_digests(digests)) })
}

#[test]
fn everything_normative_equals_its_published_vectors() {
    let vectors = json!({
        "protocol_version": PROTOCOL_VERSION, "seeds": seeds(), "tensor_keys": tensor_keys(), "lane_states": lanes(),
        "signs": signs(), "decode": decoded(), "unit_at": units(), "schedule": multipliers(), "replay": replay(),
    });
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/protocol_1.json");
    if std::env::var("ONEBYTE_WRITE_VECTORS").is_ok_and(|value| value == "1") {
        std::fs::write(path, format!("{vectors:#}\n")).expect("the vectors are writable");
    }
    let published = std::fs::read_to_string(path).expect("the vectors are there");
    let published: Value = serde_json::from_str(&published).expect("the vectors are JSON");
    for (name, section) in vectors.as_object().expect("sections") {
        assert_eq!(published.get(name), Some(section), "section {name} differs from what was published");
    }
    assert_eq!(published.as_object().map(|sections| sections.len()), Some(9));
}
