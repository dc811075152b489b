//! The model's rules one by one, and small swarms of it.

use super::*;
use peer::mesh::{LAZY, OUTBOUND_MIN};
use rand_xoshiro::rand_core::SeedableRng;

/// Machines in a ring, each connected with the next few, whose frames arrive at once and in order.
struct Ring {
    meshes: Vec<Mesh>,
    random: Xoshiro256PlusPlus,
    now_ms: u64,
    got: Vec<Vec<Message>>,
    publishes: usize,
}

impl Ring {
    fn new(machines: u32, next: u32) -> Self {
        let mut ring = Self {
            meshes: (0..machines).map(|_| Mesh::new()).collect(),
            random: Xoshiro256PlusPlus::seed_from_u64(1),
            now_ms: 0,
            got: vec![Vec::new(); machines as usize],
            publishes: 0,
        };
        for (a, b) in (0..machines).flat_map(|a| (1..=next).map(move |step| (a, (a + step) % machines))) {
            let (mut caller, mut called) = (Vec::new(), Vec::new());
            ring.meshes[a as usize].connected(b, true, &mut caller);
            ring.meshes[b as usize].connected(a, false, &mut called);
            ring.carry(a, caller, |_, _| false);
            ring.carry(b, called, |_, _| false);
        }
        ring
    }

    /// Delivers until nothing is left to be said, except what `loses` takes.
    fn carry(&mut self, from: Machine, out: Outbox, loses: impl Fn(Machine, &Frame) -> bool) {
        let mut waiting: VecDeque<_> = out.into_iter().map(|(to, frame)| (from, to, frame)).collect();
        while let Some((from, to, frame)) = waiting.pop_front() {
            if loses(to, &frame) {
                continue;
            }
            self.publishes += usize::from(matches!(frame, Frame::Publish(_)));
            let (mesh, mut out) = (&mut self.meshes[to as usize], Vec::new());
            let mut turn = Turn { now_ms: self.now_ms, random: &mut self.random, out: &mut out };
            let news = mesh.receive(from, &frame, &|_| 200, &mut turn);
            if let Some(message) = news {
                self.got[to as usize].push(message);
                mesh.validated(message, Verdict::Accept, &mut out);
            }
            waiting.extend(out.into_iter().map(|(next, frame)| (to, next, frame)));
        }
    }

    fn beat(&mut self) {
        self.now_ms += HEARTBEAT_MS;
        for machine in 0..self.meshes.len() as u32 {
            let mut out = Vec::new();
            let mut turn = Turn { now_ms: self.now_ms, random: &mut self.random, out: &mut out };
            self.meshes[machine as usize].heartbeat(&mut turn);
            self.carry(machine, out, |_, _| false);
        }
    }

    fn publish(&mut self, machine: Machine, message: Message, loses: impl Fn(Machine, &Frame) -> bool) {
        let mut out = Vec::new();
        let mut turn = Turn { now_ms: self.now_ms, random: &mut self.random, out: &mut out };
        assert!(self.meshes[machine as usize].publish(message, &mut turn));
        self.carry(machine, out, loses);
    }
}

/// One mesh with so many subscribed neighbours, numbered from 0, of which the first few were called.
struct Alone {
    mesh: Mesh,
    random: Xoshiro256PlusPlus,
}

impl Alone {
    fn new(neighbours: u32, outbound: u32) -> Self {
        let mut alone = Self { mesh: Mesh::new(), random: Xoshiro256PlusPlus::seed_from_u64(1) };
        for peer in 0..neighbours {
            alone.mesh.connected(peer, peer < outbound, &mut Vec::new());
            alone.hear(peer, Frame::Subscribe, 0);
        }
        alone
    }

    fn hear(&mut self, peer: Machine, frame: Frame, now_ms: u64) -> Outbox {
        let mut out = Vec::new();
        let mut turn = Turn { now_ms, random: &mut self.random, out: &mut out };
        self.mesh.receive(peer, &frame, &|_| 2_000, &mut turn);
        out
    }

    fn accept(&mut self, message: Message) -> Vec<Machine> {
        let mut out = Vec::new();
        self.mesh.validated(message, Verdict::Accept, &mut out);
        out.iter().map(|(to, _)| *to).collect()
    }

    fn beat(&mut self, now_ms: u64) -> Outbox {
        let mut out = Vec::new();
        self.mesh.heartbeat(&mut Turn { now_ms, random: &mut self.random, out: &mut out });
        out
    }
}

fn ids(messages: &[Message]) -> Rc<Vec<Message>> {
    Rc::new(messages.to_vec())
}

#[test]
fn every_message_reaches_everyone_once_and_costs_about_the_degree_of_the_mesh() {
    let mut ring = Ring::new(50, 10);
    (0..5).for_each(|_| ring.beat());
    ring.publishes = 0;
    (0..50).for_each(|message| ring.publish(message, message, |_, _| false));
    for (machine, got) in ring.got.iter().enumerate() {
        let others: Vec<Message> = (0..50).filter(|message| *message != machine as u32).collect();
        assert_eq!(*got, others, "machine {machine}");
    }
    assert!((DEGREE_LOW - 1..=DEGREE_HIGH - 1).contains(&(ring.publishes / 2_500)), "{} frames", ring.publishes);
}

#[test]
fn degrees_stay_within_their_marks_with_enough_outbound_neighbours() {
    let mut ring = Ring::new(60, 20);
    (0..20).for_each(|_| ring.beat());
    for mesh in &ring.meshes {
        assert!((DEGREE_LOW..=DEGREE_HIGH).contains(&mesh.members().len()), "{}", mesh.members().len());
        assert!(mesh.outbound_degree() >= OUTBOUND_MIN);
    }
}

#[test]
fn what_was_lost_on_all_links_of_the_mesh_is_announced_and_asked_for() {
    let mut ring = Ring::new(30, 12);
    (0..3).for_each(|_| ring.beat());
    ring.publish(0, 0, |to, frame| to == 9 && matches!(frame, Frame::Publish(_)));
    assert!(ring.got[9].is_empty());
    (0..3).for_each(|_| ring.beat());
    assert_eq!(ring.got[9], [0]);
}

#[test]
fn who_pruned_is_not_grafted_before_its_backoff_and_a_slack_are_over() {
    let mut alone = Alone::new(1, 1);
    assert_eq!(alone.mesh.members().to_vec(), [0]);
    alone.hear(0, Frame::Prune, 0);
    let grafted = (1..100).map(|beat| beat * HEARTBEAT_MS).find(|now_ms| !alone.beat(*now_ms).is_empty());
    assert_eq!(grafted, Some(62_000));
}

#[test]
fn a_graft_during_a_backoff_is_pruned_and_starts_it_anew_even_after_a_new_connection() {
    let mut alone = Alone::new(1, 1);
    alone.hear(0, Frame::Prune, 0);
    alone.mesh.gone(0);
    alone.mesh.connected(0, false, &mut Vec::new());
    alone.hear(0, Frame::Subscribe, 1_000);
    assert_eq!(alone.hear(0, Frame::Graft, 50_000), [(0, Frame::Prune)]);
    assert_eq!(alone.hear(0, Frame::Graft, 109_999), [(0, Frame::Prune)]);
    assert_eq!(alone.hear(0, Frame::Graft, 170_000), []);
    assert_eq!(alone.mesh.members().len(), 1);
}

#[test]
fn a_full_mesh_refuses_those_that_called_but_not_those_it_called() {
    let mut alone = Alone::new(14, 2);
    alone.mesh.neighbours[13].outbound = true;
    (3..5).for_each(|peer| assert_eq!(alone.hear(peer, Frame::Graft, 0), []));
    assert_eq!(alone.mesh.members().len(), DEGREE_HIGH);
    assert_eq!(alone.hear(12, Frame::Graft, 0), [(12, Frame::Prune)]);
    assert_eq!(alone.hear(13, Frame::Graft, 0), []);
    let pruned = alone.beat(HEARTBEAT_MS).iter().filter(|(_, frame)| *frame == Frame::Prune).count();
    assert_eq!((pruned, alone.mesh.members().len()), (2, DEGREE));
    assert!(alone.mesh.outbound_degree() >= OUTBOUND_MIN);
}

#[test]
fn a_message_is_not_forwarded_to_those_it_came_from_nor_to_those_that_do_not_want_it() {
    let mut alone = Alone::new(5, 5);
    (3..5).for_each(|peer| assert_eq!(alone.hear(peer, Frame::Graft, 0), []));
    let told = alone.hear(1, Frame::Publish(7), 0);
    assert_eq!(told, [0, 2, 3, 4].map(|peer| (peer, Frame::IDontWant(ids(&[7])))));
    assert_eq!(alone.hear(2, Frame::Publish(7), 0), []);
    alone.hear(3, Frame::IDontWant(ids(&[7])), 0);
    assert_eq!(alone.accept(7), [0, 4]);
    assert!(alone.accept(7).is_empty(), "a second verdict");
}

#[test]
fn only_validated_messages_are_announced_and_sent_for_the_asking_three_times() {
    let mut alone = Alone::new(9, 9);
    alone.hear(0, Frame::Publish(7), 0);
    assert_eq!(alone.beat(700), []);
    assert_eq!(alone.hear(8, Frame::IWant(ids(&[7])), 700), []);
    alone.accept(7);
    let out: Outbox = alone.beat(1_400);
    assert_eq!(out.iter().filter(|(_, frame)| *frame == Frame::IHave(ids(&[7]))).count(), LAZY, "outside the mesh");
    let sent = (0..5).map(|_| alone.hear(8, Frame::IWant(ids(&[7])), 1_400).len());
    assert_eq!(sent.sum::<usize>(), 3);
    (3..=5).for_each(|beat| drop(alone.beat(beat * 700)));
    assert_eq!(alone.hear(7, Frame::IWant(ids(&[7])), 3_500), [], "it left the history");
}

#[test]
fn an_announcement_is_followed_up_once_with_limits() {
    let mut alone = Alone::new(2, 2);
    assert_eq!(alone.hear(0, Frame::IHave(ids(&[7, 7])), 0), [(0, Frame::IWant(ids(&[7])))]);
    alone.beat(100_000);
    assert_eq!(alone.hear(1, Frame::IHave(ids(&[7])), 100_000), [], "promised, and nobody looks whether it was kept");
    let many: Vec<Message> = (100..2_100).collect();
    let Some((1, Frame::IWant(asked))) = alone.hear(1, Frame::IHave(ids(&many)), 100_000).pop() else { panic!() };
    assert_eq!(asked.len(), IDS_MAX);
    (0..9).for_each(|_| drop(alone.hear(0, Frame::IHave(ids(&[7])), 100_000)));
    assert_eq!(alone.hear(0, Frame::IHave(ids(&[8])), 100_000), [(0, Frame::IWant(ids(&[8])))]);
    assert_eq!(alone.hear(0, Frame::IHave(ids(&[9])), 100_000), [], "the eleventh");
}

#[test]
fn a_message_is_forgotten_after_two_minutes() {
    let mut alone = Alone::new(2, 2);
    alone.hear(0, Frame::Publish(5_000), 1_000);
    alone.hear(0, Frame::Publish(1), 1_300);
    assert_eq!(alone.hear(1, Frame::Publish(5_000), 120_999), []);
    alone.beat(121_251);
    assert!(!alone.mesh.seen(5_000) && alone.mesh.seen(1));
}

#[test]
fn a_machine_without_listeners_cannot_publish() {
    let (mut random, mut out) = (Xoshiro256PlusPlus::seed_from_u64(1), Vec::new());
    assert!(!Mesh::new().publish(0, &mut Turn { now_ms: 0, random: &mut random, out: &mut out }));
}

#[test]
fn frames_have_the_sizes_of_their_protobuf() {
    let sizes = |message: Message| message as usize;
    for (frame, bytes) in [
        (Frame::Subscribe, 5 + 30 + 19 + 30),
        (Frame::Publish(100), 100 + 2 + 10 + 2 + 1 + 30),
        (Frame::Publish(1_000), 1_000 + 3 + 10 + 3 + 2 + 30),
        (Frame::Publish(60_000), 60_000 + 4 + 10 + 4 + 3 + 4 * 12 + 18),
        (Frame::IHave(ids(&[1, 2])), 2 * 10 + 10 + 2 + 2 + 1 + 30),
        (Frame::IHave(vec![0; IDS_MAX].into()), 1_500 * 10 + 10 + 3 + 3 + 2 + 30),
        (Frame::IWant(ids(&[1])), 10 + 2 + 2 + 1 + 30),
        (Frame::IDontWant(ids(&[1])), 10 + 2 + 2 + 1 + 30),
        (Frame::Graft, 10 + 2 + 2 + 1 + 30),
        (Frame::Prune, 12 + 2 + 2 + 1 + 30),
    ] {
        assert_eq!(frame_bytes(&frame, &sizes), bytes, "{frame:?}");
    }
}
