//! `out = x · Wᵀ` for a dense W: by cuBLAS where there is one, else by what cubek has for the device.

use std::sync::{Mutex, PoisonError};

use burn::tensor::DType;
use burn_cubecl::CubeRuntime;
use burn_cubecl::tensor::CubeTensor;
use cubek::matmul::definition::{MatmulElems, MatmulGlobalElems};
use cubek::matmul::launch::{Strategy, launch_ref};
use cubek::std::InputBinding;

use crate::kernels::{Engine, Path};

/// Engines that [`Engine::Fastest`] tries in turn. cubek's accelerated tiles would round f32 to tf32. Its routines in
/// two stages are no engines here: on an H200 some products of theirs are wrong.
fn fastest(dtype: DType) -> &'static [Engine] {
    match dtype {
        DType::F32 => &[Engine::Cublas, Engine::Units, Engine::Naive],
        _ => &[Engine::Cublas, Engine::TmaMma, Engine::Cmma, Engine::Units, Engine::Naive],
    }
}

/// Bytes of shared memory that a device must have for an engine. cubek does not look: a device with less fails
/// after the launch, and with it all that was queued.
fn shared_bytes(engine: Engine) -> usize {
    match engine {
        Engine::Fastest | Engine::Cublas | Engine::Units | Engine::Naive => 0,
        // Seen to be right on Hopper alone.
        Engine::TmaMma => 200 << 10,
        // What the largest tiles take.
        Engine::Cmma | Engine::Mma => 96 << 10,
    }
}

/// Queues the product.
///
/// # Shapes
/// `x`: `[parts, T, in_features]`; `w`: `[parts, out_features, in_features]`; `out`: `[parts, T, out_features]`;
/// all contiguous and of one type.
///
/// # Errors
/// Why this engine cannot do it; nothing was queued then. [`Engine::Fastest`] takes everything.
pub(super) fn multiply<R: CubeRuntime>(
    engine: Engine,
    x: &CubeTensor<R>,
    w: &CubeTensor<R>,
    out: &CubeTensor<R>,
) -> Result<(), String> {
    match engine {
        Engine::Fastest => {
            let mut refusal = Ok(());
            for engine in fastest(x.dtype) {
                refusal = multiply(*engine, x, w, out);
                if refusal.is_ok() {
                    say_once(*engine, x.dtype);
                    break;
                }
            }
            refusal
        }
        Engine::Cublas => super::cublas::multiply(x, w, out),
        engine => match strategy(engine) {
            Some(_) if x.dtype == DType::F32 && engine.rounds_f32() => {
                Err("it would round f32 to tf32".to_string())
            }
            Some(strategy) => {
                let (least, most) =
                    (shared_bytes(engine), x.client.properties().hardware.max_shared_memory_size);
                match most < least {
                    true => Err(format!("it takes {least} bytes of shared memory, the device has {most}")),
                    false => cubek(strategy, x, w, out),
                }
            }
            None => Err("it is none of cubek's".to_string()),
        },
    }
}

/// Tells what multiplies tensors of a type, the first time that it does.
fn say_once(engine: Engine, dtype: DType) {
    static SAID: Mutex<Vec<(Engine, DType)>> = Mutex::new(Vec::new());
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    if !said.contains(&(engine, dtype)) {
        said.push((engine, dtype));
        tracing::info!("products of {dtype:?}: {}", Path::Dense(engine).name());
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

fn strategy(engine: Engine) -> Option<Strategy> {
    Some(match engine {
        Engine::Fastest | Engine::Cublas => return None,
        Engine::Cmma => Strategy::SimpleCyclicCmma(Default::default()),
        Engine::Mma => Strategy::SimpleCyclicMma(Default::default()),
        Engine::TmaMma => Strategy::SpecializedTmaMma(Default::default()),
        Engine::Units => Strategy::SimpleUnit(Default::default()),
        Engine::Naive => Strategy::Naive,
    })
}
