//! What the rules say about a case: the ways in which its task may end.
//!
//! Where things happen at the same time, or an event comes while its call goes on by itself, there is more than one.
//! This knows the rules of the design and nothing of how the host follows them.

use std::collections::BTreeSet;

use tcw_abi::ErrorKind;

use super::case::{Case, Conduct, Event, Payload, Queue, Spot};

/// How a task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Completed,
    Failed,
    Intermittent,
    Malformed,
    Unavailable,
    Internal,
    Shutdown,
    Elsewhere,
}

/// What an error means for the task, the milder first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Failed,
    Intermittent,
    Malformed,
    Unavailable,
    /// It says that something was decided, which it was not.
    Echo,
    Internal,
}

fn weight(case: &Case, spot: Spot, conduct: Conduct) -> Option<Weight> {
    use ErrorKind::*;
    let kind = match conduct {
        Conduct::Answers(kind) => kind,
        Conduct::Panics => return Some(Weight::Internal),
        _ => return None,
    };
    // Of a malformed payload, the plugins are given nothing.
    let has_keys = case.keys && case.payload == Payload::Fits;
    let payload_led_there = matches!(
        spot.call,
        "new_task_plugin" | "prepare" | "build_sandbox" | "new_sandbox_builder" | "start"
    ) && (spot.plugin.is_none() || has_keys);
    Some(match kind {
        TaskFailed => Weight::Failed,
        IntermittentTask => Weight::Intermittent,
        MalformedPayload => Weight::Malformed,
        ResourceUnavailable => Weight::Unavailable,
        // A plugin that finds that the sandbox has ended is right.
        SandboxTerminated if spot.call == "started" => return None,
        SandboxTerminated | SandboxAborted | Cancelled | MaxConcurrencyExceeded => Weight::Echo,
        FeatureNotSupported
        | MutableMountNotSupported
        | ImmutableMountNotSupported
        | NamingConflict
        | ResourceNotFound
        | NoSuchDisplay
        | HandlerInterrupt
        | ShellTerminated
        | ShellAborted
            if payload_led_there =>
        {
            Weight::Malformed
        }
        _ => Weight::Internal,
    })
}

/// The calls of one stage; those of a chain follow each other.
type Stage = (Name, Vec<Vec<Spot>>);

#[derive(Clone, Copy, PartialEq)]
enum Name {
    Prepare,
    Build,
    Start,
    Run,
    Stop,
    Finish,
}

fn stages(case: &Case) -> Vec<Stage> {
    let hooks = |call| (0..case.plugins).map(move |plugin| vec![Spot::plugin(plugin, call)]);
    let mut prepare: Vec<_> = (0..case.plugins)
        .map(|plugin| {
            vec![
                Spot::plugin(plugin, "new_task_plugin"),
                Spot::plugin(plugin, "prepare"),
            ]
        })
        .collect();
    prepare.push(vec![Spot::engine("new_sandbox_builder")]);
    let mut run: Vec<_> = hooks("started").collect();
    run.push(vec![Spot::engine("wait")]);
    vec![
        (Name::Prepare, prepare),
        (Name::Build, hooks("build_sandbox").collect()),
        (Name::Start, vec![vec![Spot::engine("start")]]),
        (Name::Run, run),
        (Name::Stop, hooks("stopped").collect()),
        (Name::Finish, hooks("finished").collect()),
    ]
}

/// What happens within a stage.
#[derive(Default)]
struct Happens {
    /// Events that come for certain before the stage can end by itself.
    certain: Vec<Vec<Event>>,
    /// Events that may come in time.
    possible: Vec<Vec<Event>>,
    faults: Vec<Weight>,
    /// A call lasts until its bound.
    overdue: bool,
}

fn happens(case: &Case, chains: &[Vec<Spot>]) -> Happens {
    let mut result = Happens::default();
    for chain in chains {
        for spot in chain {
            let conduct = case.of(*spot);
            let events = case.sent_at(*spot).to_vec();
            let given_up = events.iter().any(|event| event.gives_up());
            let lasts = match conduct {
                // Somebody may be faster in ending it otherwise.
                Some(Conduct::Runs) => {
                    let killed = case.conduct.values().any(|conduct| *conduct == Conduct::Kills);
                    given_up && !killed && !events.contains(&Event::MaxRunTime)
                }
                Some(conduct) => conduct.blocks(),
                None => false,
            };
            if lasts && given_up {
                result.certain.push(events);
            } else {
                result.possible.push(events);
                result.overdue |= lasts;
            }
            let weight = conduct.and_then(|conduct| weight(case, *spot, conduct));
            result.faults.extend(weight);
            if lasts || weight.is_some() {
                break;
            }
        }
    }
    result
}

fn of_events(events: &[Vec<Event>], outcomes: &mut BTreeSet<Outcome>) {
    for together in events {
        let mut giving_up = together.iter().filter(|event| event.gives_up());
        let first = giving_up.next();
        if first.is_some_and(|event| event.is_elsewhere()) {
            // Whatever came after that changes nothing.
            outcomes.insert(Outcome::Elsewhere);
        } else if first.is_some() {
            outcomes.insert(Outcome::Shutdown);
            if giving_up.any(|event| event.is_elsewhere()) {
                outcomes.insert(Outcome::Elsewhere);
            }
        }
    }
}

fn may_end_elsewhere(events: &[Vec<Event>]) -> bool {
    events.iter().flatten().any(|event| event.is_elsewhere())
}

struct Walk<'a> {
    case: &'a Case,
    stages: Vec<Stage>,
    outcomes: BTreeSet<Outcome>,
}

impl Walk<'_> {
    fn exception(&mut self, outcome: Outcome, mut events: Vec<Vec<Event>>) {
        for plugin in 0..self.case.plugins {
            events.push(self.case.sent_at(Spot::plugin(plugin, "exception")).to_vec());
        }
        events.push(self.case.sent_at(Spot::engine("abort")).to_vec());
        self.outcomes.insert(outcome);
        if may_end_elsewhere(&events) {
            self.outcomes.insert(Outcome::Elsewhere);
        }
    }

    fn of_weight(&mut self, weight: Weight, events: Vec<Vec<Event>>, at: Name) {
        match weight {
            // A failure is a verdict: it is published as one. While that is done already, it changes what is told.
            Weight::Failed if at == Name::Finish => self.verdict(false, &events),
            Weight::Failed => {
                // Whatever still ran was told that the task ends early, and so are those who finish.
                let heeds = |plugin| {
                    self.case.of(Spot::plugin(plugin, "finished")) == Some(Conduct::WaitsForCancellation)
                };
                if (0..self.case.plugins).any(heeds) {
                    self.verdict(false, &events);
                }
                self.from(5, events, false);
            }
            Weight::Intermittent => self.exception(Outcome::Intermittent, events),
            Weight::Malformed => self.exception(Outcome::Malformed, events),
            Weight::Unavailable => self.exception(Outcome::Unavailable, events),
            Weight::Echo | Weight::Internal => self.exception(Outcome::Internal, events),
        }
    }

    fn verdict(&mut self, success: bool, events: &[Vec<Event>]) {
        self.outcomes.insert(if success {
            Outcome::Completed
        } else {
            Outcome::Failed
        });
        if may_end_elsewhere(events) {
            self.outcomes.insert(Outcome::Elsewhere);
        }
    }

    /// On from a stage, with events that may not have been heard yet.
    fn from(&mut self, stage: usize, before: Vec<Vec<Event>>, success: bool) {
        let Some((name, mut chains)) = self.stages.get(stage).cloned() else {
            return self.verdict(success, &before);
        };
        if name == Name::Finish {
            // Who was never made is not told of the failure that it was.
            chains.retain(|chain| !chain.iter().any(|spot| self.was_never_made(*spot)));
        }
        let here = happens(self.case, &chains);
        let mut events = before;
        events.extend(here.possible);
        events.extend(here.certain.iter().cloned());
        of_events(&events, &mut self.outcomes);
        // After that, what a later event says is a matter of the exception, too.
        if may_end_elsewhere(&self.everything_about_exceptions())
            && !events.iter().flatten().all(|e| !e.gives_up())
        {
            self.outcomes.insert(Outcome::Elsewhere);
        }
        let heaviest = here.faults.iter().max().copied();
        if name == Name::Run && heaviest.is_some() {
            // The sandbox is not waited for, so the first decides.
            for weight in here.faults {
                self.of_weight(weight, events.clone(), name);
            }
            return;
        }
        if heaviest == Some(Weight::Internal) {
            // Nobody is waited for.
            return self.exception(Outcome::Internal, events);
        }
        if !here.certain.is_empty() {
            return;
        }
        if here.overdue {
            return self.exception(Outcome::Internal, events);
        }
        if let Some(weight) = heaviest {
            return self.of_weight(weight, events, name);
        }
        for success in self.successes(name, success) {
            self.from(stage + 1, events.clone(), success);
        }
    }

    fn was_never_made(&self, spot: Spot) -> bool {
        let made = spot
            .plugin
            .map(|plugin| self.case.of(Spot::plugin(plugin, "new_task_plugin")));
        matches!(made, Some(Some(Conduct::Answers(_) | Conduct::Panics)))
    }

    fn everything_about_exceptions(&self) -> Vec<Vec<Event>> {
        let mut events: Vec<_> = (0..self.case.plugins)
            .map(|plugin| self.case.sent_at(Spot::plugin(plugin, "exception")).to_vec())
            .collect();
        events.push(self.case.sent_at(Spot::engine("abort")).to_vec());
        events
    }

    /// Whether the task succeeds as far as it has come; both, if that depends on who is first.
    fn successes(&self, name: Name, success: bool) -> Vec<bool> {
        let any = |call, conduct| {
            (0..self.case.plugins).any(|plugin| self.case.of(Spot::plugin(plugin, call)) == Some(conduct))
        };
        match name {
            Name::Run => match self.case.of(Spot::engine("wait")) {
                Some(Conduct::Fails | Conduct::Runs) => vec![false],
                _ if any("started", Conduct::Kills) => vec![true, false],
                _ => vec![true],
            },
            Name::Stop => vec![success && !any("stopped", Conduct::SaysNo)],
            _ => vec![success],
        }
    }
}

/// The ways in which the task may end.
pub(super) fn allowed(case: &Case) -> BTreeSet<Outcome> {
    let mut walk = Walk {
        case,
        stages: stages(case),
        outcomes: BTreeSet::new(),
    };
    match case.payload {
        Payload::HostPanics => drop(walk.outcomes.insert(Outcome::Internal)),
        Payload::Fits => walk.from(0, Vec::new(), true),
        Payload::Malformed => {
            // The plugins are made, so that the log is published, and not asked for more.
            let chains: Vec<_> = (0..case.plugins)
                .map(|plugin| vec![Spot::plugin(plugin, "new_task_plugin")])
                .collect();
            let here = happens(case, &chains);
            let events: Vec<_> = here.possible.into_iter().chain(here.certain.clone()).collect();
            of_events(&events, &mut walk.outcomes);
            if !walk.outcomes.is_empty() && may_end_elsewhere(&walk.everything_about_exceptions()) {
                walk.outcomes.insert(Outcome::Elsewhere);
            }
            let heaviest = here.faults.iter().max().copied();
            if heaviest >= Some(Weight::Echo) || here.overdue && here.certain.is_empty() {
                walk.exception(Outcome::Internal, events.clone());
            }
            let internal = heaviest == Some(Weight::Internal);
            if !internal && !here.overdue && here.certain.is_empty() {
                walk.exception(Outcome::Malformed, events);
            }
        }
    }
    if case.queue == Queue::Conflicts {
        walk.outcomes = [Outcome::Elsewhere].into();
    }
    walk.outcomes
}
