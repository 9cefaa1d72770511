//! What can happen to a task: cases, as data that a person can read.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tcw_abi::ErrorKind;
use tcw_host::task::TaskEvent;

pub(super) const NAMES: [&str; 3] = ["a", "b", "c"];

/// One of the calls of a task's life, of a plugin or of the engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    /// The plugin's number; `None` is the engine.
    pub(super) plugin: Option<usize>,
    pub(super) call: &'static str,
}

pub(super) const PLUGIN_CALLS: [&str; 8] = [
    "new_task_plugin",
    "prepare",
    "build_sandbox",
    "started",
    "stopped",
    "finished",
    "exception",
    "dispose",
];

pub(super) const ENGINE_CALLS: [&str; 6] = [
    "new_sandbox_builder",
    "start",
    "wait",
    "abort",
    "discard",
    "results.dispose",
];

impl Spot {
    pub(super) fn engine(call: &'static str) -> Self {
        Spot { plugin: None, call }
    }

    pub(super) fn plugin(plugin: usize, call: &'static str) -> Self {
        Spot {
            plugin: Some(plugin),
            call,
        }
    }

    pub(super) fn who(self) -> &'static str {
        self.plugin.map_or("engine", |plugin| NAMES[plugin])
    }

    /// Whether this line of the trace tells of this call's beginning.
    pub(super) fn is_told_by(self, line: &str) -> bool {
        line.strip_prefix(self.who())
            .and_then(|rest| rest.strip_prefix(' '))
            .and_then(|rest| rest.strip_prefix(self.call))
            .is_some_and(|rest| match self.call {
                "new_task_plugin" | "finished" | "exception" => {
                    rest.starts_with(' ') && rest != " ends" && !rest.starts_with(" heard")
                }
                _ => rest.is_empty(),
            })
    }
}

impl fmt::Debug for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.who(), self.call)
    }
}

/// What a call does that is not what it should.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Conduct {
    Answers(ErrorKind),
    Panics,
    /// Never returns, and heeds nothing.
    Hangs,
    /// Returns when the task is cancelled.
    WaitsForCancellation,
    /// `wait`: the sandbox runs until somebody ends it.
    Runs,
    /// `wait`: it ends by itself, without success.
    Fails,
    /// `stopped`: not successful.
    SaysNo,
    /// `started`: kills the sandbox.
    Kills,
}

impl Conduct {
    /// Does not return unless the task is given up.
    pub(super) fn blocks(self) -> bool {
        matches!(self, Conduct::Hangs | Conduct::WaitsForCancellation)
    }

    fn script(self) -> String {
        match self {
            Conduct::Answers(kind) => format!("error:{}", kind.name()),
            Conduct::Panics => "panic".to_owned(),
            Conduct::Hangs => "hang".to_owned(),
            Conduct::WaitsForCancellation => "until-cancelled".to_owned(),
            Conduct::Runs => "runs".to_owned(),
            Conduct::Fails => "fails".to_owned(),
            Conduct::SaysNo => "false".to_owned(),
            Conduct::Kills => "kill".to_owned(),
        }
    }
}

impl fmt::Debug for Conduct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Conduct::Answers(kind) => write!(f, "answers {}", kind.name()),
            Conduct::Panics => write!(f, "panics"),
            Conduct::Hangs => write!(f, "hangs"),
            Conduct::WaitsForCancellation => write!(f, "waits until the task is cancelled"),
            Conduct::Runs => write!(f, "runs until it is ended"),
            Conduct::Fails => write!(f, "ends without success"),
            Conduct::SaysNo => write!(f, "says that the task failed"),
            Conduct::Kills => write!(f, "kills the sandbox"),
        }
    }
}

/// What the worker tells the task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Cancelled,
    Deadline,
    ClaimLost,
    WorkerShutdown,
    MaxRunTime,
}

impl Event {
    pub(super) fn is_elsewhere(self) -> bool {
        matches!(self, Event::Cancelled | Event::Deadline | Event::ClaimLost)
    }

    pub(super) fn gives_up(self) -> bool {
        self != Event::MaxRunTime
    }

    pub(super) fn sent(self) -> TaskEvent {
        match self {
            Event::Cancelled => TaskEvent::Cancelled,
            Event::Deadline => TaskEvent::Deadline,
            Event::ClaimLost => TaskEvent::ClaimLost,
            Event::WorkerShutdown => TaskEvent::WorkerShutdown,
            Event::MaxRunTime => TaskEvent::MaxRunTime(Duration::from_secs(7)),
        }
    }
}

/// What the queue says to the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Queue {
    Takes,
    /// Cannot be reached so often, then takes it.
    Away(usize),
    /// Somebody else has resolved the run.
    Conflicts,
    Refuses,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    Fits,
    Malformed,
    /// The host itself panics over it.
    HostPanics,
}

/// A deviation from a task to which nothing happens.
#[derive(Clone, Copy, Debug)]
enum Deviation {
    Does(Spot, Conduct),
    /// Sent when the call is under way; `held`: the call lasts until then.
    Sent(Spot, Event, bool),
}

/// Everything that happens to one task.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) plugins: usize,
    /// Whether the author wrote keys of the plugins.
    pub(super) keys: bool,
    pub(super) payload: Payload,
    pub(super) queue: Queue,
    pub(super) conduct: BTreeMap<Spot, Conduct>,
    pub(super) events: BTreeMap<Spot, Vec<Event>>,
}

/// A script that a person can follow.
impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = if self.keys { "with" } else { "without" };
        writeln!(
            f,
            "a task of plugins {} {keys} keys, payload: {:?}, queue: {:?}",
            NAMES[..self.plugins].join(", "),
            self.payload,
            self.queue
        )?;
        for (spot, conduct) in &self.conduct {
            writeln!(f, "  {spot:?} {conduct:?}")?;
        }
        for (spot, events) in &self.events {
            writeln!(f, "  when {spot:?} is called, the task is told: {events:?}")?;
        }
        Ok(())
    }
}

impl Case {
    /// A task of so many plugins, to which nothing happens.
    pub(super) fn plain(plugins: usize) -> Self {
        Case {
            plugins,
            keys: true,
            payload: Payload::Fits,
            queue: Queue::Takes,
            conduct: BTreeMap::new(),
            events: BTreeMap::new(),
        }
    }

    pub(super) fn of(&self, spot: Spot) -> Option<Conduct> {
        self.conduct.get(&spot).copied()
    }

    pub(super) fn sent_at(&self, spot: Spot) -> &[Event] {
        self.events.get(&spot).map_or(&[], Vec::as_slice)
    }

    fn with(mut self, deviations: &[Deviation]) -> Self {
        let wait = Spot::engine("wait");
        for deviation in deviations {
            match *deviation {
                Deviation::Does(spot, conduct) => {
                    let spot = self.existing(spot);
                    if conduct == Conduct::Kills {
                        self.conduct.entry(wait).or_insert(Conduct::Runs);
                    }
                    self.conduct.insert(spot, conduct);
                }
                Deviation::Sent(spot, event, held) => {
                    // It means something for a sandbox that runs only.
                    let spot = if event == Event::MaxRunTime {
                        wait
                    } else {
                        self.existing(spot)
                    };
                    let holds = if spot == wait {
                        Conduct::Runs
                    } else {
                        Conduct::WaitsForCancellation
                    };
                    if held {
                        self.conduct.entry(spot).or_insert(holds);
                    }
                    self.events.entry(spot).or_default().push(event);
                }
            }
        }
        // Nobody would end these otherwise, and `wait` may last for ever.
        let ended = self.sent_at(wait).iter().any(|event| {
            event.gives_up() || *event == Event::MaxRunTime && self.of(wait) == Some(Conduct::Runs)
        });
        if matches!(
            self.of(wait),
            Some(Conduct::Runs | Conduct::Hangs | Conduct::WaitsForCancellation)
        ) && !ended
        {
            self.events.entry(wait).or_default().push(Event::Cancelled);
        }
        self
    }

    fn existing(&self, spot: Spot) -> Spot {
        Spot {
            plugin: spot.plugin.map(|plugin| plugin % self.plugins),
            ..spot
        }
    }

    /// The script of the engine, or of a plugin.
    pub(super) fn script(&self, plugin: Option<usize>) -> Value {
        let mine = self.conduct.iter().filter(|(spot, _)| spot.plugin == plugin);
        let mut script: Map<String, Value> = mine
            .map(|(spot, conduct)| (spot.call.to_owned(), json!(conduct.script())))
            .collect();
        if plugin == Some(0) {
            // What the author reads.
            script.entry("exception").or_insert(json!("upload-log"));
        }
        Value::Object(script)
    }

    pub(super) fn task_payload(&self) -> Value {
        match self.payload {
            Payload::Malformed => json!({"violations": ["scripted"]}),
            Payload::HostPanics => json!({"panic": true}),
            Payload::Fits if self.keys => json!({"command": [], "a": {}, "b": {}, "c": {}}),
            Payload::Fits => json!({"command": []}),
        }
    }

    /// Whether anything in it lasts until a bound.
    pub(super) fn is_slow(&self) -> bool {
        self.conduct.values().any(|conduct| conduct.blocks())
    }
}

fn spots() -> impl Strategy<Value = Spot> {
    let engine = prop::sample::select(&ENGINE_CALLS[..]).prop_map(Spot::engine);
    let plugin = (0..3usize, prop::sample::select(&PLUGIN_CALLS[..]))
        .prop_map(|(plugin, call)| Spot::plugin(plugin, call));
    prop_oneof![1 => engine, 2 => plugin]
}

fn conduct(spot: Spot) -> BoxedStrategy<Conduct> {
    // An engine that has no room is asked again until it has: that is not an end.
    let waits_for_room = matches!(spot.call, "new_sandbox_builder" | "start");
    let kinds: Vec<_> = ErrorKind::ALL
        .iter()
        .copied()
        .filter(|kind| !(waits_for_room && *kind == ErrorKind::MaxConcurrencyExceeded))
        // What `abort` answers to a sandbox that has ended is no fault, and the fake would not be telling the truth.
        .filter(|kind| {
            spot.call != "abort" || !matches!(kind, ErrorKind::SandboxTerminated | ErrorKind::SandboxAborted)
        })
        .collect();
    let common = prop_oneof![
        6 => prop::sample::select(kinds).prop_map(Conduct::Answers),
        2 => Just(Conduct::Panics),
        1 => Just(Conduct::Hangs),
    ];
    match spot.call {
        "wait" => prop_oneof![2 => Just(Conduct::Fails), 1 => common].boxed(),
        "stopped" => prop_oneof![1 => Just(Conduct::SaysNo), 2 => common].boxed(),
        "started" => prop_oneof![1 => Just(Conduct::Kills), 2 => common].boxed(),
        _ => common.boxed(),
    }
}

fn deviation() -> impl Strategy<Value = Deviation> {
    let does = spots()
        .prop_flat_map(|spot| (Just(spot), conduct(spot)))
        .prop_map(|(spot, conduct)| Deviation::Does(spot, conduct));
    let event = prop_oneof![
        2 => Just(Event::Cancelled),
        1 => Just(Event::Deadline),
        1 => Just(Event::ClaimLost),
        3 => Just(Event::WorkerShutdown),
        1 => Just(Event::MaxRunTime),
    ];
    let sent = (spots(), event, prop::bool::weighted(0.7))
        .prop_map(|(spot, event, held)| Deviation::Sent(spot, event, held));
    prop_oneof![1 => does, 1 => sent]
}

/// Any case. Smaller is: fewer plugins, fewer things that happen.
pub(super) fn cases() -> impl Strategy<Value = Case> {
    let payload = prop_oneof![
        20 => Just(Payload::Fits),
        2 => Just(Payload::Malformed),
        1 => Just(Payload::HostPanics),
    ];
    let queue = prop_oneof![
        10 => Just(Queue::Takes),
        2 => (1..3usize).prop_map(Queue::Away),
        1 => Just(Queue::Conflicts),
        1 => Just(Queue::Refuses),
    ];
    let deviations = prop::collection::vec(deviation(), 0..5);
    (1..4usize, any::<bool>(), payload, queue, deviations).prop_map(
        |(plugins, keys, payload, queue, deviations)| {
            let plain = Case {
                keys,
                payload,
                queue,
                ..Case::plain(plugins)
            };
            plain.with(&deviations)
        },
    )
}
