//! Saving a checkpoint with tuned scales, or the scales alone. Apart from the rest of [`Checkpoint`], since the writing of
//! whole models reads one.

use std::collections::BTreeMap;
use std::path::Path;

use super::float;
use super::opened::Checkpoint;
use super::safetensors::{TensorDescription, dtype};
use super::scales_file::{self, ScalesBase, ScalesFile};
use super::scheme::Packing;
use super::stream::{Linears, PackedLinears};
use super::target::WriteTarget;
use super::weight::{Layout, TunedSource, Weight};
use super::write::{MAX_SHARD_BYTES, write};
use crate::arch::{TensorKind, TrainedTensor};
use crate::error::{Error, Result};
use crate::packed::{FloatType, PackedWeight};
use crate::storage::staging::Staging;

impl Checkpoint {
    /// Writes the checkpoint with other scales and other values of `tensors` (byte-sorted by name) to the new directory
    /// `out`, in the format it came in: every other byte is the same, unless the scales are stored quantized. A GGUF file
    /// keeps its name inside `out`. `tuned` is called for each trained weight and tensor, in the order the file stores them,
    /// and again where its parts lie apart.
    ///
    /// # Errors
    /// `out` exists; nothing is quantized; a value that overflows the file's type or is not finite; a
    /// failing disk. Nothing is left behind.
    pub fn save_tuned(&self, out: &Path, tensors: &[TrainedTensor], tuned: &mut TunedSource) -> Result<()> {
        self.check_trainable()?;
        let names = self.trained_names();
        match self.store().repacking()? {
            None => self.store().save_tuned(out, &names, tensors, tuned),
            Some(packing) => self.repack(out, &names, packing, tensors, tuned),
        }
    }

    /// The minima that a tuned copy states for a weight's `scales` and the minima in units of them, `[out, groups]` each. As
    /// in [`Minimum`](crate::packed::Levels::Minimum), the unit of a constant group is 1.
    ///
    /// # Errors
    /// Those of [`Self::rounded_scales`].
    pub fn stated_minima(&self, weight: &str, scales: &[f32], units: &[f32]) -> Result<Vec<f32>> {
        let (rounded, _) = self.rounded_scales(weight, scales)?;
        let stated = |((scale, rounded), units): ((&f32, f32), &f32)| {
            if *scale == 0.0 { *units } else { rounded * units }
        };
        Ok(scales.iter().zip(rounded).zip(units).map(stated).collect())
    }

    /// Writes the trained scales of this checkpoint, which was tuned from `base`, and its `tensors`, to the new file `out`.
    /// `on_weight` is told of the weights that are written, and of how many there are. Returns the length of the file in
    /// bytes.
    ///
    /// # Errors
    /// `out` exists; nothing is quantized; a value that is not finite; an I/O error. Nothing is left behind.
    pub fn save_scales(
        &self,
        out: &Path,
        base: &ScalesBase,
        tensors: &[TrainedTensor],
        on_weight: &mut dyn FnMut(usize, usize),
    ) -> Result<u64> {
        self.check_trainable()?;
        let names = self.trained_names();
        let describe = |name: &String| {
            Ok((name.clone(), dtype(self.store().scale_dtype(name)?), self.scale_shape(name)?.to_vec()))
        };
        let weights: Vec<TensorDescription> = names.iter().map(describe).collect::<Result<_>>()?;
        let described = |tensor: &TrainedTensor| {
            let shape = match tensor.kind {
                TensorKind::Minima => self.scale_shape(tensor.weight())?.to_vec(),
                TensorKind::Norms | TensorKind::Biases => vec![tensor.length],
            };
            Ok((tensor.kind, (tensor.weight().to_owned(), dtype(self.tensor_type(tensor)?), shape)))
        };
        let beside = tensors.iter().map(described).collect::<Result<Vec<_>>>()?;
        let mut done = 0;
        scales_file::write(out, base, &weights, &beside, &mut |name, kind| {
            let store = self.store();
            let bytes = match kind {
                None => float::encode(store.scale_dtype(name)?, store.scales(name)?),
                Some(TensorKind::Minima) => float::encode(store.scale_dtype(name)?, store.minima(name)?),
                Some(TensorKind::Norms | TensorKind::Biases) => {
                    float::encode(self.float_type(name)?, self.dense(name)?)
                }
            };
            self.release();
            done += 1;
            on_weight(names.len().min(done), names.len());
            Ok(bytes)
        })
    }

    /// The type in which a tuned copy has a trained tensor.
    fn tensor_type(&self, tensor: &TrainedTensor) -> Result<FloatType> {
        match tensor.kind {
            TensorKind::Minima => self.store().scale_dtype(tensor.weight()),
            TensorKind::Norms | TensorKind::Biases => self.float_type(&tensor.name),
        }
    }

    /// # Errors
    /// The tensor is quantized.
    fn float_type(&self, name: &str) -> Result<FloatType> {
        match self.layout(name)? {
            Layout::Dense(dtype) => Ok(dtype),
            Layout::Packed(_) => Err(Error::tensor(self.path(), name, "is quantized")),
        }
    }

    /// Writes the tuned checkpoint that `scales` belong to, of which this one is the base, to the new directory `out`: the
    /// same bytes as [`Self::save_tuned`] gave when the scales were trained. `on_weight` is called as in
    /// [`Self::save_scales`].
    ///
    /// # Errors
    /// The scales are those of another base model; those of [`Self::save_tuned`].
    pub fn apply_scales(
        &self,
        scales: &ScalesFile,
        out: &Path,
        on_weight: &mut dyn FnMut(usize, usize),
    ) -> Result<()> {
        self.check_base(scales)?;
        let names = self.trained_names();
        if !scales.weights().eq(names.iter().map(String::as_str)) {
            return Err(Error::damaged(
                scales.path(),
                "its weights are not those that its base model trains",
            ));
        }
        let known = self.trained_tensors(scales.kinds(), self.config().num_hidden_layers)?;
        let tensors = scales.tensors();
        if let Some(unknown) = tensors.iter().find(|tensor| !known.contains(tensor)) {
            let what = format!("`{}` is no tensor that its base model could train", unknown.name);
            return Err(Error::damaged(scales.path(), what));
        }
        let mut done = 0;
        self.save_tuned(out, &tensors, &mut |name| match TrainedTensor::find(&tensors, name) {
            Some(tensor) => scales.values(tensor),
            None => {
                done = names.len().min(done + 1);
                on_weight(done, names.len());
                scales.scales(name)
            }
        })
    }

    fn check_base(&self, scales: &ScalesFile) -> Result<()> {
        let (ScalesBase { fingerprint, name }, found) = (scales.base(), self.fingerprint()?);
        if *fingerprint == found {
            return Ok(());
        }
        let [expected, found] = [*fingerprint, found].map(|hash| blake3::Hash::from_bytes(hash).to_hex());
        Err(Error::invalid(
            format!(
                "{} was made for another base model than {}: for {}with the fingerprint {}, not {}",
                scales.path().display(),
                self.path().display(),
                name.as_ref().map(|name| format!("{name} ")).unwrap_or_default(),
                &expected[..12],
                &found[..12],
            ),
            "give the very files that were trained: the model of the run's config.toml or, where the run quantized it \
             itself, the run's base/ or a model that `qzo quantize` makes with the same settings",
        ))
    }

    /// `[out, groups]` of a quantized weight.
    fn scale_shape(&self, name: &str) -> Result<[usize; 2]> {
        let [out_features, in_features] = self.matrix_shape(name)?;
        match self.layout(name)? {
            Layout::Packed(layout) => Ok([out_features, in_features.div_ceil(layout.group_size.max(1))]),
            Layout::Dense(_) => Err(Error::tensor(self.path(), name, "is not quantized")),
        }
    }

    fn repack(
        &self,
        out: &Path,
        names: &[String],
        packing: Box<dyn Packing>,
        tensors: &[TrainedTensor],
        tuned: &mut TunedSource,
    ) -> Result<()> {
        let mut replaced = BTreeMap::new();
        for tensor in tensors {
            let bytes = float::tuned(self.tensor_type(tensor)?, tuned(&tensor.name)?, tensor.length);
            let bytes = bytes.map_err(|what| Error::overflow(self.path(), &tensor.name, what))?;
            replaced.insert(tensor.name.clone(), bytes);
        }
        let packed = &mut |name: &str| {
            let (scales, levels) = self.rounded_scales(name, &tuned(name)?)?;
            match self.weight(name)? {
                Weight::Packed(packed) => Ok(PackedWeight { scales, levels, ..packed }),
                Weight::Dense { .. } => Err(Error::tensor(self.path(), name, "is not quantized")),
            }
        };
        let packed = PackedLinears::Made(packed);
        let linears = &mut Linears { names, packed, replaced, on_tensor: &mut |_| {} };
        let target = WriteTarget::Repacked(packing);
        write(self, Staging::new(out)?, &target, MAX_SHARD_BYTES, linears).map(|_| ())
    }
}
