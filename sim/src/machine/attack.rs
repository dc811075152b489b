//! An adversary's hands: what it may see of its machine, and how its acts are carried out.

use anyhow::Result;
use protocol::message::{Request, Response};

use super::Machine;
use crate::{
    adversary::{Act, Asker, Scene},
    event::{Frame, Letter, Number},
    mesh,
    swarm::Swarm,
};

impl Machine {
    /// What an adversary does of its own accord, once a tick, until the honest are done.
    pub(super) fn attack(&mut self, swarm: &mut Swarm) -> Result<()> {
        let (Some(adversary), Some(running)) = (&mut self.adversary, &self.running) else { return Ok(()) };
        if swarm.is_over {
            return Ok(());
        }
        let neighbours: Vec<Number> = running.neighbours.numbers().collect();
        let scene = Scene {
            now: swarm.queue.now(),
            run: &swarm.run.id,
            neighbours: &neighbours,
            replica: running.peer.replica(),
        };
        for act in adversary.act(&scene)? {
            match act {
                Act::Show { to, bytes } => self.show(to, bytes, swarm)?,
                Act::Contribute(own) => self.contribute(own, swarm)?,
            }
        }
        Ok(())
    }

    /// Shows a message to one neighbour, past the mesh.
    fn show(&mut self, to: Number, bytes: Vec<u8>, swarm: &mut Swarm) -> Result<()> {
        let size = bytes.len();
        let frame = mesh::Frame::Publish(swarm.messages.intern(bytes));
        let bytes = mesh::frame_bytes(&frame, &|_| size);
        self.send(to, Frame::Gossip(frame), bytes, swarm)
    }

    /// An answer as it is sent: the peer's own, unless an adversary changes it.
    pub(super) fn distorted(&mut self, asker: Number, letter: &Letter, truth: Vec<u8>, swarm: &Swarm) -> Vec<u8> {
        let Some(adversary) = &mut self.adversary else { return truth };
        let (Ok(request), Ok(response)) = (Request::decode(&letter.content), Response::decode(&truth)) else {
            return truth;
        };
        let key = swarm.keys.get(asker as usize).copied().unwrap_or_default();
        let asker = Asker { number: asker, key: &key };
        adversary.answer(&swarm.run.id, asker, &request.question, response).unwrap_or(truth)
    }
}
