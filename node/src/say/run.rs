//! The run that a node joins, and its base model.

use engine::model::ToldPath;
use protocol::manifest::{Manifest, RunId};

use crate::cli::settings::Settings;

/// A machine that has no run yet, and where it looks for one.
pub fn looking_for_run(settings: &Settings) {
    match (settings.waits_for_lan(), settings.run) {
        (true, Some(run)) => tracing::info!("looking for run {run} on the local network (mDNS)"),
        (true, None) => tracing::info!("looking for a run on the local network (mDNS)"),
        (false, _) => tracing::info!("asking for the run's manifest"),
    }
}

/// There is a run now.
pub fn joined(run: &RunId, manifest: &Manifest) {
    tracing::info!("joined run {run} on {} ({} weights are trained)", manifest.base.source, manifest.parameters());
}

/// One's own text goes to the embedded model.
pub fn is_demonstration() {
    tracing::info!(
        "the embedded model is a demonstration: it learns to write like your text, and does not know it. For answers take a model \
         that chats: --model <chat model> --lora 8"
    );
}

/// What a base tells its joiners of the machines that it was on.
pub fn told_paths(told: &[ToldPath]) {
    if !told.is_empty() {
        tracing::warn!("{}", told_paths_words(told));
    }
}

fn told_paths_words(told: &[ToldPath]) -> String {
    const SAID: usize = 8;
    let say = |told: &ToldPath| {
        let value: String = told.value.chars().take(200).collect();
        format!("{}: {} is {value:?}", told.file, told.field)
    };
    let mut said: Vec<String> = told.iter().take(SAID).map(say).collect();
    said.extend((told.len() > SAID).then(|| format!("{} more", told.len() - SAID)));
    let remedy = match told.iter().any(|told| told.file.ends_with(".gguf")) {
        true => {
            "make a copy of the file without it (gguf-new-metadata --remove-metadata FIELD FILE COPY; pip install gguf)"
        }
        false => "take the field out of a copy of the file before you start the run, and name the copy's directory",
    };
    format!(
        "the base's files go to every joiner as they are, and tell what looks like a path of a machine: {}. If joiners are not to \
         see it, {remedy}",
        said.join("; ")
    )
}

/// The base has the run's tensors, and not all of its files as the run has them.
pub fn base_in_other_files(source: &str, other: &str) {
    tracing::info!(
        "{source}: the run's tensors in other files ({other} is missing, or not as the run has it): this node trains, \
         and cannot give the base to joiners. To change that, complete these files, and start the node in another --state"
    );
}

/// The base model is about to come from peers.
pub fn fetching(source: &str, bytes: u64, here: u64) {
    tracing::info!(
        "fetching the base model {source} from peers: {:.1} MB, {:.1} MB of it are here",
        bytes as f64 / 1e6,
        here as f64 / 1e6
    );
}

pub fn fetched() {
    tracing::info!("the base model is complete");
}

/// A part of the base model cannot be sent to those who join.
pub fn base_damaged(error: &anyhow::Error) {
    tracing::error!(
        "the base model here is damaged ({error:#}): nobody can join from this machine alone, and a start that needs it \
         fails. Stop the node, remove that file, and start it again: it fetches the base anew, or takes it from --model"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_joiners_will_read_is_said_with_its_file_field_and_remedy() {
        let told = |file: &str, field: &str| ToldPath { file: file.into(), field: field.into(), value: "/a/b".into() };
        let words = told_paths_words(&[told("config.json", "_name_or_path"), told("tokenizer_config.json", "x")]);
        for part in ["config.json: _name_or_path is \"/a/b\"; tokenizer_config.json: x", "take the field out of a copy"]
        {
            assert!(words.contains(part), "{words}");
        }
        let words = told_paths_words(&vec![told("m.gguf", "quantize.imatrix.file"); 10]);
        assert!(words.contains("2 more") && words.contains("--remove-metadata"), "{words}");
    }
}
