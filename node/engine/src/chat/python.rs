//! What chat templates expect of Python.

use minijinja::{
    Error, ErrorKind, State, UndefinedBehavior, Value,
    value::{Kwargs, ValueKind},
};
use std::{
    borrow::Cow,
    time::{SystemTime, UNIX_EPOCH},
};

/// Deepest nesting of a value that is written.
const DEPTH_MAX: usize = 64;

/// Bytes that one unit of fuel pays for, as in minijinja.
const FUEL_BYTES: usize = 64;

/// JSON as it is written, laid out by the arguments of Python's `json.dumps`.
struct Json<'a> {
    state: &'a State<'a, 'a>,
    ascii: bool,
    sorted: bool,
    indent: Option<usize>,
    item: String,
    key: String,
    text: String,
}

/// The filter `tojson` as transformers has it: `json.dumps` without escapes for HTML, keys in their own order.
pub fn to_json(state: &State, value: &Value, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let separators: Option<Vec<String>> = options.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let mut json = Json {
        state,
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sorted: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        indent,
        item,
        key,
        text: String::new(),
    };
    options.assert_all_used()?;
    json.write(value, 0)?;
    Ok(Value::from_safe_string(json.text))
}

impl Json<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        visit(self.state, value)?;
        if depth > DEPTH_MAX {
            return Err(Error::new(ErrorKind::InvalidOperation, "the value is nested too deeply"));
        }
        match value.kind() {
            ValueKind::Undefined => return Err(Error::new(ErrorKind::UndefinedError, "undefined is not JSON")),
            ValueKind::None => self.text.push_str("null"),
            ValueKind::Bool => self.text.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.text.push_str(&number(value)),
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort();
                }
                self.items(['{', '}'], keys, depth, |json, key| {
                    json.string(&key.to_string());
                    json.text.push_str(&json.key);
                    json.write(&value.get_item(key)?, depth + 1)
                })?;
            }
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.collect();
                self.items(['[', ']'], items, depth, |json, item| json.write(item, depth + 1))?;
            }
            _ => self.string(value.as_str().unwrap_or_default()),
        }
        Ok(())
    }

    /// All items between two brackets; `write` writes one.
    fn items(
        &mut self,
        [open, close]: [char; 2],
        items: Vec<Value>,
        depth: usize,
        write: impl Fn(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.text.push(open);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.text.push_str(&self.item);
            }
            self.line(depth + 1);
            write(self, item)?;
        }
        if !items.is_empty() {
            self.line(depth);
        }
        self.text.push(close);
        Ok(())
    }

    /// Begins a line, if there are to be lines.
    fn line(&mut self, depth: usize) {
        if let Some(indent) = self.indent {
            self.text.push('\n');
            self.text.extend(std::iter::repeat_n(' ', indent.min(16) * depth));
        }
    }

    fn string(&mut self, text: &str) {
        let out = &mut self.text;
        out.push('"');
        for character in text.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || c == '\u{7f}' && self.ascii => out.push_str(&format!("\\u{:04x}", c as u32)),
                c if self.ascii && !c.is_ascii() => {
                    c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

/// A number as Python writes it.
fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    let Ok(number) = f64::try_from(value.clone()) else { return value.to_string() };
    match number {
        _ if number.is_nan() => "NaN".into(),
        _ if number.is_infinite() => if number > 0.0 { "Infinity" } else { "-Infinity" }.into(),
        _ if number != 0.0 && !(1e-4..1e16).contains(&number.abs()) => {
            let text = format!("{number:e}");
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let exponent: i32 = exponent.parse().unwrap_or(0);
            format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
        }
        _ => format!("{number:?}"),
    }
}

/// Pays for a value that is about to be written: one that is shared many times within another is written as often.
fn visit(state: &State, value: &Value) -> Result<(), Error> {
    let bytes = value.as_str().map_or(0, str::len);
    state.consume_fuel(1 + (bytes / FUEL_BYTES) as u64)
}

/// What `{{ value }}` prints: strings as they are, everything else as Python's `str`.
///
/// # Errors
/// The template's fuel is used up.
pub fn print<'a>(state: &State, value: &'a Value) -> Result<Cow<'a, str>, Error> {
    if matches!(value.kind(), ValueKind::String | ValueKind::Undefined) {
        return Ok(value.as_str().unwrap_or_default().into());
    }
    let mut out = String::new();
    repr(state, value, 0, &mut out)?;
    Ok(out.into())
}

/// The filter `string`: what `{{ value }}` prints.
///
/// # Errors
/// The value is undefined, and the template may use none that is; or its fuel is used up.
pub fn string(state: &State, value: &Value) -> Result<String, Error> {
    if value.is_undefined() && state.undefined_behavior() == UndefinedBehavior::Strict {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    print(state, value).map(Cow::into_owned)
}

fn repr(state: &State, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    visit(state, value)?;
    if depth > DEPTH_MAX {
        out.push_str("...");
        return Ok(());
    }
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push_str(&number(value).replace("NaN", "nan").replace("Infinity", "inf")),
        ValueKind::String => out.push_str(&quoted(value.as_str().unwrap_or_default())),
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(state, &key, depth + 1, out)?;
                out.push_str(": ");
                repr(state, &value.get_item(&key)?, depth + 1, out)?;
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            for (index, item) in value.try_iter()?.enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                repr(state, &item, depth + 1, out)?;
            }
            out.push(']');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

/// A string in Python's quotes.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for character in text.chars() {
        match character {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c < ' ' || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

/// The filter `wordcount`, as Jinja2 has it: runs of letters, digits and underscores in what `{{ value }}` prints.
///
/// # Errors
/// As [`string`].
pub fn word_count(state: &State, value: &Value) -> Result<usize, Error> {
    let text = string(state, value)?;
    let words = text.split(|character: char| !character.is_alphanumeric() && character != '_');
    Ok(words.filter(|word| !word.is_empty()).count())
}

/// `strftime_now(format)`: the time of day, UTC. Directives that no template uses stay as they are.
///
/// transformers takes the local time. Here machines of one run render the same templates, and a date in a prompt should
/// not depend on where a machine stands.
pub fn strftime_now(format: &str) -> String {
    strftime(format, SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

fn strftime(format: &str, seconds: u64) -> String {
    const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];
    const MONTHS: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let days = seconds / 86_400;
    let (year, month, day) = date(days);
    let (day_name, month_name) = (DAYS[(days % 7) as usize], MONTHS[month as usize - 1]);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        // `%-d`: without its zero.
        let is_bare = ["-d", "-m"].iter().any(|bare| characters.as_str().starts_with(bare));
        let directive = if is_bare { characters.nth(1) } else { characters.next() };
        match directive {
            Some('d') if is_bare => out.push_str(&day.to_string()),
            Some('m') if is_bare => out.push_str(&month.to_string()),
            Some('Y') => out.push_str(&format!("{year:04}")),
            Some('y') => out.push_str(&format!("{:02}", year % 100)),
            Some('m') => out.push_str(&format!("{month:02}")),
            Some('d') => out.push_str(&format!("{day:02}")),
            Some('e') => out.push_str(&format!("{day:2}")),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3]),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('H') => out.push_str(&format!("{hour:02}")),
            Some('I') => out.push_str(&format!("{:02}", (hour + 11) % 12 + 1)),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('M') => out.push_str(&format!("{minute:02}")),
            Some('S') => out.push_str(&format!("{second:02}")),
            Some('Z') => out.push_str("UTC"),
            Some('F') => out.push_str(&format!("{year:04}-{month:02}-{day:02}")),
            Some('T') => out.push_str(&format!("{hour:02}:{minute:02}:{second:02}")),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Year, month and day of the month of a day since 1970 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::Environment;

    fn value(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    fn json(text: &str, options: &[(&str, Value)]) -> String {
        let environment = Environment::new();
        to_json(&environment.empty_state(), &value(text), options.iter().cloned().collect()).unwrap().to_string()
    }

    fn printed(value: &Value) -> String {
        print(&Environment::new().empty_state(), value).unwrap().into_owned()
    }

    /// Every right side is what `json.dumps` and `str` of Python 3.12 print.
    #[test]
    fn values_are_written_as_python_writes_them() {
        let text = r#"{"b": [1, 2.0, 1e20, 0.00001], "a": "<é'\"\n", "n": null, "t": true}"#;
        assert_eq!(json(text, &[]), r#"{"b": [1, 2.0, 1e+20, 1e-05], "a": "<é'\"\n", "n": null, "t": true}"#);
        assert_eq!(json(r#"["é😀"]"#, &[("ensure_ascii", true.into())]), r#"["\u00e9\ud83d\ude00"]"#);
        assert_eq!(
            json(r#"{"a": [1], "b": {}}"#, &[("indent", 2.into())]),
            "{\n  \"a\": [\n    1\n  ],\n  \"b\": {}\n}"
        );
        assert_eq!(json(r#"{"b": 1, "a": 2}"#, &[("sort_keys", true.into())]), r#"{"a": 2, "b": 1}"#);
        assert_eq!(
            printed(&value(r#"{"k": ["it's", "say \"x\"", true, null, 1.5]}"#)),
            r#"{'k': ["it's", 'say "x"', True, None, 1.5]}"#
        );
        assert_eq!(printed(&value("false")), "False");
    }

    /// As Jinja2 3.1 counts.
    #[test]
    fn words_are_counted_as_jinja_counts_them() {
        let count = |value: Value| word_count(&Environment::new().empty_state(), &value).unwrap();
        assert_eq!(count("Hello world! It's snake_case: é, 1.5".into()), 8);
        assert_eq!(count(" -- ".into()), 0);
        assert_eq!(count(value("[1, \"a b\"]")), 3);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(strftime("%d %b %Y, %A %H:%M:%S %q%%", 1_785_542_399), "31 Jul 2026, Friday 23:59:59 %q%");
        assert_eq!(strftime("%F %B %a", 951_782_400), "2000-02-29 February Tue");
        assert_eq!(strftime("%-d.%-m.%Y %-q", 951_782_400 + 7 * 86_400), "7.3.2000 %-q");
        assert_eq!(strftime("%Y-%m-%d", 0), "1970-01-01");
    }
}
