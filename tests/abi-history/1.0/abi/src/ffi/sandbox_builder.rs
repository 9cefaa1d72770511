//! The mirror of [`SandboxBuilder`].

use super::FfiSandboxObject;
use super::prelude::*;
use crate::engine::{Limits, Sandbox, SandboxBuilder, VariableClass};

ffi_object! {
    /// A sandbox in the making.
    SandboxBuilder: FfiSandboxBuilder, FfiSandboxBuilder_TO, FfiSandboxBuilderObject;
    call fn set_environment_variable(name: String => RString, value: String => RString, class: VariableClass => RString) -> () => Nothing;
    call fn put_file(path: String => RString, content: Handle => FfiHandle, mode: u32 => u32) -> () => Nothing;
    call fn attach_volume(mount_point: String => RString, volume_id: String => RString, read_only: bool => bool) -> () => Nothing;
    call fn attach_device(kind: String => RString) -> () => Nothing;
    call fn set_limits(limits: Limits => RString) -> () => Nothing;
    call fn attach_proxy(name: String => RString, endpoint: String => RString) -> String => RString;
    detached fn start() -> Arc<dyn Sandbox> => FfiSandboxObject;
    #[sabi(last_prefix_field)]
    detached fn discard() -> () => Nothing;
}
