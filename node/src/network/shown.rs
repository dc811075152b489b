//! Addresses at which this machine can be reached, and the own address that each leads to: the one at which its calls
//! to the world began when that was shown.

use libp2p::Multiaddr;
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
};

use super::address::{ip, is_relayed};

/// Each with the machine's own address; None if there was no way to the world.
#[derive(Default)]
pub struct Shown(HashMap<Multiaddr, Option<IpAddr>>);

impl Shown {
    /// Somebody has just shown this one.
    pub fn note(&mut self, address: &Multiaddr) {
        if let Some(at) = ip(address).filter(|_| !is_relayed(address)) {
            self.0.insert(address.clone(), way_out(at));
        }
    }

    /// This one is none any more.
    pub fn forget(&mut self, address: &Multiaddr) {
        self.0.remove(address);
    }

    /// Whether it may lead nowhere once this machine has left `gone`, an address of its own.
    pub fn hangs_on(&self, address: &Multiaddr, gone: IpAddr) -> bool {
        let Some(at) = ip(address) else { return false };
        let leads_to = self.0.get(address).copied().flatten();
        at == gone || at.is_ipv4() == gone.is_ipv4() && leads_to.is_none_or(|own| own == gone)
    }
}

/// The address of this machine at which calls to `to` begin. Nothing is sent.
fn way_out(to: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect((to, 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A container's bridge went, and the port that the router passed on was forgotten with it.
    #[test]
    fn what_was_shown_goes_with_the_own_address_that_it_leads_to_and_with_no_other() {
        let [home, bridge, own, other]: [IpAddr; 4] =
            ["192.168.1.7", "172.17.0.1", "2001:db8::7", "2001:db8::8"].map(|at| at.parse().unwrap());
        let at = |ip: &str| -> Multiaddr { format!("{ip}/tcp/9713").parse().unwrap() };
        let (passed_on, own_one, unknown) = (at("/ip4/203.0.113.5"), at("/ip6/2001:db8::7"), at("/ip4/203.0.113.6"));
        let mut shown = Shown(HashMap::from([(passed_on.clone(), Some(home)), (own_one.clone(), Some(own))]));
        for (address, gone, hangs) in [
            (&passed_on, home, true),
            (&passed_on, bridge, false),
            (&passed_on, own, false),
            (&own_one, own, true),
            (&own_one, other, false),
            (&own_one, home, false),
            (&unknown, bridge, true),
            (&unknown, own, false),
        ] {
            assert_eq!(shown.hangs_on(address, gone), hangs, "{address} without {gone}");
        }
        shown.forget(&passed_on);
        assert!(shown.hangs_on(&passed_on, bridge), "nobody knows what it leads to");
    }

    #[test]
    fn calls_to_this_machine_begin_there() {
        let localhost = IpAddr::from(Ipv4Addr::LOCALHOST);
        assert_eq!(way_out(localhost), Some(localhost));
    }
}
