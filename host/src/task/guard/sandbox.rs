//! The sandbox, from `started` until the task has stopped.

use std::sync::Arc;

use async_trait::async_trait;
use tcw_abi::Result;
use tcw_abi::engine::{
    Display, OpenShell, ResourceUsage, ResultSet, Sandbox, SandboxDescription, ShellRequest,
};
use tcw_abi::io::Handle;

use super::{Revocable, reserved};

/// Takes the sandbox back when it is dropped.
pub(in crate::task) struct LentSandbox(Arc<Guarded>);

impl LentSandbox {
    pub(in crate::task) fn new(sandbox: Arc<dyn Sandbox>) -> Self {
        let over = "the task has stopped: its sandbox cannot be used any more";
        LentSandbox(Arc::new(Guarded {
            description: sandbox.description(),
            sandbox: Revocable::new(sandbox, over),
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
    sandbox: Revocable<dyn Sandbox>,
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
        self.sandbox.get()?.new_shell(request).await
    }

    async fn list_displays(&self) -> Result<Vec<Display>> {
        self.sandbox.get()?.list_displays().await
    }

    async fn open_display(&self, name: String) -> Result<Handle> {
        self.sandbox.get()?.open_display(name).await
    }

    async fn kill(&self, reason: String, grace_ms: u64) -> Result<()> {
        self.sandbox.get()?.kill(reason, grace_ms).await
    }

    async fn abort(&self) -> Result<()> {
        reserved("Sandbox.abort")
    }

    async fn resource_usage(&self) -> Result<ResourceUsage> {
        self.sandbox.get()?.resource_usage().await
    }
}
