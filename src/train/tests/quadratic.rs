//! An objective without a device: a quadratic of a few scales.

use crate::arch::{TensorKind, TrainedTensor};
use crate::data::LossSum;
use crate::error::{Error, Result};
use crate::eval::TaskReport;
use crate::model::{BackwardPass, ScaleForm, ScaleGradient, Scales, Update};
use crate::train::{LossGradients, Objective};
use crate::zo::direction::Signs;

/// Two weights of three scales, and perhaps a norm.
pub struct Weights {
    pub names: [String; 2],
    pub scales: [Vec<f32>; 2],
    tensors: Vec<TrainedTensor>,
    pub norm: Vec<f32>,
}

impl Weights {
    pub fn new() -> Self {
        let scales = [vec![1.0, 2.0, 3.0], vec![-1.0, 0.5, 4.0]];
        Self { names: ["a".into(), "b".into()], scales, tensors: vec![], norm: vec![] }
    }

    pub fn with_norm() -> Self {
        let tensors = vec![TrainedTensor { name: "norm".into(), kind: TensorKind::Norms, length: 2 }];
        Self { tensors, norm: vec![1.5, 0.75], ..Self::new() }
    }

    fn index(&self, name: &str) -> Result<usize> {
        self.names.iter().position(|known| known == name).ok_or_else(|| Error::internal("no such weight"))
    }
}

impl Scales for Weights {
    fn trained(&self) -> &[String] {
        &self.names
    }

    fn scale_count(&self, name: &str) -> Result<usize> {
        Ok(self.scales[self.index(name)?].len())
    }

    fn scale_shape(&self, name: &str) -> Result<[usize; 2]> {
        self.index(name).map(|_| [3, 1])
    }

    fn scales(&self, name: &str) -> Result<Vec<f32>> {
        Ok(self.scales[self.index(name)?].clone())
    }

    fn tensors(&self) -> &[TrainedTensor] {
        &self.tensors
    }

    fn tensor(&self, _: &str) -> Result<Vec<f32>> {
        Ok(self.norm.clone())
    }

    fn apply(&mut self, update: Update<'_>) -> Result<()> {
        match update {
            Update::Moves(moves) => {
                for each in moves {
                    for (id, scales) in (0..).zip(&mut self.scales) {
                        for (index, scale) in (0..).zip(scales) {
                            *scale = each.apply(*scale, each.k(id, index));
                        }
                    }
                }
            }
            Update::BodyMoves { blocks, moves } => {
                for each in moves {
                    for (id, scales) in (0..).zip(self.scales.iter_mut().take(blocks)) {
                        for (index, scale) in (0..).zip(scales) {
                            *scale = each.apply(*scale, each.k(id, index));
                        }
                    }
                }
            }
            Update::Dense { name, scales } => {
                let index = self.index(name)?;
                self.scales[index] = scales.to_vec();
            }
            Update::Multiply { name, factors } => {
                let index = self.index(name)?;
                self.scales[index].iter_mut().zip(&factors[..]).for_each(|(scale, factor)| *scale *= factor);
            }
            Update::Tensor { name, values } => {
                assert_eq!((name, values.len()), ("norm", self.norm.len()));
                self.norm = values.to_vec();
            }
        }
        Ok(())
    }
}

/// ½ Σ (scale − target)². A batch is one target.
pub struct Quadratic {
    /// Error added to the target, like the rounding of another device.
    pub error: f32,
    /// Steps whose target is far away, or not a number.
    pub far: Vec<(u64, f32)>,
}

impl Quadratic {
    fn loss(scales: impl Iterator<Item = f32>, target: f32) -> f64 {
        scales.map(|s| 0.5 * f64::from(s - target).powi(2)).sum()
    }
}

impl Objective for Quadratic {
    type Model = Weights;
    type Batch = f32;

    fn batch(&mut self, cursor: u64, size: usize) -> f32 {
        if let Some((_, target)) = self.far.iter().find(|(step, _)| step * 3 == cursor) {
            return *target;
        }
        0.25 + ((cursor + size as u64) % 5) as f32 * 0.125 + self.error
    }

    fn tokens(&self, _: &f32) -> usize {
        1
    }

    fn losses(&self, model: &Weights, target: &f32, signs: Signs) -> Result<Vec<LossSum>> {
        let loss = |each: Option<crate::zo::direction::Move>| {
            let scale = |id: u32, index: u32, scale: f32| match each {
                Some(each) => each.apply(scale, each.k(id, index)),
                None => scale,
            };
            let scales = (0..)
                .zip(&model.scales)
                .flat_map(|(id, scales)| (0..).zip(scales).map(move |(index, s)| scale(id, index, *s)));
            LossSum {
                sum: Quadratic::loss(
                    scales.chain(model.norm.iter().copied()).collect::<Vec<_>>().into_iter(),
                    *target,
                ),
                weight: 1.0,
            }
        };
        Ok(signs.parts().map(loss).collect())
    }

    fn weight(&self, _: &f32) -> f64 {
        1.0
    }

    fn gradient(
        &self,
        model: &mut Weights,
        target: &f32,
        backward: BackwardPass,
        weight: f64,
        sink: &mut dyn LossGradients,
    ) -> Result<()> {
        // The first weight is the body of a run with one tail block.
        let moved = |(id, index): (u32, u32), scale: f32| match backward.body {
            Some(each) if id < 2 - backward.tail_blocks as u32 => each.apply(scale, each.k(id, index)),
            _ => scale,
        };
        let scales = (0..).zip(&model.scales).flat_map(|(id, scales)| {
            (0..).zip(scales).map(move |(index, scale)| moved((id, index), *scale)).collect::<Vec<_>>()
        });
        let loss = LossSum { sum: Quadratic::loss(scales, *target), weight: 1.0 };
        assert_eq!(backward.form, ScaleForm::Scales);
        if sink.goes_on(loss) {
            for parameter in [1, 0].into_iter().take(backward.tail_blocks) {
                let scales = &model.scales[parameter as usize];
                let values = scales.iter().map(|s| s * (s - target) / weight as f32).collect();
                let mut gradients = vec![ScaleGradient { parameter, values }];
                if parameter == 1 && !model.tensors.is_empty() {
                    let values = model.norm.iter().map(|w| (w - target) / weight as f32).collect();
                    gradients.push(ScaleGradient { parameter: 2, values });
                }
                sink.block(gradients, model)?;
            }
        }
        Ok(())
    }

    fn evaluate(&self, model: &Weights, _: &mut dyn FnMut(usize, usize)) -> Result<Option<TaskReport>> {
        let nll = Self::loss(model.scales.iter().flatten().chain(&model.norm).copied(), 0.5);
        Ok(self.recall(1, None, nll))
    }

    fn recall(&self, n: usize, accuracy: Option<f64>, nll: f64) -> Option<TaskReport> {
        let task = "quadratic".to_owned();
        Some(TaskReport { task, n, accuracy, nll, ..Default::default() })
    }
}
