//! Times as the API writes them: UTC, milliseconds, a `Z` at the end.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serializer;

/// Writes a time.
#[must_use]
pub fn format(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// For `#[serde(serialize_with)]`.
pub(crate) fn serialize<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*time))
}
