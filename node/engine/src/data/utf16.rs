//! UTF-16, with and without a byte order mark.

use std::io::{Error, ErrorKind, Read, Result};

/// Units that are enough to tell words from chance.
const WORDS_UNITS_MIN: usize = 16;

/// Which byte of a unit comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ByteOrder {
    Little,
    Big,
}

impl ByteOrder {
    pub fn name(self) -> &'static str {
        match self {
            Self::Little => "UTF-16LE",
            Self::Big => "UTF-16BE",
        }
    }

    fn unit(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Little => u16::from_le_bytes(bytes),
            Self::Big => u16::from_be_bytes(bytes),
        }
    }
}

/// Whether a text that begins like this is UTF-16: by its mark, or because it has NUL bytes, nearly all of them on one
/// side of the units, and none of them where the other order would be text. Scripts without Latin have few of those:
/// such a text is no UTF-8, has bytes that no other encoding has, and makes words in one order only.
pub fn byte_order(head: &[u8]) -> Option<ByteOrder> {
    match head {
        [0xff, 0xfe, rest @ ..] if !rest.starts_with(&[0, 0]) => return Some(ByteOrder::Little),
        [0xfe, 0xff, ..] => return Some(ByteOrder::Big),
        _ => {}
    }
    let units = head.as_chunks::<2>().0;
    let nuls = |side: usize| units.iter().filter(|unit| unit[side] == 0).count();
    let (first, second) = (nuls(0), nuls(1));
    let (order, more, fewer) =
        if second > first { (ByteOrder::Little, second, first) } else { (ByteOrder::Big, first, second) };
    // A text of one byte a character that has a NUL somewhere is no UTF-16.
    let share = if is_utf8(head) && !has_controls(head) { 2 } else { 50 };
    if more * share >= units.len() && more > 0 && fewer * 20 <= more && is_text(units, order) {
        return Some(order);
    }
    let is_words = |order: ByteOrder| is_text(units, order) && is_words(units, order);
    match (!is_utf8(head) && has_controls(head)).then(|| [ByteOrder::Little, ByteOrder::Big].map(is_words)) {
        Some([true, false]) => Some(ByteOrder::Little),
        Some([false, true]) => Some(ByteOrder::Big),
        _ => None,
    }
}

/// Whether it is UTF-8, up to a character that may be cut.
fn is_utf8(head: &[u8]) -> bool {
    std::str::from_utf8(head).map_or_else(|error| error.error_len().is_none(), |_| true)
}

/// Whether there are bytes, NUL aside, that texts of one byte a letter, or two, do not have.
fn has_controls(head: &[u8]) -> bool {
    head.iter().any(|byte| *byte < b' ' && !matches!(byte, 0 | b'\n' | b'\r' | b'\t' | 0x0c))
}

/// Whether nearly all units are letters, or what stands between them.
fn is_words(units: &[[u8; 2]], order: ByteOrder) -> bool {
    let is_usual = |character: &char| {
        let is_between = |character: &char| matches!(character, ' '..='~' | '\u{2000}'..='\u{206f}' | '\u{3000}'..='\u{303f}' | '\u{ff00}'..='\u{ffef}');
        is_between(character) || character.is_alphanumeric() || character.is_whitespace()
    };
    let characters =
        || char::decode_utf16(units.iter().map(|unit| order.unit(*unit))).map(|character| character.unwrap_or('\0'));
    20 * characters().filter(is_usual).count() >= 19 * characters().count() && units.len() >= WORDS_UNITS_MIN
}

/// Whether the units are characters of a text, in pairs where they must be, and no control characters.
fn is_text(units: &[[u8; 2]], order: ByteOrder) -> bool {
    // The last unit of a head may lack its second half.
    let units = &units[..units.len().saturating_sub(1).max(1).min(units.len())];
    let mut characters = char::decode_utf16(units.iter().map(|unit| order.unit(*unit)));
    let is_control = |character: char| character.is_control() && !matches!(character, '\n' | '\r' | '\t' | '\u{c}');
    !characters.any(|character| character.is_ok_and(is_control))
        && char::decode_utf16(units.iter().map(|unit| order.unit(*unit))).filter(std::result::Result::is_err).count()
            <= 1
}

/// UTF-16 as UTF-8.
pub struct Utf16Reader<R> {
    source: R,
    order: ByteOrder,
    /// UTF-8 that was not asked for yet.
    ready: Vec<u8>,
    taken: usize,
    /// The first half of a pair.
    high: Option<u16>,
    units: u64,
}

impl<R: Read> Utf16Reader<R> {
    pub fn new(source: R, order: ByteOrder) -> Self {
        Self { source, order, ready: Vec::new(), taken: 0, high: None, units: 0 }
    }

    /// Decodes some more; false at the end.
    fn decode(&mut self) -> Result<bool> {
        let mut bytes = Vec::new();
        self.source.by_ref().take(32 * 1024).read_to_end(&mut bytes)?;
        self.ready.clear();
        self.taken = 0;
        let invalid = |at: u64, why: &str| Error::new(ErrorKind::InvalidData, format!("UTF-16 text: unit {at} {why}"));
        let (units, rest) = bytes.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(invalid(self.units + units.len() as u64, "lacks its second byte; the file is cut off"));
        }
        let mut at = self.units - u64::from(self.high.is_some());
        let read = self.high.take().into_iter().chain(units.iter().map(|unit| self.order.unit(*unit)));
        let read: Vec<u16> = read.collect();
        let mut text = String::with_capacity(3 * read.len());
        let ends_open = !bytes.is_empty() && read.last().is_some_and(|unit| (0xd800..0xdc00).contains(unit));
        for character in char::decode_utf16(read[..read.len() - usize::from(ends_open)].iter().copied()) {
            let character = character.map_err(|_| invalid(at, "is half a pair; is the file damaged?"))?;
            at += character.len_utf16() as u64;
            text.push(character);
        }
        self.high = if ends_open { read.last().copied() } else { None };
        self.units += units.len() as u64;
        self.ready = text.into_bytes();
        Ok(!bytes.is_empty())
    }
}

impl<R: Read> Read for Utf16Reader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        while self.taken == self.ready.len() {
            if !self.decode()? {
                break;
            }
        }
        let count = buffer.len().min(self.ready.len() - self.taken);
        buffer[..count].copy_from_slice(&self.ready[self.taken..][..count]);
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str, order: ByteOrder) -> Vec<u8> {
        let unit = |unit: u16| if order == ByteOrder::Little { unit.to_le_bytes() } else { unit.to_be_bytes() };
        text.encode_utf16().flat_map(unit).collect()
    }

    #[test]
    fn texts_without_a_mark_are_recognised_in_either_order() {
        for text in ["plain words\nin lines\n", "Привет, мир. Это текст.\n", "日本語の文章です。\n「はい」\n"]
        {
            for order in [ByteOrder::Little, ByteOrder::Big] {
                assert_eq!(byte_order(&bytes(text, order)), Some(order), "{text}");
            }
            assert_eq!(byte_order(text.as_bytes()), None, "{text}");
        }
        for other in [
            &b"a text with one \0 in it"[..],
            b"some text\0and more",
            b"twenty letters and one\0",
            b"\0\0\0\0\0\0\0\0",
            b"",
            b"\0",
            b"\x01\0\x02\0\x03\0",
        ] {
            assert_eq!(byte_order(other), None, "{other:?}");
        }
    }

    #[test]
    fn texts_without_latin_are_recognised_by_their_words() {
        let long = "日本語の文章です。「はい」これはとても長い行です。".repeat(4);
        for text in [long.clone(), format!("{long}\n").repeat(100), "그는 오늘 학교에 갔다".repeat(9).replace(' ', "")]
        {
            for order in [ByteOrder::Little, ByteOrder::Big] {
                assert_eq!(byte_order(&bytes(&text, order)), Some(order), "{text}");
            }
        }
        // One byte a letter, or Shift-JIS; and what is no text at all.
        for at in 0..8 {
            let latin =
                [&b"die Stra\xdfe und der Fu\xdf in Gr\xf6\xdfe; "[..at], &b"gro\xdfer Spa\xdf, wei\xdf "[..]].concat();
            assert_eq!(byte_order(&latin.repeat(9)), None);
        }
        assert_eq!(byte_order(&b"\x93\xfa\x96{\x8c\xea\x82\xcc\x95\xb6\x8f\xcd\n".repeat(9)), None);
        let mut noise = 1u32;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        })
        .take(4096)
        .collect();
        assert!((64..4096).step_by(64).all(|end| byte_order(&noise[..end]).is_none()));
    }

    #[test]
    fn every_character_comes_through_wherever_the_pieces_end() {
        let text = "a😀é".repeat(30_000);
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let marked = bytes(&format!("\u{feff}{text}"), order);
            assert_eq!(byte_order(&marked), Some(order));
            let mut read = String::new();
            Utf16Reader::new(&bytes(&text, order)[..], order).read_to_string(&mut read).unwrap();
            assert!(read == text);
        }
        let cut = bytes("😀", ByteOrder::Little);
        for end in [1, 2, 3] {
            assert!(Utf16Reader::new(&cut[..end], ByteOrder::Little).read_to_end(&mut Vec::new()).is_err(), "{end}");
        }
    }

    #[test]
    fn half_a_pair_is_named_by_its_unit_wherever_it_is() {
        let piece = 16 * 1024;
        for at in [0, 1, piece - 1, piece, piece + 1, 50_001] {
            for half in [0xd83d_u16, 0xde00] {
                // Pairs, so that units are not characters.
                let mut units: Vec<u16> = "😀".repeat(at / 2).encode_utf16().chain([0x61]).take(at).collect();
                units.extend([half, 0x62, 0x63]);
                let little: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
                let big: Vec<u8> = units.iter().flat_map(|unit| unit.to_be_bytes()).collect();
                for (bytes, order) in [(little, ByteOrder::Little), (big, ByteOrder::Big)] {
                    let error = Utf16Reader::new(&bytes[..], order).read_to_end(&mut Vec::new()).unwrap_err();
                    assert!(error.to_string().contains(&format!("unit {at} is half a pair")), "{error}");
                }
            }
        }
    }
}
