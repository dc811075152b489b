//! Bytes on the sockets, counted below encryption.

use futures::{AsyncRead, AsyncWrite};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

/// What went over the sockets, TCP payload bytes.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// Received, everything.
    pub socket_in: u64,
    /// Sent, everything.
    pub socket_out: u64,
    /// Content of gossip messages received (each once).
    pub gossip_in: u64,
    /// Content of own gossip messages (each once).
    pub gossip_out: u64,
}

#[derive(Default)]
struct Shared {
    socket_in: AtomicU64,
    socket_out: AtomicU64,
    gossip_in: AtomicU64,
    gossip_out: AtomicU64,
}

/// Shared by all connections.
#[derive(Clone, Default)]
pub struct Counters(Arc<Shared>);

impl Counters {
    pub fn gossip_received(&self, bytes: u64) {
        self.0.gossip_in.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn gossip_published(&self, bytes: u64) {
        self.0.gossip_out.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn read(&self) -> Traffic {
        Traffic {
            socket_in: self.0.socket_in.load(Ordering::Relaxed),
            socket_out: self.0.socket_out.load(Ordering::Relaxed),
            gossip_in: self.0.gossip_in.load(Ordering::Relaxed),
            gossip_out: self.0.gossip_out.load(Ordering::Relaxed),
        }
    }
}

/// A stream that counts.
pub struct Counted<S> {
    inner: S,
    counters: Counters,
}

impl<S> Counted<S> {
    pub fn new(inner: S, counters: Counters) -> Self {
        Self { inner, counters }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_read(context, buffer);
        if let Poll::Ready(Ok(bytes)) = &poll {
            self.counters.0.socket_in.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(context, buffer);
        if let Poll::Ready(Ok(bytes)) = &poll {
            self.counters.0.socket_out.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(context)
    }
}
