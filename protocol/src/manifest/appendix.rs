//! Every tensor of the base, trained or frozen: the last part of the string that joiners fetch, so that the manifest
//! stays small however many tensors there are.
//!
//! It does not say in which file a tensor lies, nor in which type a trained one is stored: the same tensors in other
//! files have the same appendix. So a copy can be told to be the run's base without the run's files.
//!
//! Encoded like everything else (bincode, standard configuration): the number of tensors, then for each its name, its
//! shape, 0 for trained or 1 and the element type for frozen (all numbers of variable length), and 32 bytes of digest.

use serde::{Deserialize, Serialize};

use super::Manifest;
use crate::{
    encoding,
    error::{InvalidBase, WireError},
};

/// Largest encoded appendix, bytes.
pub const APPENDIX_BYTES_MAX: usize = 1 << 24;
/// Most tensors of a base.
pub const BASE_TENSORS_MAX: usize = 1 << 16;
/// Longest name of a tensor, bytes.
const NAME_BYTES_MAX: usize = 255;
/// Most dimensions of a tensor.
const DIMENSIONS_MAX: usize = 8;
/// Most elements of a tensor: 2^44.
const ELEMENTS_MAX: u64 = 1 << 44;

/// How the elements of a frozen tensor are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum ElementType {
    F32,
    F16,
    Bf16,
    F64,
    I8,
    U8,
    /// GGML's block types, of GGUF files.
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
}

/// What a run does with a tensor of its base.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Treatment {
    /// It is in the manifest's table. The digest is that of its snapped values, f32 LE, row-major.
    Trained,
    /// Nothing ever changes it. The digest is that of its bytes as they are stored, in elements of this type.
    Frozen(ElementType),
}

/// One tensor of the base.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BaseTensor {
    /// Name in the Hugging Face checkpoint.
    pub name: String,
    /// Dimensions, row-major.
    pub shape: Vec<u64>,
    /// Trained or frozen.
    pub treatment: Treatment,
    /// See [`Treatment`].
    pub digest: [u8; 32],
}

/// All tensors of the base, in the order of their names as bytes.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Appendix {
    /// See [`Appendix`].
    pub tensors: Vec<BaseTensor>,
}

impl Appendix {
    /// Canonical bytes.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encoding::encode::<_, APPENDIX_BYTES_MAX>(self)
    }

    /// Decodes, and checks names, shapes and order.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let appendix: Self = encoding::decode::<_, APPENDIX_BYTES_MAX>(bytes)?;
        appendix.validate()?;
        if appendix.encode()? != bytes {
            return Err(WireError::NotCanonical);
        }
        Ok(appendix)
    }

    fn validate(&self) -> Result<(), InvalidBase> {
        if self.tensors.len() > BASE_TENSORS_MAX || !self.tensors.is_sorted_by(|a, b| a.name < b.name) {
            return Err(InvalidBase::Appendix("its tensors are too many, or not in the order of their names".into()));
        }
        for BaseTensor { name, shape, .. } in &self.tensors {
            let elements = shape.iter().try_fold(1u64, |product, dimension| product.checked_mul(*dimension));
            let is_sound = (1..=NAME_BYTES_MAX).contains(&name.len())
                && !name.chars().any(char::is_control)
                && shape.len() <= DIMENSIONS_MAX
                && elements.is_some_and(|elements| (1..=ELEMENTS_MAX).contains(&elements));
            if !is_sound {
                return Err(InvalidBase::Appendix(format!("tensor {name:?} has a name or shape out of bounds")));
            }
        }
        Ok(())
    }
}

impl Manifest {
    /// Decodes the appendix of this run's base: its digest must be the manifest's, and its trained tensors those of the
    /// manifest's table.
    pub fn appendix(&self, bytes: &[u8]) -> Result<Appendix, WireError> {
        let refuse = |reason: &str| Err(InvalidBase::Appendix(reason.into()).into());
        if *blake3::hash(bytes).as_bytes() != self.base.appendix_digest {
            return refuse("its digest is not the manifest's");
        }
        let appendix = Appendix::decode(bytes)?;
        let trained = appendix.tensors.iter().filter(|tensor| tensor.treatment == Treatment::Trained);
        let listed = trained.map(|tensor| (&tensor.name, &tensor.shape, tensor.digest));
        let in_base = self.tensors.iter().filter_map(|spec| Some((&spec.name, &spec.shape, spec.base_digest()?)));
        if !listed.eq(in_base) {
            return refuse("its trained tensors are not those of the manifest's table");
        }
        Ok(appendix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_xoshiro::{
        Xoshiro256PlusPlus,
        rand_core::{Rng, SeedableRng},
    };

    fn tensor(name: &str, treatment: Treatment) -> BaseTensor {
        BaseTensor { name: name.into(), shape: vec![3, 300], treatment, digest: [9; 32] }
    }

    fn appendix() -> Appendix {
        let tensors = vec![
            tensor("a", Treatment::Trained),
            tensor("b", Treatment::Frozen(ElementType::Bf16)),
            tensor("c", Treatment::Frozen(ElementType::Q8K)),
        ];
        Appendix { tensors }
    }

    fn refusal(change: impl FnOnce(&mut Appendix)) -> WireError {
        let mut appendix = appendix();
        change(&mut appendix);
        Appendix::decode(&appendix.encode().unwrap()).unwrap_err()
    }

    #[test]
    fn ten_thousand_tensors_fit() {
        let name = |layer: usize| format!("model.layers.{layer:05}.block_sparse_moe.experts.17.w1.weight");
        let treatment = Treatment::Frozen(ElementType::Bf16);
        let tensors: Vec<BaseTensor> = (0..10_000).map(|layer| tensor(&name(layer), treatment)).collect();
        let bytes = Appendix { tensors: tensors.clone() }.encode().unwrap();
        assert_eq!(Appendix::decode(&bytes).unwrap().tensors, tensors);
    }

    #[test]
    fn names_shapes_and_order_are_bounded() {
        for shape in [vec![0], vec![1 << 44, 2], vec![u64::MAX, u64::MAX], vec![1; 9]] {
            let refused = refusal(|appendix| appendix.tensors[1].shape = shape.clone()).to_string();
            assert!(refused.contains("\"b\""), "{shape:?}: {refused}");
        }
        for name in ["", "b\n", &"x".repeat(256)] {
            assert!(matches!(refusal(|appendix| appendix.tensors[0].name = name.into()), WireError::Base(_)));
        }
        assert!(matches!(refusal(|appendix| appendix.tensors.swap(0, 1)), WireError::Base(_)));
        let twice = refusal(|appendix| appendix.tensors[1].name = "a".into());
        assert!(matches!(twice, WireError::Base(_)));
        let name = |index: usize| format!("{index:08}");
        let many = (0..=BASE_TENSORS_MAX).map(|index| tensor(&name(index), Treatment::Trained)).collect();
        assert!(matches!(refusal(|appendix| appendix.tensors = many), WireError::Base(_)));
    }

    #[test]
    fn flipped_and_cut_bytes_are_refused_or_read_as_something_else_and_never_believed_twice() {
        let sound = appendix().encode().unwrap();
        for length in 0..sound.len() {
            assert!(Appendix::decode(&sound[..length]).is_err(), "{length} bytes");
        }
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        for _ in 0..20_000 {
            let mut bytes = sound.clone();
            for _ in 0..1 + random.next_u64() % 3 {
                let place = random.next_u64() as usize % bytes.len();
                bytes[place] ^= 1 << (random.next_u64() % 8);
            }
            if let Ok(read) = Appendix::decode(&bytes) {
                assert_eq!(read.encode().unwrap(), bytes, "two encodings of one appendix");
            }
        }
        // A number of tensors that no memory holds.
        let huge = [&[253][..], &u64::MAX.to_le_bytes(), &sound[1..]].concat();
        assert!(Appendix::decode(&huge).is_err());
    }
}
