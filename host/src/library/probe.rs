//! Opening a library for the first time, in a process that may be lost.
//!
//! Opening runs the library's constructors, before anything of the SDK stands around them: one that panics, exits or
//! crashes ends the process, and one that blocks holds the system's loader for ever. So a copy that was never opened on
//! this host is opened by a short-lived process first. What came through that is written down beside the copy, so that
//! a worker pays for it once for each library, not at each start.

use std::fs;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{LibraryError, open};

/// What the other process says when the library is open.
const OPENED: &[u8] = b"opened";

/// What of its last words is shown.
const LAST_WORDS: usize = 300;

/// How libraries are tried.
#[derive(Clone, Debug)]
pub struct Probe {
    /// The program and its first arguments; the library's path is the last one.
    pub command: Vec<PathBuf>,
    /// How long opening may take.
    pub bound: Duration,
}

impl Probe {
    /// With this very program, whose command line has a word for it.
    pub fn by_this_program(bound: Duration) -> Self {
        // On Linux this is the program even if its file was replaced meanwhile.
        let program = if cfg!(target_os = "linux") {
            Some(PathBuf::from("/proc/self/exe"))
        } else {
            std::env::current_exe().ok()
        };
        let command = program
            .into_iter()
            .chain(["library", "probe"].map(PathBuf::from))
            .collect();
        Probe { command, bound }
    }

    /// Opens `stored`, the copy of `source`, elsewhere, unless that was done before.
    pub(super) fn run(&self, source: &Path, stored: &Path, store: &Path) -> Result<(), LibraryError> {
        let passed = passed(stored, store);
        let host = env!("CARGO_PKG_VERSION");
        if fs::read_to_string(&passed).is_ok_and(|by| by == host) {
            return Ok(());
        }
        match self.open(stored) {
            Ok(None) => {
                if let Err(error) = fs::write(&passed, host) {
                    tracing::debug!(path = %passed.display(), %error, "the library will be tried again next time");
                }
                Ok(())
            }
            Ok(Some(found)) => Err(LibraryError::new(
                source,
                found,
                "get a build from its vendor that does nothing when it is opened",
            )),
            // Not the library's fault. Opening it here shows what it is like.
            Err(error) => {
                tracing::warn!(%error, library = %source.display(), "the library could not be tried in a process of its own");
                Ok(())
            }
        }
    }

    /// What is wrong with it.
    fn open(&self, stored: &Path) -> std::io::Result<Option<String>> {
        let Some((program, arguments)) = self.command.split_first() else {
            return Ok(None);
        };
        let mut words = last_words()?;
        let mut child = Command::new(program)
            .args(arguments)
            .arg(stored)
            // It ends with us: this is closed when we do.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(words.try_clone()?)
            .spawn()?;
        let opened = self.wait_for_word(&mut child);
        if opened != Some(false) {
            // It has said what it had to say, or will not.
            child.kill()?;
        }
        let status = child.wait()?;
        Ok(match opened {
            Some(true) => None,
            Some(false) => {
                words.rewind()?;
                let mut text = Vec::new();
                words.take(64 * 1024).read_to_end(&mut text)?;
                Some(format!(
                    "opening it ended the process, which was not the worker's yet ({status}){}",
                    shown(&text)
                ))
            }
            None => Some(format!(
                "opening it takes longer than {} s: a constructor in it blocks",
                self.bound.as_secs_f64()
            )),
        })
    }

    /// Whether the word came before the process ended; `None` if neither happened in time.
    fn wait_for_word(&self, child: &mut Child) -> Option<bool> {
        let mut stdout = child.stdout.take()?;
        let deadline = Instant::now() + self.bound;
        let mut said = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).ok()?;
            match poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&left)) {
                Ok(0) => return None,
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return None,
            }
            let mut buffer = [0; 256];
            match stdout.read(&mut buffer) {
                Ok(0) | Err(_) => return Some(false),
                Ok(length) => said.extend_from_slice(&buffer[..length]),
            }
            if said.ends_with(OPENED) {
                return Some(true);
            }
            // A library may write there, too; more than a word of ours is none of ours.
            let excess = said.len().saturating_sub(OPENED.len());
            said.drain(..excess);
        }
    }
}

/// What the other process does: opens the file, and says so. Whether it can be used is said by the host, which opens it
/// next.
pub fn open_here(stored: &Path) -> std::io::Result<()> {
    let store = stored.parent().and_then(Path::parent).unwrap_or(stored);
    std::thread::spawn(|| {
        // Whoever asked has gone, and what is being opened may hold this process for ever.
        let _ = std::io::stdin().read(&mut [0]);
        open::leave(1)
    });
    // A refusal is an answer, too.
    drop(open::open(stored, stored, store));
    let mut stdout = std::io::stdout();
    stdout.write_all(OPENED)?;
    stdout.flush()
}

fn passed(stored: &Path, store: &Path) -> PathBuf {
    let directory = stored.parent().and_then(Path::file_name).unwrap_or_default();
    // The copy of a later generation is of the same bytes: its directory is called `<hash>-<generation>`.
    let directory = directory.to_string_lossy();
    let hash = directory.split('-').next().unwrap_or_default();
    store.join(hash).with_extension("opened")
}

/// Where the process writes its errors: not a pipe, which could be full, or kept open by a child of its own.
fn last_words() -> std::io::Result<fs::File> {
    #[cfg(target_os = "linux")]
    let file = rustix::fs::memfd_create("tcw-probe", rustix::fs::MemfdFlags::CLOEXEC)?.into();
    #[cfg(not(target_os = "linux"))]
    let file = fs::File::options().read(true).write(true).open("/dev/null")?;
    Ok(file)
}

/// In one line, of bounded length.
fn shown(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words
        .join(" ")
        .chars()
        .filter(|character| !character.is_control())
        .take(LAST_WORDS)
        .collect();
    if line.is_empty() {
        return line;
    }
    format!("; its last words: {line}")
}
