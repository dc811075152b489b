//! What the benches share: a stopwatch that takes the machine's noise out by measuring in pairs.

#![allow(dead_code)]

use std::time::Instant;

/// Whether to be small and brief: always but under `cargo bench`, which passes `--bench`, or with `--test`.
pub fn is_test() -> bool {
    let given = |name: &str| std::env::args().any(|argument| argument == name);
    given("--test") || !given("--bench")
}

/// Median seconds of `run`, and the median ratio of its time to that of `baseline`, which runs right before it each time.
pub fn paired<S>(rounds: usize, state: &mut S, baseline: impl Fn(&mut S), run: impl Fn(&mut S)) -> (f64, f64) {
    let seconds = |f: &dyn Fn(&mut S), state: &mut S| {
        let start = Instant::now();
        f(state);
        start.elapsed().as_secs_f64()
    };
    let (mut times, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let base = seconds(&baseline, state);
        let time = seconds(&run, state);
        times.push(time);
        ratios.push(time / base);
    }
    (median(times), median(ratios))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The plain read-modify-write sweep: the least that any change of all weights costs.
pub fn plain(weights: &mut [f32]) {
    weights.iter_mut().for_each(|weight| *weight = -*weight);
    std::hint::black_box(weights);
}
