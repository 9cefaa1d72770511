//! The provider, the engine and the builder.

use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mock_engine::MockEngineProvider;
use serde_json::Value;
use tcw_abi::engine::*;
use tcw_abi::io::Handle;
use tcw_abi::services::{LeaseRequest, Services, TaskContext};
use tcw_abi::{Error, Result, async_trait};

use crate::Wrong;
use crate::sandbox::WrongSandbox;
use crate::volumes::{WrongVolume, WrongVolumeBuilder};

static PROCESSES: Mutex<Vec<Child>> = Mutex::new(Vec::new());

/// Ends what was left behind on purpose, when the test is over.
pub(crate) struct EndsProcesses;

impl Drop for EndsProcesses {
    fn drop(&mut self) {
        for mut child in lock(&PROCESSES).drain(..) {
            child.kill().expect("it is a child and not waited for");
            child.wait().expect("the same");
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shared by the objects of an engine.
pub(crate) struct Shared {
    pub(crate) wrong: Wrong,
    pub(crate) inner: Arc<dyn Engine>,
    services: Arc<dyn Services>,
    pub(crate) sandboxes: Mutex<Vec<Arc<dyn Sandbox>>>,
    first_log: Mutex<Option<Arc<dyn TaskContext>>>,
    endpoints: Mutex<Vec<(String, String)>>,
    pub(crate) volume: Mutex<Option<Arc<dyn Volume>>>,
    addresses: AtomicU32,
}

pub(crate) struct WrongProvider(Wrong);

impl WrongProvider {
    pub(crate) fn new(wrong: Wrong) -> Self {
        WrongProvider(wrong)
    }
}

#[async_trait]
impl EngineProvider for WrongProvider {
    fn description(&self) -> EngineProviderDescription {
        MockEngineProvider.description()
    }

    async fn new_engine(&self, services: Arc<dyn Services>, configuration: Value) -> Result<Arc<dyn Engine>> {
        let inner = MockEngineProvider
            .new_engine(Arc::clone(&services), configuration)
            .await?;
        Ok(Arc::new(WrongEngine(Arc::new(Shared {
            wrong: self.0,
            inner,
            services,
            sandboxes: Mutex::default(),
            first_log: Mutex::default(),
            endpoints: Mutex::default(),
            volume: Mutex::default(),
            addresses: AtomicU32::new(0),
        }))))
    }
}

struct WrongEngine(Arc<Shared>);

#[async_trait]
impl Engine for WrongEngine {
    fn description(&self) -> EngineDescription {
        let mut description = self.0.inner.description();
        if self.0.wrong == Wrong::MaximumIsNoMaximum {
            description.max_concurrency = Some(2);
        }
        description
    }

    async fn new_sandbox_builder(
        &self,
        task: Arc<dyn TaskContext>,
        payload: Value,
    ) -> Result<Arc<dyn SandboxBuilder>> {
        let shared = Arc::clone(&self.0);
        match shared.wrong {
            // Into a file that is forgotten, as a descriptor without an owner.
            Wrong::KeepsDescriptor => std::mem::forget(std::fs::File::open("/dev/null")?),
            Wrong::KeepsThread => drop(std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            })),
            Wrong::KeepsProcess => lock(&PROCESSES).push(Command::new("sleep").arg("100000").spawn()?),
            Wrong::KeepsFolder => drop(shared.services.temporary_folder().await?),
            Wrong::KeepsLease => drop(shared.services.lease(LeaseRequest::default()).await?),
            _ => {}
        }
        let of = if shared.wrong == Wrong::OutputIsShared {
            Arc::clone(lock(&shared.first_log).get_or_insert_with(|| Arc::clone(&task)))
        } else {
            Arc::clone(&task)
        };
        let inner = shared.inner.new_sandbox_builder(of, payload).await?;
        Ok(Arc::new(WrongBuilder {
            shared,
            task,
            inner,
            started: Mutex::default(),
            discarded: Mutex::default(),
        }))
    }

    async fn new_volume(&self, options: Value) -> Result<Arc<dyn Volume>> {
        let volume = self.0.inner.new_volume(options).await?;
        if self.0.wrong == Wrong::VolumesAreOne {
            return Ok(Arc::clone(lock(&self.0.volume).get_or_insert(volume)));
        }
        Ok(Arc::new(WrongVolume(self.0.wrong, volume)))
    }

    async fn new_volume_builder(&self, options: Value) -> Result<Arc<dyn VolumeBuilder>> {
        let inner = self.0.inner.new_volume_builder(options).await?;
        Ok(Arc::new(WrongVolumeBuilder::new(self.0.wrong, inner)))
    }

    async fn recover(&self, leases: Vec<LeaseRecord>) -> Result<RecoveryReport> {
        let mut report = self.0.inner.recover(leases).await?;
        if self.0.wrong == Wrong::ReleasesWhatIsNot {
            report.released.push("lease-of-nobody".into());
        }
        Ok(report)
    }

    async fn dispose(&self) -> Result<()> {
        self.0.inner.dispose().await
    }
}

struct WrongBuilder {
    shared: Arc<Shared>,
    task: Arc<dyn TaskContext>,
    inner: Arc<dyn SandboxBuilder>,
    started: Mutex<Option<Arc<dyn Sandbox>>>,
    discarded: Mutex<bool>,
}

impl WrongBuilder {
    /// Whether the task was cancelled before now.
    async fn cancelled(&self) -> bool {
        let mut cancelled = std::pin::pin!(self.task.cancelled());
        std::future::poll_fn(|context| std::task::Poll::Ready(cancelled.as_mut().poll(context).is_ready()))
            .await
    }
}

#[async_trait]
impl SandboxBuilder for WrongBuilder {
    async fn set_environment_variable(
        &self,
        name: String,
        value: String,
        class: VariableClass,
    ) -> Result<()> {
        self.inner.set_environment_variable(name, value, class).await
    }

    async fn put_file(&self, path: String, content: Handle, mode: u32) -> Result<()> {
        if self.shared.wrong == Wrong::DiscardedTakesFiles && *lock(&self.discarded) {
            return Ok(());
        }
        self.inner.put_file(path, content, mode).await
    }

    async fn attach_volume(&self, mount_point: String, id: String, read_only: bool) -> Result<()> {
        let (id, read_only) = match self.shared.wrong {
            Wrong::VolumeIsForgotten => {
                let fresh = self.shared.inner.new_volume(Value::Null).await?;
                (fresh.description().id, read_only)
            }
            Wrong::ReadOnlyIsIgnored => (id, false),
            _ => (id, read_only),
        };
        self.inner.attach_volume(mount_point, id, read_only).await
    }

    async fn set_limits(&self, limits: Limits) -> Result<()> {
        self.inner.set_limits(limits).await
    }

    async fn attach_proxy(&self, name: String, endpoint: String) -> Result<String> {
        let shared = &self.shared;
        lock(&shared.endpoints).push((name.clone(), endpoint.clone()));
        match shared.wrong {
            Wrong::AddressDiffers => {
                let number = shared.addresses.fetch_add(1, Ordering::Relaxed);
                self.inner.attach_proxy(name, endpoint).await?;
                Ok(format!("http://taskcluster:{}", 1024 + number))
            }
            Wrong::EveryNameIsTaken => Ok(format!("http://taskcluster/{name}")),
            Wrong::ProxyIsRoot => self.inner.attach_proxy(String::new(), endpoint).await,
            _ => self.inner.attach_proxy(name, endpoint).await,
        }
    }

    async fn start(&self) -> Result<Arc<dyn Sandbox>> {
        let shared = &self.shared;
        match shared.wrong {
            Wrong::StartsAgain if lock(&self.started).is_some() => {
                let before = lock(&self.started).clone();
                return before.ok_or_else(|| Error::violation("it was there"));
            }
            Wrong::StartHangsWhenCancelled => {
                // Long enough for a cancellation that comes at the same time.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                if self.cancelled().await {
                    std::future::pending::<()>().await;
                }
            }
            Wrong::StartBreaksWhenCancelled if self.cancelled().await => {
                return Err(Error::internal("a cancellation was not expected"));
            }
            Wrong::ProxiesAreShared => {
                let known = lock(&shared.endpoints).clone();
                for (name, endpoint) in known.into_iter().rev() {
                    // What it has itself is a conflict.
                    drop(self.inner.attach_proxy(name, endpoint).await);
                }
            }
            _ => {}
        }
        let inner = self.inner.start().await?;
        lock(&shared.sandboxes).push(Arc::clone(&inner));
        let sandbox: Arc<dyn Sandbox> = Arc::new(WrongSandbox::new(Arc::clone(shared), &self.task, inner));
        *lock(&self.started) = Some(Arc::clone(&sandbox));
        Ok(sandbox)
    }

    async fn discard(&self) -> Result<()> {
        if self.shared.wrong == Wrong::DiscardFailsAfterStart && lock(&self.started).is_some() {
            return Err(Error::violation("it has been started"));
        }
        *lock(&self.discarded) = true;
        self.inner.discard().await
    }
}
