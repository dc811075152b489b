//! What a client is told: OpenAI's objects, in one piece or streamed.

use engine::model::Finish;
use serde_json::{Value, json};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{
    request::{Asked, TOO_LONG},
    speaker::Spoken,
};

/// What all pieces of one answer share.
pub struct Answer {
    id: String,
    created: u64,
    model: String,
    is_chat: bool,
    prompt_tokens: usize,
}

impl Answer {
    /// `id`: random.
    pub fn new(asked: &Asked, model: &str, id: &str) -> Self {
        let prefix = if asked.is_chat { "chatcmpl" } else { "cmpl" };
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self {
            id: format!("{prefix}-{id}"),
            created,
            model: model.to_owned(),
            is_chat: asked.is_chat,
            prompt_tokens: asked.prompt.len(),
        }
    }

    fn object(&self, kind: &str, choices: Value) -> Value {
        json!({ "id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices })
    }

    fn usage(&self, spoken: &Spoken) -> Value {
        let (prompt, completion) = (self.prompt_tokens, spoken.generated.tokens);
        json!({ "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion })
    }

    /// The whole answer.
    pub fn whole(&self, text: &str, spoken: &Spoken) -> Value {
        let finish = finish(spoken);
        let (kind, choice) = match self.is_chat {
            true => (
                "chat.completion",
                json!({ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": finish }),
            ),
            false => {
                ("text_completion", json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": finish }))
            }
        };
        let mut object = self.object(kind, json!([choice]));
        object["usage"] = self.usage(spoken);
        object["system_fingerprint"] = json!(spoken.weights);
        object
    }

    fn kind(&self) -> &'static str {
        if self.is_chat { "chat.completion.chunk" } else { "text_completion" }
    }

    /// What comes before the first piece, if anything does.
    pub fn first(&self) -> Option<Value> {
        let choice = json!([{ "index": 0, "delta": { "role": "assistant", "content": "" }, "finish_reason": null }]);
        self.is_chat.then(|| self.object(self.kind(), choice))
    }

    pub fn piece(&self, text: &str) -> Value {
        let choice = match self.is_chat {
            true => json!({ "index": 0, "delta": { "content": text }, "finish_reason": null }),
            false => json!({ "index": 0, "text": text, "logprobs": null, "finish_reason": null }),
        };
        self.object(self.kind(), json!([choice]))
    }

    /// The last piece, and the one that counts, if it is wanted.
    pub fn last(&self, spoken: &Spoken, counts: bool) -> Vec<Value> {
        let choice = match self.is_chat {
            true => json!({ "index": 0, "delta": {}, "finish_reason": finish(spoken) }),
            false => json!({ "index": 0, "text": "", "logprobs": null, "finish_reason": finish(spoken) }),
        };
        let mut last = self.object(self.kind(), json!([choice]));
        last["system_fingerprint"] = json!(spoken.weights);
        let mut usage = self.object(self.kind(), json!([]));
        usage["usage"] = self.usage(spoken);
        if counts { vec![last, usage] } else { vec![last] }
    }
}

fn finish(spoken: &Spoken) -> &'static str {
    match spoken.generated.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

/// What a client is told that gets no answer. The code is OpenAI's, for who shortens a conversation and asks again.
pub fn error(message: &str, kind: &str) -> Value {
    let code = message.contains(TOO_LONG).then_some("context_length_exceeded");
    json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
}
