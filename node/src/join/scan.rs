//! Tickets as QR codes, for terminals and pages.

use anyhow::{Context, Result};
use qrcodegen::{QrCode, QrCodeEcc};
use std::fmt::Write as _;

/// Light around the code, in modules: readers need it.
const MARGIN: i32 = 2;

/// A ticket to scan, in half blocks: two modules a character. Capitals make it smaller, and mean the same.
pub fn picture(word: &str) -> Result<String> {
    let code = QrCode::encode_text(&word.to_uppercase(), QrCodeEcc::Low).context("the ticket is too long to scan")?;
    let mut picture = String::new();
    for y in (-MARGIN..code.size() + MARGIN).step_by(2) {
        for x in -MARGIN..code.size() + MARGIN {
            // Terminals are dark more often than not: modules that are light are drawn.
            picture.push(match (code.get_module(x, y), code.get_module(x, y + 1)) {
                (false, false) => '█',
                (false, true) => '▀',
                (true, false) => '▄',
                (true, true) => ' ',
            });
        }
        picture.push('\n');
    }
    Ok(picture)
}

/// The same as a drawing, for a page; None if it is too long.
pub fn drawing(word: &str) -> Option<String> {
    let code = QrCode::encode_text(&word.to_uppercase(), QrCodeEcc::Low).ok()?;
    let size = code.size() + 2 * MARGIN;
    let mut path = String::new();
    for y in 0..code.size() {
        for x in (0..code.size()).filter(|x| code.get_module(*x, y)) {
            let _ = write!(path, "M{} {}h1v1h-1z", x + MARGIN, y + MARGIN);
        }
    }
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {size} {size}\"><path fill=\"#fff\" d=\"M0 0h{size}v{size}H0z\"/>\
         <path d=\"{path}\"/></svg>"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_drawn_as_large_as_it_is_wide_and_as_the_code_has_it() {
        let word = format!("onebyte1{}", "q".repeat(140));
        let picture = picture(&word).unwrap();
        let lines: Vec<&str> = picture.lines().collect();
        let width = lines[0].chars().count();
        assert!(lines.iter().all(|line| line.chars().count() == width) && lines.len() == width.div_ceil(2));
        let code = QrCode::encode_text(&word.to_uppercase(), QrCodeEcc::Low).unwrap();
        let dark = (0..code.size()).flat_map(|y| (0..code.size()).map(move |x| (x, y)));
        let dark = dark.filter(|(x, y)| code.get_module(*x, *y)).count();
        let drawn: usize =
            picture.chars().map(|half| [' ', '▀', '▄'].contains(&half) as usize + (half == ' ') as usize).sum();
        // A last row that is only half there counts as light.
        assert_eq!(drawn, dark);
        assert_eq!(drawing(&word).unwrap().matches("h1v1h-1z").count(), dark);
        assert!(width <= 65, "{width} columns fit a terminal of 80");
    }
}
