//! Models from Hugging Face's hub, into its cache: what is asked for, and what to say. A name without a commit means
//! what the hub says that it is today; the cache answers if the hub does not.

use anyhow::{Context, Result, ensure};
use engine::model::hub::{self, HubName};
use std::{fs, path::PathBuf};

mod client;
mod download;
mod list;

use client::{Client, Refusal};
use download::{Failure, Place};
use list::Revision;

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

/// Fetches the files of the model that are not in the cache, and returns its snapshot there. `fits` may refuse what the
/// hub has, by names and sizes in bytes, before anything is fetched. Errors say what was refused, and what to do.
pub fn fetch(name: &HubName, fits: impl Fn(&[(&str, Option<u64>)]) -> bool) -> Result<PathBuf> {
    ensure!(
        !is_offline(),
        "{name} is not in the hub's cache, and HF_HUB_OFFLINE keeps from downloading it: unset it, or give a directory"
    );
    let cache = hub::root().with_context(|| format!("{name}: there is no place for the hub's cache: set HF_HOME"))?;
    let endpoint = said("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
    let client = Client::new(endpoint.trim_end_matches('/').to_owned(), token());
    let revision = name.revision.replace('/', "%2F");
    let listed: Result<Revision, _> =
        client.json(&format!("/api/models/{}/revision/{revision}?blobs=true", name.model));
    let Revision { sha, siblings } = listed.map_err(|refusal| refused(name, &client, &refusal))?;
    ensure!(
        !sha.is_empty() && sha.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        "{}: what it calls the commit of {name}, {sha:?}, is none",
        client.endpoint()
    );
    let files = list::wanted(siblings, name)?;
    let sizes: Vec<_> = files.iter().map(|file| (&*file.rfilename, file.size)).collect();
    ensure!(fits(&sizes), "{} has other files of {name}", client.endpoint());
    let directory = format!("models--{}", name.model.replace('/', "--"));
    let place = Place { model: cache.join(&directory), locks: cache.join(".locks").join(directory), commit: sha };
    let missing: Vec<_> = files.iter().filter(|file| !place.has(file)).collect();
    if !missing.is_empty() {
        let bytes: u64 = missing.iter().filter_map(|file| file.size).sum();
        tracing::info!(
            "downloading {name} ({}) from {}: {} files, {} MiB, into {}",
            place.commit,
            client.endpoint(),
            missing.len(),
            bytes.div_ceil(1 << 20),
            cache.display()
        );
    }
    for file in missing {
        let path = format!("/{}/resolve/{}/{}", name.model, place.commit, file.rfilename);
        place.fetch(&client, file, &path).map_err(|failure| match failure {
            Failure::Refused(refusal) => refused(name, &client, &refusal).context(file.rfilename.clone()),
            Failure::Ours(error) => error.context(format!("{name}: {}", file.rfilename)),
        })?;
    }
    place.note(&name.revision)?;
    Ok(place.model.join("snapshots").join(&place.commit))
}

/// What the hub, or the way to it, refused, and what to do.
fn refused(name: &HubName, client: &Client, refusal: &Refusal) -> anyhow::Error {
    let (endpoint, model) = (client.endpoint(), &name.model);
    anyhow::anyhow!(match refusal {
        Refusal::Status { status: status @ (401 | 403), code } => {
            let what = match &**code {
                "GatedRepo" => "gives it only to whom its owners admit",
                _ => "does not exist, or asks for access",
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
            format!("{endpoint} has no {name}: check the owner, the name and the revision")
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
