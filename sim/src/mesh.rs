//! The gossip mesh of one machine: a model of libp2p-gossipsub 0.50.1 with one topic, set up as `node::network` sets it up.
//!
//! Modelled: subscription on connection and the graft that follows it, heartbeats (graft below the low mark, prune above the high
//! mark, enough outbound neighbours, backoff after a prune), flood publishing of own messages to every subscribed
//! neighbour, forwarding to the mesh once the caller has validated, sources of a message left out, announcements (IHAVE) to
//! neighbours outside the mesh, requests for what is missing (IWANT) with their limits and promises, IDONTWANT for large
//! messages, and the size of every frame.
//!
//! Simplified: no scores (the node uses none), so no opportunistic grafting either; the duplicate cache forgets in
//! generations, between one and two times its time; a message enters the history when it is validated, not when it arrives; queues of
//! connections have no limit of their own (the uplink has); every frame is written on its own.

use rand_xoshiro::Xoshiro256PlusPlus;
use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
};

use crate::random::sample;

/// Number of a gossip message in the whole simulation.
pub type Message = u32;
/// A machine's number in the simulation.
pub type Machine = u32;
/// What is to be sent: to whom, what.
pub type Outbox = Vec<(Machine, Frame)>;

/// Time between heartbeats, ms (`node::network`).
pub const HEARTBEAT_MS: u64 = 700;
/// Time before the first, ms (`heartbeat_initial_delay`).
pub const FIRST_HEARTBEAT_MS: u64 = 5_000;
/// Neighbours in the mesh that are aimed at (`mesh_n`).
const MESH: usize = 6;
/// Below, neighbours are grafted (`mesh_n_low`).
const MESH_LOW: usize = 5;
/// From here on, neighbours are pruned (`mesh_n_high`).
const MESH_HIGH: usize = 12;
/// Neighbours in the mesh that this machine called (`mesh_outbound_min`).
const OUTBOUND_MIN: usize = 2;
/// Neighbours outside the mesh that hear announcements (`gossip_lazy`, `gossip_factor`).
const LAZY: usize = 6;
const LAZY_SHARE: f64 = 0.25;
/// Heartbeats that a message can be asked for, and announced (`history_length`, `history_gossip`).
const HISTORY: usize = 5;
const ANNOUNCED: usize = 3;
/// A neighbour may ask for a message this often (`gossip_retransimission`).
const RETRANSMISSIONS: u8 = 3;
/// No graft so long after a prune, ms (`prune_backoff`), and one heartbeat of slack.
const BACKOFF_MS: u64 = 60_000;
/// Announcements that are heard from one neighbour between heartbeats (`max_ihave_messages_heartbeat`).
const IHAVES_MAX: u32 = 10;
/// Messages asked of one neighbour between heartbeats, and announced at once (`node::network`).
const IDS_MAX: usize = node::network::CONTROL_IDS_MAX;
/// What was asked for is not asked of others so long, ms (`iwant_followup_time`).
const PROMISE_MS: u64 = 3_000;
/// Duplicates are known so long at least, ms (`node::network`).
const DUPLICATES_MS: u64 = 120_000;
/// Larger messages are announced as not wanted from others (`idontwant_message_size_threshold`), bytes.
const IDONTWANT_BYTES: usize = 1_000;

/// What one machine's mesh sends another's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// I listen to the topic.
    Subscribe,
    /// A message.
    Publish(Message),
    /// I have these.
    IHave(Rc<[Message]>),
    /// Send me these.
    IWant(Rc<[Message]>),
    /// You are in my mesh.
    Graft,
    /// You are not, for a minute.
    Prune,
    /// I have these already.
    IDontWant(Rc<[Message]>),
}

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

/// A set of message numbers.
#[derive(Default)]
struct Bits(Vec<u64>);

impl Bits {
    fn contains(&self, message: Message) -> bool {
        self.0.get(message as usize / 64).is_some_and(|word| word >> (message % 64) & 1 == 1)
    }

    fn insert(&mut self, message: Message) {
        let word = message as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (message % 64);
    }
}

struct Neighbour {
    machine: Machine,
    /// Whether this machine called it.
    outbound: bool,
    subscribed: bool,
    in_mesh: bool,
    backoff_until_ms: u64,
    ihaves: u32,
    asked: usize,
    unwanted: Vec<Message>,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Mesh {
    /// In order of their numbers.
    neighbours: Vec<Neighbour>,
    seen: Bits,
    seen_before: Bits,
    generation_ms: u64,
    /// Messages that wait for a verdict, and who sent them so far.
    unvalidated: Vec<(Message, Vec<Machine>)>,
    /// Validated messages by heartbeat, the newest first.
    history: VecDeque<Vec<Message>>,
    /// Retransmissions by (message, neighbour).
    sent: BTreeMap<(Message, Machine), u8>,
    /// What was asked for, until when (ms).
    promises: BTreeMap<Message, u64>,
}

impl Mesh {
    /// Without neighbours.
    pub fn new() -> Self {
        Self { history: VecDeque::from([Vec::new()]), ..Self::default() }
    }

    fn place(&self, machine: Machine) -> Result<usize, usize> {
        self.neighbours.binary_search_by_key(&machine, |neighbour| neighbour.machine)
    }

    fn neighbour(&mut self, machine: Machine) -> Option<&mut Neighbour> {
        let place = self.place(machine).ok()?;
        self.neighbours.get_mut(place)
    }

    fn degree(&self) -> usize {
        self.neighbours.iter().filter(|neighbour| neighbour.in_mesh).count()
    }

    /// Neighbours in the mesh.
    pub fn members(&self) -> impl Iterator<Item = Machine> {
        self.neighbours.iter().filter(|neighbour| neighbour.in_mesh).map(|neighbour| neighbour.machine)
    }

    /// Whether the message is known.
    pub fn has_seen(&self, message: Message) -> bool {
        self.seen.contains(message) || self.seen_before.contains(message)
    }

    fn see(&mut self, message: Message, now_ms: u64) {
        if now_ms >= self.generation_ms + DUPLICATES_MS {
            self.generation_ms = now_ms;
            self.seen_before = std::mem::take(&mut self.seen);
        }
        self.seen.insert(message);
    }

    /// A connection stands.
    pub fn connected(&mut self, machine: Machine, outbound: bool, out: &mut Outbox) {
        if let Err(place) = self.place(machine) {
            let neighbour = Neighbour {
                machine,
                outbound,
                subscribed: false,
                in_mesh: false,
                backoff_until_ms: 0,
                ihaves: 0,
                asked: 0,
                unwanted: Vec::new(),
            };
            self.neighbours.insert(place, neighbour);
        }
        out.push((machine, Frame::Subscribe));
    }

    /// A connection is gone.
    pub fn gone(&mut self, machine: Machine) {
        if let Ok(place) = self.place(machine) {
            self.neighbours.remove(place);
        }
    }

    /// A frame of a neighbour. Returns the message that wants a verdict, if it carried one that was not seen before.
    pub fn receive(
        &mut self,
        from: Machine,
        frame: &Frame,
        size: &dyn Fn(Message) -> usize,
        now_ms: u64,
        random: &mut Xoshiro256PlusPlus,
        out: &mut Outbox,
    ) -> Option<Message> {
        match frame {
            Frame::Publish(message) => return self.published(from, *message, size, now_ms, out),
            Frame::Subscribe => self.subscribed(from, now_ms, out),
            Frame::Graft => self.grafted(from, now_ms, out),
            Frame::Prune => {
                if let Some(neighbour) = self.neighbour(from) {
                    neighbour.in_mesh = false;
                    neighbour.backoff_until_ms = now_ms + BACKOFF_MS;
                }
            }
            Frame::IHave(messages) => self.announced(from, messages, now_ms, random, out),
            Frame::IWant(messages) => self.wanted(from, messages, out),
            Frame::IDontWant(messages) => {
                if let Some(neighbour) = self.neighbour(from) {
                    neighbour.unwanted.extend_from_slice(messages);
                    neighbour.unwanted.truncate(IDS_MAX);
                }
            }
        }
        None
    }

    fn published(
        &mut self,
        from: Machine,
        message: Message,
        size: &dyn Fn(Message) -> usize,
        now_ms: u64,
        out: &mut Outbox,
    ) -> Option<Message> {
        if self.has_seen(message) {
            if let Some((_, sources)) = self.unvalidated.iter_mut().find(|(waiting, _)| *waiting == message) {
                sources.push(from);
            }
            return None;
        }
        if size(message) > IDONTWANT_BYTES {
            let unwanted: Rc<[Message]> = Rc::from([message]);
            let members = self.members().filter(|member| *member != from);
            out.extend(members.map(|member| (member, Frame::IDontWant(unwanted.clone()))));
        }
        self.see(message, now_ms);
        self.promises.remove(&message);
        self.unvalidated.push((message, vec![from]));
        Some(message)
    }

    fn subscribed(&mut self, from: Machine, now_ms: u64, out: &mut Outbox) {
        let low = self.degree() < MESH_LOW;
        let Some(neighbour) = self.neighbour(from) else { return };
        neighbour.subscribed = true;
        if low && !neighbour.in_mesh && neighbour.backoff_until_ms + HEARTBEAT_MS <= now_ms.max(HEARTBEAT_MS) {
            neighbour.in_mesh = true;
            out.push((from, Frame::Graft));
        }
    }

    fn grafted(&mut self, from: Machine, now_ms: u64, out: &mut Outbox) {
        let is_high = self.degree() >= MESH_HIGH;
        let Some(neighbour) = self.neighbour(from) else { return };
        if neighbour.in_mesh {
            return;
        }
        if neighbour.backoff_until_ms > now_ms {
            neighbour.backoff_until_ms = now_ms + BACKOFF_MS;
            return out.push((from, Frame::Prune));
        }
        if !neighbour.subscribed {
            return;
        }
        if is_high && !neighbour.outbound {
            neighbour.backoff_until_ms = now_ms + BACKOFF_MS;
            return out.push((from, Frame::Prune));
        }
        neighbour.in_mesh = true;
    }

    fn announced(
        &mut self,
        from: Machine,
        messages: &[Message],
        now_ms: u64,
        random: &mut Xoshiro256PlusPlus,
        out: &mut Outbox,
    ) {
        let Some(neighbour) = self.neighbour(from) else { return };
        neighbour.ihaves += 1;
        let room = IDS_MAX.saturating_sub(neighbour.asked);
        if neighbour.ihaves > IHAVES_MAX || room == 0 {
            return;
        }
        let missing: Vec<Message> = messages
            .iter()
            .copied()
            .filter(|message| !self.has_seen(*message) && !self.promises.contains_key(message))
            .collect();
        if missing.is_empty() {
            return;
        }
        let asked = sample(random, &missing, room);
        if let Some(neighbour) = self.neighbour(from) {
            neighbour.asked += asked.len();
        }
        self.promises.extend(asked.iter().map(|message| (*message, now_ms + PROMISE_MS)));
        out.push((from, Frame::IWant(asked.into())));
    }

    fn wanted(&mut self, from: Machine, messages: &[Message], out: &mut Outbox) {
        for message in messages.iter().take(IDS_MAX) {
            if !self.history.iter().any(|window| window.contains(message)) {
                continue;
            }
            let sent = self.sent.entry((*message, from)).or_default();
            *sent = sent.saturating_add(1);
            let unwanted = *sent > RETRANSMISSIONS;
            if !unwanted && self.neighbour(from).is_some_and(|neighbour| !neighbour.unwanted.contains(message)) {
                out.push((from, Frame::Publish(*message)));
            }
        }
    }

    /// The verdict on a message that [`Mesh::receive`] returned. What is accepted goes to the mesh, less those it came from.
    pub fn validated(&mut self, message: Message, verdict: Verdict, out: &mut Outbox) {
        let Some(place) = self.unvalidated.iter().position(|(waiting, _)| *waiting == message) else { return };
        let (_, sources) = self.unvalidated.swap_remove(place);
        if verdict != Verdict::Accept {
            return;
        }
        self.remember(message);
        let takers = self.neighbours.iter().filter(|neighbour| {
            neighbour.in_mesh && !sources.contains(&neighbour.machine) && !neighbour.unwanted.contains(&message)
        });
        out.extend(takers.map(|neighbour| (neighbour.machine, Frame::Publish(message))));
    }

    fn remember(&mut self, message: Message) {
        if let Some(newest) = self.history.front_mut() {
            newest.push(message);
        }
    }

    /// An own message goes to every subscribed neighbour (flood publishing). False if there is none.
    pub fn publish(&mut self, message: Message, now_ms: u64, out: &mut Outbox) -> bool {
        if self.has_seen(message) {
            return true;
        }
        if !self.neighbours.iter().any(|neighbour| neighbour.subscribed) {
            return false;
        }
        self.see(message, now_ms);
        self.remember(message);
        let takers = self.neighbours.iter().filter(|neighbour| neighbour.subscribed);
        out.extend(takers.map(|neighbour| (neighbour.machine, Frame::Publish(message))));
        true
    }

    /// Every [`HEARTBEAT_MS`].
    pub fn heartbeat(&mut self, now_ms: u64, random: &mut Xoshiro256PlusPlus, out: &mut Outbox) {
        for neighbour in &mut self.neighbours {
            (neighbour.ihaves, neighbour.asked) = (0, 0);
            neighbour.unwanted.clear();
        }
        self.promises.retain(|_, until_ms| *until_ms > now_ms);
        self.graft(now_ms, random, out);
        self.prune(now_ms, random, out);
        self.graft_outbound(now_ms, random, out);
        self.announce(random, out);
        self.history.push_front(Vec::new());
        if self.history.len() > HISTORY {
            self.history.pop_back();
            let oldest = self.history.iter().flatten().min().copied().unwrap_or(Message::MAX);
            self.sent.retain(|(message, _), _| *message >= oldest);
        }
    }

    /// Puts up to `count` more neighbours into the mesh.
    fn graft_some(
        &mut self,
        count: usize,
        outbound_only: bool,
        now_ms: u64,
        random: &mut Xoshiro256PlusPlus,
        out: &mut Outbox,
    ) {
        let may = |neighbour: &&Neighbour| {
            let backs_off = neighbour.backoff_until_ms > 0 && neighbour.backoff_until_ms + HEARTBEAT_MS > now_ms;
            neighbour.subscribed && !neighbour.in_mesh && !backs_off && (neighbour.outbound || !outbound_only)
        };
        let pool: Vec<Machine> = self.neighbours.iter().filter(may).map(|neighbour| neighbour.machine).collect();
        for machine in sample(random, &pool, count) {
            if let Some(neighbour) = self.neighbour(machine) {
                neighbour.in_mesh = true;
                out.push((machine, Frame::Graft));
            }
        }
    }

    fn graft(&mut self, now_ms: u64, random: &mut Xoshiro256PlusPlus, out: &mut Outbox) {
        let degree = self.degree();
        if degree < MESH_LOW {
            self.graft_some(MESH - degree, false, now_ms, random, out);
        }
    }

    fn graft_outbound(&mut self, now_ms: u64, random: &mut Xoshiro256PlusPlus, out: &mut Outbox) {
        let outbound = self.neighbours.iter().filter(|neighbour| neighbour.in_mesh && neighbour.outbound).count();
        if self.degree() >= MESH_LOW && outbound < OUTBOUND_MIN {
            self.graft_some(OUTBOUND_MIN - outbound, true, now_ms, random, out);
        }
    }

    fn prune(&mut self, now_ms: u64, random: &mut Xoshiro256PlusPlus, out: &mut Outbox) {
        let members: Vec<Machine> = self.members().collect();
        if members.len() < MESH_HIGH {
            return;
        }
        let mut excess = members.len() - MESH;
        let mut outbound = self.neighbours.iter().filter(|neighbour| neighbour.in_mesh && neighbour.outbound).count();
        for machine in sample(random, &members, members.len()) {
            let Some(neighbour) = self.neighbour(machine).filter(|_| excess > 0) else { continue };
            if neighbour.outbound {
                if outbound <= OUTBOUND_MIN {
                    continue;
                }
                outbound -= 1;
            }
            excess -= 1;
            neighbour.in_mesh = false;
            neighbour.backoff_until_ms = now_ms + BACKOFF_MS;
            out.push((machine, Frame::Prune));
        }
    }

    fn announce(&self, random: &mut Xoshiro256PlusPlus, out: &mut Outbox) {
        let known: Vec<Message> = self.history.iter().take(ANNOUNCED).flatten().copied().collect();
        if known.is_empty() {
            return;
        }
        let outside = self.neighbours.iter().filter(|neighbour| neighbour.subscribed && !neighbour.in_mesh);
        let outside: Vec<Machine> = outside.map(|neighbour| neighbour.machine).collect();
        let count = LAZY.max((LAZY_SHARE * outside.len() as f64) as usize);
        let all: Rc<[Message]> = known.into();
        for machine in sample(random, &outside, count) {
            let told = if all.len() > IDS_MAX { sample(random, &all, IDS_MAX).into() } else { all.clone() };
            out.push((machine, Frame::IHave(told)));
        }
    }
}

/// Bytes of the topic's name.
const TOPIC: usize = 8;
/// Bytes of a message id.
const ID: usize = 16;
/// Bytes of the yamux header and of the noise frame around every write.
const STREAM: usize = 12 + 18;

/// Bytes of a length-delimited protobuf field with a tag below 16.
fn field(content: usize) -> usize {
    let varint = 1 + (usize::BITS - content.leading_zeros()).saturating_sub(1) as usize / 7;
    1 + varint + content
}

/// Bytes of a frame on the socket: the protobuf of gossipsub's RPC with its length, multiplexed and encrypted.
pub fn frame_bytes(frame: &Frame, size: &dyn Fn(Message) -> usize) -> usize {
    let topic = field(TOPIC);
    let ids = |messages: &[Message]| messages.len() * field(ID);
    let rpc = match frame {
        Frame::Subscribe => field(2 + topic),
        Frame::Publish(message) => field(field(size(*message)) + topic),
        Frame::IHave(messages) => field(field(topic + ids(messages))),
        Frame::IWant(messages) | Frame::IDontWant(messages) => field(field(ids(messages))),
        Frame::Graft => field(field(topic)),
        // Backoff in seconds: a tag and one byte.
        Frame::Prune => field(field(topic + 2)),
    };
    // The length in front is a varint like a field's, without the tag.
    STREAM + field(rpc) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_xoshiro::rand_core::SeedableRng;

    /// Machines that are all connected with their next few, driven in rounds.
    struct Ring {
        meshes: Vec<Mesh>,
        random: Xoshiro256PlusPlus,
        now_ms: u64,
        got: Vec<Vec<Message>>,
        publishes: usize,
    }

    impl Ring {
        fn new(machines: u32, neighbours: u32) -> Self {
            let meshes = (0..machines).map(|_| Mesh::new()).collect();
            let random = Xoshiro256PlusPlus::seed_from_u64(1);
            let got = vec![Vec::new(); machines as usize];
            let mut ring = Self { meshes, random, now_ms: 0, got, publishes: 0 };
            for a in 0..machines {
                for b in (1..=neighbours).map(|step| (a + step) % machines) {
                    let mut out = Vec::new();
                    ring.meshes[a as usize].connected(b, true, &mut out);
                    ring.carry(a, out, &|_, _| false);
                    let mut out = Vec::new();
                    ring.meshes[b as usize].connected(a, false, &mut out);
                    ring.carry(b, out, &|_, _| false);
                }
            }
            // A subscription that came before the other side was connected is lost here: say it again.
            for a in 0..machines {
                for b in 0..machines {
                    if ring.meshes[a as usize].place(b).is_ok() {
                        ring.carry(a, vec![(b, Frame::Subscribe)], &|_, _| false);
                    }
                }
            }
            ring
        }

        /// Delivers until nothing is left to be said, except what `loses` takes.
        fn carry(&mut self, from: Machine, out: Outbox, loses: &dyn Fn(Machine, &Frame) -> bool) {
            let mut waiting: VecDeque<(Machine, Machine, Frame)> =
                out.into_iter().map(|(to, frame)| (from, to, frame)).collect();
            while let Some((from, to, frame)) = waiting.pop_front() {
                if loses(to, &frame) {
                    continue;
                }
                self.publishes += usize::from(matches!(frame, Frame::Publish(_)));
                let mut out = Vec::new();
                let mesh = &mut self.meshes[to as usize];
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
                self.carry(machine, out, &|_, _| false);
            }
        }
    }

    #[test]
    fn a_message_reaches_everyone_once_and_costs_about_the_degree_of_the_mesh() {
        let mut ring = Ring::new(50, 10);
        (0..5).for_each(|_| ring.beat());
        ring.publishes = 0;
        let mut out = Vec::new();
        assert!(ring.meshes[7].publish(0, ring.now_ms, &mut out));
        assert_eq!(out.len(), 20, "an own message goes to all neighbours");
        ring.carry(7, out, &|_, _| false);
        for (machine, got) in ring.got.iter().enumerate() {
            assert_eq!(got.len(), usize::from(machine != 7), "machine {machine}");
        }
        assert!((3..=11).contains(&(ring.publishes / 50)), "{} frames for 50 machines", ring.publishes);
    }

    #[test]
    fn degrees_stay_within_their_marks() {
        let mut ring = Ring::new(60, 20);
        (0..20).for_each(|_| ring.beat());
        for mesh in &ring.meshes {
            assert!((MESH_LOW..=MESH_HIGH).contains(&mesh.degree()), "{}", mesh.degree());
        }
    }

    #[test]
    fn what_the_mesh_lost_is_announced_and_asked_for() {
        let mut ring = Ring::new(30, 12);
        (0..3).for_each(|_| ring.beat());
        let mut out = Vec::new();
        ring.meshes[0].publish(0, ring.now_ms, &mut out);
        ring.carry(0, out, &|to, frame| to == 9 && matches!(frame, Frame::Publish(_)));
        assert!(ring.got[9].is_empty());
        (0..3).for_each(|_| ring.beat());
        assert_eq!(ring.got[9], [0]);
    }

    #[test]
    fn who_was_pruned_is_not_grafted_before_a_minute_is_over() {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let mut mesh = Mesh::new();
        let mut out = Vec::new();
        mesh.connected(1, true, &mut out);
        mesh.receive(1, &Frame::Subscribe, &|_| 0, 0, &mut random, &mut out);
        assert_eq!(out.pop(), Some((1, Frame::Graft)));
        mesh.receive(1, &Frame::Prune, &|_| 0, 0, &mut random, &mut out);
        out.clear();
        for now_ms in (0..60_000).step_by(700) {
            mesh.heartbeat(now_ms, &mut random, &mut out);
        }
        assert!(out.is_empty(), "{out:?}");
        mesh.heartbeat(61_000, &mut random, &mut out);
        assert_eq!(out, [(1, Frame::Graft)]);
    }

    #[test]
    fn a_machine_without_listeners_cannot_publish() {
        let (mut mesh, mut out) = (Mesh::new(), Vec::new());
        assert!(!mesh.publish(0, 0, &mut out) && out.is_empty());
    }

    #[test]
    fn frames_have_the_size_of_their_protobuf() {
        let size = |content: usize| frame_bytes(&Frame::Publish(0), &|_| content);
        // data: 1 + 1 + 100; topic: 1 + 1 + 8; message: 1 + 1 + 112; length: 1
        assert_eq!(size(100), 30 + 1 + 2 + 102 + 10);
        // data: 1 + 2 + 200; topic: 10; message: 1 + 2 + 213; length: 2
        assert_eq!(size(200), 30 + 2 + 3 + 203 + 10);
        let ids: Rc<[Message]> = Rc::from([1, 2]);
        let control = |frame: &Frame| frame_bytes(frame, &|_| 0);
        assert_eq!(control(&Frame::IHave(ids.clone())), 30 + 1 + 2 + 2 + 10 + 36);
        assert_eq!(control(&Frame::IWant(ids)), 30 + 1 + 2 + 2 + 36);
        assert_eq!(control(&Frame::Graft), 30 + 1 + 2 + 2 + 10);
        assert_eq!(control(&Frame::Prune), 30 + 1 + 2 + 2 + 12);
        assert_eq!(control(&Frame::Subscribe), 30 + 1 + 2 + 12);
    }
}
