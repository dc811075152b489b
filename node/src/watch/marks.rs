//! What a screen in a terminal is made of: bytes as bars, curves, figures in few characters.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Style, Stylize},
    symbols::Marker,
    text::{Line, Span},
    widgets::{Axis, Block, Borders, Chart, Dataset, GraphType, Paragraph},
};

/// Bytes by size of their absolute value.
const BARS: [&str; 8] = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// The last `count` bytes: height is size, colour is sign, × is void.
pub fn strip(recent: &str, count: usize) -> Line<'static> {
    let digits: Vec<char> = recent.chars().collect();
    let bytes =
        digits.chunks_exact(2).map(|pair| u8::from_str_radix(&pair.iter().collect::<String>(), 16).unwrap_or(0));
    let bytes: Vec<i8> = bytes.map(|byte| byte as i8).collect();
    let last = &bytes[bytes.len().saturating_sub(count)..];
    last.iter().map(|byte| bar(*byte)).collect()
}

fn bar(byte: i8) -> Span<'static> {
    match byte {
        i8::MIN => "×".dim(),
        0 => BARS[0].dim(),
        byte => {
            let colour = if byte < 0 { Color::Blue } else { Color::Yellow };
            Span::styled(BARS[usize::from(byte.unsigned_abs()) * BARS.len() / 128], Style::new().fg(colour))
        }
    }
}

/// A line, and its colour.
type Points<'a> = (&'a [(f64, f64)], Color);

/// Lines of points, each in its colour, below a title.
pub fn curve(frame: &mut Frame, area: Rect, title: &str, lines: &[(&Vec<(f64, f64)>, Color)], from_zero: bool) {
    let block = Block::new().borders(Borders::TOP).title(format!(" {title} "));
    let lines: Vec<Points> = lines.iter().map(|(points, colour)| (points.as_slice(), *colour)).collect();
    let Some((x, y)) = bounds(&lines, from_zero) else {
        frame.render_widget(Paragraph::new("nothing yet".dim()).block(block), area);
        return;
    };
    let datasets = lines.iter().map(|(points, colour)| {
        Dataset::default().marker(Marker::Braille).graph_type(GraphType::Line).style(*colour).data(points)
    });
    let axis = |bounds: [f64; 2], labels: [String; 2]| Axis::default().bounds(bounds).labels(labels).dim();
    let chart = Chart::new(datasets.collect())
        .block(block)
        .x_axis(axis(x, x.map(|value| format!("{value:.0}"))))
        .y_axis(axis(y, y.map(|value| figure(Some(value)))));
    frame.render_widget(chart, area);
}

/// Of x and y; none without points.
fn bounds(lines: &[Points], from_zero: bool) -> Option<([f64; 2], [f64; 2])> {
    let span = |values: &mut dyn Iterator<Item = f64>| {
        values.fold(None, |span: Option<[f64; 2]>, value| {
            Some(span.map_or([value, value], |[low, high]| [low.min(value), high.max(value)]))
        })
    };
    let all = || lines.iter().flat_map(|(points, _)| points.iter());
    let ([x0, x1], [y0, y1]) = (span(&mut all().map(|point| point.0))?, span(&mut all().map(|point| point.1))?);
    let y0 = if from_zero { 0.0 } else { y0 };
    Some(([x0, x1.max(x0 + 1.0)], [y0, if y1 > y0 { y1 } else { y0 + 0.1 }]))
}

/// Three digits, or so.
pub fn figure(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| if value.abs() >= 100.0 { format!("{value:.1}") } else { format!("{value:.3}") })
}

/// Bytes in their largest unit.
pub fn size(bytes: u64) -> String {
    let units = [(1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
    let unit = units.into_iter().find(|(unit, _)| bytes as f64 >= *unit);
    unit.map_or(format!("{bytes} B"), |(unit, name)| format!("{:.1} {name}", bytes as f64 / unit))
}

/// A duration in its largest unit.
pub fn span(seconds: f64) -> String {
    let units = [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min"), (1.0, "s")];
    let (unit, name) = units.into_iter().find(|(unit, _)| seconds >= *unit).unwrap_or((1.0, "s"));
    format!("{:.0} {name}", (seconds / unit).floor())
}
