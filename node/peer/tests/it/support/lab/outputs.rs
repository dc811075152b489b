//! What carries out the outputs of a peer: its disk, its key, its trainer.

use super::*;

impl Lab {
    /// Tells the peer, and carries out what it wants done.
    pub fn tell(&mut self, number: usize, input: Input) {
        if !self.nodes[number].is_up() {
            return;
        }
        let now_ms = self.clock(number);
        let node = &mut self.nodes[number];
        let Some(peer) = &mut node.peer else { return };
        let outputs = peer.step(input.clone(), now_ms);
        if let Some((recorder, _)) = &mut node.recording {
            assert!(recorder.step(now_ms, &input, &outputs).unwrap());
        }
        let neighbours: BTreeSet<usize> = peer.neighbours().map(|node| node.0 as usize).collect();
        for output in outputs {
            let node = &mut self.nodes[number];
            node.check(&output, &neighbours);
            node.outputs.push(output.clone());
            self.carry_out(number, output);
        }
    }

    fn carry_out(&mut self, number: usize, output: Output) {
        let node = &mut self.nodes[number];
        match output {
            Output::Dial(to) => {
                let life = node.life;
                let after_ms = self.draw(self.tempo.net);
                self.at(self.now_ms + after_ms, Event::Call { from: number, life, to: to.0 as usize });
            }
            Output::Ban(other) => {
                node.banned.insert(other.0 as usize);
                self.cut(number, other.0 as usize);
            }
            Output::Pardon(other) => assert!(node.banned.remove(&(other.0 as usize)), "who is pardoned was banned"),
            Output::HangUp(other) => self.cut(number, other.0 as usize),
            Output::Forget(_) => {}
            Output::Ask { node: to, question, bytes } => {
                node.open.insert(question, to.0 as usize);
                let life = node.life;
                self.at(self.now_ms + exchange::ANSWER_MS_MAX, Event::Timeout { node: number, life, question });
                self.send(number, to.0 as usize, Frame::Question { question, bytes });
            }
            Output::Respond { request, bytes } => self.respond(number, request, Some(bytes)),
            Output::Drop { request } => self.respond(number, request, None),
            Output::Serve { request, piece } => {
                let base = &self.base;
                let chunk = |index| usize::try_from(index).ok().and_then(|index: usize| base.get(index)).cloned();
                let response = exchange::serve(piece, &base_digests(), chunk);
                self.respond(number, request, Some(response.encode().unwrap()));
            }
            Output::Publish(bytes) => self.publish(number, bytes),
            Output::Validate { message, from, verdict } => {
                let bytes = node.messages.remove(&message).expect("every message is judged once");
                if verdict == Verdict::Accept && !self.loses_gossip {
                    for other in self.neighbours(number).into_iter().filter(|other| *other != from.0 as usize) {
                        self.send(number, other, Frame::Gossip(bytes.clone()));
                    }
                }
            }
            Output::Reading(reads) => self.set_reading(number, reads),
            Output::Notice(notice) => node.notices.push(notice),
            Output::Left(departure) => self.leave(number, departure),
            Output::Damaged { reason, .. } => node.damaged = Some(reason),
            Output::Work(work) => self.work(number, work),
            output => self.keep(number, output),
        }
    }

    /// What concerns the disk and the key.
    fn keep(&mut self, number: usize, output: Output) {
        let incarnation = self.random.next_u64() | 1;
        let node = &mut self.nodes[number];
        match output {
            Output::StoreRun(run) => {
                node.disk.run = Some(run);
                let missing = self.missing(number);
                self.answer(number, Channel::Base, Input::FetchBase { digests: Vec::new(), missing });
            }
            Output::StoreDigests(digests) => {
                assert_eq!(digests, base_digests(), "only the run's own digests are stored");
                node.disk.digests = digests;
                let missing = self.missing(number);
                self.answer(number, Channel::Base, Input::DigestsStored { missing });
            }
            Output::StoreChunk { question, index } => {
                let (brought, chunk) = node.chunk.take().expect("a chunk came");
                assert_eq!(brought, question);
                assert_eq!(Some(&chunk), self.base.get(index as usize), "only right chunks are stored");
                node.disk.base_chunks.insert(index);
                self.answer(number, Channel::Base, Input::ChunkStored { index });
            }
            Output::FinishBase => {
                assert_eq!(self.missing(number), [], "the base is complete");
                self.nodes[number].disk.has_base = true;
                self.restore(number);
            }
            Output::Resume(fits) => {
                let weights = node.disk.checkpoint.as_ref().map(|(weights, _)| weights.clone()).filter(|_| fits);
                node.trainer.weights = weights.unwrap_or_default();
            }
            Output::NewIncarnation => {
                node.disk.incarnation = incarnation;
                self.answer(number, Channel::Incarnation, Input::Incarnation(incarnation));
            }
            Output::Persist { records, write } => {
                node.disk.waiting.push_back(Write::Records(write, records));
                let after_ms = self.draw(self.tempo.disk);
                self.arrive(number, Channel::Disk, Item::DiskTurn, after_ms);
            }
            Output::Commit { contents } => {
                let weights = node.trainer.written.take().expect("a file was written");
                node.disk.waiting.push_back(Write::Checkpoint(weights, contents));
                let after_ms = self.draw(self.tempo.disk);
                self.arrive(number, Channel::Disk, Item::DiskTurn, after_ms);
            }
            Output::Discard => assert!(node.trainer.written.take().is_some(), "a file was written"),
            Output::Sign { token, message } => {
                let signature = signer(number).sign(&message);
                self.answer(number, Channel::Key, Input::Signed { token, signature });
            }
            other => panic!("nobody carries out {other:?}"),
        }
    }

    pub(super) fn disk_turn(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        if node.disk.is_full {
            self.arrive(number, Channel::Disk, Item::DiskTurn, 500);
            return self.tell(number, Input::StoreFailed);
        }
        match node.disk.waiting.pop_front() {
            Some(Write::Records(write, records)) => {
                node.note_durable(&records);
                records.into_iter().for_each(|record: Record| node.disk.store(record));
                self.tell(number, Input::Stored { write });
            }
            Some(Write::Checkpoint(weights, contents)) => {
                node.disk.checkpoint = Some((weights, contents));
                self.tell(number, Input::Committed);
            }
            None => {}
        }
    }

    fn leave(&mut self, number: usize, departure: Departure) {
        let node = &mut self.nodes[number];
        node.left = Some(departure);
        node.life += 1;
        let life = node.life;
        // What was published last still goes out.
        self.at(self.now_ms + 300, Event::Close { node: number, life });
    }

    /// Samples of ledgers are spelled out when they are handed out.
    fn work(&mut self, number: usize, work: Work) {
        let node = &mut self.nodes[number];
        let task = match work {
            Work::Adopt(machine, next_sample) => Task::Adopt(machine, next_sample),
            Work::SwarmStep(step) => Task::SwarmStep(step),
            Work::Train { until_sample } => Task::Train { until_sample },
            Work::Replay(entries) => Task::Replay(entries),
            Work::ReplayLedgers(ranges) => {
                let replica = node.peer().replica().unwrap();
                Task::Replay(ranges.iter().flat_map(|range| replica.contributions(range)).collect())
            }
            Work::Evaluate => Task::Evaluate,
            Work::Checkpoint => Task::Checkpoint,
            Work::Digest(root) => Task::Digest(root),
        };
        node.trainer.tasks.push_back(task);
    }

    /// The trainer does one thing.
    pub(super) fn train(&mut self, number: usize) {
        let run = self.run.id;
        let node = &mut self.nodes[number];
        let trainer = &mut node.trainer;
        let Some(task) = trainer.tasks.pop_front() else {
            if trainer.wants_to_measure() {
                let own = trainer.measure(&run);
                self.answer(number, Channel::Trainer, Input::Stepped(own));
            }
            return;
        };
        let told = match task {
            Task::Adopt(machine, next_sample) => {
                (trainer.machine, trainer.next_sample) = (Some(machine), next_sample);
                Some(Input::Adopted)
            }
            Task::SwarmStep(step) => {
                trainer.swarm_step = step;
                None
            }
            Task::Train { until_sample } => {
                trainer.until_sample = until_sample;
                None
            }
            Task::Replay(entries) => {
                trainer.apply(&entries);
                Some(Input::Replayed { entries: entries.len() as u64, took_us: 10 })
            }
            Task::Evaluate => {
                let machine = trainer.machine.expect("an evaluation comes after an adoption");
                let (loss, digest) = ((node.loss)(trainer.weights.len() as u64), digest_of(&trainer.weights));
                Some(Input::Evaluated(Look { loss, digest, machine, next_sample: trainer.next_sample, took_ms: 5 }))
            }
            Task::Checkpoint => {
                trainer.written = Some(trainer.weights.clone());
                let machine = trainer.machine.expect("a checkpoint comes after an adoption");
                Some(Input::Written { machine, next_sample: trainer.next_sample, took_ms: 5 })
            }
            Task::Digest(root) => Some(Input::Digested { root, digest: [7; 32] }),
        };
        self.answer(number, Channel::Trainer, Input::Took);
        told.into_iter().for_each(|input| self.answer(number, Channel::Trainer, input));
    }
}
