//! Tensors on their way between a device and the host. Nothing waits here: copies are queued among the launches.

use burn::tensor::backend::ExecutionError;
use burn::tensor::{TensorData, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::device::Device;
use cubecl::device_handle::DeviceHandle;
use cubecl::server::{ComputeServer, CopyDescriptor};
use cubecl::stream_id::StreamId;

use crate::kernels::Reading;

/// Queues the copy of a contiguous tensor to the host. CUDA copies to pinned memory.
pub(super) fn read_later<R: CubeRuntime>(tensor: CubeTensor<R>) -> Reading {
    let (shape, dtype) = (tensor.shape(), tensor.dtype);
    let strides = tensor.meta.strides().clone();
    let from = CopyDescriptor::new(tensor.handle.binding(), shape.clone(), strides, dtype.size());
    let stream = StreamId::current();
    // Answers as soon as the copy is queued.
    let copied = server::<R>(&tensor.device).submit_blocking(move |server| server.read(vec![from], stream));
    Reading::new(move || {
        let failed = |reason: String| ExecutionError::WithContext { reason };
        let copied = copied.map_err(|error| failed(format!("the device is lost: {error:?}")))?;
        let bytes = cubecl::future::block_on(copied).map_err(|error| failed(error.to_string()))?;
        let bytes = bytes.into_iter().next().ok_or_else(|| failed("a copy without values".to_string()))?;
        Ok(TensorData::from_bytes(bytes, shape, dtype))
    })
}

/// Queues the copy of values to the device. CUDA copies from pinned memory, to which they are brought first unless they
/// are there: a copy from any other memory would wait for the device. cubecl's own way to make a tensor would copy them
/// to other memory again.
pub(super) fn upload<R: CubeRuntime>(data: TensorData, device: &R::Device) -> CubeTensor<R> {
    let TensorData { mut bytes, shape, dtype } = data;
    let client = R::client(device);
    client.staging([&mut bytes].into_iter(), false);
    let tensor = empty_device_contiguous_dtype(client, device.clone(), shape.clone(), dtype);
    let strides = tensor.meta.strides().clone();
    let to = CopyDescriptor::new(tensor.handle.clone().binding(), shape, strides, dtype.size());
    let stream = StreamId::current();
    server::<R>(device).submit(move |server| server.write(vec![(to, bytes)], stream));
    tensor
}

/// The queue of a device.
fn server<R: CubeRuntime>(device: &R::Device) -> DeviceHandle<R::Server> {
    DeviceHandle::new(device.to_id())
}
