//! The model against one that is spelled out in plain loops, and on real data where it is present.

use candle_core::{Device, Tensor};
use engine::{
    data::Dataset,
    embedded,
    model::{
        Architecture, Batch, Checkpoint, Finish, Generated, Interface, Layout, Model, Row, Sampling, Target, Tokenizer,
        architecture, generate, load, token_losses,
    },
    objective::{self, Choices, NextToken, Objective, TokenObjective, evaluate, evaluate_watched},
};
use protocol::manifest::ObjectiveLine;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::reference;

/// `relative` below the directory of real data, if it is there.
fn data(relative: &str) -> Option<PathBuf> {
    let root = match std::env::var_os("ONEBYTE_DATA") {
        Some(root) => PathBuf::from(root),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data"),
    };
    let path = root.join(relative);
    if !path.exists() {
        println!("skipped: {} is not there; set ONEBYTE_DATA", path.display());
        return None;
    }
    Some(path)
}

fn small_config(tied: bool) -> Value {
    json!({
        "model_type": "llama", "hidden_size": 48, "intermediate_size": 100, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": 97, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "tie_word_embeddings": tied, "eos_token_id": 2
    })
}

fn parse(config: &Value) -> Box<dyn Architecture> {
    architecture(config.to_string().as_bytes()).unwrap()
}

fn random_tensors(architecture: &dyn Architecture) -> BTreeMap<String, Tensor> {
    let random = |dims: Vec<usize>| Tensor::randn(0f32, 0.3, dims, &Device::Cpu).unwrap();
    architecture.tensors().into_iter().map(|(name, dims)| (name, random(dims))).collect()
}

fn tokens(batch: usize, length: usize, vocabulary: usize) -> Tensor {
    let ids: Vec<u32> = (0..batch * length).map(|i| ((i * 7919 + 13) % vocabulary) as u32).collect();
    Tensor::from_vec(ids, (batch, length), &Device::Cpu).unwrap()
}

/// Logits of all positions, [B, T, vocabulary]; `tokens`: [B, T].
fn logits(model: &dyn Model, tokens: &Tensor) -> Tensor {
    let (batch, length) = tokens.dims2().unwrap();
    let layout = Layout::of_rows(vec![length; batch]).unwrap();
    let rows = model.hidden(&tokens.flatten_all().unwrap(), &layout).unwrap();
    model.logits(&rows).unwrap().reshape((batch, length, model.interface().vocabulary)).unwrap()
}

/// The embedded model, its tokenizer, and the bytes of the latter.
fn embedded_model() -> (Box<dyn Model>, Tokenizer, Vec<u8>) {
    let checkpoint = embedded::checkpoint().unwrap();
    let (model, tokenizer) = load(&checkpoint, &checkpoint.tensors().unwrap()).unwrap();
    (model, tokenizer, checkpoint.tokenizer)
}

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
}

/// Logits of all positions as the reference computes them; `tokens`: [B, T].
fn reference_logits(config: &Value, tensors: &BTreeMap<String, Tensor>, tokens: &Tensor) -> Tensor {
    let model = reference::Llama::new(config, tensors);
    let rows = tokens.to_vec2::<u32>().unwrap();
    let of_row = |row: &Vec<u32>| -> Vec<Vec<f32>> {
        model.logits(row).into_iter().map(|at| at.into_iter().map(|logit| logit as f32).collect()).collect()
    };
    Tensor::new(rows.iter().map(of_row).collect::<Vec<_>>(), &Device::Cpu).unwrap()
}

#[test]
fn logits_agree_with_the_reference() {
    let llama3 = json!({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32});
    let variants = [
        ("tied", small_config(true), Value::Null),
        ("untied", small_config(false), json!({})),
        ("one key head", small_config(true), json!({"num_key_value_heads": 1})),
        ("no groups", small_config(false), json!({"num_key_value_heads": 6})),
        ("llama3 rope", small_config(true), json!({"rope_scaling": llama3})),
    ];
    for (name, mut config, changes) in variants {
        for (field, value) in changes.as_object().into_iter().flatten() {
            config[field] = value.clone();
        }
        let parsed = parse(&config);
        let tensors = random_tensors(&*parsed);
        let tokens = tokens(3, 29, parsed.interface().vocabulary);
        let ours = logits(&*parsed.model(&tensors).unwrap(), &tokens);
        let theirs = reference_logits(&config, &tensors, &tokens);
        let difference = largest_difference(&ours, &theirs);
        assert!(difference < 2e-4, "{name}: differs by {difference}");
    }
}

#[test]
fn earlier_positions_do_not_see_later_ones() {
    let config = parse(&small_config(true));
    let model = config.model(&random_tensors(&*config)).unwrap();
    let all = logits(&*model, &tokens(1, 40, 97));
    let first = logits(&*model, &tokens(1, 23, 97));
    assert!(largest_difference(&all.narrow(1, 0, 23).unwrap(), &first) < 1e-4);
}

/// Rows of these lengths that predict the next of their tokens, but for every fifth one.
fn batch_of_rows(lengths: &[usize]) -> Batch {
    let layout = Layout::of_rows(lengths.iter().copied()).unwrap();
    let (mut targets, mut rows) = (Vec::new(), Vec::new());
    for span in layout.spans() {
        let first = targets.len();
        let positions = (span.start..span.start + span.length).filter(|position| position % 5 != 4);
        targets.extend(positions.map(|i| Target { position: i as u32, token: (i * 31 % 97) as u32 }));
        rows.push(Row::of_text(first..targets.len()));
    }
    Batch { tokens: tokens(1, layout.tokens(), 97).squeeze(0).unwrap(), layout, targets, rows }
}

#[test]
fn the_loss_is_that_of_the_logits_and_skips_what_is_not_predicted() {
    let config = parse(&small_config(false));
    let model = config.model(&random_tensors(&*config)).unwrap();
    let batch = batch_of_rows(&[9, 9]);
    let inputs = batch.tokens.reshape((2, 9)).unwrap();
    let logits = logits(&*model, &inputs).flatten_to(1).unwrap().to_vec2::<f32>().unwrap();
    let losses = batch.targets.iter().map(|target| {
        let row = &logits[target.position as usize];
        row.iter().map(|v| f64::from(*v).exp()).sum::<f64>().ln() - f64::from(row[target.token as usize])
    });
    let losses: Vec<f64> = losses.collect();
    let loss = NextToken.measure(&*model, &batch).unwrap();
    assert_eq!((loss.count as usize, losses.len()), (15, 15));
    assert!((loss.sum - losses.iter().sum::<f64>()).abs() < 1e-4);
    assert_eq!(loss.mean(), loss.sum / loss.count as f64);
    assert!(NextToken.weights(&batch, &losses).iter().all(|weight| *weight == 1.0 / 15.0));
    let silent = Batch { targets: Vec::new(), rows: Vec::new(), ..batch };
    assert!(NextToken.measure(&*model, &silent).is_err());
}

#[test]
fn a_packed_batch_has_the_losses_of_its_rows_one_by_one() {
    for heads in [1, 2, 6] {
        let mut config = small_config(true);
        config["num_key_value_heads"] = json!(heads);
        let config = parse(&config);
        let model = config.model(&random_tensors(&*config)).unwrap();
        let batch = batch_of_rows(&[7, 1, 40, 16, 2, 33, 64]);
        let packed = NextToken.row_losses(&batch, &token_losses(&*model, &batch).unwrap());
        for (span, packed) in batch.layout.spans().iter().zip(&packed) {
            let own = |target: &&Target| (span.start..span.start + span.length).contains(&(target.position as usize));
            let targets: Vec<Target> = batch.targets.iter().filter(own).copied().collect();
            let alone = Batch {
                tokens: batch.tokens.narrow(0, span.start, span.length).unwrap(),
                layout: Layout::of_rows([span.length]).unwrap(),
                rows: vec![Row::of_text(0..targets.len())],
                targets: targets
                    .into_iter()
                    .map(|target| Target { position: target.position - span.start as u32, ..target })
                    .collect(),
            };
            let alone = NextToken.measure(&*model, &alone).unwrap();
            assert_eq!(alone.count, packed.count);
            assert!((alone.sum - packed.sum).abs() < 1e-4 * alone.sum, "{span:?}: {alone:?} alone, {packed:?} packed");
        }
        let total = NextToken.measure(&*model, &batch).unwrap();
        assert_eq!(total, packed.into_iter().sum());
    }
}

/// Rows as lines of JSON, and the dataset of them.
fn with_choices(rows: &[Value], tokenizer: &Tokenizer, sequence_length: usize) -> Dataset {
    let file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
    let lines = rows.iter().map(|row| format!("{row}\n"));
    std::fs::write(file.path(), lines.collect::<String>()).unwrap();
    Dataset::load(file.path(), tokenizer, sequence_length).unwrap()
}

/// Sum of the losses of `choice` after `prompt`, bytes both, in a row of its own.
fn loss_alone(model: &dyn Model, prompt: &str, choice: &str) -> f64 {
    let ids: Vec<u32> = format!("{prompt}{choice}").bytes().map(u32::from).collect();
    let fed = ids.len() - 1;
    let targets: Vec<Target> =
        (prompt.len()..ids.len()).map(|at| Target { position: at as u32 - 1, token: ids[at] }).collect();
    let batch = Batch {
        tokens: Tensor::new(&ids[..fed], &Device::Cpu).unwrap(),
        layout: Layout::of_rows([fed]).unwrap(),
        rows: vec![Row::of_text(0..targets.len())],
        targets,
    };
    token_losses(model, &batch).unwrap().iter().sum()
}

#[test]
fn choices_cost_their_prompt_once_and_score_as_rows_of_their_own() {
    let (model, tokenizer, _) = embedded_model();
    let prompts = ["The fox ", "Once upon a time there was a small bear who ", "S", "One morning, the old owl "];
    let choices = [" sang.", "found a very long river and a boat", "x", "slept"];
    let rows: Vec<Value> =
        (0..12).map(|i| json!({"prompt": prompts[i % 4], "choices": &choices[..2 + i % 3], "answer": i % 2})).collect();
    let dataset = with_choices(&rows, &tokenizer, 128);
    for normalize in [false, true] {
        let line = objective::line(true, normalize).unwrap();
        let objective = objective::of(&line, &dataset).unwrap();
        let packed = evaluate(&*objective, &*model, &dataset, 5, None).unwrap();
        let (mut sum, mut right) = (0.0, 0);
        for (i, row) in rows.iter().enumerate() {
            let length = |choice: &str| if normalize { choice.len() as f64 } else { 1.0 };
            let score = |choice: &&str| -loss_alone(&*model, prompts[i % 4], choice) / length(choice);
            let scores: Vec<f64> = choices[..2 + i % 3].iter().map(score).collect();
            let answer = row["answer"].as_u64().unwrap() as usize;
            sum += scores.iter().map(|score| (score - scores[answer]).exp()).sum::<f64>().ln();
            right += u64::from((0..scores.len()).all(|j| j == answer || scores[j] < scores[answer]));
        }
        assert!((packed.loss - sum / 12.0).abs() < 1e-4, "{packed:?}, {sum}");
        assert_eq!((packed.count, packed.right, packed.bits_per_byte), (12, Some(right), None));
        assert!(right > 0 && right < 12, "{right} right: the rows should tell");
        let line = objective::accuracy_line(true, normalize).unwrap();
        let accuracy = objective::of(&line, &dataset).unwrap();
        let share = evaluate(&*accuracy, &*model, &dataset, 5, None).unwrap();
        assert_eq!((share.loss, share.right), ((12 - right) as f64 / 12.0, Some(right)));
        assert!(
            !objective::is_differentiable(&line)
                && objective::surrogate(&line) == objective::line(true, normalize).ok()
        );
    }
    let tokens = dataset.batch_of(&[0]).unwrap().layout.tokens();
    assert_eq!(tokens, prompts[0].len() + choices[0].len() - 1 + choices[1].len() - 1);
    let text = Dataset::from_text("no choices here", &tokenizer, 4).unwrap();
    let refused = |line: ObjectiveLine, data: &Dataset| format!("{:#}", objective::of(&line, data).err().unwrap());
    assert!(objective::line(false, true).is_err() && objective::accuracy_line(false, false).is_err());
    assert!(refused(objective::accuracy_line(true, false).unwrap(), &text).contains("choices and answer"));
    assert!(refused(objective::score_line(), &text).contains("--objective 'command …'"));
    assert!(objective::of(&ObjectiveLine::NextToken, &text).is_ok());
    assert!(refused(ObjectiveLine::NextToken, &dataset).contains("prompt and completion"));
    assert!(refused(ObjectiveLine::Choices { normalize: false }, &text).contains("choices and answer"));
    assert!(refused(ObjectiveLine::Other("rhymes".into()), &text).contains("rhymes"));
}

#[test]
fn rows_of_sst2_score_alike_whatever_they_are_packed_with() {
    let Some(file) = data("sst2/dev.tsv") else { return };
    let (model, tokenizer, _) = embedded_model();
    let text = std::fs::read_to_string(file).unwrap();
    let rows: Vec<Value> = text
        .lines()
        .take(40)
        .map(|line| {
            let (sentence, label) = line.split_once('\t').unwrap();
            let answer: usize = label.parse().unwrap();
            json!({"prompt": format!("{sentence} It was"), "choices": [" terrible", " great"], "answer": answer})
        })
        .collect();
    let dataset = with_choices(&rows, &tokenizer, 128);
    assert!(
        dataset.report().prompts_cut() > 0 && dataset.report().prompts_cut() < 40,
        "{} cut",
        dataset.report().prompts_cut()
    );
    let objective = Choices { normalize: false };
    let mut told = Vec::new();
    evaluate_watched(&objective, &*model, &dataset, 4, Some(10), &mut |done, all| told.push((done, all))).unwrap();
    assert_eq!(told, [(4, 10), (8, 10), (10, 10)]);
    let measured = [1, 8, 40].map(|batch_size| evaluate(&objective, &*model, &dataset, batch_size, None).unwrap());
    for evaluation in measured {
        assert!((evaluation.loss - measured[0].loss).abs() < 1e-5, "{measured:?}");
        assert_eq!(evaluation.right, measured[0].right);
    }
}

#[test]
fn the_model_sees_weights_that_change_in_place() {
    let config = parse(&small_config(true));
    let tensors = random_tensors(&*config);
    let model = config.model(&tensors).unwrap();
    let tokens = tokens(1, 8, 97);
    let before = logits(&*model, &tokens);
    for (name, tensor) in &tensors {
        let change = Tensor::randn(0f32, 0.1, tensor.dims(), &Device::Cpu).unwrap();
        tensor.slice_set(&change, 0, 0).unwrap();
        let after = logits(&*model, &tokens);
        assert!(largest_difference(&before, &after) > 1e-3, "{name}");
    }
    let fresh = config.model(&tensors).unwrap();
    assert_eq!(largest_difference(&logits(&*fresh, &tokens), &logits(&*model, &tokens)), 0.0);
}

#[test]
fn inputs_that_do_not_fit_the_model_are_refused() {
    let config = parse(&small_config(true));
    let mut tensors = random_tensors(&*config);
    let model = config.model(&tensors).unwrap();
    let hidden = |ids: Vec<u32>, lengths: &[usize]| {
        let tokens = Tensor::new(ids, &Device::Cpu).unwrap();
        model.hidden(&tokens, &Layout::of_rows(lengths.iter().copied()).unwrap())
    };
    let error = hidden(vec![1; 67], &[2, 65]).unwrap_err().to_string();
    assert!(error.contains("65") && error.contains("64"), "{error}");
    assert!(hidden(vec![1; 67], &[64, 3]).is_ok());
    assert!(hidden(vec![1; 67], &[64]).is_err());
    assert!(hidden(Vec::new(), &[]).is_err());
    assert!(hidden(vec![97], &[1]).is_err());
    tensors.remove("model.norm.weight");
    let error = config.model(&tensors).err().unwrap().to_string();
    assert!(error.contains("model.norm.weight"), "{error}");
}

#[test]
fn stories260k_agrees_with_the_reference_and_starts_where_pytorch_does() {
    let (Some(directory), Some(text)) = (data("stories260k"), data("tinyshakespeare/input.txt")) else { return };
    let checkpoint = Checkpoint::load(&directory).unwrap();
    let tensors = checkpoint.tensors().unwrap();
    let (model, tokenizer) = load(&checkpoint, &tensors).unwrap();
    let tokens = tokens(2, 64, model.interface().vocabulary);
    let ours = logits(&*model, &tokens);
    let json = serde_json::from_slice(&checkpoint.config).unwrap();
    assert!(largest_difference(&ours, &reference_logits(&json, &tensors, &tokens)) < 1e-3);
    let (train, held_out) = Dataset::load_split(&text, &tokenizer, 128).unwrap();
    assert_eq!(train.bytes() + held_out.bytes(), 1_115_394);
    let evaluation = evaluate(&NextToken, &*model, &held_out, 16, None).unwrap();
    println!("{evaluation:?}");
    // 4.536 in PyTorch: the same model, text, windows and formula.
    assert!((evaluation.bits_per_byte.unwrap() - 4.536).abs() < 0.01, "{evaluation:?}");
}

#[test]
fn the_embedded_model_knows_its_stories_and_not_yet_its_task() {
    let (model, tokenizer, _) = embedded_model();
    let measure = |text: &str| {
        let dataset = Dataset::from_text(text, &tokenizer, 128).unwrap();
        evaluate(&NextToken, &*model, &dataset, 16, None).unwrap().bits_per_byte.unwrap()
    };
    let stories = measure(&embedded::corpus::stories(99, 16 * 1024));
    let task = measure(&embedded::corpus::held_out());
    assert!(stories < 1.5 && task > 3.0, "stories {stories}, task {task}");
}

#[test]
fn generation_follows_its_seed_and_streams_all_of_its_text() {
    let (model, tokenizer, _) = embedded_model();
    let write = |sampling: &Sampling, prompt: &str| {
        let mut text = String::new();
        let written = generate(&*model, &tokenizer, &tokenizer.encode(prompt)?, sampling, |piece| {
            text.push_str(piece);
            Ok(())
        });
        written.map(|generated| (text, generated))
    };
    let sampling = Sampling { tokens_max: 40, seed: 5, ..Sampling::default() };
    let (text, generated) = write(&sampling, "Once upon a").unwrap();
    assert_eq!((text.len(), generated), (40, Generated { tokens: 40, finish: Finish::Length }), "{text}");
    assert_eq!(text, write(&sampling, "Once upon a").unwrap().0);
    assert_ne!(text, write(&Sampling { seed: 6, ..sampling.clone() }, "Once upon a").unwrap().0);
    // A text that ends it is not part of it.
    let stop = text[10..14].to_owned();
    let (stopped, generated) =
        write(&Sampling { stop: vec![stop.clone()], ..sampling.clone() }, "Once upon a").unwrap();
    assert_eq!((stopped.as_str(), generated.finish), (&text[..text.find(&stop).unwrap()], Finish::Stop));
    let now = Some(std::time::Instant::now());
    let (text, generated) = write(&Sampling { until: now, ..sampling.clone() }, "Once upon a").unwrap();
    assert_eq!((text.as_str(), generated), ("", Generated { tokens: 0, finish: Finish::Length }), "its time is over");
    // A prompt longer than the model's window is cut, not refused.
    assert_eq!(write(&sampling, &"They sang. ".repeat(40)).unwrap().0.len(), 40);
    assert!(write(&sampling, "").unwrap_err().to_string().contains("no token to continue"));
    assert!(write(&Sampling { temperature: -1.0, ..sampling }, "a").is_err());
}

#[test]
fn a_tokenizer_of_another_model_or_none_at_all_is_refused() {
    let (model, tokenizer, json) = embedded_model();
    let text = "bytes: é, 漢, \u{1F980}\n\0";
    let ids = tokenizer.encode(text).unwrap();
    assert_eq!(ids, text.bytes().map(u32::from).collect::<Vec<_>>());
    assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    assert_eq!(tokenizer.eos(), [256]);
    let error =
        |bytes: &[u8], interface: &Interface| format!("{:#}", Tokenizer::from_bytes(bytes, interface).err().unwrap());
    let smaller = Interface { vocabulary: 97, ..model.interface().clone() };
    assert!(error(&json, &smaller).contains("different models"));
    assert!(error(b"{}", model.interface()).contains("tokenizer.json"));
    assert!(error(b"\xff", model.interface()).contains("tokenizer.json"));
}
