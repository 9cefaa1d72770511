//! What the process's allocator does with memory that was freed: the thin layer over `mallopt` and `malloc_trim`.
#![cfg_attr(
    all(target_os = "linux", target_env = "gnu"),
    expect(
        unsafe_code,
        reason = "a setting of the C library; the argument stands at the block"
    )
)]

/// A buffer of this many bytes or more goes back to the system when it is freed.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 1 << 20;

/// Call once, before there are threads. Left to itself, glibc takes the first large buffer that is freed as a sign that
/// more will come and keeps all later ones: after loading a few libraries an idle worker would hold megabytes that held
/// their files.
pub(crate) fn give_back_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: `mallopt` takes two numbers and changes how later allocations are served, not what they are. That it
    // refuses a value (0) leaves things as they were.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Call when much was freed that will not be needed again: after loading.
pub(crate) fn give_back_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes a number and the allocator's own locks, and touches only memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
