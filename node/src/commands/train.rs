//! `node` itself: start a run or join one, train, leave.

mod base;
mod estimator;
mod objective;
mod others;
mod settled;
mod start;
mod table;

use anyhow::{Context, Result, ensure};
use engine::{
    data::{Dataset, cannot_read},
    embedded,
    estimator::{Estimator, Normalizer},
    model::SuffixModel,
    objective::Objective,
    threads,
    trainer::{self, ProbeSettings, Trainer},
    weights::Weights,
};
use peer::{GoalSettings, Peer, Run};
use protocol::signature::{Ed25519Signer, Ed25519Verifier, Signer as _};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::{path::Path, sync::Arc};

use self::{
    base::take_base,
    others::{asking, check_secret, given, known_peers, listen},
    settled::{gives_way, say_what_is_settled},
    start::{data_seed, restart, start},
};
use crate::{
    cli::{
        RunArgs,
        settings::{ObjectiveChoice, Settings},
    },
    control::{interrupt::Interrupt, pause::Pauses},
    network, say,
    serve::{Server, Source, Speaker},
    shell::{self, Disk, People, Recording, Shell, Wire},
    storage::{self, StateDir, opened::Opened},
    system::{
        display::{Display, progress_bar},
        hex::hex,
        name::program,
        power::Power,
        priority::{self, Priority},
        random::random,
    },
    trainer::{self as trainer_thread, sampler::Sampler, scorer::Program, texts::Texts},
    watch::{
        METRICS, Observer, Points, Snapshot, http,
        journal::{self, FullNames, Line, Measure},
    },
};

/// Runs the node until its goals are reached or Ctrl-C.
pub fn run(args: RunArgs, display: Display) -> Result<()> {
    let settings = Settings::resolve(args)?;
    be_kind(&settings);
    for path in settings.data.iter().chain(&settings.eval).filter(|path| *path != Path::new("-")) {
        std::fs::metadata(path).with_context(|| cannot_read(path))?;
    }
    let reads_standard_input = [&settings.data, &settings.eval].map(|path| path.as_deref() == Some(Path::new("-")));
    ensure!(reads_standard_input != [true; 2], "--data and --eval are both standard input; give one of them a file");
    // What can fail fails before anything is stored.
    settings.listen.iter().try_for_each(network::check_free)?;
    let state = Arc::new(StateDir::create_or_open(&settings.state)?);
    let outcome = run_in(&settings, &state, display);
    state.take_back();
    outcome
}

/// The same with its state directory, which is locked.
fn run_in(settings: &Settings, state: &Arc<StateDir>, display: Display) -> Result<()> {
    // The thread that hears signals never ends: what it held would stay open, and a database that is not closed is
    // repaired at the next start.
    let opened = Arc::downgrade(state);
    let interrupt = Interrupt::install(move || {
        if let Some(state) = opened.upgrade() {
            state.take_back();
        }
    })?;
    let page = settings.http.map(http::Server::bind).transpose()?;
    let token = settings.serve_token.clone();
    let server = settings.serve.map(|address| Server::bind("--serve", address, token)).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let program = scorer(settings);
    let outcome = runtime.block_on(async {
        let mut shell = new_shell(settings, state, display, interrupt)?;
        match prepare(settings, state.clone(), (page, server), program.as_ref(), &mut shell).await {
            Ok(true) => shell.run().await,
            Ok(false) => shell.close().await,
            Err(error) => {
                // A recording of nothing would be in the way of the next start.
                if !shell.has_recorded() {
                    settings.record.iter().for_each(|path| drop(std::fs::remove_file(path)));
                }
                Err(error)
            }
        }
    });
    // The trainer may be in the middle of a forward pass: nothing of it is needed any more.
    runtime.shutdown_background();
    if let Some(program) = program {
        program.end();
    }
    outcome
}

/// Takes no more of the machine than people want. To be called before anything that starts a thread.
fn be_kind(settings: &Settings) {
    // SAFETY: nothing has run yet that starts a thread.
    unsafe { threads::settle(settings.threads) };
    if let Some(wanted) = settings.threads.filter(|wanted| wanted.get() > threads::cores()) {
        tracing::warn!("--threads {wanted}: this process may use {} cores; more threads only wait", threads::cores());
    }
    if settings.priority == Priority::Background
        && let Err(error) = priority::step_back()
    {
        tracing::warn!(
            "this process runs at the priority of any other: the system does not let it step back ({error})"
        );
    }
    if settings.pause_on_battery && Power::default().is_on_battery().is_none() {
        tracing::warn!("--pause-on-battery: the system tells of no battery here, so this node never pauses for it");
    }
}

/// Who scores what the model writes, if anybody does.
fn scorer(settings: &Settings) -> Option<Arc<Program>> {
    match &settings.objective {
        Some(ObjectiveChoice::Command(command)) => Some(Program::new(command.clone(), settings.score_patience)),
        _ => None,
    }
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
        seed: u64::from_le_bytes(random()?),
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
        pauses: Pauses::new(state.path(), settings.pause_on_battery.then(Power::default)),
        recording,
    }))
}

/// Everything up to the first gradient. False if the node has left before.
async fn prepare(
    settings: &Settings,
    state: Arc<StateDir>,
    (page, server): (Option<http::Server>, Option<Server>),
    program: Option<&Arc<Program>>,
    shell: &mut Shell,
) -> Result<bool> {
    let Some((opened, texts)) = open(settings, state, program, shell).await? else { return Ok(false) };
    check_secret(settings, &opened)?;
    if !opened.state.has_base() && !take_base(settings, &opened, shell).await? {
        return Ok(false);
    }
    let texts = match texts {
        Some(texts) => texts,
        None => {
            let checkpoint = opened.state.base(&opened.manifest)?.checkpoint()?;
            let is_embedded = embedded::is_of(&opened.manifest.base);
            let seed = data_seed(settings, &opened.state)?;
            Texts::read(settings, &checkpoint, Some(&opened.manifest.objective), is_embedded, seed)?
        }
    };
    let bar = progress_bar(None, "reading the base model and the ledgers", "{spinner} {msg}, {elapsed}");
    let weights = shell.restore(&opened)?;
    bar.finish_and_clear();
    say_what_is_settled(settings, &opened)?;
    let sampler = sampler(page.as_ref(), &opened, &texts)?;
    let names = shell.replica().map(FullNames::of).unwrap_or_default();
    let earlier = journal::earlier(opened.state.path(), &names);
    texts.check(settings)?;
    if texts.data.is_none() {
        tracing::warn!("no --data: this node replays and serves the run, but does not train");
    }
    let objective = objective::of_run(settings, &opened, &texts, program)?;
    let points = texts.held_out.as_ref().map(|text| points(text, &*objective, &earlier)).transpose()?;
    let (trainer, goals) = new_trainer(settings, &opened, weights, texts, objective)?;
    shell.recall(points.unwrap_or_default())?;
    let observer = observer(&opened, page, &earlier)?;
    let storage = storage::spawn(&opened.state)?;
    let base = opened.state.base(&opened.manifest)?;
    let trainer = trainer_thread::spawn(trainer, sampler)?;
    if let Some(server) = server {
        let speaker = Speaker::new(base.checkpoint()?, Source::Trainer(trainer.copies.clone()))?;
        server.serve(speaker.into());
    }
    shell.equip(trainer, storage, Some(base), Some(observer));
    listen(settings, &opened, shell).await?;
    shell.start(goals)?;
    Ok(true)
}

/// The run to take part in: joined, started, or gone on with. With the texts, if they were read on the way. None if the
/// node has left before.
async fn open(
    settings: &Settings,
    state: Arc<StateDir>,
    program: Option<&Arc<Program>>,
    shell: &mut Shell,
) -> Result<Option<(Opened, Option<Texts>)>> {
    let is_new = state.manifest()?.is_none() || gives_way(settings, &state)?;
    if is_new {
        settings.check_joining()?;
    }
    if is_new && settings.joins() {
        say::looking_for_run(settings);
        if !shell.join(asking(settings, &state, settings.run)?).await? {
            return Ok(None);
        }
        let opened = Opened::of(state)?;
        say::joined(&opened.run, &opened.manifest);
        return Ok(Some((opened, None)));
    }
    let (opened, texts) = match is_new {
        true => start(settings, state, program).map(|(opened, texts)| (opened, Some(texts)))?,
        false => (restart(settings, state)?, None),
    };
    shell.set_run(Run::decode(&opened.manifest_bytes)?)?;
    Ok(Some((opened, texts)))
}

/// Who lets the model write for those who watch: where there is a page that this machine alone can see.
fn sampler(page: Option<&http::Server>, opened: &Opened, texts: &Texts) -> Result<Option<Sampler>> {
    let is_own = page.is_some_and(|page| page.address().ip().to_canonical().is_loopback());
    let Some(held_out) = texts.held_out.as_ref().filter(|_| is_own) else { return Ok(None) };
    let checkpoint = opened.state.base(&opened.manifest)?.checkpoint()?;
    Sampler::new(&checkpoint, held_out).map(Some)
}

/// What trains, and for how long.
fn new_trainer(
    settings: &Settings,
    opened: &Opened,
    weights: Weights,
    texts: Texts,
    objective: Box<dyn Objective>,
) -> Result<(Trainer, GoalSettings)> {
    let (model, _) = opened.model(&weights)?;
    let line = &opened.manifest.objective;
    let estimator = match texts.data {
        Some(_) if engine::objective::is_differentiable(line) => {
            estimator::choose(settings, opened.manifest.parameters())?
        }
        // What has no derivative is measured by forwards.
        _ => settings.estimator.unwrap_or_default(),
    };
    let goals = goals(settings, &texts, estimator);
    let rows = objective::rows(settings, line, estimator);
    let mut trainer = Trainer::new(trainer::Parts {
        run: opened.run,
        manifest: opened.manifest.clone(),
        weights,
        model: SuffixModel::new(model),
        objective,
        data: texts.data,
        held_out: texts.held_out,
        settings: ProbeSettings {
            epsilon: opened.manifest.hyperparameters.epsilon,
            estimator,
            batch_size: rows,
            data_seed: data_seed(settings, &opened.state)?,
        },
        normalizer: normalizer(opened)?,
        random: Xoshiro256PlusPlus::seed_from_u64(u64::from_le_bytes(random()?)),
    });
    trainer.set_look_rows(estimator::rows_of_look(settings, rows));
    Ok((trainer, goals))
}

/// What this node is to reach, and what it has for that.
fn goals(settings: &Settings, texts: &Texts, estimator: Estimator) -> GoalSettings {
    let can_train = texts.data.is_some();
    if settings.exit_when_idle.is_some() && can_train && settings.samples.is_none() && !settings.stop_when_flat {
        tracing::warn!(
            "--exit-when-idle has no effect: this node's own gradients have no end. --samples or --stop-when-flat gives \
             them one"
        );
    }
    GoalSettings {
        samples: settings.samples,
        exit_when_idle_ms: settings.exit_when_idle.map(|idle| idle.as_millis() as u64),
        can_train,
        batch_samples: estimator.samples(),
        waits_to_sign: matches!(estimator, Estimator::Projection { .. }),
        evaluates: texts.held_out.is_some(),
        stops_when_flat: settings.stop_when_flat,
        ..GoalSettings::default()
    }
}

/// The scale of own gradients: kept from before, or to be measured.
fn normalizer(opened: &Opened) -> Result<Normalizer> {
    let kept = opened.state.normalizer()?.and_then(|bytes| {
        serde_json::from_slice(&bytes)
            .inspect_err(|error| {
                tracing::warn!("the kept scale of own gradients is damaged ({error}); it is measured anew")
            })
            .ok()
    });
    Ok(kept.unwrap_or_else(|| Normalizer::new(opened.manifest.levels)))
}

/// Held-out points of earlier sessions that can be compared with those to come.
fn points(text: &Dataset, objective: &dyn Objective, earlier: &[Line]) -> Result<Points> {
    let windows = shell::EVALUATION_WINDOWS.min(text.windows()) as u64;
    let measure = Measure { text: hex(&text.digest()?), unit: objective.unit().to_owned(), windows };
    Ok(Points::of(earlier, measure))
}

/// Who looks at this node, and shows it at `page`.
fn observer(opened: &Opened, page: Option<http::Server>, earlier: &[Line]) -> Result<Observer> {
    let template = Snapshot {
        run: opened.run.to_string(),
        peer_id: network::peer_id(opened.state.network_key())?.to_string(),
        program: program().into(),
        model: opened.manifest.base.source.clone(),
        parameters: opened.manifest.parameters(),
        private: opened.manifest.private.is_some(),
        ..Snapshot::default()
    };
    let observer = Observer::new(opened.state.path(), earlier, template)?;
    if let Some(page) = page {
        show(page, &observer, opened.state.path());
    }
    Ok(observer)
}

/// Shows the run in browsers.
fn show(page: http::Server, observer: &Observer, state: &Path) {
    let address = page.address();
    page.show(observer.subscribe(), &state.join(METRICS));
    tracing::info!("watch at http://{address}/");
    if !address.ip().to_canonical().is_loopback() {
        tracing::warn!(
            "--http {address}: whoever reaches this address can read the run's state; 127.0.0.1 is for this machine only"
        );
    }
}
