//! The mirror of [`TaskPlugin`].

use super::prelude::*;
use super::{FfiResultSetObject, FfiSandboxBuilderObject, FfiSandboxObject};
use crate::engine::{ResultSet, Sandbox, SandboxBuilder};
use crate::plugin::{ExceptionReason, TaskPlugin};

ffi_object! {
    /// A plugin's part in one task.
    TaskPlugin: FfiTaskPlugin, FfiTaskPlugin_TO, FfiTaskPluginObject;
    call fn prepare() -> () => Nothing;
    call fn build_sandbox(builder: Arc<dyn SandboxBuilder> => FfiSandboxBuilderObject) -> () => Nothing;
    call fn started(sandbox: Arc<dyn Sandbox> => FfiSandboxObject) -> () => Nothing;
    call fn stopped(result: Arc<dyn ResultSet> => FfiResultSetObject) -> bool => bool;
    call fn finished(success: bool => bool) -> () => Nothing;
    call fn exception(reason: ExceptionReason => RString) -> () => Nothing;
    #[sabi(last_prefix_field)]
    detached fn dispose() -> () => Nothing;
}
