//! The mirror of [`WebHook`].

use super::prelude::*;
use crate::services::{WebHook, WebHookDescription};

ffi_object! {
    /// A public URL for a local endpoint.
    WebHook: FfiWebHook, FfiWebHook_TO, FfiWebHookObject, describes description: WebHookDescription;
    #[sabi(last_prefix_field)]
    detached fn detach() -> () => Nothing;
}
