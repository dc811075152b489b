//! The `onebyte` binary. The same program as `node`, which is another's name on many machines.

use std::process::ExitCode;

fn main() -> ExitCode {
    node::program::main()
}
