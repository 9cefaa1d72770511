//! What a queue of tasks is, said as simply as possible: lists that are searched from end to end. It knows no database, no
//! index and no clock; what time it is and what a worker was told is handed in.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

const URGENCY: [&str; 7] = [
    "lowest",
    "very-low",
    "low",
    "medium",
    "high",
    "very-high",
    "highest",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) state: &'static str,
    pub(crate) created: &'static str,
    pub(crate) resolved: Option<String>,
    /// Until when it is claimed, in milliseconds.
    pub(crate) taken_until: i64,
}

#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) definition: Value,
    pub(crate) group: String,
    pub(crate) priority: String,
    pub(crate) retries: usize,
    pub(crate) retries_left: usize,
    pub(crate) deadline: i64,
    pub(crate) expires: i64,
    /// What it waits for.
    pub(crate) waits_for: BTreeSet<String>,
    pub(crate) any_end: bool,
    /// When it became pending, as a number that only grows.
    pub(crate) place: u64,
    pub(crate) runs: Vec<Run>,
}

impl Task {
    pub(crate) fn state(&self) -> &'static str {
        self.runs.last().map_or("unscheduled", |run| run.state)
    }

    pub(crate) fn is_resolved(&self) -> bool {
        matches!(self.state(), "completed" | "failed" | "exception")
    }

    /// When something happens to it by itself.
    fn timer(&self) -> Option<i64> {
        match self.state() {
            "unscheduled" | "pending" => Some(self.deadline),
            "running" => Some(self.deadline.min(self.runs.last().unwrap().taken_until)),
            _ => None,
        }
    }

    /// As the API tells it, as far as it is compared.
    fn describe(&self) -> Value {
        let runs: Vec<Value> = self
            .runs
            .iter()
            .map(|run| json!([run.state, run.created, run.resolved]))
            .collect();
        json!([self.state(), self.priority, self.retries_left, runs])
    }
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) now: i64,
    pub(crate) tasks: BTreeMap<String, Task>,
    /// Groups by name: until when they last, and whether they are sealed.
    pub(crate) groups: BTreeMap<String, (i64, bool)>,
    pub(crate) places: u64,
}

/// The status that a refused call is answered with.
pub(crate) type Outcome = Result<(), u16>;

impl Model {
    /// What everybody can see of all tasks.
    pub(crate) fn describe(&self) -> BTreeMap<String, Value> {
        let tasks = self.tasks.iter();
        tasks.map(|(id, task)| (id.clone(), task.describe())).collect()
    }

    /// The pending tasks in the order in which they became so.
    pub(crate) fn pending(&self) -> Vec<String> {
        let mut pending: Vec<(u64, &String)> = self
            .tasks
            .iter()
            .filter(|(_, task)| task.state() == "pending")
            .map(|(id, task)| (task.place, id))
            .collect();
        pending.sort_unstable();
        pending.into_iter().map(|(_, id)| id.clone()).collect()
    }

    pub(crate) fn running(&self) -> BTreeSet<String> {
        let running = self.tasks.iter().filter(|(_, task)| task.state() == "running");
        running.map(|(id, _)| id.clone()).collect()
    }

    /// What the next claim gets: the most urgent, and of those the first.
    pub(crate) fn next_in_line(&self, count: usize) -> Vec<String> {
        let mut line = self.pending();
        let urgency = |id: &String| URGENCY.iter().position(|name| *name == self.tasks[id].priority);
        line.sort_by_key(|id| std::cmp::Reverse(urgency(id)));
        line.truncate(count);
        line
    }

    pub(crate) fn create(&mut self, id: &str, task: Task) -> Outcome {
        if let Some(existing) = self.tasks.get(id) {
            let same = existing.definition == task.definition;
            return if same { Ok(()) } else { Err(409) };
        }
        if self.groups.get(&task.group).is_some_and(|(_, sealed)| *sealed) {
            return Err(409);
        }
        let mut task = task;
        for required in task.waits_for.clone() {
            if required == id {
                continue;
            }
            let Some(required_task) = self.tasks.get(&required) else {
                return Err(400);
            };
            if satisfies(required_task, task.any_end) {
                task.waits_for.remove(&required);
            }
        }
        let group = self.groups.entry(task.group.clone()).or_insert((0, false));
        group.0 = group.0.max(task.expires);
        let free = task.waits_for.is_empty();
        self.tasks.insert(id.to_owned(), task);
        if free {
            self.append(id, "scheduled");
        }
        Ok(())
    }

    /// A pending run at the end.
    fn append(&mut self, id: &str, created: &'static str) {
        self.places += 1;
        let task = self.tasks.get_mut(id).unwrap();
        task.place = self.places;
        task.runs.push(Run {
            state: "pending",
            created,
            resolved: None,
            taken_until: 0,
        });
    }

    pub(crate) fn claim(&mut self, id: &str, taken_until: i64) {
        let run = self.tasks.get_mut(id).unwrap().runs.last_mut().unwrap();
        assert_eq!(run.state, "pending");
        run.state = "running";
        run.taken_until = taken_until;
    }

    pub(crate) fn reclaim(&mut self, id: &str, run: usize) -> Outcome {
        let task = self.tasks.get(id).ok_or(404_u16)?;
        let is_last = run + 1 == task.runs.len();
        match task.runs.get(run) {
            _ if task.deadline <= self.now => Err(409),
            None => Err(404),
            Some(found) if found.state == "running" && is_last => Ok(()),
            Some(_) => Err(409),
        }
    }

    pub(crate) fn report(&mut self, id: &str, run: usize, reason: &str) -> Outcome {
        let task = self.tasks.get(id).ok_or(404_u16)?;
        let found = task.runs.get(run).ok_or(404_u16)?;
        if found.resolved.as_deref() == Some(reason) {
            return Ok(());
        }
        if found.state != "running" {
            return Err(409);
        }
        self.end(id, reason);
        Ok(())
    }

    pub(crate) fn cancel(&mut self, id: &str) -> Outcome {
        let task = self.tasks.get(id).ok_or(404_u16)?;
        if task.deadline <= self.now {
            return Err(409);
        }
        if !task.is_resolved() {
            self.end(id, "canceled");
        }
        Ok(())
    }

    pub(crate) fn rerun(&mut self, id: &str) -> Outcome {
        let task = self.tasks.get(id).ok_or(404_u16)?;
        if task.deadline <= self.now {
            return Err(409);
        }
        if task.runs.is_empty() {
            self.append(id, "rerun");
        } else if task.is_resolved() {
            let retries = task.retries.min(50 - task.runs.len() - 1);
            self.append(id, "rerun");
            self.tasks.get_mut(id).unwrap().retries_left = retries;
        }
        Ok(())
    }

    pub(crate) fn schedule(&mut self, id: &str) -> Outcome {
        let task = self.tasks.get(id).ok_or(404_u16)?;
        if task.deadline <= self.now {
            return Err(409);
        }
        if task.runs.is_empty() {
            self.append(id, "scheduled");
        }
        Ok(())
    }

    pub(crate) fn change_priority(&mut self, id: &str, priority: &str) -> Outcome {
        let task = self.tasks.get_mut(id).ok_or(404_u16)?;
        if task.deadline <= self.now || task.is_resolved() {
            return Err(409);
        }
        task.priority = priority.to_owned();
        Ok(())
    }

    fn members(&self, group: &str) -> Vec<String> {
        let members = self.tasks.iter().filter(|(_, task)| task.group == group);
        members.map(|(id, _)| id.clone()).collect()
    }

    pub(crate) fn seal(&mut self, group: &str) -> Outcome {
        self.groups.get_mut(group).ok_or(404_u16)?.1 = true;
        Ok(())
    }

    /// Cancels a group and answers which tasks that concerned.
    pub(crate) fn cancel_group(&mut self, group: &str) -> Result<Vec<String>, u16> {
        if !self.groups.get(group).ok_or(404_u16)?.1 {
            return Err(409);
        }
        let mut members = self.members(group);
        members.retain(|id| !self.tasks[id].is_resolved());
        for id in &members {
            self.resolve(id, "canceled");
        }
        for id in &members {
            self.release(id);
        }
        Ok(members)
    }

    pub(crate) fn change_group_priority(&mut self, group: &str, priority: &str) -> Result<Vec<String>, u16> {
        self.groups.get(group).ok_or(404_u16)?;
        let mut members = self.members(group);
        members.retain(|id| !self.tasks[id].is_resolved() && self.tasks[id].priority != priority);
        for id in &members {
            self.tasks.get_mut(id).unwrap().priority = priority.to_owned();
        }
        Ok(members)
    }

    /// Lets time pass, and what is due by then happen in its order.
    pub(crate) fn advance(&mut self, by: i64) {
        self.now += by;
        loop {
            let timers = self.tasks.iter();
            let due = timers.filter_map(|(id, task)| Some((task.timer()?, id.clone())));
            let Some((_, id)) = due.filter(|(time, _)| *time <= self.now).min() else {
                return;
            };
            let over = self.tasks[&id].deadline <= self.now;
            self.end(
                &id,
                if over {
                    "deadline-exceeded"
                } else {
                    "claim-expired"
                },
            );
        }
    }

    /// Forgets what has expired.
    pub(crate) fn forget(&mut self) {
        self.tasks.retain(|_, task| task.expires >= self.now);
        self.groups.retain(|_, (expires, _)| *expires >= self.now);
    }

    /// Ends the last run, lets go who waited for it.
    fn end(&mut self, id: &str, reason: &str) {
        self.resolve(id, reason);
        let created = match reason {
            "claim-expired" | "worker-shutdown" => Some("retry"),
            "intermittent-task" => Some("task-retry"),
            _ => None,
        };
        let task = self.tasks.get_mut(id).unwrap();
        if let Some(created) = created
            && task.retries_left > 0
        {
            task.retries_left -= 1;
            self.append(id, created);
        } else {
            self.release(id);
        }
    }

    fn resolve(&mut self, id: &str, reason: &str) {
        let task = self.tasks.get_mut(id).unwrap();
        if task.runs.is_empty() {
            task.runs.push(Run {
                state: "pending",
                created: "exception",
                resolved: None,
                taken_until: 0,
            });
        }
        let run = task.runs.last_mut().unwrap();
        run.state = match reason {
            "completed" => "completed",
            "failed" => "failed",
            _ => "exception",
        };
        run.resolved = Some(reason.to_owned());
    }

    fn release(&mut self, id: &str) {
        let ended = self.tasks[id].clone();
        let mut free = Vec::new();
        for (waiting, task) in &mut self.tasks {
            if satisfies(&ended, task.any_end)
                && task.waits_for.remove(id)
                && task.waits_for.is_empty()
                && task.runs.is_empty()
            {
                free.push(waiting.clone());
            }
        }
        for waiting in free {
            self.append(&waiting, "scheduled");
        }
    }
}

fn satisfies(task: &Task, any_end: bool) -> bool {
    if any_end {
        task.is_resolved()
    } else {
        task.state() == "completed"
    }
}
