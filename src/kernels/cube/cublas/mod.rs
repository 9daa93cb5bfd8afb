//! Dense products by cuBLAS, NVIDIA's own library: opened at run time, never linked, never required.
//!
//! cubecl keeps its streams to itself, so the library works on a stream of its own. Both are kept in order by
//! events of the whole context: the product waits for everything queued before it, and everything queued after
//! it waits for the product. Nothing on the host waits. Drivers older than CUDA 12.5 have no such events; there
//! the runner thread waits for the device before and after each product.

pub(super) mod beside;

use std::any::Any;
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{c_int, c_longlong, c_void};
use std::ptr::null_mut;
use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubecl::Runtime;
use cubecl::cuda::{CudaDevice, CudaRuntime};
use cubecl::device::Device;
use cubecl::device_handle::DeviceHandle;
use cubecl::server::ComputeServer;
use cubecl::stream_id::StreamId;
use cudarc::driver::{result, sys};
use libloading::Library;

use super::product_form::ProductForm;
use crate::device::{CudaLibrary, cuda_library, faults};

type Server = <CudaRuntime as Runtime>::Server;
type CudaTensor = CubeTensor<CudaRuntime>;

/// Bytes of workspace given to the library: NVIDIA's advice for Hopper, plenty for other cards.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Queues `out ← product + kept · out` like any launch. Terms and sums are f32 whatever the types of the tensors.
///
/// # Shapes
/// `left` and `right`: `[parts, rows, columns]` of one type, as `form` says; a row is contiguous. `out`: `[parts, m, n]`,
/// contiguous, of their type or f32.
///
/// # Errors
/// The backend is another, or the library is missing or does not open. A product that fails on the device is reported
/// as a fault of the device.
pub(super) fn multiply<R: CubeRuntime>(
    form: ProductForm,
    [left, right]: [&CubeTensor<R>; 2],
    out: &CubeTensor<R>,
    kept: f32,
) -> Result<(), String> {
    let [Some(left), Some(right), Some(out)] =
        [left, right, out].map(|tensor| (tensor as &dyn Any).downcast_ref::<CudaTensor>())
    else {
        return Err("the device is not a CUDA card".to_string());
    };
    let product = Gemm::new(form, [left, right, out], kept)?;
    let device = out.device.index;
    let runner = DeviceHandle::<Server>::new(out.device.to_id());
    opened(device, &runner)?;
    let bindings = [left, right, out].map(|tensor| tensor.handle.clone().binding());
    runner.submit(move |server| {
        // Held until the product is queued, so that no later launch is given their memory before it.
        let buffers = bindings.map(|binding| server.get_resource(binding, StreamId::current()));
        let [Ok(left), Ok(right), Ok(out)] = &buffers else {
            return faults::report("a dense product has no memory: an allocation before it failed");
        };
        let pointers = [left, right, out].map(|buffer| buffer.resource().ptr);
        let queued = LIBRARY.with_borrow_mut(|library| match library {
            Some(library) => library.queue(server, &product, pointers),
            None => Err("is not open on this thread".to_string()),
        });
        if let Err(what) = queued {
            faults::report(format!("a dense product failed: cuBLAS {what}"));
        }
    });
    Ok(())
}

/// Whether the library serves this device; opens it where it is not open yet.
pub(super) fn is_open<R: CubeRuntime>(device: &R::Device) -> bool {
    let Some(device) = (device as &dyn Any).downcast_ref::<CudaDevice>() else { return false };
    opened(device.index, &DeviceHandle::<Server>::new(device.to_id())).is_ok()
}

/// Opens the library on a device's runner thread, once; later calls return the first answer.
fn opened(device: usize, runner: &DeviceHandle<Server>) -> Result<(), String> {
    static OPENED: Mutex<Option<HashMap<usize, Result<(), String>>>> = Mutex::new(None);
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    let of_device = opened.get_or_insert_default().entry(device).or_insert_with(|| {
        let open = move |_: &mut Server| {
            let library = Cublas::open(device)?;
            LIBRARY.set(Some(library));
            Ok(())
        };
        let answer = runner.submit_blocking(open).unwrap_or_else(|_| Err("the device is lost".to_string()));
        if let Err(what) = &answer {
            tracing::info!("no cuBLAS: {what}");
        }
        answer
    });
    of_device.clone()
}

thread_local! {
    /// The open library of this runner thread, which serves one device.
    static LIBRARY: RefCell<Option<Cublas>> = const { RefCell::new(None) };
}

/// The sizes and types of one product.
struct Gemm {
    form: ProductForm,
    parts: usize,
    m: c_int,
    n: c_int,
    k: c_int,
    /// Factor of what the result's buffer holds before.
    kept: f32,
    left: GemmMatrix,
    right: GemmMatrix,
    out: GemmMatrix,
}

/// Layout of a matrix in its buffer.
struct GemmMatrix {
    /// A `cudaDataType_t`.
    dtype: c_int,
    /// Elements from one row to the next, and from one part to the next.
    row: c_int,
    part: c_longlong,
}

impl Gemm {
    fn new(form: ProductForm, [left, right, out]: [&CudaTensor; 3], kept: f32) -> Result<Self, String> {
        if left.dtype != right.dtype || ![left.dtype, DType::F32].contains(&out.dtype) {
            let types = [left.dtype, right.dtype, out.dtype];
            return Err(format!("cuBLAS is not used for products of {types:?}"));
        }
        let [parts, m, n] = out.shape().dims();
        let [_, rows, columns] = left.shape().dims();
        let k = if form == ProductForm::LeftTransposed { rows } else { columns };
        let [left, right, out] = [GemmMatrix::new(left)?, GemmMatrix::new(right)?, GemmMatrix::new(out)?];
        Ok(Self { form, parts, m: c_size(m)?, n: c_size(n)?, k: c_size(k)?, kept, left, right, out })
    }
}

impl Gemm {
    /// Number of terms of all sums.
    fn terms(&self) -> u64 {
        [self.m, self.n, self.k].iter().map(|size| *size as u64).product::<u64>() * self.parts as u64
    }
}

impl GemmMatrix {
    fn new(tensor: &CudaTensor) -> Result<Self, String> {
        let dtype = match tensor.dtype {
            DType::F32 => 0,
            DType::F16 => 2,
            DType::BF16 => 14,
            dtype => return Err(format!("cuBLAS is not used for {dtype:?}")),
        };
        let strides = tensor.meta.strides();
        Ok(Self { dtype, row: c_size(strides[1])?, part: strides[0] as c_longlong })
    }
}

fn c_size(size: usize) -> Result<c_int, String> {
    c_int::try_from(size).map_err(|_| format!("{size} is too large for cuBLAS"))
}

type Handle = *mut c_void;
type Status = c_int;
type Create = unsafe extern "C" fn(*mut Handle) -> Status;
type SetStream = unsafe extern "C" fn(Handle, sys::CUstream) -> Status;
type SetWorkspace = unsafe extern "C" fn(Handle, *mut c_void, usize) -> Status;
type Pointer = *const c_void;
/// `cublasGemmEx`: handle, operations, sizes m, n, k, alpha, A, B, beta, C (each with type and leading
/// dimension), type of the arithmetic, algorithm.
#[rustfmt::skip]
type GemmEx = unsafe extern "C" fn(
    Handle, c_int, c_int, c_int, c_int, c_int, *const f32, Pointer, c_int, c_int, Pointer, c_int, c_int,
    *const f32, *mut c_void, c_int, c_int, c_int, c_int,
) -> Status;
/// `cublasGemmStridedBatchedEx`: the same with a stride behind each leading dimension, and the batch's size.
#[rustfmt::skip]
type GemmBatchedEx = unsafe extern "C" fn(
    Handle, c_int, c_int, c_int, c_int, c_int, *const f32, Pointer, c_int, c_int, c_longlong, Pointer, c_int,
    c_int, c_longlong, *const f32, *mut c_void, c_int, c_int, c_longlong, c_int, c_int, c_int,
) -> Status;

const TRANSPOSED: c_int = 1;
const NOT_TRANSPOSED: c_int = 0;
/// `CUBLAS_COMPUTE_32F`: f32 sums, and f32 inputs are not rounded to tf32.
const COMPUTE_F32: c_int = 68;
/// `CUBLAS_GEMM_DEFAULT`
const ANY_ALGORITHM: c_int = -1;

/// Way in which a product is kept behind everything queued before it and ahead of everything queued after it.
#[derive(Clone, Copy)]
enum QueueOrder {
    /// Events of the context: one before the product and one after it.
    Events([sys::CUevent; 2]),
    /// The host waits for the queue.
    Waits,
}

/// The open library; lives on the runner thread of one device.
struct Cublas {
    handle: Handle,
    stream: sys::CUstream,
    context: sys::CUcontext,
    order: QueueOrder,
    gemm: GemmEx,
    gemm_batched: GemmBatchedEx,
    /// Keeps the functions above valid.
    _library: Library,
}

impl Cublas {
    fn open(device: usize) -> Result<Self, String> {
        let CudaLibrary { library, path, version, .. } =
            cuda_library("cublas").map_err(|error| error.to_string())?;
        let failed = |what: &str| format!("{} fails in {what}", path.display());
        // SAFETY: the names and types are those of cublas_api.h, unchanged since CUDA 11.
        let (create, set_stream, set_workspace, gemm, gemm_batched) = unsafe {
            (
                function::<Create>(&library, "cublasCreate_v2")?,
                function::<SetStream>(&library, "cublasSetStream_v2")?,
                function::<SetWorkspace>(&library, "cublasSetWorkspace_v2")?,
                function::<GemmEx>(&library, "cublasGemmEx")?,
                function::<GemmBatchedEx>(&library, "cublasGemmStridedBatchedEx")?,
            )
        };
        let driver = |error: result::DriverError| format!("the driver answers {error:?}");
        let card = result::device::get(device as i32).map_err(driver)?;
        // SAFETY: `card` is valid; cubecl holds the same primary context for the rest of the process.
        let context = unsafe { result::primary_ctx::retain(card) }.map_err(driver)?;
        // SAFETY: the context was just retained.
        unsafe { result::ctx::set_current(context) }.map_err(driver)?;
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking).map_err(driver)?;
        // SAFETY: the context is current on this thread; the memory is never freed.
        let workspace = unsafe { result::malloc_sync(WORKSPACE_BYTES) }.map_err(driver)?;
        let mut handle = null_mut();
        // SAFETY: `handle` is written before it is used, the stream and the workspace are valid, and all
        // three live as long as the process.
        let statuses = unsafe {
            let created = create(&mut handle);
            if created != 0 {
                return Err(failed(&format!("cublasCreate, status {created}")));
            }
            [set_stream(handle, stream), set_workspace(handle, workspace as *mut c_void, WORKSPACE_BYTES)]
        };
        if let Some(status) = statuses.iter().find(|status| **status != 0) {
            return Err(failed(&format!("taking its stream and workspace, status {status}")));
        }
        let order = match context_events() {
            true => QueueOrder::Events([event()?, event()?]),
            false => QueueOrder::Waits,
        };
        let version = version.map_or_else(|| "of unknown version".to_string(), |version| version.to_string());
        tracing::info!("cuBLAS {version} from {}", path.display());
        Ok(Self { handle, stream, context, order, gemm, gemm_batched, _library: library })
    }

    /// Queues a product; `pointers` are those of the left side, the right side and the result on the device.
    fn queue(&self, server: &mut Server, product: &Gemm, pointers: [u64; 3]) -> Result<(), String> {
        let checked = |status: sys::CUresult| match status {
            sys::CUresult::CUDA_SUCCESS => Ok(()),
            status => Err(format!("could not be kept in order: {status:?}")),
        };
        match self.order {
            // SAFETY: context, stream and events are valid for the rest of the process.
            QueueOrder::Events([before, _]) => unsafe {
                checked(sys::cuCtxRecordEvent(self.context, before))?;
                checked(sys::cuStreamWaitEvent(self.stream, before, 0))?;
            },
            QueueOrder::Waits => {
                let waited = cubecl::future::block_on(server.sync(StreamId::current()));
                waited.map_err(|error| format!("waited for a device that failed: {error:?}"))?;
            }
        }
        let status = self.multiply(product, pointers);
        if status != 0 {
            return Err(format!("answers with status {status}"));
        }
        beside::began(server, product.terms());
        match self.order {
            // SAFETY: as above.
            QueueOrder::Events([_, after]) => unsafe {
                checked(sys::cuEventRecord(after, self.stream))?;
                checked(sys::cuCtxWaitEvent(self.context, after))
            },
            // SAFETY: as above.
            QueueOrder::Waits => checked(unsafe { sys::cuStreamSynchronize(self.stream) }),
        }
    }

    /// cuBLAS reads matrices column-major, which turns those of rows over: it computes outᵀ = rightᵀ · leftᵀ.
    fn multiply(&self, product: &Gemm, [left, right, out]: [u64; 3]) -> Status {
        let Gemm { form, parts, m, n, k, kept, left: a, right: b, out: c } = product;
        let one = 1.0f32;
        let (left, right, out) = (left as Pointer, right as Pointer, out as *mut c_void);
        let [of_left, of_right] =
            form.transposed().map(|transposed| if transposed { TRANSPOSED } else { NOT_TRANSPOSED });
        // SAFETY: the handle is valid; the buffers hold all elements that the shapes and strides of their tensors
        // name, which the sizes were taken from, and no launch queued later is given their memory before this
        // product is done.
        unsafe {
            if *parts == 1 {
                #[rustfmt::skip]
                return (self.gemm)(
                    self.handle, of_right, of_left, *n, *m, *k, &one, right, b.dtype, b.row, left, a.dtype, a.row,
                    kept, out, c.dtype, c.row, COMPUTE_F32, ANY_ALGORITHM,
                );
            }
            #[rustfmt::skip]
            return (self.gemm_batched)(
                self.handle, of_right, of_left, *n, *m, *k, &one, right, b.dtype, b.row, b.part, left, a.dtype, a.row,
                a.part, kept, out, c.dtype, c.row, c.part, *parts as c_int, COMPUTE_F32, ANY_ALGORITHM,
            );
        }
    }
}

/// Looks up a function of the library.
///
/// # Safety
/// `F` is the type of the function of that name, and is called only while the library is open.
unsafe fn function<F: Copy>(library: &Library, name: &str) -> Result<F, String> {
    // SAFETY: by this function's contract.
    let found = unsafe { library.get::<F>(name) };
    found.map(|function| *function).map_err(|error| format!("has no {name}: {error}"))
}

/// Whether the driver has events of a whole context (CUDA 12.5).
fn context_events() -> bool {
    // SAFETY: looks the names up in the driver's library, which is open; nothing is called.
    unsafe {
        let driver = sys::culib();
        let has = |name: &str| driver.get::<unsafe extern "C" fn()>(name).is_ok();
        has("cuCtxRecordEvent") && has("cuCtxWaitEvent")
    }
}

fn event() -> Result<sys::CUevent, String> {
    let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING);
    event.map_err(|error| format!("the driver answers {error:?}"))
}
