//! What other machines need to join: where this one can be reached, as one word and as an address.

use anyhow::{Context, Result};
use libp2p::PeerId;
use protocol::{manifest::RunId, secret::Secret};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{places::Places, ticket::Ticket};
use crate::{storage::TICKET, system::name::program};

/// Other machines in a ticket, where this one cannot be called from everywhere.
const OTHERS_MAX: usize = 2;

/// Says how to join, whenever that changes.
pub struct Invitation {
    run: RunId,
    peer: PeerId,
    secret: Option<Secret>,
    file: PathBuf,
    places: Option<Places>,
    /// Since when `places` are what they are, and unsaid.
    unsaid: Option<Instant>,
    /// What was said last.
    said: Option<Ticket>,
    said_at: Option<Instant>,
    /// When the disk refused what was said last, if it did.
    refused_at: Option<Instant>,
    is_warned: bool,
}

impl Invitation {
    /// The system names an interface's addresses one after the other.
    const GATHER: Duration = Duration::from_millis(300);
    /// Addresses that change all the time fill no log.
    const AGAIN: Duration = Duration::from_secs(10);

    /// To `run`, through the node `peer`. The ticket is kept in `state`.
    pub fn new(run: RunId, peer: PeerId, secret: Option<Secret>, state: &Path) -> Self {
        let (file, said) = (state.join(TICKET), None);
        let (unsaid, said_at, refused_at) = (None, None, None);
        Self { run, peer, secret, file, places: None, unsaid, said, said_at, refused_at, is_warned: false }
    }

    /// Where this machine can be reached has changed.
    pub fn update(&mut self, places: Places) {
        if self.places.as_ref() != Some(&places) {
            self.places = Some(places);
            self.unsaid = self.unsaid.or_else(|| Some(Instant::now()));
        }
    }

    fn ticket(&self, places: &Places) -> Ticket {
        let mut machines = vec![(self.peer, places.own())];
        if places.reachable.is_empty() {
            let others = places.others.iter().take(OTHERS_MAX);
            machines.extend(others.map(|(peer, address)| (*peer, vec![address.clone()])));
        }
        Ticket { run: self.run, secret: self.secret, machines }
    }

    /// Says what was not said yet. Returns whether the ticket is another now.
    pub fn say(&mut self) -> bool {
        let is_due = |at: Option<Instant>, pause| at.is_some_and(|at| at.elapsed() >= pause);
        if is_due(self.refused_at, Self::AGAIN) {
            self.write_down();
        }
        let may_repeat = self.said_at.is_none() || is_due(self.said_at, Self::AGAIN);
        if !is_due(self.unsaid, Self::GATHER) || !may_repeat {
            return false;
        }
        self.unsaid = None;
        let Some(places) = self.places.clone().filter(|places| !places.own().is_empty()) else { return false };
        let ticket = self.ticket(&places);
        let is_other = self.said.as_ref() != Some(&ticket);
        if is_other {
            self.said_at = Some(Instant::now());
            // Machines that stand in for this one come and go.
            let is_news = self.said.as_ref().is_none_or(|said| said.machines.first() != ticket.machines.first());
            let was_said = self.said.replace(ticket.clone()).is_some();
            // It is there when people hear of it.
            self.write_down();
            if is_news {
                invite(&ticket, &places, was_said);
            }
        }
        if !places.is_far() && !places.is_alone() && !std::mem::replace(&mut self.is_warned, true) {
            not_reachable(&places);
        }
        is_other
    }

    /// Keeps what was said last. A disk that refuses it is tried again.
    fn write_down(&mut self) {
        let Some(ticket) = &self.said else { return };
        let Err(error) = write(&self.file, &ticket.encode()) else { return self.refused_at = None };
        if self.refused_at.replace(Instant::now()).is_none() {
            tracing::warn!(
                "the ticket is not written down ({error:#}); `{} ticket` does not print it until the disk takes it",
                program()
            );
        }
    }

    /// The ticket of an open run, for all to see.
    pub fn public(&self) -> Option<String> {
        self.said.as_ref().filter(|_| self.secret.is_none()).map(Ticket::encode)
    }
}

/// Writes a ticket, which may hold a secret: nobody else may read it.
fn write(file: &Path, ticket: &str) -> Result<()> {
    let new = file.with_extension("new");
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&new).and_then(|mut out| out.write_all(format!("{ticket}\n").as_bytes()));
    written.and_then(|()| fs::rename(&new, file)).with_context(|| file.display().to_string())
}

/// How others join this run.
fn invite(ticket: &Ticket, places: &Places, again: bool) {
    let word = ticket.encode();
    match again {
        false => tracing::info!("to join from another machine: {} --join {word}", program()),
        true => tracing::info!(
            "this machine is reached elsewhere now; to join from another one: {} --join {word}",
            program()
        ),
    }
    // An address says nothing of a private run's secret.
    let shown = if ticket.secret.is_none() { places.shown() } else { Vec::new() };
    if let Some((peer, _)) = ticket.machines.first() {
        for address in shown {
            tracing::info!("the same by address: {} --bootstrap {address}/p2p/{peer} --run {}", program(), ticket.run);
        }
    }
}

/// Nobody out there can come to this machine.
fn not_reachable(places: &Places) {
    let port = places.port().map_or_else(|| "its port".into(), |port| format!("TCP port {port}"));
    tracing::info!(
        "machines of other networks cannot reach this one, as far as it can tell: pass {port} on to it in the router, or name a relay \
         (--relay; see `{program} relay --help`). It can reach them, and is reached through them once one of the run is reachable",
        program = program()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: &str = "/ip4/192.168.1.7/tcp/9713";
    const WORLD: &str = "/ip4/203.0.113.5/tcp/9713";

    fn home() -> Places {
        Places { listening: vec![HOME.parse().unwrap()], ..Places::default() }
    }

    #[test]
    fn a_ticket_that_the_disk_refused_is_written_down_later() {
        let directory = tempfile::tempdir().unwrap();
        let (peer, state) = (crate::network::peer_id([1; 32]).unwrap(), directory.path().join("gone"));
        let mut invitation = Invitation::new(RunId([2; 32]), peer, None, &state);
        invitation.update(home());
        invitation.unsaid = invitation.unsaid.map(|at| at - Invitation::AGAIN);
        assert!(invitation.say() && invitation.public().is_some(), "people hear it all the same");
        fs::create_dir(&state).unwrap();
        assert!(!invitation.say() && !state.join(TICKET).exists(), "a while later");
        invitation.refused_at = invitation.refused_at.map(|at| at - Invitation::AGAIN);
        assert!(!invitation.say() && state.join(TICKET).exists());
        assert_eq!(invitation.refused_at, None);
    }

    #[test]
    fn a_ticket_is_said_when_it_changes_and_kept_where_nobody_else_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let (peer, secret) = (crate::network::peer_id([1; 32]).unwrap(), Secret([3; 16]));
        let mut invitation = Invitation::new(RunId([2; 32]), peer, Some(secret), directory.path());
        let settle = |invitation: &mut Invitation| {
            for at in [&mut invitation.unsaid, &mut invitation.said_at] {
                *at = at.map(|at| at - Invitation::AGAIN);
            }
        };
        assert!(!invitation.say());
        let home = home();
        invitation.update(home.clone());
        assert!(!invitation.say(), "more may follow");
        settle(&mut invitation);
        assert!(invitation.say() && !invitation.say());
        let file = directory.path().join(TICKET);
        let ticket = Ticket::parse(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!((ticket.secret, ticket.machines[0].0), (Some(secret), peer));
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file).unwrap().permissions()) & 0o77, 0);
        assert_eq!(invitation.public(), None, "a secret is nothing for a page");
        let other = crate::network::peer_id([4; 32]).unwrap();
        invitation.update(Places { others: vec![(other, WORLD.parse().unwrap())], ..home.clone() });
        settle(&mut invitation);
        assert!(invitation.say());
        let ticket = Ticket::parse(&fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(ticket.machines[1].0, other, "one that can be reached stands in for this one");
        invitation.update(home);
        assert!(!invitation.say(), "addresses that come and go are not said all the time");
    }
}
