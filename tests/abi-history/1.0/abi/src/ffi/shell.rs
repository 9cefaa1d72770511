//! The mirror of [`Shell`].

use super::prelude::*;
use crate::engine::{Shell, TerminalSize};

ffi_object! {
    /// A process beside the task's own.
    Shell: FfiShell, FfiShell_TO, FfiShellObject;
    call fn set_size(size: TerminalSize => RString) -> () => Nothing;
    call fn abort() -> () => Nothing;
    #[sabi(last_prefix_field)]
    call fn wait() -> bool => bool;
}
