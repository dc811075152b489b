//! Gossip messages, each kept once and known by a number: equal content, equal number.

use std::{collections::HashMap, rc::Rc};

use crate::mesh::Message;

struct Content {
    bytes: Rc<[u8]>,
    samples: u64,
}

/// See the module's documentation.
#[derive(Default)]
pub struct Messages {
    contents: Vec<Content>,
    numbers: HashMap<[u8; 32], Message>,
}

impl Messages {
    /// The number of `bytes`, which carry so many gradients.
    pub fn intern(&mut self, bytes: Vec<u8>, samples: u64) -> Message {
        let name = *blake3::hash(&bytes).as_bytes();
        let contents = &mut self.contents;
        *self.numbers.entry(name).or_insert_with(|| {
            contents.push(Content { bytes: bytes.into(), samples });
            contents.len() as Message - 1
        })
    }

    /// Length, bytes.
    pub fn size(&self, message: Message) -> usize {
        self.contents.get(message as usize).map_or(0, |content| content.bytes.len())
    }

    /// Gradients that it carries.
    pub fn samples(&self, message: Message) -> u64 {
        self.contents.get(message as usize).map_or(0, |content| content.samples)
    }

    /// The bytes.
    pub fn content(&self, message: Message) -> Rc<[u8]> {
        self.contents.get(message as usize).map_or_else(|| Rc::from([]), |content| content.bytes.clone())
    }
}
