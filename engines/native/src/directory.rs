//! The directory of one task: home, working directory and the place that artifacts come from.
//!
//! It is a temporary folder of the host, which removes what a crash leaves behind, or, if the worker's configuration
//! names a `tasksDirectory`, a directory there that is leased before it is made. The former is leased too, before
//! anything runs in it: processes outlive a worker that is killed, and are found by their directory.

use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use serde::{Deserialize, Serialize};
use tcw_abi::engine::LeaseRecord;
use tcw_abi::runtime::blocking;
use tcw_abi::services::{Lease, LeaseRequest, Services, TaskInfo, TemporaryFolder};
use tcw_abi::{Error, ErrorKind, Result};

use crate::beneath;
use crate::places::{Live, Places};
use crate::tree::{Name, Tree};

/// The form of [`Leased`].
const SCHEMA_VERSION: u32 = 1;

/// What is written down about a directory before it is made.
#[derive(Debug, Serialize, Deserialize)]
struct Leased {
    directory: PathBuf,
    /// The host removes it.
    #[serde(default)]
    temporary: bool,
}

impl Leased {
    async fn lease(&self, services: &dyn Services) -> Result<Arc<dyn Lease>> {
        let data = serde_json::to_value(self).map_err(|error| Error::internal(error.to_string()))?;
        services
            .lease(LeaseRequest {
                schema_version: SCHEMA_VERSION,
                data,
            })
            .await
    }
}

/// How long the processes that a dead worker left may take to die.
const DEATH: Duration = Duration::from_secs(20);

enum Owner {
    Host(Arc<dyn TemporaryFolder>, Arc<dyn Lease>),
    Engine(Arc<dyn Lease>),
}

/// A task's directory. Nobody else's: its mode is 0700.
pub(crate) struct TaskDirectory {
    path: PathBuf,
    /// Held open, so that the task can do with the path what it likes.
    handle: Arc<OwnedFd>,
    owner: Owner,
    _live: Live,
}

impl TaskDirectory {
    pub(crate) async fn create(
        services: &dyn Services,
        places: &Arc<Places>,
        task: &TaskInfo,
    ) -> Result<TaskDirectory> {
        let (path, owner) = match places.unique(task) {
            None => {
                let folder = services.temporary_folder().await?;
                let path = PathBuf::from(folder.description().path);
                let leased = Leased {
                    directory: path.clone(),
                    temporary: true,
                };
                let lease = leased.lease(services).await?;
                (path, Owner::Host(folder, lease))
            }
            Some(path) => {
                let leased = Leased {
                    directory: path.clone(),
                    temporary: false,
                };
                let lease = leased.lease(services).await?;
                (path, Owner::Engine(lease))
            }
        };
        let live = places.enter(&path);
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
                _live: live,
            }),
            Err(error) => {
                // The first error says more than one about cleaning up would.
                match owner {
                    Owner::Host(folder, lease) => {
                        drop(folder.dispose().await);
                        drop(lease.release().await);
                    }
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
            Owner::Host(folder, lease) => {
                folder.dispose().await?;
                lease.release().await
            }
            Owner::Engine(lease) => lease.release().await,
        }
    }
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

/// Ends what a dead worker left running in a directory, and removes the directory. Answers what was done.
pub(crate) async fn recover(
    services: &dyn Services,
    record: &LeaseRecord,
    tasks_directory: Option<&Path>,
) -> Result<String> {
    let leased: Leased = serde_json::from_value(record.data.clone())
        .map_err(|error| Error::internal(format!("the lease {} cannot be read: {error}", record.id)))?;
    let place = leased.directory;
    // The journal is ours, but a directory is removed on its word: it has to be one that this engine makes.
    let ours = place
        .file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with("task_"));
    if !leased.temporary && (!ours || tasks_directory.is_some_and(|tasks| place.parent() != Some(tasks))) {
        return Err(Error::internal(format!(
            "{} is not a task directory of this engine and is left alone; remove it by hand",
            place.display()
        )));
    }
    // The host has swept its temporary folders, but before this engine was there to end who still wrote to them.
    let removable = !leased.temporary || is_temporary(services, &place).await?;
    blocking(move || {
        let ended = end_processes(&place)?;
        if !removable {
            return Ok(format!("{ended} in {}", place.display()));
        }
        remove_place(&place)?;
        Ok(format!("{ended}; removed the task directory {}", place.display()))
    })
    .await
}

/// Ends and removes what no lease is left of, after a power loss for example: what has a name that only this worker gives,
/// and is not in use. Answers what was done.
pub(crate) async fn sweep(services: &dyn Services, places: &Arc<Places>) -> Result<Vec<String>> {
    let temporary = temporary_folders(services).await?;
    let places = Arc::clone(places);
    blocking(move || {
        let mut messages = Vec::new();
        let temporary = temporary.map(|parent| Name {
            parent,
            beginning: String::new(),
            end: String::new(),
        });
        let names = temporary.into_iter().chain(places.name()).collect();
        let tree = Tree::of_dead_workers(names, places.live());
        match end_all_of(&tree, "of earlier tasks")? {
            0 => {}
            1 => messages.push("ended a process of an earlier task, which no lease names".to_owned()),
            number => messages.push(format!(
                "ended {number} processes of earlier tasks, which no lease names"
            )),
        }
        for place in places.left() {
            remove_place(&place)?;
            messages.push(format!(
                "removed the task directory {}, which no lease names",
                place.display()
            ));
        }
        Ok(messages)
    })
    .await
}

/// Where the host makes temporary folders.
async fn temporary_folders(services: &dyn Services) -> Result<Option<PathBuf>> {
    let folder = services.temporary_folder().await?;
    let path = PathBuf::from(folder.description().path);
    folder.dispose().await?;
    Ok(path.parent().map(Path::to_owned))
}

/// Whether it is where the host makes temporary folders. A worker whose state has moved does not remove what is at the
/// old place, on the word of a journal that has come along.
async fn is_temporary(services: &dyn Services, place: &Path) -> Result<bool> {
    let folders = temporary_folders(services).await?;
    Ok(place.parent() == folders.as_deref() && place.file_name().is_some())
}

/// Ends the processes of a task whose worker is dead. Blocking.
fn end_processes(place: &Path) -> Result<String> {
    Ok(
        match end_all_of(
            &Tree::of_dead_worker(place),
            &format!("of a task in {}", place.display()),
        )? {
            0 => "no process was left".to_owned(),
            1 => "ended a process that was left".to_owned(),
            number => format!("ended {number} processes that were left"),
        },
    )
}

/// Answers how many there were. Blocking.
fn end_all_of(tree: &Tree, which: &str) -> Result<usize> {
    let failed = |error: std::io::Error| Error::internal(format!("processes cannot be looked at: {error}"));
    let found = tree.look().map_err(failed)?.len();
    let left = tree.end(DEATH).map_err(failed)?;
    if left.is_empty() {
        return Ok(found);
    }
    Err(Error::internal(format!(
        "processes {which} do not die: {}",
        left.join(", ")
    )))
}
