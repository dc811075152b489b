//! Real nodes on machines of their own, whose links and addresses change. Skips where namespaces cannot be made.

use crate::support::{Net, Node};
use serde_json::Value;
use std::path::Path;

const SMALL: [&str; 4] = ["--batch-size", "1", "--sequence-length", "32"];

/// A node that makes so many gradients and stays.
fn start(net: &Net, machine: &str, directory: &Path, samples: u64, more: &[&str]) -> Node {
    let samples = samples.to_string();
    net.node(machine, &directory.join(machine), &[&SMALL, &["--samples", &samples][..], more].concat())
}

/// The first node of a run.
fn first(net: &Net, machine: &str, directory: &Path, samples: u64) -> Node {
    start(net, machine, directory, samples, &["--learning-rate", "2e-4"])
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

/// Behind routers that let nobody in, each home has nobody but the public machine, and both think that they are
/// 192.168.1.7.
#[test]
fn homes_find_a_public_machine_that_was_away_and_hear_each_other_through_it() {
    let Some(net) = Net::new() else { return };
    let directory = tempfile::tempdir().unwrap();
    net.switch("internet");
    net.machine("public", "internet", "198.51.100.1/24");
    if !net.home("home-1", "internet", "198.51.100.11/24") || !net.home("home-2", "internet", "198.51.100.12/24") {
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
