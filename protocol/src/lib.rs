//! The pure half of onebyte: what all machines of a run must compute identically, and the one state machine that
//! decides. No IO, no clock, no thread, no candle, no libp2p.
//!
//! | module | noun |
//! |---|---|
//! | [`manifest`] | what a run agrees on; its hash is the run id |
//! | [`seed`], [`perturbation`] | from (run, machine, sample) to ±1 per weight |
//! | [`codec`] | normalised projected gradient → one byte → whole quanta |
//! | [`replay`] | scalar reference: bytes into exact weights |
//! | [`secret`] | what the machines of a private run have in common |
//! | [`machine`], [`segment`], [`ledger`] | who, what is signed, what is kept |
//! | [`revocation`], [`member`] | fork proofs and revoked samples; keys admitted and withdrawn |
//! | [`statement`] | either of these, on its way |
//! | [`version_vector`], [`anti_entropy`] | what two nodes differ in |
//! | [`encoding`], [`message`] | bytes within hard bounds; what travels |
//! | [`replica`] | the state machine, and how to drive it |
//!
//! The normative formulas stand in the documentation of [`seed`], [`perturbation`], [`codec`], [`replay`],
//! [`segment`], [`member`] and [`version_vector`]. They are pinned by published vectors and change only with
//! [`manifest::PROTOCOL_VERSION`].

// The manifest that tests of all crates share names this crate as others do.
#[cfg(test)]
extern crate self as protocol;

pub mod anti_entropy;
pub mod codec;
pub mod encoding;
pub mod error;
pub mod ledger;
pub mod machine;
pub mod manifest;
pub mod member;
pub mod message;
pub mod perturbation;
pub mod replay;
pub mod replica;
pub mod revocation;
pub mod secret;
pub mod seed;
pub mod segment;
pub mod signature;
pub mod statement;
pub mod version_vector;
