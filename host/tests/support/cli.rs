//! The command line as a user meets it: the real binary, in a place of its own, with everything it writes kept.

use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::library;

/// How long an event that has to come may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The plugins of this workspace that the tests use.
const PLUGINS: &[&str] = &["env", "exit_status", "max_run_time", "artifacts", "task_log"];

/// A directory of one test, and the way to run `tcw-host` with its state in there.
pub(crate) struct Place {
    directory: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Place {
            directory: tempfile::tempdir().expect("a directory can be made"),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file and answers its path, for a command line.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
        std::fs::write(&path, text).expect("the file can be written");
        path.display().to_string()
    }

    /// A command with nothing of the tester's environment in it.
    pub(crate) fn tcw<S: AsRef<str>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tcw-host"));
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.path("home"))
            .env("TCW_STATE_DIRECTORY", self.path("state"))
            .current_dir(self.directory.path())
            .stdin(Stdio::null());
        command
    }

    /// The engine `native` with the plugins of this workspace, as flags.
    pub(crate) fn native(&self) -> Vec<String> {
        let plugins = self.plugins(PLUGINS.iter().map(|name| library(&format!("{name}_plugin"))));
        flags(&library("native_engine"), &plugins)
    }

    /// The directory `plugins` with copies of these files in it.
    pub(crate) fn plugins(&self, files: impl IntoIterator<Item = PathBuf>) -> PathBuf {
        let directory = self.path("plugins");
        std::fs::create_dir_all(&directory).expect("it can be made");
        for file in files {
            let name = directory.join(file.file_name().expect("a file"));
            if !name.exists() {
                std::fs::copy(&file, &name).expect("the library can be copied");
            }
        }
        directory
    }

    /// Runs to the end.
    pub(crate) fn run<S: AsRef<str>>(&self, arguments: &[S]) -> Ended {
        self.start(arguments).end()
    }

    pub(crate) fn start<S: AsRef<str>>(&self, arguments: &[S]) -> Running {
        Running::start(self.tcw(arguments), self.directory.path())
    }

    pub(crate) fn start_command(&self, command: Command) -> Running {
        Running::start(command, self.directory.path())
    }

    /// What `exec` keeps while it runs; nothing afterwards.
    pub(crate) fn exec_directories(&self) -> usize {
        std::fs::read_dir(self.path("state/exec")).map_or(0, Iterator::count)
    }
}

/// `--engine` and `--plugins`.
pub(crate) fn flags(engine: &Path, plugins: &Path) -> Vec<String> {
    vec![
        "--engine".into(),
        engine.display().to_string(),
        "--plugins".into(),
        plugins.display().to_string(),
    ]
}

/// Arguments, put together.
pub(crate) fn with(first: &[&str], flags: &[String]) -> Vec<String> {
    first
        .iter()
        .map(|argument| (*argument).to_owned())
        .chain(flags.iter().cloned())
        .collect()
}

/// What a process has written so far, and whether more can come.
#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    closed: bool,
}

struct Stream {
    written: Arc<(Mutex<Written>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    fn read(mut from: impl Read + Send + 'static) -> Self {
        let written: Arc<(Mutex<Written>, Condvar)> = Arc::default();
        let to = Arc::clone(&written);
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let length = from.read(&mut buffer).unwrap_or(0);
                let mut written = to.0.lock().expect("no reader panics");
                written.bytes.extend_from_slice(&buffer[..length]);
                written.closed = length == 0;
                to.1.notify_all();
                if written.closed {
                    return;
                }
            }
        });
        Stream {
            written,
            reader: Some(reader),
        }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.written.0.lock().expect("no reader panics").bytes).into_owned()
    }

    /// Waits for the first line that is meant.
    fn line(&self, is_meant: impl Fn(&str) -> bool) -> Option<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut written = self.written.0.lock().expect("no reader panics");
        loop {
            let text = String::from_utf8_lossy(&written.bytes).into_owned();
            let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            if let Some(line) = whole.lines().find(|line| is_meant(line)) {
                return Some(line.to_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if written.closed || left.is_zero() {
                return None;
            }
            written = self
                .written
                .1
                .wait_timeout(written, left)
                .expect("no reader panics")
                .0;
        }
    }

    fn drain(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("no reader panics");
        }
        self.text()
    }
}

/// A process of this test. It does not survive it.
pub(crate) struct Running {
    child: Child,
    stdout: Stream,
    stderr: Stream,
    place: PathBuf,
}

/// A process that has ended: how, and what it wrote.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    place: PathBuf,
}

impl Running {
    fn start(mut command: Command, place: &Path) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tcw-host can be started");
        Running {
            stdout: Stream::read(child.stdout.take().expect("it is piped")),
            stderr: Stream::read(child.stderr.take().expect("it is piped")),
            child,
            place: place.to_owned(),
        }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line of its own log.
    pub(crate) fn says(&self, part: &str) -> String {
        self.stderr.line(|line| line.contains(part)).unwrap_or_else(|| {
            panic!(
                "it never said {part:?} on stderr:\n{}\n--- stdout:\n{}",
                self.stderr.text(),
                self.stdout.text()
            )
        })
    }

    /// Waits for this line on stdout, without any more in it: a task log shows each command before it runs.
    pub(crate) fn prints(&self, whole: &str) -> String {
        self.stdout.line(|line| line == whole).unwrap_or_else(|| {
            panic!(
                "it never printed {whole:?} on stdout:\n{}\n--- stderr:\n{}",
                self.stdout.text(),
                self.stderr.text()
            )
        })
    }

    /// Its own log so far, for the message of a test that fails.
    pub(crate) fn said_so_far(&self) -> String {
        self.stderr.text()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(self.child.id().cast_signed()).expect("a process");
        rustix::process::kill_process(id, signal).expect("the process is there");
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        // The pipes close with the process, unless a child of it has them: so the process is what is waited for.
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "it does not end:\n{}\n--- stdout:\n{}",
                self.stderr.text(),
                self.stdout.text()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        Ended {
            status,
            stdout: self.stdout.drain(),
            stderr: self.stderr.drain(),
            place: self.place.clone(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The exit status; a signal is 128 and its number, as in a shell.
    pub(crate) fn code(&self) -> i32 {
        self.status
            .code()
            .unwrap_or_else(|| 128 + self.status.signal().unwrap_or_default())
    }

    /// Stdout with everything replaced that differs from run to run.
    pub(crate) fn out(&self) -> String {
        normal(&self.stdout, &self.place)
    }

    /// The same for stderr.
    pub(crate) fn err(&self) -> String {
        normal(&self.stderr, &self.place)
    }

    /// The same without the worker's own log, which begins every line with the time.
    pub(crate) fn said(&self) -> String {
        self.err()
            .lines()
            .filter(|line| !line.starts_with("TIME "))
            .fold(String::new(), |text, line| text + line + "\n")
    }

    /// The exit status, what was said on stderr apart from the worker's log, and nothing on stdout.
    #[track_caller]
    pub(crate) fn refuses(&self, code: i32, said: &str) {
        assert_eq!(
            (self.code(), self.out().as_str(), self.said().as_str()),
            (code, "", said),
            "the whole of stderr:\n{}",
            self.stderr
        );
    }
}

/// Times, ids, ports, durations, hashes and paths have no place in what a test expects.
fn normal(text: &str, place: &Path) -> String {
    let text = text
        .replace(&place.display().to_string(), "DIR")
        .replace(&super::build_directory().display().to_string(), "BUILT");
    let mut result = String::new();
    let mut word = String::new();
    for character in text.chars().chain(['\0']) {
        if character.is_ascii_alphanumeric() || matches!(character, '-' | '_' | '.' | ':' | 'µ') {
            word.push(character);
            continue;
        }
        result += &normal_word(&word);
        word.clear();
        if character != '\0' {
            result.push(character);
        }
    }
    result
}

fn normal_word(word: &str) -> String {
    let (word, end) = match word.strip_suffix([':', '.']) {
        Some(rest) => (rest, &word[rest.len()..]),
        None => (word, ""),
    };
    let is_time = word.len() >= 20
        && word.ends_with('Z')
        && word.as_bytes()[..4].iter().all(u8::is_ascii_digit)
        && word.contains('T');
    let is_slug = word.len() == 22
        && !word.contains(['.', ':'])
        && word.contains(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit());
    let seconds = word.trim_end_matches(['s', 'm', 'µ', 'n']);
    let is_duration = seconds.len() < word.len()
        && seconds.starts_with(|c: char| c.is_ascii_digit())
        && seconds.chars().all(|c| c.is_ascii_digit() || c == '.')
        && word.ends_with('s');
    let replaced = if is_time {
        "TIME"
    } else if is_slug {
        "TASK"
    } else if is_duration {
        "0s"
    } else if word.starts_with("127.0.0.1:") {
        "HOST"
    } else if word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        "SHA256"
    } else if word.starts_with("exec-") && word.len() == 21 {
        "exec-ID"
    } else {
        word
    };
    format!("{replaced}{end}")
}

/// Processes with `argument` among their arguments.
pub(crate) fn processes_with(argument: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").expect("Linux has it");
    all.flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id: &u32| {
            std::fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| {
                line.split(|byte| *byte == 0)
                    .any(|part| part == argument.as_bytes())
            })
        })
        .collect()
}
