//! A cubecl runtime that writes the CUDA source of what is launched into a list instead of running it. It
//! has the properties that cubecl finds on a card of the given architecture.

use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::backend::DeviceOps;
use cubecl::bytes::Bytes;
use cubecl::cuda::{CudaCompiler, CudaRuntime};
use cubecl::device::{Device, DeviceId, DeviceService, ServerUtilitiesHandle};
use cubecl::features::Plane;
use cubecl::future::DynFut;
use cubecl::ir::{
    DeviceProperties, HardwareProperties, MemoryDeviceProperties, TargetProperties, VectorSize,
};
use cubecl::prelude::*;
use cubecl::profile::{ProfileDuration, TimingMethod};
use cubecl::server::{
    Binding, ComputeServer, CopyDescriptor, IoError, KernelArguments, ProfileError, ProfilingToken,
    ServerCommunication, ServerError, ServerUtilities,
};
use cubecl::stream_id::StreamId;
use cubecl::zspace::{Shape, Strides};
use cubecl::{MemoryAllocationMode, MemoryUsage};
use cubecl_cpp::DialectWmmaCompiler;
use cubecl_cpp::cuda::arch::CudaArchitecture;
use cubecl_cpp::cuda::mma::CudaWmmaCompiler;
use cubecl_cpp::shared::{CompilationOptions, CppSupportedFeatures, register_wmma_features};
use cubecl_runtime::allocator::PitchedMemoryLayoutPolicy;
use cubecl_runtime::compiler::CubeTask;
use cubecl_runtime::logging::ServerLogger;
use cubecl_runtime::memory_management::ManagedMemoryHandle;
use cubecl_runtime::storage::{ComputeStorage, ManagedResource, StorageHandle, StorageId};

/// A card that is not there: its architecture is 10 · major + minor of the compute capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub architecture: u16,
}

/// What was launched: the kernel's name and its CUDA source.
pub type Sources = Arc<Mutex<Vec<(&'static str, String)>>>;

#[derive(Debug, Clone)]
pub struct Recorder;

#[derive(Debug)]
pub struct RecorderServer {
    options: CompilationOptions,
    utilities: Arc<ServerUtilities<Self>>,
}

impl Default for Card {
    fn default() -> Self {
        Self { architecture: 80 }
    }
}

impl Device for Card {
    fn from_id(id: DeviceId) -> Self {
        Self { architecture: id.index_id }
    }

    fn to_id(&self) -> DeviceId {
        DeviceId { type_id: 0, index_id: self.architecture }
    }
}

impl DeviceOps for Card {}

impl Runtime for Recorder {
    type Compiler = CudaCompiler;
    type Server = RecorderServer;
    type Device = Card;

    fn client(device: &Card) -> ComputeClient<Self> {
        ComputeClient::load(device)
    }

    fn name(_: &ComputeClient<Self>) -> &'static str {
        "cuda without a card"
    }

    fn require_array_lengths() -> bool {
        CudaRuntime::require_array_lengths()
    }

    fn max_cube_count() -> (u32, u32, u32) {
        CudaRuntime::max_cube_count()
    }

    fn can_read_tensor(shape: &Shape, strides: &Strides) -> bool {
        CudaRuntime::can_read_tensor(shape, strides)
    }

    fn target_properties() -> TargetProperties {
        CudaRuntime::target_properties()
    }

    fn enumerate_devices(_: u16, _: &Sources) -> Vec<DeviceId> {
        vec![Card::default().to_id()]
    }
}

impl DeviceService for RecorderServer {
    fn init(id: DeviceId) -> Self {
        let architecture = u32::from(id.index_id);
        let supports_features = CppSupportedFeatures {
            grid_constants: true,
            clusters: architecture >= 90,
            fast_math: true,
            fast_tanh: true,
            elect_sync: architecture >= 90,
        };
        let utilities = ServerUtilities::new(
            properties(architecture),
            Arc::new(ServerLogger::default()),
            Sources::default(),
            PitchedMemoryLayoutPolicy::new(512),
        );
        let options = CompilationOptions { warp_size: 32, supports_features };
        Self { options, utilities: Arc::new(utilities) }
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

/// As cubecl's CUDA runtime sets them, as far as a kernel can ask.
fn properties(architecture: u32) -> DeviceProperties {
    let memory = MemoryDeviceProperties { max_page_size: 1 << 34, alignment: 512 };
    let hardware = HardwareProperties {
        load_width: 128,
        plane_size_min: 32,
        plane_size_max: 32,
        max_bindings: 1024,
        max_shared_memory_size: 99 * 1024,
        max_cube_count: Recorder::max_cube_count(),
        max_units_per_cube: 1024,
        max_cube_dim: (1024, 1024, 64),
        num_streaming_multiprocessors: Some(128),
        num_tensor_cores: Some(4),
        min_tensor_cores_dim: Some(8),
        num_cpu_cores: None,
        max_vector_size: VectorSize::MAX,
    };
    let mut properties = DeviceProperties::new(Default::default(), memory, hardware, TimingMethod::System);
    cubecl_cpp::register_supported_types(&mut properties);
    for plane in [Plane::Sync, Plane::Ops, Plane::NonUniformControlFlow] {
        properties.features.plane.insert(plane);
    }
    properties.features.memory_reinterpret = true;
    properties.features.alignment = true;
    properties.features.copy_async = true;
    let cmma = CudaWmmaCompiler::supported_wmma_combinations(&CudaArchitecture { version: architecture });
    register_wmma_features(cmma, &mut properties);
    properties
}

impl ServerCommunication for RecorderServer {
    const SERVER_COMM_ENABLED: bool = false;
}

impl ComputeServer for RecorderServer {
    type Kernel = Box<dyn CubeTask<CudaCompiler>>;
    type Info = Sources;
    type MemoryLayoutPolicy = PitchedMemoryLayoutPolicy;
    type Storage = NoStorage;

    unsafe fn launch(
        &mut self,
        kernel: Self::Kernel,
        _: CubeCount,
        _: KernelArguments,
        mode: ExecutionMode,
        _: StreamId,
    ) {
        let address = kernel.address_type();
        let source = match kernel.compile(&mut CudaCompiler::default(), &self.options, mode, address) {
            Ok(compiled) => compiled.source,
            Err(error) => format!("#error {error}"),
        };
        let mut sources = self.utilities.info.lock().unwrap_or_else(PoisonError::into_inner);
        sources.push((kernel.name(), source));
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities<Self>> {
        self.utilities.clone()
    }

    fn initialize_memory(&mut self, _: ManagedMemoryHandle, _: u64, _: StreamId) {}

    fn read(&mut self, _: Vec<CopyDescriptor>, _: StreamId) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        Box::pin(async { Err(nothing_is_stored().into()) })
    }

    fn write(&mut self, _: Vec<(CopyDescriptor, Bytes)>, _: StreamId) {}

    fn sync(&mut self, _: StreamId) -> DynFut<Result<(), ServerError>> {
        Box::pin(async { Ok(()) })
    }

    fn get_resource(&mut self, _: Binding, _: StreamId) -> Result<ManagedResource<()>, ServerError> {
        Err(nothing_is_stored().into())
    }

    fn flush(&mut self, _: StreamId) -> Result<(), ServerError> {
        Ok(())
    }

    fn memory_usage(&mut self, _: StreamId) -> Result<MemoryUsage, ServerError> {
        Err(nothing_is_stored().into())
    }

    fn memory_cleanup(&mut self, _: StreamId) {}

    fn start_profile(&mut self, _: StreamId) -> Result<ProfilingToken, ServerError> {
        Err(nothing_is_stored().into())
    }

    fn end_profile(&mut self, _: StreamId, _: ProfilingToken) -> Result<ProfileDuration, ProfileError> {
        Err(ProfileError::NotRegistered { backtrace: Default::default() })
    }

    fn allocation_mode(&mut self, _: MemoryAllocationMode, _: StreamId) {}
}

/// Buffers have a size and no contents.
pub struct NoStorage;

impl ComputeStorage for NoStorage {
    type Resource = ();

    fn alignment(&self) -> usize {
        512
    }

    fn get(&mut self, _: &StorageHandle) {}

    fn alloc(&mut self, _: u64) -> Result<StorageHandle, IoError> {
        Err(nothing_is_stored())
    }

    fn dealloc(&mut self, _: StorageId) {}

    fn flush(&mut self) {}
}

fn nothing_is_stored() -> IoError {
    IoError::UnsupportedIoOperation { backtrace: Default::default() }
}
