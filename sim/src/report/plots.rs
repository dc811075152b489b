//! Plots as SVG text. Colours leave as classes, so that the page's style sheet decides them by day and by night.

use super::{
    axis::Axis,
    words::{byte_unit, labels, loss_unit, number, shortened, time_unit},
};
use crate::summary::{BytesByCause, CurvePoint, Quantiles, SpreadPoint, Summary};
use anyhow::anyhow;
use plotters::{
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

/// Colours of series in the style sheet; further series start again.
pub const COLOURS: usize = 8;
/// Wide enough that whole numbers place points finely; the page scales it.
const SIZE: (u32, u32) = (880, 540);
const FONT: u32 = 30;
/// Series are drawn in this red and green, with the series as the blue.
const SERIES: (u8, u8) = (0xC1, 0);
const TEXT: RGBColor = RGBColor(0xC2, 0, 0);
const GRID: RGBColor = RGBColor(0xC2, 0, 1);
/// Points of one line; more than this the eye can not tell apart.
const POINTS_MAX: usize = 400;
/// Lines of no more points than this have their points marked.
const MARKED_MAX: usize = 24;
/// Ratio from which a logarithmic axis shows more than a linear one.
const LOG_RATIO: f64 = 30.0;
/// Of the plot's width, between two marks, and between two words.
const MARK_APART: f64 = 0.02;
const WORD_APART: f64 = 0.16;
/// Plots of the spread; of more summaries the first, the last and some between are shown.
const SPREADS_MAX: usize = 4;

/// A plot and what belongs around it.
pub struct Figure {
    pub title: String,
    /// The plot, unless there is nothing to show.
    pub svg: Option<String>,
    /// Whether the colours fill bars; else they draw lines.
    pub bars: bool,
    /// Colours and their meanings.
    pub legend: Vec<(usize, String)>,
    /// How to read it, one sentence.
    pub reading: String,
}

enum Shape {
    Line(usize, Vec<(f64, f64)>),
    Dots(usize, Vec<(f64, f64)>),
    Bar(usize, (f64, f64), (f64, f64)),
    Note((f64, f64), String),
    /// A line across the plot at this x, with a word beside its top if there is room for one.
    Mark(f64, Option<&'static str>),
}

fn colour(series: usize) -> RGBColor {
    RGBColor(SERIES.0, SERIES.1, (series % COLOURS) as u8)
}

/// The plot as SVG text.
fn draw(x: &Axis, y: &Axis, shapes: &[Shape]) -> anyhow::Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        draw_on(&area, x, y, shapes).map_err(|e| anyhow!("cannot draw a plot: {e}"))?;
    }
    for series in 0..COLOURS {
        let name = format!("#{:02X}{:02X}{series:02X}", SERIES.0, SERIES.1);
        svg = svg.replace(&format!("stroke=\"{name}\""), &format!("class=\"l{series}\""));
        svg = svg.replace(&format!("fill=\"{name}\""), &format!("class=\"f{series}\""));
    }
    let svg = svg.replace("stroke=\"#C20000\"", "class=\"mark\"");
    let svg = svg.replace("stroke=\"#C20001\"", "class=\"grid\"").replace("fill=\"#C20000\"", "class=\"text\"");
    Ok(svg.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "").replace(" opacity=\"1\"", ""))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn = Result<(), DrawingAreaErrorKind<std::io::Error>>;

fn draw_on(area: &Area<'_>, x: &Axis, y: &Axis, shapes: &[Shape]) -> Drawn {
    let font = ("sans-serif", FONT).into_font().color(&TEXT);
    let beside = if y.label.is_empty() { 20 } else { 56 };
    let mut chart = ChartBuilder::on(area)
        .margin_top(16)
        .margin_right(36)
        .margin_bottom(4)
        .x_label_area_size(if x.label.is_empty() { 48 } else { 88 })
        .y_label_area_size((y.label_width() * 17 + beside) as u32)
        .build_cartesian_2d(x, y)?;
    let mut mesh = chart.configure_mesh();
    mesh.bold_line_style(GRID).axis_style(GRID).light_line_style(TRANSPARENT).set_all_tick_mark_size(8);
    mesh.label_style(font.clone()).axis_desc_style(font.clone());
    mesh.x_desc(&x.label).y_desc(&y.label);
    if !x.grid {
        mesh.disable_x_mesh();
    }
    if !y.grid {
        mesh.disable_y_mesh();
    }
    mesh.draw()?;
    let placed = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
        let points = points.iter().map(|(a, b)| (x.place(*a), y.place(*b)));
        points.filter(|(a, b)| (x.from..=x.to).contains(a) && (y.from..=y.to).contains(b)).collect()
    };
    for shape in shapes {
        match shape {
            Shape::Line(series, points) => {
                chart.draw_series([PathElement::new(placed(points), colour(*series).stroke_width(4))])?;
            }
            Shape::Dots(series, points) => {
                let dot = |at| Circle::new(at, 7, colour(*series).filled());
                chart.draw_series(placed(points).into_iter().map(dot))?;
            }
            Shape::Bar(series, from, to) => {
                chart.draw_series([Rectangle::new([*from, *to], colour(*series).filled())])?;
            }
            Shape::Note(at, text) => {
                let style = font.clone().pos(Pos::new(HPos::Left, VPos::Center));
                chart.draw_series([EmptyElement::at(*at) + Text::new(text.clone(), (12, 0), style)])?;
            }
            Shape::Mark(at, word) => {
                chart.draw_series([PathElement::new([(*at, y.from), (*at, y.to)], TEXT)])?;
                let style = font.clone().pos(Pos::new(HPos::Left, VPos::Top));
                let word = word.map(|word| EmptyElement::at((*at, y.to)) + Text::new(word, (6, 2), style));
                chart.draw_series(word)?;
            }
        }
    }
    area.present()
}

/// A line, with its points marked where they are few.
fn line(series: usize, points: Vec<(f64, f64)>) -> Vec<Shape> {
    let finite: Vec<_> = points.into_iter().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let stride = finite.len().div_ceil(POINTS_MAX).max(1);
    // Counted from the end, so that the last point stays.
    let mut kept: Vec<_> = finite.iter().rev().step_by(stride).copied().collect();
    kept.reverse();
    if kept.len() <= MARKED_MAX {
        return vec![Shape::Line(series, kept.clone()), Shape::Dots(series, kept)];
    }
    vec![Shape::Line(series, kept)]
}

/// Lines on axes that fit them; none if no line has a point.
fn lines(x: (&str, bool), y: (&str, bool), all: Vec<(usize, Vec<(f64, f64)>)>) -> anyhow::Result<Option<String>> {
    marked_lines(x, y, all, &[])
}

/// The same, with what happened meanwhile: (place on a linear x axis, word).
fn marked_lines(
    x: (&str, bool),
    y: (&str, bool),
    all: Vec<(usize, Vec<(f64, f64)>)>,
    marks: &[(f64, &'static str)],
) -> anyhow::Result<Option<String>> {
    let points = || all.iter().flat_map(|(_, points)| points).filter(|(a, b)| a.is_finite() && b.is_finite());
    let x = Axis::over(x.0, x.1, points().map(|point| point.0));
    let y = Axis::over(y.0, y.1, points().map(|point| point.1));
    let (Some(x), Some(y)) = (x, y) else {
        return Ok(None);
    };
    let mut shapes: Vec<Shape> = placed_marks(&x, marks);
    shapes.extend(all.into_iter().flat_map(|(series, points)| line(series, points)));
    draw(&x, &y, &shapes).map(Some)
}

/// Marks that are on the axis, not more of them than can be told apart, and words where there is room.
fn placed_marks(x: &Axis, marks: &[(f64, &'static str)]) -> Vec<Shape> {
    let (wide, apart) =
        (x.to - x.from, |a: f64, b: Option<f64>, share: f64| b.is_none_or(|b| a - b >= share * (x.to - x.from)));
    let (mut line, mut word) = (None, None);
    let mut shapes = Vec::new();
    for (at, what) in marks.iter().filter(|(at, _)| wide > 0.0 && (x.from..=x.to).contains(at)) {
        if !apart(*at, line, MARK_APART) {
            continue;
        }
        line = Some(*at);
        let has_room = apart(*at, word, WORD_APART) && x.to - at >= 0.5 * WORD_APART * wide;
        if has_room {
            word = Some(*at);
        }
        shapes.push(Shape::Mark(*at, has_room.then_some(*what)));
    }
    shapes
}

/// Whether positive values lie so far apart that a linear axis would hide the small ones.
fn far_apart(ratio: f64, values: impl Iterator<Item = f64>) -> bool {
    let finite = values.filter(|value| value.is_finite());
    let (least, most) = finite.fold((f64::MAX, 0.0), |(least, most): (f64, f64), v| (least.min(v), most.max(v)));
    least > 0.0 && most / least >= ratio
}

fn legend_of(summaries: &[Summary], shown: impl Fn(&Summary) -> bool) -> Vec<(usize, String)> {
    let labels = labels(summaries).into_iter().enumerate();
    labels.zip(summaries).filter(|(_, summary)| shown(summary)).map(|(label, _)| label).collect()
}

/// Loss against gradients, virtual time and bytes.
pub fn losses(summaries: &[Summary]) -> anyhow::Result<Vec<Figure>> {
    // The fastest run's unit: the slowest run's may be too long for it.
    let ends = summaries.iter().flat_map(|r| r.curve.last()).map(|point| point.seconds);
    let seconds = ends.filter(|end| *end > 0.0).fold(f64::INFINITY, f64::min);
    let bytes = summaries.iter().flat_map(|r| r.curve.last()).map(|point| point.bytes).fold(0.0, f64::max);
    let ((time, second), (size, byte)) = (time_unit(seconds), byte_unit(bytes));
    let several = if summaries.len() > 1 {
        "; where lines coincide, spreading the gradients over more machines costs no quality"
    } else {
        ""
    };
    Ok(vec![
        loss_against(
            summaries,
            "Loss against gradients",
            "gradients in the weights",
            &format!("Lower is better: the held-out loss after as many gradients of the whole swarm{several}."),
            |point| point.gradients as f64,
        )?,
        loss_against(
            summaries,
            "Loss against virtual time",
            &format!("virtual time ({time})"),
            "Further left is faster: how long a swarm takes to reach a loss.",
            |point| point.seconds / second,
        )?,
        loss_against(
            summaries,
            "Loss against bytes received",
            &format!("bytes received per machine ({size})"),
            "Further left is cheaper: what one machine must receive, all causes counted, to reach a loss; a machine \
             that received nothing has no line.",
            |point| if point.bytes > 0.0 { point.bytes / byte } else { f64::NAN },
        )?,
    ])
}

fn loss_against(
    summaries: &[Summary],
    title: &str,
    label: &str,
    reading: &str,
    x: impl Fn(&CurvePoint) -> f64,
) -> anyhow::Result<Figure> {
    let shown = |summary: &Summary| summary.curve.iter().any(|point| x(point).is_finite() && point.loss.is_finite());
    let ends = summaries.iter().filter_map(|summary| summary.curve.last()).map(&x).filter(|end| *end > 0.0);
    let log_x = far_apart(8.0, ends);
    let log_y = far_apart(100.0, summaries.iter().flat_map(|summary| &summary.curve).map(|point| point.loss));
    let curve = |summary: &Summary| summary.curve.iter().map(|point| (x(point), point.loss)).collect();
    let curves = summaries.iter().enumerate().map(|(series, summary)| (series, curve(summary))).collect();
    let svg = lines((label, log_x), (&format!("loss ({})", loss_unit(summaries)), log_y), curves)?;
    Ok(Figure { title: title.into(), svg, bars: false, legend: legend_of(summaries, shown), reading: reading.into() })
}

/// Order statistics of the delay and of the staleness.
pub fn staleness(summaries: &[Summary]) -> anyhow::Result<Vec<Figure>> {
    let delays = quantiles(summaries, "delay (ms)", |summary| &summary.delay_ms)?;
    let missed = quantiles(summaries, "gradients missing", |summary| &summary.staleness_gradients)?;
    let legend = || legend_of(summaries, |summary| summary.deliveries > 0);
    Ok(vec![
        Figure {
            title: "Delay of a gradient".into(),
            svg: delays,
            bars: true,
            legend: legend(),
            reading: "From a gradient's making to its arrival in another machine's weights, in virtual time: half \
                      arrive within the median, 99 of 100 within p99."
                .into(),
        },
        Figure {
            title: "Staleness of the weights".into(),
            svg: missed,
            bars: true,
            legend: legend(),
            reading: "How many gradients that the swarm had already made were missing in the weights that a machine \
                      probed."
                .into(),
        },
    ])
}

fn quantiles(
    summaries: &[Summary],
    label: &str,
    of: impl Fn(&Summary) -> &Quantiles,
) -> anyhow::Result<Option<String>> {
    let values = |summary| {
        let Quantiles { median, p90, p99, max } = *of(summary);
        [median, p90, p99, max]
    };
    let received = || summaries.iter().enumerate().filter(|(_, summary)| summary.deliveries > 0);
    let all = || received().flat_map(|(_, summary)| values(summary));
    let Some(y) = Axis::over(label, far_apart(LOG_RATIO, all()), all().chain(far_zero(&all))) else {
        return Ok(None);
    };
    let x = Axis::of_names(["median", "p90", "p99", "max"].map(String::from).into_iter());
    let (count, base) = (received().count(), y.from);
    let bar = |place: usize, series: usize, at: usize, value: f64| {
        let (left, wide) = (at as f64 - 0.4, 0.8 / count as f64);
        let from = left + wide * place as f64;
        Shape::Bar(series, (from, base), (from + wide, y.place(value).max(base)))
    };
    let bars = received().enumerate().flat_map(|(place, (series, summary))| {
        values(summary).into_iter().enumerate().map(move |(at, value)| (place, series, at, value))
    });
    let finite = bars.filter(|(.., value)| value.is_finite());
    let shapes: Vec<Shape> = finite.map(|(place, series, at, value)| bar(place, series, at, value)).collect();
    draw(&x, &y, &shapes).map(Some)
}

/// Zero, where the axis is linear: these are amounts.
fn far_zero<I: Iterator<Item = f64>>(all: &impl Fn() -> I) -> Option<f64> {
    (!far_apart(LOG_RATIO, all()) && all().next().is_some()).then_some(0.0)
}

/// How far the machines of a summary were apart over time.
pub fn spreads(summaries: &[Summary]) -> anyhow::Result<Vec<Figure>> {
    let labels = labels(summaries);
    spreads_shown(summaries.len()).map(|at| spread(&summaries[at], &labels[at])).collect()
}

/// Which of so many runs [`spreads`] shows.
pub fn spreads_shown(runs: usize) -> impl Iterator<Item = usize> {
    let shown = runs.min(SPREADS_MAX);
    (0..shown).map(move |i| i * (runs - 1) / (shown - 1).max(1))
}

type Count = fn(&SpreadPoint) -> u64;

fn spread(summary: &Summary, label: &str) -> anyhow::Result<Figure> {
    let (unit, second) = time_unit(summary.spread.last().map_or(0.0, |point| point.seconds));
    let kinds: [(usize, &str, Count); 4] = [
        (7, "made in the swarm", |point| point.made),
        (2, "held by the machine with most", |point| point.most),
        (0, "by the median machine", |point| point.median),
        (1, "by the one with least", |point| point.least),
    ];
    let curve = |of: Count| -> Vec<(f64, f64)> {
        summary.spread.iter().map(|point| (point.seconds / second, of(point) as f64)).collect()
    };
    let all = kinds.iter().map(|(series, _, of)| (*series, curve(*of))).collect();
    let marks: Vec<(f64, &str)> = summary.marks.iter().map(|mark| (mark.seconds / second, mark.what)).collect();
    Ok(Figure {
        title: format!("Gradients held, {label}"),
        svg: marked_lines((&format!("virtual time ({unit})"), false), ("gradients", false), all, &marks)?,
        bars: false,
        legend: kinds.iter().map(|(series, name, _)| (*series, (*name).into())).collect(),
        reading: "Lines close together mean that the machines agree; where they meet at the end, all hold the same \
                  gradients. Broken lines mark what befell the swarm."
            .into(),
    })
}

/// Bytes per gradient by cause.
pub fn causes(summaries: &[Summary]) -> anyhow::Result<Figure> {
    let labels = labels(summaries);
    let received: Vec<_> = summaries.iter().zip(&labels).filter(|(summary, _)| summary.deliveries > 0).collect();
    let title = "Bytes received per gradient".into();
    let reading = "What one machine receives for one gradient, by cause: the payload is one byte, and the rest is the \
                   price of its author, its proof and its way."
        .into();
    let per_gradient = |summary: &Summary, bytes: u64| bytes as f64 / summary.deliveries.max(1) as f64;
    let names = BytesByCause::default().named().map(|(name, _)| name);
    let (axis, shapes, legend, most) = match received.as_slice() {
        [] => return Ok(Figure { title, svg: None, bars: true, legend: Vec::new(), reading }),
        [(summary, _)] => {
            let values = summary.bytes.named().map(|(_, bytes)| per_gradient(summary, bytes));
            let rows = values.iter().enumerate().flat_map(|(row, value)| bars(names.len() - 1 - row, &[*value]));
            let axis = Axis::of_names(names.iter().rev().map(|name| (*name).into()));
            (axis, rows.collect::<Vec<_>>(), Vec::new(), values.into_iter().fold(0.0, f64::max))
        }
        several => {
            let values = |summary: &Summary| summary.bytes.named().map(|(_, bytes)| per_gradient(summary, bytes));
            let rows = several.iter().rev().enumerate().flat_map(|(row, (summary, _))| bars(row, &values(summary)));
            let axis = Axis::of_names(several.iter().rev().map(|(_, label)| shortened(label, 20)));
            let most = several.iter().map(|(summary, _)| summary.bytes_per_gradient()).fold(0.0, f64::max);
            (axis, rows.collect(), names.into_iter().map(String::from).enumerate().collect(), most)
        }
    };
    let svg = match Axis::over("bytes per gradient", false, [0.0, most * 1.15].into_iter()) {
        Some(x) => Some(draw(&x, &axis, &shapes)?),
        None => None,
    };
    Ok(Figure { title, svg, bars: true, legend, reading })
}

/// Bars end to end in one row, with their sum behind the last.
fn bars(row: usize, values: &[f64]) -> Vec<Shape> {
    let (row, mut end) = (row as f64, 0.0);
    let mut shapes = Vec::new();
    for (series, value) in values.iter().enumerate() {
        shapes.push(Shape::Bar(series, (end, row - 0.3), (end + value, row + 0.3)));
        end += value;
    }
    shapes.push(Shape::Note((end, row), number(end)));
    shapes
}
