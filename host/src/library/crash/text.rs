//! Whose code stands where: the text of the host and of every library, in a table that a handler of signals can read.
//!
//! Entries are only ever added, and never change: libraries are not unloaded.
#![expect(
    unsafe_code,
    reason = "the system's list of loaded objects is made of C structures"
)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::{Culprit, Identity};

/// Whoever can be named, in the forms that the handler writes.
pub(super) struct Who {
    /// The `culprit` of a record.
    pub(super) json: String,
    /// For people.
    pub(super) words: String,
    pub(super) is_host: bool,
}

impl Who {
    /// Stays for the life of the process, as the library does.
    pub(super) fn of(identity: &Identity) -> &'static Who {
        Box::leak(Box::new(Who {
            json: json(&Culprit::Library(identity.clone())),
            words: format!("the library {identity}"),
            is_host: false,
        }))
    }

    pub(super) fn host() -> &'static Who {
        Box::leak(Box::new(Who {
            json: json(&Culprit::Host),
            words: "tcw-host itself".to_owned(),
            is_host: true,
        }))
    }
}

fn json(culprit: &Culprit) -> String {
    // It cannot fail: there are only strings in it. A path that is no text would.
    serde_json::to_string(culprit).unwrap_or_else(|_| "\"unknown\"".to_owned())
}

/// Some for each library (an executable segment each, and those of its companions), with room for many reloads.
const ENTRIES: usize = 1024;

struct Entry {
    start: AtomicUsize,
    end: AtomicUsize,
    who: AtomicPtr<Who>,
}

static TABLE: [Entry; ENTRIES] = [const {
    Entry {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        who: AtomicPtr::new(ptr::null_mut()),
    }
}; ENTRIES];

/// So many of them are complete.
static USED: AtomicUsize = AtomicUsize::new(0);
static WRITER: Mutex<()> = Mutex::new(());

/// The library whose constructors run, and the thread that runs them.
static LOADING: AtomicPtr<Who> = AtomicPtr::new(ptr::null_mut());
static LOADING_THREAD: AtomicI32 = AtomicI32::new(0);

pub(super) fn begin_loading(who: &'static Who) {
    LOADING_THREAD.store(thread_id(), Ordering::Release);
    LOADING.store(ptr::from_ref(who).cast_mut(), Ordering::Release);
}

pub(super) fn end_loading(who: &'static Who) {
    let loading = ptr::from_ref(who).cast_mut();
    // Where several are loaded at one time, as in tests, the last one counts.
    let _ = LOADING.compare_exchange(loading, ptr::null_mut(), Ordering::AcqRel, Ordering::Relaxed);
}

/// Whether the constructors of any library run.
#[cfg(target_env = "gnu")]
pub(super) fn is_loading() -> bool {
    !LOADING.load(Ordering::Acquire).is_null()
}

/// The library whose constructors this thread runs. Safe in a handler of signals.
pub(super) fn loading_here() -> Option<&'static Who> {
    let here = LOADING_THREAD.load(Ordering::Acquire) == thread_id();
    known(LOADING.load(Ordering::Acquire)).filter(|_| here)
}

fn thread_id() -> i32 {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

fn known(who: *const Who) -> Option<&'static Who> {
    // SAFETY: only pointers to leaked values are ever stored, or null.
    unsafe { who.as_ref() }
}

/// Whose code stands at this address, and where the segment begins. Safe in a handler of signals.
pub(super) fn owner(address: usize) -> Option<(&'static Who, usize)> {
    let used = USED.load(Ordering::Acquire);
    TABLE[..used].iter().find_map(|entry| {
        let start = entry.start.load(Ordering::Relaxed);
        if address < start || address >= entry.end.load(Ordering::Relaxed) {
            return None;
        }
        Some((known(entry.who.load(Ordering::Relaxed))?, start))
    })
}

/// Adds the text of the object at `stored`, and of its companions in the same directory.
pub(super) fn register(who: &'static Who, stored: &Path) {
    // The directory is named after the hash, so no other has this name.
    let directory = stored.parent().and_then(Path::file_name);
    add(who, &|path, _| {
        directory.is_some() && path.parent().and_then(Path::file_name) == directory
    });
}

/// Adds the text of the program itself.
pub(super) fn register_host(who: &'static Who) {
    let inside = register_host as *const () as usize;
    add(who, &|_, segments| {
        segments
            .iter()
            .any(|(start, end)| (*start..*end).contains(&inside))
    });
}

type Segments = Vec<(usize, usize)>;

fn add(who: &'static Who, is_meant: &dyn Fn(&Path, &Segments) -> bool) {
    let _one_at_a_time = WRITER.lock().unwrap_or_else(PoisonError::into_inner);
    for (path, segments) in objects() {
        if !is_meant(&path, &segments) {
            continue;
        }
        for (start, end) in segments {
            let used = USED.load(Ordering::Relaxed);
            // What finds no room is not attributed by its addresses.
            let Some(entry) = TABLE.get(used) else { return };
            entry.start.store(start, Ordering::Relaxed);
            entry.end.store(end, Ordering::Relaxed);
            entry.who.store(ptr::from_ref(who).cast_mut(), Ordering::Relaxed);
            USED.store(used + 1, Ordering::Release);
        }
    }
}

/// Every loaded object with its executable segments.
fn objects() -> Vec<(PathBuf, Segments)> {
    let mut objects: Vec<(PathBuf, Segments)> = Vec::new();
    // SAFETY: the callback gets the pointer to `objects`, which lives until the call is over.
    unsafe { libc::dl_iterate_phdr(Some(each), (&raw mut objects).cast()) };
    objects
}

unsafe extern "C" fn each(info: *mut libc::dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
    // SAFETY: the system hands over a description that is valid during the call, with `dlpi_phnum` headers, and `data`
    // as `objects` gave it. Nothing in here panics.
    let (info, objects) = unsafe { (&*info, &mut *data.cast::<Vec<(PathBuf, Segments)>>()) };
    let headers = if info.dlpi_phdr.is_null() {
        &[][..]
    } else {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) }
    };
    let segments = headers
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_X != 0)
        .map(|header| {
            // Addresses are as wide as this machine's pointers.
            let start = (info.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
            (start, start.wrapping_add(header.p_memsz as usize))
        })
        .collect();
    objects.push((path(info.dlpi_name), segments));
    0
}

/// The main program has an empty name.
fn path(name: *const c_char) -> PathBuf {
    if name.is_null() {
        return PathBuf::new();
    }
    // SAFETY: the system's names end with a NUL and live as long as the object.
    let name = unsafe { CStr::from_ptr(name) };
    PathBuf::from(std::ffi::OsStr::from_bytes(name.to_bytes()))
}
