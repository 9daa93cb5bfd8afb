//! The backward pass of the decoder. The forward pass keeps only the inputs of the blocks that will be differentiated;
//! each of these computes its activations again, hands its gradients over and drops everything.

use burn::tensor::activation::softmax;
use burn::tensor::{DType, IndexingUpdateOp, Int, Tensor, TensorData};

use super::Decoder;
use crate::data::Target;
use crate::device::ComputeType;
use crate::error::{Error, Result};
use crate::kernels::{
    HostFloats, Kernels, Reading, cast, finish, read, read_beside, read_later, settle, upload_beside,
};
use crate::model::block::Ends;
use crate::model::gradient::{BackwardPass, BlockInputs, GradientSink, ScaleForm, ScaleGradient};
use crate::model::language_model::ModelInput;
use crate::model::linear::Gradients;
use crate::model::norm::Residual;
use crate::model::pass::OutputRows;
use crate::model::scoring::{self, Chunk, LOGIT_BYTES};
use crate::zo::direction::Signs;

/// The input of a block between its forward and its backward pass.
enum KeptInput<B: Kernels> {
    OnDevice(Tensor<B, 2>),
    /// On its way to the host; the device still holds it.
    Leaving(Reading),
    OnHost(TensorData),
}

impl<B: Kernels> KeptInput<B> {
    fn keep(x: Tensor<B, 2>, place: BlockInputs) -> Self {
        match place {
            BlockInputs::OnDevice => Self::OnDevice(x),
            BlockInputs::OnHost => Self::Leaving(read_beside(x)),
        }
    }

    /// Waits until it is where it is kept.
    fn arrived(self) -> Result<Self> {
        match self {
            Self::Leaving(reading) => reading.wait().map(Self::OnHost),
            kept => Ok(kept),
        }
    }

    /// The input, which may be used once the device has [settled](settle).
    fn restore(self, device: &B::Device) -> Result<Tensor<B, 2>> {
        let data = match self {
            Self::OnDevice(x) => return Ok(x),
            Self::Leaving(reading) => reading.wait()?,
            Self::OnHost(data) => data,
        };
        Ok(upload_beside(data, device))
    }
}

/// The gradients of one block on their way to the host: for each parameter its parts.
type LeavingGradients = Vec<(u32, Vec<Reading>)>;

impl<B: Kernels> Decoder<B> {
    /// See [`LanguageModel::gradient`](crate::model::LanguageModel::gradient).
    pub(super) fn forward_and_backward(
        &mut self,
        input: ModelInput<'_>,
        targets: &[Target],
        BackwardPass { tail_blocks, form, inputs: place, body }: BackwardPass,
        sink: &mut dyn GradientSink,
    ) -> Result<()> {
        if targets.is_empty() {
            return Err(Error::internal("a backward pass without targets"));
        }
        let (count, blocks) = (input.tokens.len(), self.layers.len());
        let first = blocks.saturating_sub(tail_blocks);
        self.free_for_pass(count, targets.len());
        let (x, pass) = self.prepare(input, 1)?;
        let body = pass.with(body.map_or(Signs::Centre, Signs::One));
        let pass = pass.with(Signs::Centre);
        let vocab = self.checkpoint.config().vocab_size;
        let limit = (LOGIT_BYTES / 4 / vocab).max(1);
        let (rows, targets) = scoring::ranked(targets);
        let scored = (rows.len() < count).then(|| scoring::indices::<B>(&rows, [1, count], &self.device));
        let chunks = scoring::chunks::<B>(&targets, [1, rows.len()], limit, vocab, &self.device);

        let (mut residual, mut inputs) = (Residual::from(x), Vec::with_capacity(blocks - first));
        for (index, layer) in self.layers.iter().enumerate() {
            if index >= first {
                let x = residual.sum();
                // The device goes on with the block before while the host waits for that block's input.
                if let Some(last) = inputs.pop() {
                    inputs.push(KeptInput::arrived(last)?);
                }
                // The last block's input is needed again at once.
                let place = if index + 1 == blocks { BlockInputs::OnDevice } else { place };
                inputs.push(KeptInput::keep(self.kept(x.clone()), place));
                residual = x.into();
            }
            let rows = scored.as_ref().filter(|_| index + 1 == blocks);
            let pass = if index < first { &body } else { &pass };
            residual = layer.forward_rows(rows, residual, pass, self.checkpoint.config(), None);
        }
        drop(body);
        let last = residual.sum();
        let hidden = self.finish(last.clone().into());
        let Some(d_hidden) = self.head_backward(hidden, &chunks, targets.len(), sink)? else { return Ok(()) };
        let mut output = (form != ScaleForm::Scales).then(|| last.clone());
        let mut dy = match &self.norm {
            Some(norm) => {
                let mut unused = Gradients { form, of_input: true, found: Vec::new() };
                norm.backward(last, d_hidden, &mut unused)
            }
            None => d_hidden,
        };
        // While the device computes one block, the host updates the one before.
        let mut leaving: Option<LeavingGradients> = None;
        let mut restored = inputs.pop().map(|x| x.restore(&self.device)).transpose()?;
        for index in (first..blocks).rev() {
            let Some(x) = restored else { return Err(Error::internal("a block without its input")) };
            settle::<B>(&self.device);
            let x = cast(x, B::tensor_type(self.compute));
            // The input of the block before is copied beside the products of this one.
            restored = inputs.pop().map(|x| x.restore(&self.device)).transpose()?;
            let rows = scored.as_ref().filter(|_| index + 1 == blocks);
            let rows = rows.map(|rows| OutputRows { rows, count });
            let mut gradients = Gradients { form, of_input: index > first, found: Vec::new() };
            let config = self.checkpoint.config();
            let y = output.take();
            output = (form != ScaleForm::Scales).then(|| x.clone());
            let dx = self.layers[index].backward(Ends { x, y, dy }, rows, &pass, config, &mut gradients);
            let found = gradients.found.into_iter();
            let found =
                found.map(|(parameter, parts)| (parameter, parts.into_iter().map(read_later).collect()));
            let before = leaving.replace(found.collect());
            self.hand_over(before, sink)?;
            match dx {
                Some(dx) => dy = dx,
                None => break,
            }
        }
        self.hand_over(leaving, sink)?;
        finish::<B>(&self.device)
    }

    /// Gives a block's gradients to the sink.
    fn hand_over(&mut self, gradients: Option<LeavingGradients>, sink: &mut dyn GradientSink) -> Result<()> {
        let Some(gradients) = gradients else { return Ok(()) };
        let arrived = gradients.into_iter().map(|(parameter, parts)| {
            let parts = parts.into_iter().map(|part| part.wait().map(HostFloats::from));
            let mut parts = parts.collect::<Result<Vec<_>>>()?;
            let values = match parts.len() {
                1 => parts.remove(0),
                _ => parts.iter().flat_map(|part| part.iter().copied()).collect(),
            };
            Ok(ScaleGradient { parameter, values })
        });
        let arrived = arrived.collect::<Result<_>>()?;
        sink.block(arrived, self)
    }

    /// A block's input as it is kept until its backward pass: in bf16, if the model computes in bf16.
    fn kept(&self, x: Tensor<B, 2>) -> Tensor<B, 2> {
        match self.compute {
            ComputeType::Bf16 => cast(x, DType::BF16),
            _ => x,
        }
    }

    /// Scores the targets in `hidden`, `[R, hidden]`, and returns the gradient of `hidden`; `None` if the sink ends the
    /// pass.
    fn head_backward(
        &self,
        hidden: Tensor<B, 2>,
        chunks: &[Chunk<B>],
        targets: usize,
        sink: &mut dyn GradientSink,
    ) -> Result<Option<Tensor<B, 2>>> {
        let of_chunk = |chunk: &Chunk<B>| {
            let product = self.lm_head.forward(self.projected(chunk, &hidden), Signs::Centre);
            self.capped(product.cast(DType::F32))
        };
        // One chunk of logits is kept; several are computed again.
        let mut kept = None;
        let mut results = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            let logits = of_chunk(chunk);
            results.push(chunk.log_probs(logits.clone()));
            kept = Some(logits).filter(|_| chunks.len() == 1);
        }
        let mut log_probs = vec![0.0; targets];
        let indices = chunks.iter().flat_map(|chunk| &chunk.indices);
        indices.zip(read(Tensor::cat(results, 0))?).for_each(|(index, result)| log_probs[*index] = result);
        let Some(pull) = sink.pull(&log_probs)? else { return Ok(None) };
        let dtype = hidden.dtype();
        let mut d_hidden = Tensor::zeros(hidden.shape(), (&self.device, dtype));
        for chunk in chunks {
            let logits = kept.take().unwrap_or_else(|| of_chunk(chunk));
            let d_logits = chunk.d_logits(logits.clone(), &pull);
            let d_logits = match self.checkpoint.config().final_logit_softcapping {
                Some(cap) => {
                    let share = logits / cap;
                    d_logits * (share.clone() * share).neg().add_scalar(1.0)
                }
                None => d_logits,
            };
            let d = self.d_projected(d_logits.cast(dtype))?;
            d_hidden = d_hidden.select_assign(0, chunk.rows.clone(), d, IndexingUpdateOp::Add);
        }
        Ok(Some(d_hidden))
    }

    /// The rows of a chunk, as the head's matrix reads them.
    fn projected(&self, chunk: &Chunk<B>, hidden: &Tensor<B, 2>) -> Tensor<B, 2> {
        let hidden = hidden.clone().select(0, chunk.rows.clone());
        match &self.project_out {
            Some(project_out) => project_out.forward(hidden, Signs::Neither),
            None => hidden,
        }
    }

    /// From the gradient of the head's product to that of the hidden states.
    fn d_projected(&self, d_logits: Tensor<B, 2>) -> Result<Tensor<B, 2>> {
        let linears = [Some(&self.lm_head), self.project_out.as_ref()];
        let d = linears.into_iter().flatten().try_fold(d_logits, |dy, linear| linear.input_gradient(dy));
        d.ok_or_else(|| Error::internal("the head gave no gradient"))
    }
}

impl<B: Kernels> Chunk<B> {
    /// The gradient of logits `[R, vocab]`, given the derivatives `pull` of the loss with respect to each result, which
    /// [`Self::indices`] number: softmax minus target, for each result.
    fn d_logits(&self, logits: Tensor<B, 2>, pull: &[f32]) -> Tensor<B, 2> {
        let device = logits.device();
        let shape = logits.dims();
        let pulls: Vec<f32> = self.indices.iter().map(|index| pull[*index]).collect();
        let pulls = Tensor::<B, 1>::from_data(TensorData::from(&pulls[..]), (&device, DType::F32));
        let zeros = |length: usize| Tensor::<B, 1>::zeros([length], (&device, DType::F32));
        let add = |to: Tensor<B, 1>, at: &Tensor<B, 1, Int>| {
            to.select_assign(0, at.clone(), pulls.clone(), IndexingUpdateOp::Add)
        };
        let of_rows = add(zeros(shape[0]), self.row_index()).reshape([shape[0], 1]);
        let d = (softmax(logits, 1) * of_rows).neg();
        add(d.reshape([-1]), self.logit_index()).reshape(shape)
    }
}
