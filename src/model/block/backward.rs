//! The backward pass of a decoder block. It computes the block's activations again from the block's input.

use burn::tensor::activation::relu;
use burn::tensor::{IndexingUpdateOp, Tensor};

use super::{DecoderBlock, Expand};
use crate::arch::ModelConfig;
use crate::kernels::{self, Kernels};
use crate::model::gradient::ScaleForm;
use crate::model::linear::{Gradients, LinearOutput};
use crate::model::norm::{Norm, Norms};
use crate::model::pass::{OutputRows, Pass};

/// The inputs of attention's softmax, and what they are computed from.
struct Attention<B: Kernels> {
    /// The products of the projections, `[T, width]` each, where something else needs them.
    products: Option<[Tensor<B, 2>; 3]>,
    /// Queries and keys, normed where the model norms them, and rotated; values. `[T, heads, head_dim]`
    inputs: [Tensor<B, 3>; 3],
}

/// The ends of a block, or of its MLP: what went in and came out, `[T, hidden]`.
pub struct Ends<B: Kernels> {
    pub x: Tensor<B, 2>,
    /// The result, where factors of rows are trained.
    pub y: Option<Tensor<B, 2>>,
    /// The gradient of the result.
    pub dy: Tensor<B, 2>,
}

/// A place where `y`, the output of attention or the MLP, was added to the residual.
struct Addition<B: Kernels> {
    /// `y`, where an output norm needs it.
    y: Option<Tensor<B, 2>>,
    /// The sum, where it is normed.
    sum: Option<Tensor<B, 2>>,
}

impl<B: Kernels> DecoderBlock<B> {
    /// The backward pass of [`Self::forward_rows`] without a cache: to the gradient of its input, if that is wanted, and
    /// those of the scales.
    pub fn backward(
        &self,
        Ends { x, y: out, dy }: Ends<B>,
        rows: Option<OutputRows<'_, B>>,
        pass: &Pass<B>,
        config: &ModelConfig,
        gradients: &mut Gradients<B>,
    ) -> Option<Tensor<B, 2>> {
        let [_, h] = self.attention_norms.input(x.clone().into());
        let products = self.qkv.forward(h, pass.signs);
        let is_needed = self.q_norm.is_some() || self.k_norm.is_some() || gradients.form != ScaleForm::Scales;
        let kept = is_needed.then(|| products.clone());
        let inputs = self.attention_inputs(products, pass, config);
        let [q, k, v] = inputs.clone();
        let attended = self.softmax(q, k, v, pass, config).reshape([0, -1]);
        let attention = Attention { products: kept, inputs };
        let [x_out, attended] = match &rows {
            Some(OutputRows { rows, .. }) => [x.clone(), attended].map(|x| x.select(0, (*rows).clone())),
            None => [x.clone(), attended],
        };
        let o = self.o_proj.forward(attended.clone(), pass.signs);
        // Held only where something needs it.
        let y = Some(o.clone()).filter(|_| gradients.form != ScaleForm::Scales);
        let (middle, addition) = Addition::new(&self.attention_norms, x_out, o);

        let d_middle = self.mlp_backward(Ends { x: middle, y: out, dy }, pass, gradients);
        let [dx_out, d_o] = addition.backward(&self.attention_norms, d_middle, gradients);
        let product = LinearOutput { y, dy: d_o };
        let d_attended = self.o_proj.backward(attended, product, true, gradients)?;
        let [dx, d_attended] = match rows {
            Some(OutputRows { rows, count }) => [dx_out, d_attended].map(|d| {
                let width = d.dims()[1];
                let zeros = Tensor::zeros([count, width], (&d.device(), d.dtype()));
                zeros.select_assign(0, rows.clone(), d, IndexingUpdateOp::Add)
            }),
            None => [dx_out, d_attended],
        };
        let dh = self.attention_backward(&x, attention, d_attended, pass, config, gradients)?;
        Some(self.attention_norms.input_backward(x, dh, dx, gradients))
    }

    /// The backward pass of attention up to its softmax: returns the gradient of the normed `x`, if it is wanted.
    fn attention_backward(
        &self,
        x: &Tensor<B, 2>,
        attention: Attention<B>,
        d_attended: Tensor<B, 2>,
        pass: &Pass<B>,
        config: &ModelConfig,
        gradients: &mut Gradients<B>,
    ) -> Option<Tensor<B, 2>> {
        let Attention { products, inputs } = attention;
        let shared = pass.attention_inputs(self.sliding);
        let d_attended = d_attended.reshape(inputs[0].dims());
        let [dq, dk, dv] = kernels::attention_backward(inputs, d_attended, &shared.keys, self.scores(config));
        let [dq, dk] = match self.rotation(pass) {
            Some(rotation) => rotation.backward([dq, dk]),
            None => [dq, dk],
        };
        let [dq, dk, dv] = [dq, dk, dv].map(|dy| {
            let [rows, heads, dim] = dy.dims();
            dy.reshape([rows, heads * dim])
        });
        let [dq, dk] = match &products {
            Some([q, k, _]) => {
                let mut normed = |x: &Tensor<B, 2>, dy: Tensor<B, 2>, norm: &Option<Norm<B>>| match norm {
                    Some(norm) => norm.groups_backward(x.clone(), dy, gradients),
                    None => dy,
                };
                [normed(q, dq, &self.q_norm), normed(k, dk, &self.k_norm)]
            }
            None => [dq, dk],
        };
        let mut y = products.into_iter().flatten();
        let products = [dq, dk, dv].map(|dy| LinearOutput { y: y.next(), dy });
        // A trained norm needs the gradient of its result.
        let is_trained = self.attention_norms.input.as_ref().is_some_and(Norm::is_trained);
        let [_, h] = self.attention_norms.input(x.clone().into());
        self.qkv.backward(h, products, gradients.of_input || is_trained, gradients)
    }

    /// The backward pass of the MLP with its norms and its addition to the residual `x`.
    fn mlp_backward(
        &self,
        Ends { x, y, dy }: Ends<B>,
        pass: &Pass<B>,
        gradients: &mut Gradients<B>,
    ) -> Tensor<B, 2> {
        let norms = &self.mlp_norms;
        let [_, h] = norms.input(x.clone().into());
        let products = match &self.expand {
            Expand::Gated { gate_up, .. } => gate_up.forward(h.clone(), pass.signs).to_vec(),
            Expand::Relu(up) => vec![up.forward(h.clone(), pass.signs)],
        };
        let expanded = match (&self.expand, &products[..]) {
            (Expand::Gated { activation, .. }, [gate, up]) => {
                kernels::gate_mul(gate.clone(), up.clone(), *activation)
            }
            _ => relu(products[0].clone()),
        };
        // The last product is computed again only where a norm depends on it. Elsewhere it is what the MLP added to `x`.
        let is_normed = norms.output.is_some() || norms.sum.is_some();
        let (down, addition) = if is_normed {
            let down = self.down_proj.forward(expanded.clone(), pass.signs);
            let addition = Addition::new(norms, x.clone(), down.clone()).1;
            (Some(down), addition)
        } else {
            (y.map(|y| y - x.clone()), Addition { y: None, sum: None })
        };
        let [dx, d_down] = addition.backward(norms, dy, gradients);
        let product = LinearOutput { y: down.filter(|_| gradients.form != ScaleForm::Scales), dy: d_down };
        let Some(d_expanded) = self.down_proj.backward(expanded, product, true, gradients) else { return dx };
        let kept: Vec<_> = match gradients.form {
            ScaleForm::Scales => vec![],
            _ => products.clone(),
        };
        let mut kept = kept.into_iter();
        let mut products = products.into_iter();
        let dh = match (&self.expand, products.next(), products.next()) {
            (Expand::Gated { gate_up, activation }, Some(gate), Some(up)) => {
                let products = kernels::gate_mul_backward(gate, up, d_expanded, *activation);
                let products = products.map(|dy| LinearOutput { y: kept.next(), dy });
                gate_up.backward(h, products, true, gradients)
            }
            (Expand::Relu(up), Some(y), _) => {
                let dy = d_expanded.mask_fill(y.lower_equal_elem(0.0), 0.0);
                up.backward(h, LinearOutput { y: kept.next(), dy }, true, gradients)
            }
            _ => None,
        };
        match dh {
            Some(dh) => norms.input_backward(x, dh, dx, gradients),
            None => dx,
        }
    }
}

impl<B: Kernels> Addition<B> {
    /// Adds `y` to the residual `x`. Returns the result, too.
    fn new(norms: &Norms<B>, x: Tensor<B, 2>, y: Tensor<B, 2>) -> (Tensor<B, 2>, Self) {
        let kept = norms.output.is_some().then(|| y.clone());
        let y = match &norms.output {
            Some(norm) => norm.forward(y),
            None => y,
        };
        let sum = kernels::add(x, y);
        match &norms.sum {
            Some(norm) => (norm.forward(sum.clone()), Self { y: kept, sum: Some(sum) }),
            None => (sum, Self { y: kept, sum: None }),
        }
    }

    /// From the gradient of the result to those of `x` and `y`.
    fn backward(self, norms: &Norms<B>, d: Tensor<B, 2>, gradients: &mut Gradients<B>) -> [Tensor<B, 2>; 2] {
        let dx = match (&norms.sum, self.sum) {
            (Some(norm), Some(sum)) => norm.backward(sum, d, gradients),
            _ => d,
        };
        let dy = match (&norms.output, self.y) {
            (Some(norm), Some(y)) => norm.backward(y, dx.clone(), gradients),
            _ => dx.clone(),
        };
        [dx, dy]
    }
}
