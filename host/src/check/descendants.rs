//! The processes below this one, as `/proc` shows them.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

/// How long what was killed may take to die.
const DEATHS: Duration = Duration::from_secs(20);

/// Between two looks: the kernel gives no notice of other processes' children.
const PAUSE: Duration = Duration::from_millis(10);

/// Makes this process the one that orphans below it go to, and lets it be told of its parent's end.
pub(super) fn adopt_orphans(parent: u32) -> std::io::Result<()> {
    let me = rustix::process::getpid();
    #[cfg(target_os = "linux")]
    {
        rustix::process::set_child_subreaper(Some(me))?;
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
    }
    // It may have ended before.
    if lost_parent(parent) {
        return Err(std::io::Error::other(format!(
            "process {parent}, for which {} works, has ended",
            me.as_raw_nonzero()
        )));
    }
    Ok(())
}

/// Whether the process that started this one has ended.
pub(super) fn lost_parent(parent: u32) -> bool {
    let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().cast_unsigned());
    now != Some(parent)
}

/// A process below this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Descendant {
    pub(super) pid: i32,
    pub(super) name: String,
}

/// What lives below this process now. What is dead and not reaped does not count.
pub(super) fn living() -> Vec<Descendant> {
    let mut children: BTreeMap<i32, Vec<(i32, String, bool)>> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok()) {
        if let Some((parent, name, alive)) = stat(pid) {
            children.entry(parent).or_default().push((pid, name, alive));
        }
    }
    let mut found = Vec::new();
    let mut next = vec![std::process::id().cast_signed()];
    while let Some(parent) = next.pop() {
        for (pid, name, alive) in children.remove(&parent).unwrap_or_default() {
            next.push(pid);
            if alive {
                found.push(Descendant { pid, name });
            }
        }
    }
    found
}

fn stat(pid: i32) -> Option<(i32, String, bool)> {
    let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
    let text = String::from_utf8_lossy(&text);
    // The name stands in brackets and may hold anything, brackets too.
    let (head, tail) = text.rsplit_once(')')?;
    let name = head.split_once('(')?.1.to_owned();
    let mut fields = tail.split_ascii_whitespace();
    let alive = !matches!(fields.next()?, "Z" | "X" | "x");
    Some((fields.next()?.parse().ok()?, name, alive))
}

/// Waits for a moment for the processes below this one to be gone, and answers those that are not.
pub(super) fn left_behind(patience: Duration) -> Vec<Descendant> {
    let until = Instant::now() + patience;
    loop {
        let living = living();
        if living.is_empty() || Instant::now() >= until {
            return living;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Ends everything below this process. Answers what would not die.
pub(super) fn end_all() -> Vec<Descendant> {
    let until = Instant::now() + DEATHS;
    loop {
        let living = living();
        if living.is_empty() || Instant::now() >= until {
            return living;
        }
        for descendant in &living {
            if let Some(pid) = Pid::from_raw(descendant.pid) {
                // It may be gone by now.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(PAUSE);
    }
}

/// Reaps children of this process, its own and those that it was given, for ever: each is told to `seen` with its
/// status as `wait` gives it. Returns when there are none.
pub(super) fn reap(mut seen: impl FnMut(Pid, rustix::process::WaitStatus)) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => seen(pid, status),
            Err(rustix::io::Errno::INTR) | Ok(None) => {}
            Err(_) => return,
        }
    }
}
