//! Random calls and passing time, against the queue and against a simple model of it: after each step both have to tell the
//! same about every task, who is next in line, and what is being worked on.
//!
//! Each case is its seed; a failure says which it was, and what led to it. `TCW_TEST_SEEDS=1000` tries as many,
//! `TCW_TEST_SEED=7` just that one.

mod model;
#[path = "../queue_support/mod.rs"]
#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use model::{Model, Task};
use queue_support::caller::{Answer, Caller};
use queue_support::{POOL, Scene};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tcw_host::queue::TaskId;
use tcw_host::queue::embedded::EmbeddedConfig;

const MINUTE: i64 = 60_000;
/// Time passes by multiples of this. Nothing is ever due near one of them, so that the time that the test itself takes
/// changes nothing.
const TICK: i64 = 10 * MINUTE;
const CLAIM: i64 = 22 * MINUTE;
const STEPS: usize = 120;

const PRIORITIES: [&str; 3] = ["lowest", "medium", "highest"];
const REASONS: [&str; 7] = [
    "completed",
    "failed",
    "worker-shutdown",
    "intermittent-task",
    "malformed-payload",
    "resource-unavailable",
    "internal-error",
];

struct Case {
    scene: Scene,
    caller: Caller,
    random: StdRng,
    model: Model,
    start: i64,
    /// All ids there ever were, those of forgotten and of refused tasks included.
    ids: Vec<String>,
    groups: Vec<String>,
    history: Vec<String>,
    /// How often each kind of step was taken with success, and how often it was refused.
    steps: BTreeMap<&'static str, (usize, usize)>,
}

#[tokio::test]
async fn the_queue_does_what_its_model_does() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("TCW_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("TCW_TEST_SEEDS").unwrap_or(20),
    };
    let all_kinds = seeds.clone().count() >= 20;
    let mut steps: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
    for seed in seeds {
        println!("seed {seed}");
        for (step, (done, refused)) in Case::new(seed).await.go().await {
            let sum = steps.entry(step).or_default();
            *sum = (sum.0 + done, sum.1 + refused);
        }
    }
    println!("steps that were done and refused: {steps:?}");
    for (step, (done, refused)) in steps.into_iter().filter(|_| all_kinds) {
        assert!(done > 0, "{step} was never done");
        assert!(
            refused > 0 || matches!(step, "claim" | "time" | "restart"),
            "{step} was never refused"
        );
    }
}

fn configure(config: &mut EmbeddedConfig) {
    config.claim_timeout = Duration::from_millis(u64::try_from(CLAIM).unwrap());
    config.poll_timeout = Duration::from_millis(1);
}

impl Case {
    async fn new(seed: u64) -> Self {
        let scene = Scene::with(configure).await;
        let start = Utc::now().timestamp_millis();
        let mut random = StdRng::seed_from_u64(seed);
        let groups = (0..3).map(|_| slug(&mut random)).collect();
        Self {
            caller: scene.caller(),
            scene,
            random,
            model: Model {
                now: start,
                ..Model::default()
            },
            start,
            ids: Vec::new(),
            groups,
            history: Vec::new(),
            steps: BTreeMap::new(),
        }
    }

    async fn go(mut self) -> BTreeMap<&'static str, (usize, usize)> {
        for _ in 0..STEPS {
            self = self.step().await;
            self.compare().await;
        }
        self.scene.queue.stop().await;
        self.steps
    }

    async fn step(mut self) -> Self {
        match self.random.random_range(0..100) {
            0..25 => self.create().await,
            25..45 => self.claim().await,
            45..65 => self.report().await,
            65..70 => self.reclaim().await,
            70..86 => self.change().await,
            86..94 => self.change_group().await,
            94..99 => self.let_time_pass().await,
            _ => return self.restart().await,
        }
        self
    }

    /// The queue's process ends and another begins, which changes nothing.
    async fn restart(mut self) -> Self {
        self.history.push("the queue is started again".to_owned());
        self.steps.entry("restart").or_default().0 += 1;
        self.scene = self.scene.restart_with(configure).await;
        self.caller = self.scene.caller();
        let passed = u64::try_from(self.model.now - self.start).unwrap();
        self.scene
            .queue
            .advance(Duration::from_millis(passed))
            .await
            .unwrap();
        // What has expired is deleted at a start, before or after the time was moved on.
        self.model.forget();
        self.scene.queue.forget_expired().await.unwrap();
        self
    }

    async fn create(&mut self) {
        let again = self.ids.choose(&mut self.random).cloned();
        let again = again.filter(|_| self.random.random_ratio(1, 12));
        if let Some(id) = again {
            let Some(known) = self.model.tasks.get(&id).cloned() else {
                return;
            };
            let (mut task, mut definition) = (known.clone(), known.definition);
            if self.random.random() {
                definition["metadata"]["name"] = "another".into();
            }
            task.definition = definition.clone();
            // It was new some time ago, and is not accepted as such for ever.
            let created = DateTime::parse_from_rfc3339(definition["created"].as_str().unwrap()).unwrap();
            if created.timestamp_millis() < self.model.now || task.deadline <= self.model.now {
                return;
            }
            let expected = self.model.create(&id, task);
            let answer = self.caller.put(&format!("/task/{id}"), definition).await;
            return self.check("create", &id, &answer, expected);
        }
        let id = slug(&mut self.random);
        let number = i64::try_from(self.ids.len()).unwrap();
        // Each deadline differs from all others: what is due first is due first.
        let deadline = self.model.now + self.random.random_range(1..12) * TICK + 5 * MINUTE + number * 100;
        let expires = deadline + self.random.random_range(0..12) * TICK;
        let mut waits_for: BTreeSet<String> = BTreeSet::new();
        for _ in 0..self.random.random_range(0..4_usize).saturating_sub(1) {
            waits_for.extend(self.ids.choose(&mut self.random).cloned());
        }
        if self.random.random_ratio(1, 40) {
            waits_for.insert(id.clone());
        }
        let any_end = self.random.random();
        let retries = self.random.random_range(0..3);
        let priority = *PRIORITIES.choose(&mut self.random).unwrap();
        let group = self.groups.choose(&mut self.random).unwrap().clone();
        let definition = json!({
            "taskQueueId": POOL,
            "taskGroupId": group,
            "created": time(self.model.now),
            "deadline": time(deadline),
            "expires": time(expires),
            "dependencies": waits_for,
            "requires": if any_end { "all-resolved" } else { "all-completed" },
            "priority": priority,
            "retries": retries,
            "payload": {},
            "metadata": { "name": "n", "description": "d", "owner": "o", "source": "https://example.com" },
        });
        let task = Task {
            definition: definition.clone(),
            group,
            priority: priority.to_owned(),
            retries,
            retries_left: retries,
            deadline,
            expires,
            waits_for,
            any_end,
            place: 0,
            runs: Vec::new(),
        };
        let expected = self.model.create(&id, task);
        let answer = self.caller.put(&format!("/task/{id}"), definition).await;
        self.check("create", &id, &answer, expected);
        self.ids.push(id);
    }

    async fn claim(&mut self) {
        let count = self.random.random_range(1..4);
        let expected = self.model.next_in_line(count);
        let body = json!({ "workerGroup": "g", "workerId": "w", "tasks": count });
        let answer = self.caller.post("/claim-work/proj-test%2Flinux", body).await;
        self.check("claim", &format!("{expected:?}"), &answer, Ok(()));
        let mut claimed = Vec::new();
        for claim in answer.body["tasks"].as_array().unwrap() {
            let id = claim["status"]["taskId"].as_str().unwrap().to_owned();
            self.model.claim(&id, millis(&claim["takenUntil"]));
            let last_run = self.model.tasks[&id].runs.len() - 1;
            assert_eq!(claim["runId"], json!(last_run), "{}", self.story());
            claimed.push(id);
        }
        assert_eq!(claimed, expected, "{}", self.story());
    }

    /// A task and one of its runs: mostly ones that are there and running.
    fn some_run(&mut self) -> Option<(String, usize)> {
        let running: Vec<String> = self.model.running().into_iter().collect();
        let likely = running.choose(&mut self.random).cloned();
        let id = match likely {
            Some(id) if self.random.random_ratio(4, 5) => id,
            _ => self.ids.choose(&mut self.random)?.clone(),
        };
        let runs = self.model.tasks.get(&id).map_or(1, |task| task.runs.len());
        let last = runs.saturating_sub(1);
        let run = if self.random.random_ratio(4, 5) {
            last
        } else {
            self.random.random_range(0..=runs)
        };
        Some((id, run))
    }

    async fn report(&mut self) {
        let Some((id, run)) = self.some_run() else { return };
        let reason = *REASONS.choose(&mut self.random).unwrap();
        let (path, body) = match reason {
            "completed" | "failed" => (reason, Value::Null),
            _ => ("exception", json!({ "reason": reason })),
        };
        let expected = self.model.report(&id, run, reason);
        let answer = self
            .caller
            .post(&format!("/task/{id}/runs/{run}/{path}"), body)
            .await;
        self.check("report", &format!("{id}/{run} {reason}"), &answer, expected);
    }

    async fn reclaim(&mut self) {
        let Some((id, run)) = self.some_run() else { return };
        let expected = self.model.reclaim(&id, run);
        let answer = self
            .caller
            .post(&format!("/task/{id}/runs/{run}/reclaim"), Value::Null)
            .await;
        self.check("reclaim", &format!("{id}/{run}"), &answer, expected);
        if expected.is_ok() {
            let run = self.model.tasks.get_mut(&id).unwrap().runs.last_mut().unwrap();
            run.taken_until = millis(&answer.body["takenUntil"]);
        }
    }

    async fn change(&mut self) {
        let Some(id) = self.ids.choose(&mut self.random).cloned() else {
            return;
        };
        let (name, expected, body) = match self.random.random_range(0..4) {
            0 => ("cancel", self.model.cancel(&id), Value::Null),
            1 => ("rerun", self.model.rerun(&id), Value::Null),
            2 => ("schedule", self.model.schedule(&id), Value::Null),
            _ => {
                let priority = *PRIORITIES.choose(&mut self.random).unwrap();
                let expected = self.model.change_priority(&id, priority);
                ("priority", expected, json!({ "newPriority": priority }))
            }
        };
        let answer = self.caller.post(&format!("/task/{id}/{name}"), body).await;
        self.check(name, &id, &answer, expected);
    }

    async fn change_group(&mut self) {
        let group = self.groups.choose(&mut self.random).unwrap().clone();
        let path = format!("/task-group/{group}");
        match self.random.random_range(0..8) {
            0..2 => {
                let expected = self.model.seal(&group);
                let answer = self.caller.post(&format!("{path}/seal"), Value::Null).await;
                self.check("seal group", &group, &answer, expected);
            }
            2..6 => {
                let expected = self.model.cancel_group(&group);
                let answer = self.caller.post(&format!("{path}/cancel"), Value::Null).await;
                self.check_members("cancel group", &group, &answer, expected);
            }
            _ => {
                let priority = *PRIORITIES.choose(&mut self.random).unwrap();
                let expected = self.model.change_group_priority(&group, priority);
                let body = json!({ "newPriority": priority });
                let answer = self.caller.post(&format!("{path}/priority"), body).await;
                self.check_members("group priority", &group, &answer, expected);
            }
        }
        // Tasks that can never be created any more would leave little else to try.
        if self.model.groups.get(&group).is_some_and(|(_, sealed)| *sealed) {
            let fresh = slug(&mut self.random);
            if let Some(place) = self.groups.iter_mut().find(|name| **name == group)
                && self.random.random_ratio(1, 4)
            {
                *place = fresh;
            }
        }
    }

    async fn let_time_pass(&mut self) {
        let by = self.random.random_range(1..5) * TICK;
        self.model.advance(by);
        let duration = Duration::from_millis(u64::try_from(by).unwrap());
        self.scene.queue.advance(duration).await.unwrap();
        if self.random.random() {
            self.model.forget();
            self.scene.queue.forget_expired().await.unwrap();
        }
        self.steps.entry("time").or_default().0 += 1;
        self.history.push(format!(
            "it is {} minutes later",
            (self.model.now - self.start) / MINUTE
        ));
    }

    /// That a call came to what the model says.
    fn check(&mut self, step: &'static str, what: &str, answer: &Answer, expected: Result<(), u16>) {
        let status = answer.status;
        self.history.push(format!("{step} {what}: {status}"));
        let counts = self.steps.entry(step).or_default();
        match expected {
            Ok(()) => counts.0 += 1,
            Err(_) => counts.1 += 1,
        }
        assert_eq!(
            status,
            expected.err().unwrap_or(200),
            "{}\n{:#}",
            self.story(),
            answer.body
        );
    }

    fn check_members(
        &mut self,
        step: &'static str,
        group: &str,
        answer: &Answer,
        expected: Result<Vec<String>, u16>,
    ) {
        self.check(
            step,
            group,
            answer,
            expected.as_ref().map(drop).map_err(|status| *status),
        );
        if let Ok(members) = expected {
            assert_eq!(answer.body["taskIds"], json!(members), "{}", self.story());
        }
    }

    fn story(&self) -> String {
        format!("after these steps:\n  {}", self.history.join("\n  "))
    }

    /// That everything that can be seen is as the model says.
    async fn compare(&self) {
        let statuses = self
            .caller
            .post("/tasks/status", json!({ "taskIds": self.ids }))
            .await
            .ok();
        let seen: BTreeMap<String, Value> = statuses["statuses"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| {
                (
                    entry["taskId"].as_str().unwrap().to_owned(),
                    describe(&entry["status"]),
                )
            })
            .collect();
        assert_eq!(seen, self.model.describe(), "{}", self.story());

        let (pending, running) = (self.model.pending(), self.model.running());
        let counts = self
            .caller
            .get("/task-queues/proj-test%2Flinux/counts")
            .await
            .ok();
        assert_eq!(
            (&counts["pendingTasks"], &counts["claimedTasks"]),
            (&json!(pending.len()), &json!(running.len())),
            "{}",
            self.story()
        );
        assert_eq!(self.listed("pending").await, pending, "{}", self.story());
        let listed: BTreeSet<String> = self.listed("claimed").await.into_iter().collect();
        assert_eq!(listed, running, "{}", self.story());
    }

    /// A list of tasks, a few at a time.
    async fn listed(&self, kind: &str) -> Vec<String> {
        let (mut found, mut token) = (Vec::new(), String::new());
        loop {
            let path = format!("/task-queues/proj-test%2Flinux/{kind}?limit=5{token}");
            let page = self.caller.get(&path).await.ok();
            for task in page["tasks"].as_array().unwrap() {
                found.push(task["taskId"].as_str().unwrap().to_owned());
            }
            match page["continuationToken"].as_str() {
                Some(next) => token = format!("&continuationToken={next}"),
                None => return found,
            }
        }
    }
}

fn describe(status: &Value) -> Value {
    let runs: Vec<Value> = status["runs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| json!([run["state"], run["reasonCreated"], run["reasonResolved"]]))
        .collect();
    json!([status["state"], status["priority"], status["retriesLeft"], runs])
}

/// A task's id that depends on the seed alone.
fn slug(random: &mut StdRng) -> String {
    let mut uuid: [u8; 16] = random.random();
    uuid[6] = (uuid[6] & 0x0f) | 0x40;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    let text = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, uuid);
    text.parse::<TaskId>().unwrap();
    text
}

fn time(millis: i64) -> String {
    tcw_host::queue::format_time(DateTime::from_timestamp_millis(millis).unwrap())
}

fn millis(time: &Value) -> i64 {
    DateTime::parse_from_rfc3339(time.as_str().unwrap())
        .unwrap()
        .timestamp_millis()
}
