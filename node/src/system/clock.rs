//! The time as the clock on the wall has it.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};
use tracing_subscriber::fmt::{format::Writer, time::FormatTime};

/// Year, month, day, hour, minute and second where this machine is, of a Unix time in seconds.
fn parts(seconds: i64) -> [i32; 6] {
    // SAFETY: all zeros are a value of this struct of numbers and a pointer.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to values that outlive the call.
    unsafe { libc::localtime_r(&seconds, &mut time) };
    [time.tm_year + 1_900, time.tm_mon + 1, time.tm_mday, time.tm_hour, time.tm_min, time.tm_sec]
}

/// The Unix time, seconds, of a moment that the clock on the wall shows.
fn seconds([year, month, day, hour, minute, second]: [i32; 6]) -> Option<i64> {
    // SAFETY: as above.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    (time.tm_year, time.tm_mon, time.tm_mday) = (year - 1_900, month - 1, day);
    (time.tm_hour, time.tm_min, time.tm_sec) = (hour, minute, second);
    // Whether summer time holds is for the system to say.
    time.tm_isdst = -1;
    // SAFETY: the pointer is to a value that outlives the call.
    Some(unsafe { libc::mktime(&mut time) }).filter(|seconds| *seconds >= 0)
}

/// A date and a time of day, to the second. `ms`: Unix time, milliseconds.
pub fn date_and_time(ms: u64) -> String {
    let [year, month, day, hour, minute, second] = parts((ms / 1_000) as i64);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Unix milliseconds of `2026-11-29 19:20` or `2026-11-29T19:20:05`, by the clock on the wall here.
pub fn parse(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', ' '])?;
    let numbers = |text: &str, sign: char| -> Option<Vec<i32>> {
        text.split(sign).map(|part| part.parse::<u16>().ok().map(i32::from)).collect()
    };
    let (date, time) = (numbers(date, '-')?, numbers(time, ':')?);
    let ([year, month, day], [hour, minute, rest @ ..]) = (date.as_slice(), time.as_slice()) else { return None };
    let second = match rest {
        [] => 0,
        [second] => *second,
        _ => return None,
    };
    let is_sound = (1_970..10_000).contains(year)
        && (1..=12).contains(month)
        && (1..=31).contains(day)
        && *hour < 24
        && *minute < 60
        && second < 60;
    let seconds = is_sound.then(|| seconds([*year, *month, *day, *hour, *minute, second]))??;
    Some(seconds as u64 * 1_000)
}

/// In front of every line that a node says.
pub struct Wall;

impl FormatTime for Wall {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        writer.write_str(&date_and_time(ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        // Not in the hour that a change of clocks has twice.
        for ms in [0, 1_764_000_000_000, 1_782_000_061_000, 4_000_000_000_000] {
            assert_eq!(parse(&date_and_time(ms + 86_400_000)), Some(ms + 86_400_000));
        }
        assert_eq!(parse("2026-11-29T19:20"), parse("2026-11-29 19:20:00"));
        for wrong in
            ["", "19:20", "2026-11-29", "2026-13-01 10:00", "2026-11-29 24:00", "2026-11-29 10:00:00:00", "a:5"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
