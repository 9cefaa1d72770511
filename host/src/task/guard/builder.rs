//! The sandbox builder, for `build_sandbox`.

use std::sync::Arc;

use async_trait::async_trait;
use tcw_abi::Result;
use tcw_abi::engine::{Limits, Sandbox, SandboxBuilder, VariableClass};
use tcw_abi::io::Handle;

use super::{Revocable, reserved};

/// Takes the builder back when it is dropped.
pub(in crate::task) struct LentBuilder(Arc<Guarded>);

impl LentBuilder {
    pub(in crate::task) fn new(builder: Arc<dyn SandboxBuilder>) -> Self {
        let over = "`build_sandbox` is over: the sandbox builder takes nothing more";
        LentBuilder(Arc::new(Guarded(Revocable::new(builder, over))))
    }

    pub(in crate::task) fn share(&self) -> Arc<dyn SandboxBuilder> {
        Arc::clone(&self.0) as _
    }
}

impl Drop for LentBuilder {
    fn drop(&mut self) {
        self.0.0.revoke();
    }
}

struct Guarded(Revocable<dyn SandboxBuilder>);

#[async_trait]
impl SandboxBuilder for Guarded {
    async fn set_environment_variable(
        &self,
        name: String,
        value: String,
        class: VariableClass,
    ) -> Result<()> {
        self.0.get()?.set_environment_variable(name, value, class).await
    }

    async fn put_file(&self, path: String, content: Handle, mode: u32) -> Result<()> {
        self.0.get()?.put_file(path, content, mode).await
    }

    async fn attach_volume(&self, mount_point: String, volume_id: String, read_only: bool) -> Result<()> {
        self.0
            .get()?
            .attach_volume(mount_point, volume_id, read_only)
            .await
    }

    async fn attach_device(&self, kind: String) -> Result<()> {
        self.0.get()?.attach_device(kind).await
    }

    async fn set_limits(&self, limits: Limits) -> Result<()> {
        self.0.get()?.set_limits(limits).await
    }

    async fn attach_proxy(&self, name: String, endpoint: String) -> Result<String> {
        self.0.get()?.attach_proxy(name, endpoint).await
    }

    async fn start(&self) -> Result<Arc<dyn Sandbox>> {
        reserved("SandboxBuilder.start")
    }

    async fn discard(&self) -> Result<()> {
        reserved("SandboxBuilder.discard")
    }
}
