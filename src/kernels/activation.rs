//! Constants of the activation functions.

/// √(8/π), see [`Activation::GeluTanh`](crate::arch::Activation::GeluTanh).
pub const GELU_LINEAR: f32 = 1.595_769;
/// √(8/π) · 0.044715
pub const GELU_CUBIC: f32 = 0.071_354_82;
