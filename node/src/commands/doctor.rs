//! `doctor`: what a node needs of this machine and its network, each with what to do about it.

use anyhow::{Result, bail};
use engine::kernel::Kernel;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::{
    cli::{
        DoctorArgs,
        settings::{DEFAULT_PORT, parse_ticket},
    },
    join::{
        places::{Places, port_of},
        ticket::Ticket,
    },
    network::{self, Event, Multiaddr, Network, NetworkConfig, PeerId, RouterAnswer, Scope, scope_of},
    outln,
    storage::{StateCopy, TICKET, records},
    system::{memory, name::program, output::OutputError, random::random},
};

/// Machines that are called get this long to answer, and to look back. Those that relay for a run part with this one,
/// which is of none, after that.
const LOOK: Duration = network::STRANGER_STAYS.saturating_sub(Duration::from_secs(1));
/// Machines that are called.
const CALLS_MAX: usize = 16;
/// A ledger, a small model and its checkpoint need this much.
const DISK_BYTES_MIN: u64 = 1 << 30;
const MEMORY_BYTES_MIN: u64 = 1 << 29;
/// 2025: an earlier time of day was never set.
const EPOCH_MIN: Duration = Duration::from_secs(1_735_689_600);

enum Finding {
    Good(String),
    /// Not needed, or not known.
    Note(String),
    /// What is wrong, and what to do.
    Bad(String, String),
}

/// Looks at everything, prints a line for each. Fails if something is wrong.
pub fn run(args: &DoctorArgs) -> Result<()> {
    let mut findings = vec![clock(SystemTime::now()), disk(&args.state), memory_to_spare(), kernels()];
    findings.iter().try_for_each(print)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let network = runtime.block_on(look_around(args))?;
    network.iter().try_for_each(print)?;
    findings.extend(network);
    let bad = findings.iter().filter(|finding| matches!(finding, Finding::Bad(..))).count();
    if bad > 0 {
        bail!("{bad} of {} findings want something done", findings.len());
    }
    Ok(())
}

fn print(finding: &Finding) -> Result<(), OutputError> {
    match finding {
        Finding::Good(what) => outln!("good  {what}"),
        Finding::Note(what) => outln!("note  {what}"),
        Finding::Bad(what, remedy) => outln!("BAD   {what}\n      -> {remedy}"),
    }
}

fn clock(now: SystemTime) -> Finding {
    match now.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) if since >= EPOCH_MIN => Finding::Good("clock: set".into()),
        _ => Finding::Bad(
            "clock: long before this program was made".into(),
            "set it (timedatectl set-ntp true): journals and the page show its times; training does not need it".into(),
        ),
    }
}

fn disk(state: &Path) -> Finding {
    let existing = state.ancestors().find(|path| path.exists()).filter(|path| !path.as_os_str().is_empty());
    let directory = existing.unwrap_or(Path::new("."));
    let shown = directory.display();
    match rustix::fs::statvfs(directory) {
        Ok(found) => space(&shown.to_string(), found.f_bavail.saturating_mul(found.f_frsize)),
        Err(error) => Finding::Note(format!("disk: {shown}: the system does not tell ({error})")),
    }
}

fn space(directory: &str, free: u64) -> Finding {
    let what = format!("disk: {:.1} GB free at {directory}", free as f64 / 1e9);
    match free >= DISK_BYTES_MIN {
        true => Finding::Good(what),
        false => Finding::Bad(
            what,
            "free some, or put the state elsewhere with --state: a node needs twice its model and some megabytes"
                .into(),
        ),
    }
}

fn memory_to_spare() -> Finding {
    match memory::available_bytes() {
        Some(bytes) if bytes >= MEMORY_BYTES_MIN => {
            Finding::Good(format!("memory: {:.1} GB to spare; a model takes 4 bytes a weight", bytes as f64 / 1e9))
        }
        Some(bytes) => Finding::Bad(
            format!("memory: {:.1} GB to spare", bytes as f64 / 1e9),
            "close other programs, or take a smaller model: it takes 4 bytes a weight".into(),
        ),
        None => Finding::Note("memory: the system does not tell".into()),
    }
}

fn kernels() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match Kernel::best() {
        Kernel::Portable => Finding::Note(format!(
            "processor: {cores} cores; neither AVX2 nor AVX-512, so replay takes the portable code, a fifth as fast"
        )),
        kernel => Finding::Good(format!("processor: {cores} cores; replay uses {kernel}")),
    }
}

/// Calls who is known, and listens to what they see.
async fn look_around(args: &DoctorArgs) -> Result<Vec<Finding>> {
    // A directory that no node has used yet knows nobody.
    let copy = StateCopy::of(&args.state).ok();
    let ticket = args.join.as_deref().map(parse_ticket).transpose()?;
    let own = copy.as_ref().map(|copy| network::peer_id(copy.network_key())).transpose()?;
    let named = args.bootstrap.iter().map(|text| network::parse_bootstrap(text));
    let mut places: Vec<(PeerId, Multiaddr)> = named.collect::<Result<_, _>>()?;
    for (peer, addresses) in ticket.iter().flat_map(|ticket| &ticket.machines) {
        places.extend(addresses.iter().map(|address| (*peer, address.clone())));
    }
    let named: BTreeSet<PeerId> = places.iter().map(|(peer, _)| *peer).collect();
    if let Some(copy) = &copy {
        places.extend(records::peers(copy.known_peers()?));
    }
    places.retain(|(peer, _)| Some(*peer) != own);
    let mut calls: BTreeMap<PeerId, Vec<Multiaddr>> = BTreeMap::new();
    for (peer, address) in places {
        if calls.len() < CALLS_MAX || calls.contains_key(&peer) {
            calls.entry(peer).or_default().push(address);
        }
    }
    let of_state = copy.map(|copy| copy.secret()).transpose()?.flatten();
    let secret = ticket.and_then(|ticket| ticket.secret).or(of_state);
    let key: [u8; 32] = random()?;
    let config = |port| NetworkConfig {
        listen_at_any: true,
        asks_router: true,
        given: calls.values().flatten().cloned().collect(),
        prologue: secret.map(|secret| secret.connection()),
        ..NetworkConfig::new(key, None, network::everywhere(port))
    };
    let (network, port) = match Network::start(config(DEFAULT_PORT)).await {
        Err(error) if error.is_occupied() => {
            let free = Network::start(config(network::free_port()?)).await?;
            (
                free,
                Finding::Note(format!(
                    "port {DEFAULT_PORT}: taken, by a node that runs or another program; looked from another"
                )),
            )
        }
        other => (other?, Finding::Good(format!("port {DEFAULT_PORT}: free to listen on"))),
    };
    let mut findings = vec![port];
    findings.extend(look(network, &calls, &named, node_port(&args.state, own)).await);
    Ok(findings)
}

/// The port of the node of this state directory, as its ticket has it; else the one that a node takes first.
fn node_port(state: &Path, own: Option<PeerId>) -> u16 {
    let ticket = fs::read_to_string(state.join(TICKET)).ok().and_then(|word| Ticket::parse(word.trim()).ok());
    let own = ticket.iter().flat_map(|ticket| &ticket.machines).filter(|(peer, _)| Some(*peer) == own);
    own.flat_map(|(_, addresses)| addresses).find_map(port_of).unwrap_or(DEFAULT_PORT)
}

/// What became of the calls.
#[derive(Default)]
struct Calls {
    /// Whether only through a relay.
    reached: BTreeMap<PeerId, bool>,
    /// Whether any was reached outside of this site.
    is_far: bool,
    failed: BTreeMap<PeerId, String>,
}

impl Calls {
    /// Listens until nobody is left to wait for; who was reached may say more, until time is up.
    async fn listen(&mut self, network: &mut Network, called: usize) {
        while self.failed.len() < called || network.waits_for_router() {
            match network.next().await {
                Event::Connected(peer) => {
                    let remote = network.neighbours().find(|(other, ..)| **other == peer);
                    let scope = remote.and_then(|(_, remote, _)| remote.and_then(scope_of));
                    self.is_far |= scope.is_none_or(|scope| scope == Scope::World);
                    self.reached.insert(peer, false);
                }
                Event::Way { peer, is_relayed } => drop(self.reached.insert(peer, is_relayed)),
                Event::DialFailed { peer, error } => drop(self.failed.insert(peer, error)),
                _ => {}
            }
        }
    }
}

async fn look(
    mut network: Network,
    calls: &BTreeMap<PeerId, Vec<Multiaddr>>,
    named: &BTreeSet<PeerId>,
    port: u16,
) -> Vec<Finding> {
    calls.iter().for_each(|(peer, addresses)| network.dial(*peer, addresses.clone()));
    let mut outcome = Calls::default();
    let _ = tokio::time::timeout(LOOK, outcome.listen(&mut network, calls.len())).await;
    let Calls { reached, is_far, failed } = outcome;
    let places = Places::of(&network);
    let observed: Vec<Multiaddr> = network.observed().cloned().collect();
    let mut findings = vec![addresses(&places)];
    findings.extend(calls.iter().map(|(peer, addresses)| {
        let at = addresses.first().map_or_else(String::new, |address| format!(" at {address}"));
        match (reached.get(peer), failed.get(peer)) {
            (Some(true), _) => Finding::Good(format!("machine {peer}: reached through a relay")),
            (Some(false), _) => Finding::Good(format!("machine {peer}: reached{at}")),
            (None, error) if !named.contains(peer) => Finding::Note(format!(
                "machine {peer}{at}, of an earlier session: {}",
                error.map_or("no answer", String::as_str)
            )),
            (None, error) => Finding::Bad(
                format!("machine {peer}{at}: {}", error.map_or("no answer", String::as_str)),
                "is its node running, and its port open? It may have moved: a new ticket says where it is".into(),
            ),
        }
    }));
    findings.push(router(&places, &observed));
    findings.push(ports(network.router(), port));
    findings.push(from_outside(&places, port, reached.len(), is_far, network.relays_known()));
    network.close().await;
    findings
}

fn addresses(places: &Places) -> Finding {
    let own: Vec<String> = places.own().iter().map(ToString::to_string).collect();
    match own.is_empty() {
        true => Finding::Bad(
            "addresses: none".into(),
            "connect this machine to a network; a link-local address alone is not enough".into(),
        ),
        false => Finding::Good(format!("addresses: {}", own.join(", "))),
    }
}

/// What a router between this machine and others does, by where they see it.
fn router(places: &Places, observed: &[Multiaddr]) -> Finding {
    let ip_of = |address: &Multiaddr| -> Option<IpAddr> {
        let text = address.to_string();
        text.split('/').nth(2)?.parse().ok()
    };
    let port_of = |address: &Multiaddr| address.iter().nth(1).map(|port| port.to_string());
    if observed.is_empty() {
        return Finding::Note(
            "router: not known, since no machine outside was called; name one with --join or --bootstrap".into(),
        );
    }
    // IPv6 goes through untranslated beside IPv4, and keeps its port.
    let is_own = |seen: &Multiaddr| places.listening.iter().any(|own| ip_of(own) == ip_of(seen));
    let translated: Vec<&Multiaddr> = observed.iter().filter(|seen| !is_own(seen)).collect();
    let Some(first) = translated.first() else {
        return Finding::Good("router: none that translates addresses".into());
    };
    let ports: BTreeSet<_> = translated.iter().map(|seen| port_of(seen)).collect();
    let own_port = places.port().map(|port| format!("/tcp/{port}"));
    match (ports.len(), translated.len()) {
        (1, _) if port_of(first) == own_port => Finding::Good(format!(
            "router: translates addresses and keeps ports (seen at {first}): direct connections can often be opened through it"
        )),
        (1, 1) => Finding::Note(format!("router: translates addresses and ports (seen at {first})")),
        (1, _) => Finding::Good(format!(
            "router: translates addresses, one port for all (seen at {first}): direct connections can often be opened through it"
        )),
        _ => Finding::Note(
            "router: another port for every connection (symmetric): connections to other homes go through relays, which is enough for \
             gradients"
                .into(),
        ),
    }
}

/// Whether the router passes the port on when it is asked.
fn ports(answer: Option<&RouterAnswer>, port: u16) -> Finding {
    let by_hand = format!("if nobody can call this machine, pass TCP port {port} on by hand");
    match answer {
        _ if !cfg!(feature = "upnp") => Finding::Note(format!(
            "router, UPnP: not asked, this program was built without it (cargo feature `upnp`); {by_hand}"
        )),
        Some(RouterAnswer::Passes(address)) => {
            Finding::Good(format!("router, UPnP: passes {address} on to this machine when it is asked"))
        }
        Some(RouterAnswer::IsInside) => Finding::Note(format!(
            "router, UPnP: it is behind another router itself, so none of its ports can be called from outside; where that one is \
             yours, too, let it pass the port on to this one, else a relay does (`{} relay --help`)",
            program()
        )),
        Some(RouterAnswer::Refuses | RouterAnswer::PassesNoMore(_)) => Finding::Note(format!(
            "router, UPnP: takes requests and passes nothing on; allow it in the router's settings, or {by_hand}"
        )),
        Some(RouterAnswer::Silent) | None => Finding::Note(format!(
            "router, UPnP: none here takes requests; turn it on in the router's settings, or {by_hand}"
        )),
    }
}

/// Whether others could come here, at a node's `port`. `is_far`: somebody was reached who is not of this site.
fn from_outside(places: &Places, port: u16, reached: usize, is_far: bool, relays: usize) -> Finding {
    let of_world = |address: &&Multiaddr| scope_of(address) == Some(Scope::World);
    if let Some(address) = places.reachable.first() {
        return Finding::Good(format!("from outside: reachable at {address}; a node here relays for others"));
    }
    if reached == 0 {
        return Finding::Note("from outside: not known, since nobody out there was reached".into());
    }
    let open = format!("pass TCP port {port} on to this machine in the router, and let it through the firewall");
    match (places.listening.iter().find(of_world), relays) {
        (_, 1..) => Finding::Note(format!(
            "from outside: nobody came; {relays} relays are there, so a node here is reached through them. Direct: {open}"
        )),
        _ if !is_far => Finding::Note(format!(
            "from outside: nobody came; all who were reached are of this site, where nothing is needed. For machines elsewhere: {open}"
        )),
        (Some(address), 0) => Finding::Bad(
            format!("from outside: {address} is an address of the world, and nobody came"),
            format!("let TCP port {port} through the firewall, or name a relay with --relay"),
        ),
        (None, 0) => Finding::Bad(
            "from outside: nobody came, and no relay is known".into(),
            format!("{open}, or name a relay with --relay (`{} relay --help`)", program()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses_of(texts: &[&str]) -> Vec<Multiaddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn words(finding: &Finding) -> String {
        match finding {
            Finding::Good(what) => format!("good {what}"),
            Finding::Note(what) => format!("note {what}"),
            Finding::Bad(what, remedy) => format!("bad {what} {remedy}"),
        }
    }

    #[test]
    fn a_router_is_known_by_where_others_see_this_machine() {
        let home = Places { listening: addresses_of(&["/ip4/192.168.1.7/tcp/9713"]), ..Places::default() };
        let open = Places { listening: addresses_of(&["/ip4/203.0.113.5/tcp/9713"]), ..Places::default() };
        let both = ["/ip4/192.168.1.7/tcp/9713", "/ip6/2001:db8::7/tcp/9713"];
        let both = Places { listening: addresses_of(&both), ..Places::default() };
        for (places, observed, expected) in [
            (&home, &[][..], "note router: not known"),
            (&open, &["/ip4/203.0.113.5/tcp/9713"][..], "good router: none"),
            (
                &home,
                &["/ip4/203.0.113.5/tcp/9713", "/ip4/203.0.113.5/tcp/9713"],
                "good router: translates addresses and keeps",
            ),
            (
                &home,
                &["/ip4/203.0.113.5/tcp/40000", "/ip4/203.0.113.5/tcp/40000"],
                "good router: translates addresses, one",
            ),
            (
                &both,
                &["/ip6/2001:db8::7/tcp/9713", "/ip4/203.0.113.5/tcp/40000", "/ip4/203.0.113.5/tcp/40000"],
                "good router: translates addresses, one",
            ),
            (&both, &["/ip6/2001:db8::7/tcp/9713"], "good router: none"),
            (&home, &["/ip4/203.0.113.5/tcp/40000"], "note router: translates addresses and ports"),
            (&home, &["/ip4/203.0.113.5/tcp/40000", "/ip4/203.0.113.5/tcp/40001"], "note router: another port"),
        ] {
            let found = words(&router(places, &addresses_of(observed)));
            assert!(found.starts_with(expected), "{observed:?}: {found}");
        }
    }

    /// Beside a node that ran, it named the port that it had taken for itself.
    #[test]
    fn the_port_to_pass_on_is_that_of_the_directorys_node() {
        let state = tempfile::tempdir().unwrap();
        let [own, other] = [1, 2].map(|seed| network::peer_id([seed; 32]).unwrap());
        assert_eq!(node_port(state.path(), Some(own)), DEFAULT_PORT, "no node has run");
        let machines = vec![
            (other, addresses_of(&["/ip4/192.168.1.8/tcp/7"])),
            (own, addresses_of(&["/ip4/192.168.1.7/tcp/4000"])),
        ];
        let ticket = Ticket { run: protocol::manifest::RunId([9; 32]), secret: None, machines };
        fs::write(state.path().join(TICKET), ticket.encode()).unwrap();
        assert_eq!(node_port(state.path(), Some(own)), 4000);
        assert_eq!(node_port(state.path(), None), DEFAULT_PORT);
    }

    #[test]
    fn what_is_missing_comes_with_what_to_do() {
        let home = Places { listening: addresses_of(&["/ip4/192.168.1.7/tcp/4000"]), ..Places::default() };
        let world = Places { listening: addresses_of(&["/ip4/203.0.113.5/tcp/4000"]), ..Places::default() };
        let reachable = Places { reachable: addresses_of(&["/ip4/203.0.113.5/tcp/4000"]), ..Places::default() };
        for (finding, expected) in [
            (from_outside(&reachable, 4000, 1, true, 0), "good from outside: reachable at /ip4/203.0.113.5"),
            (from_outside(&home, 4000, 0, false, 0), "note from outside: not known"),
            (from_outside(&home, 4000, 1, true, 2), "note from outside: nobody came; 2 relays"),
            (
                from_outside(&home, 4000, 1, true, 0),
                "bad from outside: nobody came, and no relay is known pass TCP port",
            ),
            (
                from_outside(&home, 4000, 1, false, 0),
                "note from outside: nobody came; all who were reached are of this site",
            ),
            (from_outside(&world, 4000, 1, true, 0), "bad from outside: /ip4/203.0.113.5/tcp/4000 is an address"),
            (space("x", 5), "bad disk: 0.0 GB free at x free some"),
            (space("x", 1 << 40), "good disk"),
            (clock(SystemTime::UNIX_EPOCH), "bad clock"),
            (clock(SystemTime::now()), "good clock"),
            (addresses(&Places::default()), "bad addresses: none connect"),
            (ports(None, 4000), "note router, UPnP: no"),
        ] {
            let found = words(&finding);
            assert!(found.starts_with(expected), "{found}");
        }
    }
}
