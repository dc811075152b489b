//! The values of a GGUF file's metadata. Errors name the key and the value.

use anyhow::{Context, Result, bail};
use candle_core::quantized::gguf_file::Value;
use std::collections::HashMap;

/// By key.
pub struct Metadata<'a>(pub &'a HashMap<String, Value>);

impl<'a> Metadata<'a> {
    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => bail!("{key} is {}, it must be a text", short(other)),
        }
    }

    /// A whole number of any type; of a list, its first, if all are equal.
    pub fn size(&self, key: &str) -> Result<Option<u64>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let numbers = match value {
            Value::Array(list) => list.iter().map(whole).collect::<Option<Vec<u64>>>(),
            one => whole(one).map(|one| vec![one]),
        };
        let numbers = numbers.filter(|numbers| !numbers.is_empty());
        let numbers = numbers.with_context(|| format!("{key} is {}, it must be a whole number", short(value)))?;
        match numbers.iter().all(|number| *number == numbers[0]) {
            true => Ok(Some(numbers[0])),
            false => bail!("{key} differs from layer to layer ({}), which is not supported", short(value)),
        }
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::F32(number)) => Ok(Some(decimal(*number))),
            Some(Value::F64(number)) => Ok(Some(*number)),
            Some(other) => match whole(other) {
                Some(number) => Ok(Some(number as f64)),
                None => bail!("{key} is {}, it must be a number", short(other)),
            },
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => bail!("{key} is {}, it must be true or false", short(other)),
        }
    }

    pub fn list(&self, key: &str) -> Result<Option<&'a [Value]>> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(other) => bail!("{key} is {}, it must be a list", short(other)),
        }
    }

    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let text = |value: &'a Value| match value {
            Value::String(text) => Ok(text.as_str()),
            other => bail!("{key} has {}, it must have texts", short(other)),
        };
        self.list(key)?.map(|list| list.iter().map(text).collect()).transpose()
    }

    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let number = |value: &Value| match value {
            Value::F32(number) => Ok(f64::from(*number)),
            Value::F64(number) => Ok(*number),
            other => whole(other).map(|n| n as f64).with_context(|| format!("{key} has {}", short(other))),
        };
        self.list(key)?.map(|list| list.iter().map(number).collect()).transpose()
    }
}

/// A whole number that is not negative.
pub fn whole(value: &Value) -> Option<u64> {
    match value {
        Value::U8(n) => Some(u64::from(*n)),
        Value::U16(n) => Some(u64::from(*n)),
        Value::U32(n) => Some(u64::from(*n)),
        Value::U64(n) => Some(*n),
        Value::I8(n) => u64::try_from(*n).ok(),
        Value::I16(n) => u64::try_from(*n).ok(),
        Value::I32(n) => u64::try_from(*n).ok(),
        Value::I64(n) => u64::try_from(*n).ok(),
        Value::Bool(n) => Some(u64::from(*n)),
        _ => None,
    }
}

/// The shortest decimal that means this f32: configs hold 1e-5, not 9.99999974738e-06.
fn decimal(number: f32) -> f64 {
    number.to_string().parse().unwrap_or(f64::from(number))
}

fn short(value: &Value) -> String {
    const CHARACTERS: usize = 60;
    let text = match value {
        Value::Array(list) => format!("a list of {}", list.len()),
        other => format!("{other:?}"),
    };
    text.chars().take(CHARACTERS).collect()
}
