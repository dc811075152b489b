//! The network on loopback, without peers that decide: several nodes in one process.

use crate::support::nodes::{Nodes, config, name};
use node::network::{Event, Multiaddr, Network, NetworkConfig, PublishError, StartError, parse_bootstrap_of_another};
use protocol::{message::GOSSIP_BYTES_MAX, replica::Verdict};
use std::{collections::BTreeSet, time::Duration};

#[tokio::test]
async fn two_nodes_gossip_ask_and_answer() {
    let mut nodes = Nodes::pair().await;
    nodes.publish(1, b"one byte").await;
    let source = nodes.nodes[1].peer_id();
    nodes
        .until("the gossip to arrive", |nodes, index, event| match event {
            Event::Gossip { source: from, message, bytes } if index == 0 => {
                assert_eq!((from, &bytes[..]), (source, &b"one byte"[..]));
                nodes[0].report(&message, &from, Verdict::Accept);
                Some(())
            }
            _ => None,
        })
        .await;
    assert_eq!(nodes.ask(0, 1, b"who?").await.unwrap(), b"re: who?");
    assert_eq!(nodes.ask(1, 0, b"").await.unwrap(), b"re: ");
    let (sent, received) = (nodes.nodes[1].traffic(), nodes.nodes[0].traffic());
    assert_eq!((sent.gossip_out, received.gossip_in), (8, 8));
    assert!(sent.socket_out > 8 && received.socket_in > 8);
}

#[tokio::test]
async fn what_is_too_large_fails_where_it_is_sent_and_hurts_nobody() {
    let mut nodes = Nodes::pair().await;
    nodes.publish(0, b"they know each other").await;
    let refused = nodes.nodes[0].publish(vec![0; (1 << 16) + 1]).unwrap_err();
    assert!(matches!(refused, PublishError::Refused(_)), "{refused}");
    let error = nodes.ask(0, 1, &vec![0; 64 * 1024 + 1]).await.unwrap_err();
    assert!(!error.is_empty());
    assert_eq!(nodes.ask(0, 1, b"still there?").await.unwrap(), b"re: still there?");
    assert_eq!(nodes.ask(0, 1, &vec![3; 64 * 1024]).await.unwrap().len(), 64 * 1024 + 4, "the limit itself passes");
    nodes.publish(0, &vec![1; GOSSIP_BYTES_MAX]).await;
    nodes
        .until("the largest gossip to arrive", |_, index, event| match event {
            Event::Gossip { bytes, .. } if index == 1 => (bytes.len() == GOSSIP_BYTES_MAX).then_some(()),
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn an_answer_beyond_the_limit_is_an_error_for_the_asker() {
    let mut nodes = Nodes::pair().await;
    let peer = nodes.nodes[1].peer_id();
    let asked = nodes.nodes[0].request(peer, b"all of it".to_vec());
    let result = nodes
        .until("the failure of an answer that is too large", |nodes, index, event| match event {
            Event::Request { responder, .. } => {
                nodes[index].respond(responder, vec![0; 2 << 20]);
                None
            }
            Event::Response { request, result, .. } if request == asked => Some(result),
            _ => None,
        })
        .await;
    assert!(result.is_err());
    assert_eq!(nodes.ask(0, 1, b"still there?").await.unwrap(), b"re: still there?");
}

#[tokio::test]
async fn a_chain_of_nodes_becomes_a_mesh_and_gossip_reaches_all() {
    let mut nodes = Nodes::default();
    let mut known = Vec::new();
    for seed in 1..=6 {
        let index = nodes.start(seed, &known).await;
        known = vec![name(&nodes.nodes[index])];
    }
    nodes
        .until("six nodes to know each other", |nodes, index, event| {
            if let Event::Found { peer, address } = event {
                nodes[index].dial(peer, vec![address]);
            }
            nodes.iter().all(|node| node.connected().count() == 5).then_some(())
        })
        .await;
    nodes.publish(0, b"to everyone").await;
    let mut reached = BTreeSet::new();
    nodes
        .until("a message to reach all", |nodes, index, event| {
            if let Event::Gossip { source, message, bytes } = event {
                assert_eq!(bytes, b"to everyone");
                assert!(reached.insert(index), "node {index} got it twice");
                nodes[index].report(&message, &source, Verdict::Accept);
            }
            (reached.len() == 5).then_some(())
        })
        .await;
}

#[tokio::test]
async fn a_peer_that_goes_while_it_is_asked_is_an_error_not_a_wait() {
    let mut nodes = Nodes::pair().await;
    let peer = nodes.nodes[1].peer_id();
    let asked = nodes.nodes[0].request(peer, b"are you there?".to_vec());
    nodes.until("the question to arrive", |_, _, event| matches!(event, Event::Request { .. }).then_some(())).await;
    drop(nodes.nodes.pop());
    let (mut failed, mut gone) = (false, false);
    nodes
        .until("the failure", |_, _, event| {
            match event {
                Event::Response { request, result, .. } if request == asked => failed = result.is_err(),
                Event::Disconnected(who) => gone = who == peer,
                _ => {}
            }
            (failed && gone).then_some(())
        })
        .await;
    let asked = nodes.nodes[0].request(peer, b"and now?".to_vec());
    nodes
        .until("the failure to reach it", |_, _, event| match event {
            Event::Response { request, result, .. } if request == asked => {
                assert!(result.is_err());
                Some(())
            }
            _ => None,
        })
        .await;
}

#[tokio::test]
async fn a_call_that_nobody_takes_fails_in_words() {
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nobody = Network::start(config(9)).await.unwrap().peer_id();
    let mut nodes = Nodes::default();
    nodes.start(1, &[format!("/ip4/127.0.0.1/tcp/{free}/p2p/{nobody}")]).await;
    let (peer, error) = nodes
        .until("word that nobody is there", |_, _, event| match event {
            Event::DialFailed { peer, error } => Some((peer, error)),
            _ => None,
        })
        .await;
    assert!(peer == nobody && error.contains("refused"), "{error}");
}

#[tokio::test]
async fn a_blocked_peer_is_cut_off_and_cannot_come_back_until_it_is_unblocked() {
    let mut nodes = Nodes::pair().await;
    let bad = nodes.nodes[1].peer_id();
    let victim = name(&nodes.nodes[0]);
    assert_eq!(nodes.ask(1, 0, b"hello?").await.unwrap(), b"re: hello?");
    nodes.nodes[0].block(bad);
    nodes
        .until("the blocked peer to be cut off", |_, index, event| {
            matches!(event, Event::Disconnected(peer) if index == 0 && peer == bad).then_some(())
        })
        .await;
    for _ in 0..8 {
        nodes.call(1, &victim);
        nodes
            .during(Duration::from_millis(500), |_, index, event| {
                assert!(!(index == 0 && matches!(event, Event::Connected(_))), "the blocked peer came back");
            })
            .await;
    }
    assert_eq!(nodes.nodes[0].connected().count(), 0);
    nodes.nodes[0].unblock(bad);
    nodes.call(1, &victim);
    nodes
        .until("the peer to be back", |_, index, event| {
            matches!(event, Event::Connected(peer) if index == 0 && peer == bad).then_some(())
        })
        .await;
}

#[tokio::test]
async fn bad_bootstrap_addresses_are_refused_with_an_example() {
    let own = Network::start(config(1)).await.unwrap().peer_id();
    let cases = [
        ("somewhere:9713".to_owned(), "not a multiaddr"),
        ("/ip4/127.0.0.1/tcp/9713".to_owned(), "does not end with /p2p/"),
        (format!("/p2p/{own}"), "no address before /p2p/"),
        ("/ip4/127.0.0.1/tcp/99999/p2p/x".to_owned(), "not a multiaddr"),
        (String::new(), "does not end with /p2p/"),
        (format!("/ip4/127.0.0.1/tcp/9713/p2p/{own}"), "own peer id"),
    ];
    for (address, reason) in cases {
        let Err(error) = parse_bootstrap_of_another(&address, own) else {
            panic!("{address} was taken for an address")
        };
        assert!(matches!(error, StartError::Bootstrap { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(reason) && text.contains("/ip4/192.168.1.7/tcp/9713/p2p/"), "{address}: {text}");
    }
}

#[tokio::test]
async fn a_taken_port_is_told_from_other_failures() {
    let first = Network::start(config(1)).await.unwrap();
    let taken = first.listen_addresses()[0].clone();
    let Err(error) = Network::start(NetworkConfig { listen: vec![taken.clone()], ..config(2) }).await else {
        panic!("{taken} was taken twice")
    };
    assert!(error.is_occupied() && error.to_string().contains(&taken.to_string()), "{error}");
    let elsewhere: Multiaddr = "/ip4/192.0.2.1/tcp/0".parse().unwrap();
    let Err(error) = Network::start(NetworkConfig { listen: vec![elsewhere], ..config(2) }).await else {
        panic!("listens on another machine's address")
    };
    assert!(!error.is_occupied() && error.to_string().contains("for example"), "{error}");
}

#[tokio::test]
async fn an_address_that_leads_to_oneself_or_to_another_is_said_to() {
    let mut nodes = Nodes::default();
    nodes.start(1, &[]).await;
    let expected = Network::start(config(9)).await.unwrap().peer_id();
    let wrong = format!("{}/p2p/{expected}", nodes.nodes[0].listen_addresses()[0]);
    nodes.start(2, &[wrong]).await;
    let other = nodes.nodes[0].peer_id().to_string();
    let error = nodes
        .until("word that another node answers", |_, _, event| match event {
            Event::DialFailed { error, .. } => Some(error),
            _ => None,
        })
        .await;
    assert!(error.contains(&other), "{error}");

    // The own port: known before the node starts, since it was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let mut alone = Nodes::default();
    let own = format!("{address}/p2p/{expected}");
    alone.start_with(NetworkConfig { listen: vec![address], ..config(3) }, &[own]).await;
    let error = alone
        .until("word that the address is the own", |_, _, event| match event {
            Event::DialFailed { error, .. } => Some(error),
            _ => None,
        })
        .await;
    assert!(error.contains("itself"), "{error}");
    assert_eq!(alone.nodes[0].connected().count(), 0);
}
