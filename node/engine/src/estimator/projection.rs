//! Projection: many gradients from one backward pass. Each is the slope of the loss along its direction, `⟨∇, s·z⟩`:
//! what SPSA measures as ε goes to zero, without the noise of the rounding and of the curvature.

use anyhow::Result;
use protocol::manifest::{Manifest, TensorSpec};

use super::{
    normalizer::Normalizer,
    probe::{Measured, Probe},
    trust::Trial,
};

/// Bytes at one θ that count in full.
const FULL: f64 = 256.0;
/// Trials of one batch's bytes.
pub(crate) const TRIALS_MAX: u32 = 8;

/// Measures the slopes along `projections` directions, or fewer if the model is small.
pub fn measure(probe: &mut dyn Probe, projections: u64) -> Result<Measured> {
    let (loss, gradients) = probe.slopes(projections)?;
    Ok(Measured { gradients, losses: vec![loss] })
}

/// The scale s of a tensor's directions, as replay moves it: a byte of one standard deviation moves an element by the
/// learning rate times s.
pub fn direction_scale(spec: &TensorSpec, manifest: &Manifest) -> f64 {
    let byte_unit = spec.unit as f64 * 2f64.powi(i32::from(spec.shift) - 32) * f64::from(spec.quantum());
    byte_unit * f64::from(manifest.levels) / manifest.hyperparameters.learning_rate
}

/// What normalised slopes are multiplied with before they become bytes, at most 1, if so many `bytes` of the whole
/// swarm are measured at nearly the same θ: they add up to one large step, whoever made them.
pub fn gain(bytes: f64) -> f64 {
    (FULL / bytes).powf(2.0 / 3.0).min(1.0)
}

/// One batch's slopes on their way to bytes: as many as add up to a step that the machine may trust.
///
/// [`Stride::encode`] gives the bytes. If [`Stride::is_to_try`], they are then brought into the weights and the batch's
/// loss is told to [`Stride::learn`], before anybody else has them; what that refuses is taken out and encoded anew.
pub(crate) struct Stride<'a> {
    slopes: &'a [f64],
    loss: f64,
    /// Of a byte of one standard deviation.
    learning_rate: f64,
    /// Bytes of others that are measured at nearly the same θ.
    company: f64,
    /// Of the bytes that were encoded last, as [`Trial`] has it.
    length: f64,
    predicted: f64,
    /// The length that is to be tried next, after a trial that was refused.
    next: Option<f64>,
}

impl<'a> Stride<'a> {
    /// `learning_rate`: the manifest's times the schedule's multiplier. `company`: bytes of others that are measured at
    /// nearly the same θ.
    pub fn new(measured: &'a Measured, learning_rate: f64, company: f64, normalizer: &mut Normalizer) -> Self {
        let (slopes, loss) = (&measured.gradients[..], measured.losses[0]);
        normalizer.take_in_batch(slopes);
        normalizer.trust.watch(loss);
        Self { slopes, loss, learning_rate, company, length: 0.0, predicted: 0.0, next: None }
    }

    /// The bytes, within what is trusted now, or as long as the last trial suggests; `uniform` draws from [0, 1) for
    /// the stochastic rounding.
    pub fn encode(&mut self, normalizer: &mut Normalizer, uniform: impl FnMut() -> f64) -> Vec<i8> {
        let count = self.slopes.len() as f64;
        let gain = gain(count + self.company);
        let fall = self.learning_rate * gain * normalizer.fall(self.slopes);
        self.length = match self.next {
            _ if !self.loss.is_finite() => 0.0,
            Some(length) => length.min(count * gain),
            None => normalizer.trust.bound(count * gain, fall, self.loss),
        };
        let bytes = normalizer.encode_batch(self.slopes, self.length / count, uniform);
        // A slope that is not finite became a void byte, which moves nothing.
        let moving = bytes.iter().zip(self.slopes).filter(|(_, slope)| slope.is_finite());
        let moved = moving.map(|(byte, slope)| f64::from(*byte) / f64::from(normalizer.levels) * slope);
        self.predicted = self.learning_rate * moved.sum::<f64>();
        bytes
    }

    /// Whether the bytes are to be tried; to be asked once a batch.
    pub fn is_to_try(&self, normalizer: &mut Normalizer) -> bool {
        self.loss.is_finite() && normalizer.trust.is_to_try(self.length)
    }

    /// Learns from the loss `after` the bytes; false if they are to be taken back and encoded anew.
    pub fn learn(&mut self, normalizer: &mut Normalizer, after: f64) -> bool {
        let before = self.loss;
        let crowd = 1.0 + self.company / self.slopes.len() as f64;
        let (length, predicted) = (self.length, self.predicted);
        let finest = self.slopes.len() as f64 / f64::from(normalizer.levels);
        self.next = normalizer.trust.learn(&Trial { length, finest, before, after, predicted, crowd });
        self.next.is_none()
    }
}

/// Most bytes of others that one own batch is taken to meet: more is what was late, after a partition perhaps.
const COMPANY_MAX: u64 = 1 << 16;

/// How many bytes others make while this machine measures a batch, from what came lately.
#[derive(Default)]
pub struct Company {
    /// Since the last own batch.
    now: u64,
    /// Running mean over own batches, once there were two.
    mean: Option<f64>,
    has_begun: bool,
}

impl Company {
    /// Others' bytes came.
    pub fn came(&mut self, bytes: u64) {
        self.now = self.now.saturating_add(bytes);
    }

    /// An own batch is complete; returns how many bytes of others come with one. What came before the first, a whole
    /// run's history perhaps, says nothing.
    pub fn batch(&mut self) -> f64 {
        let came = std::mem::take(&mut self.now).min(COMPANY_MAX) as f64;
        if std::mem::replace(&mut self.has_begun, true) {
            self.mean = Some(self.mean.map_or(came, |mean| mean + (came - mean) / 4.0));
        }
        self.mean.unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::codec::LEVELS;
    use rand_xoshiro::{
        Xoshiro256PlusPlus,
        rand_core::{Rng, SeedableRng},
    };

    #[test]
    fn few_bytes_count_in_full_and_many_together_grow_slowly() {
        assert_eq!((gain(1.0), gain(256.0)), (1.0, 1.0));
        assert!((gain(2048.0) - 0.25).abs() < 1e-12);
        assert!(gain(1e30) > 0.0);
    }

    /// `½ Σ h·θ²`, with curvatures from 1 to 100, and machines that project it on 256 directions each.
    struct Quadratic {
        point: Vec<f64>,
        random: Xoshiro256PlusPlus,
    }

    const PROJECTIONS: usize = 256;
    /// A hundred times too high.
    const LEARNING_RATE: f64 = 1.0;

    impl Quadratic {
        fn new() -> Self {
            Self { point: vec![1.0; 32], random: Xoshiro256PlusPlus::seed_from_u64(1) }
        }

        fn curvature(index: usize) -> f64 {
            100f64.powf(index as f64 / 31.0)
        }

        fn loss(point: &[f64]) -> f64 {
            point.iter().enumerate().map(|(index, value)| 0.5 * Self::curvature(index) * value * value).sum()
        }

        /// Directions, and the slopes along them.
        fn measure(&mut self) -> (Vec<Vec<f64>>, Measured) {
            let mut sign = |_: usize| if self.random.next_u64() >> 63 == 0 { 1.0 } else { -1.0 };
            let directions: Vec<Vec<f64>> = (0..PROJECTIONS).map(|_| (0..32).map(&mut sign).collect()).collect();
            let slope = |direction: &Vec<f64>| {
                let parts = direction.iter().enumerate().map(|(at, z)| z * Self::curvature(at) * self.point[at]);
                parts.sum()
            };
            let gradients = directions.iter().map(slope).collect();
            (directions, Measured { gradients, losses: vec![Self::loss(&self.point)] })
        }

        fn moved(point: &[f64], directions: &[Vec<f64>], bytes: &[i8]) -> Vec<f64> {
            let mut moved = point.to_vec();
            for (direction, byte) in directions.iter().zip(bytes) {
                let step = LEARNING_RATE * f64::from(*byte) / f64::from(LEVELS);
                moved.iter_mut().zip(direction).for_each(|(value, z)| *value -= step * z);
            }
            moved
        }

        /// The loss after batches of `machines` projectors, all of which measure at the same point.
        fn after(mut self, machines: usize, is_trusted: bool) -> f64 {
            let mut normalizers = vec![Normalizer::new(LEVELS); machines];
            for batch in 0..60 {
                let company = if batch == 0 { 0.0 } else { ((machines - 1) * PROJECTIONS) as f64 };
                let mut next = self.point.clone();
                for normalizer in &mut normalizers {
                    let (directions, measured) = self.measure();
                    let uniform = || (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
                    let mut stride = Stride::new(&measured, LEARNING_RATE, company, normalizer);
                    let bytes = if is_trusted {
                        let tried = |bytes: &[i8]| Self::loss(&Self::moved(&self.point, &directions, bytes));
                        trusted(&mut stride, normalizer, uniform, tried)
                    } else {
                        normalizer.encode_batch(stride.slopes, gain(PROJECTIONS as f64 + company), uniform)
                    };
                    next = Self::moved(&next, &directions, &bytes);
                }
                self.point = next;
            }
            Self::loss(&self.point)
        }
    }

    /// What the trainer does with a stride.
    fn trusted(
        stride: &mut Stride<'_>,
        normalizer: &mut Normalizer,
        mut uniform: impl FnMut() -> f64,
        loss_after: impl Fn(&[i8]) -> f64,
    ) -> Vec<i8> {
        let mut bytes = stride.encode(normalizer, &mut uniform);
        let mut is_good = !stride.is_to_try(normalizer) || stride.learn(normalizer, loss_after(&bytes));
        for _ in 1..TRIALS_MAX {
            if !is_good {
                bytes = stride.encode(normalizer, &mut uniform);
                is_good = stride.learn(normalizer, loss_after(&bytes));
            }
        }
        assert!(is_good);
        bytes
    }

    #[test]
    fn slopes_that_are_not_finite_predict_nothing() {
        let measured = Measured { gradients: vec![1.0, f64::NAN, f64::INFINITY, -1.0], losses: vec![4.0] };
        let mut normalizer = Normalizer::new(LEVELS);
        let mut stride = Stride::new(&measured, 0.1, 0.0, &mut normalizer);
        stride.encode(&mut normalizer, || 0.5);
        assert!(stride.predicted > 0.0 && stride.predicted.is_finite(), "{}", stride.predicted);
    }

    #[test]
    fn a_rate_that_is_far_too_high_does_not_diverge_however_many_project_at_once() {
        let start = Quadratic::loss(&Quadratic::new().point);
        for machines in [1, 4, 16] {
            let without = Quadratic::new().after(machines, false);
            let with = Quadratic::new().after(machines, true);
            assert!(without > 10.0 * start, "{machines} machines: {start} → {without}, so there is nothing to show");
            assert!(with < start / 10.0, "{machines} machines: {start} → {with}");
        }
    }

    #[test]
    fn company_is_what_comes_between_batches_but_not_before_the_first() {
        let mut company = Company::default();
        company.came(1_000_000);
        assert_eq!(company.batch(), 0.0);
        company.came(100);
        company.came(20);
        assert_eq!(company.batch(), 120.0);
        assert_eq!(company.batch(), 90.0);
        for _ in 0..200 {
            company.batch();
        }
        assert!(company.batch() < 1e-9);
    }
}
