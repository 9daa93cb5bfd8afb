//! The kernels of the CPU, in plain Rust that the compiler vectorizes for each instruction set (`multiversion`).

mod attention;
mod attention_backward;
mod awake;
mod backend;
mod elementwise;
mod elementwise_backward;
mod halves;
mod linear;
mod math;
mod multiversion;
mod noise;
mod results;

pub(crate) use multiversion::multiversion;
