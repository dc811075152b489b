//! Special tokens and chat templates, as the files of a checkpoint name them.

use crate::checkpoint::{config, directory_of, weights};
use engine::{
    chat::ChatTemplate,
    data::Dataset,
    model::{Checkpoint, Tokenizer, export},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs};

/// A tokenizer whose post-processor puts tokens around a text.
const AROUND: &str = r#"{"version": "1.0", "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false,
    "rstrip": false, "normalized": false, "special": true}, {"id": 3, "content": "</s>", "single_word": false,
    "lstrip": false, "rstrip": false, "normalized": false, "special": true}, {"id": 4, "content": "<turn>",
    "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
    "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}}], "pair": [{"Sequence": {"id": "A", "type_id": 0}},
    {"Sequence": {"id": "B", "type_id": 0}}], "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
    "model": {"type": "BPE", "vocab": {"<s>": 0, "a": 1, "b": 2}, "merges": []}}"#;

/// transformers 5.24 believes tokenizer_config.json, and special_tokens_map.json after it where the former has no
/// added_tokens_decoder; generation_config.json says where to stop. A node appended the first id of config.json.
#[test]
fn the_token_that_ends_a_turn_is_the_tokenizers() {
    let mut config = config(true);
    config["eos_token_id"] = json!([2, 3]);
    let tokenizer = |files: &[(&str, Value)]| {
        let directory = directory_of(&config, &weights(&config));
        fs::write(directory.path().join("tokenizer.json"), AROUND).unwrap();
        files.iter().for_each(|(name, text)| fs::write(directory.path().join(name), text.to_string()).unwrap());
        let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
        (tokenizer.turn_end(), tokenizer.eos().to_vec(), tokenizer.bos())
    };
    let named = |token: &str| ("tokenizer_config.json", json!({ "eos_token": token }));
    let as_object = ("tokenizer_config.json", json!({"eos_token": {"content": "<turn>"}, "added_tokens_decoder": {}}));
    let map = ("special_tokens_map.json", json!({"eos_token": "</s>", "bos_token": {"content": "<s>"}}));
    let generation = ("generation_config.json", json!({"eos_token_id": [4, 2]}));
    assert_eq!(tokenizer(&[]), (Some(2), vec![2, 3], Some(0)), "the config's");
    assert_eq!(tokenizer(&[named("</s>")]), (Some(3), vec![2, 3], Some(0)));
    assert_eq!(tokenizer(&[named("<turn>")]), (Some(4), vec![2, 3, 4], Some(0)), "generation stops there, too");
    assert_eq!(tokenizer(&[named("<turn>"), map.clone()]).0, Some(3), "the map comes after an older config");
    assert_eq!(tokenizer(&[as_object, map]).0, Some(4), "a newer config says it all");
    assert_eq!(tokenizer(std::slice::from_ref(&generation)), (Some(4), vec![4, 2], Some(0)));
    assert_eq!(tokenizer(&[named("</s>"), generation]), (Some(3), vec![4, 2, 3], Some(0)));
    assert_eq!(tokenizer(&[named("unknown")]).0, Some(2), "a token that the tokenizer does not have");
    // transformers 5.24 stops at nothing that only config.json names where there is a generation_config.json.
    for silent in [json!({"temperature": 0.5}), json!({"eos_token_id": null}), json!({"eos_token_id": -1})] {
        let generation = ("generation_config.json", silent);
        assert_eq!(tokenizer(&[named("</s>"), generation.clone()]), (Some(3), vec![3], Some(0)), "{generation:?}");
        assert_eq!(tokenizer(std::slice::from_ref(&generation)).0, Some(2), "a turn ends in something: {generation:?}");
    }
}

/// A template was shown the special tokens of tokenizer_config.json only: a BOS that the map names was not written.
#[test]
fn templates_are_a_list_a_map_or_one_and_see_the_special_tokens_of_both_files() {
    let rendered = |template: Value, map: Value| {
        let directory = directory_of(&config(true), &weights(&config(true)));
        let config = json!({"chat_template": template, "bos_token": "<old>"});
        for (name, text) in [("tokenizer_config.json", config), ("special_tokens_map.json", map)] {
            fs::write(directory.path().join(name), text.to_string()).unwrap();
        }
        let checkpoint = Checkpoint::load(directory.path()).unwrap();
        let template = ChatTemplate::of(&checkpoint, &Tokenizer::of(&checkpoint).unwrap()).unwrap();
        assert!(!template.is_plain());
        template.render(&[], Some(&engine::chat::Value::from(1)), false).unwrap()
    };
    let (map, plain) =
        (json!({"bos_token": {"content": "<s>"}, "cls_token": "<cls>"}), "{{ bos_token }}{{ cls_token }}");
    assert_eq!(rendered(json!(plain), map), "<s><cls>");
    assert_eq!(rendered(json!(plain), json!({})), "<old>");
    let named = json!({"default": plain, "tool_use": "T{{ bos_token }}"});
    assert_eq!(rendered(named, json!({})), "T<old>");
    let listed = json!([{"name": "default", "template": plain}, {"name": "tool_use", "template": "T"}]);
    assert_eq!(rendered(listed, json!({})), "T");
}

/// transformers 5 writes several templates so, also those that came as a list; the folder was left behind.
#[test]
fn templates_in_a_folder_of_their_own_are_read_and_exported() {
    let directory = directory_of(&config(true), &weights(&config(true)));
    let folder = directory.path().join("additional_chat_templates");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("README.md"), "no template").unwrap();
    fs::write(folder.join("tool_use.jinja"), "T").unwrap();
    fs::write(directory.path().join("chat_template.jinja"), "D").unwrap();
    fs::write(directory.path().join("tokenizer_config.json"), r#"{"chat_template": "old"}"#).unwrap();
    let out = directory.path().join("out");
    export(&out, &Checkpoint::load(directory.path()).unwrap(), &BTreeMap::new()).unwrap();
    for place in [directory.path(), &out] {
        let checkpoint = Checkpoint::load(place).unwrap();
        let template = ChatTemplate::of(&checkpoint, &Tokenizer::of(&checkpoint).unwrap()).unwrap();
        let rendered = |tools: Option<engine::chat::Value>| template.render(&[], tools.as_ref(), false).unwrap();
        assert_eq!((rendered(None), rendered(Some(1.into()))), ("D".into(), "T".into()));
    }
    assert_eq!(fs::read_dir(out.join("additional_chat_templates")).unwrap().count(), 1);
}

/// A padding token of id 32000 beside a vocabulary of 32,000 is common; a node refused the whole model.
#[test]
fn added_tokens_beyond_the_vocabulary_are_refused_only_in_a_text() {
    let directory = directory_of(&config(true), &weights(&config(true)));
    let mut tokenizer: Value = serde_json::from_str(AROUND).unwrap();
    let pad = json!({"id": 5, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true});
    tokenizer["added_tokens"].as_array_mut().unwrap().push(pad);
    fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let named = json!({"eos_token": "<pad>"}).to_string();
    fs::write(directory.path().join("tokenizer_config.json"), named).unwrap();
    let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
    assert_eq!(tokenizer.encode("ab").unwrap(), [1, 2]);
    assert_eq!((tokenizer.turn_end(), tokenizer.special_text(5)), (None, None), "nothing can be trained to end in it");
    let refused = tokenizer.encode("a<pad>").unwrap_err().to_string();
    assert!(refused.contains("token id 5, \"<pad>\"") && refused.contains("ends at 4"), "{refused}");
}

/// A config of a tiny model often keeps the ids of the large one: training put a token behind completions that the
/// model has not, and failed.
#[test]
fn ids_that_end_a_text_beyond_the_vocabulary_are_none() {
    let mut config = config(true);
    config["eos_token_id"] = json!([32_000, 2]);
    let directory = directory_of(&config, &weights(&config));
    let read = || {
        let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
        (tokenizer.turn_end(), tokenizer.eos().to_vec())
    };
    assert_eq!(read(), (Some(2), vec![2]));
    fs::write(directory.path().join("generation_config.json"), r#"{"eos_token_id": [32000, 1]}"#).unwrap();
    assert_eq!(read(), (Some(1), vec![1]));
}

/// transformers 5.24 adds what tokenizer_config.json (or an older added_tokens.json) lists, and what files name as
/// special, to the tokens of tokenizer.json. A node cut such tokens into pieces.
#[test]
fn tokens_that_stand_beside_the_tokenizer_are_tokens() {
    let mut tokenizer: Value = serde_json::from_str(AROUND).unwrap();
    tokenizer["added_tokens"].as_array_mut().unwrap().truncate(1);
    let listed = json!({"4": {"content": "<u>", "special": true}, "3": {"content": "<t>", "special": false}});
    let more = json!([{"content": "<u>"}]);
    for (config_file, older) in [
        (json!({"added_tokens_decoder": listed, "eos_token": "<u>"}), None),
        (json!({"eos_token": {"content": "<u>"}}), Some(json!({"<t>": 3, "<u>": 4}))),
        (json!({"extra_special_tokens": more, "eos_token": "<u>"}), Some(json!({"<t>": 3}))),
    ] {
        let directory = directory_of(&config(true), &weights(&config(true)));
        let write = |name: &str, text: &Value| fs::write(directory.path().join(name), text.to_string()).unwrap();
        write("tokenizer.json", &tokenizer);
        write("tokenizer_config.json", &config_file);
        older.iter().for_each(|older| write("added_tokens.json", older));
        let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
        assert_eq!(tokenizer.encode("a<t>b<u>").unwrap(), [1, 3, 2, 4], "{config_file}");
        assert_eq!((tokenizer.turn_end(), tokenizer.special_text(4)), (Some(4), Some("<u>".into())), "{config_file}");
        assert_eq!(tokenizer.special_text(3), None, "{config_file}");
    }
}

/// transformers 5.24 gives them ids in the order bos, eos, unk, sep, pad, cls, mask. A node took that of the alphabet.
#[test]
fn special_tokens_that_no_list_has_get_their_ids_in_the_usual_order() {
    let mut tokenizer: Value = serde_json::from_str(AROUND).unwrap();
    tokenizer["added_tokens"].as_array_mut().unwrap().truncate(1);
    for named in [
        json!({"pad_token": "<u>", "unk_token": "<t>"}),
        json!({"cls_token": "<u>", "eos_token": "<t>"}),
        json!({"extra_special_tokens": ["<u>"], "sep_token": "<t>"}),
    ] {
        let directory = directory_of(&config(true), &weights(&config(true)));
        fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::write(directory.path().join("tokenizer_config.json"), named.to_string()).unwrap();
        let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
        assert_eq!(tokenizer.encode("a<t>b<u>").unwrap(), [1, 3, 2, 4], "{named}");
    }
}

/// transformers 5.24 reads each of these; a node cut such tokens into pieces where tokenizer.json lacks them.
#[test]
fn extra_special_tokens_are_a_list_or_have_names_and_may_stand_in_the_map() {
    let mut tokenizer: Value = serde_json::from_str(AROUND).unwrap();
    tokenizer["added_tokens"].as_array_mut().unwrap().truncate(1);
    let ids = |config_file: Value, map: Value| {
        let directory = directory_of(&config(true), &weights(&config(true)));
        let write = |name: &str, text: &Value| fs::write(directory.path().join(name), text.to_string()).unwrap();
        write("tokenizer.json", &tokenizer);
        write("tokenizer_config.json", &config_file);
        write("special_tokens_map.json", &map);
        Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap().encode("a<t>b").ok()
    };
    let found = Some(vec![1, 3, 2]);
    let (list, named) = (json!(["<t>"]), json!({"turn": "<t>"}));
    for tokens in [&list, &named] {
        assert_eq!(ids(json!({ "extra_special_tokens": tokens }), json!({})), found, "{tokens}");
        assert_eq!(ids(json!({}), json!({ "extra_special_tokens": tokens })), found, "{tokens}");
    }
    let older = json!({ "additional_special_tokens": list });
    assert_eq!(ids(json!({}), older.clone()), found);
    assert_ne!(ids(json!({"additional_special_tokens": []}), older.clone()), found, "the config has a list");
    assert_ne!(ids(json!({"added_tokens_decoder": {}}), older), found, "a newer config says it all");
}

#[test]
fn texts_prompts_and_documents_begin_as_the_post_processor_has_it() {
    let directory = directory_of(&config(true), &weights(&config(true)));
    fs::write(directory.path().join("tokenizer.json"), AROUND).unwrap();
    let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
    assert_eq!((tokenizer.opening(), tokenizer.closing()), (&[0][..], &[][..]));
    assert_eq!((tokenizer.encode("ab").unwrap(), tokenizer.text_prompt("ab").unwrap()), (vec![1, 2], vec![0, 1, 2]));
    let mut prompt = vec![0, 1, 2, 1, 2];
    tokenizer.cut_start(&mut prompt, 3);
    assert_eq!(prompt, [0, 1, 2], "what opens a text stays");
    tokenizer.cut_start(&mut prompt, 1);
    assert_eq!(prompt, [2], "but for the last token");

    let ids = |name: &str, text: &str, row: usize| {
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        let batch = Dataset::load(&path, &tokenizer, 4).unwrap().batch_of(&[row]).unwrap();
        let targets: Vec<u32> = batch.targets.iter().map(|target| target.token).collect();
        (batch.tokens.to_vec1::<u32>().unwrap(), targets)
    };
    assert_eq!(ids("text.txt", "abab", 0), (vec![0, 1, 2], vec![1, 2, 1]), "a file is a document");
    assert_eq!(ids("text.jsonl", "{\"text\": \"ab\"}\n{\"text\": \"b\"}", 1), (vec![0], vec![2]));
    let turn = "{\"prompt\": \"a\", \"completion\": \"b\"}";
    assert_eq!(ids("turn.jsonl", turn, 0), (vec![0, 1], vec![2]), "there is no token that ends a turn");
    let choices = "{\"prompt\": \"a\", \"choices\": [\"a\", \"b\"], \"answer\": 1}";
    assert_eq!(ids("choices.jsonl", choices, 0), (vec![0, 1], vec![1, 2]));
}

/// Python writes such words, and transformers reads them in every file.
#[test]
fn small_files_may_have_pythons_words_for_numbers() {
    let directory = directory_of(&config(true), &weights(&config(true)));
    fs::write(directory.path().join("generation_config.json"), r#"{"eos_token_id": 2, "top_p": NaN}"#).unwrap();
    fs::write(directory.path().join("tokenizer_config.json"), r#"{"bos_token": "<s>", "model_max_length": Infinity}"#)
        .unwrap();
    let checkpoint = Checkpoint::load(directory.path()).unwrap();
    assert_eq!(Tokenizer::of(&checkpoint).unwrap().eos(), [2]);
    assert!(checkpoint.sampling().is_ok());
}

/// transformers 5.24 makes a post-processor of its own for these classes; a node put a BOS before texts of a Pythia.
#[test]
fn some_classes_of_tokenizers_do_not_believe_the_post_processor() {
    let directory = directory_of(&config(true), &weights(&config(true)));
    let around = |tokenizer: &Value, class: &str| {
        let named = json!({"tokenizer_class": class, "add_bos_token": true, "add_eos_token": true});
        fs::write(directory.path().join("tokenizer_config.json"), named.to_string()).unwrap();
        fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
        (tokenizer.opening().to_vec(), tokenizer.closing().to_vec(), tokenizer.text_prompt("a").unwrap())
    };
    let with: Value = serde_json::from_str(AROUND).unwrap();
    let mut without = with.clone();
    without["post_processor"] = Value::Null;
    assert_eq!(around(&with, "PreTrainedTokenizerFast"), (vec![0], vec![], vec![0, 1]));
    assert_eq!(around(&without, "LlamaTokenizer"), (vec![], vec![], vec![1]), "whatever the flags say");
    assert_eq!(around(&with, "GPTNeoXTokenizerFast"), (vec![], vec![], vec![1]));
    assert_eq!(around(&without, "CodeLlamaTokenizer"), (vec![0], vec![], vec![0, 1]));
}

/// `generate` asked for what follows the token that ends a text, where the post-processor puts one after each.
#[test]
fn a_text_that_goes_on_has_no_end() {
    let directory = directory_of(&config(true), &weights(&config(true)));
    let mut tokenizer: Value = serde_json::from_str(AROUND).unwrap();
    let processor = &mut tokenizer["post_processor"];
    processor["single"].as_array_mut().unwrap().push(json!({"SpecialToken": {"id": "</s>", "type_id": 0}}));
    processor["special_tokens"]["</s>"] = json!({"id": "</s>", "ids": [3], "tokens": ["</s>"]});
    fs::write(directory.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let tokenizer = Tokenizer::of(&Checkpoint::load(directory.path()).unwrap()).unwrap();
    assert_eq!((tokenizer.opening(), tokenizer.closing()), (&[0][..], &[3][..]));
    assert_eq!((tokenizer.text_prompt("ab").unwrap(), tokenizer.text_prompt("").unwrap()), (vec![0, 1, 2], vec![0]));
}
