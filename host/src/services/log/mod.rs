//! A task's log: one pipe that the host makes, and what is read from it.
//!
//! Children of the task write into the pipe; nobody but the host writes the file, so a task can neither truncate nor
//! forge its log. A log is complete when every process of the task is dead and what they wrote has been read; it is
//! not complete at end-of-file alone, because anybody may keep the pipe open. So [`TaskLog::close`] reads what stands
//! in the pipe at that moment, which is all that the dead can have written, and closes it.
//!
//! Whoever needs the pipe to be empty up to now (a line of the worker's own, the close) empties it in its own thread,
//! under the one lock; in between, a task on the runtime does so whenever there is something. A log that grows large
//! moves to the threads for blocking work, because compressing would hold up the runtime; a small one never does.

mod line;
mod sink;

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::PipeFlags;
use tcw_abi::io::Handle;
use tcw_abi::services::{ClosedLog, LogLength, LogLevel, LogProgress, LogReader};
use tcw_abi::{Error, ErrorKind, Result};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::watch;

use self::sink::Sink;

/// The pipe's size, if the system grants it: a task then seldom has to wait for us.
const PIPE: usize = 1024 * 1024;
/// Bytes read at one time, at first.
const FIRST_READ: usize = 16 * 1024;
/// Bytes read at one time, once a read has filled the first buffer.
const FULL_READ: usize = 512 * 1024;
/// A log beyond this size leaves the runtime's own threads.
const LARGE: u64 = 256 * 1024;
/// Bytes that the runtime's own threads read before they look after others.
const TURN: usize = 128 * 1024;

/// Gets every byte of a log.
pub type Mirror = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// How logs are written.
#[derive(Clone)]
pub struct LogOptions {
    /// Whether it is compressed while it grows.
    pub compress: bool,
    /// gzip's level, 1 to 9.
    pub level: u32,
    /// Bytes of output that are kept.
    pub max_size: Option<u64>,
    /// Gets every byte as it arrives; must not block. For showing the log on a terminal.
    pub mirror: Option<Mirror>,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            compress: true,
            level: 2,
            max_size: None,
            mirror: None,
        }
    }
}

/// One task's log.
pub struct TaskLog {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Those who want the lock beside the one who empties the pipe, who lets them go first.
    waiting: AtomicUsize,
    large: AtomicBool,
    progress: watch::Sender<LogLength>,
}

struct State {
    /// `None` once the log is closed.
    pipe: Option<Pipe>,
    sink: Sink,
    buffer: Vec<u8>,
}

struct Pipe {
    read: Arc<Receiver>,
    write: OwnedFd,
}

/// Who reads. The runtime believes what it was last told about the pipe: only the one who waits for it there asks it.
#[derive(Clone, Copy)]
enum By {
    Anybody,
    Follower,
}

/// What one look into the pipe found.
#[derive(PartialEq, Eq)]
enum Found {
    Some(usize),
    Nothing,
    Closed,
}

impl TaskLog {
    /// A log whose files are in `directory`, which exists and is the host's alone. Needs a tokio runtime.
    pub fn new(directory: &Path, options: LogOptions) -> Result<Self> {
        let pipe = open_pipe().map_err(|error| {
            Error::new(
                ErrorKind::ResourceUnavailable,
                format!("no pipe for the task's log: {error}; raise the limit of open files (ulimit -n)"),
            )
        })?;
        let read = Arc::clone(&pipe.read);
        let (progress, _) = watch::channel(LogLength {
            length: 0,
            closed: false,
        });
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                pipe: Some(pipe),
                sink: Sink::new(directory, options),
                buffer: Vec::new(),
            }),
            waiting: AtomicUsize::new(0),
            large: AtomicBool::new(false),
            progress,
        });
        tokio::spawn(follow(Arc::clone(&shared), read));
        Ok(TaskLog { shared })
    }

    /// The write end, for a child process.
    pub fn handle(&self) -> Result<Handle> {
        let state = self.shared.lock();
        match &state.pipe {
            Some(pipe) => Ok(pipe.write.try_clone()?.into()),
            None => Err(closed()),
        }
    }

    /// A line of the worker's own, after everything that is in the pipe now.
    pub async fn line(&self, level: LogLevel, text: String) -> Result<()> {
        self.shared
            .with(move |state| {
                if state.pipe.is_none() {
                    return Err(closed());
                }
                state.empty_pipe();
                state.sink.line(level, &text);
                Ok(())
            })
            .await
    }

    /// The log as it grows.
    pub fn reader(&self) -> Result<LogReader> {
        let file = self.shared.lock().sink.reader()?;
        Ok(LogReader {
            file: file.into(),
            progress: Arc::new(Progress(self.shared.progress.subscribe())),
        })
    }

    /// Takes what is in the pipe and closes it. Closing again does nothing.
    pub async fn close(&self) {
        let done = self
            .shared
            .with(|state| {
                state.empty_pipe();
                // Whoever still holds the write end gets EPIPE from here on.
                state.pipe = None;
                state.sink.finish();
                state.buffer = Vec::new();
                Ok(())
            })
            .await;
        debug_assert!(done.is_ok());
        self.shared.progress.send_modify(|length| length.closed = true);
    }

    /// The whole log. `ContractViolation` before [`TaskLog::close`].
    pub async fn closed_log(&self) -> Result<ClosedLog> {
        self.shared
            .with(|state| {
                if state.pipe.is_some() {
                    return Err(Error::violation(
                        "the task's log is not closed yet: it can be had in `finished` and in `exception`",
                    ));
                }
                state.sink.closed()
            })
            .await
    }

    /// Why bytes are missing that the worker should have kept.
    pub fn failure(&self) -> Option<String> {
        self.shared.lock().sink.failure().map(str::to_owned)
    }
}

impl Drop for TaskLog {
    fn drop(&mut self) {
        // Ends the task that follows the pipe, also if nobody closed the log.
        self.shared.lock().pipe = None;
        self.shared.progress.send_modify(|length| length.closed = true);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.waiting.fetch_add(1, Ordering::AcqRel);
        let guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        guard
    }

    /// Does something with the state, and tells those who follow the log how far it has got.
    async fn with<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(self);
        let work = move || {
            let mut state = shared.lock();
            let outcome = work(&mut state);
            shared.tell(state);
            outcome
        };
        if !self.large.load(Ordering::Acquire) {
            return work();
        }
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::internal(format!("the task's log: {error}")))?
    }

    fn tell(&self, state: MutexGuard<'_, State>) {
        let now = state.sink.length();
        if now > LARGE {
            self.large.store(true, Ordering::Release);
        }
        // Under the lock, so that the length never goes back.
        self.progress.send_if_modified(|length| {
            let more = length.length < now;
            length.length = now;
            more
        });
    }

    /// One read, for the one who empties the pipe.
    fn step(&self, by: By) -> Found {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let found = state.read(by, usize::MAX);
        if matches!(found, Found::Some(_)) {
            self.tell(state);
        }
        found
    }

    /// Reads until there has been nothing for a moment.
    fn empty_for_a_while(&self, pipe: &Receiver) -> Found {
        let moment = Timespec {
            tv_sec: 0,
            tv_nsec: 5_000_000,
        };
        loop {
            while self.waiting.load(Ordering::Acquire) > 0 {
                std::thread::yield_now();
            }
            match self.step(By::Anybody) {
                Found::Some(_) => {}
                Found::Closed => return Found::Closed,
                Found::Nothing => {
                    let mut wanted = [PollFd::new(pipe, PollFlags::IN)];
                    if !matches!(poll(&mut wanted, Some(&moment)), Ok(1..)) {
                        return Found::Nothing;
                    }
                }
            }
        }
    }
}

impl State {
    /// One read of at most `most` bytes.
    fn read(&mut self, by: By, most: usize) -> Found {
        let Some(pipe) = &self.pipe else {
            return Found::Closed;
        };
        if self.buffer.capacity() == 0 {
            self.buffer.reserve_exact(FIRST_READ);
        }
        self.buffer.clear();
        loop {
            let read = match by {
                By::Anybody => rustix::io::read(pipe.read.as_ref(), spare_capacity(&mut self.buffer))
                    .map_err(io::Error::from),
                By::Follower => pipe.read.try_read_buf(&mut self.buffer),
            };
            match read {
                Ok(0) => return Found::Closed,
                Ok(length) => {
                    self.sink.output(&self.buffer[..length]);
                    if length == self.buffer.capacity() && length < FULL_READ && length < most {
                        self.buffer = Vec::with_capacity(FULL_READ);
                    }
                    return Found::Some(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // A pipe of our own has no other error than that there is nothing.
                Err(_) => return Found::Nothing,
            }
        }
    }

    /// Reads what is in the pipe now; not what somebody goes on adding meanwhile.
    fn empty_pipe(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let mut left = rustix::io::ioctl_fionread(pipe.read.as_ref()).unwrap_or(0);
        while left > 0 {
            match self.read(By::Anybody, usize::try_from(left).unwrap_or(usize::MAX)) {
                Found::Some(length) => left = left.saturating_sub(length as u64),
                Found::Nothing | Found::Closed => return,
            }
        }
    }
}

/// Empties the pipe whenever there is something in it, until the log is closed.
async fn follow(shared: Arc<Shared>, pipe: Arc<Receiver>) {
    let mut progress = shared.progress.subscribe();
    loop {
        let ready = tokio::select! {
            ready = pipe.readable() => ready,
            _ = progress.wait_for(|length| length.closed) => return,
        };
        if ready.is_err() {
            return;
        }
        let mut turn = 0;
        while turn < TURN {
            match shared.step(By::Follower) {
                Found::Some(length) => turn += length,
                // The runtime wakes us when there is more.
                Found::Nothing => break,
                Found::Closed => return,
            }
        }
        if turn > 0 && shared.large.load(Ordering::Acquire) {
            let (shared, pipe) = (Arc::clone(&shared), Arc::clone(&pipe));
            let emptied = tokio::task::spawn_blocking(move || shared.empty_for_a_while(&pipe)).await;
            if !matches!(emptied, Ok(Found::Nothing)) {
                return;
            }
        }
    }
}

fn open_pipe() -> io::Result<Pipe> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    #[cfg(target_os = "linux")]
    if rustix::pipe::fcntl_setpipe_size(&write, PIPE).is_err() {
        tracing::debug!("the log's pipe keeps its default size: the user's pipe memory is used up");
    }
    Ok(Pipe {
        // Sets our side to O_NONBLOCK, and only ours: the task's own programs expect a pipe that blocks.
        read: Arc::new(Receiver::from_owned_fd(read)?),
        write,
    })
}

fn closed() -> Error {
    Error::violation("the task's log is closed: nothing is written after `stopped`")
}

struct Progress(watch::Receiver<LogLength>);

#[async_trait]
impl LogProgress for Progress {
    async fn wait(&self, offset: u64) -> Result<LogLength> {
        let mut progress = self.0.clone();
        let reached = progress
            .wait_for(|length| length.length > offset || length.closed)
            .await
            .map(|length| *length);
        // The sender is gone: the log was dropped, and what is there is all.
        Ok(reached.unwrap_or_else(|_| LogLength {
            closed: true,
            ..*self.0.borrow()
        }))
    }
}

#[cfg(test)]
mod tests;
