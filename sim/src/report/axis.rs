//! Axes of plots: round marks over whatever values there are.

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};
use std::ops::Range;

use super::words::number;

/// Where values go, and what stands beside.
pub struct Axis {
    /// What it shows; nothing for an axis of names.
    pub label: String,
    /// Where it begins, logarithmic where it is.
    pub from: f64,
    pub to: f64,
    log: bool,
    ticks: Vec<(f64, String)>,
    /// Whether lines are drawn across the plot at the marks.
    pub grid: bool,
}

impl Axis {
    /// An axis over the finite ones of these values.
    pub fn over(label: &str, log: bool, values: impl Iterator<Item = f64>) -> Option<Self> {
        let usable = values.filter(|value| value.is_finite() && (!log || *value > 0.0));
        let (least, most) = usable.fold((f64::MAX, f64::MIN), |(least, most), v| (least.min(v), most.max(v)));
        if least > most {
            return None;
        }
        if log {
            let (from, to) = (least.max(most / 1e5).log10(), most.log10());
            let room = ((to - from) * 0.05).max(0.05);
            let (from, to) = (from - room, to + room);
            let label = format!("{label}, logarithmic");
            return Some(Self { label, from, to, log, ticks: log_ticks(from, to), grid: true });
        }
        let to = if most > least { most } else { least + least.abs().max(1.0) };
        let room = (to - least) * 0.04;
        let from = if least >= 0.0 && least < to * 0.25 { 0.0 } else { least - room };
        let to = to + room;
        Some(Self { label: label.into(), from, to, log, ticks: linear_ticks(from, to), grid: true })
    }

    /// One place for each name, at 0, 1, 2 and so on.
    pub fn of_names(names: impl Iterator<Item = String>) -> Self {
        let ticks: Vec<_> = names.enumerate().map(|(at, name)| (at as f64, name)).collect();
        Self { label: String::new(), from: -0.6, to: ticks.len() as f64 - 0.4, log: false, ticks, grid: false }
    }

    /// Where a value goes.
    pub fn place(&self, value: f64) -> f64 {
        if self.log { value.log10() } else { value }
    }

    /// Characters of the longest mark.
    pub fn label_width(&self) -> usize {
        self.ticks.iter().map(|(_, name)| name.chars().count()).max().unwrap_or(0)
    }
}

impl Ranged for &Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        start.saturating_add(((value - self.from) / (self.to - self.from) * f64::from(end - start)).round() as i32)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.iter().map(|(at, _)| *at).collect() }
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for &Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.ticks.iter().find(|(at, _)| at == value).map(|(_, name)| name.clone()).unwrap_or_default()
    }
}

/// Four to nine round numbers.
fn linear_ticks(from: f64, to: f64) -> Vec<(f64, String)> {
    let power = 10f64.powf(((to - from) / 5.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    let step = steps.into_iter().find(|step| (to - from) / step <= 8.0).unwrap_or(power * 10.0);
    let decimals = (-(step.log10() + 1e-9).floor()).clamp(0.0, 12.0) as usize;
    let first = (from / step).ceil();
    let (unit, one) = match to.max(-from) {
        most if most >= 1e9 => ("G", 1e9),
        most if most >= 1e6 => ("M", 1e6),
        most if most >= 1e4 => ("k", 1e3),
        _ => ("", 1.0),
    };
    let name = |v: f64| match v {
        _ if v.abs() < step / 2.0 => "0".into(),
        _ if one > 1.0 || v.abs() >= 1000.0 => format!("{}{unit}", number(v / one)),
        _ => format!("{v:.decimals$}"),
    };
    (0..10).map(|i| (first + f64::from(i)) * step).filter(|v| *v <= to).map(|v| (v, name(v))).collect()
}

/// Powers of ten, and between them 2 and 5 while there is room.
fn log_ticks(from: f64, to: f64) -> Vec<(f64, String)> {
    let factors: &[f64] = match to - from {
        width if width < 1.2 => &[1.0, 2.0, 3.0, 5.0, 7.0],
        width if width < 2.5 => &[1.0, 2.0, 5.0],
        _ => &[1.0],
    };
    let powers = from.floor() as i32..=to.ceil() as i32;
    let values = powers.flat_map(|power| factors.iter().map(move |factor| factor * 10f64.powi(power)));
    values.map(|v| (v.log10(), short(v))).filter(|(at, _)| *at >= from - 1e-9 && *at <= to + 1e-9).collect()
}

/// A number in as few characters as a tick has room for.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 1e9 => format!("{}G", number(value / 1e9)),
        size if size >= 1e6 => format!("{}M", number(value / 1e6)),
        size if size >= 1e3 => format!("{}k", number(value / 1e3)),
        _ => number(value),
    }
}
