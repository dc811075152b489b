//! How far long work is: a bar on a terminal, elsewhere a line now and then.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use crate::process::warn;

/// Without a terminal, how far it is is said this often.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// See the module's documentation.
pub struct Meter {
    bar: ProgressBar,
    /// What is counted.
    noun: &'static str,
    said: Instant,
}

impl Meter {
    /// `times` says which times the bar ends with, in `indicatif`'s words.
    pub fn new(noun: &'static str, times: &str) -> Result<Self> {
        let bar = ProgressBar::new(1);
        bar.set_style(ProgressStyle::with_template(&format!("{{msg}} {{wide_bar}} {{pos}}/{{len}} {noun}, {times}"))?);
        Ok(Self { bar, noun, said: Instant::now() })
    }

    /// `done` of `all`, in the middle of `what`.
    pub fn set(&mut self, done: u64, all: u64, what: String) {
        self.bar.set_length(all);
        self.bar.set_position(done);
        if !stderr().is_terminal() && self.said.elapsed() >= SAID_EVERY {
            self.said = Instant::now();
            let (noun, seconds) = (self.noun, self.bar.elapsed().as_secs());
            warn(format_args!("{what}: {done} of {all} {noun}, after {seconds} s"));
        }
        self.bar.set_message(what);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
