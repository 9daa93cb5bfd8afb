//! Keys and values that a layer keeps from one forward pass to the next.

use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor};

use crate::kernels::{Kernels, write_rows};

/// Keys and values of a layer, `[S, kv_heads, head_dim]` each. A pass writes those of its tokens to rows of its choice.
pub struct LayerCache<B: Backend>([Tensor<B, 3>; 2]);

/// A layer's cache, and the rows of it where the keys and values of a pass belong: `[T]`.
pub struct CachedRows<'a, B: Backend> {
    pub cache: &'a mut LayerCache<B>,
    pub rows: &'a Tensor<B, 1, Int>,
}

impl<B: Kernels> LayerCache<B> {
    /// A cache of zeros: kernels may load rows that no query attends to.
    pub fn new(shape: [usize; 3], dtype: DType, device: &B::Device) -> Self {
        Self([0; 2].map(|_| Tensor::zeros(shape, (device, dtype))))
    }

    /// Gives the cache `count` rows, of which those at `to` are the old ones at `from`: `[N]` each.
    pub fn move_rows(&mut self, count: usize, from: &Tensor<B, 1, Int>, to: &Tensor<B, 1, Int>) {
        for tensor in &mut self.0 {
            let [_, heads, dim] = tensor.dims();
            let room = Tensor::zeros([count, heads, dim], (&tensor.device(), tensor.dtype()));
            *tensor = write_rows(room, to.clone(), tensor.clone().select(0, from.clone()));
        }
    }
}

impl<B: Kernels> CachedRows<'_, B> {
    /// Writes the keys and values of a pass, `[T, kv_heads, head_dim]` each, and returns those of the whole cache.
    pub fn write(self, new: [Tensor<B, 3>; 2]) -> [Tensor<B, 3>; 2] {
        for (tensor, new) in self.cache.0.iter_mut().zip(new) {
            tensor.inplace(|tensor| write_rows(tensor, self.rows.clone(), new));
        }
        self.cache.0.clone()
    }
}
