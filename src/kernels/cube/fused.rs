//! The product that never writes the dense weight: cubek's tiled matmul, whose view of the right-hand side
//! unpacks the codes as a tile is brought into shared memory. cubek's routine for the device (tensor cores, or
//! plain registers) then multiplies them.

use burn::tensor::{DType, Shape, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;
use cubecl::std::tensor::launch::ViewArg;
use cubecl::std::tensor::layout::{Coords1d, VirtualLayout, VirtualLayoutLaunch};
use cubecl::std::tensor::{View, ViewExpand, ViewOperations, ViewOperationsExpand};
use cubecl::zspace::strides;
use cubek::matmul::components::global::memory::{
    BatchLayout, BatchLayoutLaunch, GlobalLayout, GlobalLayoutConfig, GlobalLayoutLaunch,
};
use cubek::matmul::definition::{
    Blueprint, MatmulGlobalElems, MatmulProblem, MatmulSetupError, MatmulVectorSizes, TilingBlueprint,
};
use cubek::matmul::launch::{BatchedCoords, MatmulArgs, launch_kernel};
use cubek::matmul::routines::simple::SimpleAlgorithm;
use cubek::matmul::routines::simple_unit::SimpleUnitAlgorithm;
use cubek::matmul::routines::{BlueprintStrategy, Routine};

use super::packed::{CubeWeight, Packed, weights};

/// The right-hand side of the matmul: `Wᵀ` as a batch of `[in_features, out_features]`, one for each part.
#[derive(CubeType, Clone, Copy)]
struct Unpacked {
    packed: Packed,
    #[cube(comptime)]
    #[expect(dead_code, reason = "read in the expansion alone")]
    lanes: usize,
}

/// Reads weights, and zeros beyond the borders.
#[cube]
fn read<N: Size>(view: &Unpacked, position: BatchedCoords) -> Vector<f32, N> {
    let (part, column, row) = position;
    let inside = is_inside(view, position);
    let (column, row) = (select(inside, column as usize, 0), select(inside, row as usize, 0));
    let weights = weights::<N>(&view.packed, part, row, column);
    select(inside, weights, Vector::new(0.0f32))
}

#[cube]
fn is_inside(view: &Unpacked, position: BatchedCoords) -> bool {
    let (_, column, row) = position;
    (column as usize) < view.packed.in_features && (row as usize) < view.packed.out_features
}

#[cube]
fn shape(view: &Unpacked) -> BatchedCoords {
    (u32::MAX.runtime() as usize, view.packed.in_features as u32, view.packed.out_features as u32)
}

impl Vectorized for Unpacked {}

impl VectorizedExpand for UnpackedExpand {
    fn vector_size(&self) -> usize {
        self.lanes
    }
}

type Position = <BatchedCoords as CubeType>::ExpandType;

impl<E: CubePrimitive> ViewOperations<E, BatchedCoords> for Unpacked {}

/// Written by hand, as `#[cube]` cannot handle this trait. cubek reads by position and asks for nothing else.
impl<E: CubePrimitive> ViewOperationsExpand<E, BatchedCoords> for UnpackedExpand {
    fn __expand_read_method(&self, scope: &mut Scope, position: Position) -> <E as CubeType>::ExpandType {
        let weights = read::expand::<E::Size>(scope, self.clone(), position);
        E::__expand_cast_from(scope, weights)
    }

    fn __expand_read_checked_method(
        &self,
        scope: &mut Scope,
        position: Position,
    ) -> <E as CubeType>::ExpandType {
        ViewOperationsExpand::<E, BatchedCoords>::__expand_read_method(self, scope, position)
    }

    fn __expand_read_masked_method(
        &self,
        scope: &mut Scope,
        position: Position,
        value: <E as CubeType>::ExpandType,
    ) -> <E as CubeType>::ExpandType {
        let inside = ViewOperationsExpand::<E, BatchedCoords>::__expand_is_in_bounds_method(
            self,
            scope,
            position.clone(),
        );
        let read = ViewOperationsExpand::<E, BatchedCoords>::__expand_read_method(self, scope, position);
        select::expand::<E>(scope, inside, read, value)
    }

    fn __expand_read_unchecked_method(
        &self,
        scope: &mut Scope,
        position: Position,
    ) -> <E as CubeType>::ExpandType {
        ViewOperationsExpand::<E, BatchedCoords>::__expand_read_method(self, scope, position)
    }

    fn __expand_to_linear_slice_method(
        &self,
        _: &mut Scope,
        _: Position,
        _: Position,
    ) -> SliceExpand<E, ReadOnly> {
        unreachable!("unpacked weights are nowhere in memory; the loaders chosen here do not slice")
    }

    fn __expand_tensor_map_load_method(
        &self,
        _: &mut Scope,
        _: barrier::BarrierExpand,
        _: SliceExpand<E, ReadWrite>,
        _: Position,
    ) {
        unreachable!("unpacked weights are nowhere in memory; the loaders chosen here do not copy in bulk")
    }

    fn __expand_shape_method(&self, scope: &mut Scope) -> Position {
        shape::expand(scope, self.clone())
    }

    fn __expand_is_in_bounds_method(&self, scope: &mut Scope, position: Position) -> NativeExpand<bool> {
        is_inside::expand(scope, self.clone(), position)
    }
}

/// The arguments of cubek's matmul with packed weights on the right.
#[derive(Clone)]
struct PackedArgs;

#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct FusedInput<Lhs: CubePrimitive> {
    x: View<Lhs, BatchedCoords>,
    x_batch: VirtualLayout<Coords1d, Coords1d>,
    packed: Packed,
    #[cube(comptime)]
    lanes: usize,
}

#[derive(CubeLaunch, CubeType, Clone, Copy)]
struct FusedOutput<E: CubePrimitive> {
    y: View<E, BatchedCoords, ReadWrite>,
    y_batch: VirtualLayout<Coords1d, Coords1d>,
}

#[cube]
impl MatmulArgs for PackedArgs {
    type Input<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive> = FusedInput<Lhs>;
    type Output<E: CubePrimitive> = FusedOutput<E>;
    type Config = ();
    type State<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive> = (FusedInput<Lhs>, FusedOutput<E>);

    fn init_state<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive>(
        input: &Self::Input<Lhs, Rhs, E>,
        output: &mut Self::Output<E>,
        _config: (),
        #[comptime] _x: GlobalLayoutConfig,
        #[comptime] _weight: GlobalLayoutConfig,
        #[comptime] _y: GlobalLayoutConfig,
    ) -> Self::State<Lhs, Rhs, E> {
        (*input, *output)
    }

    fn view_lhs<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive>(
        state: &Self::State<Lhs, Rhs, E>,
    ) -> View<Lhs, BatchedCoords> {
        state.0.x
    }

    fn batch_lhs<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive>(
        state: &Self::State<Lhs, Rhs, E>,
        batch: usize,
    ) -> usize {
        state.0.x_batch.to_source_pos(batch)
    }

    fn view_rhs<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive>(
        state: &Self::State<Lhs, Rhs, E>,
    ) -> View<Rhs, BatchedCoords> {
        as_view::<Rhs>(Unpacked { packed: state.0.packed, lanes: state.0.lanes })
    }

    fn batch_rhs<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive>(
        _state: &Self::State<Lhs, Rhs, E>,
        batch: usize,
    ) -> usize {
        batch
    }

    fn view_acc<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive>(
        _state: &Self::State<Lhs, Rhs, E>,
    ) -> ComptimeOption<View<E, BatchedCoords>> {
        ComptimeOption::new_None()
    }

    fn batch_acc<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive>(
        _state: &Self::State<Lhs, Rhs, E>,
        batch: usize,
    ) -> usize {
        batch
    }

    fn view_out<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive>(
        state: &mut Self::State<Lhs, Rhs, E>,
    ) -> View<E, BatchedCoords, ReadWrite> {
        state.1.y
    }

    fn batch_out<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive>(
        state: &Self::State<Lhs, Rhs, E>,
        batch: usize,
    ) -> usize {
        state.1.y_batch.to_source_pos(batch)
    }

    fn runtime_config<Lhs: CubePrimitive, Rhs: CubePrimitive, E: CubePrimitive>(
        _state: &Self::State<Lhs, Rhs, E>,
    ) {
    }
}

#[cube]
#[expect(unused_variables, reason = "an intrinsic's argument is used in its expansion alone")]
fn as_view<E: CubePrimitive>(unpacked: Unpacked) -> View<E, BatchedCoords> {
    intrinsic!(|_| ViewExpand::new(unpacked))
}

/// `out[part] = x[part] · W(scales[part])ᵀ`.
///
/// # Shapes
/// `x`: float `[parts, T, in_features]`; `packed.scales`: f32 `[parts × out_features × groups]`; `out`:
/// like `x`, `[parts, T, out_features]`; all contiguous.
///
/// # Errors
/// cubek has no tiling for this device, type and shape; nothing was launched then.
pub(super) fn launch<R: CubeRuntime>(
    x: CubeTensor<R>,
    packed: CubeWeight<R>,
    out: CubeTensor<R>,
) -> Result<(), MatmulSetupError> {
    // On cards that have tf32 the accelerated tiles would round f32 to it.
    if x.dtype != DType::F32 {
        let product = launch_with::<R, SimpleAlgorithm>(x.clone(), packed.clone(), out.clone());
        if product.is_ok() {
            return product;
        }
    }
    launch_with::<R, SimpleUnitAlgorithm>(x, packed, out)
}

fn launch_with<R: CubeRuntime, A: Routine<(), Blueprint = TilingBlueprint>>(
    x: CubeTensor<R>,
    packed: CubeWeight<R>,
    out: CubeTensor<R>,
) -> Result<(), MatmulSetupError> {
    let client = x.client.clone();
    let (k, n, parts) = (packed.in_features, packed.out_features, x.shape()[0]);
    let address_type = x.required_address_type().max(out.required_address_type());
    let (dtype, size) = (x.dtype.into(), x.dtype.size());
    let (x, out) = (x.binding(), out.binding());
    let problem = MatmulProblem::from_shapes_and_strides(
        x.shape.clone(),
        Shape::new([parts, k, n]),
        out.shape.clone(),
        x.strides.clone(),
        strides![n * k, 1, k],
        out.strides.clone(),
        MatmulGlobalElems { lhs: dtype, rhs: dtype, out: dtype },
        address_type,
        None,
        None,
    )?;
    let widest = |length: usize| {
        client.io_optimized_vector_sizes(size).find(|lanes| length.is_multiple_of(*lanes)).unwrap_or(1)
    };
    let vector_sizes = MatmulVectorSizes { lhs: widest(k), rhs: packed.lanes(size), out: widest(n) };
    let settings = A::device_settings(&client, vector_sizes);
    let blueprint =
        A::expand_blueprint(&problem, &settings, &BlueprintStrategy::Inferred(Default::default()))?;
    let info = A::prepare(&problem, &settings, blueprint)?;

    let view = |tensor: TensorBinding<R>, lanes, config| {
        let layout = GlobalLayoutLaunch::from_handle(&tensor, lanes, config);
        let batch = BatchLayoutLaunch::from_handle(&tensor, &problem);
        let batch = VirtualLayoutLaunch::new::<BatchLayout>(batch);
        (ViewArg::new_tensor::<GlobalLayout>(tensor.into_tensor_arg(), layout), batch)
    };
    let (x, x_batch) = view(x, info.vector_sizes.lhs, info.blueprint.lhs_global_layout_config());
    let (y, y_batch) = view(out, info.vector_sizes.out, info.blueprint.out_global_layout_config());
    let input = FusedInputLaunch::new(x, x_batch, packed.into_launch(), info.vector_sizes.rhs);
    launch_kernel::<PackedArgs, R, A>(&client, input, FusedOutputLaunch::new(y, y_batch), (), info)
}
