//! Copies beside products. cubecl has one queue for each device, in which a copy delays the launches behind it; cuBLAS has a
//! queue of its own. What enters cubecl's queue between the beginning of a product and the wait for its end runs beside
//! the product: it waits for everything before the product, and only what follows the product waits for it.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;

use burn_cubecl::CubeRuntime;
use cubecl::Runtime;
use cubecl::cuda::CudaRuntime;
use cubecl::device::Device;
use cubecl::device_handle::DeviceHandle;

type Server = <CudaRuntime as Runtime>::Server;

/// Work for a device's queue. It must hold the buffers that it reads, so that nothing is written to them before.
pub(in crate::kernels::cube) type QueueTask<S> = Box<dyn FnOnce(&mut S) + Send>;

thread_local! {
    /// The tasks of the device that this runner thread serves.
    static WAITING: RefCell<Waiting<Server>> = const { RefCell::new(Waiting::new()) };
}

/// Tasks that wait for a large product: during a small one, a copy would not end.
struct Waiting<S> {
    tasks: VecDeque<QueueTask<S>>,
    /// Terms of the largest product since the last task came, and between that one and the task before it: a task comes
    /// with each block, and all blocks have products of the same sizes.
    largest: [u64; 2],
}

impl<S> Waiting<S> {
    const fn new() -> Self {
        Self { tasks: VecDeque::new(), largest: [0; 2] }
    }

    fn put(&mut self, task: QueueTask<S>) {
        self.tasks.push_back(task);
        self.largest = [0, self.largest[0]];
    }

    /// The task to run beside a product that has begun.
    fn beside(&mut self, terms: u64) -> Option<QueueTask<S>> {
        let [largest, usual] = &mut self.largest;
        *largest = terms.max(*largest);
        if 2 * terms >= *usual { self.tasks.pop_front() } else { None }
    }
}

/// Lets a task wait for a large product, or for [`settle`]. On a device without cuBLAS's queue it is queued at once.
pub(in crate::kernels::cube) fn put<R: CubeRuntime>(device: &R::Device, task: QueueTask<R::Server>) {
    let task: Box<dyn Any> = Box::new(task);
    match task.downcast::<QueueTask<Server>>() {
        Ok(task) => DeviceHandle::<Server>::new(device.to_id())
            .submit(move |_| WAITING.with_borrow_mut(|waiting| waiting.put(*task))),
        Err(task) => {
            if let Ok(task) = task.downcast::<QueueTask<R::Server>>() {
                DeviceHandle::<R::Server>::new(device.to_id()).submit(move |server| task(server));
            }
        }
    }
}

/// Runs a task, if there is one, beside a product of so many terms. On the runner thread, when the product has begun.
pub(super) fn began(server: &mut Server, terms: u64) {
    if let Some(task) = WAITING.with_borrow_mut(|waiting| waiting.beside(terms)) {
        task(server);
    }
}

/// Queues all tasks that still wait ahead of what is queued from now on.
pub(in crate::kernels::cube) fn settle<R: CubeRuntime>(device: &R::Device) {
    if (device as &dyn Any).is::<<CudaRuntime as Runtime>::Device>() {
        let all = |server: &mut Server| {
            let tasks = WAITING.with_borrow_mut(|waiting| std::mem::take(&mut waiting.tasks));
            tasks.into_iter().for_each(|task| task(server));
        };
        // A device that is lost tells so at the next read.
        let _ = DeviceHandle::<Server>::new(device.to_id()).submit_blocking(all);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_waits_for_a_product_that_is_large_for_its_block() {
        let mut waiting = Waiting::<Vec<u64>>::new();
        let mut seen = vec![];
        // The head before the first block is larger than all products of blocks.
        for products in [&[9000][..], &[100, 290, 280], &[100, 290, 280], &[100, 290, 280]] {
            let block = seen.len() as u64;
            waiting.put(Box::new(move |ran| ran.push(block)));
            let mut ran = vec![];
            for terms in products {
                if let Some(task) = waiting.beside(*terms) {
                    task(&mut ran);
                    ran.push(*terms);
                }
            }
            seen.push(ran);
        }
        // Beside the head; not before the sizes of a block are known; then beside its first large product, in order.
        assert_eq!(seen, [vec![0, 9000], vec![], vec![1, 290, 2, 280], vec![3, 290]]);
    }
}
