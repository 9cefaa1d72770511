//! Which library crashed the process.
//!
//! What ends a process cannot be contained, but it can be named. While libraries are loaded, `crash` in the worker's
//! directory is open, and a handler of the signals of crashes writes one record into it before the process goes the way
//! it would have gone anyway. The next start reads it ([`take`]).
//!
//! Only positive evidence counts against a library:
//!
//! - a signal that the process raised itself, or that the processor did: `kill` from outside, the OOM killer and a power
//!   loss leave no record ([`handler`]);
//! - code of the library where the crash happened, or in the innermost frame above it that is either a library's or the
//!   host's own ([`text`], [`stack`]); or else the thread that is just running the library's constructors.
//!
//! What leaves no record: `_exit`, a stack overflow on a thread without an alternate signal stack (those of the SDK have
//! one, those that a library starts by itself have not), and whatever a library does after replacing the handlers.

#[cfg(target_os = "linux")]
mod handler;
#[cfg(target_os = "linux")]
mod line;
mod record;
#[cfg(target_os = "linux")]
mod stack;
#[cfg(target_os = "linux")]
mod text;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub use record::{Crash, Culprit, Identity};

/// Where a worker with this directory writes its crash.
fn file(directory: &Path) -> PathBuf {
    directory.join("crash")
}

/// The crash that ended the last process with this directory, which is left there until [`arm`] begins anew. An error if
/// something is there that is no record.
pub fn last(directory: &Path) -> io::Result<Option<Crash>> {
    let bytes = match fs::read(file(directory)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other)
}

/// From now on, until the process is [`leaving`], a crash is written into `directory`, over that of the last process.
/// Once in a process; the caller holds the directory's lock.
pub fn arm(directory: &Path) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    handler::arm(&file(directory))?;
    #[cfg(not(target_os = "linux"))]
    let _ = file(directory);
    Ok(())
}

/// The process ends because the host says so: from now on `exit` is no crash.
pub fn leaving() {
    #[cfg(target_os = "linux")]
    handler::leaving();
}

/// A library that is being loaded: what crashes on this thread meanwhile is its constructors' doing. Dropped when it is
/// loaded, and from then on its code is known.
pub(super) struct Loading {
    #[cfg(target_os = "linux")]
    who: &'static text::Who,
    #[cfg(target_os = "linux")]
    stored: PathBuf,
}

impl Loading {
    /// `stored` is its copy in the store.
    pub(super) fn begin(identity: Identity, stored: &Path) -> Self {
        #[cfg(target_os = "linux")]
        {
            let who = text::Who::of(&identity);
            text::begin_loading(who);
            Loading {
                who,
                stored: stored.to_owned(),
            }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = (identity, stored);
            Loading {}
        }
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        #[cfg(target_os = "linux")]
        {
            // A library that is refused after it was opened stays mapped, and may have started threads.
            text::register(self.who, &self.stored);
            text::end_loading(self.who);
        }
    }
}
