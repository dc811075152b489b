use super::*;
use candle_core::{DType, Device, Tensor};
use protocol::{
    manifest::{Origin, TensorSpec},
    replay::Sweep,
};
use std::collections::BTreeMap;

fn spec(name: &str, shape: &[u64], range_log2: u8) -> TensorSpec {
    let shape = shape.to_vec();
    TensorSpec {
        name: name.into(),
        shape,
        group: 0,
        range_log2,
        epsilon: 3,
        unit: 1 << 32,
        shift: 2,
        origin: Origin::Base { digest: [0; 32] },
    }
}

fn specs() -> Vec<TensorSpec> {
    vec![spec("a", &[2, 3], 0), spec("b", &[4], 1)]
}

fn tensors(a: [f32; 6]) -> BTreeMap<String, Tensor> {
    let a = Tensor::from_slice(&a, (2, 3), &Device::Cpu).unwrap();
    let b = Tensor::from_slice(&[0.0f32, 1.5, -2.0, 0.25], 4, &Device::Cpu).unwrap();
    BTreeMap::from([("a".into(), a), ("b".into(), b)])
}

const GOOD: [f32; 6] = [0.0, 0.5, -1.0, 0.25, -0.125, 5.9604645e-8];

fn refusal(specs: &[TensorSpec], tensors: BTreeMap<String, Tensor>) -> String {
    format!("{:#}", Weights::new(specs, tensors).err().expect("must be refused"))
}

#[test]
fn a_clone_of_a_tensor_sees_every_sweep() {
    let mut weights = Weights::new(&specs(), tensors(GOOD)).unwrap();
    let shared = weights.tensors()["a"].clone();
    let before = weights.digest();
    let sweep =
        Sweep { probes: vec![(protocol::seed::EntrySeed { bytes: [7; 32], group: 0 }, 1)], contributions: vec![] };
    let report = weights.sweep(&sweep).unwrap();
    assert_eq!(report, SweepReport { peak: (1 << 24) - 3, tensor: 0 }, "-1 wraps or moves inwards by 3 quanta");
    let moved: Vec<f32> = shared.flatten_all().unwrap().to_vec1().unwrap();
    assert!(moved.iter().zip(GOOD).all(|(now, was)| (now - was).abs() == 3.0 * 2f32.powi(-24) || was == -1.0));
    assert_ne!(weights.digest(), before);
    weights
        .sweep(&Sweep {
            probes: vec![(protocol::seed::EntrySeed { bytes: [7; 32], group: 0 }, -1)],
            contributions: vec![],
        })
        .unwrap();
    assert_eq!(weights.digest(), before);
}

#[test]
fn values_off_the_grid_are_refused_by_name_and_place() {
    for bad in [f32::NAN, f32::INFINITY, -0.0, 1.0, -1.0000001, 2.9802322e-8] {
        let mut values = GOOD;
        values[4] = bad;
        let message = refusal(&specs(), tensors(values));
        assert!(message.contains("tensor a") && message.contains("element 4"), "{bad}: {message}");
    }
}

#[test]
fn missing_foreign_and_misshapen_tensors_are_refused() {
    let mut missing = tensors(GOOD);
    missing.remove("b");
    assert!(refusal(&specs(), missing).contains("tensor b of the run is missing"));
    let mut foreign = tensors(GOOD);
    foreign.insert("c".into(), Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap());
    assert!(refusal(&specs(), foreign).contains("tensor c is not one"));
    let mut misshapen = specs();
    misshapen[0].shape = vec![3, 2];
    assert!(refusal(&misshapen, tensors(GOOD)).contains("shape [2, 3]"));
    let mut half = tensors(GOOD);
    half.insert("b".into(), Tensor::zeros(4, DType::F16, &Device::Cpu).unwrap());
    assert!(refusal(&specs(), half).contains("convert it to f32"));
    let mut transposed = tensors(GOOD);
    transposed.insert("a".into(), Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap().t().unwrap());
    assert!(refusal(&specs(), transposed).contains("not contiguous"));
    let swapped: Vec<TensorSpec> = specs().into_iter().rev().collect();
    assert!(refusal(&swapped, tensors(GOOD)).contains("order"));
}

#[test]
fn what_is_written_reads_back_and_a_short_or_spoiled_file_does_not() {
    let weights = Weights::new(&specs(), tensors(GOOD)).unwrap();
    let mut bytes = Vec::new();
    weights.write_to(&mut bytes).unwrap();
    assert_eq!(bytes.len(), 40);
    let again = Weights::read_from(&specs(), &mut bytes.as_slice()).unwrap();
    assert_eq!(again.digest(), weights.digest());
    for length in 0..bytes.len() {
        assert!(Weights::read_from(&specs(), &mut &bytes[..length]).is_err(), "{length} bytes");
    }
    bytes[3] = 0x80; // the first value becomes -0.0
    assert!(Weights::read_from(&specs(), &mut bytes.as_slice()).is_err());
}
