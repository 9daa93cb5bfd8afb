//! How the linears of a Hugging Face directory are stored quantized: one file per scheme, which owns its
//! tensors' names and layouts, in both directions.
//!
//! ```text
//! traits            the traits of a scheme's file; tensors its statements about each tensor
//! linear            StoredLinear: opens and checks a linear's tensors and gives its weight, in every scheme
//! scales            the tensors that training changes
//! ordering          features that were quantized in another order than the model's
//! declared          which scheme config.json declares; config the keys that several schemes have
//! bytes             conversions between bytes and numbers
//! ```
//!
//! To add a scheme: one file, and one arm in `declared` for its `quant_method`. The file states the tensors of a
//! linear with their types and shapes, once for reading and writing, and how its codes and zero points are unpacked
//! ([`traits::LinearFormat`]). To write the scheme, it also says how they are packed ([`Packing`]), and gets an arm in
//! [`crate::checkpoint::QuantizedFormat`].

pub mod aqlm;
pub mod awq;
pub mod bitsandbytes;
mod bytes;
pub mod codebook;
pub mod compressed_tensors;
mod config;
mod declared;
pub mod gptq;
mod linear;
pub mod mlx;
mod ordering;
mod scales;
mod tensors;
mod traits;

pub use declared::{QUANTIZE_CONFIG_FILE, other_settings, read, undeclared};
pub use linear::StoredLinear;
pub use traits::{Packing, Scheme};
