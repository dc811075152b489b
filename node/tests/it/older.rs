//! A node of version 1 meets this one: it is recognised, refused once in words that it can read, and counts as nobody.

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder, identify, noise,
    request_response::{self, Codec, Message, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use node::network::{Event, Network, NetworkConfig};
use std::{io, time::Duration};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a node of version 1 speaks: u32 LE length, then the bytes.
#[derive(Clone, Default)]
struct Framed;

async fn read(io: &mut (impl AsyncRead + Unpin + Send)) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let mut bytes = Vec::new();
    io.take(u32::from_le_bytes(length).into()).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

async fn write(io: &mut (impl AsyncWrite + Unpin + Send), bytes: &[u8]) -> io::Result<()> {
    io.write_all(&(bytes.len() as u32).to_le_bytes()).await?;
    io.write_all(bytes).await?;
    io.close().await
}

impl Codec for Framed {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io).await
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<Vec<u8>> {
        read(io).await
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        write(io, &bytes).await
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()> {
        write(io, &bytes).await
    }
}

#[derive(NetworkBehaviour)]
struct Old {
    identify: identify::Behaviour,
    exchange: request_response::Behaviour<Framed>,
}

fn old_node() -> Swarm<Old> {
    let protocol = StreamProtocol::new("/onebyte/1");
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| Old {
            identify: identify::Behaviour::new(identify::Config::new("/onebyte/identify/1".into(), key.public())),
            exchange: request_response::Behaviour::new(
                [(protocol, ProtocolSupport::Full)],
                request_response::Config::default(),
            ),
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(PATIENCE))
        .build()
}

/// Both, driven by whoever waits.
struct Meeting {
    old: Swarm<Old>,
    new: Network,
    /// What the new one told of the old one, in order.
    told: Vec<&'static str>,
    answers: Vec<Vec<u8>>,
}

impl Meeting {
    async fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let wait = async {
            while !holds(self) {
                tokio::select! {
                    event = self.old.select_next_some() => {
                        if let SwarmEvent::Behaviour(OldEvent::Exchange(request_response::Event::Message {
                            message: Message::Response { response, .. }, ..
                        })) = event {
                            self.answers.push(response);
                        }
                    }
                    event = self.new.next() => self.told.extend(match event {
                        Event::Connected(_) => Some("connected"),
                        Event::Disconnected(_) => Some("disconnected"),
                        Event::Older(_) => Some("older"),
                        Event::DialFailed { .. } => Some("call ended"),
                        _ => None,
                    }),
                }
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("still not: {what}"));
    }

    /// The answer to a question of version 1.
    async fn ask(&mut self, peer: PeerId, question: &[u8]) -> Vec<u8> {
        let request = [&[5; 32], question].concat();
        self.old.behaviour_mut().exchange.send_request(&peer, request);
        self.until("an answer", |meeting| !meeting.answers.is_empty()).await;
        self.answers.remove(0)
    }
}

#[tokio::test]
async fn a_node_of_version_1_is_told_once_and_counts_as_nobody() {
    let any: Multiaddr = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    let new = Network::start(NetworkConfig::new([1; 32], Some([7; 32]), vec![any])).await.unwrap();
    let (address, peer) = (new.listen_addresses()[0].clone(), new.peer_id());
    let mut meeting = Meeting { old: old_node(), new, told: Vec::new(), answers: Vec::new() };
    meeting.old.dial(address.with_p2p(peer).unwrap()).unwrap();
    meeting.until("it is recognised", |meeting| meeting.told.contains(&"disconnected")).await;
    assert_eq!(meeting.told, ["connected", "older", "disconnected"]);
    assert_eq!(meeting.new.neighbours().count(), 0);
    // A summary, then the manifest, each twice.
    let summary = [&[3][..], &[9; 32]].concat();
    assert_eq!(meeting.ask(peer, &summary).await, [&[7][..], &[0xff; 32]].concat(), "another run");
    let manifest = meeting.ask(peer, &[0]).await;
    assert_eq!((manifest[0], manifest[2]), (0, 2), "a manifest of version 2");
    assert_eq!(meeting.ask(peer, &summary).await, [8], "no more of it");
    assert_eq!(meeting.ask(peer, &[0]).await, [8]);
    // A call to it ends when it goes, so that it is called again: it may have been updated.
    let old = *meeting.old.local_peer_id();
    meeting.new.dial(old, Vec::new());
    meeting.old.disconnect_peer_id(peer).unwrap();
    meeting.until("the call has ended", |meeting| meeting.told.len() > 3).await;
    assert_eq!(meeting.told[3..], ["call ended"]);
}
