//! A ticket: all that a machine needs to join a run, in one word that survives being read aloud, typed and scanned.
//!
//! ```text
//! ticket  = Bech32m (BIP 350, up to 1,023 characters) of "onebyte" and the bytes
//! bytes   = version 1 (u8) ‖ run 32 ‖ flags (u8; 1: a secret follows) ‖ secret 16, if any ‖ machine…
//! machine = Ed25519 key 32 ‖ number of addresses (u8) ‖ (length (u8) ‖ multiaddr as bytes)…
//! ```

use anyhow::{Context, Result, anyhow, bail, ensure};
use bech32::{Bech32m, Hrp, primitives::decode::CheckedHrpstring};
use libp2p::{Multiaddr, PeerId};
use protocol::{
    manifest::RunId,
    secret::{SECRET_BYTES, Secret},
};
use std::fmt;

use crate::{
    network::{check_callable, key_of_peer_id, peer_id_of_key},
    system::name::program,
};

/// What every ticket begins with, before a 1.
pub const PREFIX: &str = "onebyte";
const VERSION: u8 = 1;
const HAS_SECRET: u8 = 1;
/// Bytes that fit: 1,023 characters less the prefix, the 1 and the checksum, five bits each.
const BYTES_MAX: usize = (1_023 - PREFIX.len() - 1 - 6) * 5 / 8;

/// See the module's documentation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ticket {
    pub run: RunId,
    /// Of a private run.
    pub secret: Option<Secret>,
    /// Machines of the run, or relays that know it, and where they are, best first.
    pub machines: Vec<(PeerId, Vec<Multiaddr>)>,
}

impl Ticket {
    /// Whether a text wants to be a ticket.
    pub fn is_meant(text: &str) -> bool {
        let text = text.trim();
        text.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
    }

    /// Reads one. Errors say what is wrong with it, and what to do.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        let read = CheckedHrpstring::new::<Bech32m>(text).map_err(|error| {
            anyhow!(
                "not a whole ticket ({error}): copy all of it, from `{PREFIX}1` on, as `{} ticket` prints it",
                program()
            )
        })?;
        let hrp = read.hrp().to_lowercase();
        ensure!(hrp == PREFIX, "a word of something else ({hrp}…): a ticket begins with `{PREFIX}1`");
        Self::decode(&read.byte_iter().collect::<Vec<u8>>())
    }

    fn decode(bytes: &[u8]) -> Result<Self> {
        let mut rest = bytes;
        let version = take(&mut rest, 1)?[0];
        ensure!(version == VERSION, "a ticket of version {version}, this program reads {VERSION}: update it");
        let run = RunId(take(&mut rest, 32)?.try_into()?);
        let secret = match take(&mut rest, 1)?[0] {
            0 => None,
            HAS_SECRET => Some(Secret(take(&mut rest, SECRET_BYTES)?.try_into()?)),
            flags => bail!("a ticket with flags {flags:#x}, which this program does not know: update it"),
        };
        let (mut machines, mut left_out) = (Vec::new(), Vec::new());
        while !rest.is_empty() {
            let key = take(&mut rest, 32)?.try_into()?;
            let peer = peer_id_of_key(&key).context("a ticket that names a machine by what is no key")?;
            let mut addresses = Vec::new();
            for _ in 0..take(&mut rest, 1)?[0] {
                let length = take(&mut rest, 1)?[0].into();
                let address = Multiaddr::try_from(take(&mut rest, length)?.to_vec())?;
                match check_callable(&address) {
                    Ok(()) => addresses.push(address),
                    Err(error) => left_out.push(format!("{address}: {error}")),
                }
            }
            machines.push((peer, addresses));
        }
        leave_out(&left_out, machines.iter().any(|(_, addresses)| !addresses.is_empty()))?;
        Ok(Self { run, secret, machines })
    }

    /// The word, lower case. Addresses for which there is no room are left out, the last first.
    pub fn encode(&self) -> String {
        let mut bytes = vec![VERSION];
        bytes.extend(self.run.0);
        match &self.secret {
            None => bytes.push(0),
            Some(secret) => {
                bytes.push(HAS_SECRET);
                bytes.extend(secret.0);
            }
        }
        for (peer, addresses) in &self.machines {
            let Some(key) = key_of_peer_id(peer) else { continue };
            let mut room = BYTES_MAX.saturating_sub(bytes.len() + 33);
            let mut fitting: Vec<Vec<u8>> = Vec::new();
            for address in addresses.iter().map(Multiaddr::to_vec).take(u8::MAX.into()) {
                if let Ok(length) = u8::try_from(address.len())
                    && address.len() < room
                {
                    room -= 1 + address.len();
                    fitting.push([&[length][..], &address].concat());
                }
            }
            if !fitting.is_empty() {
                bytes.extend(key);
                bytes.push(fitting.len() as u8);
                bytes.extend(fitting.concat());
            }
        }
        // The prefix is sound, and the length was kept to.
        bech32::encode::<Bech32m>(Hrp::parse_unchecked(PREFIX), &bytes).unwrap_or_default()
    }
}

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.encode())
    }
}

/// Addresses that this program cannot call, as another build can (QUIC), keep nobody from calling the others.
fn leave_out(addresses: &[String], has_others: bool) -> Result<()> {
    if let Some(first) = addresses.first() {
        ensure!(has_others, "a ticket of which this program can call no address; {first}");
        tracing::warn!("the ticket: left out {} of its addresses; {first}", addresses.len());
    }
    Ok(())
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length).context("a ticket that ends too soon: copy all of it")?;
    *rest = left;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::peer_id;

    fn ticket() -> Ticket {
        let relay = peer_id([3; 32]).unwrap();
        let addresses = [
            "/ip4/203.0.113.5/tcp/9713".to_owned(),
            "/ip6/2001:db8::7/tcp/9713".to_owned(),
            "/dns4/node.example.org/tcp/4".to_owned(),
            format!("/ip4/198.51.100.1/tcp/9713/p2p/{relay}/p2p-circuit"),
        ];
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Ticket { run: RunId([9; 32]), secret: None, machines: vec![(peer_id([1; 32]).unwrap(), addresses)] }
    }

    #[test]
    fn a_ticket_is_one_word_and_says_all_again() {
        let open = ticket();
        let private = Ticket { secret: Some(Secret([8; 16])), ..ticket() };
        let short = Ticket {
            machines: vec![(peer_id([1; 32]).unwrap(), vec!["/ip4/192.168.1.7/tcp/9713".parse().unwrap()])],
            ..ticket()
        };
        for ticket in [&open, &private, &short] {
            let word = ticket.encode();
            assert!(word.starts_with("onebyte1") && word.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{word}");
            assert_eq!(&Ticket::parse(&word).unwrap(), ticket);
            assert_eq!(&Ticket::parse(&format!(" {}\n", word.to_uppercase())).unwrap(), ticket);
        }
        assert!(short.encode().len() < 150, "{} characters", short.encode().len());
        assert!(Ticket::is_meant("ONEBYTE1xyz") && !Ticket::is_meant("lan") && !Ticket::is_meant("/ip4/1.2.3.4"));
        assert!(!format!("{private:?}").contains("8, 8"));
    }

    #[test]
    fn every_mistyped_character_is_noticed() {
        let word = ticket().encode();
        for at in 0..word.len() {
            let mut bytes = word.clone().into_bytes();
            bytes[at] = if bytes[at] == b'q' { b'p' } else { b'q' };
            let wrong = String::from_utf8(bytes).unwrap();
            assert!(Ticket::parse(&wrong).is_err(), "{wrong}");
            assert!(Ticket::parse(&word[..at]).is_err());
        }
        assert!(Ticket::parse("").unwrap_err().to_string().contains("copy all of it"));
    }

    #[test]
    fn what_a_stranger_made_up_is_refused_in_words() {
        let word = |prefix: &str, bytes: &[u8]| bech32::encode::<Bech32m>(Hrp::parse(prefix).unwrap(), bytes).unwrap();
        let run = [9; 32];
        let head = [&[1][..], &run, &[0]].concat();
        let key = key_of_peer_id(&peer_id([1; 32]).unwrap()).unwrap();
        let unspecified: Multiaddr = "/ip4/0.0.0.0/tcp/1".parse().unwrap();
        let nowhere = [&head[..], &key, &[1, unspecified.len() as u8], &unspecified.to_vec()].concat();
        for (wrong, why) in [
            (word("bc", &head), "something else (bc"),
            (word("onebyte", &[2]), "version 2"),
            (word("onebyte", &[&[1][..], &run, &[4]].concat()), "flags 0x4"),
            (word("onebyte", &[&[1][..], &run, &[1, 5]].concat()), "too soon"),
            (word("onebyte", &[&head[..], &key, &[1, 200, 4]].concat()), "too soon"),
            (word("onebyte", &nowhere), "for listening"),
            (bech32::encode::<bech32::Bech32>(Hrp::parse("onebyte").unwrap(), &head).unwrap(), "not a whole ticket"),
        ] {
            let error = format!("{:#}", Ticket::parse(&wrong).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
        assert_eq!(Ticket::parse(&word("onebyte", &head)).unwrap().machines, []);
    }

    /// The ticket of a machine that listens by QUIC, too, was of no use to a build that does not speak it.
    #[test]
    fn an_address_that_this_program_cannot_call_takes_no_other_with_it() {
        let callable: Multiaddr = "/ip4/203.0.113.5/tcp/9713".parse().unwrap();
        let nowhere: Multiaddr = "/ip4/203.0.113.5/tcp/9713/ws".parse().unwrap();
        let machines = vec![(peer_id([1; 32]).unwrap(), vec![nowhere, callable.clone()])];
        let read = Ticket::parse(&Ticket { machines, ..ticket() }.encode()).unwrap();
        assert_eq!(read.machines, [(peer_id([1; 32]).unwrap(), vec![callable])]);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let many = (0..100).map(|port| format!("/ip6/2001:db8::7/tcp/{port}").replace("/0", "/1").parse().unwrap());
        let crowded = Ticket { machines: vec![(peer_id([1; 32]).unwrap(), many.collect())], ..ticket() };
        let word = crowded.encode();
        assert!(word.len() <= 1_023 && Ticket::parse(&word).unwrap().machines[0].1.len() > 15);
    }
}
