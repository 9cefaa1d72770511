//! Shells: processes beside a task's commands, on pipes or on a terminal.
//!
//! Of a terminal the caller gets the one side; the engine keeps the *other* one, to set the size. So closing the
//! caller's side hangs up, as closing a terminal window does, and the caller sees the end when the last process has
//! closed the terminal.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use tcw_abi::engine::{OpenShell, Shell, ShellRequest, ShellStreams, TerminalSize};
use tcw_abi::runtime::{self, blocking, spawn};
use tcw_abi::{Error, ErrorKind, Result, async_trait};
use tokio::sync::watch;

use crate::command::{self, LaunchError};
use crate::environment::Variables;
use crate::sandbox::{Core, Phase, StartError, aborted, terminated};
use crate::spawn::Streams;

/// How long a shell's processes may take to die after they were killed.
const DEATH: Duration = Duration::from_secs(10);

/// What terminals are taken for, unless the request says.
const TERMINAL: &str = "xterm-256color";

/// What runs if nothing is asked for.
pub(crate) fn default_shell() -> Vec<String> {
    let bash = "/bin/bash";
    let shell = if std::path::Path::new(bash).exists() {
        bash
    } else {
        "/bin/sh"
    };
    vec![shell.to_owned()]
}

/// The child's side of the streams.
enum Inner {
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Terminal {
        path: CString,
        /// Never read: it sets the size, and keeps the terminal there until the child has opened it.
        other_side: OwnedFd,
    },
}

/// Starts a shell in the task's directory and environment.
pub(crate) async fn open(core: &Arc<Core>, request: ShellRequest) -> Result<OpenShell> {
    if request.size.is_some() && !request.tty {
        return Err(no_terminal());
    }
    let command = if request.command.is_empty() {
        default_shell()
    } else {
        request.command
    };
    let mut variables = core.variables.with(&request.environment)?;
    if request.tty {
        variables.or_default("TERM", TERMINAL);
    }
    let directory = match &request.working_directory {
        Some(path) => core.directory.path().join(path),
        None => core.directory.path().to_owned(),
    };
    let core = Arc::clone(core);
    let tty = request.tty;
    let size = request.size;
    // Nothing is left to do when this returns: the caller may have gone away meanwhile, and then what is returned here
    // is dropped, which ends the shell.
    blocking(move || {
        // Asked for before there is a process, because without it nobody could watch one.
        let runtime = runtime::handle()?;
        let (pid, streams, other_side) = start(&core, &command, &variables, directory, tty, size)
            .map_err(|error| explain(error, &core))?;
        let running = Arc::new(Running {
            core,
            pid,
            terminal: Mutex::new(other_side),
            tty,
            state: watch::Sender::new(State::default()),
        });
        runtime.spawn(Arc::clone(&running).watch());
        let shell = Arc::new(NativeShell(running));
        Ok(OpenShell { shell, streams })
    })
    .await
}

fn explain(error: OpenError, core: &Core) -> Error {
    match error {
        OpenError::Start(StartError::Closed) => match core.control.borrow().phase {
            Phase::Aborted => aborted(),
            _ => terminated(),
        },
        OpenError::Start(StartError::Launch(LaunchError::Task(reason))) => Error::new(
            ErrorKind::ResourceNotFound,
            format!("the shell cannot be started: {reason}"),
        ),
        OpenError::Start(StartError::Launch(LaunchError::Worker(error))) => {
            Error::internal(format!("the shell cannot be started: {error}"))
        }
        OpenError::Streams(error) => Error::internal(format!("the shell's streams cannot be made: {error}")),
    }
}

enum OpenError {
    Start(StartError),
    Streams(rustix::io::Errno),
}

impl From<rustix::io::Errno> for OpenError {
    fn from(error: rustix::io::Errno) -> Self {
        OpenError::Streams(error)
    }
}

type Started = (i32, ShellStreams, Option<OwnedFd>);

fn start(
    core: &Core,
    command: &[String],
    variables: &Variables,
    directory: PathBuf,
    tty: bool,
    size: Option<TerminalSize>,
) -> Result<Started, OpenError> {
    let (inner, outer) = if tty { terminal(size)? } else { pipes()? };
    let pid = core
        .launch(
            || {
                let streams = match &inner {
                    Inner::Pipes {
                        stdin,
                        stdout,
                        stderr,
                    } => Streams::Separate {
                        stdin: stdin.as_fd(),
                        stdout: stdout.as_fd(),
                        stderr: stderr.as_fd(),
                    },
                    Inner::Terminal { path, .. } => Streams::Terminal(path),
                };
                command::launch(command, variables, &directory, streams)
            },
            |_| core.shells.send_modify(|open| *open += 1),
        )
        .map_err(OpenError::Start)?;
    let other_side = match inner {
        Inner::Pipes { .. } => None,
        Inner::Terminal { other_side, .. } => Some(other_side),
    };
    Ok((pid, outer, other_side))
}

fn pipes() -> rustix::io::Result<(Inner, ShellStreams)> {
    let (stdin, to_stdin) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_stdout, stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (from_stderr, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((
        Inner::Pipes {
            stdin,
            stdout,
            stderr,
        },
        ShellStreams::Pipes {
            stdin: to_stdin.into(),
            stdout: from_stdout.into(),
            stderr: from_stderr.into(),
        },
    ))
}

fn terminal(size: Option<TerminalSize>) -> rustix::io::Result<(Inner, ShellStreams)> {
    let outer = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&outer)?;
    unlockpt(&outer)?;
    let path = ptsname(&outer, Vec::new())?;
    let other_side = rustix::fs::open(
        path.as_c_str(),
        OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    if let Some(size) = size {
        tcsetwinsize(&other_side, window(size))?;
    }
    Ok((
        Inner::Terminal { path, other_side },
        ShellStreams::Terminal(outer.into()),
    ))
}

fn window(size: TerminalSize) -> Winsize {
    Winsize {
        ws_row: size.rows,
        ws_col: size.columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn no_terminal() -> Error {
    Error::unsupported("this shell has no terminal, and so no size; ask for one with `tty`")
}

/// How a shell ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Exited { success: bool },
    Aborted,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// Somebody wants it to end.
    aborting: bool,
    end: Option<Result<End>>,
}

/// A shell's process, shared by who watches it and who has it.
struct Running {
    core: Arc<Core>,
    pid: i32,
    terminal: Mutex<Option<OwnedFd>>,
    tty: bool,
    state: watch::Sender<State>,
}

impl Running {
    /// Waits for the end and tells everybody.
    async fn watch(self: Arc<Self>) {
        let exit = command::exited(self.pid).await;
        let ordered = self.core.order().is_some();
        self.state.send_modify(|state| {
            state.end = Some(exit.map(|exit| {
                if state.aborting || ordered {
                    End::Aborted
                } else {
                    End::Exited {
                        success: exit.success(),
                    }
                }
            }));
        });
        // The caller sees the end of a terminal only if nobody here holds it.
        *self.terminal.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let core = Arc::clone(&self.core);
        let pid = self.pid;
        let retire = move || {
            core.retire(pid);
            Ok(())
        };
        let retired = self.core.background.reap(retire).await;
        if let Err(error) = retired {
            tracing::warn!(%error, "a shell's process number is kept until its task ends");
        }
        self.core.shells.send_modify(|open| *open -= 1);
    }

    /// Whether it has not ended by itself, and so is ended now by those who say so.
    fn give_up(&self) -> bool {
        let mut by_itself = false;
        self.state.send_if_modified(|state| {
            by_itself = matches!(&state.end, Some(end) if !matches!(end, Ok(End::Aborted)));
            state.aborting = true;
            false
        });
        !by_itself
    }

    /// Ends every process of its session.
    async fn end_processes(&self) -> Result<()> {
        let core = Arc::clone(&self.core);
        let pid = self.pid;
        let end = move || Ok(core.tree().end_session(pid, DEATH)?);
        let stuck = self.core.background.reap(end).await?;
        if !stuck.is_empty() {
            return Err(Error::internal(format!(
                "processes of the shell could not be ended: {}",
                stuck.join(", ")
            )));
        }
        Ok(())
    }

    async fn end(&self) -> Result<End> {
        let mut state = self.state.subscribe();
        let state = state
            .wait_for(|state| state.end.is_some())
            .await
            .map_err(|_| Error::internal("the shell is gone"))?;
        state
            .end
            .clone()
            .unwrap_or_else(|| Err(Error::internal("the shell has no end")))
    }
}

/// What the caller has. Nobody can reach the shell any more when it is dropped, so it ends then.
struct NativeShell(Arc<Running>);

impl Drop for NativeShell {
    fn drop(&mut self) {
        let running = Arc::clone(&self.0);
        if running.state.borrow().end.is_some() || !running.give_up() {
            return;
        }
        // Without a runtime the process is ending, and the next start ends what is left of the task.
        let _ = spawn(async move {
            if let Err(error) = running.end_processes().await {
                tracing::warn!(%error, "a shell that nobody has goes on until its task ends");
            }
        });
    }
}

fn ended() -> Error {
    Error::new(ErrorKind::ShellTerminated, "the shell has ended")
}

#[async_trait]
impl Shell for NativeShell {
    async fn set_size(&self, size: TerminalSize) -> Result<()> {
        if !self.0.tty {
            return Err(no_terminal());
        }
        match &*self.0.terminal.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(terminal) => tcsetwinsize(terminal, window(size))
                .map_err(|error| Error::internal(format!("the terminal's size cannot be set: {error}"))),
            None => Err(ended()),
        }
    }

    async fn abort(&self) -> Result<()> {
        if !self.0.give_up() {
            return Err(ended());
        }
        self.0.end_processes().await?;
        self.0.end().await.map(drop)
    }

    async fn wait(&self) -> Result<bool> {
        match self.0.end().await? {
            End::Exited { success } => Ok(success),
            End::Aborted => Err(Error::new(ErrorKind::ShellAborted, "the shell was aborted")),
        }
    }
}
