//! Frozen matrices in the form in which a file has them: f16, bf16, or blocks of quantised elements.
//!
//! A product makes f32 of a few rows at a time, and multiplies by those: exact for what the file says, in the memory
//! of the file and one tile, in 1.0 to 1.3 times the time of f32 where a batch has a thousand tokens. candle's own
//! quantised matmul rounds activations to 8 bits as well, and differs by 0.5 to 0.9% of the largest value: more than a
//! probe moves. It takes 0.7 times the time of f32 for Q8_0 and Q4_K, and 27 times for Q4_1 (`cargo run --release
//! --example packed`). So nothing here uses it: loss differences must be those of the weights. For a few
//! tokens, as generation has one at a time, a tile costs more than the product: see `rows.rs`.

mod rows;

use anyhow::{Result, ensure};
use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QStorage, QTensor},
};
use rayon::prelude::*;
use std::{borrow::Cow, ops::Range, sync::Arc};

use crate::device;

/// Elements that are made f32 at a time: 4 MB.
const TILE: usize = 1 << 20;

/// Most rows that are multiplied with what is stored, without a tile.
const FEW: usize = 4;

/// A matrix, [rows, columns], of which no element ever changes. Clones share the storage.
#[derive(Clone)]
pub struct Packed {
    inner: Arc<QTensor>,
    rows: usize,
    columns: usize,
}

/// A tensor that a run does not train.
pub enum Frozen {
    /// f32.
    Plain(Tensor),
    /// As it is stored.
    Packed(Packed),
}

impl Packed {
    /// From its bytes, rows first. Errors if rows are not whole blocks, or if a value is not finite.
    pub fn new(kind: GgmlDType, [rows, columns]: [usize; 2], bytes: Vec<u8>) -> Result<Self> {
        let expected = rows * (columns / kind.block_size()) * kind.type_size();
        ensure!(
            columns.is_multiple_of(kind.block_size()) && bytes.len() == expected,
            "{} bytes are no {rows} x {columns} elements of {kind:?}",
            bytes.len()
        );
        let storage = QStorage::from_data(Cow::Owned(bytes), &Device::Cpu, kind)?;
        let this = Self { inner: Arc::new(QTensor::new(storage, (rows, columns))?), rows, columns };
        for tile in this.tiles() {
            let values = this.values(tile.clone())?;
            if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                let (row, column) = (tile.start + at / columns, at % columns);
                anyhow::bail!("the element in row {row}, column {column} is {}; the file is damaged", values[at]);
            }
        }
        Ok(this)
    }

    /// [rows, columns].
    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        self.inner.storage_size_in_bytes()
    }

    /// All of it as f32.
    pub fn tensor(&self) -> Result<Tensor> {
        device::tensor(self.values(0..self.rows)?, (self.rows, self.columns))
    }

    /// The rows of these numbers, [N, columns], f32. Errors if there is no such row.
    pub fn select(&self, rows: &Tensor) -> candle_core::Result<Tensor> {
        self.inner.embedding(rows)
    }

    /// `x · selfᵀ`, [N, rows]; or `x · self`, [N, columns], if the layer is stored transposed. `x`: [N, columns] or
    /// [N, rows].
    pub fn product(&self, x: &Tensor, is_transposed: bool) -> candle_core::Result<Tensor> {
        if let Some(product) = self.product_of_few(x, is_transposed)? {
            return Ok(product);
        }
        let mut parts = Vec::new();
        let mut sum: Option<Tensor> = None;
        for tile in self.tiles() {
            let (from, count) = (tile.start, tile.len());
            let values = self.values(tile).map_err(candle_core::Error::wrap)?;
            let values = Tensor::from_vec(values, (count, self.columns), &Device::Cpu)?;
            if !is_transposed {
                parts.push(x.matmul(&values.t()?)?);
                continue;
            }
            let part = x.narrow(1, from, count)?.contiguous()?.matmul(&values)?;
            sum = Some(match sum {
                Some(sum) => (sum + part)?,
                None => part,
            });
        }
        match (sum, &parts[..]) {
            (Some(sum), _) => Ok(sum),
            (None, [one]) => Ok(one.clone()),
            (None, parts) => Tensor::cat(parts, 1),
        }
    }

    /// The product, if `x` has few rows.
    fn product_of_few(&self, x: &Tensor, is_transposed: bool) -> candle_core::Result<Option<Tensor>> {
        let (n, kind) = (x.dim(0)?, self.inner.dtype());
        if n == 0 || n > FEW || !rows::has(kind) {
            return Ok(None);
        }
        let bytes = self.inner.data()?;
        let matrix = rows::Rows { kind, bytes: &bytes, columns: self.columns };
        let values = device::read(&x.contiguous()?, |x| match is_transposed {
            true => matrix.product_transposed(x),
            false => matrix.product(x),
        });
        let width = if is_transposed { self.columns } else { self.rows };
        Tensor::from_vec(values.map_err(candle_core::Error::wrap)?, (n, width), &Device::Cpu).map(Some)
    }

    fn tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, step) = (self.rows, (TILE / self.columns).max(1));
        (0..rows).step_by(step).map(move |from| from..(from + step).min(rows))
    }

    /// Rows as f32, row after row.
    fn values(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        let mut values = vec![0.0; rows.len() * self.columns];
        let step = rows.len().div_ceil(rayon::current_num_threads()).max(1);
        values.par_chunks_mut(step * self.columns).enumerate().try_for_each(|(piece, values)| {
            let from = (rows.start + piece * step) as u32;
            let count = (values.len() / self.columns) as u32;
            let read = self.select(&Tensor::arange(from, from + count, &Device::Cpu)?)?;
            device::read(&read, |read| values.copy_from_slice(read))
        })?;
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::quantized::GgmlDType::{BF16, F16, Q4_0, Q6K, Q8_0};

    fn random(shape: (usize, usize)) -> Tensor {
        Tensor::randn(0f32, 1.0, shape, &Device::Cpu).unwrap()
    }

    fn largest(x: &Tensor) -> f32 {
        x.abs().unwrap().flatten_all().unwrap().max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn products_are_those_of_the_values_whatever_the_tiles() {
        // Several tiles of 4,096 rows of 256, the last one shorter.
        for (kind, rows, columns) in
            [(F16, 9_001, 256), (BF16, 3, 5), (Q4_0, 4_097, 256), (Q8_0, 31, 32), (Q6K, 40, 512)]
        {
            let quantised = QTensor::quantize(&random((rows, columns)), kind).unwrap();
            let packed = Packed::new(kind, [rows, columns], quantised.data().unwrap().into_owned()).unwrap();
            let values = quantised.dequantize(&Device::Cpu).unwrap();
            assert_eq!(largest(&(packed.tensor().unwrap() - &values).unwrap()), 0.0);
            let (x, y) = (random((FEW + 1, columns)), random((FEW + 1, rows)));
            let own = packed.product(&x, false).unwrap();
            let expected = x.matmul(&values.t().unwrap()).unwrap();
            assert!(largest(&(own - &expected).unwrap()) < 1e-5 * largest(&expected), "{kind:?}");
            let own = packed.product(&y, true).unwrap();
            let expected = y.matmul(&values).unwrap();
            assert!(largest(&(own - &expected).unwrap()) < 1e-4 * largest(&expected), "{kind:?}, transposed");
            assert!(packed.bytes() <= 2 * rows * columns, "{} bytes", packed.bytes());
        }
    }

    #[test]
    fn what_is_no_matrix_or_not_finite_is_refused() {
        let nan = half::f16::NAN.to_le_bytes();
        let damaged = Packed::new(F16, [2, 2], [[0; 4], [0, 0, nan[0], nan[1]]].concat()).err().unwrap().to_string();
        assert!(damaged.contains("row 1, column 1 is NaN"), "{damaged}");
        assert!(Packed::new(F16, [2, 2], vec![0; 7]).is_err());
        assert!(Packed::new(Q8_0, [1, 33], vec![0; 34]).is_err());
        let packed = Packed::new(F16, [2, 2], vec![0; 8]).unwrap();
        assert!(packed.select(&Tensor::new(&[2u32], &Device::Cpu).unwrap()).is_err());
    }
}
