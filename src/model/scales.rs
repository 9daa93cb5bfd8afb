//! The scales that are trained, and the one way in which they change.

use crate::error::{Error, Result};
use crate::kernels::{self, Kernels};
use crate::zo::direction::Move;

/// A change of the scales. Wherever a step is taken, repeated or replayed, it lands through [`Scales::apply`].
#[derive(Debug, Clone, Copy)]
pub enum Update<'a> {
    /// Every trained scale moves along directions that follow from their seeds, one after the other: a pure
    /// function of the journal.
    Moves(&'a [Move]),
    /// The scales of one weight take these values, `[out_features × groups]`. A backward pass hands them over weight
    /// by weight, as it comes to them.
    Dense { name: &'a str, scales: &'a [f32] },
}

/// The f32 master scales of a model's trained weights.
pub trait Scales {
    /// Names of the trained weights, byte-sorted: a name's position is its parameter id.
    fn trained(&self) -> &[String];

    /// The number of a weight's scales.
    fn scale_count(&self, name: &str) -> Result<usize>;

    /// The scales of a weight, `[out_features × groups]`.
    fn scales(&self, name: &str) -> Result<Vec<f32>>;

    /// Changes the scales.
    ///
    /// # Errors
    /// A weight that is not trained, or another number of scales; a device that fails.
    fn apply(&mut self, update: Update<'_>) -> Result<()>;
}

/// The scales of one weight, without its codes: all that a replay needs of a model.
pub struct LoneScales<B: Kernels> {
    name: [String; 1],
    /// Parameter id.
    id: u32,
    scales: Vec<f32>,
    device: B::Device,
}

impl<B: Kernels> LoneScales<B> {
    pub fn new(name: &str, id: u32, scales: Vec<f32>, device: B::Device) -> Self {
        Self { name: [name.to_owned()], id, scales, device }
    }

    fn check(&self, name: &str) -> Result<()> {
        match self.name[0] == name {
            true => Ok(()),
            false => Err(Error::internal(format!("{name} is not {}", self.name[0]))),
        }
    }
}

impl<B: Kernels> Scales for LoneScales<B> {
    fn trained(&self) -> &[String] {
        &self.name
    }

    fn scale_count(&self, name: &str) -> Result<usize> {
        self.check(name).map(|()| self.scales.len())
    }

    fn scales(&self, name: &str) -> Result<Vec<f32>> {
        self.check(name).map(|()| self.scales.clone())
    }

    fn apply(&mut self, update: Update<'_>) -> Result<()> {
        match update {
            Update::Moves(moves) => {
                let scales = std::mem::take(&mut self.scales);
                self.scales = kernels::replay::<B>(scales, self.id, moves, &self.device)?;
            }
            Update::Dense { name, scales } => {
                self.check(name)?;
                self.scales = scales.to_vec();
            }
        }
        Ok(())
    }
}
