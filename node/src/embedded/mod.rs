//! The embedded default.
use crate::{
    dataset::Dataset,
    model::{Checkpoint, Tokenizer},
};
use anyhow::{Result, bail};
/// x
pub const SOURCE: &str = "embedded";
/// x
pub fn checkpoint() -> Result<Checkpoint> {
    bail!("not yet")
}
/// x
pub fn held_out(_: &Tokenizer, _: usize) -> Result<Dataset> {
    bail!("not yet")
}
/// x
pub fn training(_: u64, _: &Tokenizer, _: usize) -> Result<Dataset> {
    bail!("not yet")
}
