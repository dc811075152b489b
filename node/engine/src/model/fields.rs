//! Fields of a `config.json`, read and bounded. Errors name the field and the value.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::architecture::{Interface, LAYERS_MAX, POSITIONS_MAX, VOCABULARY_MAX, WIDTH_MAX, bounded};

/// Most heads, and elements per head.
pub const HEADS_MAX: usize = 1024;

/// A config. A field that is null counts as absent, but for [`Fields::has`].
pub struct Fields<'a>(pub &'a Value);

impl<'a> Fields<'a> {
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Whether the field is there, though it may be null.
    pub fn has(&self, name: &str) -> bool {
        self.0.get(name).is_some()
    }

    /// A size from 1 to `max`.
    pub fn size(&self, name: &str, max: usize) -> Result<usize> {
        let value = self.get(name).with_context(|| format!("config.json has no {name}"))?;
        self.checked_size(name, value, max)
    }

    pub fn size_or(&self, name: &str, usual: usize, max: usize) -> Result<usize> {
        self.get(name).map_or(Ok(usual), |value| self.checked_size(name, value, max))
    }

    /// A size that may be absent, as a sliding window.
    pub fn some_size(&self, name: &str, max: usize) -> Result<Option<usize>> {
        self.get(name).map(|value| self.checked_size(name, value, max)).transpose()
    }

    fn checked_size(&self, name: &str, value: &Value, max: usize) -> Result<usize> {
        let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
        let size = size.with_context(|| format!("config.json: {name} is {value}, it must be a whole number"))?;
        bounded(name, size, max)?;
        Ok(size)
    }

    /// A finite number of magnitude up to 1e12.
    pub fn number_or(&self, name: &str, usual: f64) -> Result<f64> {
        Ok(self.some_number(name)?.unwrap_or(usual))
    }

    pub fn some_number(&self, name: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number.abs() <= 1e12 => Ok(Some(number)),
            _ => bail!("config.json: {name} is {value}, it must be a number of at most 1e12"),
        }
    }

    /// A number above 0.
    pub fn positive_or(&self, name: &str, usual: f64) -> Result<f64> {
        let number = self.number_or(name, usual)?;
        ensure!(number > 0.0, "config.json: {name} is {number}, it must be above 0");
        Ok(number)
    }

    pub fn some_positive(&self, name: &str) -> Result<Option<f64>> {
        let number = self.some_number(name)?;
        ensure!(number.is_none_or(|number| number > 0.0), "config.json: {name} is {number:?}, it must be above 0");
        Ok(number)
    }

    /// The epsilon of norms.
    pub fn epsilon(&self, name: &str, usual: f64) -> Result<f64> {
        let epsilon = self.number_or(name, usual)?;
        ensure!(epsilon > 0.0 && epsilon <= 1.0, "config.json: {name} is {epsilon}, it must be above 0 and at most 1");
        Ok(epsilon)
    }

    pub fn flag(&self, name: &str, usual: bool) -> Result<bool> {
        let Some(value) = self.get(name) else { return Ok(usual) };
        value.as_bool().with_context(|| format!("config.json: {name} is {value}, it must be true or false"))
    }

    pub fn text(&self, name: &str) -> Result<Option<&'a str>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_str().map(Some).with_context(|| format!("config.json: {name} is {value}, it must be a text"))
    }

    /// Errors if the flag is set: nothing here computes what it asks for.
    pub fn refuse(&self, name: &str) -> Result<()> {
        ensure!(!self.flag(name, false)?, "config.json: {name} is true, which is not supported");
        Ok(())
    }

    /// Errors if the flag is `means_ahead`, which lets tokens see those behind them.
    pub fn refuse_ahead(&self, name: &str, means_ahead: bool) -> Result<()> {
        ensure!(
            self.flag(name, !means_ahead)? != means_ahead,
            "config.json: {name} is {means_ahead}: tokens see those behind them, as in a model of embeddings, which \
             predicts no next token; take the model that it was made of"
        );
        Ok(())
    }

    /// The entries of a list for each of so many layers; it may go on.
    pub fn per_layer(&self, name: &str, layers: usize) -> Result<Option<&'a [Value]>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.get(..layers));
        let list =
            list.with_context(|| format!("config.json: {name} must be a list of an entry for each of {layers} layers"));
        Ok(Some(list?))
    }

    /// Whether attention slides, layer by layer, as `layer_types` says, or as `usual` does where that is absent.
    pub fn slides(&self, layers: usize, usual: impl Fn(usize) -> bool) -> Result<Vec<bool>> {
        let Some(types) = self.per_layer("layer_types", layers)? else { return Ok((0..layers).map(usual).collect()) };
        let slides = |value: &Value| match value.as_str() {
            Some("sliding_attention") => Ok(true),
            Some("full_attention") => Ok(false),
            _ => bail!(
                "config.json: layer_types has {value}; supported are \"full_attention\" and \"sliding_attention\""
            ),
        };
        types.iter().map(slides).collect()
    }

    pub fn layers(&self, name: &str) -> Result<usize> {
        self.size(name, LAYERS_MAX)
    }

    pub fn width(&self, name: &str) -> Result<usize> {
        self.size(name, WIDTH_MAX)
    }

    /// Vocabulary, window and special tokens; `positions` names the field of the window, `usual` is its value where it
    /// is absent.
    pub fn interface(&self, positions: &str, usual: usize) -> Result<Interface> {
        let ids = |name: &str| -> Result<Vec<u32>> {
            let Some(value) = self.get(name) else { return Ok(Vec::new()) };
            token_ids(value)
                .with_context(|| format!("config.json: {name} is {value}, it must be a token id or a list of them"))
        };
        Ok(Interface {
            vocabulary: self.size("vocab_size", VOCABULARY_MAX)?,
            window_max: self.size_or(positions, usual, POSITIONS_MAX)?,
            bos: ids("bos_token_id")?.first().copied(),
            eos: ids("eos_token_id")?,
        })
    }
}

/// One token id or several, as `eos_token_id` has them. A negative one, which some configs have for none, is left out.
pub fn token_ids(value: &Value) -> Option<Vec<u32>> {
    let ids = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    let ids = ids.iter().filter(|id| id.as_i64().is_none_or(|id| id >= 0));
    ids.map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}
