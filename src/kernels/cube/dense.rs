//! `out = x · Wᵀ` for a dense W: by cuBLAS where it is found, otherwise by cubek's routines.

use std::sync::{Mutex, PoisonError};

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::std::InputBinding;

use crate::kernels::{MatmulEngine, MatmulPath};

/// Engines that [`MatmulEngine::Fastest`] tries in turn. cubek's accelerated tiles would round f32 to tf32. Its two-stage
/// routines are left out: on an H200 some of their products are wrong.
fn fastest(dtype: DType) -> &'static [MatmulEngine] {
    match dtype {
        DType::F32 => &[MatmulEngine::Cublas, MatmulEngine::Units, MatmulEngine::Naive],
        _ => &[
            MatmulEngine::Cublas,
            MatmulEngine::TmaMma,
            MatmulEngine::Cmma,
            MatmulEngine::Units,
            MatmulEngine::Naive,
        ],
    }
}

/// Bytes of shared memory that a device must have for an engine. cubek does not check: on a device with less, the
/// launch fails, and with it everything that was queued.
fn shared_bytes(engine: MatmulEngine) -> usize {
    match engine {
        MatmulEngine::Fastest | MatmulEngine::Cublas | MatmulEngine::Units | MatmulEngine::Naive => 0,
        // Tested on Hopper alone.
        MatmulEngine::TmaMma => 200 << 10,
        // The largest tiles need as much.
        MatmulEngine::Cmma | MatmulEngine::Mma => 96 << 10,
    }
}

/// Queues the product.
///
/// # Shapes
/// `x`: `[parts, T, in_features]`; `w`: `[parts, out_features, in_features]`; `out`: `[parts, T, out_features]`;
/// all contiguous and of one type.
///
/// # Errors
/// The reason why this engine cannot do it; nothing was queued then. [`MatmulEngine::Fastest`] takes everything.
pub(super) fn multiply<R: CubeRuntime>(
    engine: MatmulEngine,
    x: &CubeTensor<R>,
    w: &CubeTensor<R>,
    out: &CubeTensor<R>,
) -> Result<(), String> {
    match engine {
        MatmulEngine::Fastest => {
            let mut refusal = Ok(());
            for engine in fastest(x.dtype) {
                refusal = multiply(*engine, x, w, out);
                if refusal.is_ok() {
                    log_once(*engine, x.dtype);
                    break;
                }
            }
            refusal
        }
        MatmulEngine::Cublas => super::cublas::multiply(x, w, out),
        engine => match strategy(engine) {
            Some(_) if x.dtype == DType::F32 && engine.rounds_f32() => {
                Err("it would round f32 to tf32".to_string())
            }
            Some(strategy) => {
                let (least, most) =
                    (shared_bytes(engine), x.client.properties().hardware.max_shared_memory_size);
                match most < least {
                    true => Err(format!("it needs {least} bytes of shared memory, the device has {most}")),
                    false => cubek(strategy, x, w, out),
                }
            }
            None => Err("it is not one of cubek's engines".to_string()),
        },
    }
}

/// Logs the engine for tensors of a type, the first time that it is used.
fn log_once(engine: MatmulEngine, dtype: DType) {
    static SAID: Mutex<Vec<(MatmulEngine, DType)>> = Mutex::new(Vec::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.contains(&(engine, dtype)) {
        said.push((engine, dtype));
        tracing::info!("products of {dtype:?}: {}", MatmulPath::Dense(engine).name());
    }
}

fn cubek<R: CubeRuntime>(
    strategy: Strategy,
    x: &CubeTensor<R>,
    w: &CubeTensor<R>,
    out: &CubeTensor<R>,
) -> Result<(), String> {
    let dtype = x.dtype.into();
    let input = |tensor: &CubeTensor<R>| InputBinding::new(tensor.clone().binding(), dtype);
    let (x_in, mut w_in) = (input(x), input(w));
    w_in.swap_dims(1, 2);
    let mut types = MatmulElems::from_globals(&MatmulGlobalElems { lhs: dtype, rhs: dtype, out: dtype });
    launch_ref(&strategy, &x.client, x_in, w_in, out.clone().binding(), &mut types)
        .map_err(|error| format!("{error:?}"))
}

fn strategy(engine: MatmulEngine) -> Option<Strategy> {
    Some(match engine {
        MatmulEngine::Fastest | MatmulEngine::Cublas => return None,
        MatmulEngine::Cmma => Strategy::SimpleCyclicCmma(Default::default()),
        MatmulEngine::Mma => Strategy::SimpleCyclicMma(Default::default()),
        MatmulEngine::TmaMma => Strategy::SpecializedTmaMma(Default::default()),
        MatmulEngine::Units => Strategy::SimpleUnit(Default::default()),
        MatmulEngine::Naive => Strategy::Naive,
    })
}
