//! Loops over all weights and the directions' signs: replay, which adds directions to weights, and projection, which
//! multiplies them with a gradient.
//!
//! Each is one algorithm (`sweep`, `project`) over a 512-bit vector of sign bits (`vector::Vector`), compiled three
//! times: with plain `u64` words for any processor, with AVX2, and with AVX-512. All sweeps are bit-equal to
//! [`protocol::replay::sweep_reference`], so which one runs is nobody's business but the clock's. Projections agree to
//! rounding.

mod avx2;
mod avx512;
mod portable;
mod project;
mod sweep;
mod vector;

use protocol::{replay::TensorSweep, seed::TensorKey};
use std::fmt;

/// Which vector unit is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kernel {
    /// Plain Rust; every processor.
    Portable,
    /// 256-bit vectors.
    Avx2,
    /// 512-bit vectors (F, BW, DQ, VL).
    Avx512,
}

impl Kernel {
    /// The fastest kernel of this processor.
    pub fn best() -> Self {
        [Self::Avx512, Self::Avx2].into_iter().find(|kernel| kernel.is_available()).unwrap_or(Self::Portable)
    }

    /// Every kernel that this processor can run, the slowest first.
    pub fn available() -> Vec<Self> {
        [Self::Portable, Self::Avx2, Self::Avx512].into_iter().filter(|kernel| kernel.is_available()).collect()
    }

    /// Whether this processor can run the kernel.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    /// Adds `sweep` to `weights`, whose first element is the first of block `first_block` of its tensor, and whose
    /// values are whole multiples n of the quantum `scale`, −2^24 ≤ n < 2^24. Returns the largest |n| that results.
    ///
    /// A kernel that this processor cannot run gives way to the portable one: the bits are the same.
    pub fn sweep(self, weights: &mut [f32], scale: f32, sweep: &TensorSweep, first_block: u64) -> u32 {
        if !self.is_available() {
            return portable::sweep(weights, scale, sweep, first_block);
        }
        match self {
            Self::Portable => portable::sweep(weights, scale, sweep, first_block),
            // SAFETY: the features were detected above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::sweep(weights, scale, sweep, first_block) },
            // SAFETY: the features were detected above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::sweep(weights, scale, sweep, first_block) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => portable::sweep(weights, scale, sweep, first_block),
        }
    }

    /// Adds `Σ_j z_ij · gradient_j` to `sums[i]` for the direction of each of `keys`, one a sum. `gradient`'s first
    /// element is the first of block `first_block` of its tensor.
    ///
    /// Sums are floating point: kernels agree to rounding (exactly, where the values are small whole numbers). One
    /// kernel gives equal sums for equal slices.
    pub fn project(self, gradient: &[f32], keys: &[TensorKey], first_block: u64, sums: &mut [f64]) {
        if !self.is_available() {
            return portable::project(gradient, keys, first_block, sums);
        }
        match self {
            Self::Portable => portable::project(gradient, keys, first_block, sums),
            // SAFETY: the features were detected above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => unsafe { avx2::project(gradient, keys, first_block, sums) },
            // SAFETY: the features were detected above.
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => unsafe { avx512::project(gradient, keys, first_block, sums) },
            #[cfg(not(target_arch = "x86_64"))]
            _ => portable::project(gradient, keys, first_block, sums),
        }
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        })
    }
}
