//! The library's own runtime.
//!
//! Every dynamic library has its own copy of tokio, so the host's runtime does not exist inside it. The SDK makes one
//! runtime a library, with two workers, when the first call arrives; every method of the library runs there. In the
//! host, and in tests within one process, the runtime at hand is used instead ([`adopt`]).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::OnceLock;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::error::{Error, Result};

/// Threads that poll a library's futures.
const WORKERS: usize = 2;

static ADOPTED: OnceLock<Handle> = OnceLock::new();
static OWN: OnceLock<Option<Runtime>> = OnceLock::new();

/// Makes `handle` the runtime of this copy of the crate. The host does this once, before it loads anything; a library
/// never needs to. Answers whether it took effect: the first runtime stays.
pub fn adopt(handle: Handle) -> bool {
    ADOPTED.set(handle).is_ok()
}

/// The runtime of this copy of the crate, made now if there is none yet.
pub fn handle() -> Result<Handle> {
    if let Some(handle) = ADOPTED.get() {
        return Ok(handle.clone());
    }
    let own = OWN.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        builder
            .worker_threads(WORKERS)
            .thread_name("tcw-library")
            .on_thread_start(crate::ffi::signal_stack::give)
            .enable_all();
        // Where no thread is to be had, the builder panics, and this may be called from an `extern "C"` function.
        std::panic::catch_unwind(AssertUnwindSafe(|| builder.build().ok()))
            .ok()
            .flatten()
    });
    match own {
        Some(runtime) => Ok(runtime.handle().clone()),
        None => Err(Error::fatal(
            "the library's threads could not be started: the process is at its limit of threads or descriptors; \
             raise the limit (ulimit -u, ulimit -n) or lower the worker's capacity",
        )),
    }
}

/// Runs blocking code (files, processes, anything that waits) on a thread of its own, not on one of the two workers.
pub async fn blocking<T, F>(work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match handle()?.spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(crate::fence::from_join(error, "blocking work")),
    }
}

/// Runs a future in the background on the library's runtime. A panic in it ends that future only.
pub fn spawn<F>(future: F) -> Result<tokio::task::JoinHandle<F::Output>>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Ok(handle()?.spawn(future))
}
