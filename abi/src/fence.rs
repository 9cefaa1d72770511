//! The panic fence: what a panic inside one side becomes on the other.
//!
//! Nothing can catch a panic that crosses an `extern "C"` function, so every entry runs as a task of its own side's
//! runtime, and what that task's join handle says is turned into an error here.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::task::JoinError;

use crate::error::{Error, ErrorKind};

/// The error for a task that did not end with a value.
pub(crate) fn from_join(error: JoinError, place: &str) -> Error {
    if error.is_panic() {
        from_payload(error.into_panic(), place)
    } else {
        Error::new(ErrorKind::Cancelled, format!("{place} was cancelled"))
    }
}

/// The error for a caught panic. The payload may panic when it is dropped, which is fenced too.
pub(crate) fn from_payload(payload: Box<dyn Any + Send>, place: &str) -> Error {
    let text = payload
        .downcast_ref::<&'static str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a text".to_owned());
    discard(payload);
    Error::new(ErrorKind::Panicked, format!("{place} panicked: {text}"))
}

/// Does something whose failure concerns nobody here. The panic itself was reported by the hook.
pub(crate) fn quietly(work: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(work)) {
        discard(payload);
    }
}

fn discard(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        // A payload whose destructor panics may do so again: it is leaked, once, instead.
        std::mem::forget(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct PanicsWhenDropped;
    impl Drop for PanicsWhenDropped {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }

    #[test]
    fn a_payload_that_panics_in_its_destructor_is_contained() {
        let error = from_payload(Box::new(PanicsWhenDropped), "Engine.health");
        assert_eq!(
            error,
            Error::new(
                ErrorKind::Panicked,
                "Engine.health panicked: a panic without a text"
            )
        );
    }
}
