//! The processes of one task, wherever they have gone.
//!
//! A process group or a session is not enough: a daemon leaves both. A process belongs to the task if
//!
//! - it has the task's mark in its environment (`TASK_WORKDIR=` with the directory, which no two tasks share), or
//! - it is in a session that a process of the task leads, or
//! - its parent belongs to the task.
//!
//! The kernel gives no notice of new processes, so ending a tree is a loop: *stop* what is found until a look finds
//! nothing that runs (what is stopped neither forks nor loses its children to init), then kill it all, wait for the
//! deaths, look again. Signals go through pidfds, so a number that was given away meanwhile is never hit.
//!
//! What this cannot find is a process that has cleared its environment, has a session of its own *and* has lost its
//! parent before the first look. Without isolation a hostile task has shorter ways to do harm; against accidents this
//! holds.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// More processes than any machine makes in a millisecond: the bound for saying that numbers have not wrapped round.
const FORKS_PER_MILLISECOND: u128 = 100;

/// An environment that is longer is looked at up to here.
const LONGEST_ENVIRONMENT: u64 = 4 << 20;

/// As many processes are held at a time.
const MOST_HELD: usize = 256;

/// Between two attempts at what has failed for want of something.
const PAUSE: Duration = Duration::from_millis(10);

/// The processes that the engine started itself, and how to know the others.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    mark: Mark,
    first: Option<First>,
    /// Processes that the engine started: each leads a session, and is not reaped while it is in here.
    leaders: BTreeSet<i32>,
}

/// What `TASK_WORKDIR` is in the environment of the task's processes.
#[derive(Clone, Debug)]
enum Mark {
    Exactly(Vec<u8>),
    /// Of such a name, unless it is one of those that are alive.
    Like {
        names: Vec<Name>,
        live: BTreeSet<Vec<u8>>,
    },
}

/// Names of directories that only this worker gives.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    /// Where they are.
    pub(crate) parent: PathBuf,
    /// What they begin with.
    pub(crate) beginning: String,
    /// What they end with.
    pub(crate) end: String,
}

impl Name {
    fn fits(&self, directory: &[u8]) -> bool {
        let parent = self.parent.as_os_str().as_encoded_bytes();
        directory
            .strip_prefix(parent)
            .and_then(|rest| rest.strip_prefix(b"/"))
            .is_some_and(|name| {
                name.len() > self.beginning.len() + self.end.len()
                    && name.starts_with(self.beginning.as_bytes())
                    && name.ends_with(self.end.as_bytes())
            })
    }

    /// Whether the process means the same directory by it. In another container the path is another's, whose worker may
    /// be at work.
    fn is_same_for(&self, pid: i32) -> bool {
        let Ok(inside) = self.parent.strip_prefix("/") else {
            return false;
        };
        let theirs = Path::new("/proc").join(pid.to_string()).join("root").join(inside);
        match (fs::metadata(&self.parent), fs::metadata(theirs)) {
            (Ok(ours), Ok(theirs)) => ours.dev() == theirs.dev() && ours.ino() == theirs.ino(),
            _ => false,
        }
    }
}

impl Mark {
    fn fits(&self, pid: i32, directory: &[u8]) -> bool {
        match self {
            Mark::Exactly(mark) => directory == mark,
            Mark::Like { names, live } => {
                !live.contains(directory)
                    && names
                        .iter()
                        .any(|name| name.fits(directory) && name.is_same_for(pid))
            }
        }
    }
}

/// The task's first process: everything else in the tree is younger.
#[derive(Clone, Copy, Debug)]
struct First {
    pid: i32,
    ticks: u64,
    at: Instant,
}

/// Of which everything may be a child.
fn first_of_all() -> First {
    First {
        pid: 1,
        ticks: 0,
        at: Instant::now(),
    }
}

/// What `/proc/<pid>/stat` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) pid: i32,
    state: u8,
    parent: i32,
    session: i32,
    /// Processor time, user and system, in clock ticks.
    pub(crate) ticks: u64,
    threads: i64,
    /// When it started, in clock ticks since boot.
    start: u64,
    /// Resident memory, in pages.
    pub(crate) pages: u64,
}

impl Stat {
    fn parse(text: &[u8]) -> Option<Stat> {
        // The name is in parentheses and may hold anything, parentheses and spaces included.
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        let pid = std::str::from_utf8(&text[..open]).ok()?.trim().parse().ok()?;
        let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index).and_then(|field| field.parse::<i64>().ok());
        Some(Stat {
            pid,
            state: *fields.first()?.as_bytes().first()?,
            parent: i32::try_from(number(1)?).ok()?,
            session: i32::try_from(number(3)?).ok()?,
            ticks: u64::try_from(number(11)? + number(12)?).ok()?,
            threads: number(17)?,
            start: u64::try_from(number(19)?).ok()?,
            pages: u64::try_from(number(21)?).unwrap_or(0),
        })
    }

    fn read(pid: i32) -> Option<Stat> {
        Stat::parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
    }

    /// A zombie is dead, unless it is only the first thread that has ended.
    fn alive(&self) -> bool {
        !matches!(self.state, b'Z' | b'X') || self.threads > 1
    }
}

/// A process that was found. It is not held for longer than a signal takes: a task may have thousands, and the worker
/// has a thousand descriptors. Its start tells it from another that has got its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pid: i32,
    start: u64,
}

impl From<&Stat> for Process {
    fn from(stat: &Stat) -> Self {
        Process {
            pid: stat.pid,
            start: stat.start,
        }
    }
}

impl Process {
    /// `None`: it is gone, or the worker is short of descriptors; the next look tells.
    fn hold(&self) -> Option<OwnedFd> {
        let fd = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        // The number may have changed hands between the look and the line above.
        (Stat::read(self.pid)?.start == self.start).then_some(fd)
    }

    /// Answers whether it was there. Failure to signal it means that it is gone, or that it belongs to another user by
    /// now; the next look tells.
    pub(crate) fn signal(&self, signals: &[Signal]) -> bool {
        let held = self.hold();
        for signal in signals {
            let _ = held.as_ref().map(|fd| pidfd_send_signal(fd, *signal));
        }
        held.is_some()
    }

    pub(crate) fn alive(&self) -> bool {
        Stat::read(self.pid).is_some_and(|stat| stat.start == self.start && stat.alive())
    }
}

/// Whether the process that is held ended before the deadline.
fn wait(held: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        let mut ready = [PollFd::new(held, PollFlags::IN)];
        match poll(&mut ready, Some(&timeout)) {
            Ok(0) | Err(_) if left.is_zero() => return false,
            Ok(0) | Err(Errno::INTR) => {}
            // Whatever it is, it may not pass soon.
            Err(_) => std::thread::sleep(PAUSE.min(left)),
            Ok(_) => return true,
        }
    }
}

impl Tree {
    pub(crate) fn new(directory: &Path) -> Tree {
        Tree {
            mark: Mark::Exactly(directory.as_os_str().as_encoded_bytes().to_vec()),
            first: None,
            leaders: BTreeSet::new(),
        }
    }

    /// What is left of a task whose worker is dead: which process was the first is not known any more.
    pub(crate) fn of_dead_worker(directory: &Path) -> Tree {
        Tree {
            first: Some(first_of_all()),
            ..Tree::new(directory)
        }
    }

    /// What is left of all tasks of dead workers whose directories have these names, but for `live` ones.
    pub(crate) fn of_dead_workers(names: Vec<Name>, live: BTreeSet<PathBuf>) -> Tree {
        let bytes = |path: PathBuf| path.into_os_string().into_encoded_bytes();
        Tree {
            mark: Mark::Like {
                names,
                live: live.into_iter().map(bytes).collect(),
            },
            first: Some(first_of_all()),
            leaders: BTreeSet::new(),
        }
    }

    /// A process that the engine started just now.
    pub(crate) fn add_leader(&mut self, pid: i32) {
        self.leaders.insert(pid);
        if self.first.is_none() {
            self.first = Some(First {
                pid,
                ticks: Stat::read(pid).map_or(0, |stat| stat.start),
                at: Instant::now(),
            });
        }
    }

    /// It is about to be reaped, and its session is empty.
    pub(crate) fn remove_leader(&mut self, pid: i32) {
        self.leaders.remove(&pid);
    }

    /// Processes to reap at the end.
    pub(crate) fn leaders(&self) -> impl Iterator<Item = i32> + '_ {
        self.leaders.iter().copied()
    }

    /// Every live process of the task.
    pub(crate) fn look(&self) -> io::Result<Vec<Stat>> {
        self.select(&self.leaders, Some(&self.mark))
    }

    /// Every live process of one session, and their descendants.
    pub(crate) fn look_in_session(&self, leader: i32) -> io::Result<Vec<Stat>> {
        self.select(&BTreeSet::from([leader]), None)
    }

    fn select(&self, leaders: &BTreeSet<i32>, mark: Option<&Mark>) -> io::Result<Vec<Stat>> {
        let mut rest = self.candidates()?;
        let mut sessions = leaders.clone();
        let mut members = Vec::new();
        let mut numbers = BTreeSet::new();
        loop {
            let before = members.len();
            rest.retain(|stat| {
                let belongs = sessions.contains(&stat.session)
                    || numbers.contains(&stat.parent)
                    || (before == 0 && mark.is_some_and(|mark| is_marked(stat.pid, mark)));
                if belongs {
                    numbers.insert(stat.pid);
                    if stat.session == stat.pid {
                        sessions.insert(stat.session);
                    }
                    members.push(*stat);
                }
                !belongs
            });
            if members.len() == before {
                return Ok(members);
            }
        }
    }

    /// Live processes that are younger than the task's first, which most of a machine's are not.
    fn candidates(&self) -> io::Result<Vec<Stat>> {
        let Some(first) = self.first else {
            return Ok(Vec::new());
        };
        // Numbers are given out in ascending order and wrap round at the maximum. As long as that cannot have
        // happened, a smaller number is an older process, and need not be looked at.
        let room = u128::try_from(highest_number().saturating_sub(first.pid)).unwrap_or(0);
        let oldest = if first.at.elapsed().as_millis() * FORKS_PER_MILLISECOND < room {
            first.pid
        } else {
            1
        };
        let own = std::process::id();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            if pid < oldest || u32::try_from(pid) == Ok(own) {
                continue;
            }
            // What cannot be read has ended meanwhile.
            if let Some(stat) = Stat::read(pid)
                && stat.alive()
                && stat.start >= first.ticks
            {
                found.push(stat);
            }
        }
        Ok(found)
    }

    /// Ends every process of the task for good. Answers those that would not die before the bound (a process that
    /// waits for a device cannot), with their names.
    pub(crate) fn end(&self, bound: Duration) -> io::Result<Vec<String>> {
        end_all(|| self.look(), bound)
    }

    /// Ends one session, unless its leader's number has been given back and may be somebody else's.
    pub(crate) fn end_session(&self, leader: i32, bound: Duration) -> io::Result<Vec<String>> {
        if !self.leaders.contains(&leader) {
            return Ok(Vec::new());
        }
        end_all(|| self.look_in_session(leader), bound)
    }
}

fn end_all(look: impl Fn() -> io::Result<Vec<Stat>>, bound: Duration) -> io::Result<Vec<String>> {
    let deadline = Instant::now() + bound;
    loop {
        let mut stopped: BTreeSet<Process> = BTreeSet::new();
        loop {
            let found = look()?;
            if found.is_empty() && stopped.is_empty() {
                return Ok(Vec::new());
            }
            let known = stopped.len();
            for process in found.iter().map(Process::from) {
                if !stopped.contains(&process) && process.signal(&[Signal::STOP]) {
                    stopped.insert(process);
                }
            }
            if stopped.len() == known || Instant::now() >= deadline {
                break;
            }
        }
        if stopped.is_empty() {
            // There are some, but none could be held: they have just died, or descriptors are short.
            std::thread::sleep(PAUSE);
        }
        // All of them before any is waited for: the death of a parent wakes what is stopped.
        for process in &stopped {
            process.signal(&[Signal::KILL]);
        }
        let stopped: Vec<Process> = stopped.into_iter().collect();
        let mut left: Vec<String> = Vec::new();
        for some in stopped.chunks(MOST_HELD) {
            let held: Vec<_> = some
                .iter()
                .filter_map(|process| Some((process.pid, process.hold()?)))
                .collect();
            left.extend(
                held.iter()
                    .filter(|(_, fd)| !wait(fd, deadline))
                    .map(|(pid, _)| describe(*pid)),
            );
        }
        if !left.is_empty() || Instant::now() >= deadline {
            if left.is_empty() {
                left = look()?.iter().map(|stat| describe(stat.pid)).collect();
            }
            return Ok(left);
        }
    }
}

fn describe(pid: i32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{pid} ({})", name.trim_end())
}

fn is_marked(pid: i32, mark: &Mark) -> bool {
    let Ok(file) = fs::File::open(format!("/proc/{pid}/environ")) else {
        return false;
    };
    let mut environment = Vec::new();
    // An error in the middle leaves what was read so far, which is looked at.
    let _ = file.take(LONGEST_ENVIRONMENT).read_to_end(&mut environment);
    environment
        .split(|byte| *byte == 0)
        .filter_map(|variable| variable.strip_prefix(b"TASK_WORKDIR="))
        .any(|directory| mark.fits(pid, directory))
}

/// One more than the highest number that a process gets.
fn highest_number() -> i32 {
    static HIGHEST: OnceLock<i32> = OnceLock::new();
    *HIGHEST.get_or_init(|| {
        fs::read_to_string("/proc/sys/kernel/pid_max")
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_confuse() {
        let text = b"42 (a) S 1 (b) R 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 99 1000 10 18446744073709551615 0";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(
            stat,
            Stat {
                pid: 42,
                state: b'R',
                parent: 7,
                session: 42,
                ticks: 11,
                threads: 1,
                start: 99,
                pages: 10,
            }
        );
        assert_eq!(Stat::parse(b"42 (never closed S 1"), None);
    }

    #[test]
    fn a_mark_by_name_is_that_of_a_directory_below_and_not_of_a_live_one() {
        let name = |parent: &str, beginning: &str, end: &str| Name {
            parent: parent.into(),
            beginning: beginning.into(),
            end: end.into(),
        };
        let mark = |names: &[Name]| Mark::Like {
            names: names.to_vec(),
            live: BTreeSet::from([b"/usr/live".to_vec()]),
        };
        let own = i32::try_from(std::process::id()).unwrap();
        let known = mark(&[name("/usr", "", ""), name("/etc", "task_", "_owner")]);
        for fits in ["/usr/native-1", "/etc/task_1_owner"] {
            assert!(known.fits(own, fits.as_bytes()), "{fits}");
        }
        for other in [
            "/usr/live",
            "/usr/",
            "/usr2/a",
            "/etc/task_1_other",
            "/etc/task_owner",
            "/etc/x_owner",
        ] {
            assert!(!known.fits(own, other.as_bytes()), "{other}");
        }
        // A path that is another directory for that process, or none.
        assert!(!mark(&[name("/proc/self", "", "")]).fits(1, b"/proc/self/a"));
        assert!(!mark(&[name("/no/such", "", "")]).fits(own, b"/no/such/a"));
        assert!(!mark(&[name("relative", "", "")]).fits(own, b"relative/a"));
    }

    #[test]
    fn this_process_can_be_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        let stat = Stat::read(own).unwrap();
        assert_eq!(stat.pid, own);
        assert!(stat.alive() && stat.pages > 0);
    }
}
