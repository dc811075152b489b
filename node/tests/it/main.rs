//! One program for all tests: each file more would be linked with everything once more.

mod base;
mod best;
mod crash;
mod hostile;
mod hub;
mod joining;
mod kind;
mod log;
mod log_of_peer;
mod netns;
mod network;
mod older;
mod output;
mod page;
mod past;
mod peers;
mod recipe;
mod recording;
mod recovery;
mod score;
mod serve;
mod start;
mod support;
mod swarm;
mod traffic;
