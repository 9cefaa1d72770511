//! How a call runs: as a task of the side that implements it, polled through its join handle by the side that called.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use abi_stable::std_types::RResult;
use async_ffi::{FfiFuture, FutureExt};
use tokio::task::JoinHandle;

use super::wire::FfiError;
use crate::error::{Error, Result};
use crate::{fence, runtime};

/// What every method answers.
pub type Reply<T> = FfiFuture<RResult<T, FfiError>>;

/// What becomes of a call whose caller lost interest.
#[derive(Clone, Copy, PartialEq)]
#[expect(
    non_camel_case_types,
    reason = "the words that stand in front of the methods in the mirror"
)]
pub(crate) enum Mode {
    /// It is cancelled.
    call,
    /// It runs to its end.
    detached,
}

/// Runs an implementation on this side's runtime, fenced, and gives its join handle to the other side.
pub(crate) fn run<T, F>(mode: Mode, place: &'static str, work: F) -> Reply<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    let join = runtime::handle().map(|handle| handle.spawn(work));
    match join {
        Ok(join) => Call { join, mode, place }.into_ffi(),
        Err(error) => std::future::ready(RResult::RErr(FfiError::from(error))).into_ffi(),
    }
}

/// An answer that is there already: what a caller gets instead of a method that the other side does not have.
#[allow(dead_code, reason = "no released method is newer than 1.0 yet")]
pub(crate) fn answer<T: Send + 'static>(result: Result<T>) -> Reply<T> {
    std::future::ready(RResult::from(result.map_err(FfiError::from))).into_ffi()
}

/// Waits for the other side's answer.
pub(crate) async fn receive<T>(reply: Reply<T>) -> Result<T> {
    let mut reply = pin!(reply);
    let mut alarm: Option<Alarm> = None;
    let answer = poll_fn(|context| {
        let alarm = match alarm.take() {
            Some(known) if known.is_for(context.waker()) => alarm.insert(known),
            _ => alarm.insert(Alarm::new(context.waker().clone())),
        };
        reply.as_mut().poll(&mut Context::from_waker(&alarm.fenced))
    });
    match answer.await {
        RResult::ROk(value) => Ok(value),
        RResult::RErr(error) => Err(error.into()),
    }
}

/// A waker of this side, and what the other side is given instead.
struct Alarm {
    ours: Arc<Fenced>,
    fenced: Waker,
}

impl Alarm {
    fn new(waker: Waker) -> Self {
        let ours = Arc::new(Fenced(Some(waker)));
        let fenced = Waker::from(Arc::clone(&ours));
        Alarm { ours, fenced }
    }

    fn is_for(&self, waker: &Waker) -> bool {
        self.ours.0.as_ref().is_some_and(|ours| ours.will_wake(waker))
    }
}

/// A waker is called, and dropped, by the other side's threads, through functions that nothing can unwind from: a panic
/// in one that somebody wrote by hand would end the process.
struct Fenced(Option<Waker>);

impl Wake for Fenced {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if let Some(waker) = &self.0 {
            fence::quietly(|| waker.wake_by_ref());
        }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        let waker = self.0.take();
        fence::quietly(move || drop(waker));
    }
}

/// Drops on this side's runtime: the destructor of a library's object never runs on a thread of the host.
pub(crate) fn drop_later<T: Send + 'static>(value: Option<T>) {
    if let (Some(value), Ok(handle)) = (value, runtime::handle()) {
        handle.spawn(async move { drop(value) });
    }
}

/// What a method of an object answers while it is being dropped.
pub(crate) fn gone() -> Error {
    Error::violation("the object is gone")
}

struct Call<T> {
    join: JoinHandle<Result<T>>,
    mode: Mode,
    place: &'static str,
}

impl<T> Future for Call<T> {
    type Output = RResult<T, FfiError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let place = self.place;
        Pin::new(&mut self.join)
            .poll(context)
            .map(|outcome| match outcome {
                Ok(Ok(value)) => RResult::ROk(value),
                Ok(Err(error)) => RResult::RErr(error.into()),
                Err(error) => RResult::RErr(fence::from_join(error, place).into()),
            })
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        if self.mode == Mode::call {
            self.join.abort();
        }
    }
}
