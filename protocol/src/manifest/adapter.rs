//! Low-rank adapters of frozen linear layers (LoRA, arXiv 2106.09685): trained tensors that the base does not have.
//!
//! The layer `<linear>.weight`, W \[out, in\], computes `W x + scaling · B (A x)` with A \[rank, in\] and B \[out,
//! rank\], which the table lists as `<linear>.lora_A.weight` and `<linear>.lora_B.weight`. **Normative:** B begins as
//! zeros; A begins as signs of the perturbation stream times a whole number of quanta, drawn from nothing but the
//! manifest's nonce and A's name (the run id hashes the manifest, so nothing in it may depend on the run id):
//!
//! ```text
//! σ   = BLAKE3.derive_key("onebyte 2 adapter", nonce (16) ‖ name of A (UTF-8))
//! A_j = z_j · initial quanta,   z of the key of tensor 0 under σ (see `seed` and `perturbation`)
//! ```

use serde::{Deserialize, Serialize};

use crate::{
    perturbation::{BLOCK, BlockSigns, STEP, sign},
    seed::tensor_key,
};

/// BLAKE3 derive-key context of an adapter's first values.
const ADAPTER_CONTEXT: &str = "onebyte 2 adapter";
/// Largest rank.
pub const ADAPTER_RANK_MAX: u32 = 4096;
/// One in the fixed point of an adapter's factors (Q16).
pub const ADAPTER_ONE: u32 = 1 << 16;

/// Which of an adapter's two matrices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Half {
    /// A, \[rank, in\].
    A,
    /// B, \[out, rank\].
    B,
}

impl Half {
    /// How the name of such a tensor ends, behind that of the linear layer.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::A => ".lora_A.weight",
            Self::B => ".lora_B.weight",
        }
    }

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}

/// One half of an adapter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Adapter {
    /// Which half.
    pub half: Half,
    /// Rank of the product B·A.
    pub rank: u32,
    /// What B·A is multiplied by before it is added to the layer, Q16.
    pub scaling: u32,
    /// s, the scale of the tensor's directions, Q16: its first values say nothing about it.
    pub direction_scale: u32,
    /// |A_j| at the start, quanta. 0 for B.
    pub initial: u32,
}

impl Adapter {
    /// Name of the linear layer, without `.weight`, whose half is called `name`.
    pub fn linear(self, name: &str) -> Option<&str> {
        name.strip_suffix(self.half.suffix()).filter(|linear| !linear.is_empty())
    }

    /// The first values of the tensor `name`, `elements` of them, row-major, as whole multiples of its `quantum`.
    pub fn initial_values(self, name: &str, elements: usize, quantum: f32, nonce: &[u8; 16]) -> Vec<f32> {
        let mut values = vec![0.0; elements];
        if self.initial == 0 {
            return values;
        }
        let mut hasher = blake3::Hasher::new_derive_key(ADAPTER_CONTEXT);
        hasher.update(nonce);
        hasher.update(name.as_bytes());
        let key = tensor_key(hasher.finalize().as_bytes(), 0);
        let size = self.initial as f32 * quantum;
        for (block, values) in (0..).zip(values.chunks_mut(BLOCK)) {
            let mut signs = BlockSigns::new(&key, block);
            for step in values.chunks_mut(STEP) {
                let bits = signs.next_step();
                for (element, value) in step.iter_mut().enumerate() {
                    *value = sign(&bits, element) as f32 * size;
                }
            }
        }
        values
    }
}
