//! The gradients of a product.

/// Most bytes of the scratch for gradients of weights on a card: so few that much of it stays in the cache of large cards,
/// and so many that their products keep every multiprocessor busy.
pub const GRADIENT_SCRATCH: usize = 64 << 20;

/// The gradients of products of one input with `N` weights, as tensors `F`.
pub struct LinearGradients<F, const N: usize> {
    /// Gradient of the input, the sum over all products: `[T, in_features]`
    pub input: Option<F>,
    /// Gradient of the logarithm of each scale, f32 `[out_features · groups]`: the scale times the gradient of the scale. It
    /// is 0 where the scale is 0, since such a group is constant. A minimum moves with its scale.
    pub scales: Option<[F; N]>,
}
