//! The [`Kernels`] of cubecl's backends.

use burn::tensor::backend::Backend;
use burn::tensor::ops::{FloatTensor, IntTensor};
use burn::tensor::{DType, TensorData};
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::{BoolElement, CubeBackend, CubeRuntime, FloatElement, IntElement};

use super::buffers::{empty_like, int_buffer};
use super::cublas;
use super::packed::cube_weight;
use super::product_form::ProductForm;
use super::unpack::MovedWeight;
use super::{
    attention, elementwise, elementwise_backward, linear_backward, move_scales, norm, norm_backward, product,
    transfer,
};
use crate::arch::Activation;
use crate::device::ComputeType;
use crate::kernels::{
    DeviceWeight, Kernels, KeyRanges, LinearGradients, MatmulEngine, MatmulPath, Reading, Scores,
};
use crate::zo::direction::{Move, Signs};

impl<R, F, I, BT> Kernels for CubeBackend<R, F, I, BT>
where
    R: CubeRuntime,
    F: FloatElement,
    I: IntElement,
    BT: BoolElement,
{
    const UNPACKS_WHOLE_WEIGHTS: bool = true;
    const PATHS: &[MatmulPath] = &[MatmulPath::Dense(MatmulEngine::Fastest), MatmulPath::Fused];
    const EVERY_PATH: &[MatmulPath] = MatmulPath::ALL;

    /// Both signs share a pass where their product is fused; an unpacked weight serves one sign only.
    const PAIRED_TOKENS: usize = product::FUSED_ROWS / 2;

    fn supports(compute: ComputeType, device: &Self::Device) -> bool {
        compute == ComputeType::F32 || Self::supports_dtype(device, compute.into())
    }

    fn tensor_type(compute: ComputeType) -> DType {
        compute.into()
    }

    fn permute_back(x: FloatTensor<Self>, perm: IntTensor<Self>) -> FloatTensor<Self> {
        elementwise_backward::permute_back(into_contiguous(x), into_contiguous(perm))
    }

    fn packed_linear<const N: usize>(
        path: MatmulPath,
        x: FloatTensor<Self>,
        weights: [&DeviceWeight<Self>; N],
        signs: Signs,
    ) -> Result<[FloatTensor<Self>; N], String> {
        let moved = |weight: &DeviceWeight<Self>| MovedWeight {
            packed: cube_weight(weight),
            parts: weight.parts(signs),
        };
        product::products(path, &into_contiguous(x), weights.map(moved))
    }

    fn weight_type(_: DType, compute: ComputeType) -> DType {
        compute.into()
    }

    fn dense_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        product::dense_product(ProductForm::RightTransposed, [x, weight].map(into_contiguous))
    }

    /// Multiplies without Burn's product, which would round f32 to tf32 on cards that have it.
    fn gram(x: FloatTensor<Self>) -> FloatTensor<Self> {
        let x = into_contiguous(x);
        product::dense_product(ProductForm::LeftTransposed, [x.clone(), x])
    }

    fn expect_unpacked(elements: usize, device: &Self::Device) {
        product::expect(elements, device);
    }

    fn packed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        keys: &KeyRanges<Self>,
        scores: Scores,
    ) -> FloatTensor<Self> {
        let [q, k, v] = [q, k, v].map(into_contiguous);
        let out = empty_like(&q);
        attention::launch(q, k, v, int_buffer(&keys.bounds), scores, out.clone());
        out
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        norm::rms_norm(into_contiguous(x), into_contiguous(weight), eps)
    }

    fn add_rms_norm(
        x: FloatTensor<Self>,
        y: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
    ) -> [FloatTensor<Self>; 2] {
        norm::add_rms_norm([x, y].map(into_contiguous), into_contiguous(weight), eps)
    }

    fn rotate(
        x: [FloatTensor<Self>; 2],
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> [FloatTensor<Self>; 2] {
        elementwise::rotate(x, into_contiguous(cos), into_contiguous(sin))
    }

    fn write_rows(
        into: FloatTensor<Self>,
        rows: IntTensor<Self>,
        values: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        elementwise::write_rows(into, into_contiguous(rows), values)
    }

    fn gate_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>, activation: Activation) -> FloatTensor<Self> {
        elementwise::gate_mul(gate, up, activation)
    }

    fn packed_linear_backward<const N: usize>(
        x: Option<FloatTensor<Self>>,
        weights: [&DeviceWeight<Self>; N],
        dy: [FloatTensor<Self>; N],
        wants_input: bool,
    ) -> LinearGradients<FloatTensor<Self>, N> {
        let (x, dy) = (x.map(into_contiguous), dy.map(into_contiguous));
        linear_backward::linear_backward(x, weights.map(cube_weight), dy, wants_input)
    }

    fn dense_linear_backward(dy: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        product::dense_product(ProductForm::Plain, [dy, weight].map(into_contiguous))
    }

    fn packed_attention_backward(
        inputs: [FloatTensor<Self>; 3],
        dy: FloatTensor<Self>,
        keys: &KeyRanges<Self>,
        scores: Scores,
    ) -> [FloatTensor<Self>; 3] {
        let [q, k, v] = inputs.map(into_contiguous);
        attention::backward([q, k, v, into_contiguous(dy)], int_buffer(&keys.bounds), scores)
    }

    fn rms_norm_backward(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        eps: f32,
        dy: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let [x, weight, dy] = [x, weight, dy].map(into_contiguous);
        norm_backward::rms_norm_backward(x, weight, eps, dy)
    }

    fn gate_mul_backward(
        inputs: [FloatTensor<Self>; 2],
        dy: FloatTensor<Self>,
        activation: Activation,
    ) -> [FloatTensor<Self>; 2] {
        elementwise_backward::gate_mul_backward(inputs, dy, activation)
    }

    fn read_later(tensor: FloatTensor<Self>) -> Reading {
        transfer::read_later(into_contiguous(tensor))
    }

    fn upload(data: TensorData, device: &Self::Device) -> FloatTensor<Self> {
        transfer::upload(data, device)
    }

    fn read_beside(tensor: FloatTensor<Self>) -> Reading {
        transfer::read_beside(into_contiguous(tensor))
    }

    fn upload_beside(data: TensorData, device: &Self::Device) -> FloatTensor<Self> {
        transfer::upload_beside(data, device)
    }

    fn settle(device: &Self::Device) {
        cublas::beside::settle::<R>(device);
    }

    fn move_scales(scales: FloatTensor<Self>, parameter: u32, displacement: Move) -> FloatTensor<Self> {
        let scales = into_contiguous(scales);
        let out = empty_like(&scales);
        move_scales::launch(scales, parameter, displacement, out.clone());
        out
    }
}
