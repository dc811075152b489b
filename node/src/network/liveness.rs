//! Streams that notice when the other end is gone, as [`peer::liveness`] tells.

use futures::{AsyncRead, AsyncWrite};
use peer::liveness::{LOOK_MS, Silence};
use std::{
    io,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// All streams of a node. Clones share.
#[derive(Clone, Default)]
pub struct Liveness(Arc<Mutex<Vec<Weak<Mutex<State>>>>>);

/// Of one stream.
struct State {
    /// This end's address.
    local: Option<IpAddr>,
    is_cut: bool,
    silence: Silence,
    waker: Option<Waker>,
}

impl Liveness {
    /// `stream` as one that ends with an error once the other end is gone, or `local`, the address of this end.
    pub fn watch<S>(&self, inner: S, local: Option<IpAddr>) -> Watched<S> {
        self.watch_every(Duration::from_millis(LOOK_MS), inner, local)
    }

    fn watch_every<S>(&self, period: Duration, inner: S, local: Option<IpAddr>) -> Watched<S> {
        let state = Arc::new(Mutex::new(State { local, is_cut: false, silence: Silence::default(), waker: None }));
        let mut streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&state));
        let mut look = interval_at(Instant::now() + period, period);
        // A machine that was busy for a minute has looked once.
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watched { inner, state, look }
    }

    /// The address has left this machine: no byte comes or goes on its streams any more.
    pub fn cut(&self, local: IpAddr) {
        self.each(|state| {
            if state.local == Some(local) {
                state.is_cut = true;
                state.waker.take().into_iter().for_each(Waker::wake);
            }
        });
    }

    /// This machine slept: whoever does not answer soon was gone before.
    pub fn woke(&self) {
        self.each(|state| state.silence.woke());
    }

    fn each(&self, mut change: impl FnMut(&mut State)) {
        let streams = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in streams.iter().filter_map(Weak::upgrade) {
            change(&mut stream.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// A stream that is watched.
pub struct Watched<S> {
    inner: S,
    state: Arc<Mutex<State>>,
    look: Interval,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let poll = Pin::new(&mut this.inner).poll_read(context, buffer);
        let mut state = this.state.lock().unwrap_or_else(PoisonError::into_inner);
        if poll.is_ready() {
            state.silence.heard();
            return poll;
        }
        if state.is_cut {
            let what = "the address of this end has left the machine";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, what)));
        }
        state.waker = Some(context.waker().clone());
        while this.look.poll_tick(context).is_ready() {
            if state.silence.look() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the other end is silent")));
            }
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::{AsyncReadExt, FutureExt};
    use std::net::Ipv4Addr;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 7));

    /// Has a byte for every poll, or none ever.
    struct Peer {
        is_there: bool,
    }

    impl AsyncRead for Peer {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            if self.is_there { Poll::Ready(Ok(1)) } else { Poll::Pending }
        }
    }

    /// One that nobody is at the other end of.
    fn silent(liveness: &Liveness, period: Duration) -> Watched<Peer> {
        liveness.watch_every(period, Peer { is_there: false }, Some(HOME))
    }

    #[tokio::test]
    async fn a_stream_ends_once_nothing_has_come_for_long() {
        let mut stream = silent(&Liveness::default(), Duration::from_millis(1));
        assert_eq!(stream.read(&mut [0]).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn every_byte_starts_the_count_anew() {
        let period = Duration::from_secs(60);
        let mut stream = silent(&Liveness::default(), period);
        for _ in 0..10 {
            stream.state.lock().unwrap().silence.woke();
            stream.inner.is_there = true;
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 1);
            stream.inner.is_there = false;
            // A machine that was away looks once, however long it was.
            stream.look.reset_at(Instant::now() - 10 * period);
            assert!(stream.read(&mut [0]).now_or_never().is_none());
        }
    }

    #[tokio::test]
    async fn streams_of_an_address_that_left_end_at_once_and_others_stay() {
        let liveness = Liveness::default();
        let mut gone = liveness.watch(Peer { is_there: false }, Some(HOME));
        let mut other = liveness.watch(Peer { is_there: false }, Some(Ipv4Addr::LOCALHOST.into()));
        let mut buffer = [0];
        let read = gone.read(&mut buffer);
        let cut = async { liveness.cut(HOME) };
        let (read, ()) = futures::join!(read, cut);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(other.read(&mut [0]).now_or_never().is_none());
    }

    #[tokio::test]
    async fn after_sleep_silence_is_noticed_sooner() {
        let liveness = Liveness::default();
        let stream = silent(&liveness, Duration::from_secs(60));
        let mut rested = stream.state.lock().unwrap().silence;
        liveness.woke();
        let mut woken = stream.state.lock().unwrap().silence;
        assert!((0..2).any(|_| woken.look()) && !(0..2).any(|_| rested.look()));
    }
}
