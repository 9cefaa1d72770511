//! Opening a stored library: the thin layer over `dlopen`.
#![expect(
    unsafe_code,
    reason = "opening a library runs its constructors; the arguments stand at each block"
)]

use std::fs;
use std::os::raw::c_int;
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};
use tcw_abi::host::{ROOT_SYMBOL, Root, RootError};

use super::LibraryError;
use super::inspect::Version;

/// Keeps the library's code for the life of the process whatever happens: its threads and its function pointers are
/// everywhere. (The same number on Linux and in the BSDs that have it; libloading does not name it.)
#[cfg(target_os = "linux")]
const RTLD_NODELETE: c_int = 0x1000;
#[cfg(target_os = "macos")]
const RTLD_NODELETE: c_int = 0x80;

/// Opens `stored`, the copy of `source`, and checks its layout.
pub(super) fn open(source: &Path, stored: &Path, store: &Path) -> Result<Root, LibraryError> {
    // All symbols now: a library with an unresolved one is refused here instead of dying at the first call. Local:
    // no other library is bound to its symbols.
    //
    // SAFETY: opening runs the library's constructors. The file is code that the operator chose, that nobody else
    // could change, and whose manifest says that it was made with tcw-abi, whose constructor does nothing.
    let opened = unsafe { Library::open(Some(stored), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) };
    let library = opened.map_err(|error| refusal(source, store, &error))?;
    let name = format!("{ROOT_SYMBOL}\0");
    // SAFETY: the symbol is only taken as an address here.
    let symbol: Result<Symbol<*const ()>, _> = unsafe { library.get(name.as_bytes()) };
    let symbol = symbol.map_err(|_| {
        LibraryError::new(
            source,
            "it has a tcw manifest but does not export the symbol of tcw-abi 1.x",
            "build it as a cdylib with tcw_abi::export_library!",
        )
    })?;
    // SAFETY: the library carries a manifest, was opened with RTLD_NODELETE, and the address is that of the symbol.
    let root = unsafe { Root::from_symbol(symbol.into_raw().cast_const()) };
    // Its handle is never closed either: see above.
    std::mem::forget(library);
    root.map_err(|error| {
        let remedy = match &error {
            RootError::Layout { report } => match keep_report(store, stored, report) {
                Some(path) => {
                    format!("get a build against a released tcw-abi; all differences are in {path}")
                }
                None => "get a build against a released tcw-abi".to_owned(),
            },
            RootError::Header(_) | RootError::Constructor(_) => {
                "get a build against a released tcw-abi 1.x from its vendor".to_owned()
            }
        };
        LibraryError::new(source, error.to_string(), remedy)
    })
}

/// The report of a layout check has hundreds of lines: it goes to a file.
fn keep_report(store: &Path, stored: &Path, report: &str) -> Option<String> {
    let hash = stored.parent()?.file_name()?.to_str()?;
    let path = store.join(format!("{hash}.layout.txt"));
    fs::write(&path, report).ok()?;
    Some(path.display().to_string())
}

fn refusal(source: &Path, store: &Path, error: &libloading::Error) -> LibraryError {
    let text = match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    };
    let remedy = if rustix::fs::statvfs(store)
        .is_ok_and(|file_system| file_system.f_flag.contains(rustix::fs::StatVfsMountFlags::NOEXEC))
    {
        format!(
            "{} is mounted noexec, so nothing there can be run: choose another state directory (--state-directory)",
            store.display()
        )
    } else {
        "install what it needs beside it or on this machine, or get another build".to_owned()
    };
    LibraryError::new(source, format!("it cannot be opened: {text}"), remedy)
}

/// Ends the process as it stands. An ordinary exit runs the destructors of all libraries, for which the system's loader
/// must be free: with a constructor that blocks it never is.
pub fn leave(status: u8) -> ! {
    unsafe extern "C" {
        safe fn _exit(status: c_int) -> !;
    }
    _exit(c_int::from(status))
}

/// The GLIBC that this process runs with; `None` with another C library.
pub(super) fn glibc_of_this_machine() -> Option<Version> {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            safe fn gnu_get_libc_version() -> *const std::os::raw::c_char;
        }
        // SAFETY: GLIBC answers a static string with a NUL at its end.
        let text = unsafe { std::ffi::CStr::from_ptr(gnu_get_libc_version()) };
        text.to_str().ok()?.parse().ok()
    }
    #[cfg(not(target_env = "gnu"))]
    None
}
