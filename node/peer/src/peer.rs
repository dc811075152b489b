//! The state machine.

use protocol::{machine::MachineId, replica::Replica, signature::Verifier};

use crate::{Config, Facts, Input, Output};

/// See the crate's documentation.
pub struct Peer;

impl Peer {
    /// Nothing is known yet but what the disk and the command line say. `verifier` checks others' signatures.
    pub fn new(_config: Config, _verifier: Box<dyn Verifier>) -> Self {
        unimplemented!()
    }

    /// Takes in one event.
    pub fn handle(&mut self, _input: Input, _now_ms: u64) {
        unimplemented!()
    }

    /// Takes in one event, and returns all that is to be done.
    pub fn step(&mut self, input: Input, now_ms: u64) -> Vec<Output> {
        self.handle(input, now_ms);
        std::iter::from_fn(|| self.poll_output()).collect()
    }

    /// The next thing to do, if any.
    pub fn poll_output(&mut self) -> Option<Output> {
        unimplemented!()
    }

    /// The replica, once there is a run and its records are being restored.
    pub fn replica(&self) -> Option<&Replica> {
        unimplemented!()
    }

    /// The own machine.
    pub fn own_machine(&self) -> MachineId {
        unimplemented!()
    }

    /// A look at the peer.
    pub fn facts(&self, _now_ms: u64) -> Facts {
        unimplemented!()
    }
}
