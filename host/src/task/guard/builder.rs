//! The sandbox builder, for `build_sandbox`.

use std::sync::Arc;

use async_trait::async_trait;
use tcw_abi::Result;
use tcw_abi::engine::{Limits, Sandbox, SandboxBuilder, VariableClass};
use tcw_abi::io::Handle;

use super::{Revocable, reserved};
use crate::task::shared::Task;

/// Takes the builder back when it is dropped.
pub(in crate::task) struct LentBuilder(Arc<Guarded>);

impl LentBuilder {
    pub(in crate::task) fn new(builder: Arc<dyn SandboxBuilder>, task: &Arc<Task>) -> Self {
        let over = "`build_sandbox` is over: the sandbox builder takes nothing more";
        LentBuilder(Arc::new(Guarded(Revocable::new(builder, over, task))))
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
        let answer = self.0.get()?.set_environment_variable(name, value, class).await;
        self.0.judge("set_environment_variable", answer)
    }

    async fn put_file(&self, path: String, content: Handle, mode: u32) -> Result<()> {
        let answer = self.0.get()?.put_file(path, content, mode).await;
        self.0.judge("put_file", answer)
    }

    async fn attach_volume(&self, mount_point: String, volume_id: String, read_only: bool) -> Result<()> {
        let answer = self
            .0
            .get()?
            .attach_volume(mount_point, volume_id, read_only)
            .await;
        self.0.judge("attach_volume", answer)
    }

    async fn attach_device(&self, kind: String) -> Result<()> {
        let answer = self.0.get()?.attach_device(kind).await;
        self.0.judge("attach_device", answer)
    }

    async fn set_limits(&self, limits: Limits) -> Result<()> {
        let answer = self.0.get()?.set_limits(limits).await;
        self.0.judge("set_limits", answer)
    }

    async fn attach_proxy(&self, name: String, endpoint: String) -> Result<String> {
        let answer = self.0.get()?.attach_proxy(name, endpoint).await;
        self.0.judge("attach_proxy", answer)
    }

    async fn start(&self) -> Result<Arc<dyn Sandbox>> {
        reserved("SandboxBuilder.start")
    }

    async fn discard(&self) -> Result<()> {
        reserved("SandboxBuilder.discard")
    }
}
