//! Tensors on their way between a device and the host. Nothing waits here: copies are queued among the launches.

use std::sync::mpsc;

use burn::tensor::backend::ExecutionError;
use burn::tensor::{DType, Shape, TensorData, TensorMetadata};
use burn_cubecl::CubeRuntime;
use burn_cubecl::ops::numeric::empty_device_contiguous_dtype;
use burn_cubecl::tensor::CubeTensor;
use cubecl::bytes::Bytes;
use cubecl::device::Device;
use cubecl::device_handle::DeviceHandle;
use cubecl::future::DynFut;
use cubecl::server::{ComputeServer, CopyDescriptor, ServerError};
use cubecl::stream_id::StreamId;

use super::cublas::{self, beside};
use crate::kernels::Reading;

/// A copy that is queued.
type Copied = DynFut<Result<Vec<Bytes>, ServerError>>;

/// Queues the copy of a contiguous tensor to the host. CUDA copies to pinned memory.
pub(super) fn read_later<R: CubeRuntime>(tensor: CubeTensor<R>) -> Reading {
    let (shape, dtype) = (tensor.shape(), tensor.dtype);
    let (from, stream) = (descriptor(&tensor), StreamId::current());
    // Answers as soon as the copy is queued.
    let copied = server::<R>(&tensor.device).submit_blocking(move |server| server.read(vec![from], stream));
    Reading::new(move || values(copied.map_err(|error| failed(format!("{error:?}")))?, shape, dtype))
}

/// As [`read_later`], but beside one of the products that follow.
pub(super) fn read_beside<R: CubeRuntime>(tensor: CubeTensor<R>) -> Reading {
    if !cublas::is_open::<R>(&tensor.device) {
        return read_later(tensor);
    }
    let (shape, dtype, device) = (tensor.shape(), tensor.dtype, tensor.device.clone());
    let (from, held, stream) = (descriptor(&tensor), tensor.handle, StreamId::current());
    let (sender, receiver) = mpsc::channel();
    let read = move |server: &mut R::Server| {
        // Nobody is left to tell where the reading was given up.
        let _ = sender.send(server.read(vec![from], stream));
        drop(held);
    };
    beside::put::<R>(&device, Box::new(read));
    Reading::new(move || {
        beside::settle::<R>(&device);
        let copied = receiver.recv().map_err(|error| failed(error.to_string()))?;
        values(copied, shape, dtype)
    })
}

/// Queues the copy of values to the device. CUDA copies from pinned memory, to which they are brought first unless they
/// are there: a copy from any other memory would wait for the device. cubecl's own way to make a tensor would copy them
/// to other memory again.
pub(super) fn upload<R: CubeRuntime>(data: TensorData, device: &R::Device) -> CubeTensor<R> {
    let (tensor, write) = writing(data, device);
    server::<R>(device).submit(write);
    tensor
}

/// As [`upload`], but beside one of the products that follow. The tensor has its values from [`beside::settle`] on.
pub(super) fn upload_beside<R: CubeRuntime>(data: TensorData, device: &R::Device) -> CubeTensor<R> {
    if !cublas::is_open::<R>(device) {
        return upload(data, device);
    }
    let (tensor, write) = writing(data, device);
    beside::put::<R>(device, Box::new(write));
    tensor
}

/// A new tensor, and what writes its values.
fn writing<R: CubeRuntime>(
    data: TensorData,
    device: &R::Device,
) -> (CubeTensor<R>, impl FnOnce(&mut R::Server) + Send + use<R>) {
    let TensorData { mut bytes, shape, dtype } = data;
    let client = R::client(device);
    client.staging([&mut bytes].into_iter(), false);
    let tensor = empty_device_contiguous_dtype(client, device.clone(), shape, dtype);
    let (to, stream) = (descriptor(&tensor), StreamId::current());
    (tensor, move |server: &mut R::Server| server.write(vec![(to, bytes)], stream))
}

fn descriptor<R: CubeRuntime>(tensor: &CubeTensor<R>) -> CopyDescriptor {
    let (shape, strides) = (tensor.shape(), tensor.meta.strides().clone());
    CopyDescriptor::new(tensor.handle.clone().binding(), shape, strides, tensor.dtype.size())
}

/// Waits for a copy.
fn values(copied: Copied, shape: Shape, dtype: DType) -> Result<TensorData, ExecutionError> {
    let bytes = cubecl::future::block_on(copied).map_err(|error| failed(error.to_string()))?;
    let bytes = bytes.into_iter().next().ok_or_else(|| failed("a copy without values".to_string()))?;
    Ok(TensorData::from_bytes(bytes, shape, dtype))
}

fn failed(reason: String) -> ExecutionError {
    ExecutionError::WithContext { reason }
}

/// The queue of a device.
fn server<R: CubeRuntime>(device: &R::Device) -> DeviceHandle<R::Server> {
    DeviceHandle::new(device.to_id())
}
