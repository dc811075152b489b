//! A model that goes through the layers below a change once, and through those above again and again.

use anyhow::Result;
use candle_core::{Tensor, TensorId};
use std::cell::RefCell;

use super::{Interface, LayerPast, Layout, Model, Stage};

/// A model whose forward passes on one batch may share what lies below a layer.
pub struct SuffixModel {
    model: Box<dyn Model>,
    /// The layer below which nothing changes for now.
    first: Option<usize>,
    kept: RefCell<Option<Kept>>,
}

/// What lies below the first layer that changes.
struct Kept {
    /// Of the tokens that it belongs to.
    tokens: TensorId,
    hidden: Tensor,
}

impl SuffixModel {
    /// Goes through all of `model` each time, until told otherwise.
    pub fn new(model: Box<dyn Model>) -> Self {
        Self { model, first: None, kept: RefCell::new(None) }
    }

    /// From now on no weight changes that is used before `stage`, until this is called again. Keeps one hidden state of
    /// the batch that is measured.
    pub fn change_from(&mut self, stage: Stage) {
        self.first = match stage {
            Stage::Embedding => None,
            Stage::Layer(layer) => Some(layer),
            Stage::Head => Some(self.model.layers()),
        };
        self.kept.take();
    }

    /// From now on any weight may change.
    pub fn change_all(&mut self) {
        self.change_from(Stage::Embedding);
    }
}

impl Model for SuffixModel {
    fn interface(&self) -> &Interface {
        self.model.interface()
    }

    fn layers(&self) -> usize {
        self.model.layers()
    }

    fn stage(&self, name: &str) -> Stage {
        self.model.stage(name)
    }

    fn keeps_past(&self, length: usize, grown: usize) -> bool {
        self.model.keeps_past(length, grown)
    }

    fn embed(&self, tokens: &Tensor, layout: &Layout) -> Result<Tensor> {
        self.model.embed(tokens, layout)
    }

    fn layer_after(&self, index: usize, x: Tensor, layout: &Layout, past: Option<&mut LayerPast>) -> Result<Tensor> {
        self.model.layer_after(index, x, layout, past)
    }

    fn norm(&self, x: &Tensor) -> Result<Tensor> {
        self.model.norm(x)
    }

    fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        self.model.logits(rows)
    }

    fn hidden(&self, tokens: &Tensor, layout: &Layout) -> Result<Tensor> {
        let Some(first) = self.first else { return self.model.hidden(tokens, layout) };
        let mut kept = self.kept.borrow_mut();
        let hidden = match kept.as_ref().filter(|kept| kept.tokens == tokens.id()) {
            Some(kept) => kept.hidden.copy()?,
            None => {
                let hidden = self.model.hidden_below(first, tokens, layout)?;
                *kept = Some(Kept { tokens: tokens.id(), hidden: hidden.copy()? });
                hidden
            }
        };
        self.model.hidden_from(first, hidden, layout)
    }
}
