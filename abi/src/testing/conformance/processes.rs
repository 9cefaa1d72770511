//! The processes below this one, as `/proc` shows them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;

use serde::{Deserialize, Serialize};

/// A process as it can be told from a later one that has its number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Process {
    pid: u32,
    start: u64,
    name: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.pid)
    }
}

impl Process {
    /// The process and its parent.
    fn read(pid: u32) -> Option<(Process, u32)> {
        let text = fs::read(format!("/proc/{pid}/stat")).ok()?;
        let text = String::from_utf8_lossy(&text);
        let (head, tail) = text.rsplit_once(')')?;
        let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
        let process = Process {
            pid,
            start: fields.get(19)?.parse().ok()?,
            name: head.split_once('(')?.1.to_owned(),
        };
        Some((process, fields.get(1)?.parse().ok()?))
    }

    /// Whether it is there and no zombie.
    pub(super) fn lives(&self) -> bool {
        let zombie = || {
            let text = fs::read(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let state = text.rsplit_once(')').map_or("", |(_, tail)| tail.trim_start());
            state.is_empty() || state.starts_with(['Z', 'X'])
        };
        Process::read(self.pid).is_some_and(|(now, _)| now.start == self.start) && !zombie()
    }
}

/// Everything below this process, what is dead and not waited for as well.
pub(super) fn descendants() -> Vec<Process> {
    let mut children: BTreeMap<u32, Vec<Process>> = BTreeMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for pid in entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()) {
        if let Some((process, parent)) = Process::read(pid) {
            children.entry(parent).or_default().push(process);
        }
    }
    let mut found = Vec::new();
    let mut next = vec![std::process::id()];
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            next.push(child.pid);
            found.push(child);
        }
    }
    found
}
