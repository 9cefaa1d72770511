//! The handlers: of the signals of a crash, and of an `exit` that the host did not ask for.
//!
//! Everything here that runs in a handler is async-signal-safe: atomics, system calls, and stack of a kilobyte or two.
//! After the record is written the crash takes its course, with the core dump and the exit status that it would have had.
#![expect(unsafe_code, reason = "handlers of signals exist only as C functions")]

use std::ffi::{c_int, c_void};
use std::fs::OpenOptions;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::IntoRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use super::line::Line;
use super::stack;
use super::text::{self, Who};

const SIGNALS: [(c_int, &[u8]); 5] = [
    (libc::SIGSEGV, b"SIGSEGV"),
    (libc::SIGBUS, b"SIGBUS"),
    (libc::SIGILL, b"SIGILL"),
    (libc::SIGFPE, b"SIGFPE"),
    (libc::SIGABRT, b"SIGABRT"),
];

/// `si_code` of a signal by `kill` and by `tgkill`. The kernel lets nobody else pretend to these two, nor to its own,
/// which are positive.
const SI_USER: c_int = 0;
const SI_TKILL: c_int = -6;

/// What the handlers need; never freed.
struct Armed {
    file: c_int,
    pipe: (c_int, c_int),
    /// Children of a fork have the handlers, too, and are not the worker.
    process: c_int,
    previous: [libc::sigaction; SIGNALS.len()],
}

static ARMED: AtomicPtr<Armed> = AtomicPtr::new(ptr::null_mut());
static LEAVING: AtomicBool = AtomicBool::new(false);
/// The first crash is the one that counts.
static TAKEN: AtomicBool = AtomicBool::new(false);
static WRITTEN: AtomicBool = AtomicBool::new(false);

/// Opens the file and installs the handlers. The second call in a process only opens another file.
pub(super) fn arm(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?
        .into_raw_fd();
    let mut pipe = [0; 2];
    // SAFETY: there is room for two descriptors.
    if unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let earlier = armed();
    let armed = Box::leak(Box::new(Armed {
        file,
        pipe: (pipe[0], pipe[1]),
        process: process(),
        // SAFETY: zeros are a valid action: the default one.
        previous: earlier.map_or_else(
            || unsafe { MaybeUninit::zeroed().assume_init() },
            |armed| armed.previous,
        ),
    }));
    if earlier.is_none() {
        text::register_host(Who::host());
        // What applied before is known before the handler can be called: it asks for it.
        for ((signal, _), previous) in SIGNALS.iter().zip(&mut armed.previous) {
            // SAFETY: it is only asked for.
            unsafe { libc::sigaction(*signal, ptr::null(), previous) };
        }
    }
    ARMED.store(armed, Ordering::Release);
    if earlier.is_none() {
        install()?;
    }
    Ok(())
}

fn install() -> io::Result<()> {
    for (signal, _) in SIGNALS {
        // SAFETY: zeros are a valid action, and the handler has the signature that SA_SIGINFO asks for.
        let installed = unsafe {
            let mut action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigaction(signal, &raw const action, ptr::null_mut())
        };
        if installed != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: the function lives as long as the program.
    #[cfg(target_env = "gnu")]
    let refused = unsafe { on_exit(exiting_with, ptr::null_mut()) };
    // SAFETY: the same.
    #[cfg(not(target_env = "gnu"))]
    let refused = unsafe { libc::atexit(exiting) };
    if refused != 0 {
        return Err(io::Error::other(
            "the system takes no more functions for its exit",
        ));
    }
    Ok(())
}

pub(super) fn leaving() {
    LEAVING.store(true, Ordering::Release);
}

fn armed() -> Option<&'static Armed> {
    // SAFETY: only pointers to leaked values are stored, or null.
    unsafe { ARMED.load(Ordering::Acquire).as_ref() }
}

fn process() -> c_int {
    // SAFETY: it takes nothing and cannot fail.
    unsafe { libc::getpid() }
}

extern "C" fn on_signal(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(armed) = armed() else { return };
    // SAFETY: the kernel hands over a description of the signal.
    let (code, sender) = unsafe { ((*info).si_code, (*info).si_pid()) };
    let raised = matches!(code, SI_USER | SI_TKILL) && sender == armed.process;
    let of_the_processor = code > 0;
    if (raised || of_the_processor) && armed.process == process() && !LEAVING.load(Ordering::Acquire) {
        let (instruction, stack_pointer) = registers(context);
        let how = SIGNALS
            .iter()
            .find(|(number, _)| *number == signal)
            .map_or(&b"?"[..], |(_, name)| name);
        write_once(armed, how, || {
            let at = text::owner(instruction).map(|(who, _)| who);
            // The frames of a library that is only just being loaded are not known yet.
            at.or_else(text::loading_here)
                .or_else(|| stack::innermost(stack_pointer, armed.pipe, |_| true))
        });
    }
    let place = SIGNALS.iter().position(|(number, _)| *number == signal);
    let previous = place.map(|place| &armed.previous[place]);
    match previous {
        // That of Rust's runtime, which tells a stack overflow of the host's own threads. Of a signal from outside it
        // would know nothing to do.
        Some(previous) if of_the_processor && is_function(previous) => {
            // SAFETY: it was installed with SA_SIGINFO, so this is its signature, and it gets what we got.
            unsafe {
                let function: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) =
                    std::mem::transmute(previous.sa_sigaction);
                function(signal, info, context);
            }
        }
        _ => {
            // SAFETY: the default action is a valid one. A crash is repeated by the instruction that made it, once the
            // handler has returned; any other signal is sent again, and arrives then.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                if !of_the_processor {
                    libc::raise(signal);
                }
            }
        }
    }
}

fn is_function(action: &libc::sigaction) -> bool {
    action.sa_sigaction != libc::SIG_DFL
        && action.sa_sigaction != libc::SIG_IGN
        && action.sa_flags & libc::SA_SIGINFO != 0
}

#[cfg(target_env = "gnu")]
unsafe extern "C" {
    /// `atexit` of GLIBC, with the status.
    fn on_exit(function: extern "C" fn(c_int, *mut c_void), argument: *mut c_void) -> c_int;
}

#[cfg(target_env = "gnu")]
extern "C" fn exiting_with(status: c_int, _argument: *mut c_void) {
    exiting();
    // Destructors of libraries come next. They would wait for a constructor that does not return, because the system's
    // loader is locked meanwhile; and there is nothing left to do for a host that leaves in the middle of loading.
    if LEAVING.load(Ordering::Acquire) && text::is_loading() {
        // SAFETY: it does not return, and runs no code of ours.
        unsafe { libc::_exit(status) };
    }
}

/// Whoever calls `exit` here is a library: the host says when it leaves.
extern "C" fn exiting() {
    let Some(armed) = armed() else { return };
    if LEAVING.load(Ordering::Acquire) || armed.process != process() {
        return;
    }
    let here = 0_usize;
    let stack_pointer = (&raw const here) as usize;
    write_once(armed, b"exit", || {
        text::loading_here().or_else(|| stack::innermost(stack_pointer, armed.pipe, |who| !who.is_host))
    });
}

/// Instruction and stack pointer at the time of the signal; zeros where it is not known how to get them.
fn registers(context: *mut c_void) -> (usize, usize) {
    let context: *const libc::ucontext_t = context.cast_const().cast();
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the kernel hands over the context of the signal.
        let registers = unsafe { &(*context).uc_mcontext.gregs };
        let register = |name: c_int| registers[name as usize] as usize;
        (register(libc::REG_RIP), register(libc::REG_RSP))
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: the kernel hands over the context of the signal.
        let machine = unsafe { &(*context).uc_mcontext };
        (machine.pc as usize, machine.sp as usize)
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        let _ = context;
        (0, 0)
    }
}

/// Writes the record, unless another crash was first: then it waits until that is written, because what follows would
/// end the process in the middle of it.
fn write_once(armed: &Armed, how: &[u8], by_code: impl FnOnce() -> Option<&'static Who>) {
    if TAKEN.swap(true, Ordering::AcqRel) {
        for _ in 0..1000 {
            if WRITTEN.load(Ordering::Acquire) {
                return;
            }
            let pause = libc::timespec {
                tv_sec: 0,
                tv_nsec: 1_000_000,
            };
            // SAFETY: it reads the time and writes nothing.
            unsafe { libc::nanosleep(&raw const pause, ptr::null_mut()) };
        }
        return;
    }
    let mut name = [0_u8; 16];
    // SAFETY: the kernel writes at most 16 bytes, with a NUL at the end.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    let length = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    let name = &name[..length];
    let who = by_code();
    let mut head = Line::<256>::new();
    head.push(b"{\"how\":\"");
    head.push(how);
    head.push(b"\",\"thread\":\"");
    head.push_name(name);
    head.push(b"\",\"at\":");
    head.push_number(now());
    head.push(b",\"culprit\":");
    let culprit = who.map_or(&b"\"unknown\""[..], |who| who.json.as_bytes());
    write(armed.file, [head.bytes(), culprit, b"}\n"]);
    WRITTEN.store(true, Ordering::Release);
    let mut words = Line::<64>::new();
    words.push(b": ");
    words.push(how);
    words.push(b" in thread ");
    words.push_name(name);
    words.push(b"\n");
    let culprit = who.map_or(&b"code of which nothing is known"[..], |who| who.words.as_bytes());
    if takes_more(libc::STDERR_FILENO) {
        write(
            libc::STDERR_FILENO,
            [b"tcw-host: crash in ", culprit, words.bytes()],
        );
    }
}

/// A pipe that nobody reads any more must not keep the process.
fn takes_more(file: c_int) -> bool {
    let mut wanted = libc::pollfd {
        fd: file,
        events: libc::POLLOUT,
        revents: 0,
    };
    // SAFETY: there is one entry.
    unsafe { libc::poll(&raw mut wanted, 1, 0) == 1 && wanted.revents & libc::POLLOUT != 0 }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: there is room for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000
}

/// In one call, so that nothing comes between; there is nobody to be told of an error.
fn write<const PIECES: usize>(file: c_int, pieces: [&[u8]; PIECES]) {
    let pieces = pieces.map(|piece| libc::iovec {
        iov_base: piece.as_ptr().cast_mut().cast(),
        iov_len: piece.len(),
    });
    // SAFETY: the pieces are valid for reading; `writev` does not write to them.
    unsafe { libc::writev(file, pieces.as_ptr(), PIECES as c_int) };
}
