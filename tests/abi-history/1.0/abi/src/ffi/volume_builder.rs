//! The mirror of [`VolumeBuilder`].

use super::FfiVolumeObject;
use super::prelude::*;
use crate::engine::{Volume, VolumeBuilder};

ffi_object! {
    /// A volume that is being filled.
    VolumeBuilder: FfiVolumeBuilder, FfiVolumeBuilder_TO, FfiVolumeBuilderObject;
    call fn write_folder(path: String => RString) -> () => Nothing;
    call fn write_file(path: String => RString, mode: u32 => u32) -> Handle => FfiHandle;
    call fn build() -> Arc<dyn Volume> => FfiVolumeObject;
    #[sabi(last_prefix_field)]
    detached fn discard() -> () => Nothing;
}
