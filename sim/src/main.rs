//! The swarm under a virtual clock and a virtual network. A skeleton: it will drive `protocol::replica::Replica`.

use std::process::ExitCode;

fn main() -> ExitCode {
    eprintln!("sim: the simulator is not built yet; scripts/local_swarm.sh runs real nodes on this machine");
    ExitCode::FAILURE
}
