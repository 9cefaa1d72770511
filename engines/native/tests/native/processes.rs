//! Looking at the processes that a task has named in its log.

use rustix::process::{Pid, test_kill_process};

/// The numbers that the task has printed behind `label`.
pub(crate) fn numbers(log: &str, label: &str) -> Vec<Pid> {
    log.lines()
        .filter_map(|line| line.strip_prefix(label)?.trim().parse().ok())
        .filter_map(Pid::from_raw)
        .collect()
}

pub(crate) fn all_dead(pids: &[Pid]) -> bool {
    // A zombie that init has not collected yet is as dead as one can be.
    pids.iter().all(|pid| {
        test_kill_process(*pid).is_err()
            || std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))
                .map_or(true, |stat| stat.contains(") Z "))
    })
}
