//! The boundary to the device that holds the tensors: the CPU. A second device is added here.
//!
//! Everything else handles tensors as candle does, whatever holds them. Only this file turns numbers into tensors, and
//! only here do fused operations and the weights' sweeps reach the numbers of a tensor.

use anyhow::{Result, bail};
use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Shape, Storage, Tensor, WithDType, backend::BackendStorage};

/// Values that are converted at a time.
const COPY_VALUES: usize = 1 << 14;

/// A tensor of `values`, row-major. Errors if they are not as many as `shape` says.
pub fn tensor<T: WithDType>(values: Vec<T>, shape: impl Into<Shape>) -> Result<Tensor> {
    Ok(Tensor::from_vec(values, shape.into(), &Device::Cpu)?)
}

/// Whether [`read`] and [`change`] reach the numbers of a tensor, if they are f32.
pub fn holds(tensor: &Tensor) -> bool {
    tensor.device().is_cpu() && tensor.is_contiguous()
}

/// Calls `f` on the numbers of a contiguous f32 tensor, row-major, without a copy.
pub fn read<T>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else { bail!("not on the CPU") };
    Ok(f(slice(storage, layout)?))
}

/// As [`read`], of several tensors at once.
pub fn read_all<T, const N: usize>(tensors: [&Tensor; N], f: impl FnOnce([&[f32]; N]) -> T) -> candle_core::Result<T> {
    let guards = tensors.map(Tensor::storage_and_layout);
    let mut slices = [&[][..]; N];
    for (values, (storage, layout)) in slices.iter_mut().zip(&guards) {
        let Storage::Cpu(storage) = &**storage else { candle_core::bail!("not on the CPU") };
        *values = slice(storage, layout)?;
    }
    Ok(f(slices))
}

/// Hands out the bytes of a contiguous f32 tensor (little-endian, row-major), piece by piece.
pub fn for_each_bytes(tensor: &Tensor, mut f: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    read(tensor, |values| {
        let mut buffer = vec![0u8; 4 * values.len().min(COPY_VALUES)];
        for values in values.chunks(COPY_VALUES) {
            for (bytes, value) in buffer.as_chunks_mut().0.iter_mut().zip(values) {
                *bytes = value.to_le_bytes();
            }
            f(&buffer[..4 * values.len()])?;
        }
        Ok(())
    })?
}

/// Calls `f` on the numbers of a contiguous f32 tensor, row-major, which it may change. Clones of the tensor see the
/// change.
pub fn change(tensor: &Tensor, f: &(dyn Fn(&mut [f32]) + Sync)) -> Result<()> {
    Ok(tensor.inplace_op1(&Change(f))?)
}

struct Change<'a>(&'a (dyn Fn(&mut [f32]) + Sync));

impl InplaceOp1 for Change<'_> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        (self.0)(slice_mut(storage, layout)?);
        Ok(())
    }
}

/// The numbers of an operation's argument, which must be contiguous f32.
pub fn slice<'a>(storage: &'a CpuStorage, layout: &Layout) -> candle_core::Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&values[from..to]),
        _ => candle_core::bail!("expected contiguous f32 values, got {:?} with {layout:?}", storage.dtype()),
    }
}

/// As [`slice`], of an argument that the operation changes.
pub fn slice_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> candle_core::Result<&'a mut [f32]> {
    let dtype = storage.dtype();
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((from, to))) => Ok(&mut values[from..to]),
        _ => candle_core::bail!("expected contiguous f32 values, got {dtype:?} with {layout:?}"),
    }
}
