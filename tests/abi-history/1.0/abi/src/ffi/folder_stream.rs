//! The mirror of [`FolderStream`].

use super::prelude::*;
use crate::engine::{ExtractedFile, FolderStream};

ffi_object! {
    /// The files of a folder.
    FolderStream: FfiFolderStream, FfiFolderStream_TO, FfiFolderStreamObject;
    #[sabi(last_prefix_field)]
    call fn next() -> Option<ExtractedFile> => FfiData;
}
