//! The trained parameters of a model, and their updates.

use crate::arch::TrainedTensor;
use crate::error::{Error, Result};
use crate::kernels::{self, HostFloats, Kernels};
use crate::zo::direction::Move;

/// An update of the scales. Training, resuming and replaying all apply updates through [`Scales::apply`].
#[derive(Debug, Clone)]
pub enum Update<'a> {
    /// All trained scales move along these directions, one after the other. The result is a pure function of the
    /// journal.
    Moves(&'a [Move]),
    /// The same for the scales of the first decoder blocks alone.
    BodyMoves { blocks: usize, moves: &'a [Move] },
    /// The scales of one weight are set to these values, `[out_features × groups]`.
    Dense { name: &'a str, scales: &'a [f32] },
    /// The scales of one weight are multiplied by these factors, `[out_features × groups]`. A backward pass makes such an
    /// update for each weight that it reaches.
    Multiply { name: &'a str, factors: HostFloats },
    /// A tensor that is trained beside the scales is set to these values.
    Tensor { name: &'a str, values: &'a [f32] },
}

/// The f32 master scales of a model's trained weights, and the tensors that are trained beside them.
pub trait Scales {
    /// Names of the trained weights, byte-sorted: a name's position is its parameter id.
    fn trained(&self) -> &[String];

    /// Number of scales of a weight.
    fn scale_count(&self, name: &str) -> Result<usize>;

    /// Number of rows of a weight, and of groups in a row.
    fn scale_shape(&self, name: &str) -> Result<[usize; 2]>;

    /// The scales of a weight, `[out_features × groups]`.
    fn scales(&self, name: &str) -> Result<Vec<f32>>;

    /// The tensors that are trained beside the scales, byte-sorted by name: their parameter ids follow those of the weights.
    fn tensors(&self) -> &[TrainedTensor] {
        &[]
    }

    /// The f32 master values of such a tensor. Minima are in units of their scales; where a scale is 0, the group is constant,
    /// and its minimum stands for itself.
    ///
    /// # Errors
    /// The tensor is not trained, or the device fails.
    fn tensor(&self, name: &str) -> Result<Vec<f32>> {
        Err(Error::internal(format!("{name} is not trained")))
    }

    /// Applies an update.
    ///
    /// # Errors
    /// The weight or tensor is not trained, the number of values is wrong, or the device fails.
    fn apply(&mut self, update: Update<'_>) -> Result<()>;
}

/// The scales of one weight without its codes. A replay needs no more of a model.
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
            false => {
                Err(Error::internal(format!("asked for the scales of {name}, but holds {}", self.name[0])))
            }
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

    /// Its rows are not known here, and a replay has no use for them.
    fn scale_shape(&self, name: &str) -> Result<[usize; 2]> {
        self.check(name).map(|()| [self.scales.len(), 1])
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
            Update::BodyMoves { .. } => {
                return Err(Error::internal("a weight by itself does not know its block"));
            }
            Update::Dense { name, scales } => {
                self.check(name)?;
                self.scales = scales.to_vec();
            }
            Update::Multiply { name, factors } => {
                self.check(name)?;
                self.scales.iter_mut().zip(&factors[..]).for_each(|(scale, factor)| *scale *= factor);
            }
            Update::Tensor { name, .. } => return Err(Error::internal(format!("{name} is not trained"))),
        }
        Ok(())
    }
}
