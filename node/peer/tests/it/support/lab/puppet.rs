//! Nodes without a peer, which do what a test wants.

use super::*;

impl Lab {
    /// A puppet sends gossip.
    pub fn puppet_gossip(&mut self, puppet: usize, to: usize, bytes: Vec<u8>) {
        self.send(puppet, to, Frame::Gossip(bytes));
    }

    /// A puppet asks, about this laboratory's run.
    pub fn puppet_asks(&mut self, puppet: usize, to: usize, question: Question) {
        let bytes = Request { run: self.run.id, question }.encode().unwrap();
        self.puppet_sends_question(puppet, to, bytes);
    }

    /// A puppet sends something as a question.
    pub fn puppet_sends_question(&mut self, puppet: usize, to: usize, bytes: Vec<u8>) {
        self.send(puppet, to, Frame::Question { question: 0, bytes });
    }

    /// Questions that a puppet was asked, and has not answered.
    pub fn puppet_questions(&mut self, puppet: usize) -> Vec<(usize, u64, Request)> {
        let heard = std::mem::take(&mut self.nodes[puppet].heard);
        let question = |(from, frame)| match frame {
            Frame::Question { question, bytes } => Some((from, question, Request::decode(&bytes).unwrap())),
            Frame::Answer { .. } | Frame::Gossip(_) => None,
        };
        heard.into_iter().filter_map(question).collect()
    }

    /// A puppet answers: a message, or anything else.
    pub fn puppet_answers(&mut self, puppet: usize, to: usize, question: u64, bytes: Option<Vec<u8>>) {
        self.send(puppet, to, Frame::Answer { question, bytes });
    }

    /// Lets time pass, while a puppet answers what it is asked as it is told to. `None`: it does not answer.
    pub fn pass_answering(&mut self, puppet: usize, ms: u64, mut answer: impl FnMut(&Question) -> Option<Response>) {
        let end = self.now_ms + ms;
        while self.now_ms < end {
            self.pass(10);
            for (from, question, request) in self.puppet_questions(puppet) {
                if let Some(response) = answer(&request.question) {
                    self.puppet_answers(puppet, from, question, Some(response.encode().unwrap()));
                }
            }
        }
    }
}
