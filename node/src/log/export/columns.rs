//! Columns of small numbers, packed: see the format in `export`.

/// Says that all values are the least.
const ALL_EQUAL: u8 = 0xff;
/// Most low digits that are written as they are. Swarm steps have 40 binary digits.
const ORDER_MAX: u8 = 40;

/// Why bytes are no column, or no varint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// Appends `value`, seven bits a byte.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Takes a varint off the front of `input`.
pub fn take_varint(input: &mut &[u8]) -> Result<u64, Malformed> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = input.split_first().ok_or(Malformed)?;
        *input = rest;
        let digits = u64::from(byte & 0x7f);
        value |= digits.checked_mul(1 << shift).ok_or(Malformed)?;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

/// Appends `values`.
pub fn put(out: &mut Vec<u8>, values: &[u64]) {
    let (Some(least), Some(most)) = (values.iter().min().copied(), values.iter().max().copied()) else { return };
    put_varint(out, least);
    if least == most {
        return out.push(ALL_EQUAL);
    }
    let bits = |order: u8| values.iter().map(|value| code_bits(value - least, order)).sum::<u64>();
    let order = (0..=ORDER_MAX).min_by_key(|order| bits(*order)).unwrap_or(0);
    out.push(order);
    let mut writer = BitWriter { out, filled: 8 };
    for value in values {
        let code = value - least;
        let high = u128::from(code >> order) + 1;
        let digits = high.ilog2();
        writer.put(0, digits);
        writer.put(high, digits + 1);
        writer.put(u128::from(code), u32::from(order));
    }
}

fn code_bits(code: u64, order: u8) -> u64 {
    u64::from(2 * (u128::from(code >> order) + 1).ilog2() + 1 + u32::from(order))
}

/// Takes a column of `count` values off the front of `input`.
pub fn take(input: &mut &[u8], count: usize) -> Result<Vec<u64>, Malformed> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let least = take_varint(input)?;
    let (order, rest) = input.split_first().ok_or(Malformed)?;
    *input = rest;
    if *order == ALL_EQUAL {
        return Ok(vec![least; count]);
    }
    if *order > ORDER_MAX {
        return Err(Malformed);
    }
    let mut reader = BitReader { bytes: input, next: 0 };
    // Each code has at least one bit.
    let mut values = Vec::with_capacity(count.min(8 * input.len()));
    for _ in 0..count {
        let mut digits = 0;
        while reader.take(1)? == 0 {
            digits += 1;
        }
        if digits > 63 - u32::from(*order) {
            return Err(Malformed);
        }
        let high = (1 << digits | reader.take(digits)?) - 1;
        let code = high << order | reader.take(u32::from(*order))?;
        values.push(least.checked_add(code).ok_or(Malformed)?);
    }
    let used = reader.next.div_ceil(8);
    if reader.take((8 * used - reader.next) as u32)? != 0 {
        return Err(Malformed);
    }
    *input = &input[used..];
    Ok(values)
}

struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    /// Bits of the last byte that are taken.
    filled: u32,
}

impl BitWriter<'_> {
    /// The low `count` bits of `bits`, highest first.
    fn put(&mut self, bits: u128, count: u32) {
        for place in (0..count).rev() {
            if self.filled == 8 {
                self.out.push(0);
                self.filled = 0;
            }
            if let Some(last) = self.out.last_mut() {
                *last |= ((bits >> place & 1) as u8) << (7 - self.filled);
            }
            self.filled += 1;
        }
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    /// Number of the next bit.
    next: usize,
}

impl BitReader<'_> {
    fn take(&mut self, count: u32) -> Result<u64, Malformed> {
        let mut bits = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.next / 8).ok_or(Malformed)?;
            bits = bits << 1 | u64::from(byte >> (7 - self.next % 8) & 1);
            self.next += 1;
        }
        Ok(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_xoshiro::{
        Xoshiro256PlusPlus,
        rand_core::{Rng, SeedableRng},
    };

    fn packed(values: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, values);
        bytes
    }

    #[test]
    fn columns_come_back_and_take_no_byte_too_many() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        for round in 0..2_000u64 {
            let (count, width) = (1 + random.next_u64() % 40, random.next_u64() % 41);
            let values: Vec<u64> = (0..count).map(|_| random.next_u64() & ((1 << width) - 1)).collect();
            let mut bytes = packed(&values);
            bytes.extend([0xa5; 3]);
            let mut input = &bytes[..];
            assert_eq!(take(&mut input, values.len()), Ok(values), "round {round}");
            assert_eq!(input, [0xa5; 3], "round {round}");
        }
    }

    #[test]
    fn equal_values_cost_nothing_and_jitter_little() {
        assert_eq!(packed(&[64; 1_000]), [64, ALL_EQUAL]);
        assert!(packed(&[]).is_empty());
        assert_eq!(take(&mut &[][..], 0), Ok(Vec::new()));
        // Mostly no change, now and then a large one; and small numbers all the time.
        let jumps: Vec<u64> = (0..1_000).map(|i| if i % 50 == 0 { 8_000 } else { 0 }).collect();
        assert!(packed(&jumps).len() < 200, "{}", packed(&jumps).len());
        let jitter: Vec<u64> = (0..1_000u64).map(|i| i * i % 23).collect();
        assert!(packed(&jitter).len() < 800, "{}", packed(&jitter).len());
    }

    #[test]
    fn what_is_no_column_is_refused() {
        for (bytes, count) in [
            (&[][..], 1),                                                                // no least value
            (&[0], 1),                                                                   // no k
            (&[0, 41, 0xff], 1),                                                         // k too large
            (&[0, 0, 0], 1),                                                             // a code without end
            (&[0, 0, 0x81], 1),                                                          // filled with ones
            (&[0, 0, 0xff], 9),                                                          // ends early
            (&[0xff; 12], 1),                                                            // a varint without end
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0, 0x40], 1), // sum too large
        ] {
            assert_eq!(take(&mut &bytes[..], count), Err(Malformed), "{bytes:x?}");
        }
    }
}
