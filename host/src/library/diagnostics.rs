//! Where a library's tracing events go: into the host's own, through a queue of bounded length.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tcw_abi::diagnostics::{Record, Sink, level_code};
use tokio::sync::mpsc::{self, Receiver, Sender};
use tracing::level_filters::LevelFilter;

/// Records that may wait; more are counted and dropped, so that a library that floods its log slows nobody.
const WAITING: usize = 8192;

/// The host's end of the tracing bridge.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    records: Sender<(Arc<str>, Record)>,
    dropped: Arc<AtomicU64>,
}

impl Diagnostics {
    /// Starts the task that writes the records down. Call it inside the host's runtime.
    pub fn start() -> Self {
        let (records, receiver) = mpsc::channel(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        tokio::spawn(write_down(receiver, Arc::clone(&dropped)));
        Diagnostics { records, dropped }
    }

    /// The highest level that the host wants, as it crosses the boundary.
    pub fn level(&self) -> u32 {
        LevelFilter::current().into_level().map_or(0, level_code)
    }

    pub(super) fn sink_for(&self, library: &str) -> Arc<dyn Sink> {
        Arc::new(Labelled {
            library: library.into(),
            to: self.clone(),
        })
    }
}

struct Labelled {
    library: Arc<str>,
    to: Diagnostics,
}

impl Sink for Labelled {
    fn record(&self, record: Record) {
        if self
            .to
            .records
            .try_send((Arc::clone(&self.library), record))
            .is_err()
        {
            self.to.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// More of one message is of no use to anybody who reads a log.
const LONGEST: usize = 8192;

/// What a library says is one line of the log, whatever it holds: it may repeat what a task has written.
fn one_line(message: &str) -> String {
    let mut line = String::with_capacity(message.len().min(LONGEST));
    for character in message.chars() {
        if line.len() >= LONGEST {
            line.push_str("... (cut)");
            break;
        }
        if character.is_control() {
            line.extend(character.escape_default());
        } else {
            line.push(character);
        }
    }
    line
}

async fn write_down(mut records: Receiver<(Arc<str>, Record)>, dropped: Arc<AtomicU64>) {
    while let Some((library, record)) = records.recv().await {
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            tracing::warn!(
                lost,
                "libraries logged faster than the host could write: some of their events are lost"
            );
        }
        let Record {
            level,
            target,
            message,
            fields,
        } = record;
        let message = one_line(&message);
        let fields = if fields.is_empty() {
            None
        } else {
            serde_json::to_string(&fields).ok()
        };
        let (library, fields) = (&*library, fields.as_deref());
        // The level of an event is a constant of the place that emits it.
        macro_rules! emit {
            ($level:ident) => {
                tracing::event!(target: "library", tracing::Level::$level, library, module = target, fields, "{message}")
            };
        }
        match level {
            0 | 1 => emit!(ERROR),
            2 => emit!(WARN),
            4 => emit!(DEBUG),
            5.. => emit!(TRACE),
            3 => emit!(INFO),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_of_bounded_length() {
        assert_eq!(one_line("a\nb\u{1b}[2Jc ä"), "a\\nb\\u{1b}[2Jc ä");
        let long = one_line(&"x".repeat(1 << 20));
        assert!(long.len() < LONGEST + 16 && long.ends_with("x... (cut)"));
    }
}
