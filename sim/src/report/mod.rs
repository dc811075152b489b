//! What a person reads after a run: a page, a table, and the numbers for scripts.

mod axis;
mod page;
mod plots;
mod table;
mod words;

use crate::summary::Summary;
use anyhow::Context;
use serde_json::{Map, Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};

pub use table::table;
pub(crate) use words::machines;

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

#[cfg(test)]
mod tests {
    use super::{words::*, *};
    use crate::summary::{BytesByCause, CheckResult, CurvePoint, Mark, Quantiles, SpreadPoint};

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
            marks: vec![Mark { seconds: 1.0, what: "crash" }, Mark { seconds: 2.0, what: "join" }],
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
            senders: Vec::new(),
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
            marks: Vec::new(),
            signed_after_loss: 0,
            checks: [].into(),
        }
    }

    #[test]
    fn what_befell_the_swarm_is_marked_and_percentiles_are_bars() -> anyhow::Result<()> {
        let spreads = plots::spreads(&[summary(4)])?;
        let svg = spreads[0].svg.as_ref().context("there is a plot")?;
        assert_eq!(svg.matches("class=\"mark\"").count(), 2);
        assert!(["crash", "join"].iter().all(|word| svg.contains(word)), "{svg}");
        let mut crowded = summary(4);
        crowded.marks = (0..1_000).map(|n| Mark { seconds: f64::from(n) * 0.003, what: "join" }).collect();
        let spreads = plots::spreads(&[crowded])?;
        let svg = spreads[0].svg.as_ref().context("there is a plot")?;
        assert!(svg.matches("class=\"mark\"").count() <= 50 && svg.matches("join").count() <= 7, "{svg}");
        for figure in plots::staleness(&[summary(4), summary(8)])? {
            let svg = figure.svg.context("there is a plot")?;
            let bars = |series: u32| svg.matches(&format!("class=\"f{series}\"")).count();
            assert!(figure.bars && bars(0) == 4 && bars(1) == 4, "{svg}");
        }
        Ok(())
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
