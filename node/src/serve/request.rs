//! What a client of the OpenAI kind may ask, checked.

use anyhow::{Context, Result, bail, ensure};
use engine::{
    chat::{self, Value},
    model::Sampling,
};
use serde::Deserialize;

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

/// The body of a request. What is not named here is not looked at.
#[derive(Deserialize)]
struct Body {
    messages: Option<Value>,
    prompt: Option<Prompt>,
    tools: Option<Value>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    seed: Option<i64>,
    n: Option<u64>,
    stop: Option<Stop>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Texts(Vec<String>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Stop {
    Text(String),
    Texts(Vec<String>),
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
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
        let body: Body = serde_json::from_slice(body).context("the body is not the JSON of a request")?;
        ensure!(body.n.unwrap_or(1) == 1, "n is {}; this server gives one answer at a time", body.n.unwrap_or(1));
        let mut stops = match body.stop {
            None => Vec::new(),
            Some(Stop::Text(text)) => vec![text],
            Some(Stop::Texts(texts)) => texts,
        };
        ensure!(stops.len() <= STOPS_MAX, "stop has {} texts, and may have {STOPS_MAX}", stops.len());
        ensure!(
            stops.iter().all(|stop| (1..=STOP_BYTES_MAX).contains(&stop.len())),
            "a text of stop must have 1 to {STOP_BYTES_MAX} bytes"
        );
        let prompt = match (is_chat, body.messages, body.prompt) {
            (true, Some(messages), _) => {
                let messages = chat::messages(&messages).context("messages")?;
                let tools = body.tools.as_ref().map(chat::tools).transpose().context("tools")?.flatten();
                stops.extend(speaker.turn_stops());
                speaker
                    .conversation(&messages, tools.as_ref())
                    .context("the model's chat template refuses the messages")?
            }
            (true, None, _) => bail!("messages is missing"),
            (false, _, Some(Prompt::Text(text))) => speaker.text(&text)?,
            (false, _, Some(Prompt::Texts(texts))) => match <[String; 1]>::try_from(texts) {
                Ok([text]) => speaker.text(&text)?,
                Err(texts) => bail!("prompt has {} texts; ask for them one by one", texts.len()),
            },
            (false, _, None) => bail!("prompt is missing"),
        };
        let prompt_tokens = prompt.len();
        let window = speaker.window()?;
        ensure!(prompt_tokens < window, "the prompt has {prompt_tokens} tokens, and {TOO_LONG} {window}; shorten it");
        let wanted = body.max_completion_tokens.or(body.max_tokens).map_or(TOKENS, |most| most.min(1 << 32) as usize);
        let defaults = speaker.sampling()?;
        let sampling = Sampling {
            temperature: body.temperature.unwrap_or(defaults.temperature),
            top_p: body.top_p.unwrap_or(defaults.top_p),
            seed: body.seed.map_or(seed, |seed| seed as u64),
            tokens_max: wanted.min(TOKENS_MAX).min(window - prompt_tokens),
            stop: stops,
            ..defaults
        };
        let (temperature, top_p) = (sampling.temperature, sampling.top_p);
        ensure!((0.0..=10.0).contains(&temperature), "temperature is {temperature}, and must be 0 to 10");
        ensure!(top_p > 0.0 && top_p <= 1.0, "top_p is {top_p}, and must be above 0, at most 1");
        let counts = body.stream_options.is_some_and(|options| options.include_usage);
        Ok(Self { is_chat, prompt, sampling, streams: body.stream, counts })
    }
}
