//! What a person reads after a run: a page, a table, and the numbers for scripts.

mod axis;
mod page;
mod plots;
mod table;

use crate::summary::{CheckResult, Summary};
use anyhow::Context;
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

pub use table::table;

/// Writes `report.html` and `report.json` into `out` (creates it); returns the path of the page.
pub fn write(out: &Path, summaries: &[Summary]) -> anyhow::Result<PathBuf> {
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let numbers = out.join("report.json");
    let mut text = serde_json::to_string_pretty(&numbers_of(summaries)?)?;
    text.push('\n');
    replace(&numbers, &text)?;
    let page = out.join("report.html");
    replace(&page, &page::page(summaries)?)?;
    Ok(page)
}

/// Whoever is interrupted leaves the old file, or the new one, whole.
fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let part = path.with_added_extension("part");
    let replaced = fs::write(&part, text).and_then(|()| fs::rename(&part, path));
    replaced.with_context(|| format!("cannot write {}", path.display()))
}

/// The last summary's main numbers at the top, all summaries below `runs`.
fn numbers_of(summaries: &[Summary]) -> anyhow::Result<Value> {
    let mut top = Map::new();
    if let Some(last) = summaries.last() {
        top.insert("scenario".into(), json!(last.scenario));
        top.insert("seed".into(), json!(last.seed));
        top.insert("event_log_hash".into(), json!(last.event_log_hash));
        top.insert("machines".into(), json!(last.machines));
        top.insert("gradients".into(), json!(last.gradients));
        top.insert("wall_seconds".into(), json!(last.wall_seconds));
        top.insert("peak_memory_bytes".into(), json!(last.peak_memory_bytes));
        top.insert("bytes_per_gradient".into(), json!(last.bytes_per_gradient()));
        top.insert("gradients_per_second".into(), json!(last.gradients_per_second()));
        top.insert("checks".into(), serde_json::to_value(&last.checks)?);
    }
    top.insert("converged".into(), json!(!summaries.is_empty() && summaries.iter().all(|summary| summary.converged)));
    top.insert("passed".into(), json!(!summaries.is_empty() && summaries.iter().all(Summary::passed)));
    let mut runs = Vec::with_capacity(summaries.len());
    for summary in summaries {
        let mut run = serde_json::to_value(summary)?;
        if let Some(fields) = run.as_object_mut() {
            fields.insert("bytes_per_gradient".into(), json!(summary.bytes_per_gradient()));
            fields.insert("gradients_per_second".into(), json!(summary.gradients_per_second()));
        }
        runs.push(run);
    }
    top.insert("runs".into(), Value::Array(runs));
    Ok(Value::Object(top))
}

/// A short name for each summary, by what tells it from the others.
fn labels(summaries: &[Summary]) -> Vec<String> {
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
pub(crate) fn machines(count: usize) -> String {
    if count == 1 { "1 machine".into() } else { format!("{} machines", thousands(count as u64)) }
}

/// Each check with one verdict for all summaries, or with those that differ, in words.
fn check_results(summaries: &[Summary]) -> Vec<(&'static str, String)> {
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
fn outcome(summaries: &[Summary]) -> String {
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
fn thousands(number: u64) -> String {
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
fn number(value: f64) -> String {
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
fn loss(value: f64) -> String {
    if value.is_finite() && (0.01..10_000.0).contains(&value.abs()) {
        let decimals = (3 - value.abs().log10().floor() as i32).max(0) as usize;
        format!("{value:.decimals$}")
    } else {
        number(value)
    }
}

/// Without zeros that say nothing.
fn plain(decimal: String) -> String {
    if decimal.contains('.') { decimal.trim_end_matches('0').trim_end_matches('.').into() } else { decimal }
}

/// The unit in which seconds up to `most` read best, and its length in seconds.
fn time_unit(most: f64) -> (&'static str, f64) {
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
fn byte_unit(most: f64) -> (&'static str, f64) {
    match most {
        _ if most < 1e4 => ("B", 1.0),
        _ if most < 1e6 => ("kB", 1e3),
        _ if most < 1e9 => ("MB", 1e6),
        _ => ("GB", 1e9),
    }
}

/// A length of time with its unit.
fn time(seconds: f64) -> String {
    let (unit, length) = time_unit(seconds);
    if seconds == 0.0 { "0 s".into() } else { format!("{} {unit}", number(seconds / length)) }
}

/// An amount of bytes with its unit.
fn size(bytes: f64) -> String {
    let (unit, one) = byte_unit(bytes);
    format!("{} {unit}", number(bytes / one))
}

/// What the loss is. One command trains one objective; should runs of several meet on a page, all are named.
fn loss_unit(summaries: &[Summary]) -> String {
    let units: BTreeSet<&str> = summaries.iter().map(|summary| summary.loss_unit).collect();
    units.into_iter().collect::<Vec<_>>().join(" or ")
}

/// First and last loss, or "–" where none was measured.
fn loss_from_to(summary: &Summary) -> String {
    match (summary.curve.first(), summary.curve.last()) {
        (Some(first), Some(last)) => format!("{} → {}", loss(first.loss), loss(last.loss)),
        _ => "–".into(),
    }
}

/// How long it took until all machines were equal, in words where there is no number.
fn until_equal(summary: &Summary) -> String {
    match (summary.seconds_to_converge, summary.converged) {
        (Some(seconds), _) => time(seconds),
        (None, true) => "–".into(),
        (None, false) => "never".into(),
    }
}

/// At most `most` characters.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.into();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::{BytesByCause, CurvePoint, Quantiles, SpreadPoint};

    fn summary(machines: usize) -> Summary {
        let at =
            |i: u64| CurvePoint { seconds: i as f64, gradients: i * 10, bytes: i as f64 * 900.0, loss: 4.0 - i as f64 };
        let spread = |i: u64| SpreadPoint { seconds: i as f64, made: i, least: 0, median: i / 2, most: i, machines };
        Summary {
            machines,
            machines_at_end: machines,
            gradients: 30,
            virtual_seconds: 3.0,
            converged: true,
            event_log_hash: "ab12".into(),
            delay_ms: Quantiles { median: 80.0, p90: 200.0, p99: 900.0, max: 30_000.0 },
            staleness_gradients: Quantiles { median: 0.0, p90: 2.0, p99: 9.0, max: 12.0 },
            bytes: BytesByCause { payload: 1000, heads: 12_000, ..BytesByCause::default() },
            deliveries: 1000,
            curve: (0..4).map(at).collect(),
            spread: (0..4).map(spread).collect(),
            checks: [("conservation", CheckResult::Passed), ("hostile input", CheckResult::NotTried)].into(),
            ..empty()
        }
    }

    fn empty() -> Summary {
        Summary {
            scenario: "steady".into(),
            purpose: "To see.".into(),
            seed: 7,
            reproduce: "sim steady --seed 7".into(),
            event_log_hash: String::new(),
            events: 0,
            converged: false,
            machines: 0,
            machines_at_end: 0,
            gradients: 0,
            virtual_seconds: 0.0,
            seconds_to_converge: None,
            wall_seconds: 0.0,
            peak_memory_bytes: 0,
            loss_unit: "nats per token",
            delay_ms: Quantiles::default(),
            staleness_gradients: Quantiles::default(),
            bytes: BytesByCause::default(),
            deliveries: 0,
            curve: Vec::new(),
            spread: Vec::new(),
            signed_after_loss: 0,
            checks: [].into(),
        }
    }

    #[test]
    fn the_numbers_have_the_names_that_scripts_read() -> anyhow::Result<()> {
        let mut first = summary(4);
        first.converged = false;
        let folder = tempfile::tempdir()?;
        write(folder.path(), &[first, summary(16)])?;
        let numbers: Value = serde_json::from_slice(&fs::read(folder.path().join("report.json"))?)?;
        assert_eq!(numbers["event_log_hash"], "ab12");
        assert_eq!(numbers["converged"], false, "one run did not");
        assert_eq!(numbers["machines"], 16, "the last run's");
        assert_eq!(numbers["gradients"], 30);
        assert!(numbers["wall_seconds"].is_number() && numbers["peak_memory_bytes"].is_number());
        assert_eq!(numbers["checks"]["conservation"], "passed");
        assert_eq!(numbers["runs"].as_array().map(Vec::len), Some(2));
        assert_eq!(numbers["runs"][0]["bytes_per_gradient"], 13.0);
        assert_eq!(numbers["runs"][1]["gradients_per_second"], 10.0);
        Ok(())
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere() -> anyhow::Result<()> {
        let page = page::page(&[summary(1), summary(4), summary(400)])?;
        assert!(page.contains("<polyline"));
        for reference in ["http://", "https://", "src=", "href=", "url(", "@import", "<script"] {
            assert!(!page.contains(reference), "{reference}");
        }
        Ok(())
    }

    #[test]
    fn hostile_text_stays_text() -> anyhow::Result<()> {
        let mut hostile = summary(4);
        let text = "<script>alert(\"1\")</script>&amp;'";
        (hostile.scenario, hostile.purpose, hostile.reproduce) = (text.into(), text.into(), text.into());
        hostile.event_log_hash = text.into();
        hostile.checks.insert("the <b>check", CheckResult::Failed(text.into()));
        let page = page::page(&[hostile.clone(), summary(4)])?;
        assert!(!page.contains("<script") && !page.contains("<b>check"));
        assert!(page.contains("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;amp;&#39;"));
        assert!(page.contains("Failed: the &lt;b&gt;check"));
        Ok(())
    }

    #[test]
    fn a_run_without_data_makes_a_page_that_says_so() -> anyhow::Result<()> {
        let mut odd = summary(2);
        odd.curve.push(CurvePoint { seconds: f64::NAN, gradients: 1, bytes: f64::INFINITY, loss: f64::NAN });
        odd.delay_ms.max = f64::INFINITY;
        for summaries in [vec![], vec![empty()], vec![empty(), summary(1)], vec![odd]] {
            assert!(page::page(&summaries)?.contains("</html>"));
            table(&summaries);
        }
        assert!(page::page(&[empty()])?.contains("No data"));
        Ok(())
    }

    #[test]
    fn what_the_loss_is_stands_beside_it() -> anyhow::Result<()> {
        let mut other = summary(4);
        other.loss_unit = "quadratic";
        assert!(page::page(&[summary(1), summary(4)])?.contains("loss (nats per token)"));
        assert!(page::page(&[summary(1), other])?.contains("loss (nats per token or quadratic)"));
        assert!(table(&[summary(1)]).contains("nats per token"));
        Ok(())
    }

    #[test]
    fn what_is_left_out_is_said() -> anyhow::Result<()> {
        let summaries: Vec<Summary> = (1..=5).map(summary).collect();
        assert!(
            page::page(&summaries)?
                .contains("4 of the 5 runs are shown here: 1 machine, 2 machines, 3 machines and 5 machines.")
        );
        assert!(!page::page(&summaries[..4])?.contains("are shown here"));
        Ok(())
    }

    #[test]
    fn the_table_fits_a_terminal() {
        let mut wide = summary(1_000_000);
        wide.scenario = "a scenario with a name that nobody would type".into();
        (wide.gradients, wide.virtual_seconds, wide.delay_ms.median) = (123_456_789, 1e6, 123_456.7);
        wide.bytes.duplicates = 123_456_789_012;
        wide.checks.insert("equality", CheckResult::Failed("machine 17 holds what no one made ".repeat(9)));
        let table = table(&[wide, summary(1), summary(4)]);
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        assert!(table.contains("conservation: passed"), "{table}");
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!([number(0.0), number(12.5), number(1234.5), number(0.0314)], ["0", "12.5", "1,235", "0.0314"]);
        assert_eq!([time(0.25), time(90.0), time(7200.0)], ["250 ms", "90 s", "120 min"]);
        assert_eq!([size(512.0), size(1.5e6)], ["512 B", "1.5 MB"]);
        assert_eq!([loss(3.2), loss(10.82)], ["3.200", "10.82"]);
    }
}
