//! The held-out curve: how fast it still falls, and whether it has become flat.
//!
//! Over the last doubling of gradients (points with at least half as many as the newest) the loss is fitted as
//! `a + b · ln(gradients)`. b is the median of the slopes of all pairs (Theil–Sen), after consecutive points were
//! averaged into `GROUPS_MAX` groups. Its standard error is that of a least-squares line,
//!
//! ```text
//! error = noise · √((1 + r) / (1 − r)) / √Σ(x − mean x)²        x = ln(gradients)
//! ```
//!
//! where `noise` is 1.4826 times the median absolute residual, and r, from 0 to 0.9, the correlation of each residual
//! with the next: weights drift, so that neighbouring points share much of their noise.
//!
//! A fit is flat if even its favourable end wins less than [`STEP`] while gradients double: `ln 2 · (2 · error − b)`.
//! The curve is flat once `FLAT_FITS` points in a row say so. Only gradients and losses decide, no time; logarithms
//! are those of crate `libm`, which are the same on every machine.

use serde::{Deserialize, Serialize};

/// What a flat curve does not win in a doubling, in units of the loss; forecasts are of the next so much.
pub const STEP: f64 = 0.01;
/// Fewer points over the last doubling say nothing.
const POINTS_MIN: usize = 8;
/// Before so many gradients nothing is called flat: learning begins slowly.
const GRADIENTS_MIN: u64 = 1_000;
/// The newest point has at least this many times the gradients of the oldest in the fit.
const SPAN_MIN: f64 = 1.25;
/// So many points in a row must have found the curve flat.
const FLAT_FITS: u32 = 3;
/// Points that are kept. Beyond, every second one goes.
const POINTS_MAX: usize = 1_024;
/// Points of a fit, after averaging.
const GROUPS_MAX: usize = 64;
/// From a median absolute deviation to a standard deviation, for normal noise.
const DEVIATIONS: f64 = 1.4826;
const CORRELATION_MAX: f64 = 0.9;
/// A forecast of more than this many times the gradients so far is none.
const FORECAST_MAX: f64 = 1_000.0;

/// One look at the held-out text.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct CurvePoint {
    /// Gradients in the weights.
    pub gradients: u64,
    /// Held-out loss.
    pub loss: f64,
}

/// What the fit over the last doubling says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Forecast {
    /// Gradients until the loss is [`STEP`] lower, if it goes on as fitted; None if it does not fall, or so slowly that
    /// no figure would mean anything.
    pub gradients_to_next: Option<u64>,
    /// Whether the curve is flat.
    pub is_flat: bool,
}

/// See the module's documentation.
#[derive(Clone, Default, Debug)]
pub struct Curve {
    /// Of the last doubling, gradients rising.
    points: Vec<CurvePoint>,
    /// Points in a row that found it flat.
    flat_fits: u32,
    forecast: Option<Forecast>,
}

impl Curve {
    /// Adds the newest point. Those before it that have as many gradients or more go: it was measured again, or
    /// gradients were withdrawn. A loss that is not finite says nothing.
    pub fn push(&mut self, point: CurvePoint) {
        if !point.loss.is_finite() {
            return;
        }
        let is_news = self.points.last().is_none_or(|last| last.gradients < point.gradients);
        let oldest = (point.gradients / 2).max(1);
        self.points.retain(|known| (oldest..point.gradients).contains(&known.gradients));
        if point.gradients >= oldest {
            self.points.push(point);
        }
        if self.points.len() > POINTS_MAX {
            let mut index = 0;
            self.points.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        let fit = Fit::of(&self.points);
        self.flat_fits = match fit.is_some_and(Fit::is_flat) {
            true => self.flat_fits.saturating_add(u32::from(is_news)),
            false => 0,
        };
        self.forecast = fit.map(|fit| Forecast {
            gradients_to_next: fit.gradients_to_next(point.gradients),
            is_flat: self.flat_fits >= FLAT_FITS,
        });
    }

    /// What the points so far say; None while they are too few or too close.
    pub fn forecast(&self) -> Option<Forecast> {
        self.forecast
    }

    /// Whether it is flat.
    pub fn is_flat(&self) -> bool {
        self.forecast.is_some_and(|forecast| forecast.is_flat)
    }
}

/// Loss by ln(gradients).
#[derive(Clone, Copy, Debug)]
struct Fit {
    slope: f64,
    error: f64,
}

impl Fit {
    fn of(points: &[CurvePoint]) -> Option<Self> {
        let (first, last) = (points.first()?.gradients, points.last()?.gradients);
        let is_long = last >= GRADIENTS_MIN && last as f64 >= SPAN_MIN * first as f64;
        if points.len() < POINTS_MIN || !is_long {
            return None;
        }
        let groups = grouped(points);
        let pairs = groups.iter().enumerate().flat_map(|(i, a)| groups[i + 1..].iter().map(move |b| (a, b)));
        let slope = median(pairs.filter(|(a, b)| b.0 > a.0).map(|(a, b)| (b.1 - a.1) / (b.0 - a.0)))?;
        let intercept = median(groups.iter().map(|(x, y)| y - slope * x))?;
        let residuals: Vec<f64> = groups.iter().map(|(x, y)| y - slope * x - intercept).collect();
        let noise = DEVIATIONS * median(residuals.iter().map(|residual| residual.abs()))?;
        let correlation = correlation(&residuals);
        let mean = groups.iter().map(|(x, _)| x).sum::<f64>() / groups.len() as f64;
        let spread = groups.iter().map(|(x, _)| (x - mean) * (x - mean)).sum::<f64>().sqrt();
        Some(Self { slope, error: noise * ((1.0 + correlation) / (1.0 - correlation)).sqrt() / spread })
    }

    fn is_flat(self) -> bool {
        std::f64::consts::LN_2 * (2.0 * self.error - self.slope) < STEP
    }

    /// How many more than `gradients` until the loss is [`STEP`] lower.
    fn gradients_to_next(self, gradients: u64) -> Option<u64> {
        let growth = libm::expm1(STEP / -self.slope);
        (self.slope < 0.0 && growth <= FORECAST_MAX).then(|| (gradients as f64 * growth).ceil() as u64)
    }
}

/// (ln(gradients), loss), means of consecutive points.
fn grouped(points: &[CurvePoint]) -> Vec<(f64, f64)> {
    let mean = |group: &[CurvePoint]| {
        let count = group.len() as f64;
        let x = group.iter().map(|point| libm::log(point.gradients as f64)).sum::<f64>() / count;
        (x, group.iter().map(|point| point.loss).sum::<f64>() / count)
    };
    points.chunks(points.len().div_ceil(GROUPS_MAX)).map(mean).collect()
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

/// Of each residual with the next, 0 to [`CORRELATION_MAX`].
fn correlation(residuals: &[f64]) -> f64 {
    let all: f64 = residuals.iter().map(|residual| residual * residual).sum();
    let next: f64 = residuals.windows(2).map(|pair| pair[0] * pair[1]).sum();
    if all > 0.0 { (next / all).clamp(0.0, CORRELATION_MAX) } else { 0.0 }
}
