//! How many bytes a second all connections together may carry.
//!
//! Each read or write takes a small part at once, and its stream then waits until that part is paid for. Parts are paid
//! in the order in which they were taken, so no stream is left behind, and the sum keeps the rate, after a burst of a
//! second's bytes.

use futures::{AsyncRead, AsyncWrite};
use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

/// What a machine gives to the network, bytes a second of TCP payload; None: all it can.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Limits {
    pub upload: Option<u64>,
    pub download: Option<u64>,
}

impl Limits {
    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.upload.is_some() || self.download.is_some()
    }
}

/// Parts are of this part of a second. With as many connections as a node has, all taking, each still has its turn
/// before its peer takes it for dead.
const PARTS_PER_SECOND: u64 = 16;
/// How far ahead of the rate the sum may be.
const BURST: Duration = Duration::from_secs(1);

/// One direction of all connections. Clones share.
#[derive(Clone)]
pub struct Rate(Arc<Shared>);

struct Shared {
    bytes_per_second: u64,
    /// When everything that was taken so far is paid for.
    paid: Mutex<Option<Instant>>,
}

impl Rate {
    /// At most so many.
    pub fn new(bytes_per_second: u64) -> Self {
        Self(Arc::new(Shared { bytes_per_second: bytes_per_second.max(1), paid: Mutex::default() }))
    }

    /// Largest part that may be taken at once.
    fn part(&self) -> usize {
        (self.0.bytes_per_second / PARTS_PER_SECOND).max(1) as usize
    }

    /// Takes a part; returns when its stream may take another.
    fn take(&self, bytes: usize, now: Instant) -> Instant {
        let cost = Duration::from_secs_f64(bytes as f64 / self.0.bytes_per_second as f64);
        let mut paid = self.0.paid.lock().unwrap_or_else(PoisonError::into_inner);
        // What was not used in time is not saved up beyond the burst.
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let until = paid.map_or(earliest, |paid| paid.max(earliest)) + cost;
        *paid = Some(until);
        until
    }
}

/// One direction of one stream.
struct Turn {
    rate: Option<Rate>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Turn {
    fn new(rate: Option<Rate>) -> Self {
        Self { rate, wait: None }
    }

    /// Ready once this stream may take another part: of at most so many bytes.
    fn poll_part(&mut self, wanted: usize, context: &mut Context<'_>) -> Poll<usize> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
            self.wait = None;
        }
        Poll::Ready(self.rate.as_ref().map_or(wanted, |rate| wanted.min(rate.part())))
    }

    /// A part was taken.
    fn took(&mut self, bytes: usize) {
        let Some(rate) = &self.rate else { return };
        let (now, until) = (Instant::now(), rate.take(bytes, Instant::now()));
        if until > now {
            self.wait = Some(Box::pin(sleep_until(until)));
        }
    }
}

/// A stream that keeps to the rates.
pub struct Limited<S> {
    inner: S,
    reads: Turn,
    writes: Turn,
}

impl<S> Limited<S> {
    /// `download` bounds reads, `upload` writes.
    pub fn new(inner: S, download: Option<Rate>, upload: Option<Rate>) -> Self {
        Self { inner, reads: Turn::new(download), writes: Turn::new(upload) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Limited<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let part = ready!(this.reads.poll_part(buffer.len(), context));
        let read = ready!(Pin::new(&mut this.inner).poll_read(context, &mut buffer[..part]))?;
        this.reads.took(read);
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Limited<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let part = ready!(this.writes.poll_part(buffer.len(), context));
        let written = ready!(Pin::new(&mut this.inner).poll_write(context, &buffer[..part]))?;
        this.writes.took(written);
        Poll::Ready(Ok(written))
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
    use futures::{AsyncReadExt, AsyncWriteExt, FutureExt, io::Cursor};

    #[test]
    fn the_sum_keeps_the_rate_and_the_burst_is_all_that_is_saved_up() {
        let rate = Rate::new(16_000);
        let begun = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(rate.part(), 1_000);
        // Whoever takes: 16,000 at once, then one part in a sixteenth of a second.
        let until: Vec<Instant> = (0..48).map(|_| rate.take(1_000, begun)).collect();
        assert!(until[15] <= begun + Duration::from_millis(1) && until[16] > begun);
        let near = |a: Instant, b: Instant| a.max(b) - a.min(b) < Duration::from_millis(1);
        assert!(near(until[47], begun + 2 * second), "three seconds of bytes, of which one is the burst");
        // A long pause saves up one second, not an hour.
        let later = begun + 3_600 * second;
        assert!(near(rate.take(16_000, later), later) && near(rate.take(16_000, later), later + second));
    }

    #[tokio::test]
    async fn streams_wait_once_their_part_of_what_all_have_is_taken() {
        // One byte in a very long time, so that the test's own takes none.
        let slow =
            || Rate(Arc::new(Shared { bytes_per_second: 1, paid: Mutex::new(Some(Instant::now() + 1_000 * BURST)) }));
        let (download, upload) = (slow(), slow());
        let stream =
            |bytes: &[u8]| Limited::new(Cursor::new(bytes.to_vec()), Some(download.clone()), Some(upload.clone()));
        let mut one = stream(b"abc");
        let mut buffer = [0; 3];
        assert_eq!(one.read(&mut buffer).now_or_never().unwrap().unwrap(), 1, "a part is taken at once");
        assert!(one.read(&mut buffer).now_or_never().is_none(), "then it waits");
        assert_eq!(one.write(b"xyz").now_or_never().unwrap().unwrap(), 1, "the other way has a rate of its own");
        assert!(one.write(b"xyz").now_or_never().is_none());
        let mut free = Limited::new(Cursor::new(b"abc".to_vec()), None, None);
        assert_eq!(free.read(&mut buffer).now_or_never().unwrap().unwrap(), 3);
        assert!(stream(b"a").read(&mut buffer).now_or_never().is_some(), "no stream is left behind by others");
    }
}
