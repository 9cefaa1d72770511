//! Shells that know three commands, read as text from their input: `print-hello`, `exit-false` and `sleep`.

use std::sync::Arc;
use std::time::Duration;

use tcw_abi::engine::{Shell, TerminalSize};
use tcw_abi::{Error, ErrorKind, Result, async_trait};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::watch;

/// As long as `sleep` sleeps if nobody aborts it.
const SLEEP: Duration = Duration::from_secs(60);

/// Nobody needs more to name a command.
const LONGEST_COMMAND: u64 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    Exited(bool),
    Aborted,
}

pub(crate) struct MockShell {
    state: watch::Sender<State>,
}

/// Our ends of a shell's streams.
pub(crate) struct Streams {
    pub(crate) stdin: UnixStream,
    pub(crate) stdout: UnixStream,
    pub(crate) stderr: UnixStream,
}

impl MockShell {
    pub(crate) fn new() -> Arc<MockShell> {
        Arc::new(MockShell {
            state: watch::Sender::new(State::Running),
        })
    }

    /// Runs to its end, or until it or its sandbox is ended.
    pub(crate) async fn run(&self, streams: Streams, sandbox_ends: impl Future<Output = ()>) {
        let mut state = self.state.subscribe();
        let end = tokio::select! {
            biased;
            _ = state.wait_for(|state| *state != State::Running) => State::Aborted,
            () = sandbox_ends => State::Aborted,
            success = execute(streams) => State::Exited(success),
        };
        self.settle(end);
    }

    /// Answers whether it was running.
    fn settle(&self, end: State) -> bool {
        self.state.send_if_modified(|state| {
            let running = *state == State::Running;
            if running {
                *state = end;
            }
            running
        })
    }
}

/// The streams end with this function, so that their other sides see it.
async fn execute(mut streams: Streams) -> bool {
    let mut command = String::new();
    let mut limited = (&mut streams.stdin).take(LONGEST_COMMAND);
    if limited.read_to_string(&mut command).await.is_err() {
        return false;
    }
    match command.trim() {
        "print-hello" => {
            let out = streams.stdout.write_all(b"Hello World").await;
            let err = streams.stderr.write_all(b"No error!").await;
            out.and(err).is_ok()
        }
        "sleep" => {
            tokio::time::sleep(SLEEP).await;
            true
        }
        "exit-false" => false,
        unknown => {
            let text = format!("unknown command: {unknown}\n");
            // Whether anybody reads it or not, it is not a success.
            let _ = streams.stderr.write_all(text.as_bytes()).await;
            false
        }
    }
}

#[async_trait]
impl Shell for MockShell {
    async fn set_size(&self, _size: TerminalSize) -> Result<()> {
        Err(Error::unsupported("shells of the mock engine have no terminal"))
    }

    async fn abort(&self) -> Result<()> {
        self.settle(State::Aborted);
        match *self.state.borrow() {
            State::Aborted => Ok(()),
            _ => Err(Error::new(ErrorKind::ShellTerminated, "the shell has ended")),
        }
    }

    async fn wait(&self) -> Result<bool> {
        let mut state = self.state.subscribe();
        let state = state.wait_for(|state| *state != State::Running).await;
        match state.map(|state| *state) {
            Ok(State::Exited(success)) => Ok(success),
            _ => Err(Error::new(ErrorKind::ShellAborted, "the shell was aborted")),
        }
    }
}
