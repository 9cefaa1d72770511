//! The mirror of [`ResultSet`].

use super::FfiFolderStreamObject;
use super::prelude::*;
use crate::engine::{ExtractedFile, FolderStream, Report, ResultSet};

ffi_object! {
    /// What a sandbox left.
    ResultSet: FfiResultSet, FfiResultSet_TO, FfiResultSetObject, describes report: Report;
    call fn extract_file(path: String => RString) -> ExtractedFile => FfiData;
    call fn extract_folder(path: String => RString) -> Arc<dyn FolderStream> => FfiFolderStreamObject;
    call fn archive() -> Handle => FfiHandle;
    #[sabi(last_prefix_field)]
    detached fn dispose() -> () => Nothing;
}
