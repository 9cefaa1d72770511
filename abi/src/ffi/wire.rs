//! How values cross: text and numbers as they are, rich data as JSON text, bytes as handles, objects with their
//! constants.

use std::collections::VecDeque;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::time::Duration;

use abi_stable::StableAbi;
use abi_stable::std_types::{RString, RVec};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{FfiLogProgressObject, FfiShellObject};
use crate::engine::{
    Display, EngineDescription, ExtractedFile, FileInfo, Health, LeaseRecord, Limits, OpenShell,
    RecoveryReport, Report, ResourceUsage, ShellRequest, ShellStreams, TerminalSize, VariableClass,
};
use crate::error::{Error, ErrorKind, Result};
use crate::io::Handle;
use crate::plugin::ExceptionReason;
use crate::services::{
    ArtifactPointer, ArtifactRecord, ArtifactUpload, CacheRelease, CacheRequest, CancelReason, ClosedLog,
    ErrorReport, FetchRequest, Fetched, HttpRequest, HttpResponse, LeaseRequest, LogLength, LogLevel,
    LogReader, StopMode,
};

/// A value that crosses the boundary.
pub(crate) trait Wire: Sized {
    /// What it is while it crosses.
    type Ffi;
    fn into_wire(self) -> Result<Self::Ffi>;
    fn from_wire(wire: Self::Ffi) -> Result<Self>;
}

/// No value.
pub type Nothing = ();

/// An owned descriptor; dropping it on either side closes it.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiHandle {
    /// A file descriptor; -1 once it has been taken. (Wide enough for a Windows handle.)
    raw: i64,
}

impl From<Handle> for FfiHandle {
    fn from(handle: Handle) -> Self {
        FfiHandle {
            raw: i64::from(handle.into_fd().into_raw_fd()),
        }
    }
}

impl FfiHandle {
    fn take(&mut self) -> Result<OwnedFd> {
        let raw = i32::try_from(std::mem::replace(&mut self.raw, -1)).unwrap_or(-1);
        if raw < 0 {
            return Err(Error::violation(
                "a handle over the boundary is not an open descriptor",
            ));
        }
        // SAFETY: the number came from an `OwnedFd` that was given up in `From<Handle>` on the other side; ownership
        // moved with this value, and `raw` was replaced, so nobody else closes it.
        Ok(unsafe { OwnedFd::from_raw_fd(raw) })
    }
}

impl Drop for FfiHandle {
    fn drop(&mut self) {
        drop(self.take());
    }
}

/// JSON text with the handles that belong to it.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiData {
    pub json: RString,
    pub handles: RVec<FfiHandle>,
}

/// An object, its constants as JSON, and the handles that come with it.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiObject<T> {
    pub object: T,
    pub description: RString,
    pub handles: RVec<FfiHandle>,
}

/// An error. Kinds are numbers; one that the receiver does not know is its fallback.
#[repr(C)]
#[derive(StableAbi)]
pub struct FfiError {
    pub kind: u32,
    pub fallback: u32,
    pub message: RString,
    pub detail: RString,
}

impl From<Error> for FfiError {
    #[inline(never)]
    fn from(error: Error) -> Self {
        FfiError {
            kind: error.kind().code(),
            fallback: error.fallback().code(),
            message: error.message().into(),
            detail: error.detail().to_string().into(),
        }
    }
}

impl From<FfiError> for Error {
    #[inline(never)]
    fn from(error: FfiError) -> Self {
        let kind = ErrorKind::from_code(error.kind)
            .or_else(|| ErrorKind::from_code(error.fallback))
            .unwrap_or(ErrorKind::NonFatalInternal);
        let detail = serde_json::from_str(&error.detail).unwrap_or(Value::Null);
        Error::new(kind, error.message.into_string()).with_detail(detail)
    }
}

/// The `options` of a call that has none.
pub(crate) fn no_options() -> RString {
    RString::from("{}")
}

#[inline(never)]
pub(crate) fn to_json<T: Serialize>(value: &T) -> Result<RString> {
    serde_json::to_string(value)
        .map(RString::from)
        .map_err(|error| Error::violation(format!("a value cannot be written as JSON: {error}")))
}

#[inline(never)]
pub(crate) fn from_json<T: DeserializeOwned>(text: &str, what: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| {
        Error::violation(format!(
            "{what} that came over the boundary is not what this version expects: {error}"
        ))
    })
}

/// Values that cross as they are.
macro_rules! plain {
    ($($rust:ty),*) => {$(
        impl Wire for $rust {
            type Ffi = $rust;
            fn into_wire(self) -> Result<Self::Ffi> {
                Ok(self)
            }
            fn from_wire(wire: Self::Ffi) -> Result<Self> {
                Ok(wire)
            }
        }
    )*};
}
plain!((), bool, u32, u64);

/// Rich data: JSON text.
macro_rules! json {
    ($($rust:ty),* $(,)?) => {$(
        impl Wire for $rust {
            type Ffi = RString;
            fn into_wire(self) -> Result<Self::Ffi> {
                to_json(&self)
            }
            fn from_wire(wire: Self::Ffi) -> Result<Self> {
                from_json(&wire, concat!("a ", stringify!($rust)))
            }
        }
    )*};
}
json!(
    ArtifactPointer,
    ArtifactUpload,
    ArtifactRecord,
    CacheRelease,
    CacheRequest,
    CancelReason,
    EngineDescription,
    ErrorReport,
    ExceptionReason,
    FetchRequest,
    Health,
    LeaseRequest,
    Limits,
    LogLength,
    LogLevel,
    RecoveryReport,
    Report,
    ResourceUsage,
    ShellRequest,
    StopMode,
    TerminalSize,
    Value,
    VariableClass,
    Vec<ArtifactRecord>,
    Vec<Display>,
    Vec<LeaseRecord>,
);

impl Wire for String {
    type Ffi = RString;
    fn into_wire(self) -> Result<Self::Ffi> {
        Ok(self.into())
    }
    fn from_wire(wire: Self::Ffi) -> Result<Self> {
        Ok(wire.into_string())
    }
}

impl Wire for Duration {
    /// Milliseconds.
    type Ffi = u64;
    fn into_wire(self) -> Result<Self::Ffi> {
        Ok(u64::try_from(self.as_millis()).unwrap_or(u64::MAX))
    }
    fn from_wire(wire: Self::Ffi) -> Result<Self> {
        Ok(Duration::from_millis(wire))
    }
}

impl Wire for Handle {
    type Ffi = FfiHandle;
    fn into_wire(self) -> Result<Self::Ffi> {
        Ok(self.into())
    }
    fn from_wire(mut wire: Self::Ffi) -> Result<Self> {
        wire.take().map(Handle::from)
    }
}

/// The handles that came with a value, taken one by one.
fn handles(wire: RVec<FfiHandle>) -> Result<VecDeque<Handle>> {
    wire.into_iter().map(Handle::from_wire).collect()
}

fn missing(what: &str) -> Error {
    Error::violation(format!("{what} came over the boundary without its handle"))
}

/// JSON with exactly one handle.
macro_rules! one_handle {
    ($($rust:ident { $handle:ident, $info:ident }),*) => {$(
        impl Wire for $rust {
            type Ffi = FfiData;
            fn into_wire(self) -> Result<Self::Ffi> {
                Ok(FfiData { json: to_json(&self.$info)?, handles: RVec::from(vec![self.$handle.into()]) })
            }
            fn from_wire(wire: Self::Ffi) -> Result<Self> {
                let $handle = handles(wire.handles)?.pop_front().ok_or_else(|| missing(stringify!($rust)))?;
                Ok($rust { $handle, $info: from_json(&wire.json, stringify!($rust))? })
            }
        }
    )*};
}
one_handle!(
    ExtractedFile { content, info },
    Fetched { content, info },
    ClosedLog { content, info },
    HttpResponse { body, head }
);

/// The end of a folder is `null` without a handle.
impl Wire for Option<ExtractedFile> {
    type Ffi = FfiData;
    fn into_wire(self) -> Result<Self::Ffi> {
        match self {
            Some(file) => file.into_wire(),
            None => Ok(FfiData {
                json: "null".into(),
                handles: RVec::new(),
            }),
        }
    }
    fn from_wire(wire: Self::Ffi) -> Result<Self> {
        let info: Option<FileInfo> = from_json(&wire.json, "a file of a folder")?;
        match info {
            None => Ok(None),
            Some(info) => {
                let content = handles(wire.handles)?
                    .pop_front()
                    .ok_or_else(|| missing("a file of a folder"))?;
                Ok(Some(ExtractedFile { content, info }))
            }
        }
    }
}

impl Wire for HttpRequest {
    type Ffi = FfiData;
    fn into_wire(self) -> Result<Self::Ffi> {
        let handles = self.body.into_iter().map(FfiHandle::from).collect();
        Ok(FfiData {
            json: to_json(&self.head)?,
            handles,
        })
    }
    fn from_wire(wire: Self::Ffi) -> Result<Self> {
        let body = handles(wire.handles)?.pop_front();
        Ok(HttpRequest {
            head: from_json(&wire.json, "an HTTP request")?,
            body,
        })
    }
}

/// One handle is a terminal; three are stdin, stdout and stderr.
impl Wire for OpenShell {
    type Ffi = FfiShellObject;
    fn into_wire(self) -> Result<Self::Ffi> {
        let mut object = self.shell.into_wire()?;
        object.handles = match self.streams {
            ShellStreams::Terminal(stream) => vec![stream.into()],
            ShellStreams::Pipes {
                stdin,
                stdout,
                stderr,
            } => vec![stdin.into(), stdout.into(), stderr.into()],
        }
        .into();
        Ok(object)
    }
    fn from_wire(mut wire: Self::Ffi) -> Result<Self> {
        let mut handles = handles(std::mem::take(&mut wire.handles))?.into_iter();
        let streams = match (handles.next(), handles.next(), handles.next()) {
            (Some(stream), None, None) => ShellStreams::Terminal(stream),
            (Some(stdin), Some(stdout), Some(stderr)) => ShellStreams::Pipes {
                stdin,
                stdout,
                stderr,
            },
            _ => return Err(missing("a shell")),
        };
        Ok(OpenShell {
            shell: Wire::from_wire(wire)?,
            streams,
        })
    }
}

impl Wire for LogReader {
    type Ffi = FfiLogProgressObject;
    fn into_wire(self) -> Result<Self::Ffi> {
        let mut object = self.progress.into_wire()?;
        object.handles = vec![self.file.into()].into();
        Ok(object)
    }
    fn from_wire(mut wire: Self::Ffi) -> Result<Self> {
        let file = handles(std::mem::take(&mut wire.handles))?
            .pop_front()
            .ok_or_else(|| missing("a log"))?;
        Ok(LogReader {
            file,
            progress: Wire::from_wire(wire)?,
        })
    }
}
