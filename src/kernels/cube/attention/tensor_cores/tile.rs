//! Sizes of the kernel.

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use cubecl::features::Plane;
use cubecl::ir::features::MmaConfig;
use cubecl::ir::{ElemType, FloatKind};
use cubecl::prelude::*;

use super::super::queries::QueryBlock;

/// Lanes of a warp.
pub(super) const WARP: usize = 32;

/// Floats that one lane exchanges for a product: 8 of the left tile and 4 of the right.
pub(super) const LANE: usize = 12;

/// Queries of one warp.
pub(super) const ROWS: usize = 16;

/// Widest head: beyond it the sums of a warp's queries fill most of its registers.
const WIDEST_HEAD: usize = 256;

/// Sizes and features that the kernel is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::kernels::cube::attention) struct CoreTile {
    pub head_dim: usize,
    /// Warps of one cube.
    pub warps: usize,
    /// Keys at a time, a multiple of 16.
    pub keys: usize,
    /// Elements of one vector, a divisor of 8.
    pub lanes: usize,
    /// Whether scores are capped.
    pub capped: bool,
    /// Whether there are tensor cores; otherwise slow loops take their place, to test the rest.
    pub cores: bool,
}

impl CoreTile {
    /// The tile for a type and width of heads; `None` where the device has no tensor cores for them.
    pub fn of<R: CubeRuntime>(client: &ComputeClient<R>, dtype: DType, head_dim: usize) -> Option<Self> {
        Self::with(client, dtype, head_dim, Self::shared_bytes)
    }

    /// [`of`](Self::of) for the kernels of the backward pass.
    pub fn of_gradients<R: CubeRuntime>(
        client: &ComputeClient<R>,
        dtype: DType,
        head_dim: usize,
    ) -> Option<Self> {
        Self::with(client, dtype, head_dim, Self::gradient_bytes)
    }

    fn with<R: CubeRuntime>(
        client: &ComputeClient<R>,
        dtype: DType,
        head_dim: usize,
        bytes: fn(Self, usize) -> usize,
    ) -> Option<Self> {
        let float = match dtype {
            DType::F16 => FloatKind::F16,
            DType::BF16 => FloatKind::BF16,
            _ => return None,
        };
        let (half, single) = (ElemType::Float(float).into(), ElemType::Float(FloatKind::F32).into());
        let product = MmaConfig { a_type: half, b_type: half, cd_type: single, m: 16, n: 8, k: 16 };
        let properties = client.properties();
        let (matmul, hardware) = (&properties.features.matmul, &properties.hardware);
        let tile = Self { head_dim, warps: 4, keys: 32, lanes: 8, capped: false, cores: true };
        let has_instructions = matmul.mma.contains(&product)
            && matmul.ldmatrix.contains(&half)
            && properties.features.plane.contains(Plane::Ops);
        let warps = WARP as u32;
        let fits = (hardware.plane_size_min, hardware.plane_size_max) == (warps, warps)
            && tile.units() as u32 <= hardware.max_units_per_cube
            && bytes(tile, dtype.size()) <= hardware.max_shared_memory_size
            && head_dim.is_multiple_of(16)
            && head_dim <= WIDEST_HEAD;
        (has_instructions && fits).then_some(tile)
    }

    /// Units of one cube.
    pub fn units(self) -> usize {
        self.warps * WARP
    }

    /// Queries of one cube.
    pub fn queries(self) -> usize {
        self.warps * ROWS
    }

    /// Vectors of one head.
    pub fn vectors(self) -> usize {
        self.head_dim / self.lanes
    }

    /// Vectors of one tile of keys that one unit reads.
    pub fn reads(self) -> usize {
        (self.keys * self.vectors()).div_ceil(self.units())
    }

    /// Stride of the rows in shared memory, in vectors: 8 elements more than a row has, so that eight rows lie in
    /// different banks.
    pub fn stride(self) -> usize {
        self.vectors() + 8 / self.lanes
    }

    /// Bytes of shared memory through which the lanes exchange values.
    fn scratch_bytes(self) -> usize {
        4 * (LANE + 1) * if self.cores { 1 } else { self.units() }
    }

    /// Bytes of shared memory of one cube, for elements of `element` bytes.
    pub fn shared_bytes(self, element: usize) -> usize {
        (self.queries() + 2 * self.keys) * self.stride() * self.lanes * element + self.scratch_bytes()
    }

    /// [`shared_bytes`](Self::shared_bytes) of the kernels of the backward pass.
    pub fn gradient_bytes(self, element: usize) -> usize {
        let numbers = self.keys * (size_of::<[i32; 4]>() + size_of::<[f32; 2]>());
        2 * (self.queries() + self.keys) * self.stride() * self.lanes * element
            + self.scratch_bytes()
            + numbers
    }
}

/// The upper (0) or lower (1) of this lane's two queries.
#[cube]
pub(super) fn own_query(place: &QueryBlock, #[comptime] half: usize) -> usize {
    place.first + UNIT_POS as usize / WARP * ROWS + UNIT_POS as usize % WARP / 4 + half * 8
}
