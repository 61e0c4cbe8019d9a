//! What tests of the platform, and of plug-ins for it, need.

mod clock;
pub mod conformance;
pub mod faults;
pub mod reference;
pub mod samples;
pub mod traffic;

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

pub use clock::ManualClock;

/// Runs a future to its end on this thread: for tests of plug-ins that need no runtime of their own.
///
/// ```
/// assert_eq!(subscription_core::testkit::block_on(async { 1 + 1 }), 2);
/// ```
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
