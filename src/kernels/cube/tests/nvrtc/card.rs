//! Properties of a card as cubecl's CUDA runtime registers them (cubecl-cuda 0.10, `runtime.rs`), as far as kernels
//! depend on them.

use cubecl::Runtime;
use cubecl::cuda::{CUDA_MAX_BINDINGS, CudaRuntime};
use cubecl::features::{AtomicUsage, Plane, Tma, TypeUsage};
use cubecl::ir::{
    BarrierLevel, DeviceProperties, ElemType, FloatKind, HardwareProperties, MemoryDeviceProperties,
    OpaqueType, SemanticType, StorageType, Type, VectorSize,
};
use cubecl::profile::TimingMethod;
use cubecl_cpp::DialectWmmaCompiler;
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::CudaWmmaCompiler;
use cubecl_cpp::shared::{register_mma_features, register_scaled_mma_features, register_wmma_features};

/// Properties of a card with `architecture`, 10 · major + minor of the compute capability.
pub fn properties(architecture: u32) -> DeviceProperties {
    let hardware = hardware(architecture);
    // A quarter of what the card has.
    let max_page_size = if architecture == 89 { 6 << 30 } else { 20 << 30 };
    let memory = MemoryDeviceProperties { max_page_size, alignment: 512 };
    let mut properties = DeviceProperties::new(Default::default(), memory, hardware, TimingMethod::System);
    register_types(&mut properties, architecture);
    let features = &mut properties.features;
    features.plane = Plane::Sync | Plane::Ops | Plane::NonUniformControlFlow;
    features.memory_reinterpret = true;
    features.alignment = true;
    features.copy_async = architecture >= 80;
    for float in [FloatKind::F16, FloatKind::BF16].map(ElemType::Float) {
        features.matmul.ldmatrix.insert(float.into());
        if architecture >= 90 {
            features.matmul.stmatrix.insert(float.into());
        }
    }
    if architecture >= 90 {
        features.tma.insert(Tma::Base);
        features.cube_cluster = true;
    }
    let architecture = CudaArchitecture { version: architecture };
    register_wmma_features(CudaWmmaCompiler::supported_wmma_combinations(&architecture), &mut properties);
    register_mma_features(CudaWmmaCompiler::supported_mma_combinations(&architecture), &mut properties);
    let scaled = CudaWmmaCompiler::supported_scaled_mma_combinations(&architecture);
    register_scaled_mma_features(scaled, &mut properties);
    properties
}

fn hardware(architecture: u32) -> HardwareProperties {
    // Bytes that a block may opt in to, and multiprocessors, of an A100, an RTX 4090 and an H100.
    let (max_shared_memory_size, multiprocessors) = match architecture {
        80 => (163 * 1024, 108),
        89 => (99 * 1024, 128),
        _ => (227 * 1024, 132),
    };
    HardwareProperties {
        load_width: 128,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: CUDA_MAX_BINDINGS,
        max_shared_memory_size,
        max_cube_count: CudaRuntime::max_cube_count(),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(multiprocessors),
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        num_cpu_cores: None,
        max_vector_size: VectorSize::MAX,
    }
}

fn register_types(properties: &mut DeviceProperties, architecture: u32) {
    cubecl_cpp::register_supported_types(properties);
    properties.register_type_usage(ElemType::Float(FloatKind::TF32), TypeUsage::Conversion);
    properties.register_semantic_type(SemanticType::Pipeline);
    for level in [BarrierLevel::Unit, BarrierLevel::Cube] {
        properties.register_type_usage(OpaqueType::Barrier(level), TypeUsage::Buffer);
    }
    let mut atomics = vec![(FloatKind::F64, 1), (FloatKind::F16, 1), (FloatKind::F16, 2)];
    if architecture >= 89 {
        for float in [FloatKind::E4M3, FloatKind::E5M2].map(ElemType::Float) {
            properties.register_type_usage(float, TypeUsage::Conversion | TypeUsage::Buffer);
        }
    }
    if architecture >= 90 {
        properties.register_semantic_type(SemanticType::TensorMap);
        atomics.extend([(FloatKind::F32, 2), (FloatKind::F32, 4)]);
    }
    for (float, lanes) in atomics {
        let atomic = Type::new(StorageType::Atomic(ElemType::Float(float))).with_vector_size(lanes);
        properties.register_atomic_type_usage(atomic, AtomicUsage::Add | AtomicUsage::LoadStore);
    }
}
