//! Bytes as people see them.

use anyhow::{Result, bail};

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A key as [`hex`] writes it.
pub fn parse_key(text: &str) -> Result<[u8; 32]> {
    let digits: Vec<u8> = text.chars().filter_map(|digit| digit.to_digit(16)).map(|digit| digit as u8).collect();
    let pairs = digits.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect::<Vec<u8>>();
    match <[u8; 32]>::try_from(pairs) {
        Ok(key) if text.len() == 64 => Ok(key),
        _ => bail!("{text}: a key is 64 hexadecimal digits, as the node to be admitted prints it"),
    }
}
