//! Joining a run: from one address to a manifest and a base model, before there is a replica.

use anyhow::{Context, Result, bail, ensure};
use engine::{base::check_same_base, embedded};
use indicatif::{ProgressBar, ProgressStyle};
use protocol::{
    manifest::{Manifest, RunId},
    message::{Question, Request, Response},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::{
    commands::train::{check_model, load_model},
    network::{Event, Network, NetworkConfig, PeerId, RequestId, Severity, Verdict},
    opened::Opened,
    settings::{ModelChoice, Settings},
    storage::{BaseDownload, StateDir},
};

/// Requests for chunks that may be under way at one peer.
const REQUESTS_PER_PEER: usize = 4;
/// Largest base model that is fetched from peers, bytes.
const BASE_BYTES_MAX: u64 = 1 << 40;

/// Fetches the manifest from a bootstrap machine and the base from wherever it is to be had.
pub async fn join(settings: &Settings, state: StateDir) -> Result<Opened> {
    let manifest_bytes = fetch_manifest(settings, &state).await?;
    state.set_manifest(&manifest_bytes)?;
    let opened = Opened::of(state)?;
    fetch_base(settings, &opened).await?;
    Ok(opened)
}

/// A network that only asks.
async fn asking_network(settings: &Settings, state: &StateDir, run: Option<RunId>) -> Result<Network> {
    let config = NetworkConfig {
        bootstrap: settings.bootstrap.clone(),
        mdns: settings.mdns && run.is_some(),
        ..NetworkConfig::new(state.secret_key(), run.map(|run| run.0), Vec::new())
    };
    Ok(Network::start(config).await?)
}

/// Asks every bootstrap machine until one answers with the manifest of the run that is wanted.
async fn fetch_manifest(settings: &Settings, state: &StateDir) -> Result<Vec<u8>> {
    let mut network = asking_network(settings, state, None).await?;
    let request = Request { run: RunId([0; 32]), question: Question::Manifest }.encode()?;
    let mut of_other_runs = BTreeSet::new();
    loop {
        match network.next().await {
            Event::PeerConnected(peer) => {
                network.request(peer, request.clone());
            }
            Event::BootstrapUnreachable { address, error, retry_in } => tracing::warn!(
                "{address} cannot be reached ({error}); trying again in {} s. Is the node there running, and its port open?",
                retry_in.as_secs().max(1)
            ),
            Event::Response { peer, result, .. } => match manifest_of(result.map_err(|error| error.to_string())) {
                Ok((bytes, run)) => {
                    if let Some(wanted) = settings.run.filter(|wanted| *wanted != run) {
                        let refusal = format!(
                            "{peer} is of run {run}, not of --run {wanted}: check the address, or leave --run away to join \
                             whatever run it is of"
                        );
                        of_other_runs.insert(peer);
                        ensure!(of_other_runs.len() < settings.bootstrap.len(), "{refusal}");
                        tracing::warn!("{refusal}");
                        network.penalize(&peer, Severity::Ban, "another run");
                        continue;
                    }
                    network.close().await;
                    return Ok(bytes);
                }
                Err(error) => {
                    tracing::warn!("{peer} sent no usable manifest: {error}");
                    network.penalize(&peer, Severity::Fault, "no usable manifest");
                }
            },
            _ => {}
        }
    }
}

fn manifest_of(result: Result<Vec<u8>, String>) -> Result<(Vec<u8>, RunId), String> {
    match Response::decode(&result?).map_err(|error| error.to_string())? {
        Response::Manifest(bytes) => {
            let (_, run) = Manifest::decode(&bytes).map_err(|error| error.to_string())?;
            Ok((bytes, run))
        }
        _ => Err("an answer to another question".into()),
    }
}

/// Takes the base from `--model`, from the embedded default if that is it, or from peers.
pub async fn fetch_base(settings: &Settings, opened: &Opened) -> Result<()> {
    let manifest = &opened.manifest;
    if settings.model != ModelChoice::Unsaid {
        let checkpoint = load_model(&settings.model)?;
        check_model(manifest, &checkpoint)?;
        return opened.state.adopt_base(manifest, checkpoint);
    }
    if manifest.base.source == embedded::SOURCE {
        let checkpoint = embedded::checkpoint()?;
        if check_same_base(manifest, &checkpoint).is_ok() {
            return opened.state.adopt_base(manifest, checkpoint);
        }
        tracing::info!("the run's base is another release's embedded model");
    }
    ensure!(
        manifest.base_bytes() <= BASE_BYTES_MAX,
        "the run's base model has {} GB: give it with --model",
        manifest.base_bytes() >> 30
    );
    download(settings, opened).await
}

/// What was asked of a peer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Digests,
    Chunk(u64),
}

/// The download's bookkeeping.
struct Fetcher {
    network: Network,
    run: RunId,
    download: BaseDownload,
    /// The list of chunks as far as it has come, all of it from one peer.
    digests: Vec<[u8; 32]>,
    digests_from: Option<PeerId>,
    asked: BTreeMap<RequestId, (PeerId, Asked)>,
    peers: BTreeSet<PeerId>,
    /// Peers that failed to answer, and when they may be asked again.
    resting: Vec<(Instant, PeerId)>,
    bar: ProgressBar,
}

/// Fetches the base in checked chunks, from all peers at once; a peer that dies or lies is done without.
async fn download(settings: &Settings, opened: &Opened) -> Result<()> {
    let download = BaseDownload::open(&opened.state, &opened.manifest)?;
    let (bytes, here) = download.progress();
    tracing::info!(
        "fetching the base model {} from peers: {:.1} MB, {:.1} MB of it are here",
        opened.manifest.base.source,
        bytes as f64 / 1e6,
        here as f64 / 1e6
    );
    let bar = ProgressBar::new(bytes);
    bar.set_style(ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")?);
    let mut fetcher = Fetcher {
        network: asking_network(settings, &opened.state, Some(opened.run)).await?,
        run: opened.run,
        download,
        digests: Vec::new(),
        digests_from: None,
        asked: BTreeMap::new(),
        peers: BTreeSet::new(),
        resting: Vec::new(),
        bar,
    };
    fetcher.run().await?;
    fetcher.bar.finish_and_clear();
    fetcher.download.finish().context("storing the base model")?;
    fetcher.network.close().await;
    tracing::info!("the base model is complete");
    Ok(())
}

impl Fetcher {
    async fn run(&mut self) -> Result<()> {
        let mut patience = tokio::time::interval(Duration::from_secs(15));
        patience.reset();
        loop {
            self.bar.set_position(self.download.progress().1);
            if !self.download.needs_digests() && self.download.missing().next().is_none() {
                return Ok(());
            }
            self.wake_rested();
            self.ask_all()?;
            tokio::select! {
                event = self.network.next() => self.on_event(event)?,
                _ = tokio::time::sleep(Duration::from_secs(1)) => {}
                _ = patience.tick() => if self.peers.is_empty() {
                    tracing::warn!("no peer that could send the base model is connected; still trying. --model gives it from disk");
                },
            }
        }
    }

    fn ask_all(&mut self) -> Result<()> {
        for peer in self.peers.clone() {
            while self.asked.values().filter(|(to, _)| *to == peer).count() < REQUESTS_PER_PEER {
                let Some(what) = self.next_question() else { return Ok(()) };
                if what == Asked::Digests && *self.digests_from.get_or_insert(peer) != peer {
                    break;
                }
                let question = match what {
                    Asked::Digests => Question::BaseDigests { from: self.digests.len() as u64 },
                    Asked::Chunk(index) => Question::BaseChunk { index },
                };
                let bytes = Request { run: self.run, question }.encode()?;
                let request = self.network.request(peer, bytes);
                self.asked.insert(request, (peer, what));
            }
        }
        Ok(())
    }

    fn wake_rested(&mut self) {
        let now = Instant::now();
        for (_, peer) in self.resting.extract_if(.., |(until, _)| *until <= now) {
            if self.network.connected().any(|connected| *connected == peer) {
                self.peers.insert(peer);
            }
        }
    }

    /// Nothing is asked of the peer for a while; what it had sent of the list is of no use without the rest.
    fn rest(&mut self, peer: PeerId) {
        const REST: Duration = Duration::from_secs(5);
        self.peers.remove(&peer);
        self.resting.push((Instant::now() + REST, peer));
        self.forget_digests(&peer);
    }

    fn forget_digests(&mut self, peer: &PeerId) {
        if self.digests_from.as_ref() == Some(peer) {
            self.digests_from = None;
            self.digests.clear();
        }
    }

    /// What nobody was asked yet.
    fn next_question(&self) -> Option<Asked> {
        let asked: BTreeSet<u64> = self
            .asked
            .values()
            .filter_map(|(_, what)| if let Asked::Chunk(index) = what { Some(*index) } else { None })
            .collect();
        if self.download.needs_digests() {
            let waiting = self.asked.values().any(|(_, what)| *what == Asked::Digests);
            return (!waiting).then_some(Asked::Digests);
        }
        self.download.missing().find(|index| !asked.contains(index)).map(Asked::Chunk)
    }

    fn on_event(&mut self, event: Event) -> Result<()> {
        match event {
            Event::PeerConnected(peer) => {
                self.peers.insert(peer);
            }
            Event::PeerGone(peer) => {
                self.peers.remove(&peer);
                self.forget_digests(&peer);
                self.asked.retain(|_, (to, _)| *to != peer);
            }
            // Nothing to judge it by yet; anti-entropy brings it later.
            Event::Gossip { source, message, .. } => self.network.report(&message, &source, Verdict::Ignore),
            Event::BootstrapUnreachable { address, error, .. } => {
                tracing::warn!("{address} cannot be reached ({error})")
            }
            Event::Response { peer, request, result } => {
                let Some((_, what)) = self.asked.remove(&request) else { return Ok(()) };
                let bytes = match result {
                    Ok(bytes) => bytes,
                    Err(error) => {
                        tracing::debug!(%peer, %error, "no answer");
                        self.rest(peer);
                        return Ok(());
                    }
                };
                if let Err(error) = self.take(what, &bytes) {
                    // A full disk is ours, not the peer's.
                    if error.downcast_ref::<std::io::Error>().is_some() {
                        return Err(error);
                    }
                    tracing::warn!("{peer} is done without: {error:#}");
                    self.peers.remove(&peer);
                    self.forget_digests(&peer);
                    self.network.penalize(&peer, Severity::Ban, "a wrong piece of the base model");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn take(&mut self, what: Asked, bytes: &[u8]) -> Result<()> {
        match (what, Response::decode(bytes)?) {
            (Asked::Chunk(index), Response::BaseChunk(chunk)) => self.download.accept_chunk(index, &chunk),
            (Asked::Digests, Response::BaseDigests(page)) => {
                ensure!(!page.is_empty(), "it sent none of the list of chunks");
                self.digests.extend(page);
                if (self.digests.len() as u64) < self.download.chunks() {
                    return Ok(());
                }
                let digests = std::mem::take(&mut self.digests);
                self.download.accept_digests(digests)
            }
            (_, Response::WrongRun(run)) => bail!("it is of run {run} now"),
            (_, Response::Unavailable) => bail!("it does not have the base model complete"),
            _ => bail!("it sent an answer to another question"),
        }
    }
}
