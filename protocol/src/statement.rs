//! What is said of machines and keys, and changes which samples count: anyone can pass it on, and check it with nothing
//! but the manifest.

use serde::{Deserialize, Serialize};

use crate::{
    error::InvalidChunk,
    manifest::{Manifest, RunId},
    member::{Admission, Member, Withdrawal},
    revocation::Revocation,
    signature::Verifier,
};

/// One of them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Statement {
    /// A machine's samples go: it forked, or the authority revokes them.
    Revocation(Revocation),
    /// The authority lets a key contribute.
    Admission(Admission),
    /// The authority lets a key contribute no more.
    Withdrawal(Withdrawal),
}

impl Statement {
    /// Whose key it is about.
    pub fn key(&self) -> [u8; 32] {
        match self {
            Self::Revocation(revocation) => revocation.machine().key,
            Self::Admission(admission) => admission.key,
            Self::Withdrawal(withdrawal) => withdrawal.key,
        }
    }

    /// What makes a key stand as it does.
    pub fn of_member(member: &Member) -> Self {
        match member {
            Member::Admitted(admission) => Self::Admission(admission.clone()),
            Member::Withdrawn { withdrawal, .. } => Self::Withdrawal(withdrawal.clone()),
        }
    }

    /// Names what it is about, key first: on a disk, a statement takes the place of an earlier one of the same name.
    pub fn name(&self) -> Vec<u8> {
        let incarnation = match self {
            Self::Revocation(revocation) => revocation.machine().incarnation.to_be_bytes().to_vec(),
            Self::Admission(_) | Self::Withdrawal(_) => Vec::new(),
        };
        [&self.key()[..], &incarnation].concat()
    }

    /// Checks the proof, or the authority's signatures.
    pub fn verify(&self, run: &RunId, manifest: &Manifest, verifier: &dyn Verifier) -> Result<(), InvalidChunk> {
        match self {
            Self::Revocation(revocation) => revocation.verify(run, manifest, verifier),
            Self::Admission(admission) => admission.verify(run, manifest, verifier),
            Self::Withdrawal(withdrawal) => withdrawal.verify(run, manifest, verifier),
        }
    }
}
