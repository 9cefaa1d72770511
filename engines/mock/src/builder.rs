//! A task before it starts.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use tcw_abi::engine::{Limits, Sandbox, SandboxBuilder, VariableClass, feature};
use tcw_abi::io::Handle;
use tcw_abi::runtime::blocking;
use tcw_abi::services::TaskContext;
use tcw_abi::{Error, ErrorKind, Result, async_trait};

use crate::engine::{Shared, Slot};
use crate::faults::Place;
use crate::files::{Files, MemoryFile, check_name, check_path, is_taken};
use crate::payload::Payload;
use crate::proxy::Proxies;
use crate::sandbox::MockSandbox;
use crate::volume::Content;

/// A volume at its mount point.
#[derive(Clone)]
pub(crate) struct Mount {
    pub(crate) content: Arc<Content>,
    pub(crate) read_only: bool,
}

/// All that a task is given.
#[derive(Default)]
pub(crate) struct Setup {
    variables: BTreeMap<String, BTreeMap<VariableClass, String>>,
    pub(crate) mounts: BTreeMap<String, Mount>,
    pub(crate) proxies: Proxies,
    pub(crate) files: Files,
}

impl Setup {
    /// The value of the highest class.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        let values = self.variables.get(name)?;
        values.values().next_back().map(String::as_str)
    }

    /// A file that was put, or one in a volume.
    pub(crate) fn file(&self, path: &str) -> Option<MemoryFile> {
        let in_volume = || {
            self.mounts.iter().find_map(|(point, mount)| {
                let below = path.strip_prefix(point.as_str())?.strip_prefix('/')?;
                mount.content.files().get(below).cloned()
            })
        };
        self.files.get(path).cloned().or_else(in_volume)
    }
}

enum Stage {
    Open { setup: Setup, slot: Slot },
    Started,
    Discarded,
}

pub(crate) struct MockSandboxBuilder {
    shared: Arc<Shared>,
    task: Arc<dyn TaskContext>,
    payload: Arc<Payload>,
    stage: Mutex<Stage>,
}

impl MockSandboxBuilder {
    pub(crate) fn new(shared: Arc<Shared>, task: Arc<dyn TaskContext>, payload: Payload, slot: Slot) -> Self {
        MockSandboxBuilder {
            shared,
            task,
            payload: Arc::new(payload),
            stage: Mutex::new(Stage::Open {
                setup: Setup::default(),
                slot,
            }),
        }
    }

    fn with_setup<T>(&self, action: impl FnOnce(&mut Setup) -> Result<T>) -> Result<T> {
        match &mut *self.stage.lock().unwrap_or_else(PoisonError::into_inner) {
            Stage::Open { setup, .. } => action(setup),
            other => Err(too_late(other)),
        }
    }

    fn leave(&self, next: Stage) -> Result<(Setup, Slot)> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *stage, next) {
            Stage::Open { setup, slot } => Ok((setup, slot)),
            other => {
                let error = too_late(&other);
                *stage = other;
                Err(error)
            }
        }
    }
}

fn too_late(stage: &Stage) -> Error {
    Error::violation(match stage {
        Stage::Discarded => "the sandbox builder has been discarded",
        Stage::Open { .. } | Stage::Started => "the sandbox has been started",
    })
}

fn taken(what: &str, name: &str) -> Error {
    Error::new(
        ErrorKind::NamingConflict,
        format!("there is {what} named {name:?} already"),
    )
}

#[async_trait]
impl SandboxBuilder for MockSandboxBuilder {
    async fn set_environment_variable(
        &self,
        name: String,
        value: String,
        class: VariableClass,
    ) -> Result<()> {
        self.shared.require(feature::ENVIRONMENT)?;
        self.payload.faults.at(Place::SetEnvironmentVariable).await?;
        check_name("the name of a variable", &name)?;
        if name.is_empty() || name.contains('=') {
            return Err(Error::malformed(format!(
                "{name:?} cannot be the name of a variable"
            )));
        }
        if value.contains('\0') {
            return Err(Error::malformed(format!(
                "the value of the variable {name} has the character NUL in it, which no program can be given"
            )));
        }
        self.with_setup(
            |setup| match setup.variables.entry(name.clone()).or_default().entry(class) {
                Entry::Occupied(_) => Err(taken("a variable of the same rank", &name)),
                Entry::Vacant(place) => {
                    place.insert(value);
                    Ok(())
                }
            },
        )
    }

    async fn put_file(&self, path: String, content: Handle, mode: u32) -> Result<()> {
        self.shared.require(feature::PUT_FILE)?;
        self.payload.faults.at(Place::PutFile).await?;
        check_path(&path)?;
        let content = blocking(move || {
            let mut bytes = Vec::new();
            content.into_file().read_to_end(&mut bytes)?;
            Ok(bytes)
        })
        .await?;
        self.with_setup(|setup| {
            let file = MemoryFile { content, mode };
            if is_taken(&setup.files, &path) {
                return Err(taken("a file", &path));
            }
            setup.files.insert(path, file);
            Ok(())
        })
    }

    async fn attach_volume(&self, mount_point: String, volume_id: String, read_only: bool) -> Result<()> {
        self.shared.require(feature::VOLUMES)?;
        self.payload.faults.at(Place::AttachVolume).await?;
        check_name("a mount point", &mount_point)?;
        let content = self.shared.volumes.find(&volume_id).ok_or_else(|| {
            Error::violation(format!(
                "{volume_id:?} is not a volume of this engine, or is disposed of"
            ))
        })?;
        self.with_setup(|setup| {
            let mount = Mount { content, read_only };
            match setup.mounts.entry(mount_point) {
                Entry::Occupied(place) => Err(taken("a mount point", place.key())),
                Entry::Vacant(place) => {
                    place.insert(mount);
                    Ok(())
                }
            }
        })
    }

    async fn attach_device(&self, kind: String) -> Result<()> {
        self.shared.require(feature::DEVICES)?;
        check_name("a device", &kind)?;
        // There is nothing inside that could look for it.
        self.with_setup(|_| Ok(()))
    }

    async fn set_limits(&self, _limits: Limits) -> Result<()> {
        self.shared.require(feature::LIMITS)?;
        // Functions stay within every limit.
        self.with_setup(|_| Ok(()))
    }

    async fn attach_proxy(&self, name: String, endpoint: String) -> Result<String> {
        self.shared.require(feature::PROXIES)?;
        self.payload.faults.at(Place::AttachProxy).await?;
        self.with_setup(|setup| setup.proxies.attach(&name, endpoint))
    }

    async fn start(&self) -> Result<Arc<dyn Sandbox>> {
        let (setup, slot) = self.leave(Stage::Started)?;
        self.payload.faults.at(Place::Start).await?;
        let sandbox = MockSandbox::start(
            Arc::clone(&self.shared),
            Arc::clone(&self.task),
            Arc::clone(&self.payload),
            setup,
            slot,
        )
        .await?;
        Ok(Arc::new(sandbox))
    }

    async fn discard(&self) -> Result<()> {
        self.payload.faults.at(Place::Discard).await?;
        // Harmless after the start, and the second time.
        drop(self.leave(Stage::Discarded));
        Ok(())
    }
}
