//! Which relays this node is reached through, as long as nobody can call it directly.
//!
//! Every node that can be reached relays for others, so that there is no special machine to lose. A node that cannot be
//! reached keeps a reservation at more than one of them, those that people named first, and takes others when some go.

use libp2p::{Multiaddr, PeerId, core::transport::ListenerId, multiaddr::Protocol, relay};
use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    time::{Duration, Instant},
};

use super::scope::{Scope, scope_of};

/// Reservations that a node keeps, beside those at relays that people named.
const RESERVATIONS: usize = 2;
/// A relay that refused, or went away, is asked again after this.
const RETRY: Duration = Duration::from_secs(20);
/// The same for those that people named, which may just be starting.
const RETRY_NAMED: Duration = Duration::from_secs(4);
/// A relay that was asked for so long, and has named no address that could be called, is of no use.
const GRANT_MAX: Duration = Duration::from_secs(90);
/// Nor is one whose reservations are to be renewed so soon: it would be asked again as fast as it answers.
const RENEWAL_MIN: Duration = Duration::from_secs(30);
/// Relays that are remembered, and those that are of no use.
const KNOWN_MAX: usize = 64;

/// Bytes of one circuit, both ways together: gradients of hours, and no base model. It is opened anew after that.
const CIRCUIT_BYTES_MAX: u64 = 16 << 20;
/// A circuit lasts this long, then it is opened anew.
const CIRCUIT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Circuits that one node, and one address, may open at once; each gets one more a minute.
const CIRCUITS_AT_ONCE: u32 = 32;
const CIRCUITS_AT_ONCE_PER_IP: u32 = 256;
const CIRCUIT_EACH: Duration = Duration::from_secs(60);
/// A reservation lasts as long as its connection: a hundred years. Its end is a time of day, and a machine whose clock
/// is ahead of it takes the reservation for none; and libp2p's relay panics where one that ends is being renewed.
const RESERVATION: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
/// Who has a reservation here gets so long to say of which run it is.
pub const STRANGER_MAX: Duration = Duration::from_secs(10);

/// What this node relays for others: a trainer beside its own work, or one that does nothing else.
pub fn limits(relays_only: bool) -> relay::Config {
    let (reservations, circuits) = if relays_only { (1_024, 4_096) } else { (128, 512) };
    let rate = |number: u32| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    let config = relay::Config {
        max_reservations: reservations,
        max_reservations_per_peer: 4,
        reservation_duration: RESERVATION,
        reservation_rate_limiters: Vec::new(),
        max_circuits: circuits,
        max_circuits_per_peer: 64,
        max_circuit_duration: CIRCUIT_MAX,
        max_circuit_bytes: CIRCUIT_BYTES_MAX,
        circuit_src_rate_limiters: Vec::new(),
    };
    config
        .reservation_rate_per_peer(rate(CIRCUITS_AT_ONCE), CIRCUIT_EACH)
        .reservation_rate_per_ip(rate(CIRCUITS_AT_ONCE_PER_IP), CIRCUIT_EACH)
        .circuit_src_per_peer(rate(CIRCUITS_AT_ONCE), CIRCUIT_EACH)
        .circuit_src_per_ip(rate(CIRCUITS_AT_ONCE_PER_IP), CIRCUIT_EACH)
}

/// What goes through this node as a relay.
#[derive(Default)]
pub struct Relaying {
    /// And since when.
    reservations: HashMap<PeerId, Instant>,
    circuits: usize,
}

impl Relaying {
    /// Takes note of what the relay did. `is_connected`: whether the machine that it did it for is.
    pub fn note(&mut self, event: &relay::Event, is_connected: impl Fn(&PeerId) -> bool, now: Instant) {
        match event {
            relay::Event::ReservationReqAccepted { src_peer_id, .. } => {
                self.reservations.entry(*src_peer_id).or_insert(now);
            }
            // It says so of every connection that ends, whether or not that was the one with the reservation.
            relay::Event::ReservationClosed { src_peer_id } if !is_connected(src_peer_id) => {
                self.reservations.remove(src_peer_id);
            }
            relay::Event::CircuitReqAccepted { .. } => self.circuits += 1,
            relay::Event::CircuitClosed { .. } => self.circuits = self.circuits.saturating_sub(1),
            _ => {}
        }
    }

    /// Who has a reservation, and has not said for long that it is of the run that is relayed for.
    pub fn strangers(&self, of_run: &HashSet<PeerId>, now: Instant) -> Vec<PeerId> {
        let is_stranger = |peer: &PeerId, since: Instant| {
            !of_run.contains(peer) && now.saturating_duration_since(since) >= STRANGER_MAX
        };
        self.reservations.iter().filter(|(peer, since)| is_stranger(peer, **since)).map(|(peer, _)| *peer).collect()
    }

    /// Machines with a reservation, and circuits.
    pub fn counts(&self) -> (usize, usize) {
        (self.reservations.len(), self.circuits)
    }
}

/// A node that relays.
struct Known {
    /// Where it is called, without its peer id.
    address: Multiaddr,
    is_named: bool,
    /// Not asked before this.
    rests_until: Option<Instant>,
}

impl Known {
    /// Where a machine with a reservation is reached through it.
    fn circuit(&self, relay: PeerId) -> Multiaddr {
        self.address.clone().with(Protocol::P2p(relay)).with(Protocol::P2pCircuit)
    }
}

/// A reservation, or the question for one.
struct Reservation {
    relay: PeerId,
    /// Where this node is reached through it, once it is granted.
    address: Option<Multiaddr>,
    /// When it was asked for, or renewed last.
    since: Instant,
    /// Whether the relay still relays, by its own word. One that cannot be called any more keeps the reservation, and
    /// lets nobody through.
    is_of_use: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Relays {
    known: HashMap<PeerId, Known>,
    reservations: HashMap<ListenerId, Reservation>,
    /// Relays that people did not name, and that were of no use.
    useless: HashSet<PeerId>,
}

impl Relays {
    /// With those that people named.
    pub fn new(named: &[(PeerId, Multiaddr)]) -> Self {
        let known = named
            .iter()
            .map(|(peer, address)| (*peer, Known { address: address.clone(), is_named: true, rests_until: None }));
        Self { known: known.collect(), ..Self::default() }
    }

    /// How many relays are known.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// A connected node says whether it relays; `address`: where it was called or is.
    pub fn offers(&mut self, peer: PeerId, address: &Multiaddr, relays: bool) {
        // From nearer than the world nobody else could come through it who could not come directly.
        let is_useful = relays && scope_of(address) == Some(Scope::World) && !self.useless.contains(&peer);
        let has_room = self.known.len() < KNOWN_MAX;
        match self.known.get_mut(&peer) {
            Some(known) if known.is_named => {}
            Some(known) if is_useful => known.address = address.clone(),
            Some(_) => drop(self.known.remove(&peer)),
            None if is_useful && has_room => {
                let known = Known { address: address.clone(), is_named: false, rests_until: None };
                self.known.insert(peer, known);
            }
            None => {}
        }
    }

    /// A connected node says whether it relays now, wherever it is called.
    pub fn says(&mut self, peer: PeerId, relays: bool) {
        let reserved = self.reservations.values_mut().filter(|reservation| reservation.relay == peer);
        reserved.for_each(|reservation| reservation.is_of_use = relays);
    }

    /// The last connection to a node is gone.
    pub fn gone(&mut self, peer: &PeerId) {
        if self.known.get(peer).is_some_and(|known| !known.is_named) {
            self.known.remove(peer);
        }
    }

    /// Where to listen now: at relays that people named, and at as many others as are missing.
    pub fn wanted(&self, now: Instant) -> Vec<(PeerId, Multiaddr)> {
        let asked: HashSet<PeerId> = self.reservations.values().map(|reservation| reservation.relay).collect();
        let of_use = self.reservations.values().filter(|reservation| reservation.is_of_use).count();
        let missing = RESERVATIONS.saturating_sub(of_use);
        let is_free = |(peer, known): &(&PeerId, &Known)| {
            !asked.contains(*peer) && known.rests_until.is_none_or(|until| until <= now)
        };
        // Hash maps have an order of their own in every process: so nodes spread over the relays.
        let (named, others): (Vec<_>, Vec<_>) =
            self.known.iter().filter(is_free).partition(|(_, known)| known.is_named);
        let missing = missing.saturating_sub(named.len());
        let at = |(peer, known): (&PeerId, &Known)| (*peer, known.circuit(*peer));
        named.into_iter().chain(others.into_iter().take(missing)).map(at).collect()
    }

    /// A relay was asked.
    pub fn asked(&mut self, listener: ListenerId, relay: PeerId, now: Instant) {
        self.reservations.insert(listener, Reservation { relay, address: None, since: now, is_of_use: true });
    }

    /// A relay renewed a reservation. False if that was too soon: it is to be parted with.
    pub fn renewed(&mut self, relay: PeerId, now: Instant) -> bool {
        let Some(reservation) = self.reservations.values_mut().find(|known| known.relay == relay) else { return true };
        let before = std::mem::replace(&mut reservation.since, now);
        let is_sound = now.saturating_duration_since(before) >= RENEWAL_MIN;
        if !is_sound {
            self.give_up(relay);
        }
        is_sound
    }

    /// Relays that have named no address that could be called: to be parted with.
    pub fn take_overdue(&mut self, now: Instant) -> Vec<PeerId> {
        let is_overdue = |reservation: &&mut Reservation| {
            reservation.address.is_none() && now.saturating_duration_since(reservation.since) >= GRANT_MAX
        };
        let mut overdue = Vec::new();
        for reservation in self.reservations.values_mut().filter(is_overdue) {
            // Its listener ends with the connection.
            reservation.since = now;
            overdue.push(reservation.relay);
        }
        overdue.iter().for_each(|relay| self.give_up(*relay));
        overdue
    }

    /// The relay is of no use: unless people named it, it is not asked again.
    pub fn give_up(&mut self, relay: PeerId) {
        if self.known.get(&relay).is_none_or(|known| !known.is_named) && self.useless.len() < KNOWN_MAX {
            self.useless.insert(relay);
        }
    }

    /// It could not even be asked.
    pub fn refused(&mut self, relay: &PeerId, now: Instant) {
        if let Some(known) = self.known.get_mut(relay) {
            known.rests_until = Some(now + if known.is_named { RETRY_NAMED } else { RETRY });
        }
    }

    /// A relay granted a reservation, and says that this node is reached at `address` now. False if the listener is
    /// none at a relay.
    pub fn granted(&mut self, listener: ListenerId, address: &Multiaddr) -> bool {
        let Some(reservation) = self.reservations.get_mut(&listener) else { return false };
        let called = self.known.get(&reservation.relay).map(|known| known.circuit(reservation.relay));
        reservation.address = match called {
            // What it lists beside where it was called is for those who are nearer to it. It may list nothing else: who
            // asks as the first from outside is answered before it knows its address there, and is not answered again.
            Some(called) if scope_of(address) < scope_of(&called) => reservation.address.take().or(Some(called)),
            _ => Some(address.clone()),
        };
        true
    }

    /// A reservation ended. Returns its relay, if it was granted before; None if there was none, or the relay refused.
    pub fn ended(&mut self, listener: ListenerId, now: Instant) -> Option<PeerId> {
        let reservation = self.reservations.remove(&listener)?;
        self.refused(&reservation.relay, now);
        reservation.address.map(|_| reservation.relay)
    }

    /// Whether a listener is one at a relay.
    pub fn has(&self, listener: ListenerId) -> bool {
        self.reservations.contains_key(&listener)
    }

    /// Where this node is reached through relays.
    pub fn addresses(&self) -> impl Iterator<Item = &Multiaddr> {
        let of_use = self.reservations.values().filter(|reservation| reservation.is_of_use);
        of_use.filter_map(|reservation| reservation.address.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    fn address(number: u8) -> Multiaddr {
        format!("/ip4/198.51.100.{number}/tcp/9713").parse().unwrap()
    }

    fn relays_of(wanted: Vec<(PeerId, Multiaddr)>) -> HashSet<PeerId> {
        wanted.into_iter().map(|(peer, _)| peer).collect()
    }

    #[test]
    fn more_than_one_relay_is_kept_and_another_takes_the_place_of_one_that_goes() {
        let (mut relays, now) = (Relays::default(), Instant::now());
        let peers: Vec<PeerId> = (0..4).map(|_| PeerId::random()).collect();
        for (number, peer) in peers.iter().enumerate() {
            relays.offers(*peer, &address(number as u8), true);
        }
        let first = relays.wanted(now);
        assert_eq!(first.len(), RESERVATIONS);
        let listeners: Vec<ListenerId> = first.iter().map(|_| ListenerId::next()).collect();
        for (listener, (peer, circuit)) in listeners.iter().zip(&first) {
            assert!(circuit.to_string().ends_with(&format!("/p2p/{peer}/p2p-circuit")));
            relays.asked(*listener, *peer, now);
            assert!(relays.granted(*listener, circuit));
        }
        assert!(relays.wanted(now).is_empty());
        assert_eq!(relays.addresses().count(), RESERVATIONS);
        assert_eq!(relays.ended(listeners[0], now), Some(first[0].0));
        let next = relays_of(relays.wanted(now));
        assert!(next.len() == 1 && !next.contains(&first[0].0) && !next.contains(&first[1].0));
        assert!(relays_of(relays.wanted(now + RETRY)).is_subset(&peers.iter().copied().collect()));
    }

    #[test]
    fn relays_that_people_named_are_always_asked_and_those_that_are_near_or_gone_are_not() {
        let (named, near, far) = (PeerId::random(), PeerId::random(), PeerId::random());
        let mut relays = Relays::new(&[(named, address(1))]);
        let now = Instant::now();
        relays.offers(near, &"/ip4/192.168.1.7/tcp/9713".parse().unwrap(), true);
        relays.offers(far, &address(2), true);
        assert_eq!(relays_of(relays.wanted(now)), HashSet::from([named, far]));
        relays.offers(far, &address(2), false);
        relays.gone(&named);
        assert_eq!(relays_of(relays.wanted(now)), HashSet::from([named]));
        relays.refused(&named, now);
        assert!(relays.wanted(now).is_empty());
        assert_eq!(relays_of(relays.wanted(now + RETRY_NAMED)), HashSet::from([named]));
    }

    /// Its reservation was renewed in vain once, which ended it; now that none ends it held the place of another.
    #[test]
    fn a_relay_that_relays_no_more_makes_room_for_another_until_it_does_again() {
        let (mut relays, now) = (Relays::default(), Instant::now());
        let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        for (number, peer) in (1..).zip(&peers[..2]) {
            let listener = ListenerId::next();
            relays.offers(*peer, &address(number), true);
            relays.asked(listener, *peer, now);
            assert!(relays.granted(listener, &address(number)));
        }
        relays.offers(peers[2], &address(3), true);
        assert!(relays.wanted(now).is_empty());
        relays.says(peers[0], false);
        relays.offers(peers[0], &address(1), false);
        assert_eq!(relays.addresses().collect::<Vec<_>>(), [&address(2)]);
        assert_eq!(relays_of(relays.wanted(now)), HashSet::from([peers[2]]));
        relays.says(peers[0], true);
        relays.offers(peers[0], &address(1), true);
        assert!(relays.wanted(now).is_empty() && relays.addresses().count() == 2);
    }

    /// The first machine that a relay behind a router heard from told others the relay's address at its home.
    #[test]
    fn this_machine_is_reached_where_a_relay_was_called_whatever_nearer_places_it_lists() {
        let (relay, listener, now) = (PeerId::random(), ListenerId::next(), Instant::now());
        let at = |host: &str| -> Multiaddr { format!("{host}/tcp/9713/p2p/{relay}/p2p-circuit").parse().unwrap() };
        let (near, called, other) = (at("/ip4/192.168.1.7"), at("/ip4/198.51.100.1"), at("/ip6/2001:db8::7"));
        let mut relays = Relays::new(&[(relay, address(1))]);
        relays.asked(listener, relay, now);
        assert!(relays.granted(listener, &near));
        assert_eq!(relays.addresses().collect::<Vec<_>>(), [&called]);
        for listed in [&other, &near] {
            assert!(relays.granted(listener, listed));
            assert_eq!(relays.addresses().collect::<Vec<_>>(), [&other]);
        }
    }

    /// With an hour, whose clock was ahead by more than that was not relayed.
    #[test]
    fn a_reservation_lasts_beyond_what_wrong_clocks_show() {
        let by_a_clock_that_was_never_set = SystemTime::UNIX_EPOCH + limits(false).reservation_duration;
        assert!(by_a_clock_that_was_never_set > SystemTime::now());
    }

    /// Trainers of an open run relayed for whoever came, and then for whoever came twice and closed one connection.
    #[test]
    fn who_has_a_reservation_says_soon_that_it_is_of_the_run() {
        let (mut relaying, now) = (Relaying::default(), Instant::now());
        let [member, stranger] = [(); 2].map(|()| PeerId::random());
        let accepted = |src_peer_id, renewed| relay::Event::ReservationReqAccepted { src_peer_id, renewed };
        let closed = relay::Event::ReservationClosed { src_peer_id: stranger };
        relaying.note(&accepted(member, false), |_| true, now);
        relaying.note(&accepted(stranger, false), |_| true, now);
        let of_run = HashSet::from([member]);
        assert!(relaying.strangers(&of_run, now).is_empty());
        let later = now + STRANGER_MAX;
        relaying.note(&accepted(stranger, true), |_| true, later);
        relaying.note(&closed, |_| true, later);
        assert_eq!(relaying.strangers(&of_run, later), [stranger]);
        relaying.note(&closed, |_| false, later);
        assert!(relaying.strangers(&of_run, later).is_empty() && relaying.counts() == (1, 0));
    }

    #[test]
    fn a_relay_that_names_no_address_or_is_to_be_asked_all_the_time_is_taken_no_more() {
        let now = Instant::now();
        let asked = || {
            let (mut relays, relay, listener) = (Relays::default(), PeerId::random(), ListenerId::next());
            relays.offers(relay, &address(1), true);
            relays.asked(listener, relay, now);
            (relays, relay, listener)
        };
        let (mut silent, relay, listener) = asked();
        assert!(silent.take_overdue(now).is_empty());
        assert_eq!(silent.take_overdue(now + GRANT_MAX), [relay]);
        assert!(silent.take_overdue(now + GRANT_MAX).is_empty(), "it is parted with once");
        assert_eq!(silent.ended(listener, now), None);
        let (mut hasty, other, listener) = asked();
        assert!(hasty.granted(listener, &address(1)) && hasty.take_overdue(now + GRANT_MAX).is_empty());
        assert!(hasty.renewed(other, now + RENEWAL_MIN) && !hasty.renewed(other, now + RENEWAL_MIN));
        assert!(hasty.renewed(PeerId::random(), now));
        assert_eq!(hasty.ended(listener, now), Some(other));
        for (mut relays, relay) in [(silent, relay), (hasty, other)] {
            relays.gone(&relay);
            relays.offers(relay, &address(1), true);
            assert!(relays.wanted(now + RETRY).is_empty());
        }
    }

    #[test]
    fn what_strangers_offer_is_bounded() {
        let mut relays = Relays::default();
        for _ in 0..10 * KNOWN_MAX {
            relays.offers(PeerId::random(), &address(3), true);
        }
        assert_eq!(relays.known.len(), KNOWN_MAX);
    }
}
