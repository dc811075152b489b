//! A score: what the model writes after a prompt, judged by a program.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::sync::Arc;

use super::{LossSum, Objective};
use crate::model::{Batch, Finish, Model, NotFinite, Row, Sampling, Span, Tokenizer, generate};

/// Gives scores; higher is better.
pub trait Judge: Send {
    /// One score for each of `completions`, in their order. Errors say who did what, and the remedy.
    fn scores(&self, completions: &[Completion]) -> Result<Vec<f64>>;
}

/// What the model wrote after a prompt.
#[derive(Clone, PartialEq, Debug)]
pub struct Completion {
    /// What was asked: a JSON object with `prompt`, the text that the model read, and `row`, all of the row's columns.
    pub asked: Arc<str>,
    /// What it wrote, without what ended it.
    pub text: String,
    /// Why it wrote no more.
    pub finish: Finish,
}

impl Completion {
    /// One line of JSON: `prompt`, `row`, `completion`, and `finish`, which is `stop`, or `length` where it was cut.
    pub fn line(&self) -> String {
        let finish = if self.finish == Finish::Stop { "stop" } else { "length" };
        let own = json!({ "completion": self.text, "finish": finish }).to_string();
        let [asked, own] = [self.asked.strip_suffix('}'), own.strip_prefix('{')].map(Option::unwrap_or_default);
        format!("{asked},{own}")
    }
}

/// Minus the mean score of completions that are sampled for a batch's prompts: what evolution strategies climb (arXiv
/// 2509.24372).
///
/// All losses of one batch draw with the same random numbers, so that probes differ by their weights alone; another
/// batch draws others, and so does the same row in another epoch.
pub struct Score {
    tokenizer: Tokenizer,
    sampling: Sampling,
    judge: Box<dyn Judge>,
}

impl Score {
    /// `sampling`: how completions are drawn, and their most tokens; its seed is not used.
    pub fn new(tokenizer: Tokenizer, sampling: Sampling, judge: Box<dyn Judge>) -> Self {
        Self { tokenizer, sampling, judge }
    }

    fn completions(&self, model: &dyn Model, batch: &Batch) -> Result<Vec<Completion>> {
        let tokens: Vec<u32> = batch.tokens.to_vec1()?;
        let spans = batch.layout.spans();
        ensure!(spans.len() == batch.rows.len(), "{} rows in {} spans", batch.rows.len(), spans.len());
        let one = |(row, span): (&Row, &Span)| {
            let asked = row.asked.as_ref().context("the row asks for no completion")?;
            let sampling = Sampling { seed: asked.draw, ..self.sampling.clone() };
            let mut text = String::new();
            let prompt = &tokens[span.start..span.start + span.length];
            let generated = generate(model, &self.tokenizer, prompt, &sampling, |piece| {
                text.push_str(piece);
                Ok(())
            })?;
            Ok(Completion { asked: asked.row.clone(), text, finish: generated.finish })
        };
        batch.rows.iter().zip(spans).map(one).collect()
    }
}

impl Objective for Score {
    fn unit(&self) -> &'static str {
        "minus the score"
    }

    fn measure(&self, model: &dyn Model, batch: &Batch) -> Result<LossSum> {
        let completions = match self.completions(model, batch) {
            // As with other objectives: a probe that went too far, and no reason to end.
            Err(error) if error.is::<NotFinite>() => {
                return Ok(LossSum { sum: f64::NAN, count: batch.rows.len() as u64, right: None });
            }
            completions => completions?,
        };
        let scores = self.judge.scores(&completions)?;
        ensure!(scores.len() == completions.len(), "{} scores for {} completions", scores.len(), completions.len());
        Ok(LossSum { sum: -scores.iter().sum::<f64>(), count: scores.len() as u64, right: None })
    }

    fn is_score(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::Dataset, embedded, model, objective::evaluate};
    use std::sync::Mutex;

    /// Counts a letter, and keeps what it is told.
    struct Letters(Arc<Mutex<Vec<Completion>>>);

    impl Judge for Letters {
        fn scores(&self, completions: &[Completion]) -> Result<Vec<f64>> {
            self.0.lock().unwrap().extend_from_slice(completions);
            Ok(completions.iter().map(|one| one.text.matches('e').count() as f64).collect())
        }
    }

    #[test]
    fn one_batch_draws_alike_each_time_and_another_epoch_otherwise() {
        let checkpoint = embedded::checkpoint().unwrap();
        let tensors = checkpoint.tensors().unwrap().into_iter().collect();
        let (model, tokenizer) = model::load(&checkpoint, &tensors).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("prompts.jsonl");
        std::fs::write(&file, "{\"prompt\": \"The fox \", \"id\": 7}\n{\"prompt\": \"A bear \", \"id\": 8}\n").unwrap();
        let data = Dataset::load_prompts(&file, &tokenizer, 64).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let sampling = Sampling { tokens_max: 12, ..Sampling::default() };
        let score = Score::new(tokenizer, sampling, Box::new(Letters(told.clone())));
        let texts = |sample: u64| {
            told.lock().unwrap().clear();
            let loss = score.measure(&*model, &data.batch(3, sample, 2).unwrap()).unwrap();
            let told: Vec<Completion> = told.lock().unwrap().clone();
            let letters: usize = told.iter().map(|one| one.text.matches('e').count()).sum();
            assert_eq!((loss.sum, loss.count), (-(letters as f64), 2));
            told
        };
        let first = texts(0);
        assert_eq!(texts(0), first, "probes of one batch share their draws");
        let next = texts(1);
        let of_row = |told: &[Completion], id: &str| told.iter().find(|one| one.asked.contains(id)).unwrap().clone();
        assert_ne!(of_row(&next, "\"id\":7").text, of_row(&first, "\"id\":7").text);
        let line: serde_json::Value = serde_json::from_str(&of_row(&first, "\"id\":8").line()).unwrap();
        assert_eq!((&line["prompt"], &line["row"]["id"]), (&json!("A bear "), &json!(8)));
        assert_eq!(line["completion"], of_row(&first, "\"id\":8").text);
        let looks: Vec<_> = (0..2).map(|_| evaluate(&score, &*model, &data, 2, None).unwrap()).collect();
        assert_eq!(looks[0], looks[1], "looks at the held-out prompts can be compared");
        assert_eq!((looks[0].score, looks[0].bits_per_byte, looks[0].count), (Some(-looks[0].loss), None, 2));
        let batch = data.batch(3, 0, 1).unwrap();
        let error = score.differentiate(&*model, &batch, &[], &mut |_| Ok(())).unwrap_err().to_string();
        assert!(error.contains("minus the score has no derivative"), "{error}");
    }
}
