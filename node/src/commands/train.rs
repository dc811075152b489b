//! `node` itself: start a run or join one, train, leave.

use anyhow::{Context, Result, bail, ensure};
use engine::{
    base::{BaseSettings, check_same_base},
    data::Dataset,
    embedded,
    estimator::Normalizer,
    model::{Checkpoint, Tokenizer},
    objective::NextToken,
    trainer::{self, ProbeSettings, Trainer},
};
use protocol::{
    machine::MachineId,
    manifest::{DirectionScale, Hyperparameters, Manifest, Schedule},
    replica::Replica,
    signature::{Ed25519Signer, Signer as _},
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::path::Path;

use crate::{
    cli::RunArgs,
    driver::{Display, Driver, Goals, Observer, Parts, Status},
    interrupt::Interrupt,
    join,
    network::{self, Network, NetworkConfig},
    opened::Opened,
    records,
    settings::{DEFAULT_PORT, ModelChoice, Settings},
    storage::{self, Record, StateDir},
    trainer as trainer_thread,
    watch::{METRICS, Snapshot, http},
};

/// Learning rate and epsilon of a new run, unless said otherwise.
const LEARNING_RATE: f64 = 2e-4;
const EPSILON: f64 = 1e-3;
/// Gradients that a run's ranges leave room for.
const PLANNED_GRADIENTS: u64 = 100_000;
/// Largest ledger of one machine.
const LEDGER_SAMPLES_MAX: u64 = 1 << 32;

/// Runs the node until its goals are reached or Ctrl-C.
pub fn run(args: RunArgs, display: Display) -> Result<()> {
    let settings = Settings::resolve(args)?;
    for path in settings.data.iter().chain(&settings.eval) {
        std::fs::metadata(path).with_context(|| format!("{}: no such text", path.display()))?;
    }
    let state = StateDir::create_or_open(&settings.state)?;
    let page = settings.http.map(http::Listener::bind).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let interrupt = Interrupt::install()?;
    let (driver, sure) = runtime.block_on(prepare(&settings, state, page, &display))?;
    let outcome = runtime.block_on(driver.run(sure, interrupt));
    // The trainer may be in the middle of a forward pass: nothing of it is needed any more.
    runtime.shutdown_background();
    outcome
}

/// Everything up to the first gradient.
async fn prepare(
    settings: &Settings,
    state: StateDir,
    page: Option<http::Listener>,
    display: &Display,
) -> Result<(Driver, bool)> {
    let fresh = state.manifest()?.is_none();
    let opened = match (fresh, settings.bootstrap.is_empty()) {
        (false, _) => restart(settings, state).await?,
        (true, false) => join::join(settings, state).await?,
        (true, true) => start(settings, state)?,
    };
    let mut replica = opened.replica(settings.replica())?;
    say_what_is_settled(settings, &opened.manifest);
    let is_empty = |replica: &Replica, own: MachineId| replica.ledger(&own).is_none_or(|ledger| ledger.height() == 0);
    if is_empty(&replica, opened.own_machine()?) && !opened.state.is_new_incarnation() {
        // An empty ledger of an earlier session is worth nothing; a new one need not be asked about.
        opened.state.new_incarnation()?;
        replica = opened.replica(settings.replica())?;
    }
    let weights = opened.weights(&mut replica)?;
    let (model, tokenizer) = opened.model(&weights)?;
    let seed = data_seed(settings, &opened)?;
    let (data, held_out) = texts(settings, &opened, &tokenizer, seed)?;
    let can_train = data.is_some();
    let kept = opened.state.setting("spsa")?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let normalizer = kept.unwrap_or_else(|| Normalizer::new(opened.manifest.levels));
    let mut random = [0u8; 8];
    getrandom::fill(&mut random)?;
    let has_held_out = held_out.is_some();
    let trainer = Trainer::new(trainer::Parts {
        run: opened.run,
        manifest: opened.manifest.clone(),
        weights,
        model,
        objective: Box::new(NextToken),
        data,
        held_out,
        settings: ProbeSettings {
            epsilon: opened.manifest.hyperparameters.epsilon,
            estimator: settings.estimator,
            batch_size: settings.batch_size,
            data_seed: seed,
        },
        normalizer,
        random: Xoshiro256PlusPlus::seed_from_u64(u64::from_le_bytes(random)),
    });
    let known_peers = records::peers(opened.state.known_peers()?);
    let alone = settings.bootstrap.is_empty() && known_peers.is_empty();
    let own = opened.own_machine()?;
    let others = replica.machines().any(|(machine, ..)| machine.key != own.key);
    let sure = alone && !others || is_empty(&replica, own);
    let network = listen(settings, &opened, known_peers).await?;
    let status = Status::new(display.clone(), opened.run.to_string(), network.peer_id().to_string(), has_held_out);
    let observer = Observer::new(
        opened.state.path(),
        Snapshot {
            run: opened.run.to_string(),
            peer_id: network.peer_id().to_string(),
            model: opened.manifest.base.source.clone(),
            parameters: opened.manifest.parameters(),
            ..Snapshot::default()
        },
    )?;
    if let Some(page) = page {
        show(page, &observer, opened.state.path())?;
    }
    let storage = storage::spawn(&opened.state)?;
    let driver = Driver::new(Parts {
        replica,
        base: opened.state.base(&opened.manifest)?,
        manifest_bytes: opened.manifest_bytes,
        state: opened.state,
        network,
        storage,
        trainer: trainer_thread::spawn(trainer)?,
        goals: Goals::new(settings.samples, settings.exit_when_idle, !alone, can_train),
        status,
        observer,
    });
    Ok((driver, sure))
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
fn say_what_is_settled(settings: &Settings, manifest: &Manifest) {
    let run = &manifest.hyperparameters;
    for (flag, said, settled) in
        [("--learning-rate", settings.learning_rate, run.learning_rate), ("--epsilon", settings.epsilon, run.epsilon)]
    {
        if said.is_some_and(|said| said != settled) {
            tracing::warn!("{flag} is of new runs only: this run's is {settled}");
        }
    }
}

/// A new run.
fn start(settings: &Settings, state: StateDir) -> Result<Opened> {
    if let Some(run) = settings.run {
        bail!("--run {run}: a new run gets its own id; to join that one, name one of its machines with --bootstrap");
    }
    let checkpoint = load_model(&settings.model)?;
    ensure!(
        settings.data.is_some() || matches!(settings.model, ModelChoice::Unsaid | ModelChoice::Embedded),
        "a run on one's own model needs a text to train on: --data <file or directory>"
    );
    let hyperparameters = Hyperparameters {
        learning_rate: settings.learning_rate.unwrap_or(LEARNING_RATE),
        epsilon: settings.epsilon.unwrap_or(EPSILON),
        planned_gradients: PLANNED_GRADIENTS,
        direction_scale: DirectionScale::Rms,
    };
    let authority = settings.authority.then(|| Ed25519Signer::from_seed(&state.secret_key()).key());
    let base = BaseSettings {
        hyperparameters,
        schedule: Schedule::default(),
        ledger_samples_max: LEDGER_SAMPLES_MAX,
        authority,
    };
    let manifest = storage::start_run(&state, checkpoint, base)?;
    let opened = Opened::of(state)?;
    tracing::info!("new run {} on {} ({} parameters)", opened.run, manifest.base.source, manifest.parameters());
    Ok(opened)
}

/// Goes on with the run in the state directory, whose base may not be complete yet.
async fn restart(settings: &Settings, state: StateDir) -> Result<Opened> {
    if state.moved() {
        tracing::warn!(
            "{}: this state directory was copied or restored: going on as a new incarnation",
            state.path().display()
        );
    }
    let opened = Opened::of(state)?;
    if let Some(run) = settings.run.filter(|run| *run != opened.run) {
        bail!(
            "{}: this state belongs to run {}, not to --run {run}; give another --state",
            opened.state.path().display(),
            opened.run
        );
    }
    if opened.state.has_base() {
        if let ModelChoice::Directory(_) | ModelChoice::Embedded = settings.model {
            check_model(&opened.manifest, &load_model(&settings.model)?)?;
        }
        tracing::info!("going on with run {} in {}", opened.run, opened.state.path().display());
        return Ok(opened);
    }
    let nobody_to_ask = settings.bootstrap.is_empty() && !settings.mdns;
    if nobody_to_ask && settings.model == ModelChoice::Unsaid && opened.manifest.base.source != embedded::SOURCE {
        bail!(
            "{}: the run's base model {} is not here: give it with --model <directory>, or name a machine of the run with \
             --bootstrap",
            opened.state.path().display(),
            opened.manifest.base.source
        );
    }
    join::fetch_base(settings, &opened).await?;
    Ok(opened)
}

/// Reads the model that the user named.
pub fn load_model(choice: &ModelChoice) -> Result<Checkpoint> {
    match choice {
        ModelChoice::Unsaid | ModelChoice::Embedded => embedded::checkpoint(),
        ModelChoice::Directory(directory) => Checkpoint::load(directory),
    }
}

/// Fails with what differs if `checkpoint` is not the run's base.
pub fn check_model(manifest: &Manifest, checkpoint: &Checkpoint) -> Result<()> {
    check_same_base(manifest, checkpoint).with_context(|| {
        format!(
            "--model {}: not the base of this run. Give the run's own base, or leave --model away to fetch it from peers",
            checkpoint.source
        )
    })
}

/// The seed of the own data order: told, or kept.
fn data_seed(settings: &Settings, opened: &Opened) -> Result<u64> {
    let kept = opened.state.setting("data seed")?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    if let Some(seed) = settings.seed.or(kept) {
        return Ok(seed);
    }
    let mut seed = [0u8; 8];
    getrandom::fill(&mut seed)?;
    opened.state.commit(&[Record::Setting { name: "data seed".into(), bytes: seed.to_vec() }])?;
    Ok(u64::from_le_bytes(seed))
}

/// Own and held-out text.
fn texts(
    settings: &Settings,
    opened: &Opened,
    tokenizer: &Tokenizer,
    seed: u64,
) -> Result<(Option<Dataset>, Option<Dataset>)> {
    let length = settings.sequence_length;
    let eval = settings.eval.as_ref().map(|path| Dataset::load(path, tokenizer, length)).transpose()?;
    let embedded_task = opened.manifest.base.source == embedded::SOURCE;
    Ok(match &settings.data {
        Some(path) if eval.is_some() => (Some(Dataset::load(path, tokenizer, length)?), eval),
        Some(path) => {
            let (data, held_out) = Dataset::load_split(path, tokenizer, length)?;
            (Some(data), Some(held_out))
        }
        None if embedded_task => {
            let held_out = match eval {
                Some(eval) => eval,
                None => embedded::held_out(tokenizer, length)?,
            };
            (Some(embedded::training(seed, tokenizer, length)?), Some(held_out))
        }
        None => {
            tracing::warn!("no --data: this node replays and serves the run, but does not train");
            (None, eval)
        }
    })
}

/// Listens where the user said, or on the usual port, or on any.
async fn listen(
    settings: &Settings,
    opened: &Opened,
    known_peers: Vec<(network::PeerId, libp2p::Multiaddr)>,
) -> Result<Network> {
    let config = |listen| NetworkConfig {
        bootstrap: settings.bootstrap.clone(),
        known_peers: known_peers.clone(),
        mdns: settings.mdns,
        ..NetworkConfig::new(opened.state.secret_key(), Some(opened.run.0), listen)
    };
    if !settings.listen.is_empty() {
        return Network::start(config(settings.listen.clone())).await.map_err(Into::into);
    }
    let usual = format!("/ip4/0.0.0.0/tcp/{DEFAULT_PORT}").parse()?;
    match Network::start(config(vec![usual])).await {
        Err(error) if error.is_occupied() => {
            tracing::info!("port {DEFAULT_PORT} is taken: listening on a free one");
            Ok(Network::start(config(vec!["/ip4/0.0.0.0/tcp/0".parse()?])).await?)
        }
        other => Ok(other?),
    }
}
