//! `Y = X · Wᵀ` of packed weights, with the weights' rows in the vector lanes and the tokens broadcast.
//!
//! A unit is `LANES` rows of a weight, a word is one f32 or two neighbouring bf16, and a slice is up to `SLICE` words
//! of every row or token. One slice of a unit at a time is unpacked into the first level cache and
//! multiplied with all tokens of a pass: a weight is unpacked once for both signs of a perturbation and
//! never exists in full.
//!
//! ```text
//! X   [slices][T][words]              packed once for all weights that share it
//! W   [words][LANES rows]             the slice at hand
//! Y   [units][tokens][LANES rows]     f32, of the units and the pass at hand
//! ```
//!
//! Weights are scaled while they are unpacked, and rounded if the product is in bf16. Under a perturbation, a product in
//! bf16 takes another way: levels (`code − zero`, exact in bf16) are multiplied with the activations first, and the
//! perturbed scale multiplies the sum over its group in f32. So only the activations are rounded, the same way at both
//! signs, and a perturbed scale never. The entries of a codebook are rounded, too, the same way for all tokens.
//!
//! Where groups have sub-blocks with scales of their own, `scales` makes a group of each sub-block, so that no other
//! file knows of them.
//!
//! Every sum has one order, whatever the number of tokens and of threads.

#[cfg(target_arch = "x86_64")]
mod amx;
mod arithmetic;
mod backward;
mod by_tokens;
mod codebook;
mod codes;
mod dense;
mod input;
mod layout;
mod operands;
mod product;
mod scales;
mod tile;
mod transpose;
mod turn;
mod unit;
mod unpack;
mod vector;
mod view;

pub(super) use arithmetic::Arithmetic;
pub(super) use backward::{BackwardProduct, packed_linear_backward};
pub(super) use dense::{dense_linear, dense_linear_backward};
pub(super) use product::packed_linear;
pub(super) use view::{PackedProduct, WeightView};
