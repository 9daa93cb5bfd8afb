//! The test that compiles all kernels.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::library::Nvrtc;
use super::runtime::{Card, Launch};
use super::variants::ARCHITECTURES;
use super::{decoder, variants};

#[test]
fn every_cuda_kernel_compiles() {
    let nvrtc = match Nvrtc::open() {
        Ok(nvrtc) => nvrtc,
        Err(error) => {
            let required = std::env::var("QZO_TEST_DEVICES").unwrap_or_default();
            assert!(!required.split(',').any(|name| name == "nvrtc"), "NVRTC is required here: {error}");
            eprintln!("SKIPPED: no CUDA kernel was compiled: {error}");
            return;
        }
    };
    let clock = Instant::now();
    // Each source is compiled for the first card that has it: a newer card runs it, too.
    let mut kernels: BTreeMap<Arc<str>, (u16, &str)> = BTreeMap::new();
    for architecture in ARCHITECTURES {
        let card = Card { architecture };
        for Launch { name, source } in [variants::launched(&card), decoder::launched(&card)].concat() {
            kernels.entry(source).or_insert((architecture, name));
        }
    }
    eprintln!("wrote {} CUDA kernels in {:.0} s", kernels.len(), clock.elapsed().as_secs_f64());
    assert!(kernels.len() >= 3 * 30, "only {} kernels were launched", kernels.len());
    let left = Mutex::new(kernels.iter());
    let failures = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((source, (architecture, name))) = left.lock().unwrap().next() else { break };
                    if let Err(log) = nvrtc.compile(source, *architecture) {
                        failures.lock().unwrap().push(format!("{name} for {architecture}: {log}\n{source}"));
                    }
                }
            });
        }
    });
    eprintln!("compiled them {:.0} s after the start", clock.elapsed().as_secs_f64());
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{} of {} failed, first {}", failures.len(), kernels.len(), failures[0]);
}
