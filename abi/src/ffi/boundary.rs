//! How a call runs: as a task of the side that implements it, polled through its join handle by the side that called.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    run_boxed(mode, place, Box::pin(work))
}

#[inline(never)]
fn run_boxed<T: Send + 'static>(mode: Mode, place: &'static str, work: Work<Result<T>>) -> Reply<T> {
    let slot = Arc::new(Mutex::new(None));
    let answer = Arc::clone(&slot);
    let join = spawn(Box::pin(async move {
        let result = work.await;
        *lock(&answer) = Some(result);
    }));
    match join {
        Ok(join) => Call {
            join,
            mode,
            place,
            slot,
        }
        .into_ffi(),
        Err(error) => std::future::ready(RResult::RErr(FfiError::from(error))).into_ffi(),
    }
}

type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Every call is one and the same kind of future to the runtime: what a runtime makes of a future is compiled once, not
/// for each method: a fifth of a small library's code.
fn spawn(work: Work<()>) -> Result<JoinHandle<()>> {
    Ok(runtime::handle()?.spawn(work))
}

fn lock<T>(slot: &Mutex<T>) -> MutexGuard<'_, T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer that is there already: what a caller gets instead of a method that the other side does not have.
#[allow(dead_code, reason = "no released method is newer than 1.0 yet")]
pub(crate) fn answer<T: Send + 'static>(result: Result<T>) -> Reply<T> {
    std::future::ready(RResult::from(result.map_err(FfiError::from))).into_ffi()
}

/// Waits for the other side's answer.
pub(crate) fn receive<T>(reply: Reply<T>) -> Receive<T> {
    Receive { reply, alarm: None }
}

/// [`receive`], compiled once for each kind of answer.
pub(crate) struct Receive<T> {
    reply: Reply<T>,
    alarm: Option<Alarm>,
}

impl<T> Future for Receive<T> {
    type Output = Result<T>;

    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Receive { reply, alarm } = &mut *self;
        let fenced = Alarm::of(alarm, context.waker());
        Pin::new(reply)
            .poll(&mut Context::from_waker(fenced))
            .map(|answer| answer.into_result().map_err(Error::from))
    }
}

/// A waker of this side, and what the other side is given instead.
struct Alarm {
    ours: Arc<Fenced>,
    fenced: Waker,
}

impl Alarm {
    /// What stands for `waker`; the one of the last poll, if that was for the same.
    fn of<'a>(last: &'a mut Option<Alarm>, waker: &Waker) -> &'a Waker {
        let alarm = match last.take() {
            Some(alarm) if alarm.ours.0.as_ref().is_some_and(|ours| ours.will_wake(waker)) => alarm,
            _ => {
                let ours = Arc::new(Fenced(Some(waker.clone())));
                let fenced = Waker::from(Arc::clone(&ours));
                Alarm { ours, fenced }
            }
        };
        &last.insert(alarm).fenced
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
    if let Some(value) = value {
        drop_boxed(Box::new(value));
    }
}

fn drop_boxed(value: Box<dyn Send>) {
    // Without a runtime nothing of the library ever ran, so there is nothing that could care where it is dropped.
    drop(spawn(Box::pin(async move { drop(value) })));
}

/// What a method of an object answers while it is being dropped.
pub(crate) fn gone() -> Error {
    Error::violation("the object is gone")
}

struct Call<T> {
    join: JoinHandle<()>,
    mode: Mode,
    place: &'static str,
    /// Filled by the task before it ends.
    slot: Arc<Mutex<Option<Result<T>>>>,
}

impl<T> Future for Call<T> {
    type Output = RResult<T, FfiError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(ended) = Pin::new(&mut self.join).poll(context) else {
            return Poll::Pending;
        };
        let result = match ended {
            Ok(()) => lock(&self.slot)
                .take()
                .unwrap_or_else(|| Err(Error::violation("an answer was asked for twice"))),
            Err(error) => Err(fence::from_join(error, self.place)),
        };
        Poll::Ready(RResult::from(result.map_err(FfiError::from)))
    }
}

impl<T> Drop for Call<T> {
    fn drop(&mut self) {
        if self.mode == Mode::call {
            self.join.abort();
        }
    }
}
