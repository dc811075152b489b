//! Numbers, units and labels as people read them.

use std::collections::BTreeSet;

use crate::summary::{CheckResult, Summary};

/// A short name for each summary, by what tells it from the others.
pub fn labels(summaries: &[Summary]) -> Vec<String> {
    let differ = |values: BTreeSet<String>| values.len() > 1;
    let scenarios = differ(summaries.iter().map(|summary| summary.scenario.clone()).collect());
    let sizes = differ(summaries.iter().map(|summary| summary.machines.to_string()).collect());
    let name = |summary: &Summary| match (scenarios, sizes) {
        (false, _) => machines(summary.machines),
        (true, false) => summary.scenario.clone(),
        (true, true) => format!("{}, {}", summary.scenario, machines(summary.machines)),
    };
    let names: BTreeSet<String> = summaries.iter().map(name).collect();
    let ambiguous = names.len() < summaries.len();
    summaries.iter().map(|r| if ambiguous { format!("{}, seed {}", name(r), r.seed) } else { name(r) }).collect()
}

/// "1 machine", "64 machines".
pub fn machines(count: usize) -> String {
    if count == 1 { "1 machine".into() } else { format!("{} machines", thousands(count as u64)) }
}

/// Each check with one verdict for all summaries, or with those that differ, in words.
pub fn check_results(summaries: &[Summary]) -> Vec<(&'static str, String)> {
    let names: BTreeSet<&'static str> = summaries.iter().flat_map(|summary| summary.checks.keys().copied()).collect();
    let labels = labels(summaries);
    let together = |name| {
        let found: Vec<&CheckResult> =
            summaries.iter().map(|summary| summary.checks.get(name).unwrap_or(&CheckResult::NotTried)).collect();
        let passed = found.iter().filter(|verdict| ***verdict == CheckResult::Passed).count();
        let failures: Vec<String> = found
            .iter()
            .zip(&labels)
            .filter(|(verdict, _)| verdict.is_failure())
            .map(|(verdict, label)| if found.len() > 1 { format!("{verdict} ({label})") } else { verdict.to_string() })
            .collect();
        match (failures.is_empty(), passed) {
            (false, _) => failures.join("; "),
            (true, 0) => CheckResult::NotTried.to_string(),
            (true, passed) if passed == found.len() => CheckResult::Passed.to_string(),
            (true, passed) => format!("passed in {passed} of {} runs, not tried in the others", found.len()),
        }
    };
    names.into_iter().map(|name| (name, together(name))).collect()
}

/// One line: whether all is well, else what is not.
pub fn outcome(summaries: &[Summary]) -> String {
    let mut wrong = Vec::new();
    for (summary, label) in summaries.iter().zip(labels(summaries)) {
        let place = if summaries.len() > 1 { format!(" ({label})") } else { String::new() };
        if !summary.converged {
            wrong.push(format!("convergence{place}"));
        }
        wrong.extend(summary.checks.iter().filter(|(_, v)| v.is_failure()).map(|(name, _)| format!("{name}{place}")));
    }
    if !wrong.is_empty() {
        return format!("Failed: {}.", wrong.join(", "));
    }
    let check_results = check_results(summaries);
    let untried = check_results.iter().filter(|(_, verdict)| *verdict == CheckResult::NotTried.to_string()).count();
    let tried = check_results.len() - untried;
    match (summaries.is_empty(), tried, untried) {
        (true, ..) => "No run.".into(),
        (false, 0, _) => "The machines ended equal; no check had anything to try.".into(),
        (false, tried, 0) => format!("All {tried} checks passed, and the machines ended equal."),
        (false, tried, untried) => {
            format!("All checks passed: {tried} passed, {untried} had nothing to try, and the machines ended equal.")
        }
    }
}

/// 1234567 as "1,234,567".
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number at three or four significant digits, or "–" where there is none.
pub fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "–".into(),
        _ if size == 0.0 => "0".into(),
        _ if !(1e-4..1e15).contains(&size) => format!("{value:.2e}"),
        _ if size >= 1000.0 => format!("{}{}", if value < 0.0 { "−" } else { "" }, thousands(size.round() as u64)),
        _ => {
            let decimals = (2 - size.log10().floor() as i32).max(0) as usize;
            plain(format!("{value:.decimals$}"))
        }
    }
}

/// A loss at four significant digits.
pub fn loss(value: f64) -> String {
    if value.is_finite() && (0.01..10_000.0).contains(&value.abs()) {
        let decimals = (3 - value.abs().log10().floor() as i32).max(0) as usize;
        format!("{value:.decimals$}")
    } else {
        number(value)
    }
}

/// Without zeros that say nothing.
pub fn plain(decimal: String) -> String {
    if decimal.contains('.') { decimal.trim_end_matches('0').trim_end_matches('.').into() } else { decimal }
}

/// The unit in which seconds up to `most` read best, and its length in seconds.
pub fn time_unit(most: f64) -> (&'static str, f64) {
    match most {
        _ if !most.is_finite() => ("s", 1.0),
        _ if most < 1.0 => ("ms", 1e-3),
        _ if most < 180.0 => ("s", 1.0),
        _ if most < 3.0 * 3600.0 => ("min", 60.0),
        _ if most < 72.0 * 3600.0 => ("h", 3600.0),
        _ => ("d", 86_400.0),
    }
}

/// The unit in which bytes up to `most` read best, and its size in bytes.
pub fn byte_unit(most: f64) -> (&'static str, f64) {
    match most {
        _ if most < 1e4 => ("B", 1.0),
        _ if most < 1e6 => ("kB", 1e3),
        _ if most < 1e9 => ("MB", 1e6),
        _ => ("GB", 1e9),
    }
}

/// A length of time with its unit.
pub fn time(seconds: f64) -> String {
    let (unit, length) = time_unit(seconds);
    if seconds == 0.0 { "0 s".into() } else { format!("{} {unit}", number(seconds / length)) }
}

/// An amount of bytes with its unit.
pub fn size(bytes: f64) -> String {
    let (unit, one) = byte_unit(bytes);
    format!("{} {unit}", number(bytes / one))
}

/// What the loss is. One command trains one objective; should runs of several meet on a page, all are named.
pub fn loss_unit(summaries: &[Summary]) -> String {
    let units: BTreeSet<&str> = summaries.iter().map(|summary| summary.loss_unit).collect();
    units.into_iter().collect::<Vec<_>>().join(" or ")
}

/// First and last loss, or "–" where none was measured.
pub fn loss_from_to(summary: &Summary) -> String {
    match (summary.curve.first(), summary.curve.last()) {
        (Some(first), Some(last)) => format!("{} → {}", loss(first.loss), loss(last.loss)),
        _ => "–".into(),
    }
}

/// How long it took until all machines were equal, in words where there is no number.
pub fn until_equal(summary: &Summary) -> String {
    match (summary.seconds_to_converge, summary.converged) {
        (Some(seconds), _) => time(seconds),
        (None, true) => "–".into(),
        (None, false) => "never".into(),
    }
}

/// At most `most` characters.
pub fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
