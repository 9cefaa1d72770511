//! An expectation that was not met.

use std::fmt;

/// What was expected and what was seen, for the library's author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    message: String,
    applies: bool,
}

impl Failure {
    /// One or more lines.
    pub fn new(message: impl Into<String>) -> Self {
        Failure {
            message: message.into(),
            applies: true,
        }
    }

    /// No failure: the case turned out not to apply to this library, for this reason.
    pub fn does_not_apply(why: impl Into<String>) -> Self {
        Failure {
            message: why.into(),
            applies: false,
        }
    }

    /// Whether it is a failure, and not a case that does not apply.
    pub fn applies(&self) -> bool {
        self.applies
    }

    /// Says where it happened, in front.
    pub fn context(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// Adds lines at the end.
    pub(super) fn with(mut self, more: &str) -> Self {
        if self.applies {
            self.message.push('\n');
            self.message.push_str(more);
        }
        self
    }

    /// Fails unless the two are equal.
    pub fn unless_equal<T: PartialEq + fmt::Debug>(what: &str, seen: T, expected: T) -> Result<(), Failure> {
        if seen == expected {
            return Ok(());
        }
        Err(Failure::new(format!(
            "{what}: expected {}, seen {}",
            shortened(format!("{expected:?}")),
            shortened(format!("{seen:?}"))
        )))
    }

    /// Fails unless `condition` holds.
    pub fn unless(condition: bool, message: impl FnOnce() -> String) -> Result<(), Failure> {
        if condition {
            Ok(())
        } else {
            Err(Failure::new(message()))
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

fn shortened(mut text: String) -> String {
    const LONGEST: usize = 500;
    if text.len() > LONGEST {
        let end = (0..=LONGEST).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// Bytes for a message: as text with escapes, its beginning.
pub fn show(bytes: &[u8]) -> String {
    shortened(format!("{:?}", String::from_utf8_lossy(bytes)))
}
