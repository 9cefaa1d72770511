//! Why a library was refused: what was found, what is wanted, where, and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

use tcw_abi::manifest::Manifest;

/// Why a library was refused. Shown in two lines: what and where, then what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LibraryError {
    /// Where the operator put it.
    pub path: PathBuf,
    /// What was found, and what is wanted.
    pub found: String,
    /// What to do.
    pub remedy: String,
    /// Who it is, if all is well with the file but for the crashes that it is quarantined for.
    pub quarantined: Option<Box<Manifest>>,
}

impl LibraryError {
    pub(crate) fn new(path: &Path, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        LibraryError {
            path: path.to_owned(),
            found: found.into(),
            remedy: remedy.into(),
            quarantined: None,
        }
    }
}

impl fmt::Display for LibraryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}\n  {}", self.path.display(), self.found, self.remedy)
    }
}

impl std::error::Error for LibraryError {}
