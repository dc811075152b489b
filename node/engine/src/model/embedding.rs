//! Embeddings.

use anyhow::{Context, Result};
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};

use super::{gradients, linear::Weight};

/// A row of `weight` for each token.
pub struct Embedding {
    /// [vocabulary, H].
    pub weight: Weight,
}

impl Embedding {
    /// `tokens`: [N], u32; the result: [N, H]. Errors if an id is outside the vocabulary.
    pub fn forward(&self, tokens: &Tensor) -> Result<Tensor> {
        let outside = "a token id is outside the vocabulary";
        let weight = match &self.weight {
            Weight::Plain(weight) => weight,
            Weight::Packed(weight) => return weight.select(tokens).context(outside),
        };
        let rows = weight.index_select(tokens, 0).context(outside)?;
        Ok(match gradients::root_for(weight) {
            None => rows,
            Some(root) => root.apply_op1(Rows { weight: weight.clone(), ids: tokens.to_vec1()?, rows })?,
        })
    }
}

/// Rows that were looked up, as a function of the graph's root.
struct Rows {
    weight: Tensor,
    ids: Vec<u32>,
    rows: Tensor,
}

impl CustomOp1 for Rows {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        let rows = self.rows.flatten_all()?.to_vec1()?;
        Ok((CpuStorage::F32(rows), self.rows.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, gradient: &Tensor) -> candle_core::Result<Option<Tensor>> {
        gradients::hand_in_rows(&self.weight, &self.ids, &gradient.contiguous()?).map_err(candle_core::Error::wrap)?;
        Ok(None)
    }
}
