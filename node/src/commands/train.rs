//! `node` itself: start a run or join one, train, leave.

use anyhow::{Context, Result, bail, ensure};
use engine::{
    base::{AdapterSettings, Base, BaseSettings, Trained},
    data::Dataset,
    embedded,
    estimator::{Estimator, Normalizer},
    model::{Checkpoint, SuffixModel},
    objective::{self, NextToken, Objective},
    recipe::rate,
    trainer::{self, ProbeSettings, Trainer},
    weights::Weights,
};
use peer::{GoalSettings, Peer, Run};
use protocol::{
    manifest::{DirectionScale, Hyperparameters, Manifest, Membership, ObjectiveLine, RunId},
    secret::{SECRET_BYTES, Secret},
    signature::{Ed25519Signer, Ed25519Verifier, Signer as _},
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::{collections::BTreeSet, path::Path, sync::Arc};

use crate::{
    cli::{LearningRate, RunArgs},
    commands::recipe,
    display::Display,
    hex::hex,
    interrupt::Interrupt,
    memory,
    network::{self, Multiaddr, NetworkConfig, PeerId},
    opened::Opened,
    records, say,
    serve::{Server, Source, Speaker},
    settings::{DEFAULT_PORT, ModelChoice, Settings},
    shell::{self, Disk, People, Recording, Shell, Wire},
    storage::{self, Row, StateDir},
    texts::Texts,
    trainer as trainer_thread,
    watch::{METRICS, Observer, Points, Snapshot, http, journal::Measure},
};

/// Epsilon of a new run, unless said otherwise.
const EPSILON: f64 = 3e-3;
/// Gradients that the ranges of a run without a planned length leave room for, ten times over, and of any run at least.
const PLANNED_GRADIENTS: u64 = 100_000;
const PLANNED_GRADIENTS_MIN: u64 = 1_000;
/// Largest ledger of one machine.
const LEDGER_SAMPLES_MAX: u64 = 1 << 32;
/// Name of the setting that says that this machine started the run.
const STARTER: &str = "starter";
/// Largest base model that is fetched from peers, bytes.
const BASE_BYTES_MAX: u64 = 1 << 40;

/// Runs the node until its goals are reached or Ctrl-C.
pub fn run(args: RunArgs, display: Display) -> Result<()> {
    let settings = Settings::resolve(args)?;
    for path in settings.data.iter().chain(&settings.eval).filter(|path| *path != Path::new("-")) {
        std::fs::metadata(path).with_context(|| format!("{}: no such text", path.display()))?;
    }
    let reads_standard_input = [&settings.data, &settings.eval].map(|path| path.as_deref() == Some(Path::new("-")));
    ensure!(reads_standard_input != [true; 2], "--data and --eval are both standard input; give one of them a file");
    let state = Arc::new(StateDir::create_or_open(&settings.state)?);
    let page = settings.http.map(http::Listener::bind).transpose()?;
    let token = settings.serve_token.clone();
    let server = settings.serve.map(|address| Server::bind("--serve", address, token)).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interrupt = Interrupt::install()?;
    let outcome = runtime.block_on(async {
        let mut shell = new_shell(&settings, &state, display, interrupt)?;
        match prepare(&settings, state, (page, server), &mut shell).await? {
            true => shell.run().await,
            false => shell.close().await,
        }
    });
    // The trainer may be in the middle of a forward pass: nothing of it is needed any more.
    runtime.shutdown_background();
    outcome
}

/// A shell that knows what the command line and the disk say of this node and of others.
fn new_shell(settings: &Settings, state: &Arc<StateDir>, display: Display, interrupt: Interrupt) -> Result<Shell> {
    let (mut wire, mut bootstrap) = (Wire::default(), Vec::new());
    for (peer, address) in given(settings, state)? {
        bootstrap.extend(wire.know(peer, address).filter(|node| !bootstrap.contains(node)));
    }
    let config = peer::Config {
        key: Ed25519Signer::from_seed(&state.secret_key()).key(),
        incarnation: state.incarnation(),
        is_new_incarnation: state.is_new_incarnation(),
        seed: random()?,
        run: settings.run,
        bootstrap,
        knows_others: !known_peers(state)?.is_empty(),
        connections_target: peer::config::CONNECTIONS_TARGET,
        replica: settings.replica(),
    };
    let record = settings.record.as_ref();
    let recording = record.map(|path| Recording::begin(shell::create_recording(path)?, path, &config)).transpose()?;
    Ok(Shell::new(shell::Parts {
        peer: Peer::new(config, Box::new(Ed25519Verifier)),
        wire,
        disk: Disk::new(state.clone()),
        people: People::new(display, settings.run),
        interrupt,
        recording,
    }))
}

/// Machines that people named, one by one or in a ticket, and where they are. A ticket may name this machine, too.
fn given(settings: &Settings, state: &StateDir) -> Result<Vec<(PeerId, Multiaddr)>> {
    let own = network::peer_id(state.secret_key())?;
    let named = settings.bootstrap.iter().map(|text| network::parse_bootstrap_of_another(text, own));
    let mut given = named.collect::<Result<Vec<_>, _>>()?;
    if let Some(ticket) = &settings.ticket {
        let others = ticket.machines.iter().filter(|(peer, _)| *peer != own);
        given.extend(others.flat_map(|(peer, at)| at.iter().map(|address| (*peer, address.clone()))));
        ensure!(
            !given.is_empty() || settings.mdns,
            "--join: the ticket names no other machine, and --no-mdns keeps from looking for one on the local network"
        );
    }
    Ok(given)
}

/// The secret of the run: from its ticket, or from the disk.
fn secret(settings: &Settings, state: &StateDir) -> Result<Option<Secret>> {
    Ok(settings.ticket.as_ref().and_then(|ticket| ticket.secret).or(state.secret()?))
}

/// The run that was joined, or that goes on here, must be private if this machine was given a secret, and the other way
/// round.
fn check_secret(settings: &Settings, opened: &Opened) -> Result<()> {
    let secret = secret(settings, &opened.state)?;
    ensure!(
        opened.manifest.private == secret.map(|secret| secret.commitment()),
        "{}: the run is {}; join it with its ticket (--join), which `node ticket` prints on any of its machines",
        opened.state.path().display(),
        match opened.manifest.private {
            Some(_) => "private, and its secret is not here",
            None => "not private, and the ticket has a secret",
        }
    );
    ensure!(
        !settings.private || opened.manifest.private.is_some(),
        "--private: run {} was started open, which cannot be changed; start another with another --state",
        opened.run
    );
    if let (Some(secret), None) = (secret, opened.state.secret()?) {
        opened.state.set_secret(&secret)?;
    }
    Ok(())
}

fn known_peers(state: &StateDir) -> Result<Vec<(PeerId, Multiaddr)>> {
    Ok(records::peers(state.known_peers()?))
}

fn random() -> Result<u64> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).context("no random numbers from the system")?;
    Ok(u64::from_le_bytes(bytes))
}

/// Everything up to the first gradient. False if the node has left before.
async fn prepare(
    settings: &Settings,
    state: Arc<StateDir>,
    (page, server): (Option<http::Listener>, Option<Server>),
    shell: &mut Shell,
) -> Result<bool> {
    let is_new = state.manifest()?.is_none() || gives_way(settings, &state)?;
    if is_new {
        settings.check_joining()?;
    }
    let mut texts = None;
    let opened = if is_new && settings.joins() {
        say::looking_for_run(settings);
        if !shell.join(asking(settings, &state, settings.run)?).await? {
            return Ok(false);
        }
        let opened = Opened::of(state)?;
        say::joined(&opened.run, &opened.manifest);
        opened
    } else {
        let opened = match is_new {
            true => {
                let (opened, read) = start(settings, state)?;
                texts = Some(read);
                opened
            }
            false => restart(settings, state)?,
        };
        shell.set_run(Run::decode(&opened.manifest_bytes)?)?;
        opened
    };
    check_secret(settings, &opened)?;
    if !opened.state.has_base() && !take_base(settings, &opened, shell).await? {
        return Ok(false);
    }
    let texts = match texts {
        Some(texts) => texts,
        None => {
            let checkpoint = opened.state.base(&opened.manifest)?.checkpoint()?;
            let is_embedded = embedded::is_of(&opened.manifest.base);
            Texts::read(settings, &checkpoint, is_embedded, data_seed(settings, &opened.state)?)?
        }
    };
    let weights = shell.restore(&opened)?;
    say_what_is_settled(settings, &opened)?;
    let (trainer, goals, points) = new_trainer(settings, &opened, weights, texts)?;
    if goals.can_train {
        say::memory_for_projection(settings.estimator, opened.manifest.parameters(), memory::available_bytes());
    }
    shell.recall(points)?;
    let observer = observer(&opened, page)?;
    let storage = storage::spawn(&opened.state)?;
    let base = opened.state.base(&opened.manifest)?;
    let trainer = trainer_thread::spawn(trainer)?;
    if let Some(server) = server {
        let speaker = Speaker::new(base.checkpoint()?, Source::Trainer(trainer.copies.clone()))?;
        server.serve(speaker.into())?;
    }
    shell.equip(trainer, storage, Some(base), Some(observer));
    listen(settings, &opened, shell).await?;
    shell.start(goals)?;
    Ok(true)
}

/// What trains, for how long, and the held-out points so far.
fn new_trainer(
    settings: &Settings,
    opened: &Opened,
    weights: Weights,
    texts: Texts,
) -> Result<(Trainer, GoalSettings, Points)> {
    let (model, _) = opened.model(&weights)?;
    let seed = data_seed(settings, &opened.state)?;
    check_goals(settings, &texts)?;
    let Texts { data, held_out } = texts;
    if data.is_none() {
        tracing::warn!("no --data: this node replays and serves the run, but does not train");
    }
    let objective = objective(&opened.manifest, data.as_ref(), held_out.as_ref())?;
    let points = held_out.as_ref().map(|text| points(opened, text, &*objective)).transpose()?.unwrap_or_default();
    let goals = GoalSettings {
        samples: settings.samples,
        exit_when_idle_ms: settings.exit_when_idle.map(|idle| idle.as_millis() as u64),
        can_train: data.is_some(),
        batch_samples: settings.estimator.samples(),
        waits_to_sign: matches!(settings.estimator, Estimator::Projection { .. }),
        evaluates: held_out.is_some(),
        stops_when_flat: settings.stop_when_flat,
        ..GoalSettings::default()
    };
    let kept = opened.state.setting("spsa")?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let trainer = Trainer::new(trainer::Parts {
        run: opened.run,
        manifest: opened.manifest.clone(),
        weights,
        model: SuffixModel::new(model),
        objective,
        data,
        held_out,
        settings: ProbeSettings {
            epsilon: opened.manifest.hyperparameters.epsilon,
            estimator: settings.estimator,
            batch_size: settings.batch_size,
            data_seed: seed,
        },
        normalizer: kept.unwrap_or_else(|| Normalizer::new(opened.manifest.levels)),
        random: Xoshiro256PlusPlus::seed_from_u64(random()?),
    });
    Ok((trainer, goals, points))
}

/// Held-out points of earlier sessions that can be compared with those to come.
fn points(opened: &Opened, text: &Dataset, objective: &dyn Objective) -> Result<Points> {
    let windows = shell::EVALUATION_WINDOWS.min(text.windows()) as u64;
    let measure = Measure { text: hex(&text.digest()?), unit: objective.unit().to_owned(), windows };
    Ok(Points::of(opened.state.path(), measure))
}

/// Who looks at this node, and shows it at `page`.
fn observer(opened: &Opened, page: Option<http::Listener>) -> Result<Observer> {
    let template = Snapshot {
        run: opened.run.to_string(),
        peer_id: network::peer_id(opened.state.secret_key())?.to_string(),
        model: opened.manifest.base.source.clone(),
        parameters: opened.manifest.parameters(),
        private: opened.manifest.private.is_some(),
        ..Snapshot::default()
    };
    let observer = Observer::new(opened.state.path(), template)?;
    if let Some(page) = page {
        show(page, &observer, opened.state.path())?;
    }
    Ok(observer)
}

/// A network that only asks: about any run, or about this one.
fn asking(settings: &Settings, state: &StateDir, run: Option<RunId>) -> Result<NetworkConfig> {
    let mdns = settings.mdns && (run.is_some() || settings.lan);
    Ok(NetworkConfig { mdns, ..network_of(settings, state, run, Vec::new())? })
}

/// A network as people want it.
fn network_of(
    settings: &Settings,
    state: &StateDir,
    run: Option<RunId>,
    listen: Vec<Multiaddr>,
) -> Result<NetworkConfig> {
    Ok(NetworkConfig {
        mdns: settings.mdns,
        given: given(settings, state)?.into_iter().map(|(_, address)| address).collect(),
        relays: settings.relays.clone(),
        announced: settings.announce.clone(),
        prologue: secret(settings, state)?.map(|secret| secret.connection()),
        ..NetworkConfig::new(state.secret_key(), run.map(|run| run.0), listen)
    })
}

/// Takes the base from `--model`, from the embedded default if that is it, or from peers. False if the node has left
/// before.
async fn take_base(settings: &Settings, opened: &Opened, shell: &mut Shell) -> Result<bool> {
    let manifest = &opened.manifest;
    if settings.model != ModelChoice::Unsaid {
        let base = base_of_run(manifest, load_model(&settings.model)?)?;
        if !opened.state.adopt_base(manifest, &base)? {
            tracing::info!(
                "--model {}: the run's tensors in other files: this node trains, and cannot give the base to joiners",
                base.checkpoint.source
            );
        }
        return Ok(true);
    }
    if embedded::is_of(&manifest.base) {
        if let Ok(base) = Base::of_run(manifest, embedded::checkpoint()?) {
            opened.state.adopt_base(manifest, &base)?;
            return Ok(true);
        }
        tracing::info!("the run's base is another release's embedded model");
    }
    ensure!(
        manifest.base.bytes() <= BASE_BYTES_MAX,
        "the run's base model has {} GB: give it with --model",
        manifest.base.bytes() >> 30
    );
    let config = asking(settings, &opened.state, Some(opened.run))?;
    shell.fetch_base(opened, config, &known_peers(&opened.state)?).await
}

/// Shows the run in browsers.
fn show(page: http::Listener, observer: &Observer, state: &Path) -> Result<()> {
    let address = page.address();
    page.serve(observer.subscribe(), state.join(METRICS))?;
    tracing::info!("watch at http://{address}/");
    if !address.ip().to_canonical().is_loopback() {
        tracing::warn!(
            "--http {address}: whoever reaches this address can read the run's state; 127.0.0.1 is for this machine only"
        );
    }
    Ok(())
}

/// Some flags are for those who start a run.
fn say_what_is_settled(settings: &Settings, opened: &Opened) -> Result<()> {
    let manifest = &*opened.manifest;
    if let Some(what) = trains_otherwise(settings, &opened.state, manifest)? {
        tracing::warn!("--lora and --train are of new runs only: this run trains {what}");
    }
    let normalizes = matches!(manifest.objective, ObjectiveLine::Choices { normalize: true });
    if settings.normalize && !normalizes {
        tracing::warn!("--normalize is of new runs only: this run does not");
    }
    for (flag, said, settled) in settled(settings, manifest) {
        if said.is_some_and(|said| said != settled) {
            tracing::warn!("{flag} is of new runs only: this run's is {settled}");
        }
    }
    if settings.gradients.is_some_and(|said| manifest.schedule != rate::schedule(Some(said))) {
        tracing::warn!("--gradients is of new runs only: this run's learning rate falls as its starter said");
    }
    Ok(())
}

/// Whether what is asked for can be done with these texts.
fn check_goals(settings: &Settings, texts: &Texts) -> Result<()> {
    if settings.stop_when_flat {
        ensure!(texts.data.is_some(), "--stop-when-flat ends own gradients, and without --data this node makes none");
        ensure!(texts.held_out.is_some(), "--stop-when-flat needs a held-out text: give --eval <file or directory>");
    }
    Ok(())
}

/// Whether the run in `state`, which this machine started and nobody has joined, is not the one that the settings ask
/// for: then a new one is to take its place.
fn gives_way(settings: &Settings, state: &StateDir) -> Result<bool> {
    let Some(bytes) = state.manifest()? else { return Ok(false) };
    let asks_for_it = settings.joins() || settings.run.is_some();
    let is_shared = !state.is_untouched()? || !known_peers(state)?.is_empty();
    if asks_for_it || is_shared || state.setting(STARTER)?.is_none() {
        return Ok(false);
    }
    let Ok((manifest, run)) = Manifest::decode(&bytes) else { return Ok(false) };
    let other = match difference(settings, &manifest) {
        None => trains_otherwise(settings, state, &manifest)?.map(|what| format!("trains {what}")),
        other => other,
    };
    let Some(difference) = other else { return Ok(false) };
    tracing::warn!(
        "{}: run {run} was started here, has no gradient yet, and {difference}: it gives way to a new run",
        state.path().display()
    );
    Ok(true)
}

/// What the run trains, in words, if `--train` or `--lora` ask for something else.
fn trains_otherwise(settings: &Settings, state: &StateDir, manifest: &Manifest) -> Result<Option<String>> {
    let count = manifest.tensors.len();
    let has_adapters = manifest.tensors.iter().any(|spec| spec.adapter().is_some());
    if settings.lora.is_some() != has_adapters && (settings.lora.is_some() || settings.train.is_some()) {
        let what = if has_adapters { "adapters" } else { "tensors of the base" };
        return Ok(Some(format!("{count} {what}")));
    }
    let Some(text) = settings.train.as_ref().filter(|_| !has_adapters) else { return Ok(None) };
    let architecture = state.base(manifest)?.checkpoint()?.architecture()?;
    let wanted = Trained::choose(text, &*architecture).with_context(|| format!("--train {text}"))?;
    let trains = |name: &str| manifest.tensors.iter().any(|spec| spec.name == name);
    let differs = architecture.tensors().iter().any(|(name, _)| wanted.has(name) != trains(name));
    Ok(differs.then(|| format!("{count} tensors")))
}

/// What the settings ask for that is not the run's.
fn difference(settings: &Settings, manifest: &Manifest) -> Option<String> {
    let other =
        settled(settings, manifest).into_iter().find(|(.., said, settled)| said.is_some_and(|said| said != *settled));
    if let Some((flag, said, settled)) = other {
        return Some(format!("its {} is {settled}, not {}", flag.trim_start_matches("--"), said.unwrap_or_default()));
    }
    if settings.gradients.is_some_and(|said| manifest.schedule != rate::schedule(Some(said))) {
        return Some("is planned for another number of gradients".into());
    }
    let other_members = settings.members != Membership::Open && settings.members != manifest.membership;
    if other_members || settings.authority && manifest.authority.is_none() {
        return Some("has other members".into());
    }
    if settings.model == ModelChoice::Unsaid {
        return None;
    }
    let is_its_base = load_model(&settings.model).and_then(|checkpoint| Base::of_run(manifest, checkpoint));
    is_its_base.is_err().then(|| format!("is on another model, {}", manifest.base.source))
}

/// Settings of new runs: (flag, what was said, what the run has).
fn settled(settings: &Settings, manifest: &Manifest) -> [(&'static str, Option<f64>, f64); 3] {
    let run = &manifest.hyperparameters;
    let learning_rate = match settings.learning_rate {
        Some(LearningRate::Fixed(rate)) => Some(rate),
        _ => None,
    };
    [
        ("--learning-rate", learning_rate, run.learning_rate),
        ("--epsilon", settings.epsilon, run.epsilon),
        ("--replay-budget", settings.replay_budget.map(f64::from), f64::from(manifest.replay_budget)),
    ]
}

/// A new run, and the texts that were read for it: all that can fail fails before anything of it is stored.
fn start(settings: &Settings, state: Arc<StateDir>) -> Result<(Opened, Texts)> {
    if let Some(run) = settings.run {
        bail!("--run {run}: a new run gets its own id; to join that one, name one of its machines with --bootstrap");
    }
    ensure!(
        settings.data.is_some() || matches!(settings.model, ModelChoice::Unsaid | ModelChoice::Embedded),
        "a run on one's own model needs a text to train on: --data <file or directory>"
    );
    let planned = settings.gradients.map_or(PLANNED_GRADIENTS, |gradients| gradients.max(PLANNED_GRADIENTS_MIN));
    let mut hyperparameters = Hyperparameters {
        learning_rate: recipe::LEARNING_RATE,
        epsilon: settings.epsilon.unwrap_or(EPSILON),
        planned_gradients: settings.planned_gradients.unwrap_or(planned),
        direction_scale: DirectionScale::Rms,
    };
    let checkpoint = load_model(&settings.model)?;
    let (trained, adapters) = trained(settings, &checkpoint)?;
    let is_embedded = matches!(settings.model, ModelChoice::Unsaid | ModelChoice::Embedded);
    let texts = Texts::read(settings, &checkpoint, is_embedded, data_seed(settings, &state)?)?;
    check_goals(settings, &texts)?;
    let has_choices = texts.data.as_ref().is_some_and(Dataset::has_choices);
    let objective = objective::line(has_choices, settings.normalize)?;
    hyperparameters.learning_rate = match settings.learning_rate {
        Some(LearningRate::Fixed(rate)) => rate,
        _ => match &texts.data {
            Some(data) => {
                let (own, objective) = (checkpoint.clone(), objective.clone());
                let chosen = (trained.clone(), adapters.clone());
                recipe::learning_rate(settings, own, data, objective, random()?, hyperparameters, chosen)?
            }
            None => recipe::LEARNING_RATE,
        },
    };
    // What is measured is of the same form.
    objective::check(&objective, texts.held_out.as_ref()).context("--eval")?;
    let authority = settings.authority.then(|| Ed25519Signer::from_seed(&state.secret_key()).key());
    let mut about = BaseSettings {
        objective,
        hyperparameters,
        schedule: rate::schedule(settings.gradients),
        ledger_samples_max: LEDGER_SAMPLES_MAX,
        replay_budget: settings.replay_budget.unwrap_or(1),
        authority,
        trained,
        adapters,
    };
    let mut nonce = [0u8; 16];
    getrandom::fill(&mut nonce).context("no random numbers from the system")?;
    let mut base = Base::of_new_run(checkpoint, &about, nonce)?;
    if settings.replay_budget.is_none() {
        about.replay_budget = recipe::replay_budget(&mut base)?;
    }
    if state.manifest()?.is_some() {
        // One that gives way. Until here nothing of it has changed.
        state.forget_run()?;
    }
    state.commit(&[Row::Setting { name: STARTER.into(), bytes: Vec::new() }])?;
    let secret = settings.private.then(random_secret).transpose()?;
    let manifest = storage::start_run(&state, &base, about, settings.members.clone(), secret)?;
    let opened = Opened::of(state)?;
    let kind = if secret.is_some() { "new private run" } else { "new run" };
    tracing::info!("{kind} {} on {} ({} parameters)", opened.run, manifest.base.source, manifest.parameters());
    Ok((opened, texts))
}

/// What a new run trains of its base and beside it, and a line that says how much of how much.
fn trained(settings: &Settings, checkpoint: &Checkpoint) -> Result<(Trained, Option<AdapterSettings>)> {
    if settings.train.is_none() && settings.lora.is_none() {
        return Ok((Trained::All, None));
    }
    let architecture = checkpoint.architecture()?;
    let text = settings.train.as_deref().unwrap_or("all");
    let named = Trained::choose(text, &*architecture).with_context(|| format!("--train {text}"))?;
    let tensors = architecture.tensors();
    let count = |shape: &[usize]| shape.iter().product::<usize>() as u64;
    let all: u64 = tensors.iter().map(|(_, shape)| count(shape)).sum();
    let chosen = tensors.iter().filter(|(name, _)| named.has(name));
    let Some(rank) = settings.lora else {
        let (tensors, weights) = chosen.fold((0, 0), |(n, sum), (_, shape)| (n + 1, sum + count(shape)));
        tracing::info!("--train {text}: {tensors} tensors, {weights} of {all} weights; the others stay as they are");
        return Ok((named, None));
    };
    let alpha = settings.lora_alpha.unwrap_or(2.0 * f64::from(rank));
    let names = chosen.map(|(name, _)| name.clone()).collect();
    let adapters = AdapterSettings::new(rank, alpha, &names, &*architecture);
    let adapters = adapters.with_context(|| format!("--lora {rank}, --train {text}"))?;
    let halves = adapters.halves(&*architecture)?;
    let weights: u64 = halves.iter().map(|half| count(&half.shape)).sum();
    tracing::info!(
        "--lora {rank}: adapters of {} linear layers, {weights} weights beside the base's {all}, which stay as they are",
        adapters.layers.len()
    );
    Ok((Trained::Only(BTreeSet::new()), Some(adapters)))
}

fn random_secret() -> Result<Secret> {
    let mut bytes = [0u8; SECRET_BYTES];
    getrandom::fill(&mut bytes).context("no random numbers from the system")?;
    Ok(Secret(bytes))
}

/// Goes on with the run in the state directory, whose base may not be complete yet.
fn restart(settings: &Settings, state: Arc<StateDir>) -> Result<Opened> {
    if state.moved() {
        say::copied(state.path(), state.is_renamed());
    }
    let opened = Opened::of(state)?;
    if let Some(run) = settings.run.filter(|run| *run != opened.run) {
        bail!(
            "{}: this state belongs to run {}, not to {} {run}; give another --state",
            opened.state.path().display(),
            opened.run,
            if settings.ticket.is_some() { "that of --join," } else { "--run" }
        );
    }
    if opened.state.has_base() {
        if let ModelChoice::Directory(_) | ModelChoice::Embedded = settings.model {
            base_of_run(&opened.manifest, load_model(&settings.model)?)?;
        }
        tracing::info!("going on with run {} in {}", opened.run, opened.state.path().display());
        return Ok(opened);
    }
    let nobody_to_ask = settings.bootstrap.is_empty() && settings.ticket.is_none() && !settings.mdns;
    if nobody_to_ask && settings.model == ModelChoice::Unsaid && !embedded::is_of(&opened.manifest.base) {
        bail!(
            "{}: the run's base model {} is not here: give it with --model <directory>, or name a machine of \
             the run with --join or --bootstrap",
            opened.state.path().display(),
            opened.manifest.base.source
        );
    }
    Ok(opened)
}

/// Reads the model that the user named.
pub fn load_model(choice: &ModelChoice) -> Result<Checkpoint> {
    match choice {
        ModelChoice::Unsaid | ModelChoice::Embedded => embedded::checkpoint(),
        ModelChoice::Directory(directory) => Checkpoint::load(directory),
    }
}

/// Fails with what differs if `checkpoint` has not the tensors, config and tokenizer of the run's base.
pub fn base_of_run(manifest: &Manifest, checkpoint: Checkpoint) -> Result<Base> {
    let source = checkpoint.source.clone();
    Base::of_run(manifest, checkpoint).with_context(|| {
        format!(
            "--model {source}: not the base of this run. Give the run's own base, or leave --model away to fetch it from peers"
        )
    })
}

/// The seed of the own data order: told, or kept.
fn data_seed(settings: &Settings, state: &StateDir) -> Result<u64> {
    let kept = state.setting("data seed")?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    if let Some(seed) = settings.seed.or(kept) {
        return Ok(seed);
    }
    let seed = random()?;
    state.commit(&[Row::Setting { name: "data seed".into(), bytes: seed.to_le_bytes().to_vec() }])?;
    Ok(seed)
}

/// What is made smaller: the run states it, and own texts must have its form.
fn objective(manifest: &Manifest, data: Option<&Dataset>, held_out: Option<&Dataset>) -> Result<Box<dyn Objective>> {
    let of = |data: Option<&Dataset>| data.map(|data| objective::of(&manifest.objective, data)).transpose();
    let held_out = of(held_out).context("--eval")?;
    // Who has no text measures nothing.
    Ok(of(data).context("--data")?.or(held_out).unwrap_or_else(|| Box::new(NextToken)))
}

/// Listens where the user said, or on the usual port, or on any.
async fn listen(settings: &Settings, opened: &Opened, shell: &mut Shell) -> Result<()> {
    let known = known_peers(&opened.state)?;
    let base = network_of(settings, &opened.state, Some(opened.run), settings.listen.clone())?;
    if !settings.listen.is_empty() {
        return Ok(shell.open(base, &known).await??);
    }
    let at_port = |port| NetworkConfig { listen: network::everywhere(port), listen_at_any: true, ..base.clone() };
    match shell.open(at_port(DEFAULT_PORT), &known).await? {
        Err(error) if error.is_occupied() => {
            tracing::info!("port {DEFAULT_PORT} is taken: listening on a free one");
            Ok(shell.open(at_port(network::free_port()?), &known).await??)
        }
        other => Ok(other?),
    }
}
