//! Products of a few rows with a matrix as it is stored: each of the matrix's rows is made f32 a piece at a time, in a
//! buffer that stays in the first cache, and multiplied there. What a batch pays for a tile of its own, one token need
//! not.
//!
//! One source, compiled for any processor and with AVX2. Blocks are llama.cpp's, bit for bit.

use candle_core::quantized::GgmlDType;
use half::{f16, slice::HalfFloatSliceExt};
use rayon::prelude::*;

/// Elements of the matrix that are made f32 at a time: a whole number of blocks of every type.
const PIECE: usize = 256;
/// Rows of the matrix that one task takes, at least.
const ROWS_MIN: usize = 16;
/// Sums that go on beside each other.
const LANES: usize = 16;

/// Whether there is a way for matrices of this type.
pub fn has(kind: GgmlDType) -> bool {
    use GgmlDType::{BF16, F16, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q6K, Q8_0};
    matches!(kind, F16 | BF16 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q4K | Q6K)
}

/// A matrix, rows first, as it is stored.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    pub kind: GgmlDType,
    pub bytes: &'a [u8],
    pub columns: usize,
}

impl<'a> Rows<'a> {
    fn row_bytes(&self) -> usize {
        self.columns / self.kind.block_size() * self.kind.type_size()
    }

    fn count(&self) -> usize {
        self.bytes.len() / self.row_bytes()
    }

    /// The matrix in parts of whole rows, and how many rows a part has.
    fn parts(&self) -> (impl IndexedParallelIterator<Item = Self> + use<'a>, usize) {
        let step = self.count().div_ceil(4 * rayon::current_num_threads()).max(ROWS_MIN);
        let (kind, columns) = (self.kind, self.columns);
        let parts = self.bytes.par_chunks(step * self.row_bytes());
        (parts.map(move |bytes| Self { kind, bytes, columns }), step)
    }

    /// `x · selfᵀ` for `x` [N, columns]: [N, rows].
    pub fn product(self, x: &[f32]) -> Vec<f32> {
        let n = x.len() / self.columns;
        let (parts, step) = self.parts();
        let mut sums = vec![0.0; self.count() * n];
        sums.par_chunks_mut(step * n).zip(parts).for_each(|(sums, part)| run(part, Work::Dot { x, sums }));
        match n {
            1 => sums,
            _ => (0..n).flat_map(|own| sums.iter().skip(own).step_by(n).copied()).collect(),
        }
    }

    /// `x · self` for `x` [N, rows]: [N, columns].
    pub fn product_transposed(self, x: &[f32]) -> Vec<f32> {
        let (rows, n) = (self.count(), x.len() / self.count());
        let (parts, step) = self.parts();
        let sums: Vec<Vec<f32>> = parts
            .enumerate()
            .map(|(number, part)| {
                let mut sums = vec![0.0; n * self.columns];
                let from = number * step;
                run(part, Work::Add { x, stride: rows, from, sums: &mut sums });
                sums
            })
            .collect();
        // In their order, whoever was first.
        let mut parts = sums.into_iter();
        let mut sum = parts.next().unwrap_or_default();
        for part in parts {
            sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
        }
        sum
    }
}

/// What is done with the matrix's rows.
enum Work<'a> {
    /// `sums[row · N + i]` is the product of row and `x[i]`.
    Dot { x: &'a [f32], sums: &'a mut [f32] },
    /// To `sums[i]` each row is added, times `x[i · stride + from + row]`.
    Add { x: &'a [f32], stride: usize, from: usize, sums: &'a mut [f32] },
}

fn run(rows: Rows<'_>, work: Work<'_>) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the feature was detected.
        return unsafe { with_avx2(rows, work) };
    }
    sum(rows, work);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn with_avx2(rows: Rows<'_>, work: Work<'_>) {
    sum(rows, work);
}

#[inline(always)]
fn sum(rows: Rows<'_>, mut work: Work<'_>) {
    let Rows { kind, bytes, columns } = rows;
    let piece_bytes = PIECE / kind.block_size() * kind.type_size();
    let mut values = [0.0; PIECE];
    for (row, bytes) in bytes.chunks_exact(rows.row_bytes()).enumerate() {
        for (piece, bytes) in bytes.chunks(piece_bytes).enumerate() {
            let from = piece * PIECE;
            let values = &mut values[..PIECE.min(columns - from)];
            decode(kind, bytes, values);
            match &mut work {
                Work::Dot { x, sums } => {
                    let n = x.len() / columns;
                    for (own, x) in x.chunks_exact(columns).enumerate() {
                        sums[row * n + own] += dot(values, &x[from..from + values.len()]);
                    }
                }
                Work::Add { x, stride, from: first, sums } => {
                    for (own, sums) in sums.chunks_exact_mut(columns).enumerate() {
                        let times = x[own * *stride + *first + row];
                        let sums = &mut sums[from..from + values.len()];
                        sums.iter_mut().zip(&*values).for_each(|(sum, value)| *sum += times * value);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += a * b);
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Makes f32 of whole blocks.
#[inline(always)]
fn decode(kind: GgmlDType, bytes: &[u8], values: &mut [f32]) {
    match kind {
        GgmlDType::F16 => halves(bytes, values),
        GgmlDType::BF16 => {
            for (value, bytes) in values.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        GgmlDType::Q4_0 => blocks::<18, 32>(bytes, values, q4_0),
        GgmlDType::Q4_1 => blocks::<20, 32>(bytes, values, q4_1),
        GgmlDType::Q5_0 => blocks::<22, 32>(bytes, values, q5_0),
        GgmlDType::Q5_1 => blocks::<24, 32>(bytes, values, q5_1),
        GgmlDType::Q8_0 => blocks::<34, 32>(bytes, values, q8_0),
        GgmlDType::Q4K => blocks::<144, 256>(bytes, values, q4k),
        GgmlDType::Q6K => blocks::<210, 256>(bytes, values, q6k),
        other => unreachable!("{other:?} is not one of those of has()"),
    }
}

#[inline(always)]
fn blocks<const BYTES: usize, const N: usize>(
    bytes: &[u8],
    values: &mut [f32],
    block: impl Fn(&[u8; BYTES], &mut [f32; N]),
) {
    let (bytes, values) = (bytes.as_chunks::<BYTES>().0, values.as_chunks_mut::<N>().0);
    bytes.iter().zip(values).for_each(|(bytes, values)| block(bytes, values));
}

fn halves(bytes: &[u8], values: &mut [f32]) {
    let mut own = [f16::ZERO; PIECE];
    let own = &mut own[..values.len()];
    for (own, bytes) in own.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *own = f16::from_le_bytes(*bytes);
    }
    own.convert_to_f32_slice(values);
}

/// The f16 at `at`.
#[inline(always)]
fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// d · (q − 8): d, 32 of 4 bits, of which the low halves come first.
#[inline(always)]
fn q4_0(bytes: &[u8; 18], values: &mut [f32; 32]) {
    let d = half(bytes, 0);
    for i in 0..16 {
        let q = i32::from(bytes[2 + i]);
        values[i] = ((q & 15) - 8) as f32 * d;
        values[i + 16] = ((q >> 4) - 8) as f32 * d;
    }
}

/// d · q + m.
#[inline(always)]
fn q4_1(bytes: &[u8; 20], values: &mut [f32; 32]) {
    let (d, m) = (half(bytes, 0), half(bytes, 2));
    for i in 0..16 {
        let q = i32::from(bytes[4 + i]);
        values[i] = (q & 15) as f32 * d + m;
        values[i + 16] = (q >> 4) as f32 * d + m;
    }
}

/// d · (q − 16): the fifth bits in a word of their own.
#[inline(always)]
fn q5_0(bytes: &[u8; 22], values: &mut [f32; 32]) {
    let d = half(bytes, 0);
    let high = u32::from_le_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
    for i in 0..16 {
        let (low, q) = (u32::from(bytes[6 + i]), |low: u32, bit: usize| low | (high >> bit & 1) << 4);
        values[i] = (q(low & 15, i) as i32 - 16) as f32 * d;
        values[i + 16] = (q(low >> 4, i + 16) as i32 - 16) as f32 * d;
    }
}

/// d · q + m, likewise.
#[inline(always)]
fn q5_1(bytes: &[u8; 24], values: &mut [f32; 32]) {
    let (d, m) = (half(bytes, 0), half(bytes, 2));
    let high = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    for i in 0..16 {
        let (low, q) = (u32::from(bytes[8 + i]), |low: u32, bit: usize| low | (high >> bit & 1) << 4);
        values[i] = q(low & 15, i) as i32 as f32 * d + m;
        values[i + 16] = q(low >> 4, i + 16) as i32 as f32 * d + m;
    }
}

#[inline(always)]
fn q8_0(bytes: &[u8; 34], values: &mut [f32; 32]) {
    let d = half(bytes, 0);
    values.iter_mut().zip(&bytes[2..]).for_each(|(value, q)| *value = f32::from(*q as i8) * d);
}

/// Eight parts of 32, each d · scale · q − d_min · min, scale and min of 6 bits.
#[inline(always)]
fn q4k(bytes: &[u8; 144], values: &mut [f32; 256]) {
    let (d, d_min) = (half(bytes, 0), half(bytes, 2));
    let scales = &bytes[4..16];
    let of_part = |part: usize| match part {
        0..4 => (scales[part] & 63, scales[part + 4] & 63),
        _ => {
            let (low, high) = (scales[part + 4], [scales[part - 4] >> 6, scales[part] >> 6]);
            (low & 15 | high[0] << 4, low >> 4 | high[1] << 4)
        }
    };
    for (pair, values) in values.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let q = &bytes[16 + 32 * pair..][..32];
        let [low, high] = [2 * pair, 2 * pair + 1].map(|part| {
            let (scale, min) = of_part(part);
            (d * f32::from(scale), d_min * f32::from(min))
        });
        for (i, q) in q.iter().enumerate() {
            values[i] = low.0 * f32::from(q & 15) - low.1;
            values[i + 32] = high.0 * f32::from(q >> 4) - high.1;
        }
    }
}

/// Sixteen parts of 16, each d · scale · (q − 32): four bits of q, then two, then the scales, then d.
#[inline(always)]
fn q6k(bytes: &[u8; 210], values: &mut [f32; 256]) {
    let d = half(bytes, 208);
    for (part, values) in values.as_chunks_mut::<128>().0.iter_mut().enumerate() {
        let (low, high) = (&bytes[64 * part..][..64], &bytes[128 + 32 * part..][..32]);
        let scales = &bytes[192 + 8 * part..][..8];
        for (i, half) in [0..16, 16..32].into_iter().enumerate() {
            let scale: [f32; 4] = std::array::from_fn(|own| d * f32::from(scales[2 * own + i] as i8));
            for l in half {
                let q = |low: u8, bits: u32| (i32::from(low & 15) | i32::from(high[l] >> bits & 3) << 4) - 32;
                values[l] = scale[0] * q(low[l], 0) as f32;
                values[l + 32] = scale[1] * q(low[l + 32], 2) as f32;
                values[l + 64] = scale[2] * q(low[l] >> 4, 4) as f32;
                values[l + 96] = scale[3] * q(low[l + 32] >> 4, 6) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor, quantized::QTensor};
    use rand_xoshiro::{
        Xoshiro256PlusPlus,
        rand_core::{Rng, SeedableRng},
    };

    const KINDS: [GgmlDType; 9] = [
        GgmlDType::F16,
        GgmlDType::BF16,
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q4K,
        GgmlDType::Q6K,
    ];

    fn random(count: usize, seed: u64) -> Vec<f32> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        (0..count).map(|_| (random.next_u64() >> 40) as f32 / (1 << 23) as f32 - 1.0).collect()
    }

    /// (what is stored, its values as candle reads them).
    fn matrix(kind: GgmlDType, rows: usize, columns: usize) -> (Vec<u8>, Vec<f32>) {
        let values = Tensor::from_vec(random(rows * columns, 7), (rows, columns), &Device::Cpu).unwrap();
        let quantised = QTensor::quantize(&values, kind).unwrap();
        let values = quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
        (quantised.data().unwrap().into_owned(), values.to_vec1().unwrap())
    }

    #[test]
    fn every_value_is_candles_to_the_bit() {
        for kind in KINDS {
            assert!(has(kind));
            let (bytes, expected) = matrix(kind, 3, 512);
            let mut values = vec![0.0; expected.len()];
            decode_all(kind, &bytes, &mut values);
            assert!(values.iter().zip(&expected).all(|(a, b)| a.to_bits() == b.to_bits()), "{kind:?}");
        }
        assert!(!has(GgmlDType::Q2K));
    }

    fn decode_all(kind: GgmlDType, bytes: &[u8], values: &mut [f32]) {
        let bytes = bytes.chunks(PIECE / kind.block_size() * kind.type_size());
        bytes.zip(values.chunks_mut(PIECE)).for_each(|(bytes, values)| decode(kind, bytes, values));
    }

    /// With and without AVX2, of one row and of several, and of rows that are no whole number of pieces.
    #[test]
    fn products_are_those_of_the_values() {
        for kind in KINDS {
            let columns = if kind.block_size() == 256 { 512 } else { 480 };
            let rows = 67;
            let (bytes, values) = matrix(kind, rows, columns);
            let matrix = Rows { kind, bytes: &bytes, columns };
            for n in [1, 3] {
                let close = |own: &[f32], expected: &[f64]| {
                    let is_close = |(own, expected): (&f32, &f64)| (f64::from(*own) - expected).abs() < 1e-4;
                    assert!(own.len() == expected.len() && own.iter().zip(expected).all(is_close), "{kind:?}, {n}");
                };
                let x = random(n * columns, 1);
                let expected: Vec<f64> = (0..n * rows)
                    .map(|at| {
                        let (x, row) =
                            (&x[at / rows * columns..][..columns], &values[at % rows * columns..][..columns]);
                        x.iter().zip(row).map(|(x, value)| f64::from(*x) * f64::from(*value)).sum()
                    })
                    .collect();
                close(&matrix.product(&x), &expected);
                if n == 1 {
                    let mut sums = vec![0.0; rows];
                    sum(matrix, Work::Dot { x: &x, sums: &mut sums });
                    close(&sums, &expected);
                }
                let x = random(n * rows, 2);
                let expected: Vec<f64> = (0..n * columns)
                    .map(|at| {
                        let (x, column) = (&x[at / columns * rows..][..rows], values.iter().skip(at % columns));
                        x.iter().zip(column.step_by(columns)).map(|(x, value)| f64::from(*x) * f64::from(*value)).sum()
                    })
                    .collect();
                close(&matrix.product_transposed(&x), &expected);
            }
        }
    }
}
