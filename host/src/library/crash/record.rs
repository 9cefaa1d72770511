//! What is known of a crash.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Which bytes, and what they call themselves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The name in the manifest.
    pub name: String,
    /// The version in the manifest.
    pub version: String,
    /// Hex SHA-256, as [`super::super::Library::sha256`].
    pub sha256: String,
    /// Where the operator put it.
    pub path: PathBuf,
}

/// Whose code it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Culprit {
    /// A library's.
    Library(Identity),
    /// The host's own.
    Host,
    /// It cannot be told, so it counts against nobody.
    Unknown,
}

/// How a process ended that should not have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crash {
    /// The signal's name, or `exit`.
    pub how: String,
    /// The thread's name, as far as it is printable.
    pub thread: String,
    /// When, in milliseconds since 1970.
    pub at: u64,
    /// Whose code it was.
    pub culprit: Culprit,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' {} ({})", self.name, self.version, self.path.display())
    }
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.culprit {
            Culprit::Library(library) => write!(f, "the library {library} crashed the worker")?,
            Culprit::Host => write!(f, "tcw-host itself crashed")?,
            Culprit::Unknown => write!(f, "the worker crashed, and it cannot be told in whose code")?,
        }
        write!(f, ": {} in thread '{}'", self.how, self.thread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let culprits = [
            (
                r#"{"library":{"name":"a","version":"1","sha256":"00","path":"/a.so"}}"#,
                "the library 'a' 1 (/a.so) crashed the worker: SIGSEGV in thread 't'",
            ),
            (r#""host""#, "tcw-host itself crashed: SIGSEGV in thread 't'"),
            (
                r#""unknown""#,
                "the worker crashed, and it cannot be told in whose code: SIGSEGV in thread 't'",
            ),
        ];
        for (culprit, words) in culprits {
            let text = format!(r#"{{"how":"SIGSEGV","thread":"t","at":1500,"culprit":{culprit}}}"#);
            let crash: Crash = serde_json::from_str(&text).unwrap();
            assert_eq!(crash.to_string(), words);
            assert_eq!(serde_json::to_string(&crash).unwrap(), text);
        }
    }
}
