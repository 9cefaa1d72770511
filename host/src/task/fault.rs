//! What went wrong in a call, where, and what that means for the task.
//!
//! Libraries say what happened. Here, and only here, that becomes a resolution.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tcw_abi::{Error, ErrorKind, Handling};

use super::control::TaskEvent;
use crate::queue::ExceptionReason;

/// A call that failed.
#[derive(Debug)]
pub(super) struct Fault {
    /// What happened.
    pub(super) error: Error,
    /// The library that was called; empty for the host itself.
    pub(super) library: String,
    /// The call, for those who run the worker. Those who wrote the task need no names of functions.
    pub(super) place: String,
    /// The library panicked or hung.
    pub(super) unhealthy: bool,
}

impl Fault {
    /// An error of the host's own.
    pub(super) fn of_host(error: Error) -> Self {
        Fault {
            error,
            library: String::new(),
            place: "host".to_owned(),
            unhealthy: false,
        }
    }

    /// What a library answered.
    pub(super) fn answered(library: &str, place: &str, error: Error) -> Self {
        Fault {
            unhealthy: error.kind() == ErrorKind::Panicked,
            error,
            library: library.to_owned(),
            place: place.to_owned(),
        }
    }

    /// The call did not return in time.
    pub(super) fn hung(library: &str, place: &str, after: &str) -> Self {
        let message = format!("it did not return {after}");
        Fault {
            error: Error::new(ErrorKind::TimedOut, message),
            library: library.to_owned(),
            place: place.to_owned(),
            unhealthy: true,
        }
    }

    /// The call returned, but only after the task was cancelled because of it.
    pub(super) fn overdue(library: &str, place: &str) -> Self {
        let message = "it took too long, and returned only when the task was cancelled";
        Fault {
            error: Error::new(ErrorKind::TimedOut, message),
            library: library.to_owned(),
            place: place.to_owned(),
            unhealthy: false,
        }
    }

    /// The call panicked, in this process's own code or in a library that was linked in.
    pub(super) fn panicked(library: &str, place: &str, payload: Box<dyn Any + Send>) -> Self {
        let message = format!("it panicked: {}", panic_text(payload));
        Fault {
            error: Error::new(ErrorKind::Panicked, message),
            library: library.to_owned(),
            place: place.to_owned(),
            unhealthy: true,
        }
    }

    /// The task was given up, and the call with it.
    pub(super) fn given_up(library: &str, place: &str) -> Self {
        let message = "it was given up together with the task";
        Fault {
            error: Error::new(ErrorKind::Cancelled, message),
            library: library.to_owned(),
            place: place.to_owned(),
            unhealthy: false,
        }
    }

    /// Errors that a caller ought to have handled are the author's if the task's payload led to the call that failed.
    pub(super) fn with_payload(mut self, has_keys: bool) -> Self {
        use ErrorKind::*;
        let for_the_caller = matches!(
            self.error.kind(),
            FeatureNotSupported
                | MutableMountNotSupported
                | ImmutableMountNotSupported
                | NamingConflict
                | ResourceNotFound
                | NoSuchDisplay
                | HandlerInterrupt
                | ShellTerminated
                | ShellAborted
        );
        if has_keys && for_the_caller {
            self.error = Error::malformed(self.error.message());
        }
        self
    }

    /// Whether there is no point in waiting for what others say.
    pub(super) fn is_internal(&self) -> bool {
        matches!(self.error.kind().handling(), Handling::NonFatal | Handling::Fatal)
    }
}

/// The text of a panic. A payload whose destructor panics is leaked instead of dropped again.
pub(super) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = payload
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a text".to_owned());
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        std::mem::forget(second);
    }
    text
}

/// Why a task does not go on to its next state.
#[derive(Debug)]
pub(super) enum Cause {
    /// It was told to end.
    Event(TaskEvent),
    /// It has failed, for the reasons in these lines.
    Failed(String),
    /// It has no verdict. The error says why.
    Exception(ExceptionReason, Error),
}

impl Cause {
    /// The one cause of several faults.
    pub(super) fn of(faults: Vec<Fault>) -> Option<Cause> {
        let error = Error::merge(faults.into_iter().map(|fault| settle(fault.error)))?;
        Some(match error.kind().handling() {
            Handling::Failed => Cause::Failed(error.message().to_owned()),
            Handling::Intermittent => Cause::Exception(ExceptionReason::IntermittentTask, error),
            Handling::Malformed => Cause::Exception(ExceptionReason::MalformedPayload, error),
            Handling::Unavailable => Cause::Exception(ExceptionReason::ResourceUnavailable, error),
            Handling::AlreadyDecided | Handling::WaitForSlot | Handling::NonFatal | Handling::Fatal => {
                Cause::Exception(ExceptionReason::InternalError, error)
            }
        })
    }
}

/// An echo of a decision that nobody made, and a request to wait where there is nothing to wait for, are errors.
fn settle(error: Error) -> Error {
    match error.kind().handling() {
        Handling::AlreadyDecided => {
            let kind = error.kind().name();
            Error::internal(format!(
                "{} ({kind}, although nobody ended the task)",
                error.message()
            ))
        }
        Handling::WaitForSlot => Error::internal(error.message()),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: ErrorKind, message: &str) -> Fault {
        Fault::answered("lib", "Plugin.hook", Error::new(kind, message))
    }

    fn reason(faults: Vec<Fault>) -> Option<ExceptionReason> {
        match Cause::of(faults)? {
            Cause::Exception(reason, _) => Some(reason),
            _ => None,
        }
    }

    #[test]
    fn internal_errors_win_over_malformed_payloads_and_those_over_failures() {
        use ErrorKind::*;
        let malformed = || fault(MalformedPayload, "m");
        assert_eq!(
            reason(vec![
                malformed(),
                fault(NonFatalInternal, "n"),
                fault(TaskFailed, "f")
            ]),
            Some(ExceptionReason::InternalError)
        );
        assert_eq!(
            reason(vec![fault(TaskFailed, "f"), malformed()]),
            Some(ExceptionReason::MalformedPayload)
        );
        assert!(matches!(Cause::of(vec![fault(TaskFailed, "f")]), Some(Cause::Failed(text)) if text == "f"));
        assert!(Cause::of(vec![]).is_none());
    }

    #[test]
    fn an_abort_that_nobody_asked_for_is_an_error_of_ours() {
        assert_eq!(
            reason(vec![fault(ErrorKind::SandboxAborted, "gone")]),
            Some(ExceptionReason::InternalError)
        );
    }

    #[test]
    fn a_missing_feature_is_the_authors_only_if_the_payload_asked_for_it() {
        let unsupported = || fault(ErrorKind::FeatureNotSupported, "no volumes");
        assert_eq!(
            reason(vec![unsupported().with_payload(true)]),
            Some(ExceptionReason::MalformedPayload)
        );
        assert_eq!(
            reason(vec![unsupported().with_payload(false)]),
            Some(ExceptionReason::InternalError)
        );
    }
}
