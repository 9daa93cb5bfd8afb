//! The packed weight: one description for every quantized format.
//!
//! ```text
//! row o of the weight (out_features rows, Hugging Face order)
//!
//! codes   | c0 c1 c2 …           pad |   `bits` bits each, low bits of a u32 word first, a code may
//!         | w0 w1 …  w(words-1)      |   straddle two words; each row starts a new word
//! scales  | s0        s1       …     |   one f32 per group of `group_size` input features, the last
//! levels  | zero or minimum a group  |   group of a row may be short
//!
//! weight[o, i] = scales[o, i / group_size] · level(code[o, i])
//! ```
//!
//! Where groups have sub-blocks of `width` features, each sub-block has an integer scale, and may have an integer
//! minimum that a float of the group multiplies:
//!
//! ```text
//! level(code[o, i]) = sub_scales[o, i / width] · (code[o, i] − zero)
//!                     + min_scales[o, i / group_size] · sub_mins[o, i / width]
//! ```
//!
//! With codebooks, `width` neighbouring features are a vector, and the stream of codes holds `num_codebooks` codes
//! for each vector, whose entries are added:
//!
//! ```text
//! weight[o, v·width + j] = scales[o, v·width / group_size] · Σ_b entries[b, code[o, v·num_codebooks + b], j]
//! ```
//!
//! Where the features are quantized in another order than the model's, `perm` names the input feature at each
//! place: `y[o] = Σ_i weight[o, i] · x[perm[i]]`.

mod codes;
pub mod convert;
mod float_type;
mod levels;
mod weight;

pub use codes::{get_code, pack_codes, put_code, put_codes, words_per_row};
pub use float_type::FloatType;
pub use levels::{Codebook, Levels, LevelsKind, SubBlocks};
pub use weight::{PackedLayout, PackedWeight};

#[cfg(test)]
mod tests;
