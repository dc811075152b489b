//! Held-out curves: which are called flat, when, and what is forecast.

use peer::{
    CurvePoint, Forecast,
    curve::{Curve, STEP},
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};

/// Every 100 gradients a point of `loss`, up to `gradients`.
fn points(gradients: u64, mut loss: impl FnMut(f64) -> f64) -> Vec<CurvePoint> {
    (1..=gradients / 100).map(|at| CurvePoint { gradients: 100 * at, loss: loss(100.0 * at as f64) }).collect()
}

/// Gradients at which the curve is flat first.
fn flat_at(points: &[CurvePoint]) -> Option<u64> {
    let mut curve = Curve::default();
    let flat = points.iter().find(|point| {
        curve.push(**point);
        curve.is_flat()
    });
    flat.map(|point| point.gradients)
}

fn forecast(points: &[CurvePoint]) -> Option<Forecast> {
    let mut curve = Curve::default();
    points.iter().for_each(|point| curve.push(*point));
    curve.forecast()
}

/// Noise of standard deviation `size`, of which each value keeps `memory` of the one before, as weights that drift do.
fn noise(seed: u64, size: f64, memory: f64) -> impl FnMut() -> f64 {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let (mut value, fresh) = (0.0, size * (1.0 - memory * memory).sqrt());
    move || {
        let sum: f64 = (0..12).map(|_| (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64).sum();
        value = memory * value + fresh * (sum - 6.0);
        value
    }
}

/// Falls by 0.2 a doubling.
fn falling(gradients: f64) -> f64 {
    4.0 - 0.2 * gradients.log2()
}

/// The same until 4,000 gradients, then no more.
fn levelled(gradients: f64) -> f64 {
    falling(gradients.min(4_000.0))
}

#[test]
fn a_falling_curve_is_never_flat_and_the_forecast_is_what_comes() {
    let points = points(200_000, falling);
    assert_eq!(flat_at(&points), None);
    let next = forecast(&points).unwrap().gradients_to_next.unwrap();
    let fall = falling(200_000.0) - falling((200_000 + next) as f64);
    assert!((STEP..STEP * 1.01).contains(&fall), "{next} more gradients win {fall}");
}

#[test]
fn a_curve_that_levels_out_is_flat_once_a_doubling_wins_less_than_a_hundredth() {
    let at = flat_at(&points(50_000, levelled)).expect("it is flat at last");
    assert!((4_500..=9_000).contains(&at), "flat at {at}");
    assert_eq!(flat_at(&points(50_000, |_| 2.0)), Some(1_600), "the third fit of eight points");
}

#[test]
fn a_curve_that_turns_up_is_flat_and_has_no_forecast() {
    let turning = points(20_000, |gradients| (gradients.log2() - 12.0).powi(2) / 10.0);
    let at = flat_at(&turning).expect("it is flat");
    assert!((4_096..12_000).contains(&at), "flat at {at}");
    assert_eq!(forecast(&turning).unwrap().gradients_to_next, None);
}

#[test]
fn noise_hides_no_slope_and_makes_none() {
    for seed in 0..16 {
        for (size, memory) in [(0.003, 0.0), (0.02, 0.0), (0.01, 0.7)] {
            let mut noise = noise(seed, size, memory);
            let falls = points(60_000, |gradients| falling(gradients) + noise());
            assert_eq!(flat_at(&falls), None, "seed {seed}, noise {size}, {memory}");
            let levels = points(100_000, |gradients| levelled(gradients) + noise());
            let at = flat_at(&levels).unwrap_or_else(|| panic!("never flat: seed {seed}, noise {size}, {memory}"));
            assert!(at >= 4_500, "flat at {at}: seed {seed}, noise {size}, {memory}");
        }
    }
}

#[test]
fn more_noise_takes_more_points_to_be_sure() {
    let at = |size| {
        let mut noise = noise(5, size, 0.0);
        flat_at(&points(400_000, |gradients| levelled(gradients) + noise())).unwrap_or(u64::MAX)
    };
    assert!(at(0.03) > at(0.0) + 2_000, "{} and {}", at(0.03), at(0.0));
}

#[test]
fn wild_points_change_nothing() {
    let wild = |points: Vec<CurvePoint>, loss: f64| -> Vec<CurvePoint> {
        let every = points.into_iter().enumerate();
        every.map(|(at, point)| if at % 9 == 4 { CurvePoint { loss, ..point } } else { point }).collect()
    };
    // One in nine is a look that went wrong.
    assert_eq!(flat_at(&wild(points(60_000, falling), f64::NAN)), None);
    assert_eq!(flat_at(&wild(points(60_000, falling), 9.0)), None);
    assert_eq!(flat_at(&points(5_000, |_| f64::INFINITY)), None);
}

#[test]
fn little_is_no_reason() {
    assert_eq!(forecast(&points(900, |_| 2.0)), None, "too few gradients");
    let few: Vec<CurvePoint> = (1..8).map(|at| CurvePoint { gradients: 1_000 * at, loss: 2.0 }).collect();
    assert_eq!(forecast(&few), None, "too few points");
    let close: Vec<CurvePoint> = (0..90).map(|at| CurvePoint { gradients: 100_000 + at, loss: 2.0 }).collect();
    assert_eq!(forecast(&close), None, "too close");
    let again = [points(1_400, |_| 2.0), vec![CurvePoint { gradients: 1_400, loss: 2.0 }; 9]].concat();
    assert!(!forecast(&again).unwrap().is_flat, "one state, measured again and again");
}

#[test]
fn withdrawn_gradients_take_their_points_along() {
    let mut curve = Curve::default();
    points(8_000, levelled).into_iter().for_each(|point| curve.push(point));
    assert!(curve.is_flat());
    // Half of it is withdrawn, and it falls again from there.
    points(20_000, falling).into_iter().filter(|point| point.gradients > 3_000).for_each(|point| curve.push(point));
    assert!(!curve.is_flat());
}

#[test]
fn the_same_points_say_the_same_in_one_session_or_two() {
    let mut noise = noise(3, 0.01, 0.5);
    let points = points(120_000, |gradients| levelled(gradients) + noise());
    let mut whole = Curve::default();
    for (at, point) in points.iter().enumerate() {
        whole.push(*point);
        if at % 500 == 3 {
            let mut again = Curve::default();
            points[..=at].iter().for_each(|point| again.push(*point));
            assert_eq!(again.forecast(), whole.forecast());
        }
    }
}
