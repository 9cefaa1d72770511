//! The mirror of [`Services`].

use super::prelude::*;
use super::{FfiCacheEntryObject, FfiLeaseObject, FfiTemporaryFolderObject, FfiWebHookObject};
use crate::services::{
    CacheEntry, CacheRequest, ErrorReport, FetchRequest, Fetched, HttpRequest, HttpResponse, Lease,
    LeaseRequest, Services, StopMode, TemporaryFolder, WebHook, WorkerInfo,
};

ffi_object! {
    /// What the host offers a library.
    Services: FfiServices, FfiServices_TO, FfiServicesObject, describes worker: WorkerInfo;
    call fn fetch(request: FetchRequest => RString) -> Fetched => FfiData;
    call fn http(request: HttpRequest => FfiData) -> HttpResponse => FfiData;
    call fn temporary_folder() -> Arc<dyn TemporaryFolder> => FfiTemporaryFolderObject;
    call fn state_directory() -> String => RString;
    call fn cache(request: CacheRequest => RString) -> Arc<dyn CacheEntry> => FfiCacheEntryObject;
    call fn attach_webhook(endpoint: String => RString) -> Arc<dyn WebHook> => FfiWebHookObject;
    call fn lease(request: LeaseRequest => RString) -> Arc<dyn Lease> => FfiLeaseObject;
    call fn stop(mode: StopMode => RString, reason: String => RString) -> () => Nothing;
    call fn pause(reason: String => RString) -> () => Nothing;
    call fn resume() -> () => Nothing;
    #[sabi(last_prefix_field)]
    call fn report_error(report: ErrorReport => RString) -> () => Nothing;
}
