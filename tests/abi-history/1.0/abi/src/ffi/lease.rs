//! The mirror of [`Lease`].

use super::prelude::*;
use crate::services::{Lease, LeaseDescription};

ffi_object! {
    /// A resource that is written down.
    Lease: FfiLease, FfiLease_TO, FfiLeaseObject, describes description: LeaseDescription;
    #[sabi(last_prefix_field)]
    detached fn release() -> () => Nothing;
}
