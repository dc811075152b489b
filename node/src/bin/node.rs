//! The `node` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    node::program::main()
}
