//! How far long work is: a bar on a terminal, elsewhere a line now and then.

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    fs::File,
    io::{IsTerminal, Read, stderr},
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
        Self::with_template(noun, &format!("{{msg}} {{wide_bar}} {{pos}}/{{len}} {noun}, {times}"))
    }

    /// Counts the bytes of a file that are read, by the reader that comes with it, in the middle of `what`.
    pub fn of_file(file: File, what: &'static str) -> Result<(Self, impl Read)> {
        let meter = Self::with_template("bytes", "{msg} {wide_bar} {bytes}/{total_bytes}, {eta} left")?;
        meter.bar.set_length(file.metadata()?.len());
        meter.bar.set_message(what);
        let counted = meter.bar.wrap_read(file);
        Ok((meter, counted))
    }

    fn with_template(noun: &'static str, template: &str) -> Result<Self> {
        let bar = ProgressBar::new(1);
        bar.set_style(ProgressStyle::with_template(template)?);
        Ok(Self { bar, noun, said: Instant::now() })
    }

    /// `done` of `all`, in the middle of `what`.
    pub fn set(&mut self, done: u64, all: u64, what: String) {
        self.bar.set_length(all);
        self.bar.set_position(done);
        self.bar.set_message(what);
        self.say();
    }

    /// Without a terminal, says now and then how far it is.
    pub fn say(&mut self) {
        if self.said.elapsed() >= SAID_EVERY && !stderr().is_terminal() {
            self.said = Instant::now();
            let (what, done, all) = (self.bar.message(), self.bar.position(), self.bar.length().unwrap_or(0));
            warn(format_args!("{what}: {done} of {all} {}, after {} s", self.noun, self.bar.elapsed().as_secs()));
        }
    }

    /// Lets `write` write where the bar is.
    pub fn beside<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
