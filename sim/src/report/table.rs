//! The table for a terminal.

use super::words::{check_results, labels, loss_from_to, loss_unit, number, outcome, shortened, thousands, time};
use crate::summary::Summary;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

/// Columns of the narrowest terminal that it fits.
const WIDTH: u16 = 100;

/// Machines that get a row of their own, at most.
const MACHINES_SHOWN: usize = 16;

/// The table for a terminal.
pub fn table(summaries: &[Summary]) -> String {
    let mut parts = vec![outcome(summaries), runs(summaries), senders(summaries), checks(summaries), causes(summaries)];
    parts.retain(|part| !part.is_empty());
    parts.iter().flat_map(|part| ["\n", part, "\n"]).skip(1).collect()
}

/// One row per summary.
fn runs(summaries: &[Summary]) -> String {
    let loss = format!("loss,\n{}", loss_unit(summaries));
    let heads = [
        "scenario",
        "machines",
        "gradients",
        "virtual\ntime",
        "per\nsecond",
        &loss,
        "bytes per\ngradient",
        "median\ndelay",
        "median\nstale",
        "con-\nverged",
    ];
    let rows = summaries.iter().map(|summary| {
        vec![
            shortened(&summary.scenario, 16),
            thousands(summary.machines as u64),
            thousands(summary.gradients),
            time(summary.virtual_seconds),
            number(summary.gradients_per_second()),
            loss_from_to(summary),
            if summary.deliveries == 0 { "–".into() } else { number(summary.bytes_per_gradient()) },
            if summary.deliveries == 0 { "–".into() } else { time(summary.delay_ms.median / 1000.0) },
            number(summary.staleness_gradients.median),
            if summary.converged { "yes".into() } else { "NO".into() },
        ]
    });
    grid(&heads, rows)
}

/// One row per machine, of a small swarm in which any was behind.
fn senders(summaries: &[Summary]) -> String {
    let [summary] = summaries else { return String::new() };
    let senders = &summary.senders;
    if senders.len() > MACHINES_SHOWN || senders.iter().all(|sender| sender.backlog_max == 0) {
        return String::new();
    }
    let heads = ["machine", "gradients", "share", "lacked\nat most", "said\nso"];
    let rows = senders.iter().map(|sender| {
        vec![
            sender.machine.to_string(),
            thousands(sender.gradients),
            format!("{:.1}%", 100.0 * sender.gradients as f64 / summary.gradients.max(1) as f64),
            thousands(sender.backlog_max),
            if sender.said_behind > 0 { "yes".into() } else { "no".into() },
        ]
    });
    grid(&heads, rows)
}

/// One line per check.
fn checks(summaries: &[Summary]) -> String {
    let mut table = empty();
    for (name, verdict) in check_results(summaries) {
        table.add_row([format!("{name}: {verdict}")]);
    }
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 1));
    }
    table.trim_fmt()
}

/// Bytes per gradient: one row per summary, one column per cause.
fn causes(summaries: &[Summary]) -> String {
    let received: Vec<_> =
        summaries.iter().zip(labels(summaries)).filter(|(summary, _)| summary.deliveries > 0).collect();
    let Some((first, _)) = received.first() else {
        return String::new();
    };
    let mut heads = vec!["bytes per gradient"];
    heads.extend(first.bytes.named().map(|(cause, _)| cause));
    heads.push("all");
    let rows = received.iter().map(|(summary, label)| {
        let per_gradient = |bytes: u64| number(bytes as f64 / summary.deliveries.max(1) as f64);
        let mut row = vec![shortened(label, 20)];
        row.extend(summary.bytes.named().map(|(_, bytes)| per_gradient(bytes)));
        row.push(per_gradient(summary.bytes.total()));
        row
    });
    grid(&heads, rows)
}

/// Rows below heads, the first column to the left and the numbers to the right.
fn grid(heads: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = empty();
    table.set_header(heads.iter().map(Cell::new));
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    table.trim_fmt()
}

/// Without rows and without lines.
fn empty() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table
}
