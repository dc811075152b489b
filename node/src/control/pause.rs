//! Why a node measures nothing for now: somebody asked for it, or the machine runs on its battery. It goes on replaying
//! and answering all the while.
//!
//! Asking is a file in the state directory, so that it outlives the node, and needs no signal and no socket.

use anyhow::{Context, Result};
use peer::Phase;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::system::power::Power;

/// Somebody asked, if it is there.
const FILE: &str = "paused";
/// Asking and battery are looked at this often.
const LOOK: Duration = Duration::from_secs(1);

/// Why own gradients rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// By `node pause`.
    Asked,
    /// With `--pause-on-battery`.
    Battery,
}

impl Cause {
    /// In a few words, after "paused: ".
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Asked => "somebody asked for it",
            Self::Battery => "on battery",
        }
    }
}

/// Why a node that is in this phase makes no gradients, if that is its phase: a cause, or else its weights.
pub fn reason(phase: Phase, cause: Option<Cause>) -> Option<&'static str> {
    (phase == Phase::Paused).then(|| cause.map_or("a weight is near the end of its range", Cause::in_words))
}

/// Asks the node of a state directory to rest from now on. False if it was asked before.
pub fn ask(state: &Path) -> Result<bool> {
    let path = state.join(FILE);
    match fs::File::create_new(&path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error).with_context(|| format!("{}: cannot be written", path.display())),
    }
}

/// Whether somebody asked.
pub fn is_asked(state: &Path) -> bool {
    state.join(FILE).exists()
}

/// Takes that back. False if nobody had asked.
pub fn take_back(state: &Path) -> Result<bool> {
    let path = state.join(FILE);
    match fs::remove_file(&path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).with_context(|| format!("{}: cannot be removed", path.display())),
    }
}

/// Looks now and then whether there is a cause.
pub struct Pauses {
    file: PathBuf,
    power: Option<Power>,
    looked: Option<Instant>,
    cause: Option<Cause>,
}

impl Pauses {
    /// Of the node in `state`; with `power`, the battery is one.
    pub fn new(state: &Path, power: Option<Power>) -> Self {
        Self { file: state.join(FILE), power, looked: None, cause: None }
    }

    /// Why own gradients are to rest, if they are.
    pub fn cause(&self) -> Option<Cause> {
        self.cause
    }

    /// Looks again if it is time. True if what it found is new.
    pub fn look(&mut self) -> bool {
        if self.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return false;
        }
        self.looked = Some(Instant::now());
        let is_on_battery = || self.power.as_ref().and_then(Power::is_on_battery) == Some(true);
        let cause = match () {
            () if self.file.exists() => Some(Cause::Asked),
            () if is_on_battery() => Some(Cause::Battery),
            () => None,
        };
        std::mem::replace(&mut self.cause, cause) != cause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(pauses: &mut Pauses) -> (bool, Option<Cause>) {
        pauses.looked = None;
        (pauses.look(), pauses.cause())
    }

    #[test]
    fn asking_goes_before_the_battery_and_each_turn_is_told_once() {
        let state = tempfile::tempdir().unwrap();
        let supplies = tempfile::tempdir().unwrap();
        let battery = supplies.path().join("BAT0");
        fs::create_dir(&battery).unwrap();
        fs::write(battery.join("type"), "Battery\n").unwrap();
        let set = |status: &str| fs::write(battery.join("status"), status).unwrap();
        set("Charging\n");
        let mut pauses = Pauses::new(state.path(), Some(Power::at(supplies.path().to_owned())));
        assert_eq!(look(&mut pauses), (false, None));
        set("Discharging\n");
        assert_eq!(look(&mut pauses), (true, Some(Cause::Battery)));
        assert_eq!(look(&mut pauses), (false, Some(Cause::Battery)));
        assert!(ask(state.path()).unwrap() && !ask(state.path()).unwrap());
        assert_eq!(look(&mut pauses), (true, Some(Cause::Asked)));
        set("Full\n");
        assert_eq!(look(&mut pauses), (false, Some(Cause::Asked)));
        assert!(take_back(state.path()).unwrap() && !take_back(state.path()).unwrap());
        assert_eq!(look(&mut pauses), (true, None));
        set("Discharging\n");
        let mut indifferent = Pauses::new(state.path(), None);
        assert_eq!(look(&mut indifferent), (false, None));
        assert!(ask(&state.path().join("nowhere")).unwrap_err().to_string().contains("cannot be written"));
    }
}
