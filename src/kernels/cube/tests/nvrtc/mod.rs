//! Every kernel of this module, in every variant that is launched, compiled by NVIDIA's own compiler for the
//! supported cards, so that a kernel that cannot compile never waits for a card.

mod card;
mod compile;
mod decoder;
mod host;
mod library;
mod recorder;
mod runtime;
mod variants;
