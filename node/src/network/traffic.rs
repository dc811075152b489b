//! Bytes on the sockets, counted below encryption, and what they were for.

use futures::{AsyncRead, AsyncWrite};
use libp2p::gossipsub::{DataTransform, IdentityTransform, Message, RawMessage, TopicHash};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use peer::framing;

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
    /// Gossip messages received, each once, with all that is around them on the socket.
    pub gossip_frames_in: u64,
    /// The same messages when they came again.
    pub duplicates_in: u64,
    /// Questions and answers received, with all that is around them.
    pub exchange_in: u64,
}

#[derive(Default)]
struct Shared {
    socket_in: AtomicU64,
    socket_out: AtomicU64,
    gossip_in: AtomicU64,
    gossip_out: AtomicU64,
    /// First copies, and all of them.
    gossip_frames_in: AtomicU64,
    copies_in: AtomicU64,
    exchange_in: AtomicU64,
}

/// Shared by all connections.
#[derive(Clone, Default)]
pub struct Counters(Arc<Shared>);

impl Counters {
    /// A message that was new, of so many bytes.
    pub fn gossip_received(&self, content: usize) {
        self.0.gossip_in.fetch_add(content as u64, Ordering::Relaxed);
        self.0.gossip_frames_in.fetch_add(framing::gossip_frame(content) as u64, Ordering::Relaxed);
    }

    /// A question or an answer.
    pub fn exchange_received(&self, content: usize) {
        self.0.exchange_in.fetch_add(framing::exchange(content) as u64, Ordering::Relaxed);
    }

    pub fn gossip_published(&self, bytes: u64) {
        self.0.gossip_out.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn read(&self) -> Traffic {
        let gossip_frames_in = self.0.gossip_frames_in.load(Ordering::Relaxed);
        Traffic {
            socket_in: self.0.socket_in.load(Ordering::Relaxed),
            socket_out: self.0.socket_out.load(Ordering::Relaxed),
            gossip_in: self.0.gossip_in.load(Ordering::Relaxed),
            gossip_out: self.0.gossip_out.load(Ordering::Relaxed),
            gossip_frames_in,
            duplicates_in: self.0.copies_in.load(Ordering::Relaxed).saturating_sub(gossip_frames_in),
            exchange_in: self.0.exchange_in.load(Ordering::Relaxed),
        }
    }
}

/// gossipsub shows it every copy of a message, known or not. Changes nothing.
impl DataTransform for Counters {
    fn inbound_transform(&self, message: RawMessage) -> io::Result<Message> {
        self.0.copies_in.fetch_add(framing::gossip_frame(message.data.len()) as u64, Ordering::Relaxed);
        IdentityTransform.inbound_transform(message)
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> io::Result<Vec<u8>> {
        Ok(data)
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
