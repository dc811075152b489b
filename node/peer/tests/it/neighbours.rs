//! Calls, gossip, questions, limits.

use crate::support::{Channel, Lab, ledger_of, machine, other_run, run};
use peer::{Answer, Input, NodeId, Notice, Output, limits::BAN_MS};
use protocol::{
    message::{Gossip, Push, Question, Request, Response},
    replica::Verdict,
};

fn faults(lab: &Lab, number: usize) -> usize {
    lab.nodes[number].said(|notice| matches!(notice, Notice::Fault { .. }))
}

fn verdicts(lab: &Lab, wanted: Verdict) -> usize {
    lab.nodes[0].did(|output| matches!(output, Output::Validate { verdict, .. } if *verdict == wanted))
}

/// A node that is up, and a puppet that is connected to it.
fn lab(seed: u64) -> (Lab, usize) {
    let mut lab = Lab::swarm(seed, 1, 20);
    let puppet = lab.add_puppet();
    lab.connect(0, puppet);
    lab.pass(2_000);
    lab.nodes[0].outputs.clear();
    (lab, puppet)
}

#[test]
fn gossip_that_is_lost_is_made_up_for_by_anti_entropy() {
    let mut lab = Lab::new(1);
    lab.loses_gossip = true;
    for number in 0..4 {
        lab.add_with_base(30);
        lab.nodes[number].disk.knows_others = number > 0;
        lab.boot(number);
    }
    for number in 1..4 {
        lab.connect(number - 1, number);
    }
    lab.pass_until(180_000, "all agree", Lab::is_at_rest);
    lab.assert_agreed();
}

#[test]
fn what_nobody_heard_is_published_again_when_somebody_comes() {
    let mut lab = Lab::swarm(1, 1, 20);
    lab.pass(5_000);
    let published = lab.nodes[0].did(|output| matches!(output, Output::Publish(_)));
    assert!(published > 0);
    lab.pass(5_000);
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Publish(_))), published, "nobody is there");
    let puppet = lab.add_puppet();
    lab.connect(0, puppet);
    lab.pass(5_000);
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Publish(_))), 2 * published);
}

#[test]
fn no_more_than_sixty_four_messages_wait_for_a_listener() {
    let mut lab = Lab::swarm(1, 1, 0);
    lab.pass(100);
    (0..100).for_each(|byte| lab.tell(0, Input::Unheard(vec![byte])));
    let puppet = lab.add_puppet();
    lab.connect(0, puppet);
    lab.pass(10_000);
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Publish(_))), 64);
}

#[test]
fn a_found_node_is_called_while_connections_are_few() {
    let mut lab = Lab::swarm(1, 1, 0);
    for number in 1..30 {
        lab.add_puppet();
        lab.tell(0, Input::Found(NodeId(number)));
    }
    lab.pass(5_000);
    assert_eq!(lab.neighbours(0).len(), 10);
}

#[test]
fn a_bootstrap_node_is_called_for_ever_and_people_hear_of_it() {
    let mut lab = Lab::new(1);
    lab.add_with_base(0);
    let absent = lab.add();
    lab.nodes[0].bootstrap = vec![absent];
    lab.boot(0);
    lab.pass(600_000);
    let calls = lab.nodes[0].did(|output| matches!(output, Output::Dial(_)));
    assert!((28..42).contains(&calls), "{calls} calls in ten minutes");
    let told = lab.nodes[0].said(|notice| matches!(notice, Notice::Unreachable { .. }));
    assert_eq!(told, 6 + calls / 15, "the first six, and then one in fifteen");
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Forget(_))), 0);
}

#[test]
fn with_a_new_address_or_after_sleep_calls_that_failed_are_made_at_once() {
    let mut lab = Lab::new(1);
    lab.add_with_base(0);
    let absent = lab.add();
    lab.nodes[0].bootstrap = vec![absent];
    lab.boot(0);
    lab.pass(300_000);
    let calls = |lab: &Lab| lab.nodes[0].did(|output| matches!(output, Output::Dial(_)));
    let before = calls(&lab);
    lab.tell(0, Input::Moved);
    assert_eq!(calls(&lab), before + 1);
    lab.pass(10_000);
    assert!(calls(&lab) >= before + 3, "and pauses begin anew");
}

#[test]
fn a_found_node_that_fails_five_times_is_forgotten() {
    let mut lab = Lab::swarm(1, 1, 0);
    let absent = lab.add();
    lab.tell(0, Input::Found(NodeId(absent as u64)));
    lab.pass(300_000);
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Dial(_))), 5);
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Forget(_))), 1);
}

#[test]
fn a_node_of_an_earlier_session_is_called_until_it_is_back() {
    let mut lab = Lab::swarm(1, 1, 0);
    let away = lab.add();
    lab.tell(0, Input::Recalled(NodeId(away as u64)));
    lab.pass(1_200_000);
    let calls = lab.nodes[0].did(|output| matches!(output, Output::Dial(_)));
    assert!((11..=20).contains(&calls), "{calls} calls in twenty minutes");
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Forget(_))), 0);
    lab.nodes[away].is_puppet = true;
    lab.pass(200_000);
    assert!(lab.neighbours(0).contains(&away));
}

#[test]
fn who_comes_and_goes_for_ever_is_forgotten_each_time() {
    let (mut lab, puppet) = lab(1);
    for _ in 0..50 {
        lab.puppet_gossip(puppet, 0, vec![1]);
        lab.cut(0, puppet);
        lab.pass(60_000);
        lab.connect(0, puppet);
        lab.pass(1_000);
    }
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Forget(_))), 50);
}

#[test]
fn a_malformed_message_is_a_fault_and_four_ban() {
    let (mut lab, puppet) = lab(1);
    for byte in 0..3 {
        lab.puppet_gossip(puppet, 0, vec![0xff, byte]);
    }
    lab.pass(100);
    assert_eq!((faults(&lab, 0), verdicts(&lab, Verdict::Reject)), (3, 3));
    assert!(!lab.nodes[0].banned.contains(&puppet));
    lab.puppet_sends_question(puppet, 0, vec![0xff; 7]);
    lab.puppet_sends_question(puppet, 0, vec![0xff; 8]);
    lab.pass(100);
    assert!(lab.nodes[0].banned.contains(&puppet));
    lab.pass(2_000);
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Dial(_))), 0, "who is banned is not called");
    lab.pass(BAN_MS);
    assert!(!lab.nodes[0].banned.contains(&puppet));
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Forget(_))), 1);
}

#[test]
fn of_who_is_banned_nothing_is_heard_any_more() {
    let (mut lab, puppet) = lab(1);
    let node = NodeId(puppet as u64);
    let peer = lab.nodes[0].peer.as_mut().unwrap();
    let mut ask = |bytes: Vec<u8>| peer.step(Input::Request { from: node, request: 9, bytes }, 3_000);
    let bans = (0..4).flat_map(|_| ask(vec![0xff])).filter(|output| matches!(output, Output::Ban(_))).count();
    assert_eq!(bans, 1);
    // The connection is not closed yet.
    let outputs = ask(Request { run: run().id, question: Question::Manifest }.encode().unwrap());
    assert!(matches!(&outputs[..], [Output::Drop { request: 9 }]), "{outputs:?}");
    let outputs = peer.step(Input::Gossip { from: node, message: 3, bytes: vec![0xff] }, 3_000);
    assert!(matches!(&outputs[..], [Output::Validate { verdict: Verdict::Ignore, .. }]), "{outputs:?}");
}

#[test]
fn a_flood_is_cut_and_held_against_its_sender_in_every_stage() {
    for is_joiner in [false, true] {
        let mut lab = Lab::new(1);
        match is_joiner {
            true => lab.add(),
            false => lab.add_with_base(0),
        };
        let puppet = lab.add_puppet();
        lab.boot(0);
        lab.connect(0, puppet);
        lab.pass(100);
        (0..3_900).for_each(|_| lab.puppet_asks(puppet, 0, Question::Manifest));
        lab.pass(20);
        assert_eq!(faults(&lab, 0), 0, "joiner: {is_joiner}");
        (0..200).for_each(|_| lab.puppet_asks(puppet, 0, Question::Manifest));
        lab.pass(20);
        assert_eq!(faults(&lab, 0), 4, "joiner: {is_joiner}");
        assert!(lab.nodes[0].banned.contains(&puppet));
    }
}

#[test]
fn a_segment_of_a_stranger_counts_and_one_that_is_forged_does_not() {
    let (mut lab, puppet) = lab(1);
    let other = machine(5, 3);
    let chunks = ledger_of(5, other, &[3, 4], 8);
    lab.puppet_gossip(puppet, 0, Gossip::Segment(Push::of(&chunks[0])).encode().unwrap());
    lab.pass(100);
    assert_eq!((lab.nodes[0].height(&other), verdicts(&lab, Verdict::Accept)), (3, 1));
    let mut forged = Push::of(&chunks[0]);
    forged.author = protocol::message::Author::Introduced(machine(6, 3));
    lab.puppet_gossip(puppet, 0, Gossip::Segment(forged).encode().unwrap());
    lab.pass(100);
    assert_eq!((lab.nodes[0].height(&machine(6, 3)), verdicts(&lab, Verdict::Reject)), (0, 1));
    assert_eq!(faults(&lab, 0), 1);
}

#[test]
fn numbers_near_the_end_of_what_can_be_counted_are_refused() {
    let (mut lab, puppet) = lab(1);
    let mut chunk = ledger_of(5, machine(5, 3), &[3], 8).remove(0);
    chunk.first = u64::MAX - 1;
    let mut push = Push::of(&chunk);
    push.author = protocol::message::Author::Introduced(chunk.machine);
    lab.puppet_gossip(puppet, 0, Gossip::Segment(push).encode().unwrap());
    for question in [
        Question::BaseDigests { from: u64::MAX },
        Question::BaseChunk { index: u64::MAX },
        Question::Fetch {
            wants: vec![protocol::anti_entropy::Want::Samples { machine: lab.nodes[0].own(), from: u64::MAX }],
        },
    ] {
        lab.puppet_asks(puppet, 0, question);
    }
    lab.pass_answering(puppet, 15_000, |question| match question {
        Question::Fetch { .. } => Some(Response::Found { chunks: vec![chunk.clone()], statements: Vec::new() }),
        Question::Summary { .. } => {
            let standing = protocol::version_vector::Standing::Live { height: u64::MAX, head: [1; 32] };
            Some(Response::Entries {
                entries: vec![protocol::version_vector::Entry::Ledger(chunk.machine, standing)],
                more: None,
            })
        }
        _ => Some(Response::Unavailable),
    });
    assert_eq!(lab.nodes[0].height(&chunk.machine), 0);
    assert!(faults(&lab, 0) >= 1);
    lab.assert_agreed();
}

#[test]
fn a_node_of_another_run_is_told_so_and_left_alone_without_a_ban() {
    let (mut lab, puppet) = lab(1);
    let bytes = Request { run: other_run().id, question: Question::Summary { root: [0; 32] } }.encode().unwrap();
    lab.puppet_sends_question(puppet, 0, bytes);
    lab.pass(100);
    let heard = |output: &Output| match output {
        Output::Respond { bytes, .. } => Response::decode(bytes) == Ok(Response::WrongRun(run().id)),
        _ => false,
    };
    assert_eq!(lab.nodes[0].did(heard), 1);
    lab.pass_answering(puppet, 15_000, |question| match question {
        Question::Manifest => Some(Response::Manifest(other_run().bytes.to_vec())),
        _ => Some(Response::WrongRun(other_run().id)),
    });
    let hung_up = |lab: &Lab| lab.nodes[0].did(|output| matches!(output, Output::HangUp(_)));
    assert_eq!((hung_up(&lab), faults(&lab, 0)), (1, 0));
    assert!(!lab.nodes[0].banned.contains(&puppet));
    let told = |notice: &Notice| matches!(notice, Notice::OtherRun { run, .. } if *run == other_run().id);
    assert_eq!(lab.nodes[0].said(told), 1);
    // It comes again: nobody asks it anything, and people hear nothing more.
    lab.connect(0, puppet);
    lab.pass(30_000);
    assert!(lab.puppet_questions(puppet).is_empty() && hung_up(&lab) == 2);
    assert!(lab.nodes[0].peer().neighbours().next().is_none());
    // Ten minutes later it may have joined this run.
    lab.pass(600_000);
    lab.connect(0, puppet);
    lab.pass(12_000);
    assert!(!lab.puppet_questions(puppet).is_empty());
}

#[test]
fn an_answer_that_is_no_message_is_a_fault_whatever_was_asked() {
    let (mut lab, puppet) = lab(1);
    let mut malformed = 0;
    for _ in 0..200 {
        lab.pass(50);
        for (from, question, request) in lab.puppet_questions(puppet) {
            match request.question {
                Question::Manifest => {
                    malformed += 1;
                    lab.puppet_answers(puppet, from, question, Some(vec![0xff; 5]));
                }
                _ => {
                    let bytes = Response::WrongRun(other_run().id).encode().unwrap();
                    lab.puppet_answers(puppet, from, question, Some(bytes));
                }
            }
        }
        if malformed > 0 {
            break;
        }
    }
    lab.pass(100);
    assert_eq!((malformed, faults(&lab, 0)), (1, 1));
}

#[test]
fn a_question_dies_with_its_connection_and_a_late_answer_is_nobodys() {
    let (mut lab, puppet) = lab(1);
    lab.pass(12_000);
    let (question, _) = lab.nodes[0].open.first_key_value().map(|(q, n)| (*q, *n)).expect("it was asked");
    lab.cut(0, puppet);
    lab.connect(0, puppet);
    lab.pass(100);
    let before = faults(&lab, 0);
    lab.tell(0, Input::Answer { question, answer: Answer::Malformed("late".into()) });
    lab.tell(0, Input::Answer { question, answer: Answer::Message(Response::Same) });
    assert_eq!(faults(&lab, 0), before);
}

#[test]
fn a_neighbour_that_never_answers_is_asked_again_and_others_all_the_while() {
    let (mut lab, puppet) = lab(1);
    lab.add_with_base(20);
    let other = lab.nodes.len() - 1;
    lab.nodes[other].disk.knows_others = true;
    lab.boot(other);
    lab.connect(0, other);
    lab.pass_until(60_000, "two agree although the third is silent", Lab::is_at_rest);
    lab.pass(60_000);
    let asked = lab.nodes[0].did(|output| matches!(output, Output::Ask { node, .. } if node.0 == puppet as u64));
    assert!((2..8).contains(&asked), "{asked} questions in two minutes");
}

#[test]
fn with_a_disk_that_is_behind_the_network_is_not_read_and_then_read_again() {
    let mut lab = Lab::swarm(1, 1, 0);
    let puppet = lab.add_puppet();
    lab.connect(0, puppet);
    lab.pass(100);
    lab.hold(0, Channel::Disk);
    let chunks = ledger_of(5, machine(5, 3), &[1; 700], 8);
    for chunk in &chunks {
        lab.puppet_gossip(puppet, 0, Gossip::Segment(Push::of(chunk)).encode().unwrap());
    }
    lab.pass(1_000);
    assert!(!lab.nodes[0].reads);
    assert_eq!(lab.nodes[0].most_unstored, 513);
    lab.release(0, Channel::Disk);
    lab.pass(5_000);
    assert!(lab.nodes[0].reads);
    assert_eq!(lab.nodes[0].height(&machine(5, 3)), 700);
}

#[test]
fn a_clock_that_steps_back_does_not_stop_anything() {
    let mut lab = Lab::swarm(1, 2, 60);
    // Anti-entropy alone, which goes by the clock.
    lab.loses_gossip = true;
    lab.pass(500);
    lab.nodes[0].clock_offset_ms = -400;
    lab.nodes[1].clock_offset_ms = 3_600_000;
    lab.pass(500);
    lab.nodes[1].clock_offset_ms = 0;
    lab.pass_until(30_000, "both agree", Lab::is_at_rest);
}

#[test]
fn a_network_that_was_opened_anew_has_no_connections_and_everyone_is_called() {
    let mut lab = Lab::new(1);
    lab.add_with_base(0);
    let puppet = lab.add_puppet();
    lab.nodes[0].bootstrap = vec![puppet];
    lab.boot(0);
    lab.pass(2_000);
    assert_eq!(lab.nodes[0].peer().neighbours().count(), 1);
    lab.nodes[0].outputs.clear();
    lab.tell(0, Input::NetworkOpened);
    assert_eq!(lab.nodes[0].peer().neighbours().count(), 0);
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Dial(node) if node.0 == puppet as u64)), 1);
}
