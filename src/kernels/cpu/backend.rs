//! The CPU's [`Kernels`].

use burn::tensor::ops::{FloatTensor, FloatTensorOps, IntTensor};
use burn::tensor::{Bytes, DType, FloatDType, Int, Shape, Tensor, TensorMetadata};
use burn_flex::{Flex, FlexTensor, Layout};
use bytemuck::NoUninit;
use rayon::prelude::*;

use super::linear::{self, Arithmetic, BackwardProduct, PackedProduct, WeightView};
use super::{attention, attention_backward, elementwise, elementwise_backward, halves, noise};
use crate::arch::Activation;
use crate::device::ComputeType;
use crate::kernels::{DeviceWeight, Kernels, KeyRanges, LinearGradients, MatmulPath, Scores};
use crate::packed::PackedWeight;
use crate::zo::direction::{Move, Signs};

impl Kernels for Flex {
    const PAIRED_TOKENS: usize = 1024;
    const UNPACKS_WHOLE_WEIGHTS: bool = false;

    fn supports(compute: ComputeType, _: &Self::Device) -> bool {
        match compute {
            ComputeType::F32 => true,
            ComputeType::F16 => false,
            ComputeType::Bf16 => Arithmetic::bf16().is_some(),
        }
    }

    /// Activations stay f32; in bf16 they are rounded inside the packed product alone, and only under a
    /// perturbation.
    fn tensor_type(_: ComputeType) -> DType {
        DType::F32
    }

    /// Burn's cast converts to f64 and back, on one thread.
    fn cast(x: FlexTensor, dtype: FloatDType) -> FlexTensor {
        match (x.dtype(), dtype) {
            (DType::F32, FloatDType::BF16) => {
                let x = x.to_contiguous();
                tensor(halves::narrow(x.storage()), x.shape(), DType::BF16)
            }
            (DType::BF16, FloatDType::F32) => {
                let x = x.to_contiguous();
                floats(halves::widen(x.storage()), x.shape())
            }
            _ => Self::float_cast(x, dtype),
        }
    }

    fn permute(x: FlexTensor, perm: IntTensor<Self>) -> FlexTensor {
        let (x, perm) = (x.to_contiguous(), perm.to_contiguous());
        floats(elementwise::permute(x.storage(), perm.storage()), x.shape())
    }

    fn permute_back(x: FlexTensor, perm: IntTensor<Self>) -> FlexTensor {
        let (x, perm) = (x.to_contiguous(), perm.to_contiguous());
        floats(elementwise::permute_back(x.storage(), perm.storage()), x.shape())
    }

    fn packed_linear<const N: usize>(
        _: MatmulPath,
        x: FlexTensor,
        weights: [&DeviceWeight<Self>; N],
        signs: Signs,
    ) -> Result<[FlexTensor; N], String> {
        let x = x.to_contiguous();
        let held = weights.map(held);
        let (mut in_f32, mut in_bf16) = (vec![], vec![]);
        for (place, (weight, held)) in weights.into_iter().zip(&held).enumerate() {
            let view = view(held);
            // An untrained weight is the head: rounding its input would go straight into the loss. And an
            // evaluation must give the figures that other programs get from the same file.
            let rounds = weight.compute == ComputeType::Bf16
                && weight.parameter.is_some()
                && signs != Signs::Neither
                && view.is_even();
            let products = if rounds { &mut in_bf16 } else { &mut in_f32 };
            products.push((place, PackedProduct { weight: view, parts: weight.parts(signs) }));
        }
        let f32 = Arithmetic::f32();
        let mut y = [const { Vec::new() }; N];
        for (products, arithmetic) in [(in_f32, f32), (in_bf16, Arithmetic::bf16().unwrap_or(f32))] {
            let (places, products): (Vec<_>, _) = products.into_iter().unzip();
            let results = linear::packed_linear(x.storage(), products, arithmetic);
            places.into_iter().zip(results).for_each(|(place, result)| y[place] = result);
        }
        let rows = x.shape()[0];
        Ok(std::array::from_fn(|i| floats(std::mem::take(&mut y[i]), [rows, weights[i].packed.out_features])))
    }

    /// The stored type: it halves the memory of most checkpoints.
    fn weight_type(stored: DType, _: ComputeType) -> DType {
        stored
    }

    fn dense_linear(x: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let (rows, out_features, in_features) = (x.shape()[0], weight.shape()[0], weight.shape()[1]);
        let x = x.storage::<f32>();
        let y = match weight.dtype() {
            DType::F16 => linear::dense_linear(x, weight.storage::<half::f16>(), in_features),
            DType::BF16 => linear::dense_linear(x, weight.storage::<half::bf16>(), in_features),
            _ => linear::dense_linear(x, weight.storage::<f32>(), in_features),
        };
        floats(y, [rows, out_features])
    }

    fn packed_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        keys: &KeyRanges<Self>,
        scores: Scores,
    ) -> FloatTensor<Self> {
        let [q, k, v] = [q, k, v].map(|t| t.to_contiguous());
        let bounds = int_primitive(&keys.bounds);
        let dims =
            attention::HeadSizes { heads: q.shape()[1], kv_heads: k.shape()[1], head_dim: q.shape()[2] };
        let y = attention::attention([&q, &k, &v].map(|t| t.storage()), bounds.storage(), dims, scores);
        floats(y, q.shape())
    }

    fn add(x: FlexTensor, y: FlexTensor) -> FlexTensor {
        // Into the one that nobody else holds, if there is one.
        let (mut sum, other) = if x.is_unique() { (owned(x), y) } else { (owned(y), x) };
        elementwise::add(sum.storage_mut(), other.to_contiguous().storage());
        sum
    }

    fn rms_norm(x: FlexTensor, weight: FlexTensor, eps: f32) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        floats(elementwise::rms_norm(x.storage(), weight.storage(), eps), x.shape())
    }

    fn rotate(x: [FlexTensor; 2], cos: FlexTensor, sin: FlexTensor) -> [FlexTensor; 2] {
        let [cos, sin] = [cos, sin].map(|t| t.to_contiguous());
        x.map(|x| {
            let dims =
                elementwise::RotatedHeads { heads: x.shape()[1], dim: x.shape()[2], half: cos.shape()[1] };
            let mut x = owned(x);
            elementwise::rotate(x.storage_mut(), cos.storage(), sin.storage(), dims);
            x
        })
    }

    fn write_rows(into: FlexTensor, rows: IntTensor<Self>, values: FlexTensor) -> FlexTensor {
        let (mut into, rows, values) = (owned(into), rows.to_contiguous(), values.to_contiguous());
        elementwise::write_rows(into.storage_mut(), rows.storage(), values.storage());
        into
    }

    fn gate_mul(gate: FlexTensor, up: FlexTensor, activation: Activation) -> FlexTensor {
        let mut gate = owned(gate);
        elementwise::gate_mul(gate.storage_mut(), up.to_contiguous().storage(), activation);
        gate
    }

    fn packed_linear_backward<const N: usize>(
        x: Option<FlexTensor>,
        weights: [&DeviceWeight<Self>; N],
        dy: [FlexTensor; N],
        wants_input: bool,
    ) -> LinearGradients<FlexTensor, N> {
        let x = x.map(|x| x.to_contiguous());
        let (held, dy) = (weights.map(held), dy.map(|dy| dy.to_contiguous()));
        let empty = |weight: &DeviceWeight<Self>| {
            let count = weight.packed.out_features * weight.packed.groups();
            floats(vec![0.0; count], [count])
        };
        let mut scales = x.as_ref().map(|_| weights.map(empty));
        let mut of_weights = scales.iter_mut().flatten();
        let products = held.iter().zip(&dy).map(|(held, dy)| BackwardProduct {
            weight: view(held),
            dy: dy.storage(),
            scales: of_weights.next().map(|scales| scales.storage_mut()),
        });
        let rounds = weights.iter().all(|weight| weight.compute == ComputeType::Bf16);
        let bf16 = Arithmetic::bf16().filter(|_| rounds);
        let dx = linear::packed_linear_backward(
            x.as_ref().map(|x| x.storage()),
            products.collect(),
            wants_input,
            bf16.unwrap_or(Arithmetic::f32()),
        );
        let shape = [dy[0].shape()[0], weights[0].packed.in_features];
        LinearGradients { input: dx.map(|dx| floats(dx, shape)), scales }
    }

    fn sum_of_products(a: FlexTensor, b: FlexTensor) -> FlexTensor {
        let (a, b) = (a.to_contiguous(), b.to_contiguous());
        let width = a.shape()[1];
        floats(elementwise_backward::sum_of_products(a.storage(), b.storage(), width), [width])
    }

    fn dense_linear_backward(dy: FlexTensor, weight: FlexTensor) -> FlexTensor {
        let (dy, weight) = (dy.to_contiguous(), weight.to_contiguous());
        let (rows, in_features) = (dy.shape()[0], weight.shape()[1]);
        let dy = dy.storage::<f32>();
        let dx = match weight.dtype() {
            DType::F16 => linear::dense_linear_backward(dy, weight.storage::<half::f16>(), in_features),
            DType::BF16 => linear::dense_linear_backward(dy, weight.storage::<half::bf16>(), in_features),
            _ => linear::dense_linear_backward(dy, weight.storage::<f32>(), in_features),
        };
        floats(dx, [rows, in_features])
    }

    fn packed_attention_backward(
        inputs: [FlexTensor; 3],
        dy: FlexTensor,
        keys: &KeyRanges<Self>,
        scores: Scores,
    ) -> [FlexTensor; 3] {
        let [q, k, v] = inputs.map(|t| t.to_contiguous());
        let (dy, bounds) = (dy.to_contiguous(), int_primitive(&keys.bounds));
        let sizes =
            attention::HeadSizes { heads: q.shape()[1], kv_heads: k.shape()[1], head_dim: q.shape()[2] };
        let inputs = [&q, &k, &v, &dy].map(|t| t.storage());
        let [dq, dk, dv] = attention_backward::attention_backward(inputs, bounds.storage(), sizes, scores);
        [floats(dq, q.shape()), floats(dk, k.shape()), floats(dv, v.shape())]
    }

    fn rms_norm_backward(x: FlexTensor, weight: FlexTensor, eps: f32, dy: FlexTensor) -> FlexTensor {
        let (x, weight) = (x.to_contiguous(), weight.to_contiguous());
        let mut dx = owned(dy);
        elementwise_backward::rms_norm_backward(x.storage(), weight.storage(), eps, dx.storage_mut());
        dx
    }

    fn gate_mul_backward(inputs: [FlexTensor; 2], dy: FlexTensor, activation: Activation) -> [FlexTensor; 2] {
        let (mut inputs, dy) = (inputs.map(owned), dy.to_contiguous());
        let [gate, up] = inputs.each_mut().map(|input| input.storage_mut());
        elementwise_backward::gate_mul_backward(gate, up, dy.storage(), activation);
        inputs
    }

    fn move_scales(scales: FlexTensor, parameter: u32, displacement: Move) -> FlexTensor {
        const CHUNK: usize = 4096;
        let mut scales = scales.to_contiguous();
        scales.storage_mut::<f32>().par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, scales)| {
            let mut k = [0i32; CHUNK];
            let k = &mut k[..scales.len()];
            noise::fill(displacement.direction, parameter, (chunk * CHUNK) as u32, k);
            for (s, k) in scales.iter_mut().zip(k) {
                *s = displacement.apply(*s, *k);
            }
        });
        scales
    }
}

/// `values` as a tensor.
fn floats(values: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    tensor(values, shape, DType::F32)
}

/// `values`, which are of type `dtype`, as a tensor.
fn tensor<T: NoUninit + Send + Sync>(values: Vec<T>, shape: impl Into<Shape>, dtype: DType) -> FlexTensor {
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape.into()), dtype)
}

/// The tensors of a weight, held while a product reads them as slices.
type HeldWeight = PackedWeight<FlexTensor, FlexTensor, FlexTensor>;

fn held(weight: &DeviceWeight<Flex>) -> HeldWeight {
    weight.packed.as_ref().map(int_primitive, int_primitive, float_primitive)
}

fn view(held: &HeldWeight) -> WeightView<'_> {
    held.as_ref().map(
        |words| bytemuck::cast_slice(words.storage::<i32>()),
        |bytes| bytemuck::cast_slice(bytes.storage::<i32>()),
        |floats| floats.storage(),
    )
}

/// The tensor itself where it is contiguous and nobody else holds it, so that it is written in place.
fn owned(tensor: FlexTensor) -> FlexTensor {
    let contiguous = tensor.to_contiguous();
    drop(tensor);
    contiguous
}

fn float_primitive(tensor: &Tensor<Flex, 1>) -> FlexTensor {
    tensor.clone().into_primitive().tensor().to_contiguous()
}

fn int_primitive(tensor: &Tensor<Flex, 1, Int>) -> FlexTensor {
    tensor.clone().into_primitive().to_contiguous()
}
