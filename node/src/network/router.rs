//! What the router of a home says when it is asked to pass a port on to this machine (UPnP; the cargo feature `upnp`).

use libp2p::Multiaddr;
use std::time::Instant;

/// A router that was found and has passed nothing on for so long refuses.
#[cfg(feature = "upnp")]
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

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
    asked: Option<Instant>,
    answer: Option<RouterAnswer>,
}

impl Router {
    /// What it said last.
    pub fn answer(&self) -> Option<&RouterAnswer> {
        self.answer.as_ref()
    }

    /// Whether something is still to come.
    pub fn is_waited_for(&self) -> bool {
        self.asked.is_some() && self.answer.is_none()
    }
}

#[cfg(feature = "upnp")]
impl Router {
    /// A router is asked from now on, or none is.
    pub fn new(is_asked: bool) -> Self {
        Self { asked: is_asked.then(Instant::now), answer: None }
    }

    /// It says something; None if that is nothing new.
    pub fn answers(&mut self, answer: RouterAnswer) -> Option<RouterAnswer> {
        let is_news = self.answer.as_ref() != Some(&answer);
        self.answer = Some(answer.clone());
        is_news.then_some(answer)
    }

    /// It has been silent for so long, though a port was asked for, that it refuses.
    pub fn refuses(&mut self) -> Option<RouterAnswer> {
        let is_late = self.asked.is_some_and(|asked| asked.elapsed() >= PATIENCE) && self.answer.is_none();
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
}
