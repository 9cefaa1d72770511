//! The sandbox, from `started` until the task has stopped.

use std::sync::Arc;

use async_trait::async_trait;
use tcw_abi::Result;
use tcw_abi::engine::{
    Display, OpenShell, ResourceUsage, ResultSet, Sandbox, SandboxDescription, Shell, ShellRequest,
    TerminalSize,
};
use tcw_abi::io::Handle;

use super::{Revocable, reserved};
use crate::task::shared::Task;

/// Takes the sandbox back when it is dropped.
pub(in crate::task) struct LentSandbox(Arc<Guarded>);

impl LentSandbox {
    pub(in crate::task) fn new(sandbox: Arc<dyn Sandbox>, task: &Arc<Task>) -> Self {
        let over = "the task has stopped: its sandbox cannot be used any more";
        LentSandbox(Arc::new(Guarded {
            description: sandbox.description(),
            sandbox: Arc::new(Revocable::new(sandbox, over, task)),
        }))
    }

    pub(in crate::task) fn share(&self) -> Arc<dyn Sandbox> {
        Arc::clone(&self.0) as _
    }
}

impl Drop for LentSandbox {
    fn drop(&mut self) {
        self.0.sandbox.revoke();
    }
}

struct Guarded {
    description: SandboxDescription,
    sandbox: Arc<Revocable<dyn Sandbox>>,
}

#[async_trait]
impl Sandbox for Guarded {
    fn description(&self) -> SandboxDescription {
        self.description.clone()
    }

    async fn wait(&self) -> Result<Arc<dyn ResultSet>> {
        reserved("Sandbox.wait")
    }

    async fn new_shell(&self, request: ShellRequest) -> Result<OpenShell> {
        let answer = self.sandbox.get()?.new_shell(request).await;
        let open = self.sandbox.judge("new_shell", answer)?;
        Ok(OpenShell {
            shell: Arc::new(GuardedShell {
                sandbox: Arc::clone(&self.sandbox),
                shell: open.shell,
            }),
            streams: open.streams,
        })
    }

    async fn list_displays(&self) -> Result<Vec<Display>> {
        let answer = self.sandbox.get()?.list_displays().await;
        self.sandbox.judge("list_displays", answer)
    }

    async fn open_display(&self, name: String) -> Result<Handle> {
        let answer = self.sandbox.get()?.open_display(name).await;
        self.sandbox.judge("open_display", answer)
    }

    async fn kill(&self, reason: String, grace_ms: u64) -> Result<()> {
        let answer = self.sandbox.get()?.kill(reason, grace_ms).await;
        self.sandbox.judge("kill", answer)
    }

    async fn abort(&self) -> Result<()> {
        reserved("Sandbox.abort")
    }

    async fn resource_usage(&self) -> Result<ResourceUsage> {
        let answer = self.sandbox.get()?.resource_usage().await;
        self.sandbox.judge("resource_usage", answer)
    }
}

/// A shell is used for as long as its sandbox may be.
struct GuardedShell {
    sandbox: Arc<Revocable<dyn Sandbox>>,
    shell: Arc<dyn Shell>,
}

#[async_trait]
impl Shell for GuardedShell {
    async fn set_size(&self, size: TerminalSize) -> Result<()> {
        self.sandbox.get()?;
        self.sandbox
            .judge("Shell.set_size", self.shell.set_size(size).await)
    }

    async fn abort(&self) -> Result<()> {
        self.sandbox.get()?;
        self.sandbox.judge("Shell.abort", self.shell.abort().await)
    }

    async fn wait(&self) -> Result<bool> {
        self.sandbox.get()?;
        self.sandbox.judge("Shell.wait", self.shell.wait().await)
    }
}
