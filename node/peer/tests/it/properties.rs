//! Random lives of a few peers: answers late, connections that come and go, crashes, full disks, clocks that jump,
//! strangers who send anything. What must hold at every step the laboratory checks (`support/node.rs`); what must come
//! of it is checked here.

use crate::support::{CHANNELS, Lab, Tempo, base_digests, goal, ledger_of, machine, other_run, run, signer};
use peer::{Answer, Config, CurvePoint, GoalSettings, Input, Look, NodeId, Peer};
use protocol::{
    anti_entropy::Want,
    machine::MachineId,
    member::{Admission, MemberStanding, Withdrawal},
    message::{Author, Cursor, Gossip, Push, Question, Request, Response},
    replica::{Contained, OwnByte, Record},
    signature::{Ed25519Verifier, Signature},
    statement::Statement,
    version_vector::{Entry, Standing, Subject},
};
use rand_xoshiro::{
    Xoshiro256PlusPlus,
    rand_core::{Rng, SeedableRng},
};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The usual few; as many as `PEER_SEEDS` says; or the one that `PEER_SEED` names.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|seed| seed.parse().ok());
    match number("PEER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("PEER_SEEDS").unwrap_or(usual),
    }
}

/// Runs one life for each seed, and says which seed failed.
fn for_each_seed(usual: u64, life: impl Fn(u64)) {
    for seed in seeds(usual) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| life(seed))) {
            eprintln!("the seed is {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

const PEERS: usize = 4;
/// Sends anything to anyone.
const STRANGER: usize = PEERS;
/// Keys from this number on are those of nobody in the laboratory.
const STRANGERS: usize = 10;

fn lab(seed: u64) -> Lab {
    let mut lab = Lab::new(seed);
    lab.tempo = Tempo { answers: (0, 300), disk: (0, 400), net: (1, 200), training: (5, 60) };
    for number in 0..PEERS {
        // The last one joins.
        match number + 1 < PEERS {
            true => lab.add_with_base(60),
            false => lab.add(),
        };
        let node = &mut lab.nodes[number];
        node.goals = GoalSettings { evaluates: true, stops_when_flat: true, checkpoint_interval_ms: 1_500, ..goal(60) };
        node.disk.knows_others = number > 0;
        node.bootstrap = if number > 0 { vec![0] } else { Vec::new() };
        node.replica_settings.flush_samples = 8;
        node.replica_settings.anti_entropy_interval_ms = 2_000;
    }
    lab.add_puppet();
    (0..PEERS).for_each(|number| lab.boot(number));
    lab
}

/// Something goes wrong, or right again.
fn disturb(lab: &mut Lab) {
    let (a, b) = (lab.draw((0, PEERS as u64 - 1)) as usize, lab.draw((0, PEERS as u64)) as usize);
    let channel = CHANNELS[lab.draw((0, CHANNELS.len() as u64 - 1)) as usize];
    match lab.draw((0, 16)) {
        0..=3 => {
            lab.connect(a, b);
        }
        4 => lab.cut(a, b),
        5 | 6 => lab.hold(a, channel),
        7..=9 => CHANNELS.iter().for_each(|channel| lab.release(a, *channel)),
        10 => {
            if lab.draw((0, 2)) == 0 {
                lab.crash(a);
                let after_ms = lab.draw((10, 3_000));
                lab.boot_after(a, after_ms);
            }
        }
        11 => lab.nodes[a].disk.is_full = !lab.nodes[a].disk.is_full,
        12 => {
            let by_ms = lab.draw((0, 4_000)) as i64 - 3_000;
            lab.nodes[a].clock_offset_ms += by_ms;
        }
        13 => lab.nodes[a].trainer.is_near_edge = !lab.nodes[a].trainer.is_near_edge,
        15 => {
            let is_paused = lab.draw((0, 1)) == 0;
            if lab.nodes[a].peer.is_some() {
                lab.tell(a, Input::Pause(is_paused));
            }
        }
        14 => repeat(lab, a),
        _ => {
            let bytes = anything(&mut lab.random);
            match lab.draw((0, 1)) {
                0 => lab.puppet_gossip(STRANGER, a, bytes),
                _ => lab.puppet_sends_question(STRANGER, a, bytes),
            }
        }
    }
}

/// An input that was given before, or that nobody asked for.
fn repeat(lab: &mut Lab, number: usize) {
    let input = match lab.draw((0, 11)) {
        0 => Input::Stored { write: 0 },
        1 => Input::Signed { token: 0, signature: Signature([9; 64]) },
        2 => Input::Committed,
        3 => Input::Start(goal(1_000)),
        4 => Input::BaseReady,
        5 => Input::Run(other_run()),
        6 => Input::DigestsStored { missing: vec![0, 1, 2, u64::MAX] },
        7 => Input::ChunkStored { index: u64::MAX },
        8 => Input::Answer { question: u64::MAX, answer: Answer::None },
        9 => Input::DialFailed(NodeId(77)),
        10 => Input::Evaluated(any_look(&mut lab.random, u64::MAX)),
        _ => Input::Found(NodeId(lab.draw((0, PEERS as u64 - 1)))),
    };
    // Nothing of this is said before there is a run: then it would be believed.
    if lab.nodes[number].peer.as_ref().is_some_and(|peer| peer.replica().is_some()) {
        lab.tell(number, input);
    }
}

/// All is well again.
fn heal(lab: &mut Lab) {
    for number in 0..PEERS {
        let node = &mut lab.nodes[number];
        node.disk.is_full = false;
        node.trainer.is_near_edge = false;
        CHANNELS.iter().for_each(|channel| lab.release(number, *channel));
        if lab.nodes[number].peer.is_none() {
            lab.boot(number);
        }
        lab.tell(number, Input::Pause(false));
        lab.nodes[number].banned.clear();
    }
    for _ in 0..20 {
        for a in 0..PEERS {
            for b in 0..a {
                lab.connect(a, b);
            }
        }
        lab.pass(500);
    }
}

fn have_all_left(lab: &Lab) -> bool {
    lab.nodes[..PEERS].iter().all(|node| node.left.is_some())
}

#[test]
fn whatever_happens_everything_acknowledged_is_with_everyone_in_the_end() {
    for_each_seed(12, |seed| {
        let mut lab = lab(seed);
        for _ in 0..300 {
            disturb(&mut lab);
            let pause_ms = lab.draw((0, 250));
            lab.pass(pause_ms);
        }
        heal(&mut lab);
        lab.pass_until(300_000, "all have made their gradients and agree", Lab::is_at_rest);
        lab.assert_agreed();
        for number in 0..PEERS {
            let durable = lab.durable_samples(number);
            assert!(durable.iter().all(|(machine, sample)| lab.nodes[0].height(machine) > *sample), "node {number}");
            assert!(durable.len() >= 60, "node {number} has made {} gradients", durable.len());
        }
        (0..PEERS).for_each(|number| lab.tell(number, Input::Leave));
        lab.pass_until(60_000, "all have left", have_all_left);
    });
}

#[test]
fn leaving_ends_whatever_happens_meanwhile() {
    for_each_seed(24, |seed| {
        let mut lab = lab(seed ^ 0xbeef);
        for step in 0..120 {
            disturb(&mut lab);
            if step == 60 {
                (0..PEERS).for_each(|number| lab.tell(number, Input::Leave));
            }
            let pause_ms = lab.draw((0, 250));
            lab.pass(pause_ms);
        }
        heal(&mut lab);
        (0..PEERS).for_each(|number| lab.tell(number, Input::Leave));
        lab.pass_until(60_000, "all have left", have_all_left);
    });
}

/// A number that sums do not like.
fn number(random: &mut Xoshiro256PlusPlus) -> u64 {
    match random.next_u64() % 8 {
        0 => u64::MAX,
        1 => u64::MAX - random.next_u64() % 4,
        2 => 1 << 40,
        3 => i64::MAX as u64,
        _ => random.next_u64() % 4,
    }
}

/// A look that nobody asked for.
fn any_look(random: &mut Xoshiro256PlusPlus, took_ms: u64) -> Look {
    let loss = f64::from_bits(random.next_u64());
    Look { loss, digest: [3; 32], machine: machine(STRANGERS, 1), next_sample: number(random).max(1), took_ms }
}

fn any_machine(random: &mut Xoshiro256PlusPlus) -> MachineId {
    machine(STRANGERS + (random.next_u64() % 3) as usize, number(random))
}

/// A message of a stranger: well formed, nearly so, or not at all.
fn anything(random: &mut Xoshiro256PlusPlus) -> Vec<u8> {
    let mut bytes = match random.next_u64() % 8 {
        0 => Gossip::Segment(any_push(random)).encode().unwrap(),
        1 => any_response(random).encode().unwrap(),
        2 | 3 => {
            let run = if random.next_u64().is_multiple_of(4) { other_run().id } else { run().id };
            Request { run, question: any_question(random) }.encode().unwrap()
        }
        4 => {
            let of = any_machine(random);
            let chunks = ledger_of(STRANGERS + (random.next_u64() % 3) as usize, of, &[2, 3], 5);
            Gossip::Segment(Push::of(&chunks[(random.next_u64() % 2) as usize])).encode().unwrap()
        }
        _ => (0..random.next_u64() % 40).map(|_| random.next_u64() as u8).collect(),
    };
    if random.next_u64().is_multiple_of(3) && !bytes.is_empty() {
        let place = (random.next_u64() % bytes.len() as u64) as usize;
        bytes[place] ^= 1 << (random.next_u64() % 8);
    }
    bytes
}

fn any_push(random: &mut Xoshiro256PlusPlus) -> Push {
    let of = any_machine(random);
    let author = if random.next_u64().is_multiple_of(2) { Author::Introduced(of) } else { Author::Known(of.handle()) };
    Push {
        author,
        first: number(random),
        previous_hint: [0; 4],
        swarm_step: number(random),
        bytes: vec![3; (random.next_u64() % 5) as usize],
        signature: Signature([7; 64]),
    }
}

fn any_subject(random: &mut Xoshiro256PlusPlus) -> Subject {
    let of = any_machine(random);
    if random.next_u64().is_multiple_of(2) { Subject::Ledger(of) } else { Subject::Member(of.key) }
}

fn any_question(random: &mut Xoshiro256PlusPlus) -> Question {
    match random.next_u64() % 6 {
        0 => Question::Manifest,
        1 => Question::BaseDigests { from: number(random) },
        2 => Question::BaseChunk { index: number(random) },
        3 => Question::Summary { root: [number(random) as u8; 32] },
        4 => {
            let after = (random.next_u64().is_multiple_of(2)).then(|| any_subject(random));
            Question::Entries { buckets: [0xff; 32], cursor: Cursor { bucket: number(random) as u8, after } }
        }
        _ => {
            let of = any_machine(random);
            Question::Fetch { wants: vec![Want::Samples { machine: of, from: number(random) }; 3] }
        }
    }
}

fn any_response(random: &mut Xoshiro256PlusPlus) -> Response {
    match random.next_u64() % 10 {
        0 => Response::Manifest(if random.next_u64().is_multiple_of(2) { run() } else { other_run() }.bytes.to_vec()),
        1 => Response::BaseDigests(base_digests()),
        2 => Response::BaseChunk(vec![1; 5]),
        3 => Response::Same,
        4 => Response::Buckets(vec![[number(random) as u8; 32]; (random.next_u64() % 300) as usize]),
        5 | 6 => {
            let of = any_machine(random);
            let (floor, height) = (number(random), number(random));
            let standing = match random.next_u64() % 3 {
                0 => Standing::Live { height, head: [1; 32] },
                1 => Standing::Revoked { floor, height, head: [1; 32] },
                _ => Standing::Forked,
            };
            let entry = match random.next_u64() % 4 {
                0 => Entry::Member(of.key, MemberStanding::Admitted),
                1 => Entry::Member(of.key, MemberStanding::Withdrawn([height as u8; 32])),
                _ => Entry::Ledger(of, standing),
            };
            let after = Some(any_subject(random));
            let more = (random.next_u64().is_multiple_of(2)).then_some(Cursor { bucket: 255, after });
            Response::Entries { entries: vec![entry; (random.next_u64() % 3) as usize], more }
        }
        7 | 8 => {
            let of = any_machine(random);
            let mut chunks =
                ledger_of(STRANGERS + (random.next_u64() % 3) as usize, of, &[2, 3, 4], random.next_u64() as u8 % 2);
            if random.next_u64().is_multiple_of(2) {
                chunks[1].first = number(random);
                chunks[0].parts[0].swarm_step = number(random);
            }
            let forger = signer(STRANGERS);
            let forged = match random.next_u64() % 2 {
                0 => Statement::Admission(Admission::sign(&run().id, of.key, &forger)),
                _ => Statement::Withdrawal(Withdrawal::sign(&run().id, of.key, &[(of.incarnation, 3)], &forger)),
            };
            Response::Found { chunks, statements: vec![forged; (random.next_u64() % 2) as usize] }
        }
        _ => Response::WrongRun(if random.next_u64().is_multiple_of(2) { run() } else { other_run() }.id),
    }
}

fn any_goal(random: &mut Xoshiro256PlusPlus) -> GoalSettings {
    GoalSettings {
        batch_samples: number(random),
        samples: (random.next_u64().is_multiple_of(2)).then(|| number(random)),
        exit_when_idle_ms: Some(u64::MAX),
        evaluates: true,
        checkpoint_interval_ms: number(random),
        can_train: true,
        waits_to_sign: random.next_u64().is_multiple_of(2),
        stops_when_flat: true,
    }
}

/// Any input at all, of a shell that has gone mad.
fn any_input(random: &mut Xoshiro256PlusPlus) -> Input {
    let node = NodeId(random.next_u64() % 4);
    let some = |random: &mut Xoshiro256PlusPlus| (0..random.next_u64() % 4).map(|_| number(random)).collect::<Vec<_>>();
    match random.next_u64() % 40 {
        0..=5 => Input::Tick,
        6..=8 => Input::Connected(node),
        9 => Input::Disconnected(node),
        10..=13 => Input::Gossip { from: node, message: number(random), bytes: anything(random) },
        14..=16 => Input::Request { from: node, request: number(random), bytes: anything(random) },
        17..=22 => {
            let answer = match random.next_u64() % 5 {
                0 => Answer::None,
                1 => Answer::Malformed("it is".into()),
                2 => Answer::Chunk { digest: base_digests()[(random.next_u64() % 3) as usize], length: number(random) },
                _ => Answer::Message(any_response(random)),
            };
            Input::Answer { question: random.next_u64() % 20, answer }
        }
        23 => Input::Run(run()),
        24 => Input::FetchBase {
            digests: if random.next_u64().is_multiple_of(2) { base_digests() } else { Vec::new() },
            missing: some(random),
        },
        25 => Input::DigestsStored { missing: some(random) },
        26 => Input::ChunkStored { index: number(random) },
        27 => Input::BaseReady,
        28 => {
            let of = any_machine(random);
            Input::Restored(Record::Chunk(
                ledger_of(STRANGERS + (random.next_u64() % 3) as usize, of, &[3], 1).remove(0).into(),
            ))
        }
        29 => {
            Input::Checkpoint(vec![Contained { machine: any_machine(random), height: number(random), digest: [0; 32] }])
        }
        30 => Input::Start(any_goal(random)),
        31 => Input::Incarnation(number(random)),
        32 => [Input::Found(node), Input::Recalled(node)][(random.next_u64() % 2) as usize].clone(),
        33 => Input::DialFailed(node),
        34 => Input::Signed { token: number(random), signature: Signature([1; 64]) },
        35 => [Input::Stored { write: number(random) }, Input::StoreFailed, Input::Committed, Input::WriteFailed]
            [(random.next_u64() % 4) as usize]
            .clone(),
        36 => Input::Stepped(
            (0..5)
                .map(|sample| OwnByte { machine: machine(STRANGERS, 1), sample, byte: 3, swarm_step: number(random) })
                .collect(),
        ),
        37 => [
            Input::Took,
            Input::Adopted,
            Input::NearEdge(true),
            Input::Pause(true),
            Input::Evaluated({
                let took_ms = number(random);
                any_look(random, took_ms)
            }),
            Input::Curve(vec![
                CurvePoint { gradients: number(random), loss: f64::NAN },
                CurvePoint { gradients: 1, loss: 1e300 },
            ]),
            Input::Replayed { entries: number(random), took_us: number(random) },
            Input::NetworkOpened,
            Input::Unheard(vec![1]),
            Input::Digested { root: [0; 32], digest: [1; 32] },
        ][(random.next_u64() % 10) as usize]
            .clone(),
        38 => Input::Written { machine: machine(STRANGERS, 1), next_sample: number(random), took_ms: number(random) },
        _ if random.next_u64().is_multiple_of(20) => Input::Leave,
        _ => Input::Tick,
    }
}

#[test]
fn no_sequence_of_inputs_makes_a_peer_panic() {
    for_each_seed(60, |seed| {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let config = Config {
            key: machine(STRANGERS, 1).key,
            incarnation: 1,
            is_new_incarnation: seed.is_multiple_of(2),
            seed,
            run: (seed.is_multiple_of(3)).then(|| run().id),
            bootstrap: vec![NodeId(0), NodeId(1)],
            knows_others: seed.is_multiple_of(5),
            connections_target: 3,
            replica: protocol::replica::Settings::default(),
        };
        let mut peer = Peer::new(config, Box::new(Ed25519Verifier));
        let mut now_ms = 0u64;
        for step in 0..400 {
            if step == seed % 400 {
                now_ms = u64::MAX - random.next_u64() % 3;
            }
            now_ms = match random.next_u64() % 50 {
                0 => now_ms.saturating_sub(number(&mut random)),
                _ => now_ms.saturating_add(random.next_u64() % 200),
            };
            peer.step(any_input(&mut random), now_ms);
            peer.facts();
        }
    });
}
