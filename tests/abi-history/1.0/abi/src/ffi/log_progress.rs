//! The mirror of [`LogProgress`].

use super::prelude::*;
use crate::services::{LogLength, LogProgress};

ffi_object! {
    /// Follows a log.
    LogProgress: FfiLogProgress, FfiLogProgress_TO, FfiLogProgressObject;
    #[sabi(last_prefix_field)]
    call fn wait(offset: u64 => u64) -> LogLength => RString;
}
