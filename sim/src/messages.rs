//! Gossip messages, each kept once and known by a number: equal content, equal number.

use std::{collections::HashMap, rc::Rc};

use crate::mesh::Message;

/// See the module's documentation.
#[derive(Default)]
pub struct Messages {
    contents: Vec<Rc<[u8]>>,
    numbers: HashMap<[u8; 32], Message>,
}

impl Messages {
    /// The number of `bytes`.
    pub fn intern(&mut self, bytes: Vec<u8>) -> Message {
        let name = *blake3::hash(&bytes).as_bytes();
        let contents = &mut self.contents;
        *self.numbers.entry(name).or_insert_with(|| {
            contents.push(bytes.into());
            contents.len() as Message - 1
        })
    }

    /// Length, bytes.
    pub fn size(&self, message: Message) -> usize {
        self.contents.get(message as usize).map_or(0, |content| content.len())
    }

    pub fn content(&self, message: Message) -> &[u8] {
        self.contents.get(message as usize).map_or(&[], |content| content)
    }
}
