//! The gossip mesh of one machine: a model of libp2p-gossipsub 0.50.1 with one topic, set up as `node::network` sets it
//! up (anonymous, messages validated by the application, no peer scores).
//!
//! Modelled: the subscription on connection and the graft that answers it; heartbeats (graft below the low mark, prune
//! from the high mark, enough outbound neighbours, backoff with its slack); flood publishing of own messages;
//! forwarding to the mesh after validation, except to all that sent the message meanwhile; the message cache's windows,
//! in which a message counts from its arrival and may be announced (IHAVE) and asked for (IWANT) once it is validated;
//! the limits of both; promises; IDONTWANT; and the size of every frame. Without scores nothing looks for broken
//! promises: what was asked for once and never came is not asked for again (`apply_iwant_penalties` does nothing), so
//! that `iwant_followup_time` has no effect, nor has `retain_scores` (all scores are equal: the prune is a plain
//! shuffle).
//!
//! Simplified: no scores, hence no opportunistic grafting; always subscribed, hence no fanout, no UNSUBSCRIBE and no
//! `unsubscribe_backoff`; the duplicate cache forgets up to a quarter of a second late; of more than ten thousand unwanted
//! messages the lowest number is forgotten instead of the oldest; the queues of a connection have no limits, no time
//! limits, no precedence of control over messages, and an IDONTWANT does not take messages out of them (the caller
//! may); a second connection of a neighbour does nothing.

use node::network::framing::gossip_protobuf;
use rand_xoshiro::Xoshiro256PlusPlus;
use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use crate::random::sample;

mod frame;
mod seen;

pub use frame::{Frame, frame_bytes};
use seen::{Bits, Seen};

/// Number of a gossip message in the whole simulation (the caller interns them: equal content has an equal number).
pub type Message = u32;
/// A machine's number in the simulation.
pub type Machine = u32;
/// What is to be sent: to whom, what.
pub type Outbox = Vec<(Machine, Frame)>;

/// Time between heartbeats, ms (`node::network` sets `heartbeat_interval`).
pub const HEARTBEAT_MS: u64 = 700;
/// Time before the first heartbeat, ms (`heartbeat_initial_delay`, config.rs).
pub const FIRST_HEARTBEAT_MS: u64 = 5_000;
/// Ids in one IHAVE, and asked of one neighbour between heartbeats (`node::network` sets `max_control_messages_sent`).
const IDS_MAX: usize = node::network::CONTROL_IDS_MAX;
/// Mesh neighbours that are aimed at (`mesh_n`, config.rs).
const MESH: usize = 6;
/// With fewer, neighbours are grafted (`mesh_n_low`, config.rs).
const MESH_LOW: usize = 5;
/// From so many on, neighbours are pruned, and inbound ones are refused (`mesh_n_high`, config.rs).
const MESH_HIGH: usize = 12;
/// Mesh neighbours that this machine called, at least (`mesh_outbound_min`, config.rs).
const OUTBOUND_MIN: usize = 2;
/// Neighbours outside the mesh that hear an announcement, at least (`gossip_lazy`, config.rs).
const LAZY: usize = 6;
/// The share of those outside the mesh, where that is more (`gossip_factor`, config.rs).
const LAZY_SHARE: f64 = 0.25;
/// Heartbeats that a message stays in the cache, its own included (`history_length`, config.rs).
const HISTORY: usize = 5;
/// Heartbeats that a message is announced (`history_gossip`, config.rs).
const ANNOUNCED: usize = 3;
/// Times that one neighbour is sent one message for the asking (`gossip_retransimission`, config.rs).
const RETRANSMISSIONS: u32 = 3;
/// Announcements heard from one neighbour between heartbeats (`max_ihave_messages_heartbeat`, config.rs).
const IHAVES_MAX: u32 = 10;
/// A GRAFT so soon after a PRUNE is refused, ms (`prune_backoff`, config.rs; a PRUNE carries it in seconds).
const BACKOFF_MS: u64 = 60_000;
/// Own GRAFTs wait for this heartbeat after a PRUNE: the backoff in heartbeats, `backoff_slack` of 1 and one for the
/// heartbeat that is under way (backoff.rs).
const BACKOFF_BEATS: u64 = BACKOFF_MS.div_ceil(HEARTBEAT_MS) + 2;
/// Messages with a longer protobuf are answered with IDONTWANT, bytes (`idontwant_message_size_threshold`, config.rs).
/// `idontwant_on_publish` is false.
const IDONTWANT_BYTES: usize = 1_000;
/// An IDONTWANT is remembered for so long, ms (`IDONTWANT_TIMEOUT`, behaviour.rs).
const UNWANTED_MS: u64 = 3_000;
/// Messages of one neighbour's IDONTWANTs that are remembered (`IDONTWANT_CAP`, behaviour.rs).
const UNWANTED_MAX: usize = 10_000;

/// What the caller found about a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Pass it on.
    Accept,
    /// Drop it.
    Ignore,
    /// Drop it; without scores this is the same.
    Reject,
}

struct Neighbour {
    machine: Machine,
    /// Whether this machine called it.
    outbound: bool,
    subscribed: bool,
    /// IHAVEs that came, and ids that it was asked for, since the last heartbeat.
    ihaves: u32,
    asked: usize,
    /// Messages it does not want, and since when (ms).
    unwanted: BTreeMap<Message, u64>,
}

struct Backoff {
    until_ms: u64,
    /// The first heartbeat that may graft again.
    until_beat: u64,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Mesh {
    /// In order of their numbers.
    neighbours: Vec<Neighbour>,
    /// Those in the mesh, in order of their numbers.
    members: Vec<Machine>,
    /// Outlive their neighbours' connections, as in the original.
    backoffs: BTreeMap<Machine, Backoff>,
    beats: u64,
    seen: Seen,
    /// Messages that wait for a verdict, and who sent them so far.
    unvalidated: Vec<(Message, Vec<Machine>)>,
    /// Messages that were accepted and are still in the history.
    validated: Bits,
    /// Messages by the heartbeat before which they came, the newest first.
    history: VecDeque<Vec<Message>>,
    /// How often a neighbour asked for a message of the history.
    asked: BTreeMap<(Message, Machine), u32>,
    /// Of whom a message that has not come was asked. One each: what is promised is asked of nobody else.
    promises: BTreeMap<Message, Machine>,
}

impl Mesh {
    /// Without neighbours.
    pub fn new() -> Self {
        Self { history: VecDeque::from([const { Vec::new() }; HISTORY]), ..Self::default() }
    }

    fn place(&self, machine: Machine) -> Result<usize, usize> {
        self.neighbours.binary_search_by_key(&machine, |neighbour| neighbour.machine)
    }

    fn neighbour(&mut self, machine: Machine) -> Option<&mut Neighbour> {
        let place = self.place(machine).ok()?;
        self.neighbours.get_mut(place)
    }

    fn outbound_degree(&self) -> usize {
        self.neighbours.iter().filter(|neighbour| neighbour.outbound && self.is_member(neighbour.machine)).count()
    }

    /// The neighbours in the mesh, in order of their numbers.
    pub fn members(&self) -> &[Machine] {
        &self.members
    }

    fn is_member(&self, machine: Machine) -> bool {
        self.members.binary_search(&machine).is_ok()
    }

    fn join(&mut self, machine: Machine) {
        if let Err(place) = self.members.binary_search(&machine) {
            self.members.insert(place, machine);
        }
    }

    fn part(&mut self, machine: Machine) {
        self.members.retain(|member| *member != machine);
    }

    /// Whether the message was seen (duplicate cache).
    pub fn seen(&self, message: Message) -> bool {
        self.seen.contains(message)
    }

    /// A connection stands; `outbound` if this machine called. Sends the subscription, with the first connection only.
    pub fn connected(&mut self, peer: Machine, outbound: bool, out: &mut Outbox) {
        let Err(place) = self.place(peer) else { return };
        let neighbour =
            Neighbour { machine: peer, outbound, subscribed: false, ihaves: 0, asked: 0, unwanted: BTreeMap::new() };
        self.neighbours.insert(place, neighbour);
        out.push((peer, Frame::Subscribe));
    }

    /// The (last) connection is gone.
    pub fn gone(&mut self, peer: Machine) {
        if let Ok(place) = self.place(peer) {
            self.neighbours.remove(place);
            self.part(peer);
        }
    }

    /// A frame of `peer`; `sizes` tells the bytes of a message's content. Returns a message that wants validation, if
    /// the frame carried one that was not seen before.
    pub fn receive(
        &mut self,
        peer: Machine,
        frame: &Frame,
        sizes: &dyn Fn(Message) -> usize,
        now_ms: u64,
        random: &mut Xoshiro256PlusPlus,
        out: &mut Outbox,
    ) -> Option<Message> {
        match frame {
            Frame::Publish(message) => return self.published(peer, *message, sizes, now_ms, out),
            Frame::Subscribe => self.subscribed(peer, out),
            Frame::Graft => self.grafted(peer, now_ms, out),
            Frame::Prune => {
                if self.is_member(peer) {
                    self.part(peer);
                    self.back_off(peer, now_ms);
                }
            }
            Frame::IHave(messages) => self.announced(peer, messages, random, out),
            Frame::IWant(messages) => self.wanted(peer, messages, out),
            Frame::IDontWant(messages) => {
                if let Some(neighbour) = self.neighbour(peer) {
                    for message in messages.iter() {
                        neighbour.unwanted.insert(*message, now_ms);
                        if neighbour.unwanted.len() > UNWANTED_MAX {
                            neighbour.unwanted.pop_first();
                        }
                    }
                }
            }
        }
        None
    }

    /// `handle_received_message`.
    fn published(
        &mut self,
        from: Machine,
        message: Message,
        sizes: &dyn Fn(Message) -> usize,
        now_ms: u64,
        out: &mut Outbox,
    ) -> Option<Message> {
        if self.seen(message) {
            let waiting = self.unvalidated.iter_mut().find(|(waiting, _)| *waiting == message);
            if let Some((_, sources)) = waiting.filter(|(_, sources)| !sources.contains(&from)) {
                sources.push(from);
            }
            return None;
        }
        let promised = self.promises.remove(&message);
        if gossip_protobuf(sizes(message)) > IDONTWANT_BYTES {
            let unwanted: Rc<Vec<Message>> = Rc::new(vec![message]);
            let asked = promised.filter(|machine| !self.is_member(*machine) && self.place(*machine).is_ok());
            let others = self.members.iter().copied().chain(asked).filter(|machine| *machine != from);
            out.extend(others.map(|machine| (machine, Frame::IDontWant(unwanted.clone()))));
        }
        self.cache(message, now_ms);
        self.unvalidated.push((message, vec![from]));
        Some(message)
    }

    fn cache(&mut self, message: Message, now_ms: u64) {
        self.seen.insert(message, now_ms);
        if let Some(newest) = self.history.front_mut() {
            newest.push(message);
        }
    }

    /// `handle_received_subscriptions`.
    fn subscribed(&mut self, from: Machine, out: &mut Outbox) {
        let may_graft = self.members.len() < MESH_LOW && !self.backs_off(from) && !self.is_member(from);
        let Some(neighbour) = self.neighbour(from) else { return };
        neighbour.subscribed = true;
        if may_graft {
            self.join(from);
            out.push((from, Frame::Graft));
        }
    }

    /// `handle_graft`.
    fn grafted(&mut self, from: Machine, now_ms: u64, out: &mut Outbox) {
        let (is_full, is_member) = (self.members.len() >= MESH_HIGH, self.is_member(from));
        let refused = self.backoffs.get(&from).is_some_and(|backoff| backoff.until_ms > now_ms);
        let Some(neighbour) = self.neighbour(from) else { return };
        if is_member || !refused && !neighbour.subscribed {
            return;
        }
        if refused || is_full && !neighbour.outbound {
            self.back_off(from, now_ms);
            return out.push((from, Frame::Prune));
        }
        self.join(from);
    }

    fn back_off(&mut self, machine: Machine, now_ms: u64) {
        let backoff = Backoff { until_ms: now_ms + BACKOFF_MS, until_beat: self.beats + BACKOFF_BEATS };
        self.backoffs.insert(machine, backoff);
    }

    /// `is_backoff_with_slack`: entries leave at heartbeats.
    fn backs_off(&self, machine: Machine) -> bool {
        self.backoffs.contains_key(&machine)
    }

    /// `handle_ihave`.
    fn announced(&mut self, from: Machine, ids: &[Message], random: &mut Xoshiro256PlusPlus, out: &mut Outbox) {
        let Some(neighbour) = self.neighbour(from) else { return };
        neighbour.ihaves += 1;
        let room = IDS_MAX.saturating_sub(neighbour.asked);
        if neighbour.ihaves > IHAVES_MAX || room == 0 {
            return;
        }
        let missing = |message: &Message| !self.seen(*message) && !self.promises.contains_key(message);
        let mut missing: Vec<Message> = ids.iter().copied().filter(missing).collect();
        if missing.is_empty() {
            return;
        }
        missing.sort_unstable();
        missing.dedup();
        let asked = sample(random, &missing, room);
        if let Some(neighbour) = self.neighbour(from) {
            neighbour.asked += asked.len();
        }
        self.promises.extend(asked.iter().map(|message| (*message, from)));
        out.push((from, Frame::IWant(Rc::new(asked))));
    }

    /// `handle_iwant`.
    fn wanted(&mut self, from: Machine, ids: &[Message], out: &mut Outbox) {
        let Ok(place) = self.place(from) else { return };
        for message in ids {
            if !self.validated.contains(*message) {
                continue;
            }
            let count = self.asked.entry((*message, from)).or_default();
            *count += 1;
            if *count <= RETRANSMISSIONS && !self.neighbours[place].unwanted.contains_key(message) {
                out.push((from, Frame::Publish(*message)));
            }
        }
    }

    /// The verdict on a message that [`Mesh::receive`] returned. What is accepted is sent to the mesh, except to all
    /// from which it came meanwhile and to those that do not want it. A verdict that comes after the message has left
    /// the history (five heartbeats) has no effect.
    pub fn validated(&mut self, message: Message, verdict: Verdict, out: &mut Outbox) {
        let Some(place) = self.unvalidated.iter().position(|(waiting, _)| *waiting == message) else { return };
        let (_, sources) = self.unvalidated.swap_remove(place);
        if verdict != Verdict::Accept {
            return;
        }
        self.validated.insert(message);
        for member in &self.members {
            let unwanted =
                self.place(*member).is_ok_and(|place| self.neighbours[place].unwanted.contains_key(&message));
            if !unwanted && !sources.contains(member) {
                out.push((*member, Frame::Publish(message)));
            }
        }
    }

    /// An own message goes to every subscribed neighbour (`flood_publish` is true). False if there is none
    /// (`NoPeersSubscribedToTopic`); a message that was seen is not sent again.
    pub fn publish(&mut self, message: Message, now_ms: u64, out: &mut Outbox) -> bool {
        if self.seen(message) {
            return true;
        }
        if !self.neighbours.iter().any(|neighbour| neighbour.subscribed) {
            return false;
        }
        self.promises.remove(&message);
        self.cache(message, now_ms);
        self.validated.insert(message);
        let takers = self.neighbours.iter().filter(|neighbour| neighbour.subscribed);
        out.extend(takers.map(|neighbour| (neighbour.machine, Frame::Publish(message))));
        true
    }

    /// Every [`HEARTBEAT_MS`].
    pub fn heartbeat(&mut self, now_ms: u64, random: &mut Xoshiro256PlusPlus, out: &mut Outbox) {
        self.beats += 1;
        self.seen.forget(now_ms);
        self.backoffs.retain(|_, backoff| backoff.until_beat > self.beats);
        for neighbour in &mut self.neighbours {
            (neighbour.ihaves, neighbour.asked) = (0, 0);
        }
        let degree = self.members.len();
        if degree < MESH_LOW {
            self.graft(MESH - degree, false, random, out);
        }
        if self.members.len() >= MESH_HIGH {
            self.prune(now_ms, random, out);
        }
        let outbound = self.outbound_degree();
        if self.members.len() >= MESH_LOW && outbound < OUTBOUND_MIN {
            self.graft(OUTBOUND_MIN - outbound, true, random, out);
        }
        self.announce(random, out);
        self.shift();
        for neighbour in &mut self.neighbours {
            neighbour.unwanted.retain(|_, since_ms| now_ms.saturating_sub(*since_ms) <= UNWANTED_MS);
        }
    }

    /// Puts up to `count` more neighbours into the mesh.
    fn graft(&mut self, count: usize, outbound_only: bool, random: &mut Xoshiro256PlusPlus, out: &mut Outbox) {
        let may = |neighbour: &&Neighbour| {
            let fits = neighbour.outbound || !outbound_only;
            let machine = neighbour.machine;
            neighbour.subscribed && fits && !self.is_member(machine) && !self.backs_off(machine)
        };
        let pool: Vec<Machine> = self.neighbours.iter().filter(may).map(|neighbour| neighbour.machine).collect();
        for machine in sample(random, &pool, count) {
            self.join(machine);
            out.push((machine, Frame::Graft));
        }
    }

    /// Takes the excess out of the mesh, but leaves enough neighbours that this machine called.
    fn prune(&mut self, now_ms: u64, random: &mut Xoshiro256PlusPlus, out: &mut Outbox) {
        let members = self.members.clone();
        let mut excess = members.len() - MESH;
        let mut outbound = self.outbound_degree();
        for machine in sample(random, &members, members.len()) {
            let Some(neighbour) = self.neighbour(machine).filter(|_| excess > 0) else { continue };
            if neighbour.outbound {
                if outbound <= OUTBOUND_MIN {
                    continue;
                }
                outbound -= 1;
            }
            excess -= 1;
            self.part(machine);
            self.back_off(machine, now_ms);
            out.push((machine, Frame::Prune));
        }
    }

    /// `emit_gossip`.
    fn announce(&self, random: &mut Xoshiro256PlusPlus, out: &mut Outbox) {
        let recent = self.history.iter().take(ANNOUNCED).flatten().copied();
        let recent: Vec<Message> = recent.filter(|message| self.validated.contains(*message)).collect();
        if recent.is_empty() {
            return;
        }
        let outside =
            self.neighbours.iter().filter(|neighbour| neighbour.subscribed && !self.is_member(neighbour.machine));
        let outside: Vec<Machine> = outside.map(|neighbour| neighbour.machine).collect();
        let count = LAZY.max((LAZY_SHARE * outside.len() as f64) as usize);
        let shared = Rc::new(sample(random, &recent, recent.len()));
        for machine in sample(random, &outside, count) {
            let ids = if shared.len() > IDS_MAX { Rc::new(sample(random, &shared, IDS_MAX)) } else { shared.clone() };
            out.push((machine, Frame::IHave(ids)));
        }
    }

    /// Moves the history on and forgets the oldest messages' content.
    fn shift(&mut self) {
        for message in self.history.pop_back().unwrap_or_default() {
            self.validated.remove(message);
            self.unvalidated.retain(|(waiting, _)| *waiting != message);
        }
        self.history.push_front(Vec::new());
        self.asked.retain(|(message, _), _| self.validated.contains(*message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_xoshiro::rand_core::SeedableRng;

    /// Machines in a ring, each connected with the next few, whose frames arrive at once and in order.
    struct Ring {
        meshes: Vec<Mesh>,
        random: Xoshiro256PlusPlus,
        now_ms: u64,
        got: Vec<Vec<Message>>,
        publishes: usize,
    }

    impl Ring {
        fn new(machines: u32, next: u32) -> Self {
            let mut ring = Self {
                meshes: (0..machines).map(|_| Mesh::new()).collect(),
                random: Xoshiro256PlusPlus::seed_from_u64(1),
                now_ms: 0,
                got: vec![Vec::new(); machines as usize],
                publishes: 0,
            };
            for (a, b) in (0..machines).flat_map(|a| (1..=next).map(move |step| (a, (a + step) % machines))) {
                let (mut caller, mut called) = (Vec::new(), Vec::new());
                ring.meshes[a as usize].connected(b, true, &mut caller);
                ring.meshes[b as usize].connected(a, false, &mut called);
                ring.carry(a, caller, |_, _| false);
                ring.carry(b, called, |_, _| false);
            }
            ring
        }

        /// Delivers until nothing is left to be said, except what `loses` takes.
        fn carry(&mut self, from: Machine, out: Outbox, loses: impl Fn(Machine, &Frame) -> bool) {
            let mut waiting: VecDeque<_> = out.into_iter().map(|(to, frame)| (from, to, frame)).collect();
            while let Some((from, to, frame)) = waiting.pop_front() {
                if loses(to, &frame) {
                    continue;
                }
                self.publishes += usize::from(matches!(frame, Frame::Publish(_)));
                let (mesh, mut out) = (&mut self.meshes[to as usize], Vec::new());
                let news = mesh.receive(from, &frame, &|_| 200, self.now_ms, &mut self.random, &mut out);
                if let Some(message) = news {
                    self.got[to as usize].push(message);
                    mesh.validated(message, Verdict::Accept, &mut out);
                }
                waiting.extend(out.into_iter().map(|(next, frame)| (to, next, frame)));
            }
        }

        fn beat(&mut self) {
            self.now_ms += HEARTBEAT_MS;
            for machine in 0..self.meshes.len() as u32 {
                let mut out = Vec::new();
                self.meshes[machine as usize].heartbeat(self.now_ms, &mut self.random, &mut out);
                self.carry(machine, out, |_, _| false);
            }
        }

        fn publish(&mut self, machine: Machine, message: Message, loses: impl Fn(Machine, &Frame) -> bool) {
            let mut out = Vec::new();
            assert!(self.meshes[machine as usize].publish(message, self.now_ms, &mut out));
            self.carry(machine, out, loses);
        }
    }

    /// One mesh with so many subscribed neighbours, numbered from 0, of which the first few were called.
    struct Alone {
        mesh: Mesh,
        random: Xoshiro256PlusPlus,
    }

    impl Alone {
        fn new(neighbours: u32, outbound: u32) -> Self {
            let mut alone = Self { mesh: Mesh::new(), random: Xoshiro256PlusPlus::seed_from_u64(1) };
            for peer in 0..neighbours {
                alone.mesh.connected(peer, peer < outbound, &mut Vec::new());
                alone.hear(peer, Frame::Subscribe, 0);
            }
            alone
        }

        fn hear(&mut self, peer: Machine, frame: Frame, now_ms: u64) -> Outbox {
            let mut out = Vec::new();
            self.mesh.receive(peer, &frame, &|_| 2_000, now_ms, &mut self.random, &mut out);
            out
        }

        fn accept(&mut self, message: Message) -> Vec<Machine> {
            let mut out = Vec::new();
            self.mesh.validated(message, Verdict::Accept, &mut out);
            out.iter().map(|(to, _)| *to).collect()
        }

        fn beat(&mut self, now_ms: u64) -> Outbox {
            let mut out = Vec::new();
            self.mesh.heartbeat(now_ms, &mut self.random, &mut out);
            out
        }
    }

    fn ids(messages: &[Message]) -> Rc<Vec<Message>> {
        Rc::new(messages.to_vec())
    }

    #[test]
    fn every_message_reaches_everyone_once_and_costs_about_the_degree_of_the_mesh() {
        let mut ring = Ring::new(50, 10);
        (0..5).for_each(|_| ring.beat());
        ring.publishes = 0;
        (0..50).for_each(|message| ring.publish(message, message, |_, _| false));
        for (machine, got) in ring.got.iter().enumerate() {
            let others: Vec<Message> = (0..50).filter(|message| *message != machine as u32).collect();
            assert_eq!(*got, others, "machine {machine}");
        }
        assert!((3..=11).contains(&(ring.publishes / 2_500)), "{} frames", ring.publishes);
    }

    #[test]
    fn degrees_stay_within_their_marks_with_enough_outbound_neighbours() {
        let mut ring = Ring::new(60, 20);
        (0..20).for_each(|_| ring.beat());
        for mesh in &ring.meshes {
            assert!((MESH_LOW..=MESH_HIGH).contains(&mesh.members().len()), "{}", mesh.members().len());
            assert!(mesh.outbound_degree() >= OUTBOUND_MIN);
        }
    }

    #[test]
    fn what_was_lost_on_all_links_of_the_mesh_is_announced_and_asked_for() {
        let mut ring = Ring::new(30, 12);
        (0..3).for_each(|_| ring.beat());
        ring.publish(0, 0, |to, frame| to == 9 && matches!(frame, Frame::Publish(_)));
        assert!(ring.got[9].is_empty());
        (0..3).for_each(|_| ring.beat());
        assert_eq!(ring.got[9], [0]);
    }

    #[test]
    fn who_pruned_is_not_grafted_before_its_backoff_and_a_slack_are_over() {
        let mut alone = Alone::new(1, 1);
        assert_eq!(alone.mesh.members().to_vec(), [0]);
        alone.hear(0, Frame::Prune, 0);
        let grafted = (1..100).map(|beat| beat * HEARTBEAT_MS).find(|now_ms| !alone.beat(*now_ms).is_empty());
        assert_eq!(grafted, Some(61_600));
    }

    #[test]
    fn a_graft_during_a_backoff_is_pruned_and_starts_it_anew_even_after_a_new_connection() {
        let mut alone = Alone::new(1, 1);
        alone.hear(0, Frame::Prune, 0);
        alone.mesh.gone(0);
        alone.mesh.connected(0, false, &mut Vec::new());
        alone.hear(0, Frame::Subscribe, 1_000);
        assert_eq!(alone.hear(0, Frame::Graft, 50_000), [(0, Frame::Prune)]);
        assert_eq!(alone.hear(0, Frame::Graft, 109_999), [(0, Frame::Prune)]);
        assert_eq!(alone.hear(0, Frame::Graft, 170_000), []);
        assert_eq!(alone.mesh.members().len(), 1);
    }

    #[test]
    fn a_full_mesh_refuses_those_that_called_but_not_those_it_called() {
        let mut alone = Alone::new(14, 2);
        alone.mesh.neighbours[13].outbound = true;
        (5..12).for_each(|peer| assert_eq!(alone.hear(peer, Frame::Graft, 0), []));
        assert_eq!(alone.mesh.members().len(), MESH_HIGH);
        assert_eq!(alone.hear(12, Frame::Graft, 0), [(12, Frame::Prune)]);
        assert_eq!(alone.hear(13, Frame::Graft, 0), []);
        let pruned = alone.beat(700).iter().filter(|(_, frame)| *frame == Frame::Prune).count();
        assert_eq!((pruned, alone.mesh.members().len()), (7, MESH));
        assert!(alone.mesh.outbound_degree() >= OUTBOUND_MIN);
    }

    #[test]
    fn a_message_is_not_forwarded_to_those_it_came_from_nor_to_those_that_do_not_want_it() {
        let mut alone = Alone::new(5, 5);
        let told = alone.hear(1, Frame::Publish(7), 0);
        assert_eq!(told, [0, 2, 3, 4].map(|peer| (peer, Frame::IDontWant(ids(&[7])))));
        assert_eq!(alone.hear(2, Frame::Publish(7), 0), []);
        alone.hear(3, Frame::IDontWant(ids(&[7])), 0);
        assert_eq!(alone.accept(7), [0, 4]);
        assert!(alone.accept(7).is_empty(), "a second verdict");
    }

    #[test]
    fn only_validated_messages_are_announced_and_sent_for_the_asking_three_times() {
        let mut alone = Alone::new(9, 9);
        alone.hear(0, Frame::Publish(7), 0);
        assert_eq!(alone.beat(700), []);
        assert_eq!(alone.hear(8, Frame::IWant(ids(&[7])), 700), []);
        alone.accept(7);
        let out: Outbox = alone.beat(1_400);
        assert_eq!(out.iter().filter(|(_, frame)| *frame == Frame::IHave(ids(&[7]))).count(), 4, "outside the mesh");
        let sent = (0..5).map(|_| alone.hear(8, Frame::IWant(ids(&[7])), 1_400).len());
        assert_eq!(sent.sum::<usize>(), 3);
        (3..=5).for_each(|beat| drop(alone.beat(beat * 700)));
        assert_eq!(alone.hear(7, Frame::IWant(ids(&[7])), 3_500), [], "it left the history");
    }

    #[test]
    fn an_announcement_is_followed_up_once_with_limits() {
        let mut alone = Alone::new(2, 2);
        assert_eq!(alone.hear(0, Frame::IHave(ids(&[7, 7])), 0), [(0, Frame::IWant(ids(&[7])))]);
        alone.beat(100_000);
        assert_eq!(
            alone.hear(1, Frame::IHave(ids(&[7])), 100_000),
            [],
            "promised, and nobody looks whether it was kept"
        );
        let many: Vec<Message> = (100..1_100).collect();
        let Some((1, Frame::IWant(asked))) = alone.hear(1, Frame::IHave(ids(&many)), 100_000).pop() else { panic!() };
        assert_eq!(asked.len(), IDS_MAX);
        (0..9).for_each(|_| drop(alone.hear(0, Frame::IHave(ids(&[7])), 100_000)));
        assert_eq!(alone.hear(0, Frame::IHave(ids(&[8])), 100_000), [(0, Frame::IWant(ids(&[8])))]);
        assert_eq!(alone.hear(0, Frame::IHave(ids(&[9])), 100_000), [], "the eleventh");
    }

    #[test]
    fn a_message_is_forgotten_after_two_minutes() {
        let mut alone = Alone::new(2, 2);
        alone.hear(0, Frame::Publish(5_000), 1_000);
        alone.hear(0, Frame::Publish(1), 1_300);
        assert_eq!(alone.hear(1, Frame::Publish(5_000), 120_999), []);
        alone.mesh.heartbeat(121_251, &mut Xoshiro256PlusPlus::seed_from_u64(1), &mut Vec::new());
        assert!(!alone.mesh.seen(5_000) && alone.mesh.seen(1));
    }

    #[test]
    fn a_machine_without_listeners_cannot_publish() {
        assert!(!Mesh::new().publish(0, 0, &mut Vec::new()));
    }

    #[test]
    fn frames_have_the_sizes_of_their_protobuf() {
        let sizes = |message: Message| message as usize;
        for (frame, bytes) in [
            (Frame::Subscribe, 5 + 30 + 19 + 30),
            (Frame::Publish(100), 100 + 2 + 10 + 2 + 1 + 30),
            (Frame::Publish(1_000), 1_000 + 3 + 10 + 3 + 2 + 30),
            (Frame::Publish(60_000), 60_000 + 4 + 10 + 4 + 3 + 4 * 12 + 18),
            (Frame::IHave(ids(&[1, 2])), 2 * 18 + 10 + 2 + 2 + 1 + 30),
            (Frame::IHave(vec![0; IDS_MAX].into()), 800 * 18 + 10 + 3 + 3 + 2 + 30),
            (Frame::IWant(ids(&[1])), 18 + 2 + 2 + 1 + 30),
            (Frame::IDontWant(ids(&[1])), 18 + 2 + 2 + 1 + 30),
            (Frame::Graft, 10 + 2 + 2 + 1 + 30),
            (Frame::Prune, 12 + 2 + 2 + 1 + 30),
        ] {
            assert_eq!(frame_bytes(&frame, &sizes), bytes, "{frame:?}");
        }
    }
}
