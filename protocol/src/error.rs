//! One variant per broken rule. None of these errors leaves anything changed.

use thiserror::Error;

use crate::machine::MachineId;

/// Why a manifest is not accepted.
#[derive(Clone, PartialEq, Debug, Error)]
#[allow(missing_docs)]
pub enum InvalidManifest {
    #[error("the run speaks protocol version {theirs}, this program speaks {ours}; use a matching release")]
    Version { theirs: u16, ours: u16 },
    #[error("the codec has no levels")]
    Levels,
    #[error(transparent)]
    Base(#[from] InvalidBase),
    #[error("a ledger limit of {0} samples is outside 1..=2^40")]
    LedgerLimit(u64),
    #[error("a replay budget of {0} gradients a second is outside 1..=2^24")]
    ReplayBudget(u32),
    #[error("the member keys are not sorted")]
    MembersUnsorted,
    #[error("the run's members are its authority's to admit, and it names none")]
    NoAuthority,
    #[error("a schedule has at most 256 knots, this has {0}")]
    Knots(usize),
    #[error("the schedule's knots are not increasing, lie beyond step 2^40, or exceed one")]
    Schedule,
    #[error("the tensors are missing or not in the order of their names")]
    TensorOrder,
    #[error("tensor {0} has a shape that is empty or too large")]
    Shape(String),
    #[error("tensor {0} has arithmetic outside the protocol's bounds")]
    Arithmetic(String),
    #[error("tensor {tensor} is half of an adapter and {what}")]
    Adapter { tensor: String, what: &'static str },
    #[error("a run has 1 to 1024 groups of tensors, this has {0}")]
    Groups(usize),
    #[error("a round has 1 to 65536 samples, this has {0}")]
    RoundSamples(u32),
    #[error("group {group} has weight {weight} and epsilon factor {epsilon}; a weight is 1 to 2^20, a factor above 0")]
    Group { group: usize, weight: u32, epsilon: u32 },
    #[error("a tensor is of group {group}, the run has {count} groups")]
    UnknownGroup { group: u16, count: usize },
    #[error("group {0} has no tensor")]
    EmptyGroup(usize),
    #[error("a text of {0} bytes does not describe an objective; 1 to 4096 do")]
    Objective(usize),
    #[error("a shared held-out set has 1 byte to 2^30, this has {0}")]
    HeldOut(u64),
    #[error(
        "{what} would be {quanta:.2} quanta, fewer than 4, because {planned} planned gradients that all point one way \
         need a range of {range:.3e}; plan fewer gradients, or choose a lower learning rate or a larger epsilon"
    )]
    Coarse { what: &'static str, quanta: f64, range: f64, planned: u64 },
    #[error(
        "weights need a range of {0}, beyond 2^40: the base, the learning rate or the planned gradients are too large"
    )]
    Range(f64),
    #[error("epsilon {0} is not a positive number that fits the weights' range; 1e-3 is usual")]
    Epsilon(f64),
    #[error("learning rate {0} is not a positive number that one byte can carry; 1e-4 to 1e-3 is usual")]
    LearningRate(f64),
}

/// Why a base model is not accepted.
#[derive(Clone, PartialEq, Debug, Error)]
#[allow(missing_docs)]
pub enum InvalidBase {
    #[error("the base is called {0:?}, which is neither owner/name@revision nor a name without separators of paths")]
    Source(String),
    #[error("the base has {0} files, a run may carry 4,096")]
    Files(usize),
    #[error("{0:?} is no name of a file of a base, or not one that its role may have")]
    Name(String),
    #[error("two files of the base are called {0}, whatever the case")]
    SameName(String),
    #[error("the files of the base are not in the order of their roles and names")]
    Order,
    #[error("{name} has {bytes} bytes, a run may carry 1 to {limit}")]
    FileSize { name: String, bytes: u64, limit: u64 },
    #[error(
        "the base has {bytes} bytes, {appendix} of them for the list of its tensors, more or less than a run may carry"
    )]
    Size { bytes: u64, appendix: u64 },
    #[error("a base is config.json, tokenizer.json and safetensors (an index if they are several), or one GGUF file")]
    Roles,
    #[error("the list of the base's tensors: {0}")]
    Appendix(String),
}

/// Why bytes are not a message.
#[derive(Clone, PartialEq, Debug, Error)]
#[allow(missing_docs)]
pub enum WireError {
    #[error("{bytes} bytes are more than the {limit} that this message may have")]
    TooLarge { bytes: usize, limit: usize },
    #[error("malformed message: {0}")]
    Malformed(String),
    #[error("{0} bytes left over behind the message")]
    Trailing(usize),
    #[error("not the canonical encoding")]
    NotCanonical,
    #[error(transparent)]
    Manifest(#[from] InvalidManifest),
    #[error(transparent)]
    Base(#[from] InvalidBase),
}

/// Why a chunk of a ledger is not accepted. Nothing of it was taken.
#[derive(Clone, PartialEq, Debug, Error)]
#[allow(missing_docs)]
pub enum InvalidChunk {
    #[error("a chunk has 1 to 1,024 segments, this has {0}")]
    Segments(usize),
    #[error("segments declare {declared} samples and carry {carried}; a chunk has 1 to 4,096, none empty")]
    Samples { declared: usize, carried: usize },
    #[error("the ledger would reach {end} samples, the run's limit is {limit}")]
    LedgerFull { end: u64, limit: u64 },
    #[error("swarm steps decrease, exceed 2^40, or are older than the ledger that they belong to")]
    SwarmStep,
    #[error("sample 0 has no predecessor, this names one")]
    Genesis,
    #[error("the chunk begins at sample {first}, the ledger ends at {height}, or under another head")]
    NotNext { first: u64, height: u64 },
    #[error("the signature is not {0}'s")]
    Signature(MachineId),
    #[error("the chunk runs past a place where it must carry a signature")]
    UnsignedSeal,
    #[error("the two chunks do not contradict each other")]
    NoContradiction,
    #[error("the run has no authority, or this is not its key")]
    NotAuthority,
    #[error("the run admits nobody by word of an authority")]
    NoAdmissions,
    #[error("a withdrawal has 1 to 33 parts, each with at most 32 incarnations, in order, none with a floor of zero")]
    Withdrawal,
    #[error("{0} is not a member of this run")]
    NotAdmitted(MachineId),
}
