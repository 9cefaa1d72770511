//! What a signature looks like: Hawk's header, bewits and `ext`, all of them from whoever can connect.

use std::time::Duration;

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::Value;

use super::error::ApiError;

/// The last second that is taken for a time at all: the end of the year 9999.
const LAST_SECOND: u64 = 253_402_300_799;

/// What an `ext` field may hold.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Ext {
    #[serde(default)]
    pub(super) certificate: Option<Value>,
    #[serde(default)]
    pub(super) authorized_scopes: Option<Vec<String>>,
}

pub(super) fn refused(message: impl Into<String>) -> ApiError {
    ApiError::authentication(message)
}

/// The refusal of a request from another time. It tells ours, signed with the client's own key as Hawk has it, so that a
/// client can find out how far it is off and believe it.
pub(super) fn stale(key: &hawk::Key, now: u64, ts: u64) -> ApiError {
    let tsm = key
        .sign(format!("hawk.1.ts\n{now}\n").as_bytes())
        .unwrap_or_default();
    let (side, apart) = if ts < now {
        ("behind", now - ts)
    } else {
        ("ahead of", ts - now)
    };
    ApiError {
        challenge: Some(format!(
            "ts=\"{now}\", tsm=\"{}\", error=\"Stale timestamp\"",
            STANDARD.encode(tsm)
        )),
        ..refused(format!(
            "the request was signed by a clock that is {apart} s {side} this one, or long ago: it is {} here; set the clock",
            super::record::iso(super::core::now())
        ))
    }
}

/// The attributes of a Hawk header, each at most once. The hawk crate's own parser panics at times beyond all bounds.
pub(super) fn parse_header(text: &str) -> Result<hawk::Header, ApiError> {
    let malformed = |what: &str| refused(format!("the Authorization header is malformed: {what}"));
    let (scheme, mut rest) = text.split_once(' ').unwrap_or((text, ""));
    if !scheme.eq_ignore_ascii_case("hawk") {
        return Err(refused("the Authorization header is not Hawk's"));
    }
    let mut attributes = std::collections::BTreeMap::new();
    loop {
        rest = rest.trim_start_matches([',', ' ', '\t']);
        if rest.is_empty() {
            break;
        }
        let (name, after) = rest
            .split_once('=')
            .ok_or_else(|| malformed("an attribute has no value"))?;
        let (value, after) = after
            .trim_start()
            .strip_prefix('"')
            .and_then(|after| after.split_once('"'))
            .ok_or_else(|| malformed("a value does not stand within quotes"))?;
        let name = name.trim();
        if !["id", "ts", "nonce", "mac", "ext", "hash", "app", "dlg"].contains(&name) {
            return Err(malformed("it has an attribute that Hawk does not have"));
        }
        if attributes.insert(name, value).is_some() {
            return Err(malformed("an attribute stands there twice"));
        }
        rest = after;
    }
    let ts = match attributes.get("ts") {
        Some(ts) => {
            let seconds = ts.parse().ok().filter(|ts| *ts <= LAST_SECOND);
            let seconds = seconds.ok_or_else(|| malformed("its time is none"))?;
            Some(std::time::UNIX_EPOCH + Duration::from_secs(seconds))
        }
        None => None,
    };
    let bytes = |name: &str| {
        let decoded = attributes.get(name).map(|text| STANDARD.decode(text)).transpose();
        decoded.map_err(|_| malformed("a signature in it is not base64"))
    };
    let text = |name: &str| attributes.get(name).copied();
    hawk::Header::new(
        text("id"),
        ts,
        text("nonce"),
        bytes("mac")?.map(Into::into),
        text("ext"),
        bytes("hash")?,
        None,
        None,
    )
    .map_err(|error| malformed(&error.to_string()))
}

/// Refuses a bewit with a time beyond all bounds, at which the hawk crate's parser panics.
pub(super) fn check_bewit_time(resource: &str) -> Result<(), ApiError> {
    let query = resource.split_once('?').map_or("", |(_, query)| query);
    for bewit in query.split('&').filter_map(|part| part.strip_prefix("bewit=")) {
        let decoded = URL_SAFE_NO_PAD
            .decode(bewit.trim_end_matches('='))
            .map_err(|_| refused("the bewit is malformed: it is not base64"))?;
        let time = decoded.split(|byte| *byte == b'\\').nth(1).unwrap_or_default();
        let seconds = std::str::from_utf8(time).ok().and_then(|time| time.parse().ok());
        if seconds.is_none_or(|seconds: u64| seconds > LAST_SECOND) {
            return Err(refused("the bewit is malformed: its end is no time"));
        }
    }
    Ok(())
}

pub(super) fn parse_ext(ext: Option<&str>) -> Result<Ext, ApiError> {
    let Some(text) = ext.filter(|text| !text.is_empty()) else {
        return Ok(Ext::default());
    };
    let bytes = STANDARD
        .decode(text)
        .map_err(|error| refused(format!("the ext field is not base64: {error}")))?;
    // As an object: serde would take a list for one.
    let object: Result<serde_json::Map<String, Value>, _> = serde_json::from_slice(&bytes);
    object
        .and_then(|object| serde_json::from_value(Value::Object(object)))
        .map_err(|error| refused(format!("the ext field is malformed: {error}")))
}

/// The content type as Hawk hashes it: lower case, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let value = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}
