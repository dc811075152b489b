//! What one machine of a run decides, from its first question to its last write. Pure: no clock, no thread, no IO, no
//! libp2p, no model. A *shell* turns the world into inputs and carries outputs out: `node` one around sockets, a disk
//! and a trainer, `sim` another around virtual ones. What stands here stands nowhere else.
//!
//! # Driving contract
//!
//! Give one [`Input`] with the time ([`Peer::handle`]), carry out every [`Output`] that [`Peer::poll_output`] has, then
//! wait. Time is in milliseconds of any clock; one that steps back only stands still meanwhile. Equal inputs at equal
//! times give equal outputs, which is what [`record`] relies on. An output that expects an answer names the input that
//! brings it. After [`Output::Left`] and [`Output::Damaged`] nothing more comes, whatever it is told.
//!
//! ```text
//!   network, disk, key, trainer, clock, people
//!        │ inputs                     ▲ outputs
//!        ▼                            │
//!   ┌─ Peer ──────────────────────────┴──────────────────────────────────────────┐
//!   │ dialing   whom to call, when        limits    what others may send, bans    │
//!   │ reach     at which addresses        liveness  when the other end is gone    │
//!   │ exchange  questions and answers     join      manifest and base, from whom  │
//!   │ start     incarnation, own head     goals     train, evaluate, be done      │
//!   │ checkpoint  what a file may claim   backlog   work for the trainer          │
//!   │ points    held-out looks            curve     whether they still fall       │
//!   │ pace      own share of the budget   load      whether it keeps up           │
//!   │ leave     nothing acknowledged is lost     twins  others under the own key  │
//!   └──────────────────────── around one `protocol::Replica` ─────────────────────┘
//! ```

pub mod backlog;
pub mod checkpoint;
mod clock;
pub mod config;
pub mod curve;
pub mod dialing;
pub mod exchange;
pub mod facts;
pub mod framing;
pub mod goals;
pub mod input;
pub mod join;
pub mod leave;
pub mod limits;
mod links;
pub mod liveness;
pub mod load;
pub mod mesh;
pub mod notice;
pub mod output;
pub mod pace;
mod peer;
#[cfg(feature = "planted")]
pub mod planted;
#[cfg(not(feature = "planted"))]
mod planted;
pub mod points;
pub mod reach;
pub mod record;
pub mod run;
mod running;
pub mod start;
pub mod time_share;
mod twins;

pub use config::{Config, GoalSettings};
pub use curve::{CurvePoint, Forecast};
pub use facts::{Facts, Phase};
pub use input::{Answer, Input};
pub use load::Load;
pub use notice::Notice;
pub use output::{Output, Piece, Work};
pub use peer::Peer;
pub use points::{Look, Point};
pub use protocol::replica::NodeId;
pub use run::Run;

/// [`Input::Tick`] is due this often, ms.
pub const TICK_MS: u64 = 50;
