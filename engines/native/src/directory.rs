//! The directory of one task: home, working directory and the place that artifacts come from.
//!
//! It is a temporary folder of the host, which removes what a crash leaves behind, or, if the worker's configuration
//! names a `tasksDirectory`, a directory there that is leased before it is made.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use tcw_abi::engine::LeaseRecord;
use tcw_abi::runtime::blocking;
use tcw_abi::services::{Lease, LeaseRequest, Services, TaskInfo, TemporaryFolder};
use tcw_abi::{Error, ErrorKind, Result};

use crate::beneath;

/// The form of [`Leased`].
const SCHEMA_VERSION: u32 = 1;

/// What is written down about a directory before it is made.
#[derive(Debug, Serialize, Deserialize)]
struct Leased {
    directory: PathBuf,
}

enum Owner {
    Host(Arc<dyn TemporaryFolder>),
    Engine(Arc<dyn Lease>),
}

/// A task's directory. Nobody else's: its mode is 0700.
pub(crate) struct TaskDirectory {
    path: PathBuf,
    /// Held open, so that the task can do with the path what it likes.
    handle: Arc<OwnedFd>,
    owner: Owner,
}

impl TaskDirectory {
    pub(crate) async fn create(
        services: &dyn Services,
        tasks_directory: Option<&Path>,
        task: &TaskInfo,
    ) -> Result<TaskDirectory> {
        let (path, owner) = match tasks_directory {
            None => {
                let folder = services.temporary_folder().await?;
                let path = PathBuf::from(folder.description().path);
                (path, Owner::Host(folder))
            }
            Some(tasks) => {
                let path = tasks.join(unique_name(task));
                let data = serde_json::to_value(Leased {
                    directory: path.clone(),
                })
                .map_err(|error| Error::internal(error.to_string()))?;
                let lease = services
                    .lease(LeaseRequest {
                        schema_version: SCHEMA_VERSION,
                        data,
                    })
                    .await?;
                (path, Owner::Engine(lease))
            }
        };
        let own = matches!(owner, Owner::Engine(_));
        let place = path.clone();
        let opened = blocking(move || {
            let failed = |error: &dyn std::fmt::Display| {
                Error::new(
                    ErrorKind::ResourceUnavailable,
                    format!("the task directory {} cannot be made: {error}", place.display()),
                )
            };
            if own {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&place)
                    .map_err(|error| failed(&error))?;
            }
            let handle = beneath::open_root(&place).map_err(|error| failed(&error))?;
            rustix::fs::fchmod(&handle, Mode::RWXU).map_err(|error| failed(&error))?;
            Ok(handle)
        })
        .await;
        match opened {
            Ok(handle) => Ok(TaskDirectory {
                path,
                handle: Arc::new(handle),
                owner,
            }),
            Err(error) => {
                // The first error says more than one about cleaning up would.
                match owner {
                    Owner::Host(folder) => drop(folder.dispose().await),
                    Owner::Engine(lease) => drop(lease.release().await),
                }
                Err(error)
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn handle(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.handle)
    }

    /// Removes it with all that is in it.
    pub(crate) async fn remove(&self) -> Result<()> {
        let handle = self.handle();
        let place = self.path.clone();
        let own = matches!(self.owner, Owner::Engine(_));
        blocking(move || {
            beneath::empty(&handle).map_err(|error| {
                Error::internal(format!("the task directory {}: {error}", place.display()))
            })?;
            if own {
                remove_place(&place)?;
            }
            Ok(())
        })
        .await?;
        match &self.owner {
            Owner::Host(folder) => folder.dispose().await,
            Owner::Engine(lease) => lease.release().await,
        }
    }
}

fn unique_name(task: &TaskInfo) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Ids come from the queue; only what cannot mislead a path is taken over.
    let id: String = task
        .task_id
        .chars()
        .filter(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_'))
        .collect();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let now = chrono::Utc::now().timestamp_millis();
    format!("task_{id}_{}_{now}_{}_{number}", task.run_id, std::process::id())
}

/// Removes the directory, or what the task has put in its place.
fn remove_place(place: &Path) -> Result<()> {
    let result = match std::fs::symlink_metadata(place) {
        Ok(status) if status.is_dir() => {
            let emptied = beneath::open_root(place)
                .map_err(|error| error.to_string())
                .and_then(|handle| beneath::empty(&handle));
            emptied.and_then(|()| std::fs::remove_dir(place).map_err(|error| error.to_string()))
        }
        Ok(_) => std::fs::remove_file(place).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    result.map_err(|error| Error::internal(format!("{} cannot be removed: {error}", place.display())))
}

/// Removes the directory of a dead worker's lease. Answers what was done.
pub(crate) async fn recover(record: &LeaseRecord, tasks_directory: Option<&Path>) -> Result<String> {
    let leased: Leased = serde_json::from_value(record.data.clone())
        .map_err(|error| Error::internal(format!("the lease {} cannot be read: {error}", record.id)))?;
    let place = leased.directory;
    // The journal is ours, but a directory is removed on its word: it has to be one that this engine makes.
    let ours = place
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("task_"));
    if !ours || tasks_directory.is_some_and(|tasks| place.parent() != Some(tasks)) {
        return Err(Error::internal(format!(
            "{} is not a task directory of this engine and is left alone; remove it by hand",
            place.display()
        )));
    }
    blocking(move || {
        remove_place(&place)?;
        Ok(format!("removed the task directory {}", place.display()))
    })
    .await
}
