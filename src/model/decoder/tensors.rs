//! The tensors of a decoder that are trained beside the scales.

use burn::tensor::{DType, Tensor, TensorData};

use super::Decoder;
use crate::arch::TrainedTensor;
use crate::error::{Error, Result};
use crate::kernels::{Kernels, read};
use crate::model::linear::{Linear, LinearWeight};
use crate::model::norm::NormPart;
use crate::model::trained::{TrainedModule, TrainedPlace, find};
use crate::packed::Levels;

impl<B: Kernels> Decoder<B> {
    /// See [`LanguageModel::train_tensors`](crate::model::LanguageModel::train_tensors).
    pub(super) fn find_tensors(&mut self, tensors: Vec<TrainedTensor>) -> Result<()> {
        let mut places = Vec::with_capacity(tensors.len());
        for (parameter, tensor) in (self.trained.len() as u32..).zip(&tensors) {
            let absent = || Error::internal(format!("the model has no {}", tensor.name));
            let (block, module) = find(self.checkpoint.config(), tensor).ok_or_else(absent)?;
            let values = match module {
                TrainedModule::Minima(_) => vec![],
                TrainedModule::Norm(..) | TrainedModule::Bias(_) => self.checkpoint.dense(&tensor.name)?,
            };
            let layer = &mut self.layers[block];
            match module {
                TrainedModule::Norm(role, part) => {
                    layer.norm_mut(role).ok_or_else(absent)?.train(part, parameter);
                }
                TrainedModule::Bias(linear) => {
                    layer.linears_mut().nth(linear).ok_or_else(absent)?.bias_parameter = Some(parameter);
                }
                TrainedModule::Minima(linear) => {
                    layer.linears_mut().nth(linear).ok_or_else(absent)?.minima_parameter = Some(parameter);
                }
            }
            places.push(TrainedPlace { block, module, values });
        }
        (self.tensors, self.places) = (tensors, places);
        Ok(())
    }

    fn index_of(&self, name: &str) -> Result<usize> {
        let found = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name));
        found.map_err(|_| Error::internal(format!("{name} is not trained")))
    }

    /// See [`Scales::tensor`](crate::model::Scales::tensor). Minima are read from the device.
    pub(super) fn tensor_values(&self, name: &str) -> Result<Vec<f32>> {
        let TrainedPlace { block, module, values } = &self.places[self.index_of(name)?];
        let TrainedModule::Minima(linear) = *module else { return Ok(values.clone()) };
        match self.layers[*block].linears().nth(linear).and_then(Linear::packed).map(|w| &w.packed.levels) {
            Some(Levels::Minimum(minima)) => read(minima.clone()),
            _ => Err(Error::internal(format!("{name} is not on the device"))),
        }
    }

    /// Sets a trained tensor.
    ///
    /// # Errors
    /// Another number of values; a tensor that is not trained.
    pub(super) fn set_tensor(&mut self, name: &str, values: &[f32]) -> Result<()> {
        let index = self.index_of(name)?;
        let expected = self.tensors[index].length;
        if values.len() != expected {
            let what = format!("{name} has {expected} values, but {} were given", values.len());
            return Err(Error::internal(what));
        }
        let absent = || Error::internal(format!("{name} is not on the device"));
        let (device, activation) = (self.device.clone(), B::tensor_type(self.compute));
        let upload = |values: Vec<f32>| {
            let length = values.len();
            Tensor::<B, 1>::from_data(TensorData::new(values, [length]), (&device, DType::F32))
        };
        let offset = self.checkpoint.config().norm_offset;
        let place = &mut self.places[index];
        let layer = &mut self.layers[place.block];
        match place.module {
            TrainedModule::Norm(role, part) => {
                let tensor = upload(values.to_vec());
                let tensor = match part {
                    NormPart::Weight if offset != 0.0 => tensor + offset,
                    _ => tensor,
                };
                layer.norm_mut(role).ok_or_else(absent)?.set(part, tensor);
            }
            TrainedModule::Bias(linear) => {
                let tensor = upload(values.to_vec()).cast(activation);
                layer.linears_mut().nth(linear).ok_or_else(absent)?.bias = Some(tensor);
            }
            TrainedModule::Minima(linear) => {
                let linear = layer.linears_mut().nth(linear).ok_or_else(absent)?;
                let LinearWeight::Packed(weight) = &mut linear.weight else { return Err(absent()) };
                weight.packed.levels = Levels::Minimum(upload(values.to_vec()));
                return Ok(());
            }
        }
        place.values = values.to_vec();
        Ok(())
    }
}
