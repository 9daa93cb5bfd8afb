//! Products of dense matrices: by cuBLAS where it is found, otherwise by cubek's routines.

use std::sync::{Mutex, PoisonError};

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::std::InputBinding;

use super::product_form::ProductForm;
use crate::kernels::{MatmulEngine, MatmulPath};

/// Engines that [`MatmulEngine::Fastest`] tries in turn. cubek's accelerated tiles would round f32 to tf32. Its two-stage
/// routines are left out: on an H200 some of their products are wrong. Its TMA is taken only where it has been tested.
fn fastest(dtype: DType, form: ProductForm) -> impl Iterator<Item = MatmulEngine> {
    const ALL: [MatmulEngine; 5] = [
        MatmulEngine::Cublas,
        MatmulEngine::TmaMma,
        MatmulEngine::Cmma,
        MatmulEngine::Units,
        MatmulEngine::Naive,
    ];
    let takes = move |engine: &MatmulEngine| {
        let rounds = dtype == DType::F32 && engine.rounds_f32();
        !rounds && (form == ProductForm::RightTransposed || *engine != MatmulEngine::TmaMma)
    };
    ALL.into_iter().filter(takes)
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

/// Queues the product, or one for each part. Sums are f32 whatever the types.
///
/// # Shapes
/// `left` and `right`: `[parts, rows, columns]` of one type, as `form` says; a row is contiguous. `out`: `[parts, m, n]`,
/// contiguous, of their type or f32.
///
/// # Errors
/// The reason why this engine cannot do it; nothing was queued then. [`MatmulEngine::Fastest`] takes everything.
pub(super) fn multiply<R: CubeRuntime>(
    engine: MatmulEngine,
    form: ProductForm,
    [left, right]: [&CubeTensor<R>; 2],
    out: &CubeTensor<R>,
) -> Result<(), String> {
    match engine {
        MatmulEngine::Fastest => {
            let mut refusal = Ok(());
            for engine in fastest(left.dtype, form) {
                refusal = multiply(engine, form, [left, right], out);
                if refusal.is_ok() {
                    log_once(engine, left.dtype);
                    break;
                }
            }
            refusal
        }
        MatmulEngine::Cublas => super::cublas::multiply(form, [left, right], out, 0.0),
        engine => match strategy(engine) {
            Some(_) if left.dtype == DType::F32 && engine.rounds_f32() => {
                Err("it would round f32 to tf32".to_string())
            }
            Some(strategy) => {
                let (least, most) =
                    (shared_bytes(engine), left.client.properties().hardware.max_shared_memory_size);
                match most < least {
                    true => Err(format!("it needs {least} bytes of shared memory, the device has {most}")),
                    false => cubek(strategy, form, [left, right], out),
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
    form: ProductForm,
    sides: [&CubeTensor<R>; 2],
    out: &CubeTensor<R>,
) -> Result<(), String> {
    let (client, dtype) = (&out.client, sides[0].dtype.into());
    let mut inputs = sides.map(|side| InputBinding::new(side.clone().binding(), dtype));
    inputs.iter_mut().zip(form.transposed()).filter(|(_, transposed)| *transposed).for_each(|(input, _)| {
        input.swap_dims(1, 2);
    });
    let [left, right] = inputs;
    let globals = MatmulGlobalElems { lhs: dtype, rhs: dtype, out: out.dtype.into() };
    let mut types = MatmulElems::from_globals(&globals);
    launch_ref(&strategy, client, left, right, out.clone().binding(), &mut types)
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
