//! What the router of a home says when it is asked to pass a port on to this machine (UPnP; the cargo feature `upnp`).

use libp2p::Multiaddr;
#[cfg(feature = "upnp")]
use std::time::{Duration, Instant};

/// A router that was found and has passed nothing on for so long refuses.
#[cfg(feature = "upnp")]
const PATIENCE: Duration = Duration::from_secs(20);
/// A router that passes nothing on is asked again after so long: it may think otherwise, or be another by now.
#[cfg(feature = "upnp")]
const AGAIN: Duration = Duration::from_secs(600);

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

/// Whether it is asked, and what it said last.
#[derive(Default)]
pub struct Router {
    #[cfg(feature = "upnp")]
    asked: Option<Instant>,
    /// It was asked, and has not answered yet.
    waits: bool,
    answer: Option<RouterAnswer>,
    /// This machine's address that it passes a port on to.
    #[cfg(feature = "upnp")]
    local: Option<Multiaddr>,
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

#[cfg(feature = "upnp")]
impl Router {
    /// A router is asked from now on, or none is.
    pub fn new(is_asked: bool) -> Self {
        Self { asked: is_asked.then(Instant::now), waits: is_asked, ..Self::default() }
    }

    /// It is asked once more.
    pub fn ask_again(&mut self) {
        (self.asked, self.waits, self.local) = (Some(Instant::now()), true, None);
    }

    /// Whether to ask once more. `listens`: whether this machine listens at an address.
    pub fn is_due(&self, listens: impl FnOnce(&Multiaddr) -> bool) -> bool {
        match &self.local {
            Some(local) => !listens(local),
            // It may never have answered: where this machine had no home's address, it was asked for no port.
            None => self.asked.is_some_and(|asked| asked.elapsed() >= AGAIN),
        }
    }

    /// It passes a port on to this address of this machine.
    pub fn passes_to(&mut self, local: Multiaddr) {
        self.local = Some(local);
    }

    /// It says something; None if that is nothing new.
    pub fn answers(&mut self, answer: RouterAnswer) -> Option<RouterAnswer> {
        let is_news = self.answer.as_ref() != Some(&answer);
        self.waits = false;
        if !matches!(answer, RouterAnswer::Passes(_)) {
            self.local = None;
        }
        self.answer = Some(answer.clone());
        is_news.then_some(answer)
    }

    /// It has been silent for so long, though a port was asked for, that it refuses.
    pub fn refuses(&mut self) -> Option<RouterAnswer> {
        let is_late = self.waits && self.asked.is_some_and(|asked| asked.elapsed() >= PATIENCE);
        if is_late { self.answers(RouterAnswer::Refuses) } else { None }
    }
}

#[cfg(all(test, feature = "upnp"))]
mod tests {
    use super::*;

    #[test]
    fn each_answer_is_news_once_and_a_router_that_says_nothing_refuses_once() {
        let mut router = Router::new(true);
        assert!(router.is_waited_for() && router.refuses().is_none());
        router.asked = Instant::now().checked_sub(PATIENCE);
        assert_eq!(router.refuses(), Some(RouterAnswer::Refuses));
        assert!(router.refuses().is_none() && !router.is_waited_for());
        let passes = RouterAnswer::Passes("/ip4/203.0.113.5/tcp/9713".parse().unwrap());
        assert_eq!(router.answers(passes.clone()), Some(passes.clone()));
        assert_eq!(router.answers(passes.clone()), None);
        assert_eq!(router.answer, Some(passes));
        assert!(Router::new(false).refuses().is_none() && !Router::new(false).is_waited_for());
    }

    /// Once it was asked but once, and a laptop that came home stayed behind its router.
    #[test]
    fn it_is_asked_again_where_this_machine_moved_and_after_a_while_where_it_passes_nothing_on() {
        let mut router = Router::new(true);
        let [inside, outside] = ["/ip4/192.168.1.7/tcp/9713", "/ip4/203.0.113.5/tcp/9713"];
        assert!(!router.is_due(|_| true), "it is waited for");
        router.asked = Instant::now().checked_sub(AGAIN);
        assert!(router.is_due(|_| true), "it was waited for long enough");
        router.answers(RouterAnswer::Passes(outside.parse().unwrap()));
        router.passes_to(inside.parse().unwrap());
        router.asked = Instant::now().checked_sub(AGAIN);
        assert!(!router.is_due(|address| address.to_string() == inside) && router.is_due(|_| false));
        router.answers(RouterAnswer::PassesNoMore(outside.parse().unwrap()));
        assert!(router.is_due(|_| true));
        router.ask_again();
        assert!(!router.is_due(|_| true) && router.is_waited_for());
        assert!(!Router::new(false).is_due(|_| true));
    }
}
