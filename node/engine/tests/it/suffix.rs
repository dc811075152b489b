//! Layers below a change are gone through once, and every loss is the same to the last bit.

use candle_core::{CpuStorage, InplaceOp1, Layout, Tensor};
use engine::{
    data::Dataset,
    embedded,
    model::{self, Batch, Model, Stage, SuffixModel},
};

struct Setup {
    whole: Box<dyn Model>,
    suffix: SuffixModel,
    /// Names and tensors, whose storage both models share.
    tensors: Vec<(String, Tensor)>,
    batches: [Batch; 2],
}

fn setup() -> Setup {
    let checkpoint = embedded::checkpoint().unwrap();
    let tensors = checkpoint.tensors().unwrap();
    let load = || model::load(&checkpoint, &tensors).unwrap();
    let (whole, tokenizer) = load();
    let data: Dataset = embedded::training(1, &tokenizer, 32).unwrap();
    let batches = [0, 1].map(|sample| data.batch(1, sample, 2).unwrap());
    Setup { whole, suffix: SuffixModel::new(load().0), tensors: tensors.into_iter().collect(), batches }
}

fn bits(model: &dyn Model, batch: &Batch) -> Vec<u32> {
    let hidden = model.hidden(&batch.tokens, &batch.layout).unwrap();
    hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

/// Halves a tensor in place, in the storage that the models see.
fn change(tensor: &Tensor) {
    tensor.inplace_op1(&Halve).unwrap();
}

struct Halve;

impl InplaceOp1 for Halve {
    fn name(&self) -> &'static str {
        "halve"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = storage else { panic!("weights are f32") };
        values.iter_mut().for_each(|value| *value *= 0.5);
        Ok(())
    }
}

#[test]
fn every_loss_is_that_of_the_whole_model_wherever_the_change_begins() {
    let Setup { whole, mut suffix, tensors, batches } = setup();
    for (name, tensor) in &tensors {
        suffix.change_from(whole.stage(name));
        for _ in 0..2 {
            let before = bits(&*whole, &batches[0]);
            assert_eq!(bits(&suffix, &batches[0]), before, "{name}");
            change(tensor);
            let after = bits(&*whole, &batches[0]);
            assert!(after != before || name.contains("head"), "{name} is used");
            assert!(bits(&suffix, &batches[0]) == after, "{name}");
        }
        // Another batch, with what was kept of the first one at hand.
        assert_eq!(bits(&suffix, &batches[1]), bits(&*whole, &batches[1]), "{name}");
    }
}

#[test]
fn what_is_kept_is_used_until_another_change_is_announced() {
    let Setup { whole, mut suffix, tensors, batches } = setup();
    suffix.change_from(Stage::Layer(1));
    let before = bits(&suffix, &batches[0]);
    let (_, below) = tensors.iter().find(|(name, _)| whole.stage(name) == Stage::Layer(0)).unwrap();
    change(below);
    assert_eq!(bits(&suffix, &batches[0]), before, "the layers below were not gone through again");
    suffix.change_all();
    assert_eq!(bits(&suffix, &batches[0]), bits(&*whole, &batches[0]));
    assert_ne!(bits(&suffix, &batches[0]), before);
}
