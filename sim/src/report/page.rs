//! The page: one file, without script, for a phone and a desktop, for the day and the night.

use super::{
    plots::{self, Figure},
    words::{
        check_results, labels, loss_from_to, loss_unit, machines, number, outcome, size, thousands, time, until_equal,
    },
};
use crate::summary::{CheckResult, Summary};
use std::collections::BTreeSet;

const STYLE: &str = r"
:root { color-scheme: light dark; --page: #fcfcfa; --ink: #1c1e21; --soft: #5c636b; --rule: #dcdfe2; --box: #f1f2f0;
  --c0: #1f6fb4; --c1: #c4520a; --c2: #2a8a57; --c3: #8a4fb0; --c4: #b08300;
  --c5: #c23a6b; --c6: #1a8fa0; --c7: #8b9097; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --ink: #e4e6e8; --soft: #a0a7af; --rule: #363b41;
  --box: #202327; --c0: #62aeec; --c1: #f08a45; --c2: #5cc48c; --c3: #c08ee6; --c4: #dcb63e; --c5: #ee7ba3;
  --c6: #56c5d4; --c7: #8b9097; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 72rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
h1 { margin: 0 0 .5rem; font-size: 1.7rem; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 3rem 0 1rem; padding-bottom: .3rem; border-bottom: 1px solid var(--rule); font-size: 1.25rem; }
h3 { margin: 0 0 .5rem; font-size: 1rem; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
.verdict { font-weight: 600; }
.verdict, pre { border-left: 4px solid var(--c2); padding: .5rem .9rem; background: var(--box); max-width: none; }
.verdict.wrong { border-color: var(--c1); }
pre { margin: .75rem 0; white-space: pre-wrap; overflow-wrap: anywhere; border-color: var(--rule); }
pre, .hash { font: .875rem/1.5 ui-monospace, 'SF Mono', Menlo, Consolas, monospace; }
.hash { overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: 1.1rem 1.5rem; margin: 1rem 0; }
dl div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
dt { color: var(--soft); font-size: .875rem; line-height: 1.35; }
dd { margin: 0; font-size: 1.4rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.note, figcaption { color: var(--soft); font-size: .9rem; line-height: 1.45; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 2.25rem 2rem; }
figure { margin: 0; min-width: 0; }
figcaption p { margin: .35rem 0 0; }
@media (min-width: 60rem) { figure:last-child:nth-child(odd) { grid-column: 1 / -1; display: grid;
  grid-template-columns: 1fr 1fr; gap: 2rem; align-items: center; } }
figure .plot svg { display: block; width: 100%; height: auto; }
.plot text { font-family: inherit; fill: var(--soft); }
.plot rect { stroke: var(--page); stroke-width: 2; }
@media (max-width: 36rem) { .plot text { font-size: 29px; } }
.grid { stroke: var(--rule); stroke-width: 1.5; }
.mark { stroke: var(--soft); stroke-width: 2; stroke-dasharray: 3 7; fill: none; }
polyline { stroke-linejoin: round; stroke-linecap: round; }
.empty { display: grid; place-items: center; aspect-ratio: 3 / 1; background: var(--box); color: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1.1rem; margin: .25rem 0 0; padding: 0; list-style: none;
  color: var(--ink); }
.legend svg { width: 1.9rem; height: .7rem; margin-right: .4rem; }
.legend line { stroke-width: 3; } .legend rect { stroke: none; }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem 2rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.1rem .35rem 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; }
.numbers td:not(:first-child), .numbers th:not(:first-child) { text-align: right; white-space: nowrap; }
.words td { overflow-wrap: anywhere; } .words td:first-child { min-width: 9rem; }
";

/// Dashes tell lines apart where colours do not.
const DASHES: [&str; plots::COLOURS] = ["none", "14 9", "3 9", "20 8 3 8", "8 6", "14 6 3 6 3 6", "26 8", "none"];

const SPREADS: &str = "Convergence of the version vectors";

/// The whole page.
pub fn page(summaries: &[Summary]) -> anyhow::Result<String> {
    let mut style = STYLE.to_string();
    for (series, dash) in DASHES.iter().enumerate() {
        style.push_str(&format!(
            ".l{series} {{ stroke: var(--c{series}); stroke-dasharray: {dash}; }} \
             .f{series} {{ fill: var(--c{series}); }}\n"
        ));
    }
    let title = escaped(&title(summaries));
    let mut body = head(summaries, &title);
    body += &keys(summaries);
    let sections = [
        ("Loss", plots::losses(summaries)?),
        ("Staleness", plots::staleness(summaries)?),
        (SPREADS, plots::spreads(summaries)?),
        ("Bytes", vec![plots::causes(summaries)?]),
    ];
    for (name, figures) in &sections {
        let figures: String = figures.iter().map(figure).collect();
        let left_out = if *name == SPREADS { left_out(summaries) } else { String::new() };
        body += &format!("<h2>{name}</h2>\n{left_out}<div class=\"plots\">\n{figures}</div>\n");
    }
    body += &format!("<h2>Checks</h2>\n{}", checks(summaries));
    body += &format!("<h2>Bytes by cause</h2>\n{}", causes(summaries));
    body += &format!("<h2>Runs</h2>\n{}", runs(summaries));
    Ok(format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{style}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    ))
}

/// Which runs have no plot of the spread, if any has none.
fn left_out(summaries: &[Summary]) -> String {
    let labels = labels(summaries);
    let shown: Vec<String> = plots::spreads_shown(summaries.len()).map(|at| labels[at].clone()).collect();
    if shown.len() == summaries.len() {
        return String::new();
    }
    let (count, all) = (shown.len(), summaries.len());
    format!("<p class=\"note\">{count} of the {all} runs are shown here: {}.</p>\n", escaped(&listed(&shown)))
}

/// Text that is no markup.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// Each value once, in order of appearance.
fn distinct(values: impl Iterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    values.filter(|value| seen.insert(value.clone())).collect()
}

/// "1, 4 and 16".
fn listed(values: &[String]) -> String {
    match values {
        [before @ .., last] if !before.is_empty() => format!("{} and {last}", before.join(", ")),
        values => values.concat(),
    }
}

fn title(summaries: &[Summary]) -> String {
    let scenarios = distinct(summaries.iter().map(|summary| summary.scenario.clone()));
    let sizes = distinct(summaries.iter().map(|summary| thousands(summary.machines as u64)));
    let seeds = distinct(summaries.iter().map(|summary| summary.seed.to_string()));
    let machines = match summaries {
        [] => return "No run".into(),
        [first, ..] if sizes.len() == 1 => machines(first.machines),
        _ => format!("{} machines", listed(&sizes)),
    };
    format!("{}: {machines}, seed {}", listed(&scenarios), listed(&seeds))
}

fn head(summaries: &[Summary], title: &str) -> String {
    let mut text = format!("<h1>{title}</h1>\n");
    for purpose in distinct(summaries.iter().map(|summary| summary.purpose.clone())) {
        text += &format!("<p>{}</p>\n", escaped(&purpose));
    }
    let class = if summaries.iter().all(Summary::passed) { "verdict" } else { "verdict wrong" };
    text += &format!("<p class=\"{class}\">{}</p>\n", escaped(&outcome(summaries)));
    let commands = distinct(summaries.iter().map(|summary| summary.reproduce.clone()));
    if !commands.is_empty() {
        text += &format!(
            "<p class=\"note\">To run it again:</p>\n<pre><code>{}</code></pre>\n",
            escaped(&commands.join("\n"))
        );
    }
    text
}

/// Key figures of the last summary.
fn keys(summaries: &[Summary]) -> String {
    let Some(summary) = summaries.last() else {
        return String::new();
    };
    let received = summary.deliveries > 0;
    let when_received = |text: String| if received { text } else { "–".into() };
    let loss = format!("loss ({}), first → last", summary.loss_unit);
    let figures = [
        ("machines", thousands(summary.machines as u64)),
        ("gradients", thousands(summary.gradients)),
        ("virtual time", time(summary.virtual_seconds)),
        ("gradients per virtual second", number(summary.gradients_per_second())),
        (&loss, loss_from_to(summary)),
        ("bytes per gradient", when_received(number(summary.bytes_per_gradient()))),
        ("median delay", when_received(time(summary.delay_ms.median / 1000.0))),
        ("median staleness, gradients", number(summary.staleness_gradients.median)),
        ("until all were equal", until_equal(summary)),
        ("wall time", time(summary.wall_seconds)),
    ];
    let list: String = figures
        .iter()
        .map(|(name, value)| format!("<div><dt>{name}</dt><dd>{}</dd></div>\n", escaped(value)))
        .collect();
    let whose = match (summaries.len(), labels(summaries).last()) {
        (2.., Some(label)) => format!("<p class=\"note\">Of the last run, {}:</p>\n", escaped(label)),
        _ => String::new(),
    };
    format!("<h2>Key figures</h2>\n{whose}<dl>\n{list}</dl>\n")
}

fn figure(figure: &Figure) -> String {
    let title = escaped(&figure.title);
    let plot = match &figure.svg {
        Some(svg) => svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{title}\" "), 1),
        None => "<div class=\"empty\">No data</div>\n".into(),
    };
    let entry = |(series, meaning): &(usize, String)| {
        let series = series % plots::COLOURS;
        let sign = if figure.bars {
            format!("<rect class=\"f{series}\" x=\"8\" width=\"14\" height=\"10\"/>")
        } else {
            format!("<line class=\"l{series}\" x2=\"30\" y1=\"5\" y2=\"5\"/>")
        };
        let key = format!("<svg viewBox=\"0 0 30 10\" aria-hidden=\"true\">{sign}</svg>");
        format!("<li>{key}{}</li>", escaped(meaning))
    };
    let legend: String = figure.legend.iter().filter(|_| figure.svg.is_some()).map(entry).collect();
    let legend = if legend.is_empty() { legend } else { format!("<ul class=\"legend\">{legend}</ul>") };
    let reading = escaped(&figure.reading);
    format!(
        "<figure><div class=\"plot\"><h3>{title}</h3>\n{plot}</div>\n\
         <figcaption>{legend}<p>{reading}</p></figcaption></figure>\n"
    )
}

fn checks(summaries: &[Summary]) -> String {
    let equal = summaries.iter().filter(|summary| summary.converged).count();
    let converged = match equal {
        0 if summaries.is_empty() => CheckResult::NotTried.to_string(),
        all if all == summaries.len() => CheckResult::Passed.to_string(),
        some => format!("failed: the machines ended equal in {some} of {} runs", summaries.len()),
    };
    let mut rows = vec![vec!["all equal at the end".to_string(), converged]];
    rows.extend(check_results(summaries).into_iter().map(|(name, verdict)| vec![name.into(), verdict]));
    table("words", &["check", "verdict"], &rows)
}

fn causes(summaries: &[Summary]) -> String {
    let mut text = String::new();
    for (summary, label) in summaries.iter().zip(labels(summaries)) {
        let total = summary.bytes.total();
        let title = if summaries.len() > 1 { format!("<h3>{}</h3>\n", escaped(&label)) } else { String::new() };
        let row = |(name, bytes): (&str, u64)| {
            let share = format!("{:.1} %", bytes as f64 * 100.0 / total as f64);
            let each =
                if summary.deliveries > 0 { number(bytes as f64 / summary.deliveries as f64) } else { "–".into() };
            vec![name.to_string(), thousands(bytes), each, share]
        };
        let mut rows: Vec<_> = summary.bytes.named().into_iter().map(row).collect();
        rows.push(row(("all", total)));
        let numbers = match total {
            0 => "<p class=\"note\">No data: no byte was received.</p>\n".into(),
            _ => table("numbers", &["cause", "bytes", "per gradient", "share"], &rows),
        };
        text += &format!("<div>{title}{numbers}</div>\n");
    }
    format!("<div class=\"tables\">\n{text}</div>\n")
}

/// One column per run: so it stays readable where there is one, and on a phone.
fn runs(summaries: &[Summary]) -> String {
    let labels = labels(summaries);
    let when_received = |r: &Summary, text: String| if r.deliveries > 0 { text } else { "–".into() };
    let of_time = |r: &Summary, ms: f64| when_received(r, time(ms / 1000.0));
    let row = |name: &str, value: &dyn Fn(&Summary) -> String| -> Vec<String> {
        [name.into()].into_iter().chain(summaries.iter().map(value)).collect()
    };
    let rows = [
        row("scenario", &|r| r.scenario.clone()),
        row("seed", &|r| r.seed.to_string()),
        row("machines", &|r| thousands(r.machines as u64)),
        row("machines up at the end", &|r| thousands(r.machines_at_end as u64)),
        row("gradients", &|r| thousands(r.gradients)),
        row("virtual time", &|r| time(r.virtual_seconds)),
        row("gradients per virtual second", &|r| number(r.gradients_per_second())),
        row(&format!("loss ({}), first → last", loss_unit(summaries)), &loss_from_to),
        row("gradients received, all machines", &|r| thousands(r.deliveries)),
        row("bytes per gradient", &|r| when_received(r, number(r.bytes_per_gradient()))),
        row("delay, median", &|r| of_time(r, r.delay_ms.median)),
        row("delay, p99", &|r| of_time(r, r.delay_ms.p99)),
        row("staleness in gradients, median", &|r| number(r.staleness_gradients.median)),
        row("staleness in gradients, p99", &|r| number(r.staleness_gradients.p99)),
        row("until all were equal", &until_equal),
        row("equal at the end", &|r| if r.converged { "yes".into() } else { "no".into() }),
        row("events", &|r| thousands(r.events)),
        row("wall time", &|r| time(r.wall_seconds)),
        row("peak memory so far", &|r| size(r.peak_memory_bytes as f64)),
    ];
    let heads: Vec<&str> = [""].into_iter().chain(labels.iter().map(String::as_str)).collect();
    let hashes: Vec<_> =
        summaries.iter().zip(&labels).map(|(r, l)| vec![l.clone(), r.event_log_hash.clone()]).collect();
    table("numbers", &heads, &rows) + &table("words hash", &["run", "BLAKE3 of the event log"], &hashes)
}

fn table(class: &str, heads: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        cells.map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect()
    };
    let head = cells("th", &mut heads.iter().copied());
    let rows: String =
        rows.iter().map(|row| format!("<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str)))).collect();
    format!("<div class=\"scroll\"><table class=\"{class}\">\n<tr>{head}</tr>\n{rows}</table></div>\n")
}
