//! The mirror of [`Volume`].

use super::prelude::*;
use crate::engine::{Volume, VolumeDescription};

ffi_object! {
    /// Storage that sandboxes mount.
    Volume: FfiVolume, FfiVolume_TO, FfiVolumeObject, describes description: VolumeDescription;
    call fn size() -> u64 => u64;
    #[sabi(last_prefix_field)]
    detached fn dispose() -> () => Nothing;
}
