//! What is known by heart about the tasks that have not ended: who is next in line, who is at work, what happens when.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::record::{Millis, Task};
use crate::queue::{Priority, TaskState};

/// A place in line: the more urgent first, then the earlier.
type Place = (Reverse<Priority>, i64);

#[derive(Default)]
pub(super) struct Index {
    entries: HashMap<String, Entry>,
    /// By pool; a pool that nobody waits for has no line.
    pending: HashMap<String, BTreeMap<Place, String>>,
    /// By pool: when a run was claimed, and its task.
    claimed: HashMap<String, BTreeSet<(Millis, String)>>,
    timers: BTreeSet<(Millis, String)>,
}

struct Entry {
    pool: String,
    place: Option<Place>,
    claimed: Option<Millis>,
    timer: Option<Millis>,
}

impl Index {
    /// Lets a task go that has ended, or that is no more.
    pub(super) fn remove(&mut self, id: &str) {
        let Some(entry) = self.entries.remove(id) else {
            return;
        };
        if let Some(place) = entry.place
            && let Some(line) = self.pending.get_mut(&entry.pool)
        {
            line.remove(&place);
            if line.is_empty() {
                self.pending.remove(&entry.pool);
            }
        }
        if let Some(time) = entry.claimed
            && let Some(claimed) = self.claimed.get_mut(&entry.pool)
        {
            claimed.remove(&(time, id.to_owned()));
            if claimed.is_empty() {
                self.claimed.remove(&entry.pool);
            }
        }
        if let Some(timer) = entry.timer {
            self.timers.remove(&(timer, id.to_owned()));
        }
    }

    /// Takes a task as it now is.
    pub(super) fn set(&mut self, task: &Task) {
        self.remove(&task.id);
        let Some(timer) = task.next_event() else {
            return;
        };
        let state = task.state();
        let place = (state == TaskState::Pending).then_some((Reverse(task.priority), task.position));
        let claimed = (state == TaskState::Running).then(|| task.runs.last().and_then(|run| run.started));
        let claimed = claimed.flatten();
        self.timers.insert((timer, task.id.clone()));
        if let Some(place) = place {
            let line = self.pending.entry(task.pool.clone()).or_default();
            line.insert(place, task.id.clone());
        }
        if let Some(time) = claimed {
            let at_work = self.claimed.entry(task.pool.clone()).or_default();
            at_work.insert((time, task.id.clone()));
        }
        let entry = Entry {
            pool: task.pool.clone(),
            place,
            claimed,
            timer: Some(timer),
        };
        self.entries.insert(task.id.clone(), entry);
    }

    /// What happens next by itself, and when.
    pub(super) fn next_timer(&self) -> Option<&(Millis, String)> {
        self.timers.first()
    }

    /// Lets a task's timer pass: until later, or for good if the task is no more.
    pub(super) fn postpone(&mut self, id: &str, later: Option<Millis>) {
        let Some(later) = later else {
            return self.remove(id);
        };
        if let Some(entry) = self.entries.get_mut(id) {
            if let Some(timer) = entry.timer.replace(later) {
                self.timers.remove(&(timer, id.to_owned()));
            }
            self.timers.insert((later, id.to_owned()));
        }
    }

    pub(super) fn is_in_line(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.place.is_some())
    }

    /// The next in line of a pool.
    pub(super) fn next_in_line(&self, pool: &str) -> Option<String> {
        self.pending.get(pool)?.values().next().cloned()
    }

    /// How many tasks of a pool are pending.
    pub(super) fn count_pending(&self, pool: &str) -> usize {
        self.pending.get(pool).map_or(0, BTreeMap::len)
    }

    /// How many tasks of a pool are running.
    pub(super) fn count_claimed(&self, pool: &str) -> usize {
        self.claimed.get(pool).map_or(0, BTreeSet::len)
    }

    /// Up to `limit` pending tasks of a pool with their positions, the longest pending first, after a position.
    pub(super) fn pending(&self, pool: &str, after: i64, limit: usize) -> Vec<(i64, String)> {
        let Some(line) = self.pending.get(pool) else {
            return Vec::new();
        };
        // The line is one list for each priority; the first of each are enough for the first of all.
        let mut found: Vec<(i64, String)> = Priority::ALL
            .into_iter()
            .flat_map(|priority| {
                let of_priority =
                    (Reverse(priority), after.saturating_add(1))..=(Reverse(priority), i64::MAX);
                line.range(of_priority).take(limit)
            })
            .map(|((_, position), id)| (*position, id.clone()))
            .collect();
        found.sort_unstable();
        found.truncate(limit);
        found
    }

    /// Up to `limit` running tasks of a pool with the time of their claims, the longest running first, after one of them.
    pub(super) fn claimed(
        &self,
        pool: &str,
        after: &(Millis, String),
        limit: usize,
    ) -> Vec<(Millis, String)> {
        use std::ops::Bound::{Excluded, Unbounded};
        let claimed = self.claimed.get(pool);
        let rest = claimed
            .into_iter()
            .flat_map(|all| all.range((Excluded(after.clone()), Unbounded)));
        rest.take(limit).cloned().collect()
    }
}
