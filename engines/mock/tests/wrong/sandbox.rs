//! The sandbox and what it leaves.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tcw_abi::engine::*;
use tcw_abi::io::Handle;
use tcw_abi::services::TaskContext;
use tcw_abi::testing::handle_with;
use tcw_abi::{Error, Result, async_trait};
use tokio::sync::{Mutex, watch};

use crate::Wrong;
use crate::engine::{Shared, lock};

pub(crate) struct WrongSandbox {
    shared: Arc<Shared>,
    task: Arc<dyn TaskContext>,
    inner: Arc<dyn Sandbox>,
    ended: watch::Sender<bool>,
    killing: Mutex<()>,
}

impl WrongSandbox {
    pub(crate) fn new(shared: Arc<Shared>, task: &Arc<dyn TaskContext>, inner: Arc<dyn Sandbox>) -> Self {
        WrongSandbox {
            shared,
            task: Arc::clone(task),
            inner,
            ended: watch::Sender::new(false),
            killing: Mutex::new(()),
        }
    }
}

/// Ends the sandbox when the call that holds it is dropped.
struct EndsOnDrop(Option<Arc<dyn Sandbox>>);

impl Drop for EndsOnDrop {
    fn drop(&mut self) {
        if let Some(sandbox) = self.0.take() {
            futures_now(async move { drop(sandbox.abort().await) });
        }
    }
}

/// Runs it to its end on a thread of its own, and waits for that.
fn futures_now(future: impl Future<Output = ()> + Send + 'static) {
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.expect("a runtime").block_on(future);
    };
    std::thread::spawn(run).join().expect("it does not panic");
}

#[async_trait]
impl Sandbox for WrongSandbox {
    fn description(&self) -> SandboxDescription {
        self.inner.description()
    }

    async fn wait(&self) -> Result<Arc<dyn ResultSet>> {
        let wrong = self.shared.wrong;
        if wrong == Wrong::EarlyWaitsNeverEnd && !*self.ended.borrow() {
            std::future::pending::<()>().await;
        }
        if wrong == Wrong::CancelledEndIsForgotten {
            let cancelled = tokio::time::timeout(Duration::from_millis(50), self.task.cancelled());
            if cancelled.await.is_ok() {
                return Err(Error::internal("it was cancelled"));
            }
        }
        let mut guard = EndsOnDrop((wrong == Wrong::AbandonedWaitEndsTask).then(|| Arc::clone(&self.inner)));
        let result = self.inner.wait().await;
        guard.0 = None;
        Ok(Arc::new(WrongResult(wrong, result?)))
    }

    async fn new_shell(&self, request: ShellRequest) -> Result<OpenShell> {
        self.inner.new_shell(request).await
    }

    async fn list_displays(&self) -> Result<Vec<Display>> {
        let mut displays = self.inner.list_displays().await?;
        if self.shared.wrong == Wrong::DisplayIsRenamed {
            displays[0].name = "screen".into();
        }
        Ok(displays)
    }

    async fn open_display(&self, name: String) -> Result<Handle> {
        match self.shared.wrong {
            Wrong::NoProtocol => handle_with(b"hello, world and more than that"),
            Wrong::EveryDisplayIsThere => self.inner.open_display("MockDisplay".into()).await,
            Wrong::DisplaysStayOpen => {
                let mut display = self.inner.open_display(name).await?.into_file();
                let (mut ours, theirs) = UnixStream::pair()?;
                let (mut to, mut from) = (ours.try_clone()?, display.try_clone()?);
                std::thread::spawn(move || drop(std::io::copy(&mut ours, &mut display)));
                std::thread::spawn(move || {
                    let mut chunk = [0; 4096];
                    while let Ok(length @ 1..) = from.read(&mut chunk) {
                        if to.write_all(&chunk[..length]).is_err() {
                            return;
                        }
                    }
                    // The screen is gone, and nobody is told.
                    std::mem::forget(to);
                });
                Ok(theirs.into())
            }
            _ => self.inner.open_display(name).await,
        }
    }

    async fn kill(&self, reason: String, grace_ms: u64) -> Result<()> {
        let _killing = self.killing.lock().await;
        if self.shared.wrong == Wrong::KillHoldsUpAbort {
            tokio::time::sleep(Duration::from_millis(grace_ms)).await;
        }
        self.inner.kill(reason, grace_ms).await
    }

    async fn abort(&self) -> Result<()> {
        let wrong = self.shared.wrong;
        if wrong == Wrong::KillHoldsUpAbort {
            drop(self.killing.lock().await);
        }
        let answer = match wrong {
            Wrong::AbortKeepsResults => self.inner.kill("aborted".into(), 0).await,
            Wrong::LateAbortWorks => {
                drop(self.inner.abort().await);
                Ok(())
            }
            Wrong::AbortReachesAll => {
                let all = lock(&self.shared.sandboxes).clone();
                for sandbox in all {
                    drop(sandbox.abort().await);
                }
                Ok(())
            }
            _ => self.inner.abort().await,
        };
        self.ended.send_replace(true);
        answer
    }

    async fn resource_usage(&self) -> Result<ResourceUsage> {
        self.inner.resource_usage().await
    }
}

struct WrongResult(Wrong, Arc<dyn ResultSet>);

#[async_trait]
impl ResultSet for WrongResult {
    fn report(&self) -> Report {
        let mut report = self.1.report();
        report.success |= self.0 == Wrong::KillIsSuccess;
        report
    }

    async fn extract_file(&self, path: String) -> Result<ExtractedFile> {
        if self.0 == Wrong::ResultsOutliveDispose {
            return Ok(ExtractedFile {
                content: handle_with(b"still here")?,
                info: FileInfo::default(),
            });
        }
        self.1.extract_file(path).await
    }

    async fn extract_folder(&self, path: String) -> Result<Arc<dyn FolderStream>> {
        self.1.extract_folder(path).await
    }

    async fn dispose(&self) -> Result<()> {
        self.1.dispose().await
    }
}
