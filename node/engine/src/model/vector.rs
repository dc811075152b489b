//! Loops compiled once for each vector unit, and the exponential that they share.

/// Elements that the loops handle together: one 512-bit register of f32.
pub const LANES: usize = 16;

/// A loop nest that the compiler vectorises for whichever unit [`dispatch`] finds.
pub trait VectorLoop {
    /// Must be `#[inline(always)]`, and so must all that it calls in its loops, to be compiled for the caller's unit.
    /// `FMA`: whether [`multiply_add`] is one instruction there.
    fn run<const FMA: bool>(self);
}

/// Runs `vector_loop` as compiled for the best vector unit of this processor.
pub fn dispatch<L: VectorLoop>(vector_loop: L) {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
            // SAFETY: both features were just detected.
            return unsafe { x86::avx512(vector_loop) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: both features were just detected.
            return unsafe { x86::avx2(vector_loop) };
        }
    }
    if cfg!(target_arch = "aarch64") { vector_loop.run::<true>() } else { vector_loop.run::<false>() }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::VectorLoop;

    #[target_feature(enable = "avx512f,avx2,fma")]
    pub fn avx512<L: VectorLoop>(vector_loop: L) {
        vector_loop.run::<true>();
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn avx2<L: VectorLoop>(vector_loop: L) {
        vector_loop.run::<true>();
    }
}

/// `a · b + c`, fused where that is one instruction (a library call elsewhere).
#[inline(always)]
pub fn multiply_add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// Sum of all lanes, as a tree: half as many lanes each time, so that none waits for fifteen others.
#[inline(always)]
pub fn sum_lanes(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

/// Σ a · b.
#[inline(always)]
pub fn dot<const FMA: bool>(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0f32; LANES];
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a.iter().zip(b) {
        for lane in 0..LANES {
            sums[lane] = multiply_add::<FMA>(a[lane], b[lane], sums[lane]);
        }
    }
    sum_lanes(sums) + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f32>()
}

/// Largest lane, as a tree. Lanes that are NaN are passed over, unless all are.
#[inline(always)]
pub fn max_lanes(mut lanes: [f32; LANES]) -> f32 {
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            lanes[lane] = larger(lanes[lane], lanes[lane + half]);
        }
    }
    lanes[0]
}

/// The larger one; `b` if they cannot be compared. One instruction, where [`f32::max`] takes three.
#[inline(always)]
pub fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// e^x to about two units in the last place (Cephes' polynomial); x is clamped to where the result is normal. NaN stays
/// NaN.
#[inline(always)]
pub fn exponential<const FMA: bool>(x: f32) -> f32 {
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 · 2^23 leaves the nearest integer in the low bits of the sum.
    const ROUNDER: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = multiply_add::<FMA>(x, std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = multiply_add::<FMA>(n, -LN2_LOW, multiply_add::<FMA>(n, -LN2_HIGH, x));
    let mut p = 1.987_569_1e-4;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5] {
        p = multiply_add::<FMA>(p, r, coefficient);
    }
    let p = multiply_add::<FMA>(p * r, r, r + 1.0);
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1f32.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exponentials<'a>(&'a mut [f32]);

    impl VectorLoop for Exponentials<'_> {
        #[inline(always)]
        fn run<const FMA: bool>(self) {
            self.0.iter_mut().for_each(|x| *x = exponential::<FMA>(*x));
        }
    }

    #[test]
    fn the_exponential_agrees_with_the_standard_library() {
        let inputs: Vec<f32> = (-86_000..88_000).map(|i| i as f32 / 1000.0).collect();
        let mut outputs = inputs.clone();
        dispatch(Exponentials(&mut outputs));
        for (x, y) in inputs.iter().zip(&outputs) {
            let exact = f64::from(*x).exp();
            assert!((f64::from(*y) / exact - 1.0).abs() < 3e-7, "exp({x}) = {y}");
            let portable = exponential::<false>(*x);
            assert!((f64::from(portable) / exact - 1.0).abs() < 3e-7, "exp({x}) = {portable}");
        }
    }

    #[test]
    fn the_exponential_keeps_nan_and_saturates() {
        assert!(exponential::<false>(f32::NAN).is_nan());
        assert!(exponential::<false>(f32::NEG_INFINITY) < 1e-37);
        assert!(exponential::<false>(f32::INFINITY).is_finite());
    }
}
