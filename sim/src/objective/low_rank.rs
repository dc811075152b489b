//! A frozen square layer and its adapter of low rank: the part of the quadratic that no base holds.

use anyhow::Result;
use protocol::manifest::{ADAPTER_ONE, Adapter, Groups, Half, Hyperparameters, Origin, TensorSpec, choose_arithmetic};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::random::normal;

/// The layer's name, its width and height, and the rank of its adapter.
const FROZEN: (&str, usize, u32) = ("frozen", 6, 2);

/// See the module's documentation.
pub struct LowRank {
    /// Indices of A and B in the table.
    pub halves: [usize; 2],
    /// What B·A is multiplied by.
    scaling: f64,
    /// What scaling · B·A should be, row by row.
    target: Vec<f64>,
}

impl LowRank {
    /// With A and B at these places in the table, and a random target.
    pub fn new(halves: [usize; 2], random: &mut Xoshiro256PlusPlus) -> Self {
        let (_, width, _) = FROZEN;
        Self { halves, scaling: 1.0, target: (0..width * width).map(|_| 0.25 * normal(random)).collect() }
    }

    /// The halves' rows of the table, in the order of their names, both of `group`.
    pub fn specs(groups: &Groups, group: u16, settings: &Hyperparameters) -> Result<[TensorSpec; 2]> {
        let (layer, width, rank) = FROZEN;
        // As usual for LoRA: A at 1/√width, B at zero, and directions of the size of the average weight.
        let size = 1.0 / (width as f64).sqrt();
        let spec = |half: Half| -> Result<TensorSpec> {
            let (max_abs, shape) = match half {
                Half::A => (size, vec![u64::from(rank), width as u64]),
                Half::B => (0.0, vec![width as u64, u64::from(rank)]),
            };
            let chosen = choose_arithmetic(max_abs, 1.0, groups, group, settings)?;
            let initial = (max_abs / f64::from(chosen.quantum())).round() as u32;
            let adapter = Adapter { half, rank, scaling: ADAPTER_ONE, direction_scale: ADAPTER_ONE, initial };
            let name = format!("{layer}{}", half.suffix());
            Ok(chosen.row(&name, shape, group, Origin::Adapter(adapter)))
        };
        Ok([spec(Half::A)?, spec(Half::B)?])
    }

    /// `½ Σ (scaling · (B·A)_ij − D_ij)²`; `weights` by tensor of the table.
    pub fn loss(&self, weights: &[Vec<f32>]) -> f64 {
        let (_, width, rank) = FROZEN;
        let rank = rank as usize;
        let [a, b] = self.halves.map(|half| &weights[half]);
        let product = |row: usize, column: usize| -> f64 {
            (0..rank).map(|inner| f64::from(b[row * rank + inner]) * f64::from(a[inner * width + column])).sum()
        };
        let off = |(at, target): (usize, &f64)| self.scaling * product(at / width, at % width) - target;
        self.target.iter().enumerate().map(|element| 0.5 * off(element).powi(2)).sum()
    }
}
