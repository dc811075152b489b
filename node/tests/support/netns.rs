//! Machines and switches as network namespaces: they reach each other and nothing else. Needs root and iproute2.

use std::{
    cell::{Cell, RefCell},
    path::Path,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use super::Node;

/// Where nodes in namespaces listen.
const LISTEN: &str = "/ip4/0.0.0.0/tcp/9713";

/// A network of its own, which goes when it is dropped.
pub struct Net {
    prefix: String,
    spaces: RefCell<Vec<String>>,
    plugs: Cell<u32>,
}

impl Net {
    /// None, with a printed reason, where namespaces cannot be made.
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("ob{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = Self { prefix, spaces: RefCell::default(), plugs: Cell::default() };
        match Command::new("ip").args(["netns", "add", &net.name("probe")]).output() {
            Ok(output) if output.status.success() => {
                net.spaces.borrow_mut().push(net.name("probe"));
                Some(net)
            }
            Ok(output) => {
                println!("skipped: no network namespaces here ({})", String::from_utf8_lossy(&output.stderr).trim());
                None
            }
            Err(error) => {
                println!("skipped: no network namespaces here (ip: {error})");
                None
            }
        }
    }

    fn name(&self, space: &str) -> String {
        format!("{}-{space}", self.prefix)
    }

    fn space(&self, space: &str) {
        ip(&["netns", "add", &self.name(space)]);
        self.spaces.borrow_mut().push(self.name(space));
        self.ip(space, &["link", "set", "lo", "up"]);
    }

    /// `ip` within a machine or a switch.
    pub fn ip(&self, space: &str, arguments: &[&str]) {
        ip(&[&["-n", &self.name(space)], arguments].concat());
    }

    /// A switch.
    pub fn switch(&self, switch: &str) {
        self.space(switch);
        self.ip(switch, &["link", "add", "br0", "type", "bridge", "forward_delay", "0"]);
        self.ip(switch, &["link", "set", "br0", "up"]);
    }

    /// A machine with one interface, `eth0`, on a switch. `address`: with the length of its prefix.
    pub fn machine(&self, machine: &str, switch: &str, address: &str) {
        self.space(machine);
        let plug = format!("p{}", self.plugs.replace(self.plugs.get() + 1));
        let (machine_space, switch_space) = (self.name(machine), self.name(switch));
        let ends = ["netns", &machine_space, "type", "veth", "peer", "name", &plug, "netns", &switch_space];
        ip(&[&["link", "add", "eth0"][..], &ends].concat());
        self.ip(machine, &["link", "set", "eth0", "up"]);
        self.ip(switch, &["link", "set", &plug, "up", "master", "br0"]);
        self.set_address(machine, address);
    }

    /// The machine's only address from now on.
    pub fn set_address(&self, machine: &str, address: &str) {
        self.ip(machine, &["addr", "flush", "dev", "eth0"]);
        self.ip(machine, &["addr", "add", address, "dev", "eth0"]);
    }

    /// A node on a machine, without mDNS, as across the internet.
    pub fn node(&self, machine: &str, state: &Path, arguments: &[&str]) -> Node {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(machine), env!("CARGO_BIN_EXE_node"), "--state"]).arg(state);
        command.args(["--listen", LISTEN, "--no-mdns"]).args(arguments);
        Node::spawn(command, state)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for space in self.spaces.borrow().iter() {
            let _ = Command::new("ip").args(["netns", "del", space]).output();
        }
    }
}

fn ip(arguments: &[&str]) -> Output {
    let output = Command::new("ip").args(arguments).output().unwrap();
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
