//! Compares gradients with those of PyTorch (scripts/fixtures/gradients.py), on every available backend.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::super::{
    BackwardPass, BlockInputs, GradientSink, LanguageModel, ModelInput, ScaleForm, ScaleGradient, Scales,
    Tables, Update, compute_type, load,
};
use super::{TOLERANCE, root};
use crate::arch::{TensorKind, TensorKinds};
use crate::checkpoint::Checkpoint;
use crate::data::{Sequence, Target};
use crate::device::{ComputeType, Device, DtypeSpec};
use crate::error::Result;

/// Takes the gradients of a backward pass, for a loss of given coefficients of the log-probabilities.
struct Recorded {
    coefficients: Vec<f32>,
    log_probs: Vec<f32>,
    blocks: usize,
    gradients: Vec<ScaleGradient>,
}

impl GradientSink for Recorded {
    fn pull(&mut self, log_probs: &[f32]) -> Result<Option<Vec<f32>>> {
        self.log_probs = log_probs.to_vec();
        Ok(Some(self.coefficients.clone()))
    }

    fn block(&mut self, gradients: Vec<ScaleGradient>, _: &mut dyn Scales) -> Result<()> {
        self.blocks += 1;
        self.gradients.extend(gradients);
        Ok(())
    }
}

/// A case of scripts/fixtures/gradients.py.
struct GradientCase {
    name: String,
    model: PathBuf,
    tokens: Vec<u32>,
    sequences: Vec<Sequence>,
    targets: Vec<Target>,
    coefficients: Vec<f32>,
    log_probs: Vec<f32>,
    gradients: BTreeMap<String, Vec<f32>>,
    /// Derivatives by the tensors that can be trained beside the scales.
    tensors: BTreeMap<String, Vec<f32>>,
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

fn gradient_cases() -> Vec<GradientCase> {
    let folder = root().join("tests/fixtures/gradients");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    assert!(paths.len() >= 29, "{paths:?}");
    let case = |path: PathBuf| {
        let case: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let (mut tokens, mut sequences) = (vec![], vec![]);
        for sequence in case["sequences"].as_array().unwrap() {
            let start = tokens.len();
            tokens.extend(sequence.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32));
            sequences.push(Sequence::alone(start..tokens.len()));
        }
        let pair = |pair: &Value| [0, 1].map(|i| pair[i].as_u64().unwrap() as u32);
        let targets = case["targets"].as_array().unwrap().iter().map(pair);
        let gradients = case["gradients"].as_object().unwrap().iter();
        let tensors = [("minima", ".minima"), ("norms", ""), ("biases", "")].map(|(kind, ending)| {
            let tensors = case[kind].as_object().unwrap().iter();
            tensors.map(move |(name, values)| (format!("{name}{ending}"), floats(values)))
        });
        GradientCase {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            model: root().join("tests/fixtures").join(case["model"].as_str().unwrap()),
            tokens,
            sequences,
            targets: targets.map(|[row, token]| Target { row, token }).collect(),
            coefficients: floats(&case["coefficients"]),
            log_probs: floats(&case["log_probs"]),
            gradients: gradients.map(|(name, values)| (name.clone(), floats(values))).collect(),
            tensors: tensors.into_iter().flatten().collect(),
        }
    };
    paths.into_iter().map(case).collect()
}

impl GradientCase {
    fn open(&self, device: &Device, dtype: ComputeType) -> Box<dyn LanguageModel> {
        let checkpoint = Arc::new(Checkpoint::open(&self.model).unwrap());
        load(checkpoint, device, dtype, Tables::InFile, &mut |_, _| ()).unwrap()
    }

    fn backward(&self, model: &mut dyn LanguageModel, backward: BackwardPass) -> Recorded {
        let mut sink = Recorded {
            coefficients: self.coefficients.clone(),
            log_probs: vec![],
            blocks: 0,
            gradients: vec![],
        };
        let input = ModelInput { tokens: &self.tokens, sequences: &self.sequences };
        model.gradient(input, &self.targets, backward, &mut sink).unwrap();
        sink
    }

    /// The case with the four tokens that both sequences begin with as a prefix that they share.
    fn with_shared_prefix(mut self) -> Self {
        let begin = self.sequences[1].rows.start;
        assert_eq!(self.tokens[..4], self.tokens[begin..begin + 4]);
        self.tokens.drain(begin..begin + 4);
        let continued = |rows| Sequence { rows, prefix: 0..4 };
        let end = self.tokens.len();
        self.sequences = vec![Sequence::alone(0..4), continued(4..begin), continued(begin..end)];
        for target in &mut self.targets {
            let begin = begin as u32;
            target.row -= match target.row.checked_sub(begin) {
                None => 0,
                Some(at) if at < 4 => begin,
                Some(_) => 4,
            };
        }
        self
    }
}

fn whole(blocks: usize) -> BackwardPass {
    BackwardPass { tail_blocks: blocks, form: ScaleForm::Scales, inputs: BlockInputs::OnDevice, body: None }
}

/// Compares gradients with those of PyTorch (scripts/fixtures/gradients.py): every family, every kind of levels.
fn gradients_agree_with_pytorch(device: &Device) {
    let shared = gradient_cases().into_iter().map(GradientCase::with_shared_prefix);
    for case in gradient_cases().into_iter().chain(shared) {
        let mut model = case.open(device, ComputeType::F32);
        let blocks = model.config().num_hidden_layers;
        let got = case.backward(model.as_mut(), whole(blocks));
        assert_eq!(got.blocks, blocks, "{}", case.name);
        for (got, want) in got.log_probs.iter().zip(&case.log_probs) {
            assert!((got - want).abs() < TOLERANCE as f32, "{}: {got} {want}", case.name);
        }
        let names: Vec<_> = got.gradients.iter().map(|g| &model.trained()[g.parameter as usize]).collect();
        assert_eq!(names.len(), case.gradients.len(), "{}", case.name);
        for (gradient, name) in got.gradients.iter().zip(names) {
            let error = largest_error(&gradient.values, &case.gradients[name]);
            assert!(error < TOLERANCE, "{} {name}: {error:e}", case.name);
        }
    }
}

/// The model of a case, with all its tensors trained.
fn open_to_train_tensors(case: &GradientCase, device: &Device) -> Box<dyn LanguageModel> {
    let checkpoint = Arc::new(Checkpoint::open(&case.model).unwrap());
    let has = |ending: &str| case.tensors.keys().any(|name| name.ends_with(ending));
    let kinds = TensorKinds { minima: has(".minima"), norms: true, biases: has("_proj.bias") };
    let tensors = checkpoint.trained_tensors(kinds, checkpoint.config().num_hidden_layers).unwrap();
    assert!(tensors.iter().map(|tensor| &tensor.name).eq(case.tensors.keys()), "{}: {tensors:?}", case.name);
    let mut model = load(checkpoint, device, ComputeType::F32, Tables::InFile, &mut |_, _| ()).unwrap();
    model.train_tensors(tensors).unwrap();
    model
}

/// Minima, norms and biases, for each form of the scales, whose gradients stay what they are.
fn gradients_of_tensors_agree_with_pytorch(device: &Device) {
    let shared = gradient_cases().into_iter().map(GradientCase::with_shared_prefix);
    let mut compared = 0;
    for case in gradient_cases().into_iter().chain(shared) {
        let mut model = open_to_train_tensors(&case, device);
        let (blocks, weights) = (model.config().num_hidden_layers, model.trained().len());
        for form in [ScaleForm::Scales, ScaleForm::Rows, ScaleForm::Factors] {
            let got = case.backward(model.as_mut(), BackwardPass { form, ..whole(blocks) }).gradients;
            assert_eq!(got.len(), weights + case.tensors.len(), "{}", case.name);
            for ScaleGradient { parameter, values } in got {
                let Some(index) = (parameter as usize).checked_sub(weights) else {
                    if form == ScaleForm::Scales {
                        let want = &case.gradients[&model.trained()[parameter as usize]];
                        assert!(largest_error(&values, want) < TOLERANCE, "{}", case.name);
                    }
                    continue;
                };
                let name = &model.tensors()[index].name;
                let want = &case.tensors[name];
                // The bias of OPT's keys has no effect.
                let largest = want.iter().fold(0.1f32, |largest, x| largest.max(x.abs()));
                assert_eq!(values.len(), want.len(), "{} {name}", case.name);
                for (got, want) in values.iter().zip(want) {
                    let error = f64::from((got - want).abs() / largest);
                    assert!(error < TOLERANCE, "{} {name}: {got} {want}", case.name);
                }
                compared += 1;
            }
        }
        let last = case.backward(model.as_mut(), whole(1)).gradients;
        let of_last = |name: &str| name.contains(&format!("layers.{}.", blocks - 1));
        let names = model.trained().iter().chain(model.tensors().iter().map(|tensor| &tensor.name));
        assert_eq!(last.len(), names.filter(|name| of_last(name)).count(), "{}", case.name);
    }
    assert!(compared > 1000, "{compared}");
}

/// Moves all tensors a little along their gradients, both ways.
fn a_step_along_the_gradients_of_tensors_changes_the_loss_as_they_say(device: &Device) {
    for case in gradient_cases() {
        let mut model = open_to_train_tensors(&case, device);
        let (blocks, weights) = (model.config().num_hidden_layers, model.trained().len());
        let gradients = case.backward(model.as_mut(), whole(blocks)).gradients;
        let mut moves = Vec::new();
        for ScaleGradient { parameter, mut values } in gradients {
            let Some(tensor) = (parameter as usize).checked_sub(weights).map(|i| model.tensors()[i].clone())
            else {
                continue;
            };
            if tensor.kind == TensorKind::Minima {
                let scales = model.scales(tensor.weight()).unwrap();
                values.iter_mut().zip(scales).for_each(|(g, scale)| *g *= scale);
            }
            moves.push((model.tensor(&tensor.name).unwrap(), values, tensor.name));
        }
        let squares: f64 = moves.iter().flat_map(|(_, g, _)| g.iter()).map(|g| f64::from(*g).powi(2)).sum();
        let step = 2e-3 / squares.sqrt();
        let mut loss_at = |step: f64| {
            for (start, gradient, name) in &moves {
                let moved = |(start, g): (&f32, &f32)| start + (step * f64::from(*g)) as f32;
                let values: Vec<f32> = start.iter().zip(gradient.iter()).map(moved).collect();
                model.apply(Update::Tensor { name, values: &values }).unwrap();
                assert_eq!(model.tensor(name).unwrap(), values);
            }
            let log_probs = case.backward(model.as_mut(), whole(1)).log_probs;
            log_probs.iter().zip(&case.coefficients).map(|(p, c)| f64::from(p * c)).sum::<f64>()
        };
        let [more, less] = [step, -step].map(&mut loss_at);
        let expected = 2.0 * step * squares;
        assert!(
            (more - less - expected).abs() < 0.01 * expected,
            "{}: {} {expected}",
            case.name,
            more - less
        );
    }
}

/// Largest difference, relative to the largest number.
fn largest_error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
    let error = got.iter().zip(want).map(|(got, want)| (got - want).abs()).fold(0.0, f32::max);
    f64::from(error / largest)
}

/// The gradients of factors are sums of those of scales; the last blocks alone have the gradients that they have among
/// all; the place of the blocks' inputs changes nothing.
fn gradients_of_factors_and_of_the_last_blocks(device: &Device) {
    for case in gradient_cases() {
        let mut model = case.open(device, ComputeType::F32);
        let blocks = model.config().num_hidden_layers;
        let mut run = |tail_blocks, form| {
            let all = BackwardPass { form, ..whole(blocks) };
            case.backward(model.as_mut(), BackwardPass { tail_blocks, ..all })
        };
        let [scales, rows, factors] =
            [ScaleForm::Scales, ScaleForm::Rows, ScaleForm::Factors].map(|form| run(blocks, form).gradients);
        let last = run(1, ScaleForm::Scales).gradients;
        assert_eq!(last, scales[..last.len()], "{}", case.name);
        let on_host = BackwardPass { inputs: BlockInputs::OnHost, ..whole(blocks) };
        assert_eq!(case.backward(model.as_mut(), on_host).gradients, scales, "{}", case.name);
        for ((scales, rows), factors) in scales.iter().zip(&rows).zip(&factors) {
            assert_eq!([rows.parameter, factors.parameter], [scales.parameter; 2]);
            let (out, groups) = (rows.values.len(), scales.values.len() / rows.values.len());
            let of_row = |row: usize| scales.values[row * groups..][..groups].iter().sum::<f32>();
            let of_group =
                |group: usize| (0..out).map(|row| scales.values[row * groups + group]).sum::<f32>();
            let want: Vec<f32> = (0..out).map(of_row).chain((0..groups).map(of_group)).collect();
            assert!(largest_error(&rows.values, &want[..out]) < 10.0 * TOLERANCE, "{}", case.name);
            assert!(largest_error(&factors.values, &want) < 10.0 * TOLERANCE, "{}", case.name);
        }
    }
}

/// In bf16 the gradient keeps its direction.
fn gradients_in_bf16_keep_their_direction(device: &Device) {
    if compute_type(device, DtypeSpec::Fixed(ComputeType::Bf16)).is_err() {
        return;
    }
    for case in gradient_cases() {
        let mut model = case.open(device, ComputeType::Bf16);
        let blocks = model.config().num_hidden_layers;
        let got = case.backward(model.as_mut(), whole(blocks));
        let (mut product, mut squares) = (0.0, [0.0; 2]);
        for gradient in &got.gradients {
            let want = &case.gradients[&model.trained()[gradient.parameter as usize]];
            for (got, want) in gradient.values.iter().zip(want).map(|(g, w)| (f64::from(*g), f64::from(*w))) {
                product += got * want;
                squares = [squares[0] + got * got, squares[1] + want * want];
            }
        }
        let cosine = product / (squares[0] * squares[1]).sqrt();
        assert!(cosine > 0.98, "{}: {cosine}", case.name);
    }
}

on_every_device! {
    gradients_agree_with_pytorch,
    gradients_of_tensors_agree_with_pytorch,
    a_step_along_the_gradients_of_tensors_changes_the_loss_as_they_say,
    gradients_of_factors_and_of_the_last_blocks,
    gradients_in_bf16_keep_their_direction,
}
