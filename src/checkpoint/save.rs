//! Saving a checkpoint with tuned scales, or the scales alone. Apart from the rest of [`Checkpoint`], since the writing of
//! whole models reads one.

use std::path::Path;

use super::float;
use super::opened::Checkpoint;
use super::safetensors::{TensorDescription, dtype};
use super::scales_file::{self, ScalesBase, ScalesFile};
use super::scheme::Packing;
use super::stream::{Linears, PackedLinears};
use super::target::WriteTarget;
use super::weight::{Layout, ScaleSource, Weight};
use super::write::{MAX_SHARD_BYTES, write};
use crate::error::{Error, Result};
use crate::packed::PackedWeight;
use crate::storage::staging::Staging;

impl Checkpoint {
    /// Writes the checkpoint with other scales to the new directory `out`, in the format it came in:
    /// every other byte is the same, unless the scales are stored quantized. A GGUF file keeps its
    /// name inside `out`. `scales` is called for each trained weight, in the order the file stores them, and
    /// again where its parts lie apart.
    ///
    /// # Errors
    /// `out` exists; nothing is quantized; a scale that overflows the file's type or is not finite; a
    /// failing disk. Nothing is left behind.
    pub fn save_tuned(&self, out: &Path, scales: &mut ScaleSource) -> Result<()> {
        self.check_trainable()?;
        let names = self.trained_names();
        match self.store().repacking()? {
            None => self.store().save_tuned(out, &names, scales),
            Some(packing) => self.repack(out, &names, packing, scales),
        }
    }

    /// Writes the trained scales of this checkpoint, which was tuned from `base`, to the new file `out`. `on_weight` is
    /// told of the weights that are written, and of how many there are. Returns the length of the file in bytes.
    ///
    /// # Errors
    /// `out` exists; nothing is quantized; a scale that is not finite; an I/O error. Nothing is left behind.
    pub fn save_scales(
        &self,
        out: &Path,
        base: &ScalesBase,
        on_weight: &mut dyn FnMut(usize, usize),
    ) -> Result<u64> {
        self.check_trainable()?;
        let names = self.trained_names();
        let describe = |name: &String| {
            Ok((name.clone(), dtype(self.store().scale_dtype(name)?), self.scale_shape(name)?.to_vec()))
        };
        let weights: Vec<TensorDescription> = names.iter().map(describe).collect::<Result<_>>()?;
        let mut done = 0;
        scales_file::write(out, base, &weights, &mut |name| {
            let bytes = float::encode(self.store().scale_dtype(name)?, self.store().scales(name)?);
            self.release();
            done += 1;
            on_weight(done, names.len());
            Ok(bytes)
        })
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
        let mut done = 0;
        self.save_tuned(out, &mut |name| {
            done = names.len().min(done + 1);
            on_weight(done, names.len());
            scales.scales(name)
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
        scales: &mut ScaleSource,
    ) -> Result<()> {
        let packed = &mut |name: &str| {
            let (scales, levels) = self.rounded_scales(name, &scales(name)?)?;
            match self.weight(name)? {
                Weight::Packed(packed) => Ok(PackedWeight { scales, levels, ..packed }),
                Weight::Dense { .. } => Err(Error::tensor(self.path(), name, "is not quantized")),
            }
        };
        let packed = PackedLinears::Made(packed);
        let linears = &mut Linears { names, packed, on_tensor: &mut |_| {} };
        let target = WriteTarget::Quantized(packing);
        write(self, Staging::new(out)?, &target, MAX_SHARD_BYTES, linears).map(|_| ())
    }
}
