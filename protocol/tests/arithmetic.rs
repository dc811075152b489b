//! The integers that a starter chooses: properties over many tensors, groups and settings.

use protocol::{
    codec::{self, LEVELS},
    error::InvalidManifest,
    manifest::{
        DirectionScale, EPSILON_ONE, Group, Groups, Hyperparameters, ROUND_SAMPLES, TensorArithmetic, choose_arithmetic,
    },
};

fn settings(learning_rate: f64, planned_gradients: u64) -> Hyperparameters {
    Hyperparameters { learning_rate, epsilon: 1e-3, planned_gradients, direction_scale: DirectionScale::Rms }
}

/// Fixed numbers in [0, 1).
fn random() -> impl FnMut() -> f64 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Quanta that a byte of average size moves an element by.
fn step_quanta(chosen: &TensorArithmetic) -> f64 {
    f64::from(LEVELS) * chosen.unit as f64 / 2f64.powi(32) * 2f64.powi(chosen.shift.into())
}

#[test]
fn ten_times_the_planned_gradients_all_one_way_stay_inside_and_the_grid_is_fine_enough() {
    let mut random = random();
    let mut accepted = 0;
    for _ in 0..20_000 {
        let weights: Vec<u32> = (0..1 + (40.0 * random()) as usize).map(|_| 1 + (9.0 * random()) as u32).collect();
        let members = weights.iter().map(|weight| Group { weight: *weight, epsilon: EPSILON_ONE }).collect();
        let groups = Groups { members, round_samples: ROUND_SAMPLES };
        let group = (random() * weights.len() as f64) as u16;
        let settings = settings(10f64.powf(-6.0 + 4.0 * random()), 10f64.powf(1.0 + 5.0 * random()) as u64);
        let (max_abs, scale) = (10f64.powf(-2.0 + 3.0 * random()), 10f64.powf(-1.0 + 2.0 * random()));
        let chosen = match choose_arithmetic(max_abs, scale, &groups, group, &settings) {
            Ok(chosen) => chosen,
            Err(InvalidManifest::Coarse { quanta, .. }) if quanta < 4.0 => continue,
            // A step of a quarter of the range is more than the largest shift can express.
            Err(InvalidManifest::LearningRate(rate)) if rate * scale / groups.share(group).sqrt() > 0.2 => continue,
            Err(error) => panic!("{error}"),
        };
        accepted += 1;
        let (quantum, share) = (f64::from(chosen.quantum()), groups.share(group));
        let step = step_quanta(&chosen) * quantum;
        let expected = settings.learning_rate * scale / share.sqrt();
        assert!((step / expected - 1.0).abs() < 1e-3, "a byte of average size moves {step:e}, meant was {expected:e}");
        let range = quantum * 2f64.powi(24);
        let directed = 10.0 * settings.planned_gradients as f64 * share * step;
        assert!(max_abs + directed <= 1.001 * range, "{directed} beyond {max_abs} in {range}");
        assert!(range <= 1.0 || range <= 2.001 * (2.0 * max_abs).max(max_abs + directed), "a range larger than needed");
        assert!(codec::unit_is_valid(chosen.unit));
        assert!(chosen.shift == 0 || !codec::unit_is_valid(2 * chosen.unit + 2), "a shift larger than needed");
    }
    assert!(accepted > 10_000, "{accepted} of 20000 have an arithmetic");
}

#[test]
fn with_usual_settings_a_step_is_many_quanta_and_small_bytes_are_right_on_average() {
    for (count, step_min) in [(1, 8.0), (6, 50.0), (31, 200.0)] {
        let chosen = choose_arithmetic(1.5, 1.0, &Groups::equal(count), 0, &settings(2e-4, 100_000)).unwrap();
        assert!(step_quanta(&chosen) > step_min, "{count} groups: {}", step_quanta(&chosen));
        // Over the rounding draw the smallest byte moves by what it stands for, be that less than a quantum.
        for byte in [-1i8, 1, 2, 3] {
            let draws = (0..4096u32).map(|draw| draw << 20 | 1 << 19);
            let mean = draws.map(|draw| f64::from(codec::decode(byte, chosen.unit, draw))).sum::<f64>() / 4096.0;
            let meant = f64::from(byte) * chosen.unit as f64 / 2f64.powi(32);
            assert!((mean - meant).abs() < 1e-3, "byte {byte} of {count} groups: {mean} for {meant}");
        }
    }
}

#[test]
fn a_plan_that_would_make_the_grid_coarse_is_refused_with_a_remedy() {
    let groups = Groups::equal(1);
    assert!(choose_arithmetic(1.0, 1.0, &groups, 0, &settings(3e-4, 200_000)).is_ok());
    let error = choose_arithmetic(1.0, 1.0, &groups, 0, &settings(3e-4, 1_000_000)).unwrap_err().to_string();
    assert!(error.contains("1000000 planned gradients") && error.contains("plan fewer gradients"), "{error}");
    let rate = choose_arithmetic(1.0, 1.0, &groups, 0, &settings(0.5, 100_000)).unwrap_err().to_string();
    assert!(rate.contains("epsilon would be") && rate.contains("lower learning rate"), "{rate}");
    // A small rate is no fault of the plan's.
    assert!(choose_arithmetic(1.0, 1.0, &groups, 0, &settings(1e-8, 100_000)).is_ok());
}
