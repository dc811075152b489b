//! What a manifest may say: one broken field at a time.

use protocol::{
    codec::{LEVELS, MULTIPLIER_ONE},
    error::InvalidManifest,
    manifest::{
        ADAPTER_ONE, Adapter, Appendix, BaseModel, DirectionScale, EPSILON_ONE, Group, Groups, Half, HeldOut,
        Hyperparameters, Knot, Manifest, Membership, ObjectiveLine, Origin, PROTOCOL_VERSION, Role, Schedule,
        TensorSpec,
    },
};

fn spec(name: &str, shape: &[u64], group: u16, origin: Origin) -> TensorSpec {
    TensorSpec {
        name: name.into(),
        shape: shape.to_vec(),
        group,
        range_log2: 3,
        epsilon: 2_000,
        unit: 1 << 32,
        shift: 0,
        origin,
    }
}

fn half(half: Half) -> TensorSpec {
    let initial = if half == Half::A { 1 << 20 } else { 0 };
    let origin = Adapter { half, rank: 4, scaling: 2 * ADAPTER_ONE, direction_scale: ADAPTER_ONE, initial };
    let shape = if half == Half::A { [4, 30] } else { [20, 4] };
    spec(&format!("b{}", half.suffix()), &shape, 1, Origin::Adapter(origin))
}

/// Two base tensors and an adapter, in two groups.
fn manifest() -> Manifest {
    let base = Origin::Base { digest: [7; 32] };
    Manifest {
        protocol_version: PROTOCOL_VERSION,
        nonce: [4; 16],
        base: BaseModel::of_files(
            "a test",
            &[
                (Role::Config, "config.json", b"{}"),
                (Role::Tokenizer, "tokenizer.json", b"{}"),
                (Role::Weights, "model.safetensors", b"weights"),
            ],
            &Appendix::default(),
        )
        .expect("an appendix that can be encoded")
        .0,
        tensors: vec![spec("a", &[3, 5], 0, base), half(Half::A), half(Half::B), spec("c", &[7], 1, base)],
        groups: Groups::equal(2),
        objective: ObjectiveLine::NextToken,
        hyperparameters: Hyperparameters {
            learning_rate: 1e-4,
            epsilon: 1e-3,
            planned_gradients: 1_000,
            direction_scale: DirectionScale::Rms,
        },
        schedule: Schedule::default(),
        levels: LEVELS,
        ledger_samples_max: 1 << 32,
        replay_budget: 1_000,
        membership: Membership::Open,
        authority: None,
        held_out: None,
        private: None,
    }
}

/// The manifest, changed, decodes to itself.
fn accepted(change: impl FnOnce(&mut Manifest)) {
    let mut manifest = manifest();
    change(&mut manifest);
    let bytes = manifest.encode().unwrap();
    assert_eq!(Manifest::decode(&bytes).map(|(decoded, _)| decoded), Ok(manifest));
}

/// What is wrong with the manifest, changed.
fn refused(change: impl FnOnce(&mut Manifest)) -> InvalidManifest {
    let mut manifest = manifest();
    change(&mut manifest);
    let error = manifest.validate().expect_err("it must be refused");
    assert!(Manifest::decode(&manifest.encode().unwrap()).is_err(), "{error}");
    error
}

fn adapter(spec: &mut TensorSpec) -> &mut Adapter {
    match &mut spec.origin {
        Origin::Adapter(adapter) => adapter,
        Origin::Base { .. } => panic!("not an adapter"),
    }
}

#[test]
fn groups_are_bounded_and_none_is_empty() {
    accepted(|_| {});
    accepted(|m| m.groups.members[1] = Group { weight: 1 << 20, epsilon: EPSILON_ONE / 3 });
    assert_eq!(refused(|m| m.groups.members.clear()), InvalidManifest::Groups(0));
    assert_eq!(refused(|m| m.groups = Groups::equal(1025)), InvalidManifest::Groups(1025));
    assert_eq!(refused(|m| m.groups = Groups::equal(3)), InvalidManifest::EmptyGroup(2));
    assert_eq!(refused(|m| m.tensors[3].group = 2), InvalidManifest::UnknownGroup { group: 2, count: 2 });
    assert_eq!(refused(|m| m.groups.round_samples = 0), InvalidManifest::RoundSamples(0));
    assert_eq!(refused(|m| m.groups.round_samples = 65_537), InvalidManifest::RoundSamples(65_537));
    for (weight, epsilon) in [(0, EPSILON_ONE), ((1 << 20) + 1, EPSILON_ONE), (1, 0)] {
        let error = refused(|m| m.groups.members[0] = Group { weight, epsilon });
        assert_eq!(error, InvalidManifest::Group { group: 0, weight, epsilon });
    }
}

#[test]
fn an_adapter_has_two_halves_that_fit_each_other() {
    let wrong = |change: &dyn Fn(&mut Manifest)| match refused(|m| change(m)) {
        InvalidManifest::Adapter { tensor, what } => (tensor, what),
        other => panic!("{other}"),
    };
    let (a, b) = ("b.lora_A.weight".to_owned(), "b.lora_B.weight".to_owned());
    assert_eq!(wrong(&|m| drop(m.tensors.remove(2))), (a.clone(), "lacks its other half"));
    assert_eq!(wrong(&|m| drop(m.tensors.remove(1))), (b.clone(), "lacks its other half"));
    assert_eq!(wrong(&|m| m.tensors[2].origin = Origin::Base { digest: [0; 32] }), (a.clone(), "lacks its other half"));
    let unequal = "differs from its other half in rank, scaling or group";
    assert_eq!(wrong(&|m| m.tensors[1].group = 0), (a.clone(), unequal));
    assert_eq!(wrong(&|m| adapter(&mut m.tensors[2]).scaling += 1), (a.clone(), unequal));
    let bounds = "has a shape that is not of its rank, or a rank outside 1..=4096";
    assert_eq!(wrong(&|m| adapter(&mut m.tensors[1]).rank = 5), (a.clone(), bounds));
    assert_eq!(wrong(&|m| m.tensors[2].shape = vec![4, 20]), (b.clone(), bounds));
    assert_eq!(wrong(&|m| m.tensors[1].shape = vec![120]), (a.clone(), "is not a matrix"));
    assert_eq!(wrong(&|m| adapter(&mut m.tensors[1]).scaling = 0), (a.clone(), "has a factor of zero"));
    assert_eq!(wrong(&|m| adapter(&mut m.tensors[2]).direction_scale = 0), (b.clone(), "has a factor of zero"));
    let initial = "begins outside its range, A at zero, or B at another value";
    for value in [0, 1 << 24, u32::MAX] {
        assert_eq!(wrong(&|m| adapter(&mut m.tensors[1]).initial = value), (a.clone(), initial));
    }
    assert_eq!(wrong(&|m| adapter(&mut m.tensors[2]).initial = 1), (b.clone(), initial));
    let name = "is not named after a linear layer and its half";
    assert_eq!(wrong(&|m| m.tensors[1].name = "b.lora_A".into()).1, name);
    let nameless = |m: &mut Manifest| {
        m.tensors[1].name = ".lora_A.weight".into();
        m.tensors.swap(0, 1);
    };
    assert_eq!(wrong(&nameless).1, name);
}

#[test]
fn an_adapter_fits_the_layer_that_is_trained_beside_it() {
    let layer = |shape: &[u64]| spec("b.weight", shape, 1, Origin::Base { digest: [1; 32] });
    accepted(|m| m.tensors.insert(3, layer(&[20, 30])));
    for shape in [[20, 31], [21, 30], [30, 20]] {
        let error = refused(|m| m.tensors.insert(3, layer(&shape)));
        assert!(matches!(error, InvalidManifest::Adapter { what: "does not fit its layer's shape", .. }), "{error}");
    }
}

#[test]
fn a_schedule_has_at_most_256_knots_that_increase() {
    let knots = |count: u64| (0..count).map(|step| Knot { step, multiplier: MULTIPLIER_ONE }).collect();
    accepted(|m| m.schedule = Schedule { knots: knots(256) });
    assert_eq!(refused(|m| m.schedule = Schedule { knots: knots(257) }), InvalidManifest::Knots(257));
    let knot = |step, multiplier| Knot { step, multiplier };
    for broken in [
        vec![knot(5, 1), knot(5, 1)],
        vec![knot(5, 1), knot(4, 1)],
        vec![knot(0, MULTIPLIER_ONE + 1)],
        vec![knot((1 << 40) + 1, 1)],
    ] {
        assert_eq!(refused(|m| m.schedule = Schedule { knots: broken }), InvalidManifest::Schedule);
    }
}

#[test]
fn a_ledger_and_a_replay_budget_are_bounded() {
    accepted(|m| (m.ledger_samples_max, m.replay_budget) = (1 << 40, 1 << 24));
    for limit in [0, (1 << 40) + 1] {
        assert_eq!(refused(|m| m.ledger_samples_max = limit), InvalidManifest::LedgerLimit(limit));
    }
    for budget in [0, (1 << 24) + 1, u32::MAX] {
        assert_eq!(refused(|m| m.replay_budget = budget), InvalidManifest::ReplayBudget(budget));
    }
    let other = Manifest { replay_budget: 2_000, ..manifest() };
    assert_eq!(manifest().differences(&other), ["replay budget: here 1000, there 2000"]);
}

#[test]
fn an_objective_and_a_held_out_set_are_bounded() {
    for objective in [ObjectiveLine::Choices { normalize: true }, ObjectiveLine::Other("x".repeat(4096))] {
        accepted(|m| m.objective = objective);
    }
    assert_eq!(refused(|m| m.objective = ObjectiveLine::Other(String::new())), InvalidManifest::Objective(0));
    assert_eq!(refused(|m| m.objective = ObjectiveLine::Other("x".repeat(4097))), InvalidManifest::Objective(4097));
    let held_out = |bytes| Some(HeldOut { bytes, digest: [5; 32], chunks_root: [6; 32] });
    accepted(|m| (m.held_out, m.private) = (held_out(1 << 30), Some([9; 32])));
    assert_eq!(refused(|m| m.held_out = held_out(0)), InvalidManifest::HeldOut(0));
    assert_eq!(refused(|m| m.held_out = held_out((1 << 30) + 1)), InvalidManifest::HeldOut((1 << 30) + 1));
}

#[test]
fn the_digest_of_the_untouched_weights_takes_in_the_adapters_first_values() {
    let manifest = manifest();
    let [a, b] = [&manifest.tensors[1], &manifest.tensors[2]].map(|spec| manifest.initial_values(spec).unwrap());
    let size = 2f32.powi(20 + 3 - 24);
    assert!(a.len() == 120 && a.iter().all(|value| value.abs() == size), "signs times a whole number of quanta");
    assert!(a.contains(&size) && a.contains(&-size), "both signs");
    assert!(b.len() == 80 && b.iter().all(|value| value.to_bits() == 0));
    assert_eq!(manifest.initial_values(&manifest.tensors[0]), None);
    let other = Manifest { nonce: [5; 16], ..manifest.clone() };
    assert_ne!(other.initial_values(&other.tensors[1]).unwrap(), a, "another run draws another A");
    assert_ne!(other.base_digest(), manifest.base_digest());
}

#[test]
fn what_differs_in_a_strangers_manifest_is_told_without_spelling_out_its_adapters() {
    let mut other = manifest();
    // Nobody checks the outer dimension where the layer is frozen: these would be 2^33 values.
    other.tensors[1].shape[1] = 1 << 30;
    let (other, _) = Manifest::decode(&other.encode().unwrap()).expect("any neighbour may send it");
    let told = manifest().differences(&other);
    assert!(told.iter().any(|difference| difference == "adapters"), "{told:?}");
    assert!(told.iter().all(|difference| difference.len() < 600), "{told:?}");
    // Lists are told as people read them, and nothing that a terminal would obey.
    let mut other = manifest();
    (other.base.source, other.authority) = ("\u{1b}[2Jodd".into(), Some([7; 32]));
    other.base.files.pop();
    let told = manifest().differences(&other).join("; ");
    assert!(told.contains("there \\u{1b}[2Jodd") && !told.contains('\u{1b}'), "{told}");
    assert!(told.contains("files: here config.json, tokenizer.json") && told.contains("; authority"), "{told}");
    // The nonce alone makes other first values of the same adapters, and is no difference to tell.
    let told = manifest().differences(&Manifest { nonce: [5; 16], ..manifest() });
    assert!(told[0].contains("two runs of the same settings"), "{told:?}");
}
