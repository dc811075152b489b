//! One program for all tests: each file more would be linked with everything once more.

mod checkpoint;
mod curve;
mod goals;
mod joining;
mod leaving;
mod looks;
mod membership;
mod neighbours;
mod properties;
mod recording;
mod start;
mod support;
