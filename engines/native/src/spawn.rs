//! Starting a process and asking how it ended: the thin layer over the C library.
//!
//! `posix_spawn` instead of fork and exec, because a fork copies the page tables of a worker that may hold hundreds of
//! megabytes, and because it needs no code of ours between the two. What a child gets is complete in one place:
//!
//! - a session of its own, so that the worker's terminal is out of its reach and its processes can be told apart;
//! - the three descriptors it is given, and not one more;
//! - default signal dispositions and nothing blocked (a Rust program ignores SIGPIPE, which a child would inherit).
//!
//! How a process ended is *peeked at*: it stays a zombie until [`reap`], so its number, which is also the number of
//! its session, is not given to anybody else while its descendants are being looked for.
#![expect(
    unsafe_code,
    reason = "posix_spawn and waitid with resource usage exist only as C functions"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The three standard streams of a child.
pub(crate) enum Streams<'a> {
    /// No input; output and errors go to one place.
    Log(BorrowedFd<'a>),
    /// One for each.
    Separate {
        stdin: BorrowedFd<'a>,
        stdout: BorrowedFd<'a>,
        stderr: BorrowedFd<'a>,
    },
    /// All on the terminal with this path, which becomes the child's controlling terminal.
    Terminal(&'a CStr),
}

/// What is started.
pub(crate) struct Launch<'a> {
    /// Absolute, or relative to the directory.
    pub(crate) program: &'a CStr,
    /// With the program's name first.
    pub(crate) arguments: &'a [CString],
    /// `NAME=value`: all there is.
    pub(crate) environment: &'a [CString],
    pub(crate) directory: &'a CStr,
    pub(crate) streams: Streams<'a>,
}

/// How a process ended, and what it and the children that it waited for used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) user: Duration,
    pub(crate) system: Duration,
    /// Bytes.
    pub(crate) peak_memory: u64,
}

impl Exit {
    pub(crate) fn success(&self) -> bool {
        self.code == Some(0)
    }
}

/// Calls of `posix_spawn*` answer the error number.
fn check(code: libc::c_int) -> io::Result<()> {
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> io::Result<Self> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: the function initialises what it is given a valid pointer to; it is used only if it says so.
        unsafe {
            check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
            Ok(Actions(actions.assume_init()))
        }
    }

    fn dup2(&mut self, from: libc::c_int, to: libc::c_int) -> io::Result<()> {
        // SAFETY: `self.0` is initialised; the descriptors are plain numbers here.
        check(unsafe { libc::posix_spawn_file_actions_adddup2(&mut self.0, from, to) })
    }

    fn open(&mut self, to: libc::c_int, path: &CStr, flags: libc::c_int) -> io::Result<()> {
        // SAFETY: `self.0` is initialised; the function copies the path, which ends in NUL.
        check(unsafe { libc::posix_spawn_file_actions_addopen(&mut self.0, to, path.as_ptr(), flags, 0) })
    }

    fn change_directory(&mut self, path: &CStr) -> io::Result<()> {
        // SAFETY: as in `open`.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&mut self.0, path.as_ptr()) })
    }

    fn close_from(&mut self, first: libc::c_int) -> io::Result<()> {
        // SAFETY: `self.0` is initialised.
        check(unsafe { libc::posix_spawn_file_actions_addclosefrom_np(&mut self.0, first) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: `self.0` is initialised and not used afterwards.
        unsafe { libc::posix_spawn_file_actions_destroy(&mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    /// A session of its own, all signals at their defaults, none blocked.
    fn new() -> io::Result<Self> {
        let mut attributes = MaybeUninit::uninit();
        let mut all = MaybeUninit::uninit();
        let mut none = MaybeUninit::uninit();
        // SAFETY: every function initialises, or copies from, what it is given a valid pointer to; the attributes are
        // used only once their initialisation has said that it worked, and are destroyed by `Drop` from then on.
        unsafe {
            check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
            let mut attributes = Attributes(attributes.assume_init());
            libc::sigfillset(all.as_mut_ptr());
            libc::sigemptyset(none.as_mut_ptr());
            let flags = libc::c_int::from(libc::POSIX_SPAWN_SETSID)
                | libc::POSIX_SPAWN_SETSIGDEF
                | libc::POSIX_SPAWN_SETSIGMASK;
            check(libc::posix_spawnattr_setsigdefault(
                &mut attributes.0,
                all.as_ptr(),
            ))?;
            check(libc::posix_spawnattr_setsigmask(&mut attributes.0, none.as_ptr()))?;
            check(libc::posix_spawnattr_setflags(
                &mut attributes.0,
                flags as libc::c_short,
            ))?;
            Ok(attributes)
        }
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: `self.0` is initialised and not used afterwards.
        unsafe { libc::posix_spawnattr_destroy(&mut self.0) };
    }
}

/// Starts a process and answers its number, which is also that of its session. The error is that of the failed
/// step, `exec` included.
pub(crate) fn spawn(launch: &Launch<'_>) -> io::Result<i32> {
    let mut actions = Actions::new()?;
    // Copies that stand above the standard streams, for as long as the call: a worker that was started with closed
    // streams may have got one of their numbers for a pipe, and `dup2` would then overwrite it.
    let mut moved: Vec<OwnedFd> = Vec::new();
    let mut above = |fd: BorrowedFd<'_>| -> io::Result<libc::c_int> {
        if fd.as_raw_fd() > libc::STDERR_FILENO {
            return Ok(fd.as_raw_fd());
        }
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, libc::STDERR_FILENO + 1)?;
        let number = copy.as_raw_fd();
        moved.push(copy);
        Ok(number)
    };
    match &launch.streams {
        Streams::Log(log) => {
            let log = above(*log)?;
            actions.open(0, c"/dev/null", libc::O_RDONLY)?;
            actions.dup2(log, 1)?;
            actions.dup2(log, 2)?;
        }
        Streams::Separate {
            stdin,
            stdout,
            stderr,
        } => {
            let (stdin, stdout, stderr) = (above(*stdin)?, above(*stdout)?, above(*stderr)?);
            actions.dup2(stdin, 0)?;
            actions.dup2(stdout, 1)?;
            actions.dup2(stderr, 2)?;
        }
        Streams::Terminal(path) => {
            // The leader of a new session that opens a terminal gets it as its controlling terminal.
            actions.open(0, path, libc::O_RDWR)?;
            actions.dup2(0, 1)?;
            actions.dup2(0, 2)?;
        }
    }
    actions.close_from(libc::STDERR_FILENO + 1)?;
    actions.change_directory(launch.directory)?;
    let attributes = Attributes::new()?;

    let arguments = pointers(launch.arguments);
    let environment = pointers(launch.environment);
    let mut pid = 0;
    // SAFETY: all pointers are valid for the call: the strings are borrowed by `launch`, the arrays end in a null
    // pointer, actions and attributes are initialised. The C library does not write through the arrays, whose
    // pointers are `*mut` for historical reasons only.
    check(unsafe {
        libc::posix_spawn(
            &mut pid,
            launch.program.as_ptr(),
            &actions.0,
            &attributes.0,
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    })?;
    Ok(pid)
}

/// A descriptor that tells when it can be read.
pub(crate) fn watched(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the `OwnedFd` is owned by the registration, answers the same open descriptor every time, and is closed
    // only after it has been taken out of the reactor.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}

fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr().cast_mut())
        .chain([ptr::null_mut()])
        .collect()
}

/// How the child ended; `None` while it runs. It stays a zombie.
pub(crate) fn peek(pid: i32) -> io::Result<Option<Exit>> {
    let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the kernel writes both structures, whose sizes are those of the C library; zeroed, both are valid
    // already, since they are plain numbers. The library's own `waitid` has no parameter for the usage.
    let (info, usage) = unsafe {
        let code = libc::syscall(
            libc::SYS_waitid,
            libc::P_PID,
            pid,
            info.as_mut_ptr(),
            libc::WEXITED | libc::WNOHANG | libc::WNOWAIT,
            usage.as_mut_ptr(),
        );
        if code < 0 {
            return Err(io::Error::last_os_error());
        }
        (info.assume_init(), usage.assume_init())
    };
    // SAFETY: `waitid` fills the variant of the union that belongs to SIGCHLD, or leaves all of it zero.
    let (whose, status) = unsafe { (info.si_pid(), info.si_status()) };
    if whose == 0 {
        return Ok(None);
    }
    let exited = info.si_code == libc::CLD_EXITED;
    Ok(Some(Exit {
        code: exited.then_some(status),
        signal: (!exited).then_some(status),
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        peak_memory: u64::try_from(usage.ru_maxrss).unwrap_or(0) * 1024,
    }))
}

fn duration(time: libc::timeval) -> Duration {
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or(0),
        u32::try_from(time.tv_usec).unwrap_or(0).saturating_mul(1000),
    )
}

/// Gives the number of a child that has ended back to the system. Harmless for one that was reaped already.
pub(crate) fn reap(pid: i32) {
    // SAFETY: null pointers are allowed for both results.
    unsafe { libc::wait4(pid, ptr::null_mut(), libc::WNOHANG, ptr::null_mut()) };
}
