//! Where task directories are made, how this worker's are known by their names, and which of them are in use.

use std::collections::BTreeSet;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tcw_abi::runtime::blocking;
use tcw_abi::services::{Services, TaskInfo};
use tcw_abi::{Error, Result};

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
                owner: {
                    let state = PathBuf::from(services.state_directory().await?);
                    blocking(move || owner(&state)).await?
                },
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

/// Reads the name that this state directory has for its directories elsewhere; makes one at the first time. Blocking.
///
/// It is random, so that two containers of one image, whose paths and machine are called the same, do not take each
/// other's directories for their own; machine and path are in it too, as a state directory may be copied.
fn owner(state_directory: &Path) -> Result<String> {
    let path = state_directory.join("owner");
    let failed = |error: std::io::Error| {
        Error::internal(format!(
            "{}, which names this worker's task directories, cannot be used: {error}",
            path.display()
        ))
    };
    let is_whole = |text: &str| text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let secret = match std::fs::read_to_string(&path) {
        Ok(text) if is_whole(text.trim()) => text.trim().to_owned(),
        // Half written by a machine that lost its power: no directory has this name yet.
        Ok(_) => make(state_directory, &path).map_err(failed)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            make(state_directory, &path).map_err(failed)?
        }
        Err(error) => return Err(failed(error)),
    };
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    Ok(hash(&[
        machine.trim().as_bytes(),
        state_directory.as_os_str().as_bytes(),
        secret.as_bytes(),
    ]))
}

/// On disk before any directory bears it.
fn make(directory: &Path, path: &Path) -> std::io::Result<String> {
    // Its keys come from the operating system's source of random numbers.
    let name = format!("{:016x}", RandomState::new().build_hasher().finish());
    let unfinished = directory.join("owner.new");
    let mut file = File::create(&unfinished)?;
    file.write_all(name.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)?;
    File::open(directory)?.sync_all()?;
    Ok(name)
}

/// FNV-1a: it has to stay the same in all versions, not to withstand anybody.
fn hash(parts: &[&[u8]]) -> String {
    let bytes = parts.iter().flat_map(|part| part.iter().chain(b"\0"));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_directory_has_one_name_and_no_other_has_it() {
        let base = std::env::temp_dir().join(format!("tcw-owner-{}", std::process::id()));
        let (one, other) = (base.join("one"), base.join("other"));
        std::fs::create_dir_all(&one).unwrap();
        std::fs::create_dir_all(&other).unwrap();
        let name = owner(&one).unwrap();
        assert_eq!(owner(&one).unwrap(), name);
        assert_ne!(owner(&other).unwrap(), name);
        // The same path again, as in another container.
        std::fs::remove_file(one.join("owner")).unwrap();
        let again = owner(&one).unwrap();
        assert_ne!(again, name);
        // A copy is somebody else.
        std::fs::copy(one.join("owner"), other.join("owner")).unwrap();
        assert_ne!(owner(&other).unwrap(), again);
        // What was cut off is made anew, and stays then.
        std::fs::write(one.join("owner"), "12").unwrap();
        let mended = owner(&one).unwrap();
        assert_eq!(owner(&one).unwrap(), mended);
        std::fs::remove_dir_all(&base).unwrap();
    }
}
