//! What a process has from the system that it runs on. Nothing here knows of runs, peers or models.
//!
//! | file | noun |
//! |---|---|
//! | `clock.rs` | the time on the wall |
//! | `memory.rs` | what the machine has to spare |
//! | `power.rs` | mains or battery |
//! | `priority.rs` | behind whom this process stands |
//! | `random.rs` | numbers that nobody can guess |
//! | `name.rs` | the name under which this program was started |
//! | `output.rs` | standard output, whose reader may have gone |
//! | `display.rs` | standard error, written by a thread of its own: log lines and the live line |
//! | `hex.rs` | bytes and keys as text |
//! | `http.rs` | what both web servers share: an address, connections with limits, headers |

pub(crate) mod clock;
pub(crate) mod display;
pub(crate) mod hex;
pub mod http;
pub(crate) mod memory;
pub(crate) mod name;
pub(crate) mod output;
pub(crate) mod power;
pub(crate) mod priority;
pub(crate) mod random;
