//! `--serve`: clients of the OpenAI kind talk with a node that trains, and with a directory that nobody trains.

use crate::support::{Node, PATIENCE, Workshop, assert_agreement, browser::Browser};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// The address in `talk with the model at http://…/`.
fn address(node: &Node) -> SocketAddr {
    let line = node.hear("talk with the model at http://");
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap();
    address.parse().unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// Status code; body, of which the chunks are put together.
fn request(address: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    // As some clients do that send one request.
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer, but {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return (status, body.to_owned());
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap();
        whole.push_str(&after[..size]);
        rest = after.get(size + 2..).unwrap_or("");
        if size == 0 {
            break;
        }
    }
    (status, whole)
}

fn post(address: SocketAddr, path: &str, body: &Value) -> (u16, String) {
    let head = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json");
    request(address, &head, &body.to_string())
}

fn chat(more: &Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "hello" }], "max_tokens": 5, "seed": 1 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn clients_are_answered_with_exact_weights_while_nodes_train() {
    let workshop = Workshop::new();
    let first = workshop.first("first", &["--samples", "4000", "--serve", "127.0.0.1:0"]);
    let (join, _) = first.join_line();
    let second = workshop.node("second", &["--bootstrap", &join, "--samples", "2000"]);
    let address = address(&first);
    let (status, models) = request(address, &format!("GET /v1/models HTTP/1.1\r\nHost: {address}"), "");
    assert!(status == 200 && models.contains("\"owned_by\":\"onebyte\""), "{models}");
    let (status, whole) = post(address, "/v1/chat/completions", &chat(&json!({})));
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!((status, &whole["object"]), (200, &json!("chat.completion")), "{whole}");
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    assert_eq!(whole["system_fingerprint"].as_str().unwrap().len(), 64);
    assert!(whole["usage"]["prompt_tokens"].as_u64().unwrap() > 0);
    // Streamed pieces, as server-sent events; their fingerprint is of weights that a node at rest would tell.
    let (status, events) = post(address, "/v1/chat/completions", &chat(&json!({ "stream": true })));
    let events: Vec<&str> = events.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    assert_eq!((status, events.last()), (200, Some(&"[DONE]")), "{events:?}");
    let piece: Value = serde_json::from_str(events[0]).unwrap();
    assert_eq!(piece["choices"][0]["delta"]["role"], "assistant");
    let (status, text) = post(address, "/v1/completions", &json!({ "prompt": "one", "max_tokens": 1_000_000_000u64 }));
    let text: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(status, 200, "{text}");
    assert!(text["usage"]["completion_tokens"].as_u64().unwrap() <= 4096, "{text}");
    // Many at once, some of whom never read.
    let silent: Vec<TcpStream> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    let answers: Vec<u16> = std::thread::scope(|scope| {
        let ask = || post(address, "/v1/chat/completions", &chat(&json!({ "stream": true }))).0;
        let asking: Vec<_> = (0..50).map(|_| scope.spawn(ask)).collect();
        asking.into_iter().map(|answer| answer.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|status| *status == 200), "{answers:?}");
    drop(silent);
    first.until_gradients(6000);
    second.until_gradients(6000);
    // At rest the weights that speak are those that the node has.
    let begun = Instant::now();
    loop {
        let (_, whole) = post(address, "/v1/chat/completions", &chat(&json!({})));
        let whole: Value = serde_json::from_str(&whole).unwrap();
        let resting = first.at_rest().unwrap_or_default();
        if resting.ends_with(whole["system_fingerprint"].as_str().unwrap()) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{resting}, but {whole}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_agreement(&[first.leave(), second.leave()]);
}

/// In a real browser (skipped where there is none): the page of a node that trains with two others.
#[test]
fn people_talk_on_the_page_while_three_nodes_train() {
    let Some(mut browser) = Browser::start() else { return };
    let workshop = Workshop::new();
    let first = workshop.first("first", &["--samples", "3000", "--serve", "127.0.0.1:0"]);
    let (join, _) = first.join_line();
    let others = ["second", "third"].map(|name| workshop.node(name, &["--bootstrap", &join, "--samples", "3000"]));
    let origin = format!("http://{}/", address(&first));
    for other in &others {
        other.until("training", |status| status["own"]["total"].as_u64() > Some(0));
    }
    let mut page = browser.open(&origin, (390, 844));
    page.wait_until("the page is there", |page| page.evaluate("document.readyState") == json!("complete"));
    let answers = "[...document.querySelectorAll('#turns .assistant')].map(div => div.textContent)";
    for (number, text) in ["the cat sat", "and then?"].into_iter().enumerate() {
        page.evaluate(&format!("$('text').value = {}; $('form').requestSubmit()", json!(text)));
        page.wait_until("an answer", |page| page.evaluate("running === null") == json!(true));
        let told = page.evaluate(answers);
        let answer = told[number].as_str().unwrap();
        assert!(!answer.is_empty() && answer != "…", "{told}");
        // The window has no room for both: the first turn is forgotten, and said so.
        assert_eq!(page.evaluate("turns.length"), json!(2));
        assert_eq!(page.evaluate("document.querySelectorAll('#turns > small').length"), json!(number));
    }
    // What fits no window is said, and does not stay in the conversation.
    page.evaluate("$('text').value = 'word '.repeat(900); $('form').requestSubmit()");
    page.wait_until("a refusal", |page| page.evaluate("running === null") == json!(true));
    let refused = page.evaluate("document.querySelector('#turns .error').textContent");
    assert!(refused.as_str().unwrap().contains("the model's window has"), "{refused}");
    assert_eq!(page.evaluate("turns.filter(turn => turn.content.includes('word word')).length"), json!(0));
    assert_eq!(page.evaluate("$('weights').textContent").as_str().map(str::len), Some("weights ".len() + 16));
    page.evaluate("$('new').click()");
    assert_eq!(page.evaluate("$('turns').children.length + turns.length"), json!(0));
    // An answer without an end says so, and is said back without that.
    let events = [json!({ "delta": { "content": "a" } }), json!({ "delta": {}, "finish_reason": "length" })]
        .map(|choice| format!("data: {}\n\n", json!({ "choices": [choice] })));
    let stub = json!(events.concat() + "data: [DONE]\n\n");
    page.evaluate(&format!("window.fetch = async () => new Response({stub}); null"));
    page.evaluate("$('text').value = 'on'; $('form').requestSubmit()");
    page.wait_until("a cut answer", |page| page.evaluate("running === null") == json!(true));
    assert_eq!(page.evaluate(answers), json!(["a … cut at the limit"]));
    assert_eq!(page.evaluate("turns.map(turn => turn.content)"), json!(["on", "a"]));
    // Chromium notes each answer that is a refusal; nothing else is wrong.
    let complaints = page.complaints();
    assert!(complaints.iter().all(|complaint| complaint.contains("400 (Bad Request)")), "{complaints:?}");
    assert!(page.requests().iter().all(|url| url.starts_with(&origin)), "{:?}", page.requests());
    let [second, third] = others;
    for node in [&first, &second, &third] {
        node.until_gradients(9000);
    }
    assert_agreement(&[first, second, third].map(Node::leave));
}

#[test]
fn each_bad_request_is_told_what_is_wrong_with_it() {
    let workshop = Workshop::new();
    let node = workshop.first("node", &["--samples", "16", "--serve", "127.0.0.1:0"]);
    let address = address(&node);
    for (body, part) in [
        (json!({}), "messages is missing"),
        (json!({ "messages": [] }), "list of messages is empty"),
        (json!({ "messages": [{ "role": "pope", "content": "a" }] }), "\\\"pope\\\""),
        (chat(&json!({ "n": 3 })), "n is 3"),
        (chat(&json!({ "temperature": -1 })), "temperature is -1"),
        (chat(&json!({ "top_p": 0 })), "top_p is 0"),
        (chat(&json!({ "max_tokens": "many" })), "max_tokens is \\\"many\\\"; it must be a whole number"),
        (chat(&json!({ "logprobs": true })), "this server has no logprobs"),
        (chat(&json!({ "tool_choice": "required" })), "this server has no tool_choice"),
        (chat(&json!({ "top_k": -1 })), "top_k is -1; it must be a whole number"),
        (chat(&json!({ "repetition_penalty": 0 })), "repetition_penalty is 0"),
        (chat(&json!({ "stop": [""] })), "a text of stop"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url", "image_url": {} }] }] }),
            "part of type \\\"image_url\\\"; only text can be read",
        ),
        (
            chat(&json!({ "messages": [{ "role": "user", "content": "word ".repeat(9000) }] })),
            "\"code\":\"context_length_exceeded\"",
        ),
    ] {
        let (status, answer) = post(address, "/v1/chat/completions", &body);
        assert!(status == 400 && answer.contains(part), "{part}: {status} {answer}");
    }
    let huge = json!({ "prompt": "a".repeat(2 << 20) });
    let with = |head: &str| request(address, head, &chat(&json!({})).to_string()).0;
    let ask = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost";
    assert_eq!(with(&format!("{ask}\r\nContent-Type: text/plain")), 415, "no web site can ask");
    assert_eq!(with("POST /v1/chat/completions HTTP/1.1\r\nHost: evil.example\r\nContent-Type: application/json"), 421);
    assert_eq!(with("GET /v1/completions HTTP/1.1\r\nHost: localhost"), 405);
    assert_eq!(with("GET /etc/passwd HTTP/1.1\r\nHost: localhost"), 404);
    assert_eq!(post(address, "/v1/completions", &huge).0, 413);
    // A model's name may be anything, and what says nothing is null.
    assert_eq!(with("GET /v1/models/any HTTP/1.1\r\nHost: localhost"), 200);
    assert_eq!(with("HEAD /v1/models HTTP/1.1\r\nHost: localhost"), 200);
    let nulls = json!({ "stream": null, "stream_options": null, "stop": null, "logprobs": null });
    assert_eq!(post(address, "/v1/chat/completions", &chat(&nulls)).0, 200);
    let (status, empty) = post(address, "/v1/completions", &json!({ "prompt": "" }));
    assert!(status == 400 && empty.contains("the prompt is empty"), "{status} {empty}");
    let (status, page) = request(address, "GET / HTTP/1.1\r\nHost: localhost", "");
    assert!(status == 200 && page.contains("<script nonce="));
    node.leave();
}

#[test]
fn a_stopped_directory_is_served_to_who_has_the_token_and_talked_with_in_a_terminal() {
    let workshop = Workshop::new();
    let state = workshop.first("node", &["--samples", "16", "--exit-when-idle", "0.1"]).finish();
    let mut serve = std::process::Command::new(env!("CARGO_BIN_EXE_node"));
    serve.args(["serve", "--address", "127.0.0.1:0", "--token", "a-long-secret", "--state"]).arg(&state);
    let server = Node::spawn(serve, &state);
    let address = address(&server);
    let ask = format!("POST /v1/completions HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json");
    let body = json!({ "prompt": "one", "max_tokens": 3, "temperature": 0 }).to_string();
    assert_eq!(request(address, &ask, &body).0, 401);
    assert_eq!(request(address, &format!("{ask}\r\nAuthorization: Bearer a-long-secreT"), &body).0, 401);
    assert_eq!(request(address, &format!("{ask}\r\nAuthorization: Bearer a-long-secret"), &body).0, 200);
    server.leave();
    let mut chat = std::process::Command::new(env!("CARGO_BIN_EXE_node"));
    chat.args(["chat", "--tokens", "4", "--state"]).arg(&state);
    let pipe = std::process::Stdio::piped;
    let mut chat = chat.stdin(pipe()).stdout(pipe()).stderr(pipe()).spawn().unwrap();
    chat.stdin.take().unwrap().write_all(b"hello\n/new\n\nhello again\n/help\n/exit\n/bye\nnot read\n").unwrap();
    let output = chat.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).lines().count() >= 2, "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("/new begins anew"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/exit: no such command"), "{output:?}");
    let cut = String::from_utf8_lossy(&output.stderr).matches("the answer ends at 4 tokens").count();
    assert_eq!(cut, 2, "{output:?}");
    // A full disk, or a reader that has gone, is no panic.
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    if let Ok(full) = full {
        let mut digest = std::process::Command::new(env!("CARGO_BIN_EXE_node"));
        let output = digest.args(["digest", "--state"]).arg(&state).stdout(full).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains("standard output takes no more"), "{said}");
    }
}
