//! Models from Hugging Face's hub, into its cache: what is asked for, and what to say. A name without a commit means
//! what the hub says that it is today; the cache answers if the hub does not.

use anyhow::{Context, Result, bail, ensure};
use engine::model::hub::{self, HubName};
use serde_json::Value;
use std::{collections::BTreeSet, fs, path::PathBuf};

mod client;
mod download;
mod list;
mod unusable;

use client::{Client, Refusal};
use download::{Failure, Place};
use list::{Revision, Sibling, Wanted};

const ENDPOINT: &str = "https://huggingface.co";

fn said(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Whether the user keeps programs from asking the hub, as huggingface_hub reads it.
pub fn is_offline() -> bool {
    let flag = said("HF_HUB_OFFLINE").or_else(|| said("TRANSFORMERS_OFFLINE"));
    flag.is_some_and(|flag| ["1", "on", "yes", "true"].contains(&&*flag.to_lowercase()))
}

/// The user's token: of the environment, or where `hf auth login` left it.
fn token() -> Option<String> {
    let given = said("HF_TOKEN").or_else(|| said("HUGGING_FACE_HUB_TOKEN"));
    let kept = || {
        let path = said("HF_TOKEN_PATH").map(PathBuf::from).or_else(|| Some(hub::home()?.join("token")))?;
        fs::read_to_string(path).ok()
    };
    let is_asked_for = |flag: String| !["1", "on", "yes", "true"].contains(&&*flag.to_lowercase());
    let takes_kept = said("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_none_or(is_asked_for);
    let token = given.or_else(|| takes_kept.then(kept).flatten())?.trim().to_owned();
    (!token.is_empty()).then_some(token)
}

/// Fetches the files of the model that are not in the cache, and returns its snapshot there, or its GGUF file in that.
/// `fits` may refuse what the hub has, by names and sizes in bytes, before anything is fetched; what cannot be a base
/// is refused by the list and by its small files, before the weights are. Errors say what was refused, and what to do.
pub fn fetch(name: &HubName, fits: impl Fn(&[(&str, Option<u64>)]) -> bool) -> Result<PathBuf> {
    ensure!(
        !is_offline(),
        "{name} is neither a file or directory here nor in the hub's cache, and HF_HUB_OFFLINE keeps from downloading it: unset \
         it, or give a path"
    );
    let cache = hub::root().with_context(|| format!("{name}: there is no place for the hub's cache: set HF_HOME"))?;
    let endpoint = said("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
    let client = Client::new(endpoint.trim_end_matches('/').to_owned(), token());
    let revision = name.revision.replace('/', "%2F");
    let listed: Result<Revision, _> =
        client.json(&format!("/api/models/{}/revision/{revision}?blobs=true", name.model));
    let Revision { sha, siblings, gguf } = listed.map_err(|refusal| refused(name, &client, &refusal))?;
    ensure!(
        !sha.is_empty() && sha.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{}: what it calls the commit of {name}, {sha:?}, is none",
        client.endpoint()
    );
    if list::is_adapter(&siblings) {
        let config = client.json(&format!("/{}/resolve/{sha}/adapter_config.json", name.model));
        bail!("{}", unusable::adapter(name, &config.unwrap_or(Value::Null)));
    }
    let Wanted { files, gguf: path } = list::wanted(siblings, name)?;
    let base_name = |file: &'_ Sibling| file.rfilename.rsplit('/').next().unwrap_or_default().to_owned();
    let names: Vec<String> = files.iter().map(base_name).collect();
    let sizes: Vec<_> = files.iter().zip(&names).map(|(file, name)| (&**name, file.size)).collect();
    ensure!(fits(&sizes), "{} has other files of {name}", client.endpoint());
    if let Some(architecture) = gguf.and_then(|gguf| gguf.architecture).filter(|_| path.is_some()) {
        unusable::check_gguf(&architecture, name)?;
    }
    let directory = format!("models--{}", name.model.replace('/', "--"));
    let place = Place { model: cache.join(&directory), locks: cache.join(".locks").join(directory), commit: sha };
    let (weights, small): (Vec<_>, Vec<_>) = files.into_iter().partition(Sibling::has_weights);
    fetch_all(name, &client, &place, &small)?;
    let weights = match path {
        Some(_) => weights,
        None => {
            let config = place.link("config.json");
            let read = fs::read(&config).with_context(|| format!("cannot read {}", config.display()))?;
            unusable::check_config(&read, name)?;
            of_index(weights, &place)
        }
    };
    fetch_all(name, &client, &place, &weights)?;
    place.note(&name.revision)?;
    let snapshot = place.model.join("snapshots").join(&place.commit);
    Ok(path.map_or(snapshot.clone(), |path| snapshot.join(path)))
}

/// Those of the files of weights that the index names, if there is one that names some: a repository may have the same
/// weights in other types beside.
fn of_index(weights: Vec<Sibling>, place: &Place) -> Vec<Sibling> {
    let index = fs::read(place.link("model.safetensors.index.json")).unwrap_or_default();
    let index: Value = serde_json::from_slice(&index).unwrap_or_default();
    let named = index.get("weight_map").and_then(Value::as_object).into_iter().flat_map(|map| map.values());
    let named: BTreeSet<&str> = named.filter_map(Value::as_str).collect();
    let is_single = |file: &Sibling| file.rfilename == "model.safetensors";
    match named.is_empty() || weights.iter().any(is_single) {
        true => weights,
        false => weights.into_iter().filter(|file| named.contains(&*file.rfilename)).collect(),
    }
}

/// Fetches those of `files` that are not here.
fn fetch_all(name: &HubName, client: &Client, place: &Place, files: &[Sibling]) -> Result<()> {
    let missing: Vec<_> = files.iter().filter(|file| !place.has(file)).collect();
    if missing.iter().any(|file| file.has_weights()) {
        let bytes: u64 = missing.iter().filter_map(|file| file.size).sum();
        tracing::info!(
            "downloading {name} ({}) from {}: {}, {} MiB, into {}",
            place.commit,
            client.endpoint(),
            missing.iter().map(|file| &*file.rfilename).collect::<Vec<_>>().join(", "),
            bytes.div_ceil(1 << 20),
            place.model.display()
        );
    }
    for file in missing {
        let path = format!("/{}/resolve/{}/{}", name.model, place.commit, file.rfilename);
        place.fetch(client, file, &path).map_err(|failure| match failure {
            Failure::Refused(refusal) => refused(name, client, &refusal).context(file.rfilename.clone()),
            Failure::Ours(error) => error.context(format!("{name}: {}", file.rfilename)),
        })?;
    }
    Ok(())
}

/// What the hub, or the way to it, refused, and what to do.
fn refused(name: &HubName, client: &Client, refusal: &Refusal) -> anyhow::Error {
    let (endpoint, model) = (client.endpoint(), &name.model);
    anyhow::anyhow!(match refusal {
        Refusal::Status { status: status @ (401 | 403), code } => {
            let what = match &**code {
                "GatedRepo" => "gives it only to whom its owners admit",
                _ => "does not exist, or asks for access (and nothing here is called so)",
            };
            let remedy = match client.has_token() {
                true => "your token's account has no access, or the token may not read it",
                false => "set HF_TOKEN to a token of yours",
            };
            format!(
                "{endpoint} does not give {name} to this machine (status {status}): it {what}. Ask for it on the model's page \
                 ({endpoint}/{model}); {remedy}"
            )
        }
        Refusal::Status { status: 404, code } if code == "RevisionNotFound" => {
            format!("{endpoint} has {model}, and no revision {} of it: check the branch, tag or commit", name.revision)
        }
        Refusal::Status { status: 404, .. } => {
            format!(
                "{endpoint} has no {name}, and nothing here is called so: check the path, or the owner, the name and the revision"
            )
        }
        Refusal::Status { status: 429, .. } => {
            format!("{endpoint} asks to wait (status 429): try again later, or set HF_TOKEN")
        }
        other => format!(
            "{name} cannot be downloaded from {endpoint}: {other}. What came is kept: the same command goes on with it; or give \
             a directory with --model"
        ),
    })
}
