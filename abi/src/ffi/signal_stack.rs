//! An alternate signal stack for each thread of a library's runtime.
//!
//! Rust gives one to the threads of a program, but not to those that a library starts. Without it nothing can run any
//! more on a thread whose stack has overflowed, so the host could not write down which library that was.

#[cfg(target_os = "linux")]
pub(crate) use linux::give;

/// Elsewhere nobody asks for it.
#[cfg(not(target_os = "linux"))]
pub(crate) fn give() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::cell::OnceCell;
    use std::ffi::c_void;
    use std::ptr;

    /// The entry of the auxiliary vector with the least size of a signal stack, which the libc crate does not name.
    const AT_MINSIGSTKSZ: libc::c_ulong = 51;

    /// For the handler, beyond what the kernel puts there.
    const ROOM: usize = 32 << 10;

    thread_local! {
        static STACK: OnceCell<Stack> = const { OnceCell::new() };
    }

    /// Gives this thread its stack until it ends, unless it has one. Where there is no memory for it, it has none.
    pub(crate) fn give() {
        // A thread that is ending needs none.
        let _ = STACK.try_with(|stack| {
            if stack.get().is_none() {
                Stack::install().map(|made| stack.set(made));
            }
        });
    }

    /// Mapped memory that the kernel knows as this thread's signal stack.
    struct Stack {
        start: *mut c_void,
        length: usize,
    }

    impl Stack {
        fn install() -> Option<Stack> {
            // SAFETY: the calls read and write this frame's variables; the mapping is new, and is given to the kernel as a
            // stack only after it was made. It is unmapped by `drop` alone, which takes it back from the kernel before.
            unsafe {
                let mut present = empty();
                if libc::sigaltstack(ptr::null(), &raw mut present) != 0
                    || present.ss_flags & libc::SS_DISABLE == 0
                {
                    return None;
                }
                // What the kernel saves depends on the processor: with wide registers it is more than a few pages.
                let saved = usize::try_from(libc::getauxval(AT_MINSIGSTKSZ)).unwrap_or(0);
                let length = (saved.max(libc::MINSIGSTKSZ) + ROOM).next_multiple_of(4096);
                let start = libc::mmap(
                    ptr::null_mut(),
                    length,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                    -1,
                    0,
                );
                if start == libc::MAP_FAILED {
                    return None;
                }
                let stack = Stack { start, length };
                let given = libc::stack_t {
                    ss_sp: start,
                    ss_flags: 0,
                    ss_size: length,
                };
                // On failure the memory is given back by `drop`.
                (libc::sigaltstack(&raw const given, ptr::null_mut()) == 0).then_some(stack)
            }
        }
    }

    impl Drop for Stack {
        fn drop(&mut self) {
            let none = libc::stack_t {
                ss_flags: libc::SS_DISABLE,
                ..empty()
            };
            // SAFETY: this runs on the thread that the stack was given to (a thread-local value), outside of any handler.
            // Once the kernel does not use it any more, the mapping, which is this value's own, can go.
            unsafe {
                if libc::sigaltstack(&raw const none, ptr::null_mut()) == 0 {
                    libc::munmap(self.start, self.length);
                }
            }
        }
    }

    fn empty() -> libc::stack_t {
        libc::stack_t {
            ss_sp: ptr::null_mut(),
            ss_flags: 0,
            ss_size: 0,
        }
    }
}
