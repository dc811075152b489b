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
    /// The authority's own key, and those that it admits (see [`crate::member`]).
    ByAuthority,
}

impl Membership {
    /// Whether `machine` may contribute, if the authority has no say in it.
    pub fn admits(&self, machine: &MachineId) -> bool {
        match self {
            Self::Open | Self::ByAuthority => true,
            Self::Keys(keys) => keys.binary_search(&machine.key).is_ok(),
        }
    }

    /// Checks that the keys are sorted and differ, and that there is an authority if one is needed.
    pub(super) fn validate(&self, authority: Option<&[u8; 32]>) -> Result<(), InvalidManifest> {
        match self {
            Self::ByAuthority if authority.is_none() => Err(InvalidManifest::NoAuthority),
            Self::Keys(keys) if !keys.is_sorted_by(|a, b| a < b) => Err(InvalidManifest::MembersUnsorted),
            _ => Ok(()),
        }
    }
}
