//! The directories of `exec`: a worker's directory for one task, removed with it.

use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::library::crash;
use crate::worker::journal::{Journal, JournalError};
use crate::worker::{Recovery, Undoers, recover_leases};

/// One of them. It is removed when this is dropped.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Not made yet: the journal does that.
    pub(super) fn new(config: &Config) -> Self {
        Scratch(all(config).join(slugid::v4()))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is tried again by the next one.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn all(config: &Config) -> PathBuf {
    config.worker.state_directory.join("exec")
}

/// Removes what processes that are gone have left: directories whose lock nobody holds, and what their journals name.
pub(super) async fn recover_dead(config: &Config, undoers: &Undoers<'_>) -> Recovery {
    let mut recovery = Recovery::default();
    let Ok(entries) = std::fs::read_dir(all(config)) else {
        return recovery;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // It is made under the lock. Without it, the owner may be about to lock.
        if !path.join("journal.sqlite").exists() {
            continue;
        }
        let recovered = match Journal::open(&path) {
            // Somebody uses it.
            Err(JournalError::Locked { .. }) => continue,
            Err(error) => Err(error),
            Ok(journal) => recover_leases(&journal, undoers).await,
        };
        // It counts against nobody: what is tried out with `exec` is no reason to leave it out of the worker.
        if let Ok(Some(crash)) = crash::last(&path) {
            recovery.messages.push(crash.to_string());
        }
        match recovered {
            Ok(recovered) => {
                if recovered.left == 0 {
                    let _ = std::fs::remove_dir_all(&path);
                }
                recovery.messages.extend(recovered.messages);
                recovery.left += recovered.left;
            }
            Err(error) => {
                recovery.messages.push(error.to_string());
                recovery.left += 1;
            }
        }
    }
    recovery
}
