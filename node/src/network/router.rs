//! What the router of a home says when it is asked to pass a port on to this machine (UPnP; the cargo feature `upnp`).

use libp2p::Multiaddr;
#[cfg(feature = "upnp")]
use libp2p::multiaddr::Protocol;
#[cfg(feature = "upnp")]
use std::time::{Duration, Instant};

#[cfg(feature = "upnp")]
use super::address::is_relayed;

/// A router that was found and has passed nothing on for so long refuses.
#[cfg(feature = "upnp")]
const PATIENCE: Duration = Duration::from_secs(20);
/// A router that passes nothing on is asked again after so long: it may think otherwise, be another by now, or have
/// missed the question. The pause doubles up to the last.
#[cfg(feature = "upnp")]
const AGAIN_FIRST: Duration = Duration::from_secs(60);
#[cfg(feature = "upnp")]
const AGAIN_LAST: Duration = Duration::from_secs(600);

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RouterAnswer {
    /// It passes a port on: others can call this machine here.
    Passes(Multiaddr),
    /// It did, and does no more.
    PassesNoMore(Multiaddr),
    /// It takes questions, and passes nothing on.
    Refuses,
    /// It is behind another router itself: nobody outside can call it.
    IsInside,
    /// No router here takes questions.
    Silent,
}

/// A port that it passes on.
#[cfg(feature = "upnp")]
struct Port {
    /// To this address of this machine.
    local: Multiaddr,
    /// Others call it there.
    outside: Multiaddr,
    /// It said so since it was asked last.
    is_confirmed: bool,
    /// It may have taken it back since then.
    is_doubtful: bool,
}

/// Whether it is asked, and what it said last.
#[derive(Default)]
pub struct Router {
    #[cfg(feature = "upnp")]
    asked: Option<Instant>,
    /// It was asked, and has not answered yet.
    waits: bool,
    answer: Option<RouterAnswer>,
    /// Why it passes nothing on, as far as that was told since it last passed something on.
    #[cfg(feature = "upnp")]
    told: Vec<RouterAnswer>,
    #[cfg(feature = "upnp")]
    ports: Vec<Port>,
    /// How often it was asked again since it last passed something on.
    #[cfg(feature = "upnp")]
    asked_again: u32,
    /// This machine's addresses at home when it was asked, as long as they stay.
    #[cfg(feature = "upnp")]
    homes: Option<Vec<Multiaddr>>,
}

impl Router {
    /// What it said last.
    pub fn answer(&self) -> Option<&RouterAnswer> {
        self.answer.as_ref()
    }

    /// Whether something is still to come.
    pub fn is_waited_for(&self) -> bool {
        self.waits
    }
}

/// Those of `listeners` that are a home's: only of these are ports asked for.
#[cfg(feature = "upnp")]
pub fn homes(listeners: &[Multiaddr]) -> Vec<Multiaddr> {
    listeners.iter().filter(|address| is_of_home(address) && !is_relayed(address)).cloned().collect()
}

#[cfg(feature = "upnp")]
fn is_of_home(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Ip4(ip)) if ip.is_private())
}

#[cfg(feature = "upnp")]
impl Router {
    /// A router is asked from now on, or none is.
    pub fn new(is_asked: bool) -> Self {
        Self { asked: is_asked.then(Instant::now), waits: is_asked, ..Self::default() }
    }

    /// It is asked once more, by a machine that listens there.
    pub fn ask_again(&mut self, listeners: &[Multiaddr]) {
        (self.asked, self.waits, self.homes) = (Some(Instant::now()), true, Some(homes(listeners)));
        self.ports.iter_mut().for_each(|port| (port.is_confirmed, port.is_doubtful) = (false, false));
        self.asked_again = self.asked_again.saturating_add(1);
    }

    /// How long after a question the next one follows, where it passes nothing on.
    fn pause(&self) -> Duration {
        AGAIN_FIRST.saturating_mul(1 << self.asked_again.saturating_sub(1).min(10)).min(AGAIN_LAST)
    }

    /// This machine slept. A router keeps a port for an hour or so, and what renews it slept, too.
    pub fn woke(&mut self) {
        self.ports.iter_mut().for_each(|port| port.is_doubtful = true);
    }

    /// This machine listens at `gone` no more. libp2p tells ports by their numbers, and has given back whichever has
    /// this one: a container's bridge takes the home's port with it.
    pub fn left(&mut self, gone: &Multiaddr) {
        let is_same = |port: &&mut Port| is_of_home(gone) && port.local.iter().nth(1) == gone.iter().nth(1);
        self.ports.iter_mut().filter(is_same).for_each(|port| port.is_doubtful = true);
    }

    /// This machine is seen elsewhere than there. Not so soon after a question: the router has just said so.
    pub fn doubt(&mut self, outside: &[Multiaddr]) {
        if self.asked.is_some_and(|asked| asked.elapsed() >= AGAIN_LAST) {
            let ports = self.ports.iter_mut().filter(|port| outside.contains(&port.outside));
            ports.for_each(|port| port.is_doubtful = true);
        }
    }

    /// Whether to ask once more, now that this machine listens at `listeners`.
    pub fn is_due(&mut self, listeners: &[Multiaddr]) -> bool {
        let now_at = homes(listeners);
        // At the first look this machine is where it was when it began to ask.
        let asked_at = self.homes.get_or_insert_with(|| now_at.clone());
        asked_at.retain(|home| now_at.contains(home));
        // It was asked when this machine had left one home, and was not yet at another.
        let has_arrived = now_at.iter().any(|home| !asked_at.contains(home));
        match self.ports.is_empty() {
            // Another home has another router, whatever the last one said. It may never have answered: where this
            // machine had no home's address, it was asked for no port.
            true => self.asked.is_some_and(|asked| !self.waits && has_arrived || asked.elapsed() >= self.pause()),
            false => !self.lost(listeners).is_empty() || self.ports.iter().any(|port| port.is_doubtful),
        }
    }

    /// Where it passes ports on.
    pub fn outside(&self) -> Vec<Multiaddr> {
        self.outside_of(|_| true)
    }

    /// Likewise, to where this machine listens no more.
    pub fn lost(&self, listeners: &[Multiaddr]) -> Vec<Multiaddr> {
        self.outside_of(|port| !listeners.contains(&port.local))
    }

    /// Likewise, of which it has said nothing for so long after it was asked again that it does so no more.
    pub fn late(&self) -> Vec<Multiaddr> {
        let is_late = self.asked.is_some_and(|asked| asked.elapsed() >= PATIENCE);
        self.outside_of(|port| is_late && !port.is_confirmed)
    }

    fn outside_of(&self, is_one: impl Fn(&Port) -> bool) -> Vec<Multiaddr> {
        self.ports.iter().filter(|port| is_one(port)).map(|port| port.outside.clone()).collect()
    }

    /// It passes `outside` on to `local`, an address of this machine; None if that is nothing new.
    pub fn passes(&mut self, local: Multiaddr, outside: Multiaddr) -> Option<RouterAnswer> {
        let is_news = !self.outside().contains(&outside);
        (self.waits, self.asked_again) = (false, 0);
        self.told.clear();
        self.ports.retain(|port| port.outside != outside);
        self.ports.push(Port { local, outside: outside.clone(), is_confirmed: true, is_doubtful: false });
        let answer = RouterAnswer::Passes(outside);
        self.answer = Some(answer.clone());
        is_news.then_some(answer)
    }

    /// It passes `outside` on no more; None if it did not.
    pub fn passes_no_more(&mut self, outside: &Multiaddr) -> Option<RouterAnswer> {
        let is_news = self.outside().contains(outside);
        self.waits = false;
        self.ports.retain(|port| port.outside != *outside);
        let answer = RouterAnswer::PassesNoMore(outside.clone());
        let other = self.outside().into_iter().next();
        self.answer = Some(other.map_or_else(|| answer.clone(), RouterAnswer::Passes));
        is_news.then_some(answer)
    }

    /// It passes nothing on, for this reason; None if that was told before.
    pub fn passes_nothing(&mut self, why: RouterAnswer) -> Option<RouterAnswer> {
        self.waits = false;
        self.answer = Some(why.clone());
        let is_news = !self.told.contains(&why);
        if is_news {
            self.told.push(why.clone());
        }
        is_news.then_some(why)
    }

    /// It has been silent for so long, though a port was asked for, that it refuses.
    pub fn refuses(&mut self) -> Option<RouterAnswer> {
        let is_late = self.waits && self.asked.is_some_and(|asked| asked.elapsed() >= PATIENCE);
        if is_late { self.passes_nothing(RouterAnswer::Refuses) } else { None }
    }
}

#[cfg(all(test, feature = "upnp"))]
mod tests {
    use super::*;

    const INSIDE: &str = "/ip4/192.168.1.7/tcp/9713";
    const OUTSIDE: &str = "/ip4/203.0.113.5/tcp/9713";

    fn at(address: &str) -> Multiaddr {
        address.parse().unwrap()
    }

    #[test]
    fn each_answer_is_news_once_and_a_router_that_says_nothing_refuses_once() {
        let mut router = Router::new(true);
        assert!(router.is_waited_for() && router.refuses().is_none());
        router.asked = Instant::now().checked_sub(PATIENCE);
        assert_eq!(router.refuses(), Some(RouterAnswer::Refuses));
        assert!(router.refuses().is_none() && !router.is_waited_for());
        assert_eq!(router.passes_nothing(RouterAnswer::Silent), Some(RouterAnswer::Silent));
        // A search that fails now and then is told once.
        assert_eq!(router.passes_nothing(RouterAnswer::Refuses), None);
        assert_eq!(router.passes_nothing(RouterAnswer::Silent), None);
        let passes = RouterAnswer::Passes(at(OUTSIDE));
        assert_eq!(router.passes(at(INSIDE), at(OUTSIDE)), Some(passes.clone()));
        assert_eq!(router.passes(at(INSIDE), at(OUTSIDE)), None);
        assert_eq!(router.answer, Some(passes));
        assert!(router.passes_no_more(&at(OUTSIDE)).is_some() && router.passes_no_more(&at(OUTSIDE)).is_none());
        assert_eq!(router.passes_nothing(RouterAnswer::Silent), Some(RouterAnswer::Silent));
        assert!(Router::new(false).refuses().is_none() && !Router::new(false).is_waited_for());
    }

    /// Once it was asked but once, and a laptop that came home stayed behind its router.
    #[test]
    fn it_is_asked_again_where_this_machine_moved_and_after_a_while_where_it_passes_nothing_on() {
        let (mut router, home) = (Router::new(true), [at(INSIDE)]);
        assert!(!router.is_due(&home), "it is waited for");
        router.asked = Instant::now().checked_sub(AGAIN_LAST);
        assert!(router.is_due(&home), "it was waited for long enough");
        router.passes(at(INSIDE), at(OUTSIDE));
        router.asked = Instant::now().checked_sub(AGAIN_LAST);
        assert!(!router.is_due(&home) && router.is_due(&[]));
        router.passes_no_more(&at(OUTSIDE));
        assert!(router.is_due(&home));
        router.ask_again(&home);
        assert!(!router.is_due(&home) && router.is_waited_for());
        assert!(!Router::new(false).is_due(&home));
    }

    #[test]
    fn it_is_asked_again_as_soon_as_this_machine_is_home_though_none_was_there_before() {
        let (mut router, home) = (Router::new(true), [at(INSIDE)]);
        assert!(!router.is_due(&home));
        router.passes_nothing(RouterAnswer::Silent);
        assert!(!router.is_due(&home), "it was asked here");
        assert!(!router.is_due(&[]) && router.is_due(&home));
        router.ask_again(&[]);
        assert!(!router.is_due(&home), "it is waited for");
        router.passes_nothing(RouterAnswer::Silent);
        assert!(router.is_due(&home));
        router.ask_again(&home);
        router.passes_nothing(RouterAnswer::Silent);
        assert!(!router.is_due(&home));
    }

    /// A laptop that came home from a café, whose router passed nothing on, stayed behind its own for ten minutes.
    #[test]
    fn it_is_asked_at_once_in_another_home_whatever_the_last_router_said() {
        for answer in [RouterAnswer::IsInside, RouterAnswer::Refuses, RouterAnswer::Silent] {
            let (mut router, cafe, home) = (Router::new(true), [at("/ip4/10.1.2.3/tcp/9713")], [at(INSIDE)]);
            assert!(!router.is_due(&cafe));
            router.passes_nothing(answer.clone());
            assert!(!router.is_due(&cafe), "{answer:?}: it is the same router");
            assert!(router.is_due(&home), "{answer:?}");
            router.ask_again(&home);
            router.passes_nothing(answer.clone());
            assert!(!router.is_due(&home) && router.is_due(&cafe), "{answer:?}");
        }
    }

    #[test]
    fn it_is_asked_again_once_another_address_of_a_home_took_the_port_with_it() {
        let (mut router, home) = (Router::new(true), [at(INSIDE)]);
        router.passes(at(INSIDE), at(OUTSIDE));
        for other in ["/ip6/fd00::7/tcp/9713", "/ip4/172.17.0.1/tcp/9714", "/ip4/172.17.0.1/udp/9713/quic-v1"] {
            router.left(&at(other));
            assert!(!router.is_due(&home), "{other}");
        }
        router.left(&at("/ip4/172.17.0.1/tcp/9713"));
        assert!(router.is_due(&home) && router.outside() == [at(OUTSIDE)], "it is missed for a moment only");
        router.ask_again(&home);
        assert!(!router.is_due(&home));
    }

    /// A router forgot the port of a machine that slept for a night, which took itself to be reachable all the same.
    #[test]
    fn it_is_asked_again_when_this_machine_wakes() {
        let (mut router, home) = (Router::new(true), [at(INSIDE)]);
        router.passes(at(INSIDE), at(OUTSIDE));
        assert!(!router.is_due(&home));
        router.woke();
        assert!(router.is_due(&home) && router.outside() == [at(OUTSIDE)], "it may pass it on still");
        router.ask_again(&home);
        assert!(!router.is_due(&home));
    }

    /// Where the provider gave the router another address, the port of the old one was kept for good.
    #[test]
    fn it_is_asked_again_where_this_machine_is_seen_elsewhere_now_and_then() {
        let (mut router, home) = (Router::new(true), [at(INSIDE)]);
        router.passes(at(INSIDE), at(OUTSIDE));
        router.doubt(&[at(OUTSIDE)]);
        assert!(!router.is_due(&home), "it has just said so");
        router.asked = Instant::now().checked_sub(AGAIN_LAST);
        router.doubt(&[at("/ip4/203.0.113.6/tcp/9713")]);
        assert!(!router.is_due(&home));
        router.doubt(&[at(OUTSIDE)]);
        assert!(router.is_due(&home));
    }

    /// One question that got lost cost ten minutes.
    #[test]
    fn pauses_between_questions_in_vain_double_up_to_a_limit_and_start_over() {
        let mut router = Router::new(true);
        let pauses = |router: &mut Router| -> Vec<u64> {
            let ask = |_| {
                router.ask_again(&[]);
                router.pause().as_secs()
            };
            (0..6).map(ask).collect()
        };
        assert_eq!(router.pause(), AGAIN_FIRST);
        assert_eq!(pauses(&mut router), [60, 120, 240, 480, 600, 600]);
        router.passes(at(INSIDE), at(OUTSIDE));
        assert_eq!(pauses(&mut router)[0], 60);
        (0..100).for_each(|_| router.ask_again(&[]));
        assert_eq!(router.pause(), AGAIN_LAST);
    }

    #[test]
    fn of_two_ports_each_is_lost_by_itself() {
        let quic = ["/ip4/192.168.1.8/udp/9713/quic-v1", "/ip4/203.0.113.5/udp/9713/quic-v1"].map(at);
        let mut router = Router::new(true);
        router.passes(at(INSIDE), at(OUTSIDE));
        router.passes(quic[0].clone(), quic[1].clone());
        assert!(!router.is_due(&[at(INSIDE), quic[0].clone()]));
        assert!(router.is_due(&[at(INSIDE)]));
        assert_eq!(router.lost(&[at(INSIDE)]), [quic[1].clone()]);
        assert_eq!(router.passes_no_more(&quic[1]), Some(RouterAnswer::PassesNoMore(quic[1].clone())));
        assert_eq!((router.answer(), router.outside()), (Some(&RouterAnswer::Passes(at(OUTSIDE))), vec![at(OUTSIDE)]));
        router.ask_again(&[at(INSIDE)]);
        assert!(router.late().is_empty());
        router.asked = Instant::now().checked_sub(PATIENCE);
        assert_eq!(router.late(), [at(OUTSIDE)]);
        assert_eq!(router.passes(at(INSIDE), at(OUTSIDE)), None);
        assert!(router.late().is_empty());
    }
}
