//! The mirror of [`Sandbox`].

use super::prelude::*;
use super::{FfiResultSetObject, FfiShellObject};
use crate::engine::{
    Display, OpenShell, ResourceUsage, ResultSet, Sandbox, SandboxDescription, ShellRequest,
};

ffi_object! {
    /// A running task.
    Sandbox: FfiSandbox, FfiSandbox_TO, FfiSandboxObject, describes description: SandboxDescription;
    call fn wait() -> Arc<dyn ResultSet> => FfiResultSetObject;
    call fn new_shell(request: ShellRequest => RString) -> OpenShell => FfiShellObject;
    call fn list_displays() -> Vec<Display> => RString;
    call fn open_display(name: String => RString) -> Handle => FfiHandle;
    detached fn kill(reason: String => RString, grace_ms: u64 => u64) -> () => Nothing;
    detached fn abort() -> () => Nothing;
    #[sabi(last_prefix_field)]
    call fn resource_usage() -> ResourceUsage => RString;
}
