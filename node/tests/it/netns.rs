//! Real nodes on machines of their own, whose links and addresses change. Skips where namespaces cannot be made.

use crate::support::{Line, Nat, Net, Node, assert_agreement};
use node::{join::ticket::Ticket, network};
use serde_json::Value;
use std::{path::Path, time::Duration};

const SMALL: [&str; 4] = ["--batch-size", "1", "--sequence-length", "32"];

/// A node that makes so many gradients and stays.
fn start(net: &Net, machine: &str, directory: &Path, samples: u64, more: &[&str]) -> Node {
    let samples = samples.to_string();
    net.node(machine, &directory.join(machine), &[&SMALL, &["--samples", &samples][..], more].concat())
}

/// The first node of a run.
fn first(net: &Net, machine: &str, directory: &Path, samples: u64) -> Node {
    start(net, machine, directory, samples, &["--learning-rate", "2e-3"])
}

fn peers(status: &Value) -> usize {
    status["peers"].as_array().map_or(0, Vec::len)
}

/// Gradients of others.
fn of_others(status: &Value) -> u64 {
    let machines = status["machines"].as_array().into_iter().flatten();
    machines.filter(|machine| machine["own"] == false).filter_map(|machine| machine["height"].as_u64()).sum()
}

/// Two machines on one switch; the second joins at the address that the first prints.
fn pair(net: &Net, directory: &Path, samples: u64) -> (Node, Node) {
    net.switch("switch");
    net.machine("first", "switch", "10.9.0.1/24");
    net.machine("second", "switch", "10.9.0.2/24");
    let one = first(net, "first", directory, 50);
    let (address, run) = one.join_line();
    let two = start(net, "second", directory, samples, &["--bootstrap", &address, "--run", &run]);
    two.until("has gradients of the first", |status| of_others(status) > 0);
    one.until("has gradients of the second", |status| of_others(status) > 0);
    (one, two)
}

#[test]
fn a_machine_that_was_away_is_found_again_at_its_address() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = pair(&net, directory.path(), 50);
    let peer = one.status()["peers"][0].clone();
    let address = peer["address"].as_str().unwrap_or_default();
    assert!(address.starts_with("/ip4/10.9.0.2/tcp/"), "a peer that called is shown where it is: {peer}");
    one.leave();
    two.until("alone", |status| peers(status) == 0);
    // Long enough for discovery to have looked for somebody at every address that it ever heard of.
    two.hear_times("cannot be reached", 5);
    let one = first(&net, "first", directory.path(), 51);
    let took = two.until("aware that the first is back", |status| peers(status) == 1);
    println!("found again after {:.1} s", took.as_secs_f64());
    two.until("has what the first made since", |status| of_others(status) >= 51);
    for node in [one, two] {
        node.leave();
    }
}

#[test]
fn a_link_that_comes_back_with_another_address_is_used_again() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = pair(&net, directory.path(), 10_000_000);
    net.ip("second", &["link", "set", "eth0", "down"]);
    let silent = one.until("aware that nobody is there", |status| peers(status) == 0);
    println!("silence was noticed after {:.1} s", silent.as_secs_f64());
    let before = of_others(&one.status());
    net.set_address("second", "10.9.0.72/24");
    net.ip("second", &["link", "set", "eth0", "up"]);
    let took = one.until("hears the second again", |status| of_others(status) > before);
    println!("heard again after {:.1} s", took.as_secs_f64());
    let peer = one.status()["peers"][0].clone();
    assert!(peer["address"].as_str().is_some_and(|address| address.starts_with("/ip4/10.9.0.72/")), "{peer}");
    for node in [one, two] {
        node.leave();
    }
}

/// Two homes on the switch `internet`, which knows their routers. False where there are no routers.
fn two_homes(net: &Net, nat: Nat) -> bool {
    net.home("home-1", "internet", "198.51.100.11/24", nat) && net.home("home-2", "internet", "198.51.100.12/24", nat)
}

/// Whether somebody is connected through a relay.
fn has_circuit(status: &Value) -> bool {
    let peers = status["peers"].as_array().into_iter().flatten();
    peers.filter_map(|peer| peer["address"].as_str()).any(|address| address.contains("/p2p-circuit"))
}

/// Behind routers that let nobody in, each home has nobody but the public machine, and both think that they are
/// 192.168.1.7.
#[test]
fn homes_find_a_public_machine_that_was_away_and_hear_each_other_through_it() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    net.switch("internet");
    net.machine("public", "internet", "198.51.100.1/24");
    if !two_homes(&net, Nat::PortRestricted) {
        return;
    }
    let public = first(&net, "public", directory.path(), 50);
    let (address, run) = public.join_line();
    let join = ["--bootstrap", &address, "--run", &run];
    let homes = ["home-1", "home-2"].map(|home| start(&net, home, directory.path(), 50, &join));
    for home in &homes {
        home.until("has what the others made", |status| of_others(status) == 100);
    }
    let shown = public.status()["peers"].to_string();
    assert!(shown.contains("/ip4/198.51.100.11/") && shown.contains("/ip4/198.51.100.12/"), "{shown}");
    public.leave();
    homes[0].hear_times("cannot be reached", 5);
    let public = first(&net, "public", directory.path(), 51);
    for home in &homes {
        let took = home.until("has what the public machine made since", |status| of_others(status) == 101);
        println!("{took:.1?} after the public machine began");
    }
    for node in homes.into_iter().chain([public]) {
        node.leave();
    }
}

/// Ways through relays in a node's ticket.
fn circuits(node: &Node) -> usize {
    let ticket = Ticket::parse(&node.ticket()).unwrap();
    ticket.machines[0].1.iter().filter(|address| network::is_relayed(address)).count()
}

/// Everything between the homes goes through machines that relay and train nothing: `node relay`, named by the first.
#[test]
fn two_homes_that_nobody_can_call_train_one_run_through_relays_and_one_relay_may_leave() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    net.switch("internet");
    net.machine("relay-1", "internet", "198.51.100.1/24");
    net.machine("relay-2", "internet", "198.51.100.2/24");
    if !two_homes(&net, Nat::Symmetric) {
        return;
    }
    let relays = ["relay-1", "relay-2"].map(|relay| net.run(relay, &directory.path().join(relay), &["relay"]));
    let address = |relay: &Node, at: &str| {
        let line = relay.hear(&format!("--relay /ip4/{at}"));
        line.split_whitespace().last().unwrap().to_owned()
    };
    let (first_relay, second_relay) = (address(&relays[0], "198.51.100.1"), address(&relays[1], "198.51.100.2"));
    relays[0].hear("whoever comes, at most 250 kilobytes a second together");
    let learns = ["--learning-rate", "2e-3", "--relay", &first_relay, "--relay", &second_relay];
    let one = start(&net, "home-1", directory.path(), 400, &learns);
    one.until("reached through both relays", |_| circuits(&one) == 2);
    let two = start(&net, "home-2", directory.path(), 400, &["--join", &one.ticket()]);
    for home in [&one, &two] {
        home.until("has gradients of the other", |status| of_others(status) > 0 && has_circuit(status));
    }
    let [gone, other] = relays;
    gone.leave();
    for home in [&one, &two] {
        home.until("goes on through the other relay", |status| of_others(status) >= 400 && has_circuit(status));
    }
    let states = [one, two].map(Node::leave);
    assert_agreement(&states);
    other.leave();
}

/// The same with two machines of the run that can be called: each relays beside its own work, nobody says so to anyone,
/// and one of them leaves. The run is private.
#[test]
fn trainers_that_can_be_called_relay_for_those_that_cannot_and_one_may_leave() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    net.switch("internet");
    net.machine("public-1", "internet", "198.51.100.1/24");
    net.machine("public-2", "internet", "198.51.100.2/24");
    if !two_homes(&net, Nat::Symmetric) {
        return;
    }
    let gone = start(&net, "public-1", directory.path(), 50, &["--learning-rate", "2e-3", "--private"]);
    let join = ["--join", &gone.ticket()];
    let stays = start(&net, "public-2", directory.path(), 50, &join);
    let homes = ["home-1", "home-2"].map(|home| start(&net, home, directory.path(), 50, &join));
    for home in &homes {
        home.until("reached through two relays", |status| circuits(home) == 2 && has_circuit(status));
    }
    gone.leave();
    for home in &homes {
        home.until("knows the other through the other relay", |status| peers(status) >= 2 && has_circuit(status));
    }
    let more = |name: &str| start(&net, name, directory.path(), 90, &[]);
    let [first, second] = homes;
    first.leave();
    let first = more("home-1");
    second.until("has what the first made since", |status| of_others(status) == 190);
    first.until("has all", |status| of_others(status) == 150);
    assert_agreement(&[first, second, stays].map(Node::leave));
}

/// Two machines that meet in some way train one run, whatever comes between them meanwhile, and end with equal weights.
fn cell(first: Node, join: impl FnOnce(&Node) -> Node, between: impl FnOnce(&Node, &Node)) {
    let second = join(&first);
    let both = [&first, &second];
    let took = both.map(|node| node.until("has gradients of the other", |status| of_others(status) > 0));
    println!("first gradients of the other after {took:.1?}");
    between(&first, &second);
    for node in both {
        node.until("has all of the other", |status| of_others(status) == CELL);
    }
    assert_agreement(&[first, second].map(Node::leave));
}

/// Gradients of each machine of a cell.
const CELL: u64 = 2_000;

/// A machine of a cell, with what people type there.
fn of_cell(net: &Net, directory: &Path, machine: &str, arguments: &[&str]) -> Node {
    let samples = CELL.to_string();
    let limits = ["--samples", &samples, "--batch-size", "1", "--sequence-length", "32"];
    net.run(machine, &directory.join(machine), &[&limits, arguments].concat())
}

/// Two machines on one switch at `addresses`, which find each other without being told of each other.
fn on_one_network(addresses: [&str; 2], between: impl FnOnce(&Net, &Node, &Node)) {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    net.switch("switch");
    net.machine("first", "switch", addresses[0]);
    net.machine("second", "switch", addresses[1]);
    let first = of_cell(&net, directory.path(), "first", &["--learning-rate", "2e-3"]);
    first.ticket();
    let join = |_: &Node| of_cell(&net, directory.path(), "second", &["--join", "lan"]);
    cell(first, join, |first, second| between(&net, first, second));
}

#[test]
fn machines_of_one_network_find_each_other() {
    on_one_network(["192.168.1.2/24", "192.168.1.3/24"], |_, _, _| ());
}

#[test]
fn machines_without_ipv4_find_each_other() {
    on_one_network(["fd00::1/64", "fd00::2/64"], |_, first, _| {
        assert!(!first.ticket().is_empty() && !first.said("/ip4/"));
    });
}

#[test]
fn a_machine_that_slept_goes_on_whichever_began() {
    on_one_network(["192.168.1.2/24", "192.168.1.3/24"], |_, first, second| {
        for (sleeper, other) in [(second, first), (first, second)] {
            sleeper.signal("STOP");
            other.until("aware that this one sleeps", |status| peers(status) == 0);
            sleeper.signal("CONT");
            let took = other.until("aware that this one is back", |status| peers(status) == 1);
            println!("back after {took:.1?}");
        }
    });
}

#[test]
fn a_switch_that_is_unplugged_for_a_while_loses_nothing() {
    on_one_network(["192.168.1.2/24", "192.168.1.3/24"], |net, first, _| {
        net.ip("switch", &["link", "set", "br0", "down"]);
        std::thread::sleep(Duration::from_secs(10));
        net.ip("switch", &["link", "set", "br0", "up"]);
        first.until("connected", |status| peers(status) == 1);
    });
}

/// Another run on the same network is seen, said, and no offence.
#[test]
fn two_runs_on_one_network_leave_each_other_alone_and_a_run_can_be_named() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    net.switch("switch");
    for (number, machine) in ["first", "other", "joiner"].iter().enumerate() {
        net.machine(machine, "switch", &format!("192.168.1.{}/24", number + 2));
    }
    let learns = ["--learning-rate", "2e-3"];
    let first = of_cell(&net, directory.path(), "first", &learns);
    first.ticket();
    let other = of_cell(&net, directory.path(), "other", &learns);
    let run = Ticket::parse(&other.ticket()).unwrap().run.to_string();
    first.hear(&format!("is of another run, {run}"));
    other.hear(&format!("node --run {}", Ticket::parse(&first.ticket()).unwrap().run));
    let joiner = of_cell(&net, directory.path(), "joiner", &["--run", &run]);
    joiner.hear(&format!("joined run {run}"));
    joiner.until("has all of the other run", |status| of_others(status) == CELL);
    assert!(![&first, &other, &joiner].iter().any(|node| node.said("banned")));
    for node in [first, other, joiner] {
        node.leave();
    }
}

/// Nobody told this home: the first machine that comes through its router, called at an address that people put in by
/// hand, shows where others can.
#[test]
fn a_port_that_a_router_passes_on_is_found_out_and_the_next_machine_joins_by_the_ticket() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    net.switch("internet");
    net.machine("public", "internet", "198.51.100.1/24");
    if !net.home("home-1", "internet", "198.51.100.11/24", Nat::Forwarded)
        || !net.home("home-2", "internet", "198.51.100.12/24", Nat::Symmetric)
    {
        return;
    }
    let first = of_cell(&net, directory.path(), "home-1", &["--no-mdns", "--learning-rate", "2e-3"]);
    let ticket = Ticket::parse(&first.ticket()).unwrap();
    let (outside, run) = ("/ip4/198.51.100.11/tcp/9713", ticket.run.to_string());
    let by_hand = format!("{outside}/p2p/{}", ticket.machines[0].0);
    let public = start(&net, "public", directory.path(), 0, &["--bootstrap", &by_hand, "--run", &run]);
    first.until("named where it can be called", |_| {
        let ticket = Ticket::parse(&first.ticket()).unwrap();
        ticket.machines[0].1[0].to_string() == outside
    });
    public.leave();
    let join = |first: &Node| of_cell(&net, directory.path(), "home-2", &["--no-mdns", "--join", &first.ticket()]);
    cell(first, join, |_, second| {
        second.until("connected directly", |status| is_at(status, "198.51.100.11") && !has_circuit(status));
    });
}

/// A port that a router passes on is named by hand.
#[test]
fn a_home_whose_router_passes_the_port_on_is_called_directly() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    net.switch("internet");
    if !net.home("home-1", "internet", "198.51.100.11/24", Nat::Forwarded)
        || !net.home("home-2", "internet", "198.51.100.12/24", Nat::Symmetric)
    {
        return;
    }
    let outside = "/ip4/198.51.100.11/tcp/9713";
    let first =
        of_cell(&net, directory.path(), "home-1", &["--no-mdns", "--learning-rate", "2e-3", "--announce", outside]);
    let join = |first: &Node| {
        let ticket = Ticket::parse(&first.ticket()).unwrap();
        assert_eq!(ticket.machines[0].1[0].to_string(), outside, "what others can reach comes first");
        of_cell(&net, directory.path(), "home-2", &["--no-mdns", "--join", &ticket.encode()])
    };
    cell(first, join, |_, second| {
        second.until("connected directly", |status| peers(status) == 1 && !has_circuit(status));
    });
}

/// Delay, loss and little room: 80 ms, one frame in fifty lost, 1 Mbit/s.
#[test]
fn a_long_and_lossy_line_carries_a_run() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let seed = u64::from(std::process::id());
    println!("the line loses by seed {seed}");
    let line = Line { delay: Duration::from_millis(80), lost: 20, bytes_per_second: 125_000.0 };
    net.switch("internet");
    net.machine("first", "internet", "198.51.100.1/24");
    if !net.machine_over("second", "internet", "198.51.100.2/24", line, seed) {
        return;
    }
    let first = of_cell(&net, directory.path(), "first", &["--no-mdns", "--learning-rate", "2e-3"]);
    let join = |first: &Node| of_cell(&net, directory.path(), "second", &["--no-mdns", "--join", &first.ticket()]);
    cell(first, join, |first, _| {
        let far = |status: &Value| status["peers"][0]["round_trip_ms"].as_f64() > Some(150.0);
        first.until("aware how far the other is", far);
    });
}

/// Whether somebody is connected directly, at this address.
fn is_at(status: &Value, ip: &str) -> bool {
    let peers = status["peers"].as_array().into_iter().flatten();
    peers.filter_map(|peer| peer["address"].as_str()).any(|address| address.starts_with(&format!("/ip4/{ip}/")))
}

/// A relay and two homes; what the relay's address is. None, with a printed reason, where there are no routers.
fn relay_and_homes(net: &Net, directory: &Path, nat: Nat) -> Option<(Node, String)> {
    net.switch("internet");
    net.machine("relay", "internet", "198.51.100.1/24");
    if !two_homes(net, nat) {
        return None;
    }
    let relay = net.run("relay", &directory.join("relay"), &["relay"]);
    let line = relay.hear("--relay /ip4/198.51.100.1");
    let address = line.split_whitespace().last().unwrap().to_owned();
    Some((relay, address))
}

/// They meet through a relay; each sends to where the relay sees the other, which opens both routers; then what went
/// through the relay goes directly.
#[test]
fn holes_are_punched_between_port_restricted_homes() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let Some((relay, address)) = relay_and_homes(&net, directory.path(), Nat::PortRestricted) else { return };
    let learns = ["--no-mdns", "--learning-rate", "2e-3", "--relay", &address];
    let first = of_cell(&net, directory.path(), "home-1", &learns);
    first.until("reached through the relay", |_| circuits(&first) == 1);
    let join = |first: &Node| of_cell(&net, directory.path(), "home-2", &["--no-mdns", "--join", &first.ticket()]);
    cell(first, join, |first, second| {
        for (node, other) in [(first, "198.51.100.12"), (second, "198.51.100.11")] {
            let took = node.until("connected directly", |status| is_at(status, other) && !has_circuit(status));
            println!("connected directly after {took:.1?}");
        }
    });
    relay.leave();
}

/// The relay's call back shows that the router lets everybody in: this home needs no relay, and its ticket says so.
#[test]
fn a_home_behind_a_full_cone_router_is_called_directly() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    let Some((relay, address)) = relay_and_homes(&net, directory.path(), Nat::FullCone) else { return };
    let learns = ["--no-mdns", "--learning-rate", "2e-3", "--relay", &address];
    let first = of_cell(&net, directory.path(), "home-1", &learns);
    let outside = "/ip4/198.51.100.11/tcp/9713";
    let leads_there = |_: &Value| {
        let ticket = Ticket::parse(&first.ticket()).unwrap();
        ticket.machines[0].1.iter().any(|address| address.to_string() == outside)
    };
    let took = first.until("named where it can be called", leads_there);
    println!("found out after {took:.1?}");
    let join = |first: &Node| of_cell(&net, directory.path(), "home-2", &["--no-mdns", "--join", &first.ticket()]);
    cell(first, join, |_, second| {
        second.until("connected directly", |status| is_at(status, "198.51.100.11") && !has_circuit(status));
    });
    relay.leave();
}

/// Two homes whose routers give every connection another port, at addresses of the world; that of the first takes
/// requests for ports, and grants them or not. None, with a printed reason, where that cannot be.
fn homes_that_ask(grants: bool) -> Option<Net> {
    if !cfg!(feature = "upnp") {
        println!("skipped: built without the feature `upnp`");
        return None;
    }
    let net = Net::new()?;
    net.switch("internet");
    let stand = net.home("home-1", "internet", "11.22.33.11/24", Nat::Symmetric)
        && net.home("home-2", "internet", "11.22.33.12/24", Nat::Symmetric)
        && net.takes_requests("home-1", grants);
    stand.then_some(net)
}

#[test]
fn a_home_whose_router_grants_it_a_port_is_called_directly() {
    let Some(net) = homes_that_ask(true) else { return };
    let directory = tempfile::tempdir().unwrap();
    let first = of_cell(&net, directory.path(), "home-1", &["--learning-rate", "2e-3"]);
    let outside = "/ip4/11.22.33.11/tcp/9713";
    first.hear(&format!("the router passes {outside} on to this machine (UPnP)"));
    let leads_there = |_: &Value| {
        let ticket = Ticket::parse(&first.ticket()).unwrap();
        ticket.machines[0].1[0].to_string() == outside
    };
    first.until("named where it can be called", leads_there);
    let join = |first: &Node| of_cell(&net, directory.path(), "home-2", &["--join", &first.ticket()]);
    cell(first, join, |_, second| {
        second.until("connected directly", |status| is_at(status, "11.22.33.11") && !has_circuit(status));
    });
}

/// The bridge of a container went, and nobody could call the home any more.
#[test]
fn a_bridge_that_goes_leaves_the_port_that_the_router_granted() {
    let Some(net) = homes_that_ask(true) else { return };
    let directory = tempfile::tempdir().unwrap();
    let first = of_cell(&net, directory.path(), "home-1", &["--learning-rate", "2e-3"]);
    first.hear("the router passes /ip4/11.22.33.11/tcp/9713 on to this machine (UPnP)");
    net.ip("home-1", &["link", "add", "docker0", "type", "bridge"]);
    net.ip("home-1", &["addr", "add", "172.17.0.1/16", "dev", "docker0"]);
    net.ip("home-1", &["link", "set", "docker0", "up"]);
    std::thread::sleep(Duration::from_secs(3));
    net.ip("home-1", &["link", "del", "docker0"]);
    std::thread::sleep(Duration::from_secs(5));
    let join = |first: &Node| of_cell(&net, directory.path(), "home-2", &["--join", &first.ticket()]);
    cell(first, join, |first, second| {
        second.until("connected directly", |status| is_at(status, "11.22.33.11") && !has_circuit(status));
        assert!(!first.said("no more (UPnP)"), "the port is the same");
    });
}

#[test]
fn a_router_that_grants_no_port_is_said_once() {
    let Some(net) = homes_that_ask(false) else { return };
    let directory = tempfile::tempdir().unwrap();
    let first = of_cell(&net, directory.path(), "home-1", &["--learning-rate", "2e-3"]);
    assert!(first.hear("was asked to pass this machine's port on (UPnP), and did not").contains("--announce"));
    assert!(!first.said("on to this machine (UPnP)"));
    first.leave();
}
