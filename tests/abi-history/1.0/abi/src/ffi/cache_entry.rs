//! The mirror of [`CacheEntry`].

use super::prelude::*;
use crate::services::{CacheDescription, CacheEntry, CacheRelease};

ffi_object! {
    /// A cache entry in use.
    CacheEntry: FfiCacheEntry, FfiCacheEntry_TO, FfiCacheEntryObject, describes description: CacheDescription;
    #[sabi(last_prefix_field)]
    detached fn release(release: CacheRelease => RString) -> () => Nothing;
}
