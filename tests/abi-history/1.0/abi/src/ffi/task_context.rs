//! The mirror of [`TaskContext`].

use super::FfiLogProgressObject;
use super::prelude::*;
use crate::services::{
    ArtifactPointer, ArtifactRecord, ArtifactUpload, CancelReason, ClosedLog, FetchRequest, Fetched,
    HttpRequest, HttpResponse, LogLevel, LogReader, TaskContext, TaskInfo,
};

ffi_object! {
    /// One task, as the libraries see it.
    TaskContext: FfiTaskContext, FfiTaskContext_TO, FfiTaskContextObject, describes info: TaskInfo;
    call fn cancelled() -> CancelReason => RString;
    call fn log_handle() -> Handle => FfiHandle;
    call fn log_line(level: LogLevel => RString, text: String => RString) -> () => Nothing;
    call fn log_reader() -> LogReader => FfiLogProgressObject;
    call fn closed_log() -> ClosedLog => FfiData;
    call fn upload_artifact(upload: ArtifactUpload => RString, content: Handle => FfiHandle) -> ArtifactRecord => RString;
    call fn create_artifact(artifact: ArtifactPointer => RString) -> () => Nothing;
    call fn artifacts() -> Vec<ArtifactRecord> => RString;
    call fn fetch(request: FetchRequest => RString) -> Fetched => FfiData;
    #[sabi(last_prefix_field)]
    call fn http(request: HttpRequest => FfiData) -> HttpResponse => FfiData;
}
