//! Where task directories are made, how this worker's are known by their names, and which of them are in use.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tcw_abi::Result;
use tcw_abi::services::{Services, TaskInfo};

use crate::tree::Name;

/// The place that the configuration names, if it does.
#[derive(Debug)]
struct Configured {
    directory: PathBuf,
    /// Stands for this worker in the names of its directories there: others may have the same `tasksDirectory`.
    owner: String,
}

#[derive(Debug)]
pub(crate) struct Places {
    configured: Option<Configured>,
    live: Mutex<BTreeSet<PathBuf>>,
}

/// A directory that is in use, until this is dropped.
#[derive(Debug)]
pub(crate) struct Live {
    places: Arc<Places>,
    path: PathBuf,
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut live = self.places.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.remove(&self.path);
    }
}

impl Places {
    pub(crate) async fn new(services: &dyn Services, tasks_directory: Option<PathBuf>) -> Result<Places> {
        let configured = match tasks_directory {
            None => None,
            Some(directory) => Some(Configured {
                directory,
                owner: owner(&services.state_directory().await?),
            }),
        };
        Ok(Places {
            configured,
            live: Mutex::default(),
        })
    }

    /// The `tasksDirectory` of the configuration.
    pub(crate) fn tasks_directory(&self) -> Option<&Path> {
        self.configured.as_ref().map(|place| place.directory.as_path())
    }

    /// A path in there that no other directory has, neither now nor later.
    pub(crate) fn unique(&self, task: &TaskInfo) -> Option<PathBuf> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let place = self.configured.as_ref()?;
        // Ids come from the queue; only what cannot mislead a path is taken over.
        let id: String = task
            .task_id
            .chars()
            .filter(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_'))
            .collect();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let now = chrono::Utc::now().timestamp_millis();
        Some(place.directory.join(format!(
            "task_{id}_{}_{now}_{}_{number}_{}",
            task.run_id,
            std::process::id(),
            place.owner
        )))
    }

    /// From now on `path` is in use.
    pub(crate) fn enter(self: &Arc<Self>, path: &Path) -> Live {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.insert(path.to_owned());
        Live {
            places: Arc::clone(self),
            path: path.to_owned(),
        }
    }

    /// The names of this worker's directories in `tasksDirectory`.
    pub(crate) fn name(&self) -> Option<Name> {
        let place = self.configured.as_ref()?;
        Some(Name {
            parent: place.directory.clone(),
            beginning: "task_".to_owned(),
            end: format!("_{}", place.owner),
        })
    }

    /// What must be left alone.
    pub(crate) fn live(&self) -> BTreeSet<PathBuf> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// This worker's directories in `tasksDirectory` that are not in use. Blocking.
    pub(crate) fn left(&self) -> Vec<PathBuf> {
        let Some(place) = &self.configured else {
            return Vec::new();
        };
        let live = self.live();
        let end = format!("_{}", place.owner);
        std::fs::read_dir(&place.directory)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with("task_") && name.ends_with(&end)
            })
            .map(|entry| entry.path())
            .filter(|path| !live.contains(path))
            .collect()
    }
}

/// The same for a state directory on a machine as long as both have their names, and hardly ever for another.
fn owner(state_directory: &str) -> String {
    let machine = ["/etc/machine-id", "/etc/hostname"]
        .iter()
        .filter_map(|path| std::fs::read_to_string(path).ok())
        .find(|text| !text.trim().is_empty())
        .unwrap_or_default();
    // FNV-1a: it has to stay the same in all versions, not to withstand anybody.
    let hash = machine
        .trim()
        .bytes()
        .chain(*b"\0")
        .chain(state_directory.bytes())
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}
