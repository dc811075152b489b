//! What `--http` shows: to programs over a plain socket, to people in a real browser (Chromium, headless, over the
//! DevTools protocol; skipped where there is none). With `ONEBYTE_SCREENSHOTS=<dir>` pictures of the page are left
//! there.

use crate::support::browser::{Browser, Page};
use crate::support::{Node, PATIENCE, Workshop, inspect};
use node::watch::{
    Bytes, Forecast, Gradients, HeldOut, Load, Machine, Neighbour, Phase, RECENT_BYTES, Snapshot, VERSION,
    http::{CONNECTIONS_MAX, Server},
};
use protocol::machine::short_name;
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

const DESKTOP: (u32, u32) = (1280, 900);
const PHONE: (u32, u32) = (390, 844);

/// Status line and headers; body.
fn request(address: SocketAddr, head: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer, but {answer:?}"));
    (head.to_ascii_lowercase(), body.to_owned())
}

fn get(address: SocketAddr, path: &str) -> (String, String) {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n"))
}

/// A server of what this process makes up.
fn made_up(snapshot: Snapshot) -> (SocketAddr, watch::Sender<Arc<Snapshot>>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let (sender, receiver) = watch::channel(Arc::new(snapshot));
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.address();
    server.show(receiver, &directory.path().join("metrics.jsonl"));
    (address, sender, directory)
}

/// Second `second` of a run of `machines` machines, of which some are strange.
fn moment(second: u64, machines: u64) -> Snapshot {
    let noise = |at: u64| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as f64 / f64::from(u32::MAX);
    let decay = (-(second as f64) / 400.0).exp();
    let machine = |number: u64| Machine {
        machine: format!("{:012x}.{number:04x}", (number + 1).wrapping_mul(0x1234_5678_9abc) & 0xffff_ffff_ffff),
        own: number == 0,
        height: 90 * (second + 20) / (number + 2),
        counted: if number == 3 { 0 } else { 90 * (second + 20) / (number + 2) },
        per_second: if number == 3 { 0.0 } else { 90.0 / (number + 2) as f64 },
        last_seen_seconds: (number != 5).then_some((number * number) as f64 / 3.0),
        revoked: (number == 3).then(|| "forked: none of it counts".into()),
        recent: (0..RECENT_BYTES as u64)
            .map(|at| match (noise(second * 70 + at * 7 + number * 1_000) - 0.5) * 260.0 {
                wild if wild.abs() > 128.0 => "80".to_owned(),
                byte => format!("{:02x}", byte as i8),
            })
            .collect(),
    };
    let total = 45 * second * machines;
    let rate = |base: f64| base * (0.9 + 0.2 * noise(second));
    Snapshot {
        ticket: Some("onebyte1qqqqqqqq".into()),
        private: false,
        paused_because: None,
        program: "node".into(),
        version: VERSION,
        time_ms: 1_764_000_000_000 + 1_000 * second,
        uptime_seconds: second as f64,
        run: "5a92b791".repeat(8),
        peer_id: "12D3KooWExample".into(),
        machine: machine(0).machine,
        model: "embedded".into(),
        parameters: 439_296,
        phase: Phase::Training,
        vector: "137aa83d".repeat(8),
        own: Gradients { total: 45 * second, session: 45 * second, per_second: rate(45.0) },
        swarm: Gradients { total, session: total, per_second: rate(45.0 * machines as f64) },
        training_loss: Some(2.2 + 2.4 * decay + 0.1 * noise(second + 7)),
        held_out: Some(HeldOut {
            loss: 2.3 + 2.4 * decay,
            bits_per_byte: Some(3.3 + 3.5 * (-((second / 60 * 60) as f64) / 400.0).exp()),
            accuracy: None,
            score: None,
            gradients: second / 60 * 60 * 45 * machines,
        }),
        best: Some(HeldOut { loss: 2.25, bits_per_byte: Some(3.25), accuracy: None, score: None, gradients: 123_456 }),
        forecast: Some(Forecast { gradients_to_next: Some(4_321), ..Forecast::default() }),
        staleness: Some((60.0 * noise(second / 5)) as u64),
        waiting: 3,
        load: Load { budget: 400, live_machines: machines, seconds_behind: Some(1), ..Load::default() },
        traffic: Bytes {
            received: total * 6,
            sent: total * 5,
            received_gossip: total * 2,
            received_duplicates: total * 3,
            received_exchange: total / 4,
            received_upkeep: total - total / 4,
        },
        peers: (1..4)
            .map(|number| Neighbour {
                peer_id: format!("12D3KooW{number}{}", "x".repeat(43)),
                address: Some(format!("/ip4/192.168.1.{number}/tcp/9713")),
                round_trip_ms: (number != 3).then_some(1.7 * f64::from(number)),
            })
            .collect(),
        machine_count: machines,
        machines: (0..machines).map(machine).collect(),
    }
}

/// The address in `watch at http://…/`.
fn watched(node: &Node) -> SocketAddr {
    let line = node.hear("watch at http://");
    let address = line.split("watch at http://").nth(1).unwrap().trim().trim_end_matches('/');
    address.parse().unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn status(address: SocketAddr) -> Value {
    serde_json::from_str(&get(address, "/api/status").1).unwrap()
}

#[test]
fn answers_reads_and_nothing_else() {
    let (address, sender, _directory) = made_up(moment(1, 3));
    let points = || serde_json::from_str::<Vec<Value>>(&get(address, "/api/history").1).unwrap().len();
    for second in 2..5 {
        let (before, begun) = (points(), Instant::now());
        sender.send(Arc::new(moment(second, 3))).unwrap();
        while points() == before {
            assert!(begun.elapsed() < PATIENCE, "second {second} is not in the history");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    let (head, page) = get(address, "/");
    assert!(head.starts_with("http/1.1 200") && head.contains("content-type: text/html"), "{head}");
    for header in ["cache-control: no-store", "x-content-type-options: nosniff", "frame-ancestors 'none'", "'nonce-"] {
        assert!(head.contains(header), "no {header} in {head}");
    }
    assert!(page.starts_with("<!DOCTYPE html>") && !page.contains("{nonce}") && !page.contains("{script}"));
    let snapshot: Snapshot = serde_json::from_str(&get(address, "/api/status").1).unwrap();
    assert_eq!(snapshot, moment(4, 3));
    let history: Vec<Value> = serde_json::from_str(&get(address, "/api/history").1).unwrap();
    let gradients: Vec<u64> = history.iter().map(|point| point["gradients"].as_u64().unwrap()).collect();
    assert_eq!(gradients, [270, 405, 540]);
    let (head, metrics) = get(address, "/metrics");
    assert!(head.contains("content-type: application/openmetrics-text"), "{head}");
    assert!(metrics.contains("onebyte_gradients_total{scope=\"swarm\"} 540\n"), "{metrics}");
    let (head, body) = request(address, &format!("HEAD / HTTP/1.1\r\nHost: {address}\r\n\r\n"));
    assert!(head.starts_with("http/1.1 200") && body.is_empty());
    for path in ["/favicon.ico", "/api", "/api/status/", "//", "/../etc/passwd", "/api/status%00"] {
        assert!(get(address, path).0.starts_with("http/1.1 404"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let (head, _) = request(address, &format!("{method} /api/status HTTP/1.1\r\nHost: {address}\r\n\r\n"));
        assert!(head.starts_with("http/1.1 405") && head.contains("allow: get, head"), "{method}: {head}");
    }
    for host in ["Host: example.org", &format!("Host: example.org:{}", address.port()), "Accept: */*"] {
        let (head, body) = request(address, &format!("GET /api/status HTTP/1.1\r\n{host}\r\n\r\n"));
        assert!(head.starts_with("http/1.1 421") && !body.contains("gradients"), "{host}: {head}");
    }
    assert!(request(address, "nonsense\r\n\r\n").0.starts_with("http/1.1 400"));
    let large = format!("GET / HTTP/1.1\r\nHost: {address}\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(large.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[test]
fn earlier_sessions_are_in_the_history_and_the_thread_ends_with_the_node() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metrics.jsonl");
    let lines = (1..4_000)
        .map(|second| serde_json::to_string(&node::watch::Metrics::from(&moment(10 * second, 3))).unwrap() + "\n");
    std::fs::write(&path, lines.collect::<String>() + "{\"time_ms\":17").unwrap();
    let (sender, receiver) = watch::channel(Arc::new(moment(50_000, 3)));
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.address();
    server.show(receiver, &path);
    let history: Vec<Value> = serde_json::from_str(&get(address, "/api/history").1).unwrap();
    assert!((500..=1_500).contains(&history.len()), "{}", history.len());
    let gradients = |at: usize| history[at]["gradients"].as_u64().unwrap();
    assert_eq!((gradients(0), gradients(history.len() - 1)), (1_350, 39_990 * 135));
    drop(sender);
    let begun = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "still answers");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn clients_that_say_nothing_hold_nothing() {
    let (address, _sender, _directory) = made_up(moment(1, 1));
    let silent: Vec<TcpStream> = (0..CONNECTIONS_MAX).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert!(get(address, "/api/status").0.starts_with("http/1.1 200"));
    drop(silent);
}

#[test]
fn a_taken_port_is_named_with_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let state = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_node"));
    let output = command.args(["--no-mdns", "--listen", "/ip4/127.0.0.1/tcp/0", "--http", &address.to_string()]);
    let output = output.arg("--state").arg(state.path().join("state")).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        error.contains(&address.to_string()) && error.contains("taken") && error.contains("another port"),
        "{error}"
    );
}

/// While the learning rate was searched for, browsers were let in and heard nothing.
#[test]
fn who_comes_before_there_is_anything_to_see_is_told_to_come_again() {
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.address();
    for path in ["/api/status", "/api/history", "/api/samples", "/ticket.svg", "/metrics"] {
        let (head, body) = get(address, path);
        assert!(head.starts_with("http/1.1 503") && head.contains("retry-after: 5"), "{path}: {head}");
        assert!(body.contains("not ready yet"), "{path}: {body}");
    }
    assert!(get(address, "/favicon.ico").0.starts_with("http/1.1 404"));
    assert!(get(address, "/").0.starts_with("http/1.1 200"), "the page says that the node is starting");
    let directory = tempfile::tempdir().unwrap();
    let (_sender, receiver) = watch::channel(Arc::new(moment(1, 3)));
    server.show(receiver, &directory.path().join("metrics.jsonl"));
    assert_eq!(status(address)["machine_count"], json!(3));
    // A start that fails gives the address back.
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.address();
    drop(server);
    let begun = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(begun.elapsed() < PATIENCE, "still answers");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_page_that_is_opened_while_the_node_starts_says_so_and_goes_on() {
    let Some(mut browser) = Browser::start() else { return };
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut page = browser.open(&format!("http://{}/", server.address()), DESKTOP);
    page.wait_until("the start is told", |page| page.evaluate(NOTICE) == json!("The node is starting."));
    let directory = tempfile::tempdir().unwrap();
    let (_sender, receiver) = watch::channel(Arc::new(moment(2, 3)));
    server.show(receiver, &directory.path().join("metrics.jsonl"));
    page.wait_until("the figures are there", |page| page.evaluate(NOTICE) == json!(""));
    assert_eq!(page.evaluate(TOTAL), json!("270"));
}

/// Screenshots by day and by night, as wide as a desktop and as a phone, of the whole page.
fn photograph(page: &mut Page, name: &str) {
    let Some(directory) = std::env::var_os("ONEBYTE_SCREENSHOTS").map(PathBuf::from) else { return };
    std::fs::create_dir_all(&directory).unwrap();
    for (size, width) in [(DESKTOP, "desktop"), (PHONE, "phone")] {
        for scheme in ["light", "dark"] {
            page.resize(size, scheme);
            std::thread::sleep(Duration::from_millis(300));
            std::fs::write(directory.join(format!("{name}-{width}-{scheme}.png")), page.screenshot()).unwrap();
        }
    }
    page.resize(DESKTOP, "light");
}

/// Nothing is wider than a small screen.
fn assert_fits_phones(page: &mut Page) {
    for width in [390, 360, 320] {
        page.resize((width, 844), "light");
        let wide = page.evaluate("document.documentElement.scrollWidth");
        assert!(wide.as_u64().unwrap() <= u64::from(width), "the page is {wide} wide on a screen of {width}");
    }
    page.resize(DESKTOP, "light");
}

/// No error in the console, no request but to the page's own origin.
fn assert_clean(page: &Page, origin: &str) {
    assert_eq!(page.complaints(), Vec::<String>::new());
    let requests = page.requests();
    let asked = |path: &str| requests.iter().any(|url| *url == format!("{origin}{path}"));
    assert!(asked("/") && asked("/api/status") && asked("/api/history"), "{requests:?}");
    for url in &requests {
        assert!(url.starts_with(&format!("{origin}/")) || url.starts_with("data:"), "a request to {url}");
    }
}

/// The curve of gradients per second, as drawn.
const RATES: &str =
    "document.querySelectorAll('#charts figure')[2]?.querySelector('polyline')?.getAttribute('points') ?? ''";
const TOTAL: &str = "[...document.querySelectorAll('#keys .value')][2]?.textContent ?? ''";
const NAMES: &str = "[...document.querySelectorAll('#machines .mono')].map(name => name.textContent).sort()";
const NOTICE: &str = "document.getElementById('notice').textContent";

#[test]
fn a_swarm_is_seen_in_a_browser() {
    let Some(mut browser) = Browser::start() else { return };
    let workshop = Workshop::new();
    let shown = ["--http", "127.0.0.1:0"];
    let first = workshop.first("first", &shown);
    let (address, run) = first.join_line();
    let join = ["--bootstrap", &address, "--run", &run];
    let others = ["second", "third"].map(|name| workshop.node(name, &join));
    let http = watched(&first);
    let origin = format!("http://{http}");
    let mut page = browser.open(&format!("{origin}/"), DESKTOP);
    page.wait_until("all machines are listed", |page| {
        page.evaluate(NAMES).as_array().is_some_and(|names| names.len() == 3)
    });
    let mut own: Vec<String> = ["first", "second", "third"]
        .map(|name| std::fs::read(workshop.state(name).join("status.json")).unwrap())
        .map(|bytes| serde_json::from_slice::<Snapshot>(&bytes).unwrap().machine)
        .map(|machine| short_name(&machine).to_owned())
        .to_vec();
    own.sort();
    assert_eq!(page.evaluate(NAMES), json!(own));
    let before = (page.evaluate(RATES), page.evaluate(TOTAL));
    page.wait_until("the curves move", |page| {
        let curve = page.evaluate(RATES);
        curve != before.0 && curve.as_str().unwrap().split(' ').count() > 3 && page.evaluate(TOTAL) != before.1
    });
    for over in ["time", "bytes", "gradients"] {
        let before = page.evaluate(RATES);
        page.evaluate(&format!("document.querySelector('input[value={over}]').click()"));
        page.wait_until(over, |page| page.evaluate(RATES) != before);
    }
    // What is pointed at in one chart is marked in all; they share their axis.
    let point = "charts[2].svg.dispatchEvent(new PointerEvent('pointermove', { clientX: \
                 charts[2].svg.getBoundingClientRect().left + 200, bubbles: true }))";
    page.evaluate(point);
    let crosses =
        "[...document.querySelectorAll('#charts figure')].filter(figure => figure.querySelector('.cross')).length";
    let drawn =
        "[...document.querySelectorAll('#charts figure')].filter(figure => figure.querySelector('polyline')).length";
    assert!(page.evaluate(crosses).as_u64() >= Some(2) && page.evaluate(crosses) == page.evaluate(drawn));
    assert_eq!(page.evaluate("new Set(charts.map(chart => chart.range.join())).size"), json!(1));
    page.evaluate("charts[2].svg.dispatchEvent(new PointerEvent('pointerleave'))");
    assert_eq!(status(http)["peers"].as_array().unwrap().len(), 2);
    assert!(inspect(&workshop.state("first"), &["top", "--once"]).contains("machines 3"));
    assert_fits_phones(&mut page);
    assert_clean(&page, &origin);
    photograph(&mut page, "swarm");
    assert_clean(&page, &origin);

    first.leave();
    page.wait_until("the loss is told", |page| {
        page.evaluate(NOTICE).as_str().unwrap().starts_with("Connection lost since")
    });
    assert_eq!(page.evaluate("document.body.className"), json!("past"));
    photograph(&mut page, "lost");
    let first = workshop.node("first", &["--http", &http.to_string()]);
    page.wait_until("it is back", |page| page.evaluate(NOTICE) == json!(""));
    assert_eq!(page.evaluate("document.body.className"), json!(""));
    let history: Vec<Value> = serde_json::from_str(&get(http, "/api/history").1).unwrap();
    assert!(
        history.len() > 2
            && history.windows(2).all(|pair| pair[0]["received"].as_u64() <= pair[1]["received"].as_u64())
    );
    first.leave();
    for node in others {
        node.leave();
    }
}

#[test]
fn what_others_say_is_text_and_many_machines_fit() {
    let Some(mut browser) = Browser::start() else { return };
    let (address, sender, _directory) = made_up(moment(0, 40));
    let markup = "<img src=x onerror=alert(1)><script>alert(2)</script>";
    let origin = format!("http://{address}");
    let mut page = browser.open(&format!("{origin}/"), DESKTOP);
    for second in 1..900 {
        let mut snapshot = moment(second, 40);
        snapshot.time_ms = 1_764_000_000_000 + 1_000 * second;
        snapshot.model = markup.into();
        snapshot.machines[1].machine = markup.into();
        snapshot.machines[3].revoked = Some(markup.into());
        // Another incarnation of a machine that is listed; one of the forty is not.
        snapshot.machines[39].machine = format!("{}.0001", &snapshot.machines[38].machine[..12]);
        snapshot.peers[0].address = Some(markup.into());
        sender.send(Arc::new(snapshot)).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    page.wait_until("the last one is shown", |page| page.evaluate(TOTAL) == json!("1,618,200"));
    assert_eq!(page.evaluate("document.querySelectorAll('#machines tr').length"), json!(24));
    page.evaluate("document.getElementById('more').click()");
    assert_eq!(page.evaluate("document.querySelectorAll('#machines tr').length"), json!(40));
    let note = page.evaluate("document.getElementById('machines-note').textContent");
    assert_eq!(note, json!("39 of 40 machines: this node's, then those heard of last."));
    page.evaluate("document.getElementById('more').click()");
    assert_eq!(page.evaluate("document.querySelectorAll('main img:not(#ticket-code), main script').length"), json!(0));
    assert_eq!(page.evaluate(&format!("document.body.innerText.split({}).length", json!(markup))), json!(5));
    assert_fits_phones(&mut page);
    assert_clean(&page, &origin);
    sender.send(Arc::new(moment(900, 40))).unwrap();
    page.reload();
    page.wait_until("the whole history is there", |page| {
        page.evaluate(RATES).as_str().is_some_and(|curve| curve.split(' ').count() > 300)
    });
    photograph(&mut page, "many");
}

#[test]
fn what_the_model_writes_is_kept_and_shown_on_this_machine_only() {
    let workshop = Workshop::new();
    let node = workshop.first("state", &["--http", "127.0.0.1:0", "--samples", "64"]);
    let address = watched(&node);
    let looks = || {
        let body = get(address, "/api/samples").1;
        serde_json::from_str::<Vec<Value>>(&body).unwrap_or_else(|error| panic!("{body}: {error}"))
    };
    let begun = Instant::now();
    while looks().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "no sample, but: {:?}", node.lines());
        std::thread::sleep(Duration::from_millis(100));
    }
    let first = looks();
    let samples = first[0]["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 3);
    let text = std::fs::read_to_string(workshop.state("text.txt")).unwrap();
    samples.iter().for_each(|one| assert!(text.contains(one["prompt"].as_str().unwrap()), "{one}"));
    let state = node.leave();
    assert!(state.join("samples.jsonl").is_file());
    // Others may see the run, and not the text of this machine.
    let arguments = ["--http", "0.0.0.0:0", "--samples", "64"];
    let node = workshop.node("state", &arguments);
    let port = watched(&node).port();
    let (head, _) = get(SocketAddr::from(([127, 0, 0, 1], port)), "/api/samples");
    assert!(head.contains("403"), "{head}");
}
