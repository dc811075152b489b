//! A run in a state directory, for the benches that need `node`.

use engine::base::Base;
use node::storage::{StateDir, opened::Opened, start_run};
use std::path::Path;

use crate::support::{Shape, settings};

/// A new run on a model of this shape, in a state directory at `path`.
pub fn start(shape: &Shape, path: &Path) -> Opened {
    let state = StateDir::create_or_open(path).expect("a state directory");
    let checkpoint = shape.checkpoint(&path.join("model"));
    let base = Base::of_new_run(checkpoint, &settings(), [0; 16]).expect("a base");
    start_run(&state, &base, settings(), protocol::manifest::Membership::Open, None).expect("a run");
    Opened::of(state).expect("the run that was just started")
}
