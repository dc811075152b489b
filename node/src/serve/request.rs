//! What a client of the OpenAI kind may ask, checked.

use anyhow::{Context, Result, bail, ensure};
use engine::{
    chat::{self, Value},
    model::{self, Sampling},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value as Json};

use super::speaker::Speaker;

/// Most tokens of an answer, whatever a client asks for.
pub const TOKENS_MAX: usize = 4_096;
/// In the words of what does not fit, and of nothing else.
pub const TOO_LONG: &str = "the model's window has";
/// Tokens of an answer, unless a client says otherwise.
const TOKENS: usize = 512;
/// Most texts at which an answer is to stop, and the longest.
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 256;
/// So much of a wrong value is shown.
const SHOWN_CHARACTERS: usize = 60;

/// What whole numbers may be.
const COUNT: &str = "a whole number from 0";
const SEED: &str = "a whole number from -9223372036854775808 to 9223372036854775807";

/// What would change an answer, and is not done here: each with the JSON that changes nothing, beside null.
const NOT_DONE: [(&str, &str); 14] = [
    ("modalities", "[\"text\"]"),
    ("functions", "[]"),
    ("function_call", "\"none\""),
    ("tool_choice", "\"auto\""),
    ("min_p", "0"),
    ("echo", "false"),
    ("logprobs", "false"),
    ("top_logprobs", "0"),
    ("best_of", "1"),
    ("suffix", "\"\""),
    ("response_format", r#"{"type": "text"}"#),
    ("logit_bias", "{}"),
    ("presence_penalty", "0"),
    ("frequency_penalty", "0"),
];

/// The body of a request: a JSON object. What is neither read nor refused is not looked at.
struct Body(Map<String, Json>);

impl Body {
    /// Errors if it is no object, or asks for what is not done here.
    fn read(bytes: &[u8]) -> Result<Self> {
        let body: Json = serde_json::from_slice(bytes).context("the body is not the JSON of a request")?;
        let Json::Object(fields) = body else { bail!("the body is {}; it must be an object", short(&body)) };
        for (name, neutral) in NOT_DONE {
            let Some(value) = fields.get(name) else { continue };
            // Of completions a number: how many others to list. And tools that are not to be called are not shown.
            let is_none = name == "logprobs" && *value == 0 || name == "tool_choice" && value == "none";
            ensure!(
                is_none || model::says_nothing(value, neutral),
                "{name} is {}: this server has no {name}; leave it out",
                short(value)
            );
        }
        Ok(Self(fields))
    }

    /// A field, unless it is absent or null. Errors if it is not `what` it must be.
    fn get<T: DeserializeOwned>(&self, name: &str, what: &str) -> Result<Option<T>> {
        let Some(value) = self.0.get(name).filter(|value| !value.is_null()) else { return Ok(None) };
        match T::deserialize(value) {
            Ok(value) => Ok(Some(value)),
            Err(_) => bail!("{name} is {}; it must be {what}", short(value)),
        }
    }

    /// A number, or what it is `usually`. Errors if it is not what `is_in` wants, in the words of `range`.
    fn number(&self, name: &str, usually: f64, range: &str, is_in: impl Fn(f64) -> bool) -> Result<f64> {
        let number = self.get(name, &format!("a number, {range}"))?.unwrap_or(usually);
        // Its JSON is short, however many zeros it has.
        ensure!(is_in(number), "{name} is {}, and must be {range}", short(&Json::from(number)));
        Ok(number)
    }

    fn temperature(&self, usually: f64) -> Result<f64> {
        self.number("temperature", usually, "0 to 10", |temperature| (0.0..=10.0).contains(&temperature))
    }

    /// A field of one text or several.
    fn texts(&self, name: &str) -> Result<Option<Vec<String>>> {
        let texts: Option<Texts> = self.get(name, "a text, or a list of texts")?;
        Ok(texts.map(|texts| match texts {
            Texts::One(text) => vec![text],
            Texts::Many(texts) => texts,
        }))
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// The beginning of a value, for an error.
fn short(value: &Json) -> String {
    let text = value.to_string();
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// What is to be answered.
pub struct Asked {
    /// Whether it is a conversation.
    pub is_chat: bool,
    /// As the model reads it.
    pub prompt: Vec<u32>,
    /// How the answer is drawn, and where it ends.
    pub sampling: Sampling,
    /// Whether the answer is to come in pieces.
    pub streams: bool,
    /// Whether the last piece says how many tokens there were.
    pub counts: bool,
}

impl Asked {
    /// Errors name the field, the value, and what it may be. `seed`: unless the client says another.
    pub fn of(body: &[u8], is_chat: bool, speaker: &Speaker, seed: u64) -> Result<Self> {
        let body = Body::read(body)?;
        let count: u64 = body.get("n", "1")?.unwrap_or(1);
        ensure!(count == 1, "n is {count}; this server gives one answer at a time");
        let mut stops = body.texts("stop")?.unwrap_or_default();
        ensure!(stops.len() <= STOPS_MAX, "stop has {} texts, and may have {STOPS_MAX}", stops.len());
        ensure!(
            stops.iter().all(|stop| (1..=STOP_BYTES_MAX).contains(&stop.len())),
            "a text of stop must have 1 to {STOP_BYTES_MAX} bytes"
        );
        let prompt = if is_chat {
            stops.extend(speaker.turn_stops());
            conversation(&body, speaker)?
        } else {
            let texts = body.texts("prompt")?.context("prompt is missing")?;
            let [text] = &texts[..] else { bail!("prompt has {} texts; ask for them one by one", texts.len()) };
            speaker.text(text)?
        };
        let prompt_tokens = prompt.len();
        let window = speaker.window()?;
        ensure!(prompt_tokens < window, "the prompt has {prompt_tokens} tokens, and {TOO_LONG} {window}; shorten it");
        let most = |name: &str| body.get::<u64>(name, COUNT);
        let most = most("max_completion_tokens")?.or(most("max_tokens")?);
        let wanted = most.map_or(TOKENS, |most| most.min(1 << 32) as usize);
        let defaults = speaker.sampling();
        let sampling = Sampling {
            temperature: body.temperature(defaults.temperature)?,
            top_p: body.number("top_p", defaults.top_p, "above 0, at most 1", |top_p| top_p > 0.0 && top_p <= 1.0)?,
            top_k: body.get("top_k", "a whole number from 0, which is for all")?.unwrap_or(defaults.top_k),
            repetition_penalty: body.number(
                "repetition_penalty",
                defaults.repetition_penalty,
                "0.1 to 10",
                |penalty| (0.1..=10.0).contains(&penalty),
            )?,
            seed: body.get::<i64>("seed", SEED)?.map_or(seed, |seed| seed as u64),
            tokens_max: wanted.min(TOKENS_MAX).min(window - prompt_tokens),
            until: None,
            stop: stops,
        };
        let streams = body.get("stream", "true or false")?.unwrap_or(false);
        let options: Option<StreamOptions> =
            body.get("stream_options", "an object, with include_usage true or false")?;
        let counts = options.and_then(|options| options.include_usage).unwrap_or(false);
        Ok(Self { is_chat, prompt, sampling, streams, counts })
    }
}

/// The messages of `body` as the model reads them.
fn conversation(body: &Body, speaker: &Speaker) -> Result<Vec<u32>> {
    let messages: Value = body.get("messages", "a list of messages")?.context("messages is missing")?;
    let messages = chat::messages(&messages).context("messages")?;
    let tools: Option<Value> = body.get("tools", "a list of tools")?;
    let tools = tools.filter(|_| body.0.get("tool_choice").is_none_or(|choice| choice != "none"));
    let tools = tools.as_ref().map(chat::tools).transpose().context("tools")?.flatten();
    speaker.conversation(&messages, tools.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> String {
        let read = |body: Body| {
            body.get::<u64>("max_tokens", COUNT)?;
            body.get::<i64>("seed", SEED)?;
            body.temperature(1.0)?;
            body.texts("stop")?;
            body.texts("prompt")?;
            body.get::<bool>("stream", "true or false")
        };
        format!("{:#}", Body::read(body.as_bytes()).and_then(read).unwrap_err())
    }

    #[test]
    fn a_wrong_field_is_named_with_its_value_and_what_it_may_be() {
        for (body, expected) in [
            (r#"{"max_tokens": -1}"#, "max_tokens is -1; it must be a whole number from 0"),
            (r#"{"seed": 18446744073709551615}"#, "seed is 18446744073709551615; it must be a whole number from -9223"),
            (r#"{"temperature": 1e308}"#, "308, and must be 0 to 10"),
            (r#"{"temperature": -1}"#, "temperature is -1.0, and must be 0 to 10"),
            (r#"{"temperature": "hot"}"#, "temperature is \"hot\"; it must be a number, 0 to 10"),
            (r#"{"stop": 5}"#, "stop is 5; it must be a text, or a list of texts"),
            (r#"{"prompt": [1, 2, 3]}"#, "prompt is [1,2,3]; it must be a text"),
            (r#"{"stream": "yes"}"#, "stream is \"yes\"; it must be true or false"),
            ("[1]", "the body is [1]; it must be an object"),
            ("{", "not the JSON of a request"),
            (r#"{"echo": true}"#, "echo is true: this server has no echo"),
            (r#"{"logprobs": 5}"#, "logprobs is 5"),
            (r#"{"response_format": {"type": "json_object"}}"#, "response_format is"),
            (r#"{"frequency_penalty": 0.5}"#, "frequency_penalty is 0.5"),
            // What is of another kind than the neutral value is not taken for it.
            (r#"{"best_of": false}"#, "best_of is false"),
            (r#"{"echo": 0}"#, "echo is 0"),
            (r#"{"tool_choice": "required"}"#, "tool_choice is \"required\""),
            (r#"{"functions": [{"name": "f"}]}"#, "functions is"),
            (r#"{"min_p": 0.05}"#, "min_p is 0.05"),
            (r#"{"modalities": ["text", "audio"]}"#, "modalities is"),
            (r#"{"suffix": false}"#, "suffix is false"),
        ] {
            assert!(refusal(body).contains(expected), "{body}: {}", refusal(body));
        }
        let long = format!(r#"{{"max_tokens": "{}"}}"#, "9".repeat(1_000));
        assert!(refusal(&long).len() < 200, "{}", refusal(&long));
    }

    #[test]
    fn what_says_nothing_is_as_good_as_absent() {
        let body = r#"{"max_tokens": null, "stop": null, "stream": null, "echo": false, "logprobs": null, "best_of": 1, "tool_choice": "none",
            "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "response_format": {"type": "text"},
            "modalities": ["text"]}"#;
        let body = Body::read(body.as_bytes()).unwrap();
        assert_eq!(body.get::<u64>("max_tokens", "").unwrap(), None);
        assert_eq!((body.texts("stop").unwrap(), body.get::<bool>("stream", "").unwrap()), (None, None));
        assert!(Body::read(br#"{"logprobs": 0}"#).is_ok() && Body::read(br#"{"logprobs": false}"#).is_ok());
    }
}
