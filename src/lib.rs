pub mod error;
pub mod zo;
pub mod device;
pub mod kernels;
pub mod quant;
