//! Ctrl-C, a polite kill, a terminal that closes: heard by a thread of its own, because preparing a model or a text
//! blocks everything else.

use anyhow::{Context, Result};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    time::{Duration, Instant},
};
use tokio::sync::watch;

use crate::system::output;

/// Signals that come within this time after the first are the same wish: a terminal and a parent may both send one.
const TOGETHER: Duration = Duration::from_millis(500);
/// After a second wish the task gets this long to say what it gives up, before the process ends without a word of its
/// own.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

/// What somebody wishes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Wish {
    /// Nothing: go on.
    Stay,
    /// Leave, in order.
    Leave,
    /// Leave now, whatever that loses.
    LeaveNow,
}

/// The wish to leave.
#[derive(Clone)]
pub struct Interrupt {
    wishes: watch::Receiver<Wish>,
    taken_over: Arc<AtomicBool>,
}

impl Interrupt {
    /// Starts to listen. Until [`Interrupt::take_over`] a signal has `tidy` done and ends the process: there is nothing
    /// to lose yet.
    pub fn install(tidy: impl FnOnce() + Send + 'static) -> Result<Self> {
        let (wish, wishes) = watch::channel(Wish::Stay);
        let taken_over = Arc::new(AtomicBool::new(false));
        let is_taken_over = taken_over.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("signals")?;
        // Before anybody hears that this process is there: a signal that comes at once is heard, too.
        let mut signals = runtime.block_on(async { Signals::new() });
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            let code = runtime.block_on(listen(async || signals.next().await, &is_taken_over, &wish));
            if code == 0 {
                tidy();
            }
            // Nobody may read it, and then it is never written.
            let (said, wait) = sync_channel::<()>(0);
            std::thread::spawn(move || {
                output::complain(format_args!("{}", last_words(code)));
                drop(said);
            });
            let _ = wait.recv_timeout(LAST_WORDS_MAX);
            std::process::exit(code);
        })?;
        Ok(Self { wishes, taken_over })
    }

    /// One whose wishes are somebody else's to send: for tests.
    pub fn of(wishes: watch::Receiver<Wish>) -> Self {
        Self { wishes, taken_over: Arc::default() }
    }

    /// From now on the caller leaves when [`Interrupt::wait`] returns.
    pub fn take_over(&self) {
        self.taken_over.store(true, Ordering::SeqCst);
    }

    /// From now on the process just ends again.
    pub fn give_back(&self) {
        self.taken_over.store(false, Ordering::SeqCst);
    }

    /// Whether somebody wishes to leave.
    pub fn is_wished(&self) -> bool {
        *self.wishes.borrow() > Wish::Stay
    }

    /// Returns the wish once it is more than `known`.
    pub async fn wait(&mut self, known: Wish) -> Wish {
        match self.wishes.wait_for(|wish| *wish > known).await.map(|wish| *wish) {
            Ok(wish) => wish,
            Err(_) => std::future::pending().await,
        }
    }
}

/// What a process says that ends by a signal, with this exit code.
fn last_words(code: i32) -> &'static str {
    match code {
        0 => "interrupted: nothing is lost",
        _ => "error: left at once, in the middle of something; what was not stored is lost, or comes again from peers",
    }
}

/// Turns signals, each told by when it came, into wishes. Returns, with an exit code, if nobody takes over, or if the
/// second wish is not followed.
async fn listen(mut signal: impl AsyncFnMut() -> Instant, taken_over: &AtomicBool, wish: &watch::Sender<Wish>) -> i32 {
    let first = signal().await;
    if !taken_over.load(Ordering::SeqCst) {
        return 0;
    }
    let _ = wish.send(Wish::Leave);
    while signal().await.duration_since(first) < TOGETHER {}
    let _ = wish.send(Wish::LeaveNow);
    tokio::time::sleep(LAST_WORDS_MAX).await;
    1
}

/// The signals that mean: leave.
struct Signals {
    streams: Vec<tokio::signal::unix::Signal>,
}

impl Signals {
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        // `nohup` has the hang-up ignored, and means it.
        let wanted = kinds.into_iter().filter(|kind| *kind != SignalKind::hangup() || !ignores_hangup());
        Self { streams: wanted.filter_map(|kind| signal(kind).ok()).collect() }
    }

    /// When the next one came.
    async fn next(&mut self) -> Instant {
        std::future::poll_fn(|context| {
            let came = self.streams.iter_mut().any(|stream| stream.poll_recv(context).is_ready());
            if came { std::task::Poll::Ready(Instant::now()) } else { std::task::Poll::Pending }
        })
        .await
    }
}

/// Whether the process was started with the hang-up ignored, as far as the system tells.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    /// What signals at these times, in ms, come to: the wish, and the exit code if there is one.
    fn after(times: &[u64], taken_over: bool) -> (Wish, Option<i32>) {
        let (wish, wishes) = watch::channel(Wish::Stay);
        let code = listen(signals(times), &AtomicBool::new(taken_over), &wish).now_or_never();
        (*wishes.borrow(), code)
    }

    /// Signals that came at these times, in ms, and then no more.
    fn signals(times: &[u64]) -> impl AsyncFnMut() -> Instant {
        let (begun, mut times) = (Instant::now(), times.iter());
        async move || match times.next() {
            Some(ms) => begun + Duration::from_millis(*ms),
            None => std::future::pending().await,
        }
    }

    #[tokio::test]
    async fn signals_that_come_together_are_one_wish_and_a_later_one_is_another() {
        assert_eq!(after(&[], true), (Wish::Stay, None));
        assert_eq!(after(&[0], true), (Wish::Leave, None));
        assert_eq!(after(&[0, 100, 300], true), (Wish::Leave, None));
        assert_eq!(after(&[0, 700], true), (Wish::LeaveNow, None));
    }

    #[tokio::test]
    async fn a_process_that_nobody_took_over_ends_at_the_first_signal() {
        assert_eq!(after(&[0], false), (Wish::Stay, Some(0)));
    }

    #[test]
    fn a_process_that_ends_by_a_signal_says_so() {
        assert!(last_words(0).contains("nothing is lost") && last_words(1).contains("what was not stored is lost"));
    }

    #[tokio::test]
    async fn a_second_wish_that_is_not_followed_ends_the_process() {
        let (wish, _wishes) = watch::channel(Wish::Stay);
        assert_eq!(listen(signals(&[0, 700]), &AtomicBool::new(true), &wish).await, 1);
    }
}
