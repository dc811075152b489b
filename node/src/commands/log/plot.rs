//! `log plot`: the run as one picture.

use anyhow::{Context, Result, anyhow, ensure};
use plotters::{coord::Shift, prelude::*};
use protocol::machine::short_name;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read,
    path::Path,
};

use crate::{
    cli::PlotArgs,
    log::Journal,
    outln,
    system::clock,
    watch::{METRICS, Metrics, STATUS, Snapshot, journal::FullNames},
};

/// How a picture begins.
const PICTURE: &[u8] = b"<svg";
const SIZE: (u32, u32) = (1120, 810);
/// Of that, above the panels.
const TITLE_HEIGHT: u32 = 50;
const FONT: (&str, u32) = ("sans-serif", 17);
/// The page's colours by day, and what they are by night (the viewer's system decides).
const PAPER: (RGBColor, &str) = (RGBColor(0xfc, 0xfc, 0xfa), "#16181b");
const INK: (RGBColor, &str) = (RGBColor(0x1c, 0x1e, 0x21), "#e4e6e8");
const SOFT: (RGBColor, &str) = (RGBColor(0x5c, 0x63, 0x6b), "#a0a7af");
const GRID: (RGBColor, &str) = (RGBColor(0xdc, 0xdf, 0xe2), "#343940");
const LINES: [(RGBColor, &str); 6] = [
    (RGBColor(0x1f, 0x6f, 0xb4), "#62aeec"),
    (RGBColor(0xc4, 0x52, 0x0a), "#f08a45"),
    (RGBColor(0x22, 0x7a, 0x4b), "#5cc48c"),
    (RGBColor(0x8a, 0x3f, 0xa0), "#c88ade"),
    (RGBColor(0x9a, 0x6b, 0x00), "#dcb13c"),
    (RGBColor(0x5f, 0x6f, 0x7f), "#9fb0c0"),
];
/// Lines of the panel that shows who made what: one for each colour.
const MACHINES_MAX: usize = LINES.len();

type Points = Vec<(f64, f64)>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// One of the four plots.
struct Panel {
    title: &'static str,
    x: String,
    /// Name and line of each.
    series: Vec<(String, Points)>,
    from_zero: bool,
}

pub fn run(args: &PlotArgs) -> Result<()> {
    let metrics = read_metrics(&args.state)?;
    let heading = heading(&args.state, &metrics);
    let svg = draw(&heading, &panels(&metrics, &heights(&args.state)?))?;
    ensure!(!is_other(&args.out), "{}: is there already, and no picture; name another with --out", args.out.display());
    fs::write(&args.out, svg).with_context(|| format!("{}: cannot be written", args.out.display()))?;
    outln!(
        "{}: {} gradients, {} points",
        args.out.display(),
        metrics.last().map_or(0, |m| m.gradients),
        metrics.len()
    )?;
    Ok(())
}

/// Whether a file is there with something else than a picture. A device holds nothing, and may be read for ever.
fn is_other(path: &Path) -> bool {
    let is_file = fs::metadata(path).is_ok_and(|there| there.is_file());
    let mut start = Vec::new();
    let read = match is_file {
        true => File::open(path).and_then(|file| file.take(PICTURE.len() as u64).read_to_end(&mut start)),
        false => Ok(0),
    };
    read.is_ok_and(|count| count > 0) && start != PICTURE
}

/// Whose run it is, and from when to when: a title, and a line below it.
fn heading(state: &Path, metrics: &[Metrics]) -> [String; 2] {
    let status = fs::read(state.join(STATUS)).ok();
    let status: Option<Snapshot> = status.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let title = status.as_ref().map_or_else(
        || format!("onebyte, {}", state.display()),
        |status| format!("onebyte run {}… on {}", status.run.get(..16).unwrap_or(&status.run), status.model),
    );
    let (first, last) = (metrics.first().map_or(0, |m| m.time_ms), metrics.last().map_or(0, |m| m.time_ms));
    let machines = status.map_or_else(String::new, |status| match status.machine_count {
        1 => " of one machine".into(),
        count => format!(" of {count} machines"),
    });
    let gradients = metrics.last().map_or(0, |m| m.gradients);
    let when = format!("{} to {}", clock::date_and_time(first), clock::date_and_time(last));
    [title, format!("{gradients} gradients{machines}, as one of them saw it, {when}")]
}

/// The lines of `metrics.jsonl` that can be read.
fn read_metrics(state: &Path) -> Result<Vec<Metrics>> {
    let path = state.join(METRICS);
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{}: cannot be read; a node writes it while it runs", path.display()))?;
    let metrics: Vec<Metrics> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    ensure!(
        metrics.len() > 1,
        "{}: {} points, too few to plot; let the node run for a minute",
        path.display(),
        metrics.len()
    );
    Ok(metrics)
}

/// (seconds since the journal began, height) of each machine, the largest ledgers first.
fn heights(state: &Path) -> Result<Vec<(String, Points)>> {
    let journal = Journal::with_names(state, &FullNames::default())?.unwrap_or_default();
    let begun = journal.begun().unwrap_or(0);
    let mut machines = BTreeMap::<&str, Vec<(u64, u64)>>::new();
    for (machine, grown) in journal.curves() {
        // As people are shown it elsewhere, and as older journals have it.
        machines.entry(short_name(machine)).or_default().extend(grown);
    }
    let points = |mut grown: Vec<(u64, u64)>| -> Points {
        grown.sort_unstable();
        grown.iter().map(|(at_ms, height)| (at_ms.saturating_sub(begun) as f64 / 1e3, *height as f64)).collect()
    };
    let mut machines: Vec<(String, Points)> =
        machines.into_iter().map(|(machine, grown)| (machine.to_owned(), points(grown))).collect();
    let last = |machine: &(String, Points)| machine.1.last().map_or(0.0, |point| point.1);
    machines.sort_by(|a, b| last(b).total_cmp(&last(a)));
    machines.truncate(MACHINES_MAX);
    Ok(machines)
}

fn panels(metrics: &[Metrics], heights: &[(String, Points)]) -> [Panel; 4] {
    let shown = Metrics::shown(metrics.iter());
    let mut held_out: Vec<(&Metrics, f64)> = Vec::new();
    let (mut received, mut before, mut bytes) = (0u64, 0u64, Vec::new());
    for line in metrics {
        // The counter starts again with the program.
        received += if line.received >= before { line.received - before } else { line.received };
        before = line.received;
        let is_new = held_out.last().is_none_or(|(last, _)| last.held_out_gradients != line.held_out_gradients);
        if let (true, Some(figure)) = (is_new, line.figure(shown)) {
            held_out.push((line, figure));
            bytes.push((received as f64, figure));
        }
    }
    let by_gradients: Points =
        held_out.iter().filter_map(|(line, figure)| Some((line.held_out_gradients? as f64, *figure))).collect();
    let training: Points =
        metrics.iter().filter_map(|line| Some((line.gradients as f64, line.training_loss?))).collect();
    let panel = |title, x: &str, points| Panel {
        title,
        x: x.to_owned(),
        series: vec![(String::new(), points)],
        from_zero: false,
    };
    let [held_out, training_loss] = shown.words();
    let (mut bytes, mut machines) = (vec![(String::new(), bytes)], heights.to_vec());
    let byte_unit = scale(&mut bytes, &[("bytes", 1.0), ("kilobytes", 1e3), ("megabytes", 1e6), ("gigabytes", 1e9)]);
    let time_unit = scale(&mut machines, &[("seconds", 1.0), ("minutes", 60.0), ("hours", 3600.0), ("days", 86400.0)]);
    [
        panel(held_out, "gradients", by_gradients),
        Panel { title: held_out, x: format!("{byte_unit} received"), series: bytes, from_zero: false },
        panel(training_loss, "gradients", training),
        Panel { title: "gradients of each machine", x: time_unit.to_owned(), series: machines, from_zero: true },
    ]
}

/// Puts x in the largest unit of which there are at least three.
fn scale(series: &mut [(String, Points)], units: &[(&'static str, f64)]) -> &'static str {
    let largest = series.iter().flat_map(|(_, points)| points).map(|point| point.0).fold(0.0, f64::max);
    let (name, unit) = units.iter().rev().find(|(_, unit)| largest >= 3.0 * unit).unwrap_or(&units[0]);
    series.iter_mut().flat_map(|(_, points)| points).for_each(|point| point.0 /= unit);
    name
}

/// A tick's label.
fn label(value: &f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn draw(heading: &[String; 2], panels: &[Panel; 4]) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw_on(&area, heading, panels).map_err(|error| anyhow!("cannot draw the plot: {error}"))?;
    }
    Ok(by_night(&svg))
}

/// The same picture with a style that changes its colours where the viewer's system is dark.
fn by_night(svg: &str) -> String {
    let colours = [PAPER, INK, SOFT, GRID].into_iter().chain(LINES);
    let rules: String = colours
        .map(|(RGBColor(red, green, blue), night)| {
            let day = format!("#{red:02X}{green:02X}{blue:02X}");
            format!("[fill=\"{day}\"]{{fill:{night}}}[stroke=\"{day}\"]{{stroke:{night}}}")
        })
        .collect();
    let style = format!("<style>@media (prefers-color-scheme:dark){{{rules}}}</style>");
    match svg.find("<svg").and_then(|start| svg[start..].find('>').map(|end| start + end + 1)) {
        Some(inside) => format!("{}\n{style}{}", &svg[..inside], &svg[inside..]),
        None => svg.to_owned(),
    }
}

fn draw_on(area: &Area<'_>, [title, more]: &[String; 2], panels: &[Panel; 4]) -> Drawn {
    area.fill(&PAPER.0)?;
    let (above, below) = area.split_vertically(TITLE_HEIGHT);
    let text = |size: u32, colour: RGBColor| (FONT.0, size).into_font().color(&colour);
    above.draw(&Text::new(title.as_str(), (16, 10), text(22, INK.0)))?;
    above.draw(&Text::new(more.as_str(), (16, 36), text(15, SOFT.0)))?;
    for (area, panel) in below.split_evenly((2, 2)).iter().zip(panels) {
        draw_panel(area, panel)?;
    }
    area.present()
}

fn draw_panel(area: &Area<'_>, panel: &Panel) -> Drawn {
    let all = || panel.series.iter().flat_map(|(_, points)| points);
    let range = |value: fn(&(f64, f64)) -> f64, zero: bool| {
        let low = all().map(value).fold(if zero { 0.0 } else { f64::INFINITY }, f64::min);
        let high = all().map(value).fold(f64::NEG_INFINITY, f64::max);
        match low.is_finite() && high.is_finite() {
            true => low..if high > low { high } else { low + 1.0 },
            false => 0.0..1.0,
        }
    };
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .caption(panel.title, (FONT.0, 19).into_font().color(&INK.0))
        .x_label_area_size(48)
        .y_label_area_size(72)
        .build_cartesian_2d(range(|point| point.0, true), range(|point| point.1, panel.from_zero))?;
    chart
        .configure_mesh()
        .bold_line_style(GRID.0)
        .axis_style(GRID.0)
        .light_line_style(TRANSPARENT)
        .label_style(FONT.into_font().color(&SOFT.0))
        .axis_desc_style(FONT.into_font().color(&SOFT.0))
        .x_desc(&panel.x)
        .x_label_formatter(&label)
        .y_label_formatter(&label)
        .x_labels(6)
        .y_labels(6)
        .draw()?;
    for (index, (name, points)) in panel.series.iter().enumerate() {
        let colour = LINES[index % LINES.len()].0;
        let line = chart.draw_series([PathElement::new(points.clone(), colour.stroke_width(2))])?;
        if !name.is_empty() {
            line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        if points.len() <= 60 {
            chart.draw_series(points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
    }
    if panel.series.iter().any(|(name, _)| !name.is_empty()) {
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(PAPER.0)
            .label_font((FONT.0, 14).into_font().color(&INK.0))
            .draw()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::journal;
    use serde_json::json;

    #[test]
    fn one_line_with_a_wrong_clock_does_not_stretch_the_picture() {
        let state = tempfile::tempdir().unwrap();
        let lines = [
            (1_000_u64, json!({"a": 1, "b": 2})),
            (2_000, json!({"a": 3})),
            (900_000_000_000, json!({"b": 4})),
            (4_000, json!({"b": 5})),
        ];
        let lines =
            lines.map(|(at_ms, heights)| json!({"kind": "heights", "at_ms": at_ms, "heights": heights}).to_string());
        fs::write(state.path().join(journal::FILE), lines.join("\n")).unwrap();
        let a = ("a".to_owned(), vec![(0.0, 1.0), (1.0, 3.0)]);
        let b = ("b".to_owned(), vec![(0.0, 2.0), (1.0, 4.0), (3.0, 5.0)]);
        assert_eq!(heights(state.path()).unwrap(), [b, a]);
    }

    #[test]
    fn a_file_that_is_no_picture_is_in_the_way_and_a_device_without_end_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.svg");
        assert!(!is_other(&path) && !is_other(directory.path()) && !is_other(Path::new("/dev/zero")));
        for (there, other) in [("", false), ("<svg width=\"9\"/>", false), ("<s", true), ("a diary", true)] {
            fs::write(&path, there).unwrap();
            assert_eq!(is_other(&path), other, "{there}");
        }
    }
}
