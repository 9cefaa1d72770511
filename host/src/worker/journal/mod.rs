//! What the worker writes down before it does it.
//!
//! Every claim, on receipt and with its credentials, and every lease of a resource that outlives the process. Whatever
//! happens to the process, the next start finds here what is to be finished or undone.
//!
//! One SQLite file in WAL mode with `synchronous=NORMAL`: a crash of the process loses nothing, a power loss at most the
//! last moments. It is written by a thread of its own, so that no thread of the host waits for a disk; a caller waits
//! for its own record only.

mod error;
mod form;
mod place;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use rusqlite::{Connection, params};
use serde_json::Value;
use tcw_abi::engine::LeaseRecord;
use tokio::sync::oneshot;

use crate::fault_point::fault_point;
use crate::queue::{Credentials, RunId, TaskId};

pub use error::JournalError;
pub use place::private_directory;

/// The file's name in the worker's directory.
pub(super) const FILE: &str = "journal.sqlite";

/// A claim as it was written down.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRecord {
    /// The task.
    pub task_id: TaskId,
    /// The run.
    pub run_id: RunId,
    /// The queue it came from: its root URL, or [`super::EMBEDDED`].
    pub queue: String,
    /// Of the run, as they were at the last claim or reclaim.
    pub credentials: Credentials,
}

/// A lease and the library that may undo it.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnedLease {
    /// The library's name.
    pub library: String,
    /// The hash of the library that wrote it.
    pub sha256: String,
    /// What it wrote.
    pub lease: LeaseRecord,
}

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

/// The journal. Cheap to clone; the file is closed and unlocked when the last clone is gone.
#[derive(Clone)]
pub struct Journal {
    thread: Arc<Thread>,
    path: Arc<PathBuf>,
}

/// The thread that writes. It closes the file, and only then is the directory unlocked.
struct Thread {
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    _lock: File,
}

impl Drop for Thread {
    fn drop(&mut self) {
        // Without a sender it ends after what it was given already.
        self.work.take();
        if let Some(thread) = self.thread.take() {
            // A panic there was said when it happened.
            let _ = thread.join();
        }
    }
}

impl Journal {
    /// Opens the journal in `directory`, which this worker alone uses from now on. Blocking.
    pub fn open(directory: &Path) -> Result<Journal, JournalError> {
        Journal::open_at(directory, false)
    }

    /// The same for a directory that was copied or moved here, when nobody goes on with the original.
    pub fn open_moved(directory: &Path) -> Result<Journal, JournalError> {
        Journal::open_at(directory, true)
    }

    fn open_at(directory: &Path, moved: bool) -> Result<Journal, JournalError> {
        private_directory(directory)?;
        let lock = place::lock(directory)?;
        let path = directory.join(FILE);
        let mut connection = form::open(directory, &path, moved)?;
        // A transaction that is about to be committed has nothing in the file yet.
        #[cfg(debug_assertions)]
        connection
            .commit_hook(Some(|| {
                fault_point!("journal.commit");
                false
            }))
            .map_err(|error| JournalError::database(&path, error))?;
        let (work, tasks) = channel::<Work>();
        let thread = std::thread::Builder::new()
            .name("tcw-journal".into())
            .spawn(move || {
                for task in tasks {
                    task(&mut connection);
                }
            })
            .map_err(|error| JournalError::Directory {
                path: directory.to_owned(),
                error,
            })?;
        Ok(Journal {
            thread: Arc::new(Thread {
                work: Some(work),
                thread: Some(thread),
                _lock: lock,
            }),
            path: Arc::new(path),
        })
    }

    /// Writes claims down, all or none.
    pub async fn claimed(&self, claims: Vec<ClaimRecord>) -> Result<(), JournalError> {
        self.write("claimed", move |connection| {
            let transaction = connection.transaction()?;
            for claim in &claims {
                transaction
                    .prepare_cached(
                        "insert or replace into claims (task_id, run_id, root_url, credentials) values (?, ?, ?, ?)",
                    )?
                    .execute(params![claim.task_id.as_str(), claim.run_id.0, claim.queue, text(&claim.credentials)?])?;
            }
            transaction.commit()
        })
        .await
    }

    /// New credentials for a claim.
    pub async fn reclaimed(
        &self,
        task: TaskId,
        run: RunId,
        credentials: Credentials,
    ) -> Result<(), JournalError> {
        self.write("reclaimed", move |connection| {
            connection
                .prepare_cached("update claims set credentials = ? where task_id = ? and run_id = ?")?
                .execute(params![text(&credentials)?, task.as_str(), run.0])
                .map(|_| ())
        })
        .await
    }

    /// The queue knows how the run ended, or need not be told.
    pub async fn resolved(&self, task: TaskId, run: RunId) -> Result<(), JournalError> {
        self.write("resolved", move |connection| {
            connection
                .prepare_cached("delete from claims where task_id = ? and run_id = ?")?
                .execute(params![task.as_str(), run.0])
                .map(|_| ())
        })
        .await
    }

    /// Claims that were never resolved.
    pub async fn open_claims(&self) -> Result<Vec<ClaimRecord>, JournalError> {
        self.run(|connection| {
            let mut statement = connection
                .prepare("select task_id, run_id, root_url, credentials from claims order by rowid")?;
            let rows = statement.query_map([], |row| {
                let (task, credentials): (String, String) = (row.get(0)?, row.get(3)?);
                Ok(task
                    .parse()
                    .ok()
                    .zip(serde_json::from_str(&credentials).ok())
                    .map(|(task_id, credentials)| {
                        Ok::<_, rusqlite::Error>(ClaimRecord {
                            task_id,
                            run_id: RunId(row.get(1)?),
                            queue: row.get(2)?,
                            credentials,
                        })
                    }))
            })?;
            rows.filter_map(Result::transpose)
                .collect::<Result<Result<Vec<_>, _>, _>>()?
        })
        .await
    }

    /// Writes a lease down and answers its id.
    pub async fn lease(&self, lease: OwnedLease) -> Result<(), JournalError> {
        self.write("lease", move |connection| {
            connection
                .prepare_cached(
                    "insert into leases (id, library, sha256, schema_version, data) values (?, ?, ?, ?, ?)",
                )?
                .execute(params![
                    lease.lease.id,
                    lease.library,
                    lease.sha256,
                    lease.lease.schema_version,
                    lease.lease.data.to_string()
                ])
                .map(|_| ())
        })
        .await
    }

    /// The resource behind a lease is gone.
    pub async fn release(&self, id: String) -> Result<(), JournalError> {
        self.write("release", move |connection| {
            connection
                .prepare_cached("delete from leases where id = ?")?
                .execute([id])
                .map(|_| ())
        })
        .await
    }

    /// The leases that were never released.
    pub async fn open_leases(&self) -> Result<Vec<OwnedLease>, JournalError> {
        self.run(|connection| {
            connection
                .prepare("select id, library, sha256, schema_version, data from leases order by rowid")?
                .query_map([], |row| {
                    let data: String = row.get(4)?;
                    Ok(OwnedLease {
                        library: row.get(1)?,
                        sha256: row.get(2)?,
                        lease: LeaseRecord {
                            id: row.get(0)?,
                            schema_version: row.get(3)?,
                            data: serde_json::from_str(&data).unwrap_or(Value::Null),
                        },
                    })
                })?
                .collect()
        })
        .await
    }

    /// A change. `what` is its name.
    pub(super) async fn write<T, F>(&self, what: &'static str, work: F) -> Result<T, JournalError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        self.run(move |connection| {
            // Nobody asks in a release.
            let _ = what;
            fault_point!("journal.{what}.before");
            let result = work(connection);
            fault_point!("journal.{what}.after");
            result
        })
        .await
    }

    pub(super) async fn run<T, F>(&self, work: F) -> Result<T, JournalError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        let (answer, result) = oneshot::channel();
        let work = Box::new(move |connection: &mut Connection| {
            // Whoever asked may have gone; the record is made all the same.
            let _ = answer.send(work(connection));
        });
        let sender = self.thread.work.as_ref().ok_or(JournalError::Gone)?;
        sender.send(work).map_err(|_| JournalError::Gone)?;
        let result = result.await.map_err(|_| JournalError::Gone)?;
        result.map_err(|error| JournalError::database(&self.path, error))
    }
}

fn text(credentials: &Credentials) -> Result<String, rusqlite::Error> {
    serde_json::to_string(credentials)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
