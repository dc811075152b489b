//! Machines and switches as network namespaces: they reach each other and nothing else. Needs root and iproute2.

use std::{
    cell::{Cell, RefCell},
    fs::{self, File},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::{
    Node,
    cable::{Cable, Line},
};

/// What a home's router does with connections that did not begin at home, and with the ports of those that did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Nat {
    /// Lets nobody in; ports stay what they are as long as they are free.
    PortRestricted,
    /// Lets nobody in; every connection has another port.
    Symmetric,
    /// Passes port 9713 on.
    Forwarded,
    /// Passes everything on that comes to a port which something at home has used, whoever sends it.
    FullCone,
}

/// A network of its own, which goes when it is dropped.
pub struct Net {
    prefix: String,
    spaces: RefCell<Vec<String>>,
    plugs: Cell<u32>,
    cables: RefCell<Vec<Cable>>,
    daemons: RefCell<Vec<Child>>,
    files: tempfile::TempDir,
}

impl Net {
    /// None, with a printed reason, where namespaces cannot be made.
    pub fn new() -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("ob{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let net = Self {
            prefix,
            spaces: RefCell::default(),
            plugs: Cell::default(),
            cables: RefCell::default(),
            daemons: RefCell::default(),
            files: tempfile::tempdir().ok()?,
        };
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
        self.cable((machine, "eth0"), (switch, &plug));
        self.ip(switch, &["link", "set", &plug, "master", "br0"]);
        self.set_address(machine, address);
    }

    /// A machine with one interface, `eth0`, on a switch, over a line of its own. What the line loses follows from
    /// `seed`. False, with a printed reason, where there are no TAP devices.
    pub fn machine_over(&self, machine: &str, switch: &str, address: &str, line: Line, seed: u64) -> bool {
        self.space(machine);
        let plug = format!("p{}", self.plugs.replace(self.plugs.get() + 1));
        match Cable::new((self.name(machine), "eth0"), (self.name(switch), &plug), line, seed) {
            Ok(cable) => self.cables.borrow_mut().push(cable),
            Err(error) => {
                println!("skipped: no TAP devices here ({error})");
                return false;
            }
        }
        self.ip(machine, &["link", "set", "eth0", "up"]);
        self.ip(switch, &["link", "set", &plug, "master", "br0"]);
        self.ip(switch, &["link", "set", &plug, "up"]);
        self.set_address(machine, address);
        true
    }

    /// A cable between two interfaces, which are made for it.
    fn cable(&self, one: (&str, &str), other: (&str, &str)) {
        let (one_space, other_space) = (self.name(one.0), self.name(other.0));
        let ends = ["netns", &one_space, "type", "veth", "peer", "name", other.1, "netns", &other_space];
        ip(&[&["link", "add", one.1][..], &ends].concat());
        self.ip(one.0, &["link", "set", one.1, "up"]);
        self.ip(other.0, &["link", "set", other.1, "up"]);
    }

    /// A machine at 192.168.1.7 behind a router that translates addresses, as in most homes. The router is on a switch
    /// at `address`. False, with a printed reason, where there is no `nft`.
    pub fn home(&self, machine: &str, switch: &str, address: &str, nat: Nat) -> bool {
        let router = format!("{machine}-router");
        self.machine(&router, switch, address);
        self.space(machine);
        self.cable((machine, "eth0"), (&router, "lan"));
        self.ip(&router, &["addr", "add", "192.168.1.1/24", "dev", "lan"]);
        self.set_address(machine, "192.168.1.7/24");
        self.ip(machine, &["route", "add", "default", "via", "192.168.1.1"]);
        let ports = if nat == Nat::Symmetric { " fully-random" } else { "" };
        let mut rules = format!(
            "add table ip home; \
             add chain ip home out {{ type nat hook postrouting priority 100; }}; \
             add rule ip home out oifname eth0 masquerade{ports}; \
             add chain ip home through {{ type filter hook forward priority 0; policy drop; }}; \
             add rule ip home through ct state established,related accept; \
             add rule ip home through iifname lan accept"
        );
        // What nobody at home asked for is dropped without a word, as home routers do.
        rules.push_str(
            "; add chain ip home here { type filter hook input priority 0; }; \
             add rule ip home here iifname eth0 ct state new meta l4proto tcp drop",
        );
        if nat == Nat::FullCone {
            // One machine is at home, and keeps its ports outside.
            rules.push_str(
                "; add rule ip home through ct status dnat accept; \
                 add chain ip home in { type nat hook prerouting priority -100; }; \
                 add rule ip home in iifname eth0 tcp dport 1024-65535 dnat to 192.168.1.7",
            );
        }
        if nat == Nat::Forwarded {
            rules.push_str(
                "; add rule ip home through tcp dport 9713 accept; \
                 add chain ip home in { type nat hook prerouting priority -100; }; \
                 add rule ip home in iifname eth0 tcp dport 9713 dnat to 192.168.1.7",
            );
        }
        let within = |program: &str, arguments: &[&str]| {
            let router = self.name(&router);
            Command::new("ip").args(["netns", "exec", &router, program]).args(arguments).output()
        };
        let forwards = within("sh", &["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        assert!(forwards.is_ok_and(|output| output.status.success()), "{router} cannot forward");
        match within("nft", &[&rules]) {
            Ok(output) if output.status.success() => true,
            Ok(output) => {
                println!("skipped: no home router here (nft: {})", String::from_utf8_lossy(&output.stderr).trim());
                false
            }
            Err(error) => {
                println!("skipped: no home router here (ip: {error})");
                false
            }
        }
    }

    /// The router of a home takes requests for ports from now on (UPnP), and grants them or does not. It must be at an
    /// address of the world. False, with a printed reason, where there is no `miniupnpd` that speaks to nft.
    pub fn takes_requests(&self, machine: &str, grants: bool) -> bool {
        let router = self.name(&format!("{machine}-router"));
        let within = |program: &str| {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &router, program]);
            command
        };
        // The chains that Debian's miniupnpd-nftables expects.
        let rules = "add rule ip home through ct status dnat accept; \
             add table inet filter; add chain inet filter miniupnpd; add chain inet filter prerouting_miniupnpd; \
             add chain inet filter postrouting_miniupnpd; \
             add chain inet filter forward { type filter hook forward priority 0; }; \
             add rule inet filter forward jump miniupnpd; \
             add chain inet filter prerouting { type nat hook prerouting priority -100; }; \
             add rule inet filter prerouting jump prerouting_miniupnpd; \
             add chain inet filter postrouting { type nat hook postrouting priority 90; }; \
             add rule inet filter postrouting jump postrouting_miniupnpd";
        let made = within("nft").arg(rules).output();
        assert!(made.as_ref().is_ok_and(|output| output.status.success()), "{made:?}");
        let verdict = if grants { "allow" } else { "deny" };
        let settings = format!(
            "ext_ifname=eth0\nlistening_ip=lan\nenable_upnp=yes\nenable_natpmp=no\nsecure_mode=yes\n\
             uuid=00000000-0000-0000-0000-000000000001\n{verdict} 1024-65535 0.0.0.0/0 1024-65535\n"
        );
        let file = |ending: &str| self.files.path().join(format!("{machine}.{ending}"));
        fs::write(file("conf"), settings).unwrap();
        let log = File::create(file("log")).unwrap();
        let mut command = within("miniupnpd");
        command.args(["-d", "-f"]).arg(file("conf")).arg("-P").arg(file("pid"));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut daemon = command.spawn().unwrap();
        let said = || fs::read_to_string(file("log")).unwrap_or_default();
        while !said().contains("HTTP listening") {
            if let Some(status) = daemon.try_wait().unwrap() {
                println!("skipped: no router that takes requests here (miniupnpd: {status}, {})", said().trim());
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.daemons.borrow_mut().push(daemon);
        true
    }

    /// The machine's only address from now on.
    pub fn set_address(&self, machine: &str, address: &str) {
        self.ip(machine, &["addr", "flush", "dev", "eth0"]);
        self.ip(machine, &["addr", "add", address, "dev", "eth0"]);
    }

    /// A node on a machine, without mDNS, as across the internet.
    pub fn node(&self, machine: &str, state: &Path, arguments: &[&str]) -> Node {
        self.run(machine, state, &[&["--no-mdns", "--priority", "normal"], arguments].concat())
    }

    /// Any command of the binary on a machine, with its state in `state`.
    pub fn run(&self, machine: &str, state: &Path, arguments: &[&str]) -> Node {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name(machine), env!("CARGO_BIN_EXE_node")]);
        command.args(arguments).arg("--state").arg(state);
        Node::spawn(command, state)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.cables.borrow_mut().clear();
        for daemon in self.daemons.borrow_mut().iter_mut() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
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
