//! A checkpoint in the Hugging Face layout, or a GGUF file: its original files, and where in them each tensor of the
//! model lies.

use anyhow::{Context, Result, bail, ensure};
use candle_core::{Tensor, quantized::GgmlDType};
use protocol::manifest::{ElementType, Role};
use std::{collections::BTreeMap, path::Path};

use super::{
    Architecture, Part,
    architecture::Head,
    directory, families,
    files::OriginalFile,
    finder, gguf,
    plan::Plan,
    sampling::{self, Sampling},
    special_tokens::json,
    stored::{Element, StoredTensor},
    unusable::quantised,
};
use crate::{
    device,
    packed::{Frozen, Packed},
};

/// A base model: its original files. Values of tensors are read when they are asked for.
#[derive(Clone)]
pub struct Checkpoint {
    /// What it is called, for people: see [`protocol::manifest::BaseModel::source`].
    pub source: String,
    /// The original files, in the order of (role, name).
    pub files: Vec<OriginalFile>,
    /// Of a GGUF file: config, tokenizer and others, which are made of its metadata.
    made: Vec<OriginalFile>,
    /// config.json.
    pub config: Vec<u8>,
    /// tokenizer.json.
    pub tokenizer: Vec<u8>,
    /// By Hugging Face name: exactly those of [`Architecture::tensors`].
    stored: BTreeMap<String, StoredTensor>,
    /// What the config describes; with an output head of its own if there is one, whatever the config says.
    plan: Plan,
    /// Whether linear layers are stored [out, in], though transformers' are [in, out].
    is_turned: bool,
}

impl Checkpoint {
    /// Finds the files of the model at `path`, which may be a directory, a hub's cache at any level, or a GGUF file,
    /// and reads all but the values of tensors.
    ///
    /// Weights may be f32, f16 or bf16, those of a GGUF file quantised. Tables of constants and copies of tied weights
    /// are skipped. Errors name the file, the tensor and what to do.
    pub fn load(path: &Path) -> Result<Self> {
        let path = directory::find(path)?;
        Self::of_files(&directory::source(&path), directory::files(&path)?)
    }

    /// The same from files, wherever they are, in the order of (role, name).
    pub fn of_files(source: &str, files: Vec<OriginalFile>) -> Result<Self> {
        if let Some(index) = files.iter().position(|file| file.role == Role::Gguf) {
            let what = files[index].describe();
            return Self::of_gguf(source, files, index).with_context(|| format!("in {what}"));
        }
        let config = read(&files, Role::Config)?;
        let plan = families::plan(&config).with_context(|| format!("in the config.json of {source}"))?;
        let tokenizer = read(&files, Role::Tokenizer)?;
        let stored = finder::find(source, &plan, &files).map_err(|error| match quantised(&config) {
            Some(how) => error.context(how),
            None => error,
        })?;
        let head = Architecture::head(&plan);
        let source = source.to_owned();
        let mut this = Self { source, files, made: Vec::new(), config, tokenizer, stored, plan, is_turned: false };
        this.settle_head(&head)?;
        Ok(this)
    }

    /// From the GGUF file of this index.
    fn of_gguf(source: &str, files: Vec<OriginalFile>, index: usize) -> Result<Self> {
        let gguf::Model { mut header, files: made, mut plan } = gguf::read(&files[index])?;
        let is_turned = std::mem::replace(&mut plan.is_transposed, false);
        let mut layouts = gguf::layouts(&plan);
        let mut stored = BTreeMap::new();
        for (name, shape) in plan.tensors() {
            let (theirs, layout) =
                layouts.remove(&name).with_context(|| format!("no GGUF file has a tensor {name}"))?;
            let found = header.tensors.remove(&theirs);
            let found = found.with_context(|| format!("it has no tensor {theirs}, which its metadata ask for"))?;
            ensure!(
                found.shape == shape,
                "tensor {theirs} has shape {:?}, its metadata ask for {shape:?}",
                found.shape
            );
            let element = Element::of_gguf(found.kind);
            stored.insert(name, StoredTensor { file: index, start: found.start, element, shape, layout });
        }
        // Factors of rotary frequencies, which the config has.
        header.tensors.retain(|name, _| !name.starts_with("rope_f") && !name.ends_with("rot_embd"));
        if let Some(name) = header.tensors.keys().next() {
            bail!("tensor {name} is not part of the model that its metadata describe");
        }
        let (config, tokenizer) = (read(&made, Role::Config)?, read(&made, Role::Tokenizer)?);
        Ok(Self { source: source.to_owned(), files, made, config, tokenizer, stored, plan, is_turned })
    }

    /// The files beside the weights: the original ones, or those that are made of a GGUF file's metadata.
    pub fn beside_weights(&self) -> impl Iterator<Item = &OriginalFile> + Clone {
        let files = if self.made.is_empty() { &self.files } else { &self.made };
        files.iter().filter(|file| !matches!(file.role, Role::WeightsIndex | Role::Weights | Role::Gguf))
    }

    /// Of a tied model that stores an embedding and a head, the head is the model's own where the two differ, and left
    /// out where they do not; as transformers reads it. A head alone is the embedding as well.
    fn settle_head(&mut self, head: &Head) -> Result<()> {
        if !head.is_tied {
            return Ok(());
        }
        let Some(stored) = self.stored.get(&head.name).cloned() else { return Ok(()) };
        if !self.stored.contains_key(&head.embedding) {
            self.stored.remove(&head.name);
            self.stored.insert(head.embedding.clone(), stored);
            return Ok(());
        }
        let digest = |name: &str| self.find(name)?.digest(name, &self.files);
        let [own, embedding] = [&head.name, &head.embedding].map(|name| digest(name));
        let has_own_head = own? != embedding?;
        if !has_own_head {
            self.stored.remove(&head.name);
        }
        self.plan.head.is_tied = !has_own_head;
        Ok(())
    }

    /// The bytes of the file of this role, if there is one.
    pub fn file(&self, role: Role) -> Result<Option<Vec<u8>>> {
        self.beside_weights().find(|file| file.role == role).map(OriginalFile::read).transpose()
    }

    /// The model that the config describes.
    pub fn architecture(&self) -> Result<Box<dyn Architecture>> {
        Ok(Box::new(self.plan.clone()))
    }

    /// As `generation_config.json` has it, or as is usual here; and the names of what it says and is not followed.
    pub fn sampling(&self) -> Result<(Sampling, Vec<&'static str>)> {
        let config = json(self.beside_weights(), Role::GenerationConfig)?;
        Ok((Sampling::of_generation_config(&config), sampling::not_followed(&config)))
    }

    /// Whether transformers has tensor `name` the other way round, [in, out], as it has all linear layers of GPT-2.
    pub fn is_turned(&self, name: &str) -> bool {
        let part = Architecture::part(&self.plan, name);
        let is_linear = matches!(part, Part::Attention | Part::Mlp) && name.ends_with(".weight");
        self.is_turned && is_linear
    }

    /// Whether transformers has the linear layers of this model [in, out].
    pub fn is_transposed(&self) -> bool {
        self.is_turned || self.plan.is_transposed
    }

    /// Whether the bytes of tensor `name` are those that a safetensors file has of it.
    pub fn is_plain(&self, name: &str) -> Result<bool> {
        let StoredTensor { element, layout, .. } = self.find(name)?;
        Ok(!matches!(element, Element::Block(_)) && *layout == gguf::Layout::default() && !self.is_turned(name))
    }

    /// Whether tensor `name` is stored in blocks that share their scales: it can be read, and not be trained.
    pub fn is_quantised(&self, name: &str) -> Result<bool> {
        Ok(matches!(self.find(name)?.element, Element::Block(_)))
    }

    /// The tensors' names and shapes, in order.
    pub fn shapes(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.stored.iter().map(|(name, stored)| (name.as_str(), &stored.shape[..]))
    }

    /// How the elements of tensor `name` are stored.
    pub fn element_type(&self, name: &str) -> Result<ElementType> {
        Ok(match self.find(name)?.element {
            Element::F32 => ElementType::F32,
            Element::F16 => ElementType::F16,
            Element::Bf16 => ElementType::Bf16,
            Element::Block(kind) => match kind {
                GgmlDType::Q4_0 => ElementType::Q4_0,
                GgmlDType::Q4_1 => ElementType::Q4_1,
                GgmlDType::Q5_0 => ElementType::Q5_0,
                GgmlDType::Q5_1 => ElementType::Q5_1,
                GgmlDType::Q8_0 => ElementType::Q8_0,
                GgmlDType::Q2K => ElementType::Q2K,
                GgmlDType::Q3K => ElementType::Q3K,
                GgmlDType::Q4K => ElementType::Q4K,
                GgmlDType::Q5K => ElementType::Q5K,
                GgmlDType::Q6K => ElementType::Q6K,
                GgmlDType::Q8K => ElementType::Q8K,
                other => bail!("tensor {name} is stored as {other:?}, which is not supported"),
            },
        })
    }

    /// The values of tensor `name`: f32, which holds each of them exactly, contiguous. Errors if one is not finite.
    pub fn tensor(&self, name: &str) -> Result<Tensor> {
        let stored = self.find(name)?;
        let elements = stored.elements();
        let mut values = Vec::new();
        values
            .try_reserve_exact(elements)
            .with_context(|| format!("the {elements} values of tensor {name} do not fit this machine's memory"))?;
        self.for_each_bytes(name, |bytes| stored.element.read(bytes, &mut values))?;
        let gguf::Layout { order, shift } = stored.layout;
        if order != gguf::Order::Same {
            let width = elements / stored.shape[0];
            let rows = (0..stored.shape[0]).map(|row| &values[order.stored(row) * width..][..width]);
            values = rows.collect::<Vec<_>>().concat();
        }
        if shift != 0.0 {
            values.iter_mut().for_each(|value| *value += shift);
        }
        if let Some(at) = values.iter().position(|v| !v.is_finite()) {
            let value = values[at];
            bail!("tensor {name}: element {at} is {value}; the checkpoint is damaged or its training diverged");
        }
        device::tensor(values, stored.shape.clone())
    }

    /// Tensor `name` for a run that does not train it: matrices of less than 32 bits stay as they are stored, all
    /// others are f32. Errors as [`Self::tensor`] does.
    pub fn frozen(&self, name: &str) -> Result<Frozen> {
        let stored = self.find(name)?;
        let kind = match stored.element {
            Element::F16 => GgmlDType::F16,
            Element::Bf16 => GgmlDType::BF16,
            Element::Block(kind) => kind,
            Element::F32 => return self.tensor(name).map(Frozen::Plain),
        };
        let [rows, columns] = stored.shape[..] else { return self.tensor(name).map(Frozen::Plain) };
        let mut bytes = Vec::new();
        let room = bytes.try_reserve_exact(stored.bytes());
        room.with_context(|| format!("tensor {name} does not fit this machine's memory"))?;
        self.for_each_bytes(name, |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        let order = stored.layout.order;
        if order != gguf::Order::Same {
            let width = bytes.len() / rows;
            bytes = (0..rows).map(|row| &bytes[order.stored(row) * width..][..width]).collect::<Vec<_>>().concat();
        }
        Packed::new(kind, [rows, columns], bytes).map(Frozen::Packed).with_context(|| format!("tensor {name}"))
    }

    /// What [`Self::frozen`] takes in memory.
    pub fn frozen_bytes(&self, name: &str) -> Result<u64> {
        let stored = self.find(name)?;
        let bytes = if stored.shape.len() == 2 { stored.bytes() } else { 4 * stored.elements() };
        Ok(bytes as u64)
    }

    /// Width of the hidden states.
    pub fn width(&self) -> usize {
        self.plan.hidden
    }

    /// Outputs of the linear layers of one layer, all together.
    pub fn outputs_of_layer(&self) -> usize {
        let first = format!("{}0.", self.plan.layers);
        let outputs =
            self.plan.tensors().into_iter().filter(|(name, shape)| name.starts_with(&first) && shape.len() == 2);
        outputs.map(|(_, shape)| if self.plan.is_transposed { shape[1] } else { shape[0] }).sum()
    }

    /// All tensors, as [`Self::tensor`] reads them.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        self.stored.keys().map(|name| Ok((name.clone(), self.tensor(name)?))).collect()
    }

    /// Hands out the bytes of tensor `name` as they are stored, piece by piece, each a whole number of blocks.
    pub fn for_each_bytes(&self, name: &str, f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.find(name)?.for_each_bytes(name, &self.files, f)
    }

    fn find(&self, name: &str) -> Result<&StoredTensor> {
        self.stored.get(name).with_context(|| format!("{} has no tensor {name}", self.source))
    }
}

/// The one file of a role, in memory.
fn read(files: &[OriginalFile], role: Role) -> Result<Vec<u8>> {
    let file = files.iter().find(|file| file.role == role);
    let name = role.file_name().unwrap_or_default();
    file.with_context(|| format!("the base has no {name}; a Hugging Face checkpoint has one"))?.read()
}
