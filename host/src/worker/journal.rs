//! What the worker writes down before it does it.
//!
//! Every claim, on receipt and with its credentials, and every lease of a resource that outlives the process. Whatever
//! happens to the process, the next start finds here what is to be finished or undone.
//!
//! One SQLite file in WAL mode with `synchronous=NORMAL`: a crash of the process loses nothing, a power loss at most the
//! last moments. It is written by a thread of its own, so that no thread of the host waits for a disk; a caller waits
//! for its own record only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use rusqlite::{Connection, OptionalExtension, params};
use rustix::fs::FlockOperation;
use serde_json::Value;
use tcw_abi::engine::LeaseRecord;
use tokio::sync::oneshot;

use crate::queue::{Credentials, RunId, TaskId};

/// The version of the file's form. A newer file is refused: this host cannot know what it means.
const VERSION: i64 = 1;

/// The file's name in the worker's directory.
pub(super) const FILE: &str = "journal.sqlite";

/// Why there is no journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another worker uses the directory.
    #[error(
        "the state directory {} is in use by another worker; stop that one, or give this one a directory of its own with --state-directory",
        .0.display()
    )]
    Locked(PathBuf),
    /// The directory cannot be used.
    #[error("the state directory {} cannot be used: {error}; make it writable for the worker, or choose another one with --state-directory", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is of a newer host.
    #[error("the journal {} was written by a newer tcw-host (form {found}, this one knows {VERSION}); use that version again, or another state directory", path.display())]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its form.
        found: i64,
    },
    /// SQLite cannot use the file.
    #[error("the journal {} cannot be used: {error}; if the disk is full or read-only mend that, if the file is damaged move it away: what it held is then forgotten", path.display())]
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
    work: Sender<Work>,
    path: Arc<PathBuf>,
    _lock: Arc<File>,
}

impl Journal {
    /// Opens the journal in `directory`, which this worker alone uses from now on. Blocking.
    pub fn open(directory: &Path) -> Result<Journal, JournalError> {
        let unusable = |error| JournalError::Directory {
            path: directory.to_owned(),
            error,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(unusable)?;
        let lock = lock(directory)?;
        let path = directory.join(FILE);
        // It holds credentials: made for this user alone before SQLite opens it.
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(&path)
            .map_err(unusable)?;
        let failed = |error| JournalError::Database {
            path: path.clone(),
            error,
        };
        let mut connection = Connection::open(&path).map_err(failed)?;
        prepare(&mut connection, &path)?;
        let (work, tasks) = channel::<Work>();
        std::thread::Builder::new()
            .name("tcw-journal".into())
            .spawn(move || {
                for task in tasks {
                    task(&mut connection);
                }
            })
            .map_err(unusable)?;
        Ok(Journal {
            work,
            path: Arc::new(path),
            _lock: Arc::new(lock),
        })
    }

    /// Writes claims down, all or none.
    pub async fn claimed(&self, claims: Vec<ClaimRecord>) -> Result<(), JournalError> {
        self.run(move |connection| {
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
        self.run(move |connection| {
            connection
                .prepare_cached("update claims set credentials = ? where task_id = ? and run_id = ?")?
                .execute(params![text(&credentials)?, task.as_str(), run.0])
                .map(|_| ())
        })
        .await
    }

    /// The queue knows how the run ended, or need not be told.
    pub async fn resolved(&self, task: TaskId, run: RunId) -> Result<(), JournalError> {
        self.run(move |connection| {
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
        self.run(move |connection| {
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
        self.run(move |connection| {
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
        self.work.send(work).map_err(|_| JournalError::Gone)?;
        let result = result.await.map_err(|_| JournalError::Gone)?;
        result.map_err(|error| JournalError::Database {
            path: self.path.as_ref().clone(),
            error,
        })
    }
}

/// One worker per state directory. The lock goes with the process, however it ends.
fn lock(directory: &Path) -> Result<File, JournalError> {
    let path = directory.join("lock");
    let unusable = |error| JournalError::Directory {
        path: directory.to_owned(),
        error,
    };
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(unusable)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::Locked(directory.to_owned())),
        Err(error) => Err(unusable(error.into())),
    }
}

fn prepare(connection: &mut Connection, path: &Path) -> Result<(), JournalError> {
    let failed = |error| JournalError::Database {
        path: path.to_owned(),
        error,
    };
    connection
        .pragma_update(None, "journal_mode", "wal")
        .map_err(failed)?;
    connection
        .pragma_update(None, "synchronous", "normal")
        .map_err(failed)?;
    let found: Option<i64> = connection
        .query_row("pragma user_version", [], |row| row.get(0))
        .optional()
        .map_err(failed)?;
    match found.unwrap_or(0) {
        0 => connection
            .execute_batch(
                "begin;
                 create table claims (
                     task_id text not null, run_id integer not null, root_url text not null, credentials text not null,
                     primary key (task_id, run_id)
                 ) strict;
                 create table leases (
                     id text primary key, library text not null, sha256 text not null,
                     schema_version integer not null, data text not null
                 ) strict;
                 pragma user_version = 1;
                 commit;",
            )
            .map_err(failed)?,
        VERSION => {}
        found => return Err(JournalError::Newer { path: path.to_owned(), found }),
    }
    // They came later. An older host goes on without them.
    connection
        .execute_batch(
            "create table if not exists crashes (
                 at integer not null, sha256 text not null, name text not null, version text not null,
                 path text not null, how text not null, primary key (sha256, at)
             ) strict;
             create table if not exists quarantine (sha256 text primary key) strict;",
        )
        .map_err(failed)?;
    // The files beside the main one inherit its mode; this is for a file from elsewhere.
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(path, private).map_err(|error| JournalError::Directory {
        path: path.to_owned(),
        error,
    })
}

fn text(credentials: &Credentials) -> Result<String, rusqlite::Error> {
    serde_json::to_string(credentials)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use serde_json::json;

    use super::*;

    fn claim(run: u32) -> ClaimRecord {
        ClaimRecord {
            task_id: "fN1SbArXTPSVFNUvaOlinQ".parse().unwrap(),
            run_id: RunId(run),
            queue: "http://localhost".into(),
            credentials: serde_json::from_value(json!({"clientId": "c", "accessToken": "secret"})).unwrap(),
        }
    }

    #[tokio::test]
    async fn claims_and_leases_outlive_the_process_until_they_are_resolved() {
        let directory = tempfile::tempdir().unwrap();
        let lease = OwnedLease {
            library: "native".into(),
            sha256: "00".into(),
            lease: LeaseRecord {
                id: "l".into(),
                schema_version: 2,
                data: json!({"user": "task_1"}),
            },
        };
        {
            let journal = Journal::open(directory.path()).unwrap();
            journal.claimed(vec![claim(0), claim(1)]).await.unwrap();
            journal.resolved(claim(0).task_id, RunId(0)).await.unwrap();
            journal.lease(lease.clone()).await.unwrap();
        }
        let journal = Journal::open(directory.path()).unwrap();
        assert_eq!(journal.open_claims().await.unwrap(), [claim(1)]);
        assert_eq!(journal.open_leases().await.unwrap(), [lease]);
        journal.release("l".into()).await.unwrap();
        assert_eq!(journal.open_leases().await.unwrap(), []);
        let mode = fs::metadata(directory.path().join("journal.sqlite"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn a_directory_in_use_a_newer_file_and_a_damaged_one_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        assert!(matches!(
            Journal::open(directory.path()),
            Err(JournalError::Locked(_))
        ));
        drop(journal);

        let path = directory.path().join("journal.sqlite");
        Connection::open(&path)
            .unwrap()
            .pragma_update(None, "user_version", 7)
            .unwrap();
        assert!(matches!(
            Journal::open(directory.path()),
            Err(JournalError::Newer { found: 7, .. })
        ));

        fs::write(
            &path,
            "not a database, although it is long enough to be looked at",
        )
        .unwrap();
        assert!(matches!(
            Journal::open(directory.path()),
            Err(JournalError::Database { .. })
        ));
    }
}
