//! Who may contribute.

use serde::{Deserialize, Serialize};

use crate::{error::InvalidManifest, machine::MachineId};

/// Who may contribute.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Membership {
    /// Any key.
    Open,
    /// These Ed25519 keys, sorted.
    Keys(Vec<[u8; 32]>),
}

impl Membership {
    /// Whether `machine` may contribute.
    pub fn admits(&self, machine: &MachineId) -> bool {
        match self {
            Self::Open => true,
            Self::Keys(keys) => keys.binary_search(&machine.key).is_ok(),
        }
    }

    /// Checks that the keys are sorted and differ.
    pub(super) fn validate(&self) -> Result<(), InvalidManifest> {
        match self {
            Self::Keys(keys) if !keys.is_sorted_by(|a, b| a < b) => Err(InvalidManifest::MembersUnsorted),
            _ => Ok(()),
        }
    }
}
