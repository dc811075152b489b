//! A quadratic of any dimension: real SPSA, real bytes, real replay arithmetic, and a loss that costs next to nothing.
//!
//! `L(θ) = ½ Σ h_j (θ_j − θ*_j)²` with curvatures h_j from 1 down to 1/100. Each machine's data has its own optimum,
//! θ* + heterogeneity · ξ, and each batch adds a slope of its own, noise · ξ·θ, the same at both probes (ξ normal).
//!
//! Beside them a frozen matrix has an adapter of low rank, which adds `½ Σ (scaling · (B·A)_ij − D_ij)²`, the same for
//! everyone: it begins at the same place on every machine, without anything being fetched.

use anyhow::{Context, Result};
use engine::estimator::{Normalizer, projected_gradient};
use protocol::{
    machine::MachineId,
    manifest::{
        Appendix, BaseModel, BaseTensor, EPSILON_ONE, Group, Groups, Hyperparameters, Manifest, Membership,
        ObjectiveLine, Origin, PROTOCOL_VERSION, REPLAY_BUDGET_MAX, ROUND_SAMPLES, Role, RunId, Schedule, TensorSpec,
        Treatment, WEIGHT_BITS, choose_arithmetic, combine_digests,
    },
    perturbation::{BLOCK, BlockSigns, STEP, sign},
    replay::{self, Contribution, Sweep, add_quanta, sweep_reference},
    replica::{LedgerRange, OwnByte, Replica},
    seed::EntrySeed,
};
use rand_xoshiro::{Xoshiro256PlusPlus, rand_core::SeedableRng};
use std::{cell::RefCell, rc::Rc, sync::Arc};

use super::{
    Base, LEDGER_SAMPLES_MAX, Learner, Objective, Resumed, hyperparameters, low_rank::LowRank, nonce,
    prefixes::Prefixes,
};
use crate::{
    random::{normal, uniform},
    scenario::{QuadraticSettings, Sender},
};

/// Two tensors whose weights differ in size, so that each has its own quantum, ε and unit.
const TENSORS: [(&str, f64); 2] = [("body", 1.0), ("head", 0.125)];
/// Both tensors and the adapter are each a group.
const GROUPS: [Group; 3] = [
    Group { weight: 3, epsilon: EPSILON_ONE },
    Group { weight: 1, epsilon: EPSILON_ONE },
    Group { weight: 1, epsilon: EPSILON_ONE },
];

/// Few, so that an adversary who pushes a weight reaches the end of its range.
const PLANNED_GRADIENTS: u64 = 1_000;

struct Problem {
    manifest: Arc<Manifest>,
    run: RunId,
    settings: QuadraticSettings,
    /// First values, by tensor of the table.
    base: Vec<Vec<f32>>,
    /// By tensor of [`TENSORS`].
    optimum: Vec<Vec<f64>>,
    curvature: Vec<Vec<f64>>,
    low_rank: LowRank,
    seed: u64,
}

/// See the module's documentation.
pub struct Quadratic {
    problem: Rc<Problem>,
    fetched: Base,
    prefixes: Rc<RefCell<Prefixes>>,
}

impl Quadratic {
    /// Everything follows from `settings` and `seed`. `authority` is the key that may revoke, admit and withdraw.
    pub fn new(
        settings: &QuadraticSettings,
        replay_budget: u32,
        authority: Option<[u8; 32]>,
        membership: Membership,
        seed: u64,
    ) -> Result<Self> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed ^ 0x0b1e_c71f);
        let dimensions = settings.dimensions;
        let lengths = [dimensions - dimensions / 4, dimensions / 4];
        let mut base: Vec<Vec<f32>> = Vec::new();
        for ((_, size), length) in TENSORS.iter().zip(lengths) {
            base.push((0..length).map(|_| (size * normal(&mut random)) as f32).collect());
        }
        let squares: f64 = base.iter().flatten().map(|w| f64::from(*w).powi(2)).sum();
        let rms_all = (squares / dimensions as f64).sqrt();
        let hyperparameters = hyperparameters(settings.learning_rate, settings.epsilon, PLANNED_GRADIENTS);
        let groups = Groups { members: GROUPS.to_vec(), round_samples: ROUND_SAMPLES };
        let mut tensors = Vec::new();
        for (group, ((name, _), values)) in (0..).zip(TENSORS.iter().zip(&mut base)) {
            let max_abs = values.iter().fold(0.0f64, |max, w| max.max(f64::from(w.abs())));
            let squares: f64 = values.iter().map(|w| f64::from(*w).powi(2)).sum();
            let scale = hyperparameters.direction_scale.of((squares / values.len() as f64).sqrt(), rms_all);
            let chosen = choose_arithmetic(max_abs, scale, &groups, group, &hyperparameters)?;
            values.iter_mut().for_each(|w| *w = replay::snap(*w, chosen.quantum()));
            let origin = Origin::Base { digest: digest_of(values) };
            tensors.push(chosen.row(name, vec![values.len() as u64], group, origin));
        }
        let optimum = base
            .iter()
            .zip(TENSORS)
            .map(|(values, (_, size))| {
                values.iter().map(|w| f64::from(*w) + 0.25 * size * normal(&mut random)).collect()
            })
            .collect();
        let mut number = 0usize;
        let mut curvature = |_: &f32| {
            number += 1;
            0.01f64.powf(number as f64 / dimensions as f64)
        };
        let curvature = base.iter().map(|values| values.iter().map(&mut curvature).collect()).collect();
        let (described, string) = described_base(&tensors, &base)?;
        let fetched = Base::new(string);
        // The names' order puts the adapter between the two tensors of the base.
        tensors.splice(1..1, LowRank::specs(&groups, TENSORS.len() as u16, &hyperparameters)?);
        let low_rank = LowRank::new([1, 2], &mut random);
        let manifest = manifest(tensors, groups, described, hyperparameters);
        let manifest = Manifest { nonce: nonce(seed), membership, replay_budget, authority, ..manifest };
        let manifest = Arc::new(manifest);
        manifest.validate()?;
        let run = manifest.run_id()?;
        let first = manifest.tensors[low_rank.halves[0]..=low_rank.halves[1]].iter();
        base.splice(1..1, first.filter_map(|spec| manifest.initial_values(spec)).collect::<Vec<_>>());
        let elements = base.iter().map(Vec::len).sum();
        let problem = Problem { manifest, run, settings: settings.clone(), base, optimum, curvature, low_rank, seed };
        Ok(Self { problem: Rc::new(problem), fetched, prefixes: Rc::new(RefCell::new(Prefixes::new(elements))) })
    }
}

/// What joiners fetch, and its description: the weights alone, since nobody reads a quadratic's config or tokenizer.
fn described_base(tensors: &[TensorSpec], base: &[Vec<f32>]) -> Result<(BaseModel, Vec<u8>)> {
    let weights: Vec<u8> = base.iter().flatten().flat_map(|weight| weight.to_le_bytes()).collect();
    let listed = |spec: &TensorSpec| {
        let (name, shape) = (spec.name.clone(), spec.shape.clone());
        Some(BaseTensor { name, shape, treatment: Treatment::Trained, digest: spec.base_digest()? })
    };
    let appendix = Appendix { tensors: tensors.iter().filter_map(listed).collect() };
    let files: [(Role, &str, &[u8]); 3] = [
        (Role::Config, "config.json", b"{}"),
        (Role::Tokenizer, "tokenizer.json", b"{}"),
        (Role::Weights, "model.safetensors", &weights),
    ];
    Ok(BaseModel::of_files("quadratic", &files, &appendix)?)
}

/// Of a run that everyone may train.
fn manifest(tensors: Vec<TensorSpec>, groups: Groups, base: BaseModel, hyperparameters: Hyperparameters) -> Manifest {
    Manifest {
        protocol_version: PROTOCOL_VERSION,
        nonce: [0; 16],
        base,
        tensors,
        groups,
        objective: ObjectiveLine::Other("a quadratic".into()),
        hyperparameters,
        schedule: Schedule::default(),
        levels: protocol::codec::LEVELS,
        ledger_samples_max: LEDGER_SAMPLES_MAX,
        replay_budget: REPLAY_BUDGET_MAX,
        membership: Membership::Open,
        authority: None,
        held_out: None,
        private: None,
    }
}

fn digest_of(values: &[f32]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    values.iter().for_each(|w| {
        hasher.update(&w.to_le_bytes());
    });
    *hasher.finalize().as_bytes()
}

impl Problem {
    /// Adds entries up, starting at zero, by the reference replay: quanta of all tensors, one after another.
    fn spell_out(&self, entries: &[Contribution]) -> Vec<i32> {
        let sweep = Sweep { probes: Vec::new(), contributions: entries.to_vec() };
        let mut quanta = Vec::new();
        for (index, spec) in self.manifest.tensors.iter().enumerate() {
            let mut sum = vec![0.0f32; self.base[index].len()];
            sweep_reference(&mut sum, spec.quantum(), &sweep.for_tensor(index as u32, spec), 0);
            quanta.extend(sum.iter().map(|w| (w / spec.quantum()) as i32));
        }
        quanta
    }

    /// The values of the tensors of [`TENSORS`], of those of the table.
    fn of_base<'a>(&self, weights: &'a [Vec<f32>]) -> impl Iterator<Item = &'a Vec<f32>> {
        let halves = self.low_rank.halves;
        weights.iter().enumerate().filter(move |(index, _)| !halves.contains(index)).map(|(_, values)| values)
    }

    fn loss(&self, weights: &[Vec<f32>], offset: Option<&[Vec<f64>]>) -> f64 {
        let mut loss = self.low_rank.loss(weights);
        for (index, values) in self.of_base(weights).enumerate() {
            for (element, weight) in values.iter().enumerate() {
                let own = offset.map_or(0.0, |offset| offset[index][element]);
                let off = f64::from(*weight) - self.optimum[index][element] - own;
                loss += 0.5 * self.curvature[index][element] * off * off;
            }
        }
        loss
    }
}

impl Objective for Quadratic {
    fn manifest(&self) -> &Arc<Manifest> {
        &self.problem.manifest
    }

    fn run(&self) -> RunId {
        self.problem.run
    }

    fn base(&self) -> Option<&Base> {
        Some(&self.fetched)
    }

    fn batch_samples(&self, sender: &Sender) -> Result<u64> {
        Ok(sender.projections.map_or(1, |samples| samples.get().into()))
    }

    fn learner(&self, number: u32, sender: &Sender, resumed: Option<Resumed<'_>>) -> Result<Box<dyn Learner>> {
        let problem = &self.problem;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(problem.seed ^ u64::from(number) << 32 ^ 0xda7a);
        let heterogeneity = problem.settings.heterogeneity;
        let mut own_optimum = |values: &Vec<f32>, size: f64| -> Vec<f64> {
            values.iter().map(|_| heterogeneity * size * normal(&mut random)).collect()
        };
        let offset: Vec<Vec<f64>> =
            problem.of_base(&problem.base).zip(TENSORS).map(|(values, (_, size))| own_optimum(values, size)).collect();
        let offset = (heterogeneity > 0.0).then_some(offset);
        let mut weights = problem.base.clone();
        let mut normalizer = Normalizer::new(problem.manifest.levels);
        if let Some(resumed) = resumed {
            normalizer = resumed.normalizer;
            let mut bytes = resumed.weights.as_chunks::<4>().0.iter();
            for weight in weights.iter_mut().flatten() {
                *weight = f32::from_le_bytes(*bytes.next().context("a checkpoint of another size")?);
            }
        }
        Ok(Box::new(QuadraticLearner {
            problem: problem.clone(),
            prefixes: self.prefixes.clone(),
            weights,
            offset,
            normalizer,
            random,
            batch: self.batch_samples(sender)?,
            machine: MachineId { key: [0; 32], incarnation: 0 },
            next_sample: 0,
            swarm_step: 0,
        }))
    }

    fn digest_from_base(&self, replica: &Replica) -> Result<[u8; 32]> {
        let problem = &self.problem;
        let mut weights = problem.base.clone();
        for range in replica.effective_ranges() {
            let sweep = Sweep { probes: Vec::new(), contributions: replica.contributions(&range) };
            for (index, spec) in problem.manifest.tensors.iter().enumerate() {
                sweep_reference(&mut weights[index], spec.quantum(), &sweep.for_tensor(index as u32, spec), 0);
            }
        }
        Ok(combine_digests(weights.iter().map(|values| digest_of(values))))
    }

    fn loss_unit(&self) -> &'static str {
        "quadratic"
    }
}

struct QuadraticLearner {
    problem: Rc<Problem>,
    prefixes: Rc<RefCell<Prefixes>>,
    weights: Vec<Vec<f32>>,
    offset: Option<Vec<Vec<f64>>>,
    normalizer: Normalizer,
    random: Xoshiro256PlusPlus,
    /// Own gradients that are told together.
    batch: u64,
    machine: MachineId,
    next_sample: u64,
    swarm_step: u64,
}

impl QuadraticLearner {
    fn sweep(&mut self, sweep: &Sweep) {
        for (index, spec) in self.problem.manifest.tensors.iter().enumerate() {
            let resolved = sweep.for_tensor(index as u32, spec);
            sweep_reference(&mut self.weights[index], spec.quantum(), &resolved, 0);
        }
    }

    /// The slope that this batch adds, along the direction of `seed`, in units of loss per ε.
    fn batch_slope(&mut self, seed: &EntrySeed) -> f64 {
        let noise = self.problem.settings.noise;
        if noise == 0.0 {
            return 0.0;
        }
        let epsilon = self.problem.settings.epsilon;
        let mut slope = 0.0;
        let moved = |(_, spec): &(usize, &TensorSpec)| spec.group == seed.group;
        for (index, spec) in self.problem.manifest.tensors.iter().enumerate().filter(moved) {
            let key = seed.tensor_key(index as u32);
            let scale = f64::from(spec.epsilon) * f64::from(spec.quantum()) / epsilon;
            for (block, elements) in (0..).zip(self.weights[index].chunks(BLOCK)) {
                let mut signs = BlockSigns::new(&key, block);
                for step in elements.chunks(STEP) {
                    let bits = signs.next_step();
                    slope += (0..step.len())
                        .map(|element| scale * f64::from(sign(&bits, element)) * normal(&mut self.random))
                        .sum::<f64>();
                }
            }
        }
        noise * slope
    }

    /// The next own gradient, which the weights contain afterwards.
    fn measure(&mut self) -> Result<OwnByte> {
        let problem = self.problem.clone();
        let seed = EntrySeed::derive(&problem.run, &self.machine, self.next_sample, &problem.manifest.groups);
        let probe = |multiple| Sweep { probes: vec![(seed, multiple)], contributions: Vec::new() };
        let slope = problem.settings.epsilon * self.batch_slope(&seed);
        self.sweep(&probe(1));
        let plus = problem.loss(&self.weights, self.offset.as_deref()) + slope;
        self.sweep(&probe(-2));
        let minus = problem.loss(&self.weights, self.offset.as_deref()) - slope;
        let g = projected_gradient(plus, minus, problem.settings.epsilon);
        let byte = self.normalizer.encode(g, uniform(&mut self.random));
        let own = replay::contribution(seed, byte, self.swarm_step, &problem.manifest.schedule);
        self.sweep(&Sweep { probes: vec![(seed, 1)], contributions: vec![own] });
        let own = OwnByte { machine: self.machine, sample: self.next_sample, byte, swarm_step: self.swarm_step };
        self.next_sample += 1;
        Ok(own)
    }
}

impl Learner for QuadraticLearner {
    fn adopt(&mut self, machine: MachineId, next_sample: u64) {
        (self.machine, self.next_sample) = (machine, next_sample);
    }

    fn position(&self) -> (MachineId, u64) {
        (self.machine, self.next_sample)
    }

    fn set_swarm_step(&mut self, swarm_step: u64) {
        self.swarm_step = swarm_step;
    }

    fn replay(&mut self, contributions: Vec<Contribution>) -> Result<()> {
        self.sweep(&Sweep { probes: Vec::new(), contributions });
        Ok(())
    }

    fn replay_ledger(&mut self, replica: &Replica, range: LedgerRange) -> Result<()> {
        let problem = &self.problem;
        let spell_out = |entries: &[Contribution]| problem.spell_out(entries);
        let (to, from) = self.prefixes.borrow_mut().ends(replica, &range, &spell_out);
        let (mut to, mut from) = (&to[..], &from[..]);
        if range.removed {
            std::mem::swap(&mut to, &mut from);
        }
        let mut quanta = to.iter().zip(from).map(|(to, from)| to.wrapping_sub(*from));
        for (spec, values) in problem.manifest.tensors.iter().zip(&mut self.weights) {
            let scale = spec.quantum();
            values.iter_mut().zip(&mut quanta).for_each(|(weight, n)| *weight = add_quanta(*weight, n, scale));
        }
        Ok(())
    }

    fn step(&mut self, until_sample: u64) -> Result<Vec<OwnByte>> {
        let samples = self.batch.min(until_sample.saturating_sub(self.next_sample)).max(1);
        (0..samples).map(|_| self.measure()).collect()
    }

    fn loss(&mut self) -> Result<f64> {
        Ok(self.problem.loss(&self.weights, None))
    }

    fn digest(&mut self) -> Result<[u8; 32]> {
        Ok(combine_digests(self.weights.iter().map(|values| digest_of(values))))
    }

    fn snapshot(&mut self) -> Result<Vec<u8>> {
        Ok(self.weights.iter().flatten().flat_map(|weight| weight.to_le_bytes()).collect())
    }

    fn normalizer(&self) -> Normalizer {
        self.normalizer
    }

    fn near_edge(&self) -> bool {
        let edge = 0.95 * f64::from(1 << WEIGHT_BITS);
        let near = |(spec, values): (&TensorSpec, &Vec<f32>)| {
            values.iter().any(|w| f64::from(w.abs()) > edge * f64::from(spec.quantum()))
        };
        self.problem.manifest.tensors.iter().zip(&self.weights).any(near)
    }
}
