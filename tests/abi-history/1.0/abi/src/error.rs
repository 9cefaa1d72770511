//! What went wrong, and whose it is to handle.
//!
//! A library says *what happened*; the host alone decides what that means for the task and for the worker. The
//! table below is the whole agreement, and [`ErrorKind::handling`] is the same table as code.
//!
//! | kind | the task | the worker |
//! |---|---|---|
//! | `MalformedPayload` | exception `malformed-payload`, every message in the task log | – |
//! | `TaskFailed` | failed, every message in the task log | – |
//! | `FeatureNotSupported`, `MutableMountNotSupported`, `ImmutableMountNotSupported`, `NamingConflict`, `ResourceNotFound`, `NoSuchDisplay`, `HandlerInterrupt`, `ShellTerminated`, `ShellAborted` | the caller handles it; unhandled it counts as `NonFatalInternal` | – |
//! | `SandboxTerminated`, `SandboxAborted`, `Cancelled` | the resolution that was already decided stands | – |
//! | `IntermittentTask` | exception `intermittent-task` | – |
//! | `ResourceUnavailable` | exception `resource-unavailable` | – |
//! | `MaxConcurrencyExceeded` | the claim waits for a slot | – |
//! | `NonFatalInternal`, `Panicked`, `TimedOut`, `ContractViolation` | exception `internal-error` with an incident id | every plugin's `report_non_fatal_error` |
//! | `FatalInternal` | exception `internal-error` with an incident id | stops with a non-zero exit status |
//!
//! When several libraries answer at once the highest [`Handling`] wins, and the messages of one handling are merged.

use std::fmt;

use serde_json::Value;

/// The result of every call over the boundary.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// What happened. The numbers cross the boundary and never change; a later 1.x may add kinds, and a peer
        /// that does not know one uses the error's fallback, which is always one of the kinds of 1.0.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind { $($(#[$doc])* $name,)* }

        impl ErrorKind {
            /// Every kind of this version.
            pub const ALL: &'static [ErrorKind] = &[$(ErrorKind::$name,)*];

            /// The number that crosses the boundary.
            pub fn code(self) -> u32 {
                match self { $(ErrorKind::$name => $code,)* }
            }

            /// The kind with this number, if this version knows it.
            pub fn from_code(code: u32) -> Option<Self> {
                match code { $($code => Some(ErrorKind::$name),)* _ => None }
            }

            /// The kind's name, as it is written in logs.
            pub fn name(self) -> &'static str {
                match self { $(ErrorKind::$name => stringify!($name),)* }
            }
        }
    };
}

kinds! {
    /// The payload asks for something that cannot be: the author of the task has to change it.
    MalformedPayload = 1,
    /// The engine (or this host) has no such feature.
    FeatureNotSupported = 2,
    /// The engine cannot mount a volume read-write.
    MutableMountNotSupported = 3,
    /// The engine cannot mount a volume read-only.
    ImmutableMountNotSupported = 4,
    /// The name is taken: a second value for a variable within one class, two volumes at one mount point.
    NamingConflict = 5,
    /// There is no such file, folder, artifact or cache.
    ResourceNotFound = 6,
    /// There is no display of that name.
    NoSuchDisplay = 7,
    /// The consumer of a stream gave up.
    HandlerInterrupt = 8,
    /// The shell has ended.
    ShellTerminated = 9,
    /// The shell was aborted.
    ShellAborted = 10,
    /// The sandbox has ended by itself or was killed: its results can be had.
    SandboxTerminated = 11,
    /// The sandbox was aborted: there are no results.
    SandboxAborted = 12,
    /// The task was cancelled while the call ran.
    Cancelled = 13,
    /// The task asks to be run again.
    IntermittentTask = 14,
    /// Something that the worker depends on would not answer: storage, a registry, the network.
    ResourceUnavailable = 15,
    /// The engine is at its maximum number of sandboxes.
    MaxConcurrencyExceeded = 16,
    /// Ours, but it does not touch other tasks.
    NonFatalInternal = 17,
    /// A library's code panicked; the SDK contained it.
    Panicked = 18,
    /// A call did not return within its deadline.
    TimedOut = 19,
    /// A call came too late, too often, or with data that the contract does not allow.
    ContractViolation = 20,
    /// The worker cannot go on.
    FatalInternal = 21,
    /// The task has failed, without an exit status that says so: a mount whose content has the wrong hash, a
    /// required input that is not there.
    TaskFailed = 22,
}

/// What the host does about an error, from the mildest to the one that wins over all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Handling {
    /// The resolution was decided before; this is its echo.
    AlreadyDecided,
    /// Waits for a slot; the queue never hears of it.
    WaitForSlot,
    /// The task is resolved `failed`.
    Failed,
    /// Exception `intermittent-task`.
    Intermittent,
    /// Exception `malformed-payload`.
    Malformed,
    /// Exception `resource-unavailable`.
    Unavailable,
    /// Exception `internal-error`; the worker goes on.
    NonFatal,
    /// Exception `internal-error`; the worker stops.
    Fatal,
}

impl ErrorKind {
    /// The row of the table above. Kinds that a caller should have handled are errors of ours when nobody did.
    pub fn handling(self) -> Handling {
        use ErrorKind::*;
        match self {
            SandboxTerminated | SandboxAborted | Cancelled => Handling::AlreadyDecided,
            MaxConcurrencyExceeded => Handling::WaitForSlot,
            TaskFailed => Handling::Failed,
            IntermittentTask => Handling::Intermittent,
            MalformedPayload => Handling::Malformed,
            ResourceUnavailable => Handling::Unavailable,
            FatalInternal => Handling::Fatal,
            _ => Handling::NonFatal,
        }
    }
}

/// An error that crosses the boundary.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    detail: Value,
}

impl Error {
    /// An error of `kind`. The message is for people: what, where, and what to do.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            detail: Value::Null,
        }
    }

    /// The author of the task has to change the payload.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::MalformedPayload, message)
    }

    /// Ours; other tasks are not touched.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NonFatalInternal, message)
    }

    /// The worker cannot go on.
    pub fn fatal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FatalInternal, message)
    }

    /// A call that the contract does not allow, at this time or in this form.
    pub fn violation(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::ContractViolation, message)
    }

    /// A feature that is not there.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::FeatureNotSupported, message)
    }

    /// Adds data for programs; it goes to the worker's log, never to the task's.
    pub fn with_detail(mut self, detail: Value) -> Self {
        self.detail = detail;
        self
    }

    /// Says where it happened, in front of the message.
    pub fn context(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// What happened.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The kind of 1.0 that a peer uses if it does not know [`Error::kind`].
    pub fn fallback(&self) -> ErrorKind {
        // Every kind of 1.0 stands for itself. A kind added later names its fallback here.
        self.kind
    }

    /// The message for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The data for programs.
    pub fn detail(&self) -> &Value {
        &self.detail
    }

    /// One error for several libraries that answered at once: the highest handling wins; the messages of the
    /// errors with that handling are joined, one a line, each once. `None` for no errors.
    pub fn merge(errors: impl IntoIterator<Item = Error>) -> Option<Error> {
        let mut errors: Vec<Error> = errors.into_iter().collect();
        errors.sort_by_key(|error| std::cmp::Reverse(error.kind.handling()));
        let mut errors = errors.into_iter();
        let mut first = errors.next()?;
        let top = first.kind.handling();
        for error in errors.take_while(|error| error.kind.handling() == top) {
            if !first.message.lines().any(|line| line == error.message) {
                first.message.push('\n');
                first.message.push_str(&error.message);
            }
        }
        Some(first)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.kind.name())
    }
}

impl std::error::Error for Error {}

/// An operating-system error that nobody looked at more closely is ours.
impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::internal(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_comes_back_from_its_number_and_no_number_is_used_twice() {
        let mut codes: Vec<u32> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::from_code(kind.code()), Some(*kind));
        }
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), ErrorKind::ALL.len());
        assert_eq!(ErrorKind::from_code(u32::MAX), None);
    }

    #[test]
    fn merging_keeps_the_highest_handling_and_all_its_messages() {
        let merged = Error::merge([
            Error::malformed("a is missing"),
            Error::new(ErrorKind::Cancelled, "cancelled"),
            Error::malformed("b is wrong"),
            Error::malformed("a is missing"),
        ])
        .unwrap();
        assert_eq!(merged, Error::malformed("a is missing\nb is wrong"));

        let fatal =
            Error::merge([Error::malformed("x"), Error::fatal("gone"), Error::internal("y")]).unwrap();
        assert_eq!(fatal, Error::fatal("gone"));
        assert_eq!(Error::merge([]), None);
    }
}
