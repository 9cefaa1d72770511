//! What commands write: results on stdout, everything else on stderr.
//!
//! `println!` panics when the reader has gone, as in `tcw-host schema | head`. Here that is nothing to talk about: who
//! stopped reading has what they wanted.

use std::fmt;
use std::io::{ErrorKind, Write};

use super::outcome::Failure;

/// Writes a command's result to stdout, now.
pub(super) fn print(result: impl fmt::Display) -> Result<(), Failure> {
    write(result.to_string().as_bytes())
}

/// The same with a line's end.
pub(super) fn print_line(result: impl fmt::Display) -> Result<(), Failure> {
    write(format!("{result}\n").as_bytes())
}

/// The same for bytes that need not be text.
pub(super) fn write(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(Failure::general(format!(
            "the result cannot be written to stdout: {error}"
        ))),
        _ => Ok(()),
    }
}

/// Writes a line to stderr, for the person at the terminal. If nobody reads it, nobody misses it.
pub(super) fn say(line: impl fmt::Display) {
    let _ = std::io::stderr().lock().write_all(format!("{line}\n").as_bytes());
}
