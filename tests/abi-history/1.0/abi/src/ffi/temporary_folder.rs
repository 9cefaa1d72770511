//! The mirror of [`TemporaryFolder`].

use super::prelude::*;
use crate::services::{FolderDescription, TemporaryFolder};

ffi_object! {
    /// A folder for as long as the object lives.
    TemporaryFolder: FfiTemporaryFolder, FfiTemporaryFolder_TO, FfiTemporaryFolderObject, describes description: FolderDescription;
    #[sabi(last_prefix_field)]
    detached fn dispose() -> () => Nothing;
}
