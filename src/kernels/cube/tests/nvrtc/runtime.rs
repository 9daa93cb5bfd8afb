//! A cubecl runtime that records launches, with their CUDA source, instead of running them. Buffers have a size and no
//! contents: writes are dropped, and reads give zeros.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::backend::DeviceOps;
use cubecl::bytes::Bytes;
use cubecl::cuda::{CudaCompiler, CudaRuntime};
use cubecl::device::{Device, DeviceId, DeviceService, ServerUtilitiesHandle};
use cubecl::future::{DynFut, block_on};
use cubecl::ir::{DeviceProperties, TargetProperties};
use cubecl::prelude::*;
use cubecl::profile::ProfileDuration;
use cubecl::server::{
    Binding, ComputeServer, CopyDescriptor, IoError, KernelArguments, ProfileError, ProfilingToken,
    ServerCommunication, ServerError, ServerUtilities,
};
use cubecl::stream_id::StreamId;
use cubecl::zspace::{Shape, Strides};
use cubecl::{MemoryAllocationMode, MemoryUsage};
use cubecl_cpp::shared::{CompilationOptions, CppSupportedFeatures};
use cubecl_runtime::allocator::PitchedMemoryLayoutPolicy;
use cubecl_runtime::compiler::CubeTask;
use cubecl_runtime::logging::ServerLogger;
use cubecl_runtime::memory_management::ManagedMemoryHandle;
use cubecl_runtime::storage::{ComputeStorage, ManagedResource, StorageHandle, StorageId};
use cubecl_runtime::validation::{validate_cube_dim, validate_units};

use super::card::properties;

/// A card that does not exist; its architecture is 10 · major + minor of the compute capability.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub architecture: u16,
}

#[derive(Debug, Clone)]
pub struct Launch {
    /// The kernel's type.
    pub name: &'static str,
    /// CUDA source; an `#error` with the reason where a card would refuse the launch.
    pub source: Arc<str>,
}

/// Launches of each thread, in order: tests run beside one another.
pub type Launches = Mutex<HashMap<StreamId, Vec<Launch>>>;

#[derive(Debug, Clone)]
pub struct Recorder;

impl Recorder {
    /// The launches of this thread since it last asked.
    pub fn take(card: &Card) -> Vec<Launch> {
        let client = Self::client(card);
        block_on(client.sync()).unwrap();
        let mut launches = client.info().lock().unwrap();
        launches.remove(&StreamId::current()).unwrap_or_default()
    }
}

#[derive(Debug)]
pub struct RecorderServer {
    options: CompilationOptions,
    utilities: Arc<ServerUtilities<Self>>,
    /// Sources by kernel: a kernel is compiled once.
    sources: HashMap<KernelId, Arc<str>>,
    /// A card's memory management holds every buffer, which matters where buffers are overwritten in place.
    buffers: Vec<ManagedMemoryHandle>,
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

    fn enumerate_devices(_: u16, _: &Launches) -> Vec<DeviceId> {
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
            Launches::default(),
            PitchedMemoryLayoutPolicy::new(512),
        );
        let options = CompilationOptions { warp_size: 32, supports_features };
        Self { options, utilities: Arc::new(utilities), sources: HashMap::new(), buffers: Vec::new() }
    }

    fn utilities(&self) -> ServerUtilitiesHandle {
        self.utilities.clone()
    }
}

impl RecorderServer {
    fn properties(&self) -> &DeviceProperties {
        &self.utilities.properties
    }

    /// Compiles with the checks of cubecl's CUDA runtime; an error is its reason to refuse.
    fn compile(
        &self,
        id: &KernelId,
        mode: ExecutionMode,
        kernel: &dyn CubeTask<CudaCompiler>,
    ) -> Result<String, String> {
        let properties = self.properties();
        validate_cube_dim(properties, id).map_err(|error| error.to_string())?;
        validate_units(properties, id).map_err(|error| error.to_string())?;
        let address = kernel.address_type();
        let compile = || kernel.compile(&mut CudaCompiler::default(), &self.options, mode, address);
        // Otherwise the thread that serves this card would skip the launch and go on.
        let compiled = catch_unwind(AssertUnwindSafe(compile)).map_err(|_| "compiling panicked")?;
        let compiled = compiled.map_err(|error| error.to_string())?;
        let shared = compiled.repr.map_or(0, |kernel| kernel.shared_memory_size());
        match shared <= properties.hardware.max_shared_memory_size {
            true => Ok(compiled.source),
            false => Err(format!("{shared} bytes of shared memory")),
        }
    }
}

impl ServerCommunication for RecorderServer {
    const SERVER_COMM_ENABLED: bool = false;
}

impl ComputeServer for RecorderServer {
    type Kernel = Box<dyn CubeTask<CudaCompiler>>;
    type Info = Launches;
    type MemoryLayoutPolicy = PitchedMemoryLayoutPolicy;
    type Storage = NoStorage;

    unsafe fn launch(
        &mut self,
        kernel: Self::Kernel,
        count: CubeCount,
        _: KernelArguments,
        mode: ExecutionMode,
        stream: StreamId,
    ) {
        let mut id = kernel.id();
        id.mode(mode);
        let source = match self.sources.get(&id) {
            Some(source) => source.clone(),
            None => {
                let source = self.compile(&id, mode, kernel.as_ref());
                let source: Arc<str> = source.unwrap_or_else(|why| format!("#error {why}")).into();
                self.sources.insert(id, source.clone());
                source
            }
        };
        let max = self.properties().hardware.max_cube_count;
        let source = match count {
            CubeCount::Static(x, y, z) if x > max.0 || y > max.1 || z > max.2 => {
                format!("#error {x} × {y} × {z} cubes").into()
            }
            _ => source,
        };
        let mut launches = self.utilities.info.lock().unwrap_or_else(PoisonError::into_inner);
        launches.entry(stream).or_default().push(Launch { name: kernel.name(), source });
    }

    fn logger(&self) -> Arc<ServerLogger> {
        self.utilities.logger.clone()
    }

    fn utilities(&self) -> Arc<ServerUtilities<Self>> {
        self.utilities.clone()
    }

    fn initialize_memory(&mut self, buffer: ManagedMemoryHandle, _: u64, _: StreamId) {
        self.buffers.push(buffer);
    }

    fn read(&mut self, what: Vec<CopyDescriptor>, _: StreamId) -> DynFut<Result<Vec<Bytes>, ServerError>> {
        self.buffers.retain(|buffer| !buffer.is_free());
        let zeros = |copy: CopyDescriptor| vec![0u8; copy.shape.num_elements() * copy.elem_size];
        let zeros = what.into_iter().map(|copy| Bytes::from_bytes_vec(zeros(copy))).collect();
        Box::pin(async { Ok(zeros) })
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
