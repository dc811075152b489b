//! The byte codec: one normalised projected gradient ↔ one byte ↔ a whole number of quanta. **Normative** from byte to
//! quanta.
//!
//! Encoding is the sender's business (its rounding draw is private); decoding is everybody's and exact.

/// Byte units per standard deviation of a machine's projected gradient.
pub const LEVELS: u8 = 32;
/// The byte of a probe whose loss was not finite: the sample number is used up, nothing moves.
pub const VOID: i8 = -128;
/// |k| never exceeds this, so that 128 entries sum exactly in 16 bits.
pub const K_MAX: i32 = 255;
/// One in the learning-rate multiplier's fixed point (Q24).
pub const MULTIPLIER_ONE: u32 = 1 << 24;

/// Encodes a normalised projected gradient: `clamp(⌊levels · ĝ + uniform⌋, −127, 127)`, stochastic rounding for
/// `uniform` in [0, 1). A value that is not finite becomes [`VOID`].
pub fn encode(normalized: f64, levels: u8, uniform: f64) -> i8 {
    let scaled = f64::from(levels) * normalized;
    if !scaled.is_finite() {
        return VOID;
    }
    (scaled + uniform).floor().clamp(-127.0, 127.0) as i8
}

/// `unit` (Q32, at multiplier one) at the schedule's `multiplier` (Q24): `(unit · multiplier) >> 24`.
pub fn unit_at(unit: u64, multiplier: u32) -> u64 {
    ((u128::from(unit) * u128::from(multiplier)) >> 24) as u64
}

/// Decodes `byte` to k: `(byte · unit + rounding) >> 32` in i64, arithmetic shift (towards −∞), so that rounding is
/// stochastic and unbiased over `rounding`. 0 and [`VOID`] decode to 0. The entry moves element j by `−k · 2^shift ·
/// z_j` quanta.
///
/// `unit` must satisfy [`unit_is_valid`]; then |k| ≤ [`K_MAX`].
pub fn decode(byte: i8, unit: u64, rounding: u32) -> i32 {
    if byte == 0 || byte == VOID {
        return 0;
    }
    ((i64::from(byte) * unit as i64 + i64::from(rounding)) >> 32) as i32
}

/// Whether every byte decodes to |k| ≤ [`K_MAX`] at this unit.
pub fn unit_is_valid(unit: u64) -> bool {
    unit <= ((K_MAX as u64 - 1) << 32) / 127
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_unbiased_over_the_draw() {
        let mean = |value: f64| (0..1000).map(|i| f64::from(encode(value, 32, f64::from(i) / 1000.0))).sum::<f64>();
        for value in [0.01, -0.01, 1.234, -2.5] {
            assert!((mean(value) / 1000.0 - 32.0 * value).abs() < 2e-3, "{value}");
        }
    }
}
