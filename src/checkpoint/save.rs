//! Saving a checkpoint with tuned scales. Apart from the rest of [`Checkpoint`], since the writing of whole models
//! reads one.

use std::path::Path;

use super::opened::Checkpoint;
use super::scheme::Packing;
use super::stream::{Linears, PackedLinears};
use super::target::WriteTarget;
use super::weight::{ScaleSource, Weight};
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
