//! The table for a terminal.

use super::{labels, loss_from_to, loss_unit, number, outcome, shortened, thousands, time, verdicts};
use crate::record::Record;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

/// Columns of the narrowest terminal that it fits.
const WIDTH: u16 = 100;

/// The table for a terminal.
pub fn table(records: &[Record]) -> String {
    let mut parts = vec![outcome(records), runs(records), checks(records), causes(records)];
    parts.retain(|part| !part.is_empty());
    parts.iter().flat_map(|part| ["\n", part, "\n"]).skip(1).collect()
}

/// One row per record.
fn runs(records: &[Record]) -> String {
    let loss = format!("loss,\n{}", loss_unit(records));
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
    let rows = records.iter().map(|record| {
        vec![
            shortened(&record.scenario, 16),
            thousands(record.machines as u64),
            thousands(record.gradients),
            time(record.virtual_seconds),
            number(record.gradients_per_second()),
            loss_from_to(record),
            if record.deliveries == 0 { "–".into() } else { number(record.bytes_per_gradient()) },
            if record.deliveries == 0 { "–".into() } else { time(record.delay_ms.median / 1000.0) },
            number(record.staleness_gradients.median),
            if record.converged { "yes".into() } else { "NO".into() },
        ]
    });
    grid(&heads, rows)
}

/// One line per check.
fn checks(records: &[Record]) -> String {
    let mut table = empty();
    for (name, verdict) in verdicts(records) {
        table.add_row([format!("{name}: {verdict}")]);
    }
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 1));
    }
    table.trim_fmt()
}

/// Bytes per gradient: one row per record, one column per cause.
fn causes(records: &[Record]) -> String {
    let received: Vec<_> = records.iter().zip(labels(records)).filter(|(record, _)| record.deliveries > 0).collect();
    let Some((first, _)) = received.first() else {
        return String::new();
    };
    let mut heads = vec!["bytes per gradient"];
    heads.extend(first.bytes.named().map(|(cause, _)| cause));
    heads.push("all");
    let rows = received.iter().map(|(record, label)| {
        let per_gradient = |bytes: u64| number(bytes as f64 / record.deliveries.max(1) as f64);
        let mut row = vec![shortened(label, 20)];
        row.extend(record.bytes.named().map(|(_, bytes)| per_gradient(bytes)));
        row.push(per_gradient(record.bytes.total()));
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
