//! The log of a running node, asked for as any machine of the run would ask, and checked the same way. The asker has a
//! key of its own that nobody knows, takes no part in gossip, and answers nothing: a node that waits for someone to
//! vouch for its own ledger must not hear its own words back.

use anyhow::{Context, Result, anyhow, bail};
use indicatif::ProgressBar;
use peer::{Answer, exchange::read_answer};
use protocol::{
    machine::MachineId,
    manifest::{Manifest, RunId},
    message::{Question, Request, Response},
    replica::{Contained, NodeId, Offence, Output, Replica, Settings},
    version_vector::{Entry, Standing},
};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Content, onlooker};
use crate::{
    join::ticket::Ticket,
    network::{self, Event, Multiaddr, Network, NetworkConfig, PeerId, StartError},
    system::{display::progress_bar, random::random},
};

/// A node that does not take the call is given up on after this: nothing tells its silence from a call that is lost.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// A node that sends nothing new is given up on after this, counted from the last thing that was new. However much it
/// has to send, and however slow the way, it is waited for as long as something comes.
const SILENCE_MAX: Duration = Duration::from_secs(15);
/// Pause before a node that has no more to send, but should, is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// Fetches everything that the node at `place`, an address with its peer id or a ticket, holds.
///
/// Errors come within ten seconds if there is no such node, within fifteen after the last news if it stops answering;
/// they say what had come by then.
/// The first part is the node's address, as people may see it: a ticket may hold a secret.
pub(super) async fn fetch(place: &str) -> Result<(String, Content)> {
    let mut asker = Asker::connect(place).await?;
    let address = asker.address.clone();
    let (manifest_bytes, manifest, run) = asker.manifest().await?;
    let mut conversation = Conversation {
        replica: onlooker(run, &manifest)?,
        claims: BTreeMap::new(),
        is_listed: false,
        most: (0, 0),
        begun: Instant::now(),
        news: Instant::now(),
        bar: bar(),
    };
    let outcome = conversation.run(&mut asker).await;
    conversation.bar.finish_and_clear();
    if let Err(reason) = outcome {
        bail!(
            "{address}: {}, all signatures sound; then {reason}. Try again, or another node of the run",
            conversation.state()
        );
    }
    asker.network.close().await;
    unapply(&mut conversation.replica);
    Ok((address, Content { run, manifest: manifest.into(), manifest_bytes, replica: conversation.replica }))
}

/// What was fetched counts as in the weights, and there are none: back to what a replica is after a restore.
fn unapply(replica: &mut Replica) {
    while replica.poll_output().is_some() {}
    let nothing = |(machine, ..): (&MachineId, _, _)| Contained { machine: *machine, height: 0, digest: [0; 32] };
    let nothing: Vec<Contained> = replica.machines().map(nothing).collect();
    // Every ledger begins there, so this always fits.
    replica.resume(&nothing);
}

fn bar() -> ProgressBar {
    progress_bar(Some(0), "fetching the log", "{msg} {wide_bar} {human_pos} of {human_len} gradients")
}

/// A connection to one node.
struct Asker {
    network: Network,
    /// Where it is, without a ticket's secret.
    address: String,
    peer: PeerId,
    places: Vec<Multiaddr>,
    is_connected: bool,
}

impl Asker {
    async fn connect(address: &str) -> Result<Self> {
        let wrong = |error| match error {
            StartError::Bootstrap { address, error } => anyhow!(
                "--peer {address}: {error}; an example of a right one is /ip4/192.168.1.7/tcp/9713/p2p/12D3KooW…, as the node prints \
                 it"
            ),
            other => other.into(),
        };
        let ticket = Ticket::is_meant(address).then(|| Ticket::parse(address).context("--peer")).transpose()?;
        let (peer, places, secret) = match ticket {
            None => network::parse_bootstrap(address).map(|(peer, place)| (peer, vec![place], None)).map_err(wrong)?,
            Some(ticket) => {
                let mut machines = ticket.machines.into_iter().filter(|(_, places)| !places.is_empty());
                let (peer, places) = machines.next().context("--peer: the ticket names no address")?;
                (peer, places, ticket.secret)
            }
        };
        // What people hear says nothing of a secret.
        let address = if Ticket::is_meant(address) { format!("{}/p2p/{peer}", places[0]) } else { address.to_owned() };
        let key: [u8; 32] = random()?;
        let config = NetworkConfig {
            given: places.clone(),
            prologue: secret.map(|secret| secret.connection()),
            ..NetworkConfig::new(key, None, Vec::new())
        };
        let network = Network::start(config).await.map_err(wrong)?;
        let mut asker = Self { network, address: address.clone(), peer, places, is_connected: false };
        match tokio::time::timeout(CONNECT_MAX, asker.connected()).await {
            Ok(Ok(())) => Ok(asker),
            Ok(Err(error)) => bail!(
                "{address}: cannot be reached ({error}). Is the node there running, its port open, and the peer id still its own?"
            ),
            Err(_) => bail!(
                "{address}: no answer in {} s. Is the node there running, and its port open?",
                CONNECT_MAX.as_secs()
            ),
        }
    }

    /// Calls the node unless there is a connection, and waits for it, or for the failure to make one.
    async fn connected(&mut self) -> Result<(), String> {
        if !self.is_connected {
            self.network.dial(self.peer, self.places.clone());
        }
        while !self.is_connected {
            match self.network.next().await {
                Event::DialFailed { peer, error } if peer == self.peer => return Err(error),
                event => self.on_event(event),
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Connected(peer) if peer == self.peer => self.is_connected = true,
            Event::Disconnected(peer) if peer == self.peer => self.is_connected = false,
            Event::Request { responder, .. } => {
                if let Ok(bytes) = Response::Unavailable.encode() {
                    self.network.respond(responder, bytes);
                }
            }
            _ => {}
        }
    }

    /// The node's answer, or why there is none.
    async fn ask(&mut self, run: RunId, question: Question) -> Result<Response, String> {
        self.connected().await?;
        let bytes = Request { run, question }.encode().map_err(|error| error.to_string())?;
        let asked = self.network.request(self.peer, bytes);
        loop {
            match self.network.next().await {
                Event::Response { request, result, .. } if request == asked => {
                    let bytes = result.map_err(|error| error.to_string())?;
                    return match read_answer(Some(&bytes)).0 {
                        Answer::Message(response) => Ok(response),
                        Answer::Malformed(reason) => Err(reason),
                        Answer::Chunk { .. } | Answer::None => Err("an answer to another question".into()),
                    };
                }
                event => self.on_event(event),
            }
        }
    }

    async fn manifest(&mut self) -> Result<(Vec<u8>, Manifest, RunId)> {
        let address = self.address.clone();
        let asked = tokio::time::timeout(SILENCE_MAX, self.ask(RunId([0; 32]), Question::Manifest)).await;
        let answer = asked.map_err(|_| format!("it said nothing for {} s", SILENCE_MAX.as_secs())).flatten();
        let answer =
            answer.map_err(|error| anyhow!("{address}: the node there does not say which run it is of ({error})"))?;
        match answer {
            Response::Manifest(bytes) => {
                let (manifest, run) = Manifest::decode(&bytes)
                    .with_context(|| format!("{address}: the node there is of no usable run"))?;
                Ok((bytes, manifest, run))
            }
            Response::Unavailable => bail!("{address}: the node there is still joining its run; try again later"),
            _ => bail!(
                "{address}: the node there answers another question than which run it is of; is it a node of onebyte?"
            ),
        }
    }
}

/// Anti-entropy with the one node.
struct Conversation {
    replica: Replica,
    /// What it says that it holds.
    claims: BTreeMap<MachineId, Standing>,
    /// It has said all of that.
    is_listed: bool,
    /// Most gradients and claims so far: more of either is news.
    most: (u64, usize),
    begun: Instant,
    /// Since when there has been no news.
    news: Instant,
    bar: ProgressBar,
}

impl Conversation {
    fn now_ms(&self) -> u64 {
        self.begun.elapsed().as_millis() as u64
    }

    /// Asks until everything that the node claims is here. Errors continue a sentence.
    async fn run(&mut self, asker: &mut Asker) -> Result<(), String> {
        let mut number = 0;
        loop {
            number += 1;
            self.replica.peer_connected(NodeId(number), self.now_ms());
            let left = SILENCE_MAX.saturating_sub(self.news.elapsed());
            let failure = match tokio::time::timeout(left, self.ask_on(asker)).await {
                Ok(outcome) => outcome?,
                Err(_) => return Err(format!("the node sent nothing new for {} s", SILENCE_MAX.as_secs())),
            };
            let Some(error) = failure else { return Ok(()) };
            if self.news.elapsed() + PAUSE >= SILENCE_MAX {
                return Err(format!("the node stopped answering ({error})"));
            }
            self.replica.peer_gone(NodeId(number));
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// None once everything is here; why a question went without an answer.
    async fn ask_on(&mut self, asker: &mut Asker) -> Result<Option<String>, String> {
        loop {
            let Some((peer, question)) = self.next_question()? else {
                if self.is_listed && self.replica.is_caught_up() && self.missing().is_none() {
                    return Ok(None);
                }
                tokio::time::sleep(PAUSE).await;
                let now_ms = self.now_ms();
                if self.replica.is_caught_up() {
                    // What it told of may have been revoked meanwhile: it tells anew.
                    self.replica.compare_with_all(now_ms);
                } else {
                    self.replica.tick(now_ms);
                }
                continue;
            };
            if matches!(question, Question::Summary { .. }) {
                self.is_listed = false;
            }
            let run = *self.replica.run();
            match asker.ask(run, question).await {
                Ok(Response::WrongRun(run)) => return Err(format!("the node went over to run {run}")),
                Ok(response) => {
                    self.listen(&response)?;
                    let now_ms = self.now_ms();
                    self.replica.answered(peer, response, now_ms);
                }
                Err(error) => return Ok(Some(error)),
            }
            self.note_news();
        }
    }

    /// The last question that waits. Fails if the node broke a rule, or is too much for this program.
    fn next_question(&mut self) -> Result<Option<(NodeId, Question)>, String> {
        let mut next = None;
        while let Some(output) = self.replica.poll_output() {
            match output {
                Output::Ask(peer, question) => next = Some((peer, question)),
                Output::Penalize(_, offence) => {
                    return Err(format!("the node sent what no honest one sends ({})", in_words(&offence)));
                }
                _ => {}
            }
        }
        match self.replica.incomplete().next() {
            Some(limit) => Err(format!("the run is larger than this program takes: {limit}")),
            None => Ok(next),
        }
    }

    /// Remembers what the node says that it holds.
    fn listen(&mut self, response: &Response) -> Result<(), String> {
        match response {
            Response::Entries { entries, more } => {
                let ledger = |entry: &Entry| match entry {
                    Entry::Ledger(machine, standing) => Some((*machine, *standing)),
                    Entry::Member(..) => None,
                };
                self.claims.extend(entries.iter().filter_map(ledger));
                self.is_listed = more.is_none();
            }
            Response::Same => self.is_listed = true,
            _ => {}
        }
        let limit = Settings::default().machines_max;
        if self.claims.len() > limit {
            return Err(format!("the node listed {} machines, more than the {limit} of one run", self.claims.len()));
        }
        Ok(())
    }

    fn note_news(&mut self) {
        let gradients = self.replica.machines().map(|(_, ledger, _)| ledger.height()).sum();
        let claimed = self.claims.values().map(Standing::height).fold(0, u64::saturating_add);
        self.bar.set_length(claimed.max(gradients));
        self.bar.set_position(gradients);
        if gradients > self.most.0 || self.claims.len() > self.most.1 {
            self.news = Instant::now();
        }
        self.most = (self.most.0.max(gradients), self.most.1.max(self.claims.len()));
    }

    /// A machine of which less is here than the node claims to have.
    fn missing(&self) -> Option<&MachineId> {
        self.claims.iter().find(|(machine, theirs)| !self.has(machine, theirs)).map(|(machine, _)| machine)
    }

    fn has(&self, machine: &MachineId, theirs: &Standing) -> bool {
        let floor = |standing: &Standing| match standing {
            Standing::Live { .. } => u64::MAX,
            Standing::Revoked { floor, .. } => *floor,
            Standing::Forked => 0,
        };
        match self.replica.vector().get(machine) {
            Some(ours) => floor(&ours) <= floor(theirs) && ours.height() >= theirs.height().min(floor(&ours)),
            // What it has of a machine that may not count is of no use.
            None if self.replica.floor(machine) == 0 => true,
            None => theirs.height() == 0 && floor(theirs) == u64::MAX,
        }
    }

    /// What has come, for people.
    fn state(&self) -> String {
        let complete = self.claims.iter().filter(|(machine, theirs)| self.has(machine, theirs)).count();
        let machines = self.claims.len();
        format!("got {complete} of {machines} machines whole, {} gradients in all", self.most.0)
    }
}

fn in_words(offence: &Offence) -> String {
    match offence {
        Offence::Malformed(reason) | Offence::Invalid(reason) => reason.clone(),
        Offence::Unasked => "an answer to another question".into(),
    }
}
