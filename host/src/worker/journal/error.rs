//! Why there is no journal: what was found, where, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::form::VERSION;

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another worker uses the directory.
    #[error(
        "the state directory {} is in use by another worker{}; stop that one, or give this one a directory of its own with --state-directory",
        path.display(),
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Locked {
        /// Which.
        path: PathBuf,
        /// The other's process, if it has said so.
        pid: Option<u32>,
    },
    /// The directory cannot be used.
    #[error("the state directory {} cannot be used: {error}; {}", path.display(), remedy(error))]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It is something else.
    #[error("the state directory {} is not a directory; move away what is there, or choose another one with --state-directory", .0.display())]
    NotADirectory(PathBuf),
    /// Others could change what the worker trusts.
    #[error(
        "others can write to the state directory {} ({found}): they could change what the worker runs; {remedy}, or choose another one with --state-directory",
        path.display()
    )]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode, or its owner.
        found: String,
        /// What to do.
        remedy: String,
    },
    /// The directory was copied while something in it was under way.
    #[error(
        "the state directory {} is a copy of {}{}, and its journal holds tasks and resources of the worker there ({open}); \
         if that worker is to go on, use an empty state directory here; if it is gone for good, run `tcw-host recover --moved` here once",
        path.display(),
        original.display(),
        if *elsewhere { " on another machine" } else { "" }
    )]
    Copy {
        /// Which.
        path: PathBuf,
        /// Where it was when it was written to last.
        original: PathBuf,
        /// The other one is on another machine.
        elsewhere: bool,
        /// How much of it: `2 claims, 1 lease`.
        open: String,
    },
    /// The file is of a newer host.
    #[error("the journal {} was written by a newer tcw-host (form {found}, this one knows {VERSION}); use that version again, or another state directory", path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its form.
        found: i64,
    },
    /// What is there is not what a worker wrote.
    #[error(
        "the journal {} is damaged ({found}), and is left as it is; restore it, or move it away together with {}-wal: \
         what it held is then forgotten, claims of that time expire at the queue, and what is left on this machine is removed by name",
        path.display(),
        path.display()
    )]
    Damaged {
        /// Which.
        path: PathBuf,
        /// How that shows.
        found: String,
    },
    /// SQLite cannot use the file.
    #[error("the journal {} cannot be used: {error}; {}", path.display(), remedy_of(error))]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        error: rusqlite::Error,
    },
    /// The thread that writes has ended.
    #[error("the journal's thread has ended, so nothing more can be written down")]
    Gone,
}

impl JournalError {
    /// An error of SQLite at this file.
    pub(crate) fn database(path: &Path, error: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => JournalError::Damaged {
                path: path.to_owned(),
                found: error.to_string(),
            },
            _ => JournalError::Database {
                path: path.to_owned(),
                error,
            },
        }
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space there, or choose another one with --state-directory"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount it writable, or choose another one with --state-directory"
        }
        _ => "make it writable for the worker, or choose another one with --state-directory",
    }
}

fn remedy_of(error: &rusqlite::Error) -> &'static str {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => "free some space there",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "make the directory and the files in it writable for the worker"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another program has it open: close that"
        }
        _ => "see whether the disk is full, read-only or failing",
    }
}
