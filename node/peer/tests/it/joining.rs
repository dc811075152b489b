//! The way into a run: its manifest, then its base.

use crate::support::{Channel, Lab, base, base_digests, goal, manifest, other_run, run, run_of};
use peer::{Answer, Input, NodeId, Notice, Output, leave::Departure, limits::BAN_MS};
use protocol::{
    manifest::{BASE_CHUNK_BYTES, BaseModel, Manifest},
    message::{BASE_DIGESTS_MAX, Question, Response},
};

/// A node that has everything, and one that has nothing and calls it.
fn lab(seed: u64) -> Lab {
    let mut lab = Lab::new(seed);
    lab.add_with_base(20);
    lab.add();
    lab.nodes[1].bootstrap = vec![0];
    lab.nodes[1].goals = goal(20);
    lab.boot(0);
    lab
}

/// A joiner that calls a puppet.
fn with_puppet(seed: u64) -> (Lab, usize) {
    let mut lab = Lab::new(seed);
    lab.add();
    let puppet = lab.add_puppet();
    lab.nodes[0].bootstrap = vec![puppet];
    lab.boot(0);
    (lab, puppet)
}

/// What an honest node answers a joiner.
fn honest(question: &Question) -> Option<Response> {
    Some(match question {
        Question::Manifest => Response::Manifest(run().bytes.to_vec()),
        Question::BaseDigests { from } => Response::BaseDigests(base_digests()[*from as usize..].to_vec()),
        Question::BaseChunk { index } => Response::BaseChunk(base()[*index as usize].clone()),
        _ => Response::Unavailable,
    })
}

fn is_fault(notice: &Notice) -> bool {
    matches!(notice, Notice::Fault { .. })
}

#[test]
fn a_joiner_fetches_manifest_and_base_and_trains() {
    let mut lab = lab(1);
    lab.boot(1);
    lab.pass_until(60_000, "both agree", |lab| lab.nodes[1].disk.has_base && lab.is_at_rest());
    lab.assert_agreed();
    assert_eq!(lab.nodes[1].height(&lab.nodes[1].own()), 20);
    assert_eq!(lab.nodes[1].said(is_fault) + lab.nodes[0].said(is_fault), 0);
    let all = lab.nodes[1].said(|notice| matches!(notice, Notice::Fetched { bytes, here } if bytes == here));
    assert_eq!(all, 1);
}

#[test]
fn a_joiner_that_crashed_fetches_only_what_it_lacks() {
    let mut lab = lab(1);
    lab.tempo.net = (1, 400);
    lab.boot(1);
    lab.pass_until(10_000, "a chunk is here", |lab| lab.nodes[1].disk.base_chunks.len() == 1);
    lab.crash(1);
    lab.nodes[1].outputs.clear();
    lab.boot(1);
    lab.pass_until(60_000, "the base is here", |lab| lab.nodes[1].disk.has_base);
    assert_eq!(lab.nodes[1].did(|output| matches!(output, Output::StoreRun(_) | Output::StoreDigests(_))), 0);
    assert!(lab.nodes[1].did(|output| matches!(output, Output::StoreChunk { .. })) <= 2);
}

#[test]
fn a_slow_disk_makes_a_joiner_wait_and_nothing_is_asked_twice() {
    let mut lab = lab(1);
    lab.hold(1, Channel::Base);
    lab.boot(1);
    for (waits_for, wanted) in [("the run", 1), ("the digests", 2), ("three chunks", 5)] {
        lab.pass(30_000);
        let asked = lab.nodes[1].did(|output| matches!(output, Output::Ask { .. }));
        assert_eq!(asked, wanted, "while the disk takes {waits_for}");
        lab.release(1, Channel::Base);
        lab.hold(1, Channel::Base);
        lab.pass(1);
    }
    lab.release(1, Channel::Base);
    lab.pass_until(60_000, "the base is here", |lab| lab.nodes[1].disk.has_base);
}

#[test]
fn a_wrong_chunk_bans_its_sender_and_others_are_asked() {
    let (mut lab, liar) = with_puppet(1);
    let honest_one = lab.add_with_base(0);
    lab.nodes[0].bootstrap.push(honest_one);
    lab.crash(0);
    lab.boot(honest_one);
    lab.boot(0);
    lab.pass_answering(liar, 4_000, |question| match question {
        Question::BaseChunk { .. } => Some(Response::BaseChunk(vec![0; 9])),
        _ => honest(question),
    });
    lab.pass_until(30_000, "the base is here", |lab| lab.nodes[0].disk.has_base);
    assert!(lab.nodes[0].banned.contains(&liar));
    assert!(!lab.nodes[0].banned.contains(&honest_one));
    assert_eq!(lab.nodes[0].said(|notice| matches!(notice, Notice::GivenUp { .. })), 1);
    // It is welcome again ten minutes later, and not before.
    lab.pass(BAN_MS - 40_000);
    assert!(lab.nodes[0].banned.contains(&liar));
    lab.pass(60_000);
    assert!(!lab.nodes[0].banned.contains(&liar));
}

#[test]
fn who_has_nothing_rests_and_is_not_held_guilty() {
    let (mut lab, puppet) = with_puppet(1);
    let mut questions = 0;
    lab.pass_answering(puppet, 14_000, |_| {
        questions += 1;
        Some(Response::Unavailable)
    });
    assert_eq!(questions, 2, "after five seconds, then after ten");
    assert_eq!(lab.nodes[0].said(is_fault), 0);
    lab.pass_answering(puppet, 6_000, honest);
    assert!(lab.nodes[0].disk.run.is_some(), "it is asked again");
}

#[test]
fn what_a_slow_link_does_not_bring_together_is_asked_for_one_by_one() {
    let (mut lab, puppet) = with_puppet(1);
    let mut asked = 0;
    let mut without_chunks = |question: &Question| {
        let is_chunk = matches!(question, Question::BaseChunk { .. });
        asked += u32::from(is_chunk);
        honest(question).filter(|_| !is_chunk)
    };
    lab.pass_answering(puppet, 15_000, &mut without_chunks);
    lab.pass_answering(puppet, 15_000, &mut without_chunks);
    // Those that came too late, and after a rest the next.
    assert_eq!(asked, base().len().min(4) as u32 + 1);
    assert_eq!(lab.nodes[0].said(is_fault), 0);
    lab.pass_answering(puppet, 30_000, honest);
    assert!(lab.nodes[0].disk.has_base);
}

#[test]
fn an_unusable_manifest_is_a_fault() {
    let (mut lab, puppet) = with_puppet(1);
    lab.pass_answering(puppet, 2_000, |_| Some(Response::Manifest(vec![1, 2, 3])));
    assert_eq!(lab.nodes[0].said(|notice| matches!(notice, Notice::NoManifest { .. })), 1);
    assert_eq!(lab.nodes[0].said(is_fault), 1);
    assert!(lab.nodes[0].disk.run.is_none());
}

#[test]
fn a_run_that_was_not_named_is_believed_of_bootstrap_nodes_only() {
    let (mut lab, bootstrap) = with_puppet(1);
    let stranger = lab.add_puppet();
    lab.connect(stranger, 0);
    lab.pass_answering(stranger, 20_000, |_| Some(Response::Manifest(other_run().bytes.to_vec())));
    assert!(lab.nodes[0].disk.run.is_none(), "a stranger that called first is not even asked");
    lab.pass_answering(bootstrap, 15_000, honest);
    assert_eq!(lab.nodes[0].disk.run.as_ref().unwrap().id, run().id);
}

#[test]
fn a_run_that_was_named_can_come_from_anyone() {
    let (mut lab, _) = with_puppet(1);
    lab.crash(0);
    lab.nodes[0].wished = Some(run().id);
    lab.boot(0);
    let stranger = lab.add_puppet();
    lab.connect(stranger, 0);
    // The bootstrap node is silent, and keeps each question for its twenty seconds.
    lab.pass_answering(stranger, 60_000, honest);
    assert!(lab.nodes[0].disk.has_base);
}

#[test]
fn a_joiner_leaves_once_all_bootstrap_nodes_are_of_another_run() {
    let mut lab = Lab::new(1);
    lab.add();
    let (first, second, stranger) = (lab.add_puppet(), lab.add_puppet(), lab.add_puppet());
    lab.nodes[0].bootstrap = vec![first, second];
    lab.nodes[0].wished = Some(run().id);
    lab.boot(0);
    lab.connect(0, stranger);
    let other = |_: &Question| Some(Response::Manifest(other_run().bytes.to_vec()));
    lab.pass_answering(stranger, 2_000, other);
    lab.pass_answering(first, 2_000, other);
    assert_eq!(lab.nodes[0].left, None, "one that was named is left, whatever a stranger says");
    assert_eq!(lab.nodes[0].said(|notice| matches!(notice, Notice::NotTheWishedRun { is_last: false, .. })), 2);
    lab.pass_answering(second, 2_000, other);
    assert_eq!(lab.nodes[0].left, Some(Departure::NoRun));
}

#[test]
fn digests_that_are_not_the_runs_are_refused() {
    let (mut lab, puppet) = with_puppet(1);
    lab.pass_answering(puppet, 3_000, |question| match question {
        Question::BaseDigests { .. } => Some(Response::BaseDigests(vec![[5; 32]; 3])),
        _ => honest(question),
    });
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::StoreDigests(_))), 0);
    assert!(lab.nodes[0].banned.contains(&puppet));
}

#[test]
fn digests_that_come_one_by_one_are_refused() {
    let (mut lab, puppet) = with_puppet(1);
    lab.pass_answering(puppet, 3_000, |question| match question {
        Question::BaseDigests { from } => Some(Response::BaseDigests(vec![base_digests()[*from as usize]])),
        _ => honest(question),
    });
    assert!(lab.nodes[0].banned.contains(&puppet), "it could go on like this for days");
}

#[test]
fn a_list_of_digests_comes_page_by_page_from_one_node() {
    let digests: Vec<[u8; 32]> = (0..32_771u32).map(|index| *blake3::hash(&index.to_le_bytes()).as_bytes()).collect();
    let chunks_root = protocol::manifest::combine_digests(digests.iter().copied());
    let mut base = BaseModel { chunks_root, ..manifest().base };
    base.files[2].bytes = 32_771 * BASE_CHUNK_BYTES as u64 - 100;
    let big = run_of(&Manifest { base, ..manifest() });
    assert_eq!(big.manifest.base.chunks(), 32_771);
    let (lab, puppet) = with_puppet(1);
    let config = peer::Config {
        key: [1; 32],
        incarnation: 1,
        is_new_incarnation: true,
        seed: 1,
        run: None,
        bootstrap: vec![NodeId(puppet as u64)],
        knows_others: false,
        connections_target: 3,
        replica: lab.nodes[0].replica_settings.clone(),
    };
    let mut peer = peer::Peer::new(config, Box::new(protocol::signature::Ed25519Verifier));
    peer.step(Input::Run(big), 0);
    peer.step(Input::FetchBase { digests: Vec::new(), missing: Vec::new() }, 0);
    let mut outputs = peer.step(Input::Connected(NodeId(1)), 0);
    assert!(peer.step(Input::Connected(NodeId(2)), 0).is_empty(), "a second node is not asked for the same list");
    for page in [0..BASE_DIGESTS_MAX, BASE_DIGESTS_MAX..2 * BASE_DIGESTS_MAX, 2 * BASE_DIGESTS_MAX..32_771] {
        let Some(Output::Ask { node, question, .. }) = outputs.pop() else { panic!("the next page is asked for") };
        assert_eq!(node, NodeId(1));
        let answer = Answer::Message(Response::BaseDigests(digests[page].to_vec()));
        outputs = peer.step(Input::Answer { question, answer }, 0);
    }
    assert!(matches!(&outputs[..], [Output::StoreDigests(stored)] if *stored == digests), "{outputs:?}");
    // The first word of the disk counts, and only chunks that there are.
    let outputs = peer.step(Input::DigestsStored { missing: vec![32_770, 32_771, u64::MAX] }, 0);
    assert_eq!(outputs.len(), 1, "{outputs:?}");
    assert!(peer.step(Input::DigestsStored { missing: vec![5] }, 0).is_empty());
}

#[test]
fn half_a_list_is_of_no_use_when_its_node_has_gone() {
    let mut lab = lab(1);
    lab.hold(0, Channel::Net);
    lab.boot(1);
    lab.pass(100);
    lab.cut(0, 1);
    lab.release(0, Channel::Net);
    lab.pass_until(60_000, "the base is here", |lab| lab.nodes[1].disk.has_base);
}

#[test]
fn people_hear_when_nobody_can_send_the_base() {
    let (mut lab, puppet) = with_puppet(1);
    lab.pass_answering(puppet, 2_000, |question| match question {
        Question::Manifest => honest(question),
        _ => Some(Response::Unavailable),
    });
    lab.cut(0, puppet);
    lab.nodes[0].banned.insert(puppet);
    lab.pass(11_000);
    let said = |lab: &Lab| lab.nodes[0].said(|notice| matches!(notice, Notice::NobodyHasBase { neighbours: 0 }));
    assert_eq!(said(&lab), 0);
    lab.pass(25_000);
    assert_eq!(said(&lab), 2);
}

#[test]
fn people_hear_when_those_who_are_connected_send_nothing() {
    for (has_run, seed) in [(true, 1), (false, 2)] {
        let (mut lab, puppet) = with_puppet(seed);
        lab.pass_answering(puppet, 80_000, |question| match question {
            Question::Manifest if has_run => honest(question),
            _ => Some(Response::Unavailable),
        });
        let said = lab.nodes[0].said(|notice| match notice {
            Notice::NobodyHasBase { neighbours: 1 } => has_run,
            Notice::NobodyHasRun { neighbours: 1 } => !has_run,
            _ => false,
        });
        assert!((2..=5).contains(&said), "said {said} times, with a run: {has_run}");
    }
}

#[test]
fn two_nodes_that_never_answer_do_not_keep_a_joiner_from_one_that_does() {
    let mut lab = Lab::new(1);
    let joiner = lab.add();
    let silent = [lab.add_puppet(), lab.add_puppet()];
    let honest_node = lab.add_with_base(0);
    lab.nodes[joiner].bootstrap = silent.iter().copied().chain([honest_node]).collect();
    lab.nodes[honest_node].disk.knows_others = false;
    lab.boot(honest_node);
    lab.boot(joiner);
    lab.pass_until(600_000, "the base is here", |lab| lab.nodes[joiner].disk.has_base);
}

#[test]
fn a_joiner_judges_no_gossip_and_answers_nothing() {
    let (mut lab, puppet) = with_puppet(1);
    lab.pass(1_000);
    lab.puppet_gossip(puppet, 0, vec![0xff; 30]);
    lab.puppet_asks(puppet, 0, Question::Manifest);
    lab.pass(100);
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Drop { .. })), 1);
    let ignored = protocol::replica::Verdict::Ignore;
    assert_eq!(lab.nodes[0].did(|output| matches!(output, Output::Validate { verdict, .. } if *verdict == ignored)), 1);
    assert_eq!(lab.nodes[0].said(is_fault), 0);
}

#[test]
fn a_joiner_that_is_to_leave_leaves_at_once() {
    let (mut lab, _) = with_puppet(1);
    lab.pass(1_000);
    lab.tell(0, Input::Leave);
    assert_eq!(lab.nodes[0].left, Some(Departure::Clean));
    let peer = lab.nodes[0].peer.as_mut().unwrap();
    for input in [Input::Tick, Input::Found(NodeId(9)), Input::NetworkOpened, Input::Leave] {
        assert!(peer.step(input, 90_000).is_empty(), "nothing comes after that");
    }
}

#[test]
fn what_people_started_stays_whatever_else_is_said() {
    let mut lab = Lab::new(1);
    lab.add();
    lab.boot(0);
    lab.tell(0, Input::Run(run()));
    lab.tell(0, Input::Run(other_run()));
    lab.restore(0);
    assert_eq!(*lab.nodes[0].peer().replica().unwrap().run(), run().id);
}

#[test]
fn a_node_of_another_run_near_a_joiner_is_left_alone_and_not_banned() {
    let (mut lab, helper) = with_puppet(1);
    let stranger = lab.add_puppet();
    lab.connect(0, stranger);
    // It has nothing of the base: whoever else is there is asked.
    lab.pass_answering(helper, 2_000, |question| match question {
        Question::Manifest => honest(question),
        _ => Some(Response::Unavailable),
    });
    let other = other_run();
    lab.pass_answering(stranger, 10_000, |question| match question {
        Question::Manifest => Some(Response::Manifest(other.bytes.to_vec())),
        _ => Some(Response::WrongRun(other.id)),
    });
    assert!(lab.nodes[0].said(|notice| matches!(notice, Notice::NotTheWishedRun { run, .. } if *run == other.id)) > 0);
    assert!(!lab.nodes[0].banned.contains(&stranger));
    assert_eq!(lab.nodes[0].said(is_fault), 0);
}
