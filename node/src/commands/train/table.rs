//! What each choice of what to train needs in memory, before anything is loaded.

use anyhow::{Result, ensure};
use bytesize::ByteSize;
use engine::{
    base::{AdapterSettings, Trained},
    model::Checkpoint,
};
use std::fmt::Write as _;

use super::estimator;
use crate::{cli::settings::Settings, system::memory, trainer::texts};

/// The program, its tables of tokens, tiles, and the logits that exist at once.
const FIXED_BYTES: u64 = 96 << 20;
/// Numbers of a hidden state's width that live beside the outputs of one layer's linear layers.
const HIDDEN_STATES: u64 = 6;
/// Rank of the adapters that are shown where nobody named one.
const RANK: u32 = 8;
/// Layers of `last:N` that are shown, of a model that has so many.
const LAST: usize = 4;

/// Bytes that one choice takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Needs {
    /// Frozen tensors, as they are kept.
    base: u64,
    /// Trained weights.
    trained: u64,
    /// A forward of the batch, and what the program takes anyway.
    forward: u64,
    /// A backward pass more.
    projection: u64,
}

impl Needs {
    fn of(checkpoint: &Checkpoint, trained: &Trained, adapters: Option<&AdapterSettings>, tokens: u64) -> Result<Self> {
        let architecture = checkpoint.architecture()?;
        let (mut base, mut weights) = (0, 0);
        for (name, shape) in checkpoint.shapes() {
            match trained.has(name) {
                true => weights += shape.iter().product::<usize>() as u64,
                false => base += checkpoint.frozen_bytes(name)?,
            }
        }
        if let Some(adapters) = adapters {
            let halves = adapters.halves(&*architecture)?;
            weights += halves.iter().map(|half| half.shape.iter().product::<usize>() as u64).sum::<u64>();
        }
        let numbers = HIDDEN_STATES * checkpoint.width() as u64 + checkpoint.outputs_of_layer() as u64;
        let projection = estimator::projection_bytes(weights);
        Ok(Self { base, trained: 4 * weights, forward: FIXED_BYTES + 4 * tokens * numbers, projection })
    }

    fn by_forwards(&self) -> u64 {
        self.base + self.trained + self.forward
    }

    fn with_projection(&self) -> u64 {
        self.by_forwards() + self.projection
    }
}

/// What people can say, and what it means here. Errors say why it cannot be.
fn choice(checkpoint: &Checkpoint, train: &str, rank: Option<u32>) -> Result<(Trained, Option<AdapterSettings>)> {
    let (trained, adapters) = Trained::or_adapters(train, rank, None, &*checkpoint.architecture()?)?;
    ensure!(trained.quantised(checkpoint)?.is_none(), "is not for what is quantised");
    Ok((trained, adapters))
}

/// The table, for a batch of so many `tokens`, the choice that was made marked; `available`: bytes that may be taken.
fn table(checkpoint: &Checkpoint, settings: &Settings, tokens: u64, available: Option<u64>) -> Result<String> {
    let made = (settings.train.as_deref().unwrap_or("all").to_owned(), settings.lora);
    let last = format!("last:{}", LAST.min(checkpoint.architecture()?.layers()));
    let usual = [("all", None), ("attention", None), (&*last, None), ("norms", None), ("all", Some(RANK))];
    let mut choices: Vec<(String, Option<u32>)> = usual.map(|(text, rank)| (text.to_owned(), rank)).to_vec();
    if !choices.contains(&made) {
        choices.push(made.clone());
    }
    let mut text = format!(
        "memory for a batch of {tokens} tokens, of {} that are free:\n  {:<26}{:>11}{:>11}{:>11}{:>12}{:>13}  fits",
        available.map_or("an unknown number of bytes".to_owned(), |bytes| ByteSize(bytes).to_string()),
        "",
        "base",
        "trained",
        "forward",
        "projection",
        "in all"
    );
    for (train, rank) in choices {
        let name = match (rank, &*train) {
            (Some(rank), "all") => format!("--lora {rank}"),
            (Some(rank), _) => format!("--lora {rank} --train {train}"),
            (None, _) => format!("--train {train}"),
        };
        let mark = if (train.clone(), rank) == made { "*" } else { " " };
        let (trained, adapters) = match choice(checkpoint, &train, rank) {
            Ok(chosen) => chosen,
            Err(error) => {
                write!(text, "\n{mark} {name:<26} {error:#}")?;
                continue;
            }
        };
        let needs = Needs::of(checkpoint, &trained, adapters.as_ref(), tokens)?;
        let fits = match available {
            None => "?",
            Some(available) if needs.with_projection() <= available => "yes",
            Some(available) if needs.by_forwards() <= available => "by forwards alone",
            Some(_) => "no",
        };
        let size = |bytes: u64| ByteSize(bytes).to_string();
        write!(
            text,
            "\n{mark} {name:<26}{:>11}{:>11}{:>11}{:>12}{:>13}  {fits}",
            size(needs.base),
            size(needs.trained),
            size(needs.forward),
            size(needs.projection),
            size(needs.with_projection())
        )?;
    }
    Ok(text)
}

/// Says what each choice needs, and what fits here.
pub fn say(checkpoint: &Checkpoint, settings: &Settings) -> Result<()> {
    let rows = estimator::rows_of_projection(settings) as u64;
    let available = match (memory::available_bytes(), settings.memory) {
        (Some(free), Some(allowed)) => Some(free.min(allowed)),
        (free, allowed) => free.or(allowed),
    };
    let tokens = rows * texts::window(checkpoint, settings.sequence_length)?.0 as u64;
    tracing::info!("{}", table(checkpoint, settings, tokens, available)?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::embedded;
    use std::path::Path;

    fn needs(checkpoint: &Checkpoint, train: &str, rank: Option<u32>) -> Option<Needs> {
        let (trained, adapters) = choice(checkpoint, train, rank).ok()?;
        Some(Needs::of(checkpoint, &trained, adapters.as_ref(), 1_000).unwrap())
    }

    #[test]
    fn what_is_trained_takes_four_bytes_and_the_rest_what_it_is_stored_in() {
        // The embedded model is stored in 16 bits.
        let checkpoint = embedded::checkpoint().unwrap();
        let all = needs(&checkpoint, "all", None).unwrap();
        let weights: usize = checkpoint.shapes().map(|(_, shape)| shape.iter().product::<usize>()).sum();
        assert_eq!((all.base, all.trained), (0, 4 * weights as u64));
        let lora = needs(&checkpoint, "all", Some(8)).unwrap();
        assert!(lora.base < 21 * weights as u64 / 10 && lora.base >= 2 * weights as u64, "{lora:?}");
        assert!(lora.trained < all.trained && lora.projection < all.projection, "{lora:?}");
        let last = needs(&checkpoint, "last:1", None).unwrap();
        assert!(last.by_forwards() < all.by_forwards() && last.base > 0, "{last:?}");
    }

    #[test]
    fn what_is_quantised_is_trained_by_adapters_only() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/tests/gguf/kinds.gguf");
        let checkpoint = Checkpoint::load(&path).unwrap();
        let refused = choice(&checkpoint, "all", None).unwrap_err().to_string();
        assert_eq!(refused, "is not for what is quantised");
        assert!(needs(&checkpoint, "norms", None).is_some());
        let lora = needs(&checkpoint, "all", Some(2)).unwrap();
        let file = std::fs::metadata(&path).unwrap().len();
        assert!(lora.base < file, "{lora:?}, of a file of {file} bytes");
    }

    #[test]
    fn a_model_of_few_layers_has_a_row_for_them_and_other_reasons_are_said() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/tests/gguf/llama.gguf");
        let checkpoint = Checkpoint::load(&path).unwrap();
        let layers = checkpoint.architecture().unwrap().layers();
        assert!(layers < LAST, "fewer than are usually shown");
        let refused = choice(&checkpoint, &format!("last:{}", layers + 1), None).unwrap_err().to_string();
        assert!(refused.contains(&format!("the model has {layers} layers")), "{refused}");
        let settings = Settings::resolve(crate::cli::RunArgs::default()).unwrap();
        let table = table(&checkpoint, &settings, 1_000, Some(1 << 30)).unwrap();
        assert!(table.contains(&format!("--train last:{layers} ")) && !table.contains("last:4"), "{table}");
    }
}
