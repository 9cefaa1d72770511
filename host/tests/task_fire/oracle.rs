//! What has to hold for the trace of any task, however it ended.

use super::case::{Case, Conduct, Event, NAMES, Queue, Spot};
use super::model::Outcome;

/// What was seen of one task.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) outcome: Outcome,
    pub(super) reported: bool,
    pub(super) incident: Option<String>,
    /// 0 none, 1 non-fatal, 2 fatal.
    pub(super) effect: u8,
    /// Libraries.
    pub(super) unhealthy: Vec<String>,
    pub(super) trace: Vec<String>,
    /// The log that plugin `a` has published with `exception`.
    pub(super) log: Option<String>,
}

/// Everything that is wrong with it; empty if nothing is.
pub(super) fn complaints(case: &Case, seen: &Seen) -> Vec<String> {
    let mut check = Check {
        case,
        seen,
        found: Vec::new(),
    };
    check.resolved_once();
    check.order_of_hooks();
    check.barriers();
    check.given_back();
    check.log();
    check.what_the_plugins_hear();
    check.findings();
    check.found
}

struct Check<'a> {
    case: &'a Case,
    seen: &'a Seen,
    found: Vec<String>,
}

/// The word of the queue's line for an outcome.
fn told(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Completed => "queue completed",
        Outcome::Failed => "queue failed",
        Outcome::Intermittent => "queue exception intermittent-task",
        Outcome::Malformed => "queue exception malformed-payload",
        Outcome::Unavailable => "queue exception resource-unavailable",
        Outcome::Internal => "queue exception internal-error",
        Outcome::Shutdown => "queue exception worker-shutdown",
        Outcome::Elsewhere => "",
    }
}

fn is_report(line: &str) -> bool {
    ["queue completed", "queue failed", "queue exception "]
        .iter()
        .any(|report| line.starts_with(report))
}

impl Check<'_> {
    fn complain(&mut self, what: impl Into<String>) {
        self.found.push(what.into());
    }

    fn places(&self, meant: impl Fn(&str) -> bool) -> Vec<usize> {
        let lines = self.seen.trace.iter().enumerate();
        lines
            .filter(|(_, line)| meant(line))
            .map(|(place, _)| place)
            .collect()
    }

    fn begins(&self, spot: Spot) -> Vec<usize> {
        self.places(|line| spot.is_told_by(line))
    }

    fn ends(&self, spot: Spot) -> Vec<usize> {
        let line = format!("{} {} ends", spot.who(), spot.call);
        self.places(|other| other == line)
    }

    /// Every `first` is before every `then`.
    fn before(&mut self, first: &[usize], then: &[usize], what: &str) {
        if let (Some(last), Some(earliest)) = (first.iter().max(), then.iter().min())
            && last >= earliest
        {
            self.complain(format!("{what}: line {last} should be before line {earliest}"));
        }
    }

    fn resolved_once(&mut self) {
        let reports = self.places(is_report);
        let seen = self.seen;
        let tried = match (seen.outcome, self.case.queue) {
            (Outcome::Elsewhere, Queue::Conflicts) => reports.len() <= 1,
            (Outcome::Elsewhere, _) => reports.is_empty(),
            _ => reports.len() == 1 && seen.trace[reports[0]] == told(seen.outcome),
        };
        if !tried {
            self.complain(format!(
                "{:?} was reported so often: {}",
                seen.outcome,
                reports.len()
            ));
        }
        let taken = match self.case.queue {
            Queue::Takes | Queue::Away(_) => seen.outcome != Outcome::Elsewhere,
            Queue::Conflicts | Queue::Refuses => false,
        };
        if seen.reported != taken {
            self.complain(format!(
                "reported: {}, but the queue: {:?}",
                seen.reported, self.case.queue
            ));
        }
    }

    fn order_of_hooks(&mut self) {
        const ORDER: [&str; 6] = [
            "new_task_plugin",
            "prepare",
            "build_sandbox",
            "started",
            "stopped",
            "finished",
        ];
        for (plugin, name) in NAMES.into_iter().enumerate().take(self.case.plugins) {
            let at = |call| Spot::plugin(plugin, call);
            for call in super::case::PLUGIN_CALLS {
                if self.begins(at(call)).len() > 1 {
                    self.complain(format!("{name}.{call} more than once"));
                }
            }
            for pair in ORDER.windows(2) {
                let (first, then) = (self.begins(at(pair[0])), self.begins(at(pair[1])));
                if pair[1] != "finished" && first.is_empty() && !then.is_empty() {
                    self.complain(format!("{name}.{} without {}", pair[1], pair[0]));
                }
                self.before(&first, &then, "hooks of one plugin");
            }
            let (finished, exception) = (self.begins(at("finished")), self.begins(at("exception")));
            self.before(&finished, &exception, "finished before exception");
            let made = self.places(|line| line == format!("{name} made")).len();
            let disposed = self.begins(at("dispose"));
            if disposed.len() != made {
                self.complain(format!(
                    "{name} was made {made} times and disposed of {}",
                    disposed.len()
                ));
            }
            for call in ORDER.into_iter().chain(["exception"]) {
                let begun = self.begins(at(call));
                self.before(&begun, &disposed, "no hook after dispose");
            }
        }
    }

    fn barriers(&mut self) {
        let all = |call| (0..self.case.plugins).map(move |plugin| Spot::plugin(plugin, call));
        let begin =
            |this: &Self, call| -> Vec<usize> { all(call).flat_map(|spot| this.begins(spot)).collect() };
        let end = |this: &Self, call| -> Vec<usize> { all(call).flat_map(|spot| this.ends(spot)).collect() };
        let engine = |this: &Self, call| this.begins(Spot::engine(call));
        let engine_ends = |this: &Self, call| this.ends(Spot::engine(call));

        let reports = self.places(is_report);
        // Also if the queue knew better.
        let early = !self.places(|line| line == told(Outcome::Shutdown)).is_empty();
        let rules: [(Vec<usize>, Vec<usize>, &str); 9] = [
            (
                end(self, "prepare"),
                begin(self, "build_sandbox"),
                "all prepared before any builds",
            ),
            (
                engine_ends(self, "new_sandbox_builder"),
                begin(self, "build_sandbox"),
                "a builder before any builds",
            ),
            (
                end(self, "build_sandbox"),
                engine(self, "start"),
                "all built before the start",
            ),
            (
                engine_ends(self, "start"),
                begin(self, "started"),
                "the start before any is told of it",
            ),
            (
                end(self, "started"),
                begin(self, "stopped"),
                "started returns before stopped",
            ),
            (
                engine(self, "wait"),
                begin(self, "stopped"),
                "wait before stopped",
            ),
            (
                end(self, "stopped"),
                begin(self, "finished"),
                "all stopped before any finishes",
            ),
            (
                if early { Vec::new() } else { end(self, "finished") },
                reports.clone(),
                "finished before the report",
            ),
            (
                reports.clone(),
                begin(self, "dispose"),
                "the report before anything is disposed of",
            ),
        ];
        for (first, then, what) in rules {
            self.before(&first, &then, what);
        }
        for (call, then) in [
            ("prepare", "build_sandbox"),
            ("build_sandbox", "started"),
            ("started", "stopped"),
        ] {
            let (had, have) = (begin(self, call).len(), begin(self, then).len());
            if have > 0 && had != self.case.plugins {
                self.complain(format!("{then} although only {had} plugins had {call}"));
            }
        }
        // Only a call that lasts until a bound is left behind.
        if early {
            self.before(
                &reports,
                &begin(self, "exception"),
                "worker-shutdown: the report before what is published",
            );
        } else if !self.case.is_slow() {
            self.before(
                &end(self, "exception"),
                &reports,
                "what is published before the report",
            );
        }
        let given_back: Vec<usize> = ["results.dispose", "discard"]
            .into_iter()
            .flat_map(|call| engine(self, call))
            .collect();
        self.before(
            &begin(self, "dispose"),
            &given_back,
            "the plugins before what the engine made",
        );
        let waits = !all("dispose").any(|spot| self.case.of(spot) == Some(Conduct::Hangs));
        if waits {
            self.before(
                &end(self, "dispose"),
                &given_back,
                "the plugins' end before what the engine made",
            );
        }
    }

    fn given_back(&mut self) {
        let (made, gone) = (
            self.places(|line| line == "engine made").len(),
            self.places(|line| line == "engine gone").len(),
        );
        // The fake does not know that it is gone if its call to go fails first.
        // Nor can it be had back if it was killed, and `wait` does not bring what it left.
        let killed = self
            .case
            .conduct
            .values()
            .any(|conduct| *conduct == Conduct::Kills)
            || self
                .case
                .sent_at(Spot::engine("wait"))
                .contains(&Event::MaxRunTime);
        let wait = self.case.of(Spot::engine("wait"));
        let withheld = killed && matches!(wait, Some(Conduct::Answers(_) | Conduct::Panics | Conduct::Hangs));
        let fails = withheld || self.case.of(Spot::engine("abort")).is_some();
        if gone > made || gone < made && !fails {
            self.complain(format!("the engine made {made} and got back {gone}"));
        }
        let count = |call| self.begins(Spot::engine(call)).len();
        let (discards, disposals, starts, waits) = (
            count("discard"),
            count("results.dispose"),
            count("start"),
            count("wait"),
        );
        if discards + disposals > 1 {
            self.complain(format!(
                "{discards} times discarded, {disposals} result sets disposed of"
            ));
        }
        if starts > 1 {
            self.complain("started more than once");
        }
        if disposals > 0 && waits == 0 {
            self.complain("a result set that nobody waited for");
        }
    }

    fn log(&mut self) {
        for line in &self.seen.trace {
            let words: Vec<&str> = line.split(' ').collect();
            let wrong = match words.as_slice() {
                [_, "log-in-stopped", answer] => *answer != "ContractViolation",
                [_, "log-in-finished" | "log-in-exception", answer] => *answer != "Ok",
                _ => false,
            };
            if wrong {
                self.found.push(format!("closed too early or too late: {line}"));
            }
        }
        let Some(log) = &self.seen.log else { return };
        // What goes wrong when the log is closed cannot be in it.
        let in_time = self.places(|line| line.contains(" finished ")).is_empty();
        if self.seen.outcome == Outcome::Internal && in_time {
            match &self.seen.incident {
                Some(incident) if log.contains(incident.as_str()) => {}
                _ => self.found.push(format!("no incident in the log: {log}")),
            }
            if log.contains("scripted") || log.contains("panics in") {
                self.found.push(format!("details in the log: {log}"));
            }
        }
    }

    fn what_the_plugins_hear(&mut self) {
        let reason = match self.seen.outcome {
            // Whatever it was before.
            Outcome::Elsewhere => return,
            Outcome::Completed | Outcome::Failed => "",
            other => told(other).trim_start_matches("queue exception "),
        };
        let success = self.seen.outcome == Outcome::Completed;
        for line in &self.seen.trace {
            let words: Vec<&str> = line.split(' ').collect();
            let wrong = match words.as_slice() {
                [_, "exception", "ends" | "heard"] => false,
                [_, "exception", told] if NAMES.contains(&words[0]) => *told != reason,
                [_, "finished", "false"] => success,
                _ => false,
            };
            if wrong {
                self.found
                    .push(format!("{:?}, but the plugin heard: {line}", self.seen.outcome));
            }
        }
    }

    fn findings(&mut self) {
        use tcw_abi::ErrorKind;
        let begun = |this: &Self, spot: &Spot| !this.begins(*spot).is_empty();
        let (mut fatal, mut internal, mut sick) = (false, false, Vec::new());
        for (spot, conduct) in &self.case.conduct {
            if !begun(self, spot) {
                continue;
            }
            let library = format!("lib-{}", spot.who());
            match conduct {
                Conduct::Answers(ErrorKind::FatalInternal) => fatal = true,
                Conduct::Panics | Conduct::Answers(ErrorKind::Panicked) => {
                    internal = true;
                    if !self.seen.unhealthy.contains(&library) {
                        self.found.push(format!("{library} panicked and is well"));
                    }
                    sick.push(library);
                }
                Conduct::Hangs => {
                    internal = true;
                    sick.push(library);
                }
                Conduct::Answers(_) | Conduct::WaitsForCancellation => internal = true,
                _ => {}
            }
        }
        // A sandbox that is not ended by `abort` is waited for until a bound.
        let abort = Spot::engine("abort");
        let wait = self.case.of(Spot::engine("wait"));
        let endless = wait.is_some_and(|wait| wait == Conduct::Runs || wait.blocks());
        if endless && begun(self, &abort) && self.case.of(abort).is_some() {
            internal = true;
            sick.push("lib-engine".to_owned());
        }
        for library in &self.seen.unhealthy {
            if !sick.contains(library) {
                self.found
                    .push(format!("{library} is said to be unhealthy for no reason"));
            }
        }
        let seen = self.seen;
        if fatal != (seen.effect == 2) {
            self.complain(format!(
                "a fatal error: {fatal}, the effect on the worker: {}",
                seen.effect
            ));
        }
        let expected = !seen.unhealthy.is_empty() || seen.outcome == Outcome::Internal;
        if expected && seen.effect == 0 {
            self.complain("an error of ours without an effect on the worker");
        }
        let refused = self.case.queue == Queue::Refuses && seen.outcome != Outcome::Elsewhere;
        let host = self.case.payload == super::case::Payload::HostPanics;
        if !(fatal || internal || refused || host) && seen.effect != 0 {
            self.complain("an effect on the worker for no reason");
        }
        if (seen.effect > 0) != seen.incident.is_some() {
            self.complain(format!(
                "effect {} with incident {:?}",
                seen.effect, seen.incident
            ));
        }
    }
}
