//! Finding a program and starting it.

use std::ffi::{CString, OsStr};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Access;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tcw_abi::{Error, Result};

use crate::environment::Variables;
use crate::spawn::{self, Exit, Launch, Streams};

/// The last pause before a program that somebody writes to is given up.
const LONGEST_BUSY: Duration = Duration::from_millis(500);

/// Why a program did not start.
#[derive(Debug)]
pub(crate) enum LaunchError {
    /// What the task asked for cannot be executed; the reason is for its author.
    Task(String),
    /// The machine has run out of something.
    Worker(io::Error),
}

/// Starts `command` and answers its number. `directory` is where it runs and what relative names start from.
pub(crate) fn launch(
    command: &[String],
    variables: &Variables,
    directory: &Path,
    streams: Streams<'_>,
) -> Result<i32, LaunchError> {
    let nul = |_| LaunchError::Task("it contains the character NUL, which no program can be given".into());
    let name = command
        .first()
        .ok_or_else(|| LaunchError::Task("it is empty".into()))?;
    let program = find(name, variables.search_path(), directory).map_err(LaunchError::Task)?;
    let program = CString::new(program.into_os_string().into_encoded_bytes()).map_err(nul)?;
    let arguments = command
        .iter()
        .map(|argument| CString::new(argument.as_bytes()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(nul)?;
    let directory = CString::new(directory.as_os_str().as_bytes()).map_err(nul)?;
    let launch = Launch {
        program: &program,
        arguments: &arguments,
        environment: &variables.to_strings(),
        directory: &directory,
        streams,
    };
    let mut pause = Duration::from_millis(1);
    loop {
        match spawn::spawn(&launch) {
            // The program was written by this process (`put_file`), and another child that is being started at this
            // very moment still has a copy of that descriptor. It is gone as soon as that child executes.
            Err(error) if error.raw_os_error() == Some(libc::ETXTBSY) && pause < LONGEST_BUSY => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            result => return result.map_err(|error| explain(error, &program)),
        }
    }
}

/// Tells what the task can do something about from what it cannot.
fn explain(error: io::Error, program: &CString) -> LaunchError {
    let program = program.to_string_lossy();
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOMEM | libc::EMFILE | libc::ENFILE | libc::EIO) => {
            LaunchError::Worker(error)
        }
        Some(libc::ENOEXEC) => LaunchError::Task(format!(
            "{program} is neither a program for this machine nor a script that starts with '#!'"
        )),
        Some(libc::ETXTBSY) => LaunchError::Task(format!(
            "{program} cannot be executed while a process has it open for writing"
        )),
        Some(libc::E2BIG) => LaunchError::Task(
            "its arguments and the environment together are too long; put what is long into a file".into(),
        ),
        Some(libc::ENOENT | libc::ENOTDIR) => LaunchError::Task(format!(
            "{program}, its interpreter (the line that starts with '#!') or the directory to run it in does not exist"
        )),
        Some(libc::EACCES | libc::EPERM) => {
            LaunchError::Task(format!("{program} cannot be executed: permission denied"))
        }
        _ => LaunchError::Task(format!("{program} cannot be executed: {error}")),
    }
}

/// A name with a slash is a path; any other is looked for in the task's `PATH`, not in the worker's.
fn find(name: &str, search_path: &str, directory: &Path) -> Result<PathBuf, String> {
    if name.contains('/') {
        let path = directory.join(name);
        return check(&path)
            .map(|()| path)
            .map_err(|problem| format!("{name} {problem}"));
    }
    let mut refused = None;
    if !name.is_empty() {
        for folder in search_path.split(':') {
            let path = directory.join(OsStr::new(folder)).join(name);
            match check(&path) {
                Ok(()) => return Ok(path),
                Err("does not exist") => {}
                Err(problem) => refused = refused.or(Some(format!("{} {problem}", path.display()))),
            }
        }
    }
    Err(refused.unwrap_or_else(|| format!("{name:?} is in no directory of PATH ({search_path})")))
}

fn check(path: &Path) -> Result<(), &'static str> {
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err("cannot be reached: permission denied")
        }
        Err(_) => Err("does not exist"),
        Ok(status) if status.is_dir() => Err("is a directory, not a program"),
        Ok(_) => rustix::fs::access(path, Access::EXEC_OK)
            .map_err(|_| "is not executable; does it lack the permission (chmod +x)?"),
    }
}

/// Returns when the child has ended. It is left a zombie.
pub(crate) async fn exited(pid: i32) -> Result<Exit> {
    let lost = |error: &dyn std::fmt::Display| Error::internal(format!("process {pid} was lost: {error}"));
    let number = Pid::from_raw(pid).ok_or_else(|| lost(&"its number is zero"))?;
    let fd = pidfd_open(number, PidfdFlags::empty()).map_err(|error| lost(&error))?;
    let fd = spawn::watched(fd).map_err(|error| lost(&error))?;
    loop {
        let mut ready = fd.readable().await.map_err(|error| lost(&error))?;
        if let Some(exit) = spawn::peek(pid).map_err(|error| lost(&error))? {
            return Ok(exit);
        }
        ready.clear_ready();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_in_the_tasks_own_path_and_directory() {
        let here = Path::new("/");
        assert_eq!(find("sh", "/nowhere:/bin", here), Ok("/bin/sh".into()));
        assert_eq!(find("sh", "bin", here), Ok("/bin/sh".into()));
        assert_eq!(find("bin/sh", "", here), Ok("/bin/sh".into()));
        assert_eq!(
            find("no-such-program", "/bin", here),
            Err("\"no-such-program\" is in no directory of PATH (/bin)".into())
        );
        assert_eq!(
            find("/etc", "", here),
            Err("/etc is a directory, not a program".into())
        );
        assert_eq!(
            find("passwd", "/etc", here),
            Err("/etc/passwd is not executable; does it lack the permission (chmod +x)?".into())
        );
        assert!(find("", "/bin", here).is_err());
    }
}
