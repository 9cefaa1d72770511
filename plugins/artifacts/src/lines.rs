//! Lines for the task log, written a few at a time: a line is a round trip to the host, and a folder may have
//! thousands of files.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tcw_abi::Result;
use tcw_abi::services::{LogLevel, TaskContext};
use tokio::sync::Notify;
use tokio::time::timeout;

/// How long a line waits for others. Nobody who watches a log sees it; a small task is done before.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Default)]
struct State {
    /// Lines of one level that follow each other are one message.
    pending: Vec<(LogLevel, String)>,
    closed: bool,
}

#[derive(Default)]
pub(crate) struct Lines {
    state: Mutex<State>,
    /// There is something to do.
    stirred: Notify,
    /// There will be nothing more.
    closed: Notify,
}

impl Lines {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, level: LogLevel, line: &str) {
        let mut state = self.state();
        match state.pending.last_mut() {
            Some((its_level, text)) if *its_level == level => {
                text.push('\n');
                text.push_str(line);
            }
            _ => state.pending.push((level, line.to_owned())),
        }
        drop(state);
        self.stirred.notify_one();
    }

    /// No line comes after this.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.closed.notify_one();
        self.stirred.notify_one();
    }

    /// Writes what comes until [`Lines::close`], in order. Not to be dropped half-way: it may hold lines.
    pub(crate) async fn write(&self, task: &Arc<dyn TaskContext>) -> Result<()> {
        loop {
            self.stirred.notified().await;
            if !self.state().closed {
                // Too early an end is as good as a late one.
                let _ = timeout(PATIENCE, self.closed.notified()).await;
            }
            let (messages, closed) = {
                let mut state = self.state();
                (mem::take(&mut state.pending), state.closed)
            };
            for (level, text) in messages {
                task.log_line(level, text).await?;
            }
            if closed {
                return Ok(());
            }
        }
    }
}
