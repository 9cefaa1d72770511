//! What a library tells the host about itself: its tracing events.
//!
//! The one object whose method is not a future: a record is only handed over, and the host puts it into a queue.

use std::sync::Arc;

use abi_stable::std_types::{RBox, RString};

use crate::diagnostics::Sink;

/// Takes records.
#[abi_stable::sabi_trait]
pub trait FfiDiagnostics: Send + Sync {
    /// `record` is JSON of [`crate::diagnostics::Record`]. Returns at once.
    #[sabi(last_prefix_field)]
    fn record(&self, record: RString);
}

pub type FfiDiagnosticsBox = FfiDiagnostics_TO<'static, RBox<()>>;

#[cfg(feature = "host")]
struct Export(Arc<dyn Sink>);

#[cfg(feature = "host")]
impl FfiDiagnostics for Export {
    fn record(&self, record: RString) {
        if let Ok(record) = serde_json::from_str(&record) {
            self.0.record(record);
        }
    }
}

#[cfg(feature = "host")]
pub(crate) fn export_diagnostics(sink: Arc<dyn Sink>) -> FfiDiagnosticsBox {
    FfiDiagnostics_TO::from_value(Export(sink), abi_stable::sabi_trait::TD_Opaque)
}

struct Import(FfiDiagnosticsBox);

impl Sink for Import {
    fn record(&self, record: crate::diagnostics::Record) {
        if let Ok(text) = serde_json::to_string(&record) {
            self.0.record(text.into());
        }
    }
}

pub(crate) fn import_diagnostics(object: FfiDiagnosticsBox) -> Arc<dyn Sink> {
    Arc::new(Import(object))
}
