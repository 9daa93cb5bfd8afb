//! Benchmark of products of activations with a packed 4-bit weight.

use serde::Serialize;

use crate::arch::ModelConfig;
use crate::checkpoint::ModelShape;
use crate::device::{ComputeType, DeviceSpec, DtypeSpec, with_backend};
use crate::error::Result;
use crate::kernels::{self, Kernels};
use crate::model::compute_type;

/// A benchmark of products of different sizes.
#[derive(Debug, Clone)]
pub struct MatmulBench {
    /// The model whose linears are timed; `None`: some usual sizes.
    pub shape: Option<ModelShape>,
    /// Largest number of tokens.
    pub tokens: usize,
    pub device: DeviceSpec,
    pub dtype: DtypeSpec,
}

/// The times of the products.
#[derive(Debug, Clone, Serialize)]
pub struct MatmulTimes {
    pub device: String,
    pub dtype: ComputeType,
    pub matmul: Vec<TimedProduct>,
}

/// The time of a product at both signs.
#[derive(Debug, Clone, Serialize)]
pub struct TimedProduct {
    pub tokens: usize,
    pub out_features: usize,
    pub in_features: usize,
    pub bits: u32,
    pub group_size: usize,
    pub path: &'static str,
    pub seconds: f64,
    pub gflops: f64,
}

/// Times products with every implementation that the device has.
///
/// # Errors
/// The device fails.
pub fn matmul(bench: &MatmulBench) -> Result<MatmulTimes> {
    let device = bench.device.resolve()?;
    let dtype = compute_type(&device, bench.dtype)?;
    let sizes = match bench.shape.map(ModelShape::config) {
        Some(ModelConfig { hidden_size, intermediate_size, .. }) => vec![
            (hidden_size, hidden_size),
            (intermediate_size, hidden_size),
            (hidden_size, intermediate_size),
        ],
        None => vec![(4096, 4096), (1536, 576), (576, 1536)],
    };
    let paths = with_backend!(&device, |B, _device| B::EVERY_PATH);
    // The implementation without tensor cores takes a hundred times as long with 16-bit types.
    let plain =
        |path: &kernels::MatmulPath| *path == kernels::MatmulPath::Dense(kernels::MatmulEngine::Units);
    let paths: Vec<_> = paths.iter().filter(|path| dtype == ComputeType::F32 || !plain(path)).collect();
    let mut products = Vec::new();
    for (out_features, in_features) in sizes {
        let token_counts = [1, 16, 64, 256, 1024, 4096, 8192];
        for tokens in token_counts.into_iter().filter(|tokens| *tokens <= bench.tokens) {
            for path in &paths {
                let sizes = [tokens, out_features, in_features];
                let seconds = with_backend!(&device, |B, device| {
                    kernels::bench::time_linear::<B>(**path, sizes, dtype, &device)
                })?;
                let Some(seconds) = seconds else { continue };
                // A multiplication and an addition per weight and token, at both signs.
                let gflops = 4.0 * (tokens * out_features * in_features) as f64 / seconds / 1e9;
                let (path, bits, group_size) = (path.name(), 4, 64);
                products.push(TimedProduct {
                    tokens,
                    out_features,
                    in_features,
                    bits,
                    group_size,
                    path,
                    seconds,
                    gflops,
                });
            }
        }
    }
    Ok(MatmulTimes { device: device.to_string(), dtype, matmul: products })
}
