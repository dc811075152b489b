//! How well one machine learns: held-out loss against forwards, backward passes, bytes and seconds.
//!
//! `RAYON_NUM_THREADS=1 cargo bench --bench learn -- --help`. The engine's own trainer runs in this process;
//! there is no network and no disk. Work is counted in forwards of 8 x 128 tokens; a probe that moves a late layer goes
//! through fewer of the weights, and counts as that part of a forward. Losses of one seed differ from those of another
//! by about 0.02 bits per byte: give several (`--seeds 1,2,3`), of which the last line shows the median.

use anyhow::{Context, Result, ensure};
use clap::Parser;
use engine::{
    base::{AdapterSettings, Base, BaseSettings, Trained},
    data::Dataset,
    embedded,
    estimator::{Estimator, EstimatorName, Normalizer},
    model::{self, Architecture, Checkpoint, Stage, SuffixModel, Tokenizer},
    objective,
    recipe::{schedule, survey},
    trainer::{Parts, ProbeSettings, Step, Trainer, first_stages},
    weights::Weights,
};
use protocol::{
    machine::MachineId,
    manifest::{DirectionScale, Hyperparameters, Manifest, ObjectiveLine, Schedule},
    replay::{self, Contribution},
    replica::OwnByte,
    seed::EntrySeed,
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::{
    num::NonZeroU32,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// Tokens of the forward in which work is counted: 8 windows of 128.
const FORWARD_TOKENS: f64 = 1024.0;

#[derive(Parser, Debug)]
struct Options {
    /// Hugging Face directory [default: the embedded model and its task]
    #[arg(long)]
    model: Option<PathBuf>,
    /// Text for --model; its last tenth is held out
    #[arg(long, requires = "model")]
    data: Option<PathBuf>,
    /// Of the run
    #[arg(long, default_value_t = 1e-3)]
    learning_rate: f64,
    /// Of the run
    #[arg(long, default_value_t = 0.017)]
    epsilon: f64,
    /// `constant`, `linear:LAST` over what is measured in all, or `root:GRADIENTS`
    #[arg(long, default_value = "constant")]
    schedule: String,
    #[arg(long)]
    estimator: Option<EstimatorName>,
    #[arg(long)]
    probes: Option<NonZeroU32>,
    #[arg(long)]
    projections: Option<NonZeroU32>,
    /// Tensors that are trained, as `node --train` has it; adapters of these with --lora
    #[arg(long, default_value = "all")]
    train: String,
    /// Rank of adapters, which are trained instead, as `node --lora` has it
    #[arg(long)]
    lora: Option<u32>,
    /// Machines that measure at the same weights, each on batches of its own, then exchange their bytes
    #[arg(long, default_value_t = 1)]
    machines: u64,
    /// Windows per batch
    #[arg(long, default_value_t = 8)]
    batch_size: usize,
    /// Tokens per window
    #[arg(long, default_value_t = 128)]
    sequence_length: usize,
    /// How much each machine measures, in forwards of 8 x 128 tokens or as much work; a backward pass counts as four
    #[arg(long, default_value_t = 4000.0)]
    forwards: f64,
    /// Evaluations on the way, evenly spread
    #[arg(long, default_value_t = 4)]
    points: u32,
    /// Windows that are evaluated at most
    #[arg(long, default_value_t = usize::MAX)]
    held_out_windows: usize,
    #[arg(long, value_delimiter = ',', default_value = "1")]
    seeds: Vec<u64>,
    /// Survey the base instead of training
    #[arg(long)]
    survey: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
    /// A short run that shows that the program works
    #[arg(long, hide = true)]
    test: bool,
}

impl Options {
    /// As the form of the data has it.
    fn objective(&self, checkpoint: &Checkpoint) -> Result<ObjectiveLine> {
        let tokenizer = Tokenizer::of(checkpoint)?;
        let data =
            self.data.as_deref().map(|path| Dataset::load(path, &tokenizer, self.sequence_length)).transpose()?;
        objective::line(data.is_some_and(|data| data.has_choices()), false)
    }

    /// What of the base is trained, and which adapters beside it.
    fn chosen(&self, checkpoint: &Checkpoint) -> Result<(Trained, Option<AdapterSettings>)> {
        Trained::or_adapters(&self.train, self.lora, None, &*checkpoint.architecture()?)
    }

    fn hyperparameters(&self, planned_gradients: u64) -> Hyperparameters {
        let (learning_rate, epsilon) = (self.learning_rate, self.epsilon);
        Hyperparameters { learning_rate, epsilon, planned_gradients, direction_scale: DirectionScale::Rms }
    }
}

fn main() -> Result<()> {
    let mut options = Options::parse();
    if !options.bench || options.test {
        // Not under `cargo bench`: a short run that shows that the program works.
        (options.forwards, options.points, options.held_out_windows) = (options.forwards.min(20.0), 1, 8);
    }
    let options = options;
    let checkpoint = match &options.model {
        None => embedded::checkpoint()?,
        Some(directory) => Checkpoint::load(directory)?,
    };
    println!("{options:?}");
    let measure = match options.objective(&checkpoint)? {
        ObjectiveLine::Choices { .. } => "accuracy",
        _ => "bits/byte",
    };
    println!("seed forwards backward  bytes seconds   loss {measure:>9}");
    if options.survey {
        return survey(checkpoint, &options);
    }
    let run = Run::new(checkpoint, &options)?;
    let ends: Result<Vec<f64>> = options.seeds.iter().map(|seed| run.learn(*seed, &options)).collect();
    let mut ends = ends?;
    ends.sort_by(f64::total_cmp);
    println!("median of {} after {} forwards: {measure} {:.4}", ends.len(), options.forwards, ends[ends.len() / 2]);
    Ok(())
}

/// What all seeds have in common.
struct Run {
    checkpoint: Checkpoint,
    estimator: Estimator,
    /// In all.
    gradients: u64,
    /// By group: the part of a forward behind its first tensor.
    suffixes: Vec<f64>,
}

impl Run {
    fn new(checkpoint: Checkpoint, options: &Options) -> Result<Self> {
        let estimator = Estimator::new(options.estimator, options.probes, options.projections)?.unwrap_or_default();
        let (_, manifest) = started(&checkpoint, options, 1, 0)?;
        let suffixes = suffixes(&*checkpoint.architecture()?, &manifest);
        let shares = suffixes.iter().zip(0..).map(|(suffix, group)| suffix * manifest.groups.share(group));
        let forwards = options.forwards * FORWARD_TOKENS / (options.batch_size * options.sequence_length) as f64;
        let gradients = (forwards / forwards_per_gradient(estimator, shares.sum())).round() as u64 * options.machines;
        Ok(Self { checkpoint, estimator, gradients, suffixes })
    }

    /// Trains, prints, and returns the last held-out figure: bits per byte, or accuracy.
    fn learn(&self, seed: u64, options: &Options) -> Result<f64> {
        let (weights, manifest) = started(&self.checkpoint, options, self.gradients, seed)?;
        let manifest = Arc::new(manifest);
        let trainer = |machine: u64| self.trainer(weights.copy()?, &manifest, seed, machine, options);
        let mut trainers: Vec<Trainer> = (0..options.machines).map(trainer).collect::<Result<_>>()?;
        drop(weights);
        let backwards = u64::from(matches!(self.estimator, Estimator::Projection { .. }));
        let tokens = (options.batch_size * options.sequence_length) as f64 / FORWARD_TOKENS;
        let (mut forwards, mut backward, mut bytes, mut seconds, mut last) = (0.0, 0u64, 0u64, 0.0, f64::NAN);
        for point in 0..=options.points {
            let until = options.forwards * f64::from(point) / f64::from(options.points);
            let begin = Instant::now();
            while forwards < until {
                let (own, work) = self.exchange(&mut trainers, &manifest, bytes)?;
                bytes += own as u64 * options.machines;
                forwards += tokens * work;
                backward += backwards;
            }
            seconds += begin.elapsed().as_secs_f64();
            let held_out = trainers[0].evaluate(options.held_out_windows)?.context("there is held-out text")?;
            last = held_out.bits_per_byte.or(held_out.accuracy()).unwrap_or(held_out.loss);
            println!(
                "{seed:>4} {forwards:>8.0} {backward:>8} {bytes:>6} {seconds:>7.1} {loss:>6.4} {last:>9.4}",
                loss = held_out.loss,
            );
        }
        Ok(last)
    }

    /// One step of each machine, whose bytes all then have; returns how many each made, and from how many forwards of
    /// its batch.
    fn exchange(&self, trainers: &mut [Trainer], manifest: &Manifest, swarm_step: u64) -> Result<(usize, f64)> {
        let run = *trainers[0].run();
        let steps: Result<Vec<Step>> = trainers
            .iter_mut()
            .map(|trainer| {
                trainer.set_swarm_step(swarm_step);
                trainer.step(u64::MAX)
            })
            .collect();
        let steps = steps?;
        let mut work = 0.0;
        for (own, step) in steps.iter().enumerate() {
            let entry = |byte: &OwnByte| {
                let seed = EntrySeed::derive(&run, &byte.machine, byte.sample, &manifest.groups);
                replay::contribution(seed, byte.byte, byte.swarm_step, &manifest.schedule)
            };
            let entries: Vec<Contribution> = step.own.iter().map(entry).collect();
            let suffixes = entries.iter().map(|entry| self.suffixes[usize::from(entry.seed.group)]);
            work += forwards_of_step(self.estimator, suffixes.sum()) / steps.len() as f64;
            let others = trainers.iter_mut().enumerate().filter(|(other, _)| *other != own);
            others.for_each(|(_, trainer)| trainer.replay(entries.clone()));
        }
        Ok((steps[0].own.len(), work))
    }

    /// `weights`: of its own, as the run of `manifest` begins.
    fn trainer(
        &self,
        weights: Weights,
        manifest: &Arc<Manifest>,
        seed: u64,
        machine: u64,
        options: &Options,
    ) -> Result<Trainer> {
        let own_seed = seed + (machine << 32);
        let (tensors, packed) = (weights.tensors(), weights.packed());
        let (model, tokenizer) = model::load_adapted(&self.checkpoint, tensors, packed, &weights.adapters())?;
        let (data, held_out) = texts(&tokenizer, seed, options)?;
        let mut trainer = Trainer::new(Parts {
            run: manifest.run_id()?,
            weights,
            model: SuffixModel::new(model),
            objective: objective::of(&manifest.objective, &data)?,
            data: Some(data),
            held_out: Some(held_out),
            settings: ProbeSettings {
                epsilon: options.epsilon,
                estimator: self.estimator,
                batch_size: options.batch_size,
                data_seed: own_seed,
            },
            normalizer: Normalizer::new(manifest.levels),
            random: Xoshiro256PlusPlus::seed_from_u64(own_seed),
            manifest: Arc::clone(manifest),
        });
        trainer.adopt(MachineId { key: [1 + machine as u8; 32], incarnation: seed }, 0);
        Ok(trainer)
    }
}

/// Prints what gradients at the base say, once for each seed.
fn survey(checkpoint: Checkpoint, options: &Options) -> Result<()> {
    let tokenizer = Tokenizer::of(&checkpoint)?;
    let (trained, adapters) = options.chosen(&checkpoint)?;
    for seed in &options.seeds {
        let begin = Instant::now();
        let ground = survey::Ground {
            checkpoint: checkpoint.clone(),
            data: &texts(&tokenizer, *seed, options)?.0,
            objective: options.objective(&checkpoint)?,
            hyperparameters: options.hyperparameters(1_000),
            trained: trained.clone(),
            adapters: adapters.clone(),
            batch_size: options.batch_size,
            seed: *seed,
            time_max: Duration::from_secs(600),
        };
        println!("{:?} after {:.1} s", survey::survey(ground, &mut |_| ())?, begin.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Own and held-out text.
fn texts(tokenizer: &Tokenizer, seed: u64, options: &Options) -> Result<(Dataset, Dataset)> {
    let length = options.sequence_length;
    match &options.data {
        Some(path) => Dataset::load_split(path, tokenizer, length),
        None => {
            ensure!(options.model.is_none(), "--model needs a text: --data <path>");
            Ok((embedded::training(seed, tokenizer, length)?, embedded::held_out(tokenizer, length)?))
        }
    }
}

fn parse_schedule(text: &str, gradients: u64) -> Result<Schedule> {
    Ok(match text.split_once(':') {
        None if text == "constant" => Schedule::default(),
        Some(("linear", last)) => schedule::linear(gradients, last.parse().context("--schedule linear:LAST")?),
        Some(("root", of)) => schedule::inverse_square_root(of.parse().context("--schedule root:GRADIENTS")?),
        _ => anyhow::bail!("--schedule {text}: expected constant, linear:LAST or root:GRADIENTS"),
    })
}

/// Forwards of one step, whose bytes' directions begin at so many forwards from the end, together.
fn forwards_of_step(estimator: Estimator, suffixes: f64) -> f64 {
    match estimator {
        Estimator::Fzoo { .. } | Estimator::Spsa | Estimator::Mezo => 1.0 + suffixes,
        Estimator::Projection { .. } => 4.0,
    }
}

/// The same for each byte, on average. `suffix`: of an average byte.
fn forwards_per_gradient(estimator: Estimator, suffix: f64) -> f64 {
    match estimator {
        Estimator::Fzoo { probes } => suffix + 1.0 / f64::from(probes.get()),
        Estimator::Spsa | Estimator::Mezo => suffix + 1.0,
        Estimator::Projection { projections } => 4.0 / f64::from(projections.get()),
    }
}

/// By group: which part of a forward lies behind its first tensor, as far as its matrices are the work.
fn suffixes(architecture: &dyn Architecture, manifest: &Manifest) -> Vec<f64> {
    let matrices = architecture.tensors().into_iter().filter(|(_, shape)| shape.len() == 2);
    let work: Vec<(Stage, f64)> =
        matrices.map(|(name, shape)| (architecture.stage(&name), (shape[0] * shape[1]) as f64)).collect();
    // An embedding is only looked up, unless it is the head, too: then it is work behind every tensor.
    let is_tied = !work.iter().any(|(stage, _)| *stage == Stage::Head);
    let behind = |first: Stage| -> f64 {
        let counts = |stage: Stage| if stage == Stage::Embedding { is_tied } else { stage >= first };
        work.iter().filter(|(stage, _)| counts(*stage)).map(|(_, work)| work).sum()
    };
    let stages = first_stages(manifest, |tensor| architecture.stage(tensor));
    stages.into_iter().map(|first| behind(first) / behind(Stage::Embedding)).collect()
}

/// A run on `checkpoint` that is planned for so many `gradients`, and the weights that it begins with.
fn started(checkpoint: &Checkpoint, options: &Options, gradients: u64, seed: u64) -> Result<(Weights, Manifest)> {
    let (trained, adapters) = options.chosen(checkpoint)?;
    let settings = BaseSettings {
        objective: options.objective(checkpoint)?,
        hyperparameters: options.hyperparameters(gradients.max(1)),
        schedule: parse_schedule(&options.schedule, gradients)?,
        ledger_samples_max: 1 << 32,
        replay_budget: 1_000_000,
        authority: None,
        trained,
        adapters,
    };
    let base = Base::of_new_run(checkpoint.clone(), &settings, u128::from(seed).to_le_bytes())?;
    let manifest = base.manifest(settings, base.write_to(std::io::sink())?.base)?;
    Ok((base.weights, manifest))
}
