//! Volumes in memory. They are there as long as somebody has the engine, and gone when they are disposed of.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tcw_abi::engine::{Volume, VolumeBuilder, VolumeDescription};
use tcw_abi::io::Handle;
use tcw_abi::runtime::{blocking, handle};
use tcw_abi::{Error, Result, async_trait};
use tokio::task::JoinHandle;

use crate::files::{Files, MemoryFile, check_path};

/// What sandboxes mount.
#[derive(Debug, Default)]
pub(crate) struct Content(Mutex<Files>);

impl Content {
    pub(crate) fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All volumes of an engine, by their ids.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    next: AtomicU64,
    known: Mutex<BTreeMap<String, Arc<Content>>>,
}

impl Volumes {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Content>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn find(&self, id: &str) -> Option<Arc<Content>> {
        self.known().get(id).cloned()
    }

    pub(crate) fn add(self: &Arc<Self>, files: Files) -> Arc<dyn Volume> {
        let id = format!("mock-volume-{}", self.next.fetch_add(1, Ordering::Relaxed));
        let content = Arc::new(Content(Mutex::new(files)));
        self.known().insert(id.clone(), Arc::clone(&content));
        Arc::new(MockVolume {
            id,
            content,
            volumes: Arc::clone(self),
        })
    }
}

struct MockVolume {
    id: String,
    content: Arc<Content>,
    volumes: Arc<Volumes>,
}

#[async_trait]
impl Volume for MockVolume {
    fn description(&self) -> VolumeDescription {
        VolumeDescription { id: self.id.clone() }
    }

    async fn size(&self) -> Result<u64> {
        Ok(self
            .content
            .files()
            .values()
            .map(|file| file.content.len() as u64)
            .sum())
    }

    async fn dispose(&self) -> Result<()> {
        self.volumes.known().remove(&self.id);
        Ok(())
    }
}

/// A file that is being written to its end.
struct Incoming {
    path: String,
    mode: u32,
    bytes: JoinHandle<std::io::Result<Vec<u8>>>,
}

pub(crate) struct MockVolumeBuilder {
    volumes: Arc<Volumes>,
    /// `None` once it is built or discarded.
    incoming: Mutex<Option<Vec<Incoming>>>,
}

impl MockVolumeBuilder {
    pub(crate) fn new(volumes: Arc<Volumes>) -> MockVolumeBuilder {
        MockVolumeBuilder {
            volumes,
            incoming: Mutex::new(Some(Vec::new())),
        }
    }

    fn incoming(&self) -> MutexGuard<'_, Option<Vec<Incoming>>> {
        self.incoming.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn used_up() -> Error {
    Error::violation("the volume builder has been built or discarded")
}

#[async_trait]
impl VolumeBuilder for MockVolumeBuilder {
    async fn write_folder(&self, path: String) -> Result<()> {
        check_path(&path)?;
        // Folders are where files are.
        self.incoming().as_ref().map(drop).ok_or_else(used_up)
    }

    async fn write_file(&self, path: String, mode: u32) -> Result<Handle> {
        check_path(&path)?;
        let (mut ours, theirs) = UnixStream::pair()?;
        let bytes = handle()?.spawn_blocking(move || {
            let mut bytes = Vec::new();
            ours.read_to_end(&mut bytes)?;
            Ok(bytes)
        });
        let mut incoming = self.incoming();
        incoming
            .as_mut()
            .ok_or_else(used_up)?
            .push(Incoming { path, mode, bytes });
        Ok(Handle::from(theirs))
    }

    async fn build(&self) -> Result<Arc<dyn Volume>> {
        let incoming = self.incoming().take().ok_or_else(used_up)?;
        let mut files = Files::new();
        for file in incoming {
            let content = file
                .bytes
                .await
                .map_err(|error| Error::internal(error.to_string()))??;
            files.insert(
                file.path,
                MemoryFile {
                    content,
                    mode: file.mode,
                },
            );
        }
        Ok(self.volumes.add(files))
    }

    async fn discard(&self) -> Result<()> {
        let discarded = self.incoming().take();
        // Dropped where that may take time.
        blocking(move || {
            drop(discarded);
            Ok(())
        })
        .await
    }
}
