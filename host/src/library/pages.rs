//! Giving back what only loading needed of a library: the thin layer over `dl_iterate_phdr` and `madvise`.
#![expect(
    unsafe_code,
    reason = "what is mapped where is known to the dynamic linker; the arguments stand at the blocks"
)]

use std::ffi::{CStr, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// Of the ELF specification; the libc crate does not name them.
const DT_TEXTREL: u64 = 22;
const DT_FLAGS: u64 = 30;
const DF_TEXTREL: u64 = 4;

/// Lets go of the pages of an opened library that nobody writes and nobody executes: relocations, tables for unwinding,
/// constants. Loading has read them all; of most of them, nobody will ask again, and what is asked for comes back from
/// the file, which is in the store and never changes. For twenty libraries that is some megabytes of an idle worker.
pub(super) fn give_back(library: &Path) {
    let mut wanted = library;
    // SAFETY: the callback gets `wanted`, which outlives the call, as the type that it is.
    unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut wanted).cast()) };
}

unsafe extern "C" fn visit(
    object: *mut libc::dl_phdr_info,
    _size: usize,
    wanted: *mut c_void,
) -> libc::c_int {
    // SAFETY: the dynamic linker describes an object that is loaded, for as long as this call lasts, and holds a lock
    // against changes; `wanted` is what `give_back` passed.
    let (object, wanted, headers) = unsafe {
        let object = &*object;
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum));
        (object, *wanted.cast::<&Path>(), headers)
    };
    if object.dlpi_name.is_null() {
        return 0;
    }
    // SAFETY: a string of the dynamic linker's that ends in a null byte and lives as long as the object is loaded.
    let name = unsafe { CStr::from_ptr(object.dlpi_name) };
    if name.to_bytes() != wanted.as_os_str().as_bytes() {
        return 0;
    }
    // SAFETY: the headers are this object's.
    if unsafe { has_text_relocations(object, headers) } {
        return 1;
    }
    let page = rustix::param::page_size();
    for header in headers {
        if header.p_type == libc::PT_LOAD && header.p_flags == libc::PF_R {
            let start = object.dlpi_addr as usize + header.p_vaddr as usize;
            let end = start + header.p_memsz as usize;
            // Whole pages of its own.
            let (start, end) = (start.next_multiple_of(page), end & !(page - 1));
            if start < end {
                // SAFETY: the range is of a mapping of this library that is never unmapped and, without relocations in
                // it, was never writable, so there is nothing in it but the file's own bytes: they are read again when
                // they are touched. That it is refused changes nothing.
                unsafe { libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED) };
            }
        }
    }
    1
}

/// Whether the linker has written into segments that are not writable, as old toolchains want it.
///
/// # Safety
///
/// `headers` are of `object`, which is loaded.
unsafe fn has_text_relocations(object: &libc::dl_phdr_info, headers: &[libc::Elf64_Phdr]) -> bool {
    let Some(dynamic) = headers.iter().find(|header| header.p_type == libc::PT_DYNAMIC) else {
        return true;
    };
    let start = (object.dlpi_addr as usize + dynamic.p_vaddr as usize) as *const [u64; 2];
    let count = dynamic.p_memsz as usize / size_of::<[u64; 2]>();
    // SAFETY: the dynamic section of a loaded object is mapped, aligned, and an array of pairs of words.
    let entries = unsafe { std::slice::from_raw_parts(start, count) };
    entries
        .iter()
        .take_while(|[tag, _]| *tag != 0)
        .any(|[tag, value]| match *tag {
            DT_TEXTREL => true,
            DT_FLAGS => value & DF_TEXTREL != 0,
            _ => false,
        })
}
