//! The client against a bad world: every call, and everything that can happen to it between here and the queue, over
//! real sockets. What has to come of each is the table in `outcome`.

#[expect(dead_code, reason = "other tests use the rest")]
mod proxy_support;
#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;
mod world_support;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::StreamExt as _;
use proxy_support::{Fault, Proxy, Rule};
use queue_support::{POOL, Scene, task};
use serde_json::json;
use tcw_host::queue::{
    ClientConfig, Queue as _, QueueClient, QueueError, RetryPolicy, TaskId, WorkerIdentity,
};
use world_support::{CALLS, Call, Cell, Outcome, Outcome::*};

/// What can happen, by the name that the table has for it.
fn faults(thief: &str) -> Vec<(&'static str, Fault)> {
    let status = |status| Fault::Status(status, "");
    vec![
        ("reset", Fault::Reset),
        ("hang", Fault::Hang),
        ("slow request", Fault::SlowRequest),
        ("cut request", Fault::CutRequest),
        ("slow answer", Fault::SlowAnswer),
        ("trickle", Fault::Trickle),
        ("cut answer", Fault::CutAnswer),
        ("lost answer", Fault::LostAnswer),
        ("twice", Fault::Twice),
        ("no HTTP", Fault::NotHttp),
        ("no JSON", Fault::NotJson),
        ("wrong shape", Fault::WrongShape),
        ("endless body", Fault::EndlessBody),
        ("endless header", Fault::EndlessHeader),
        ("400", status(400)),
        ("401", status(401)),
        ("403", status(403)),
        ("404", status(404)),
        ("409", status(409)),
        ("429", Fault::Status(429, "retry-after: 0\r\n")),
        ("500", status(500)),
        ("503 for ever", status(503)),
        ("302", Fault::Redirect(302, format!("{thief}/elsewhere"))),
        ("307", Fault::Redirect(307, format!("{thief}/elsewhere"))),
    ]
}

/// What has to come of a fault that happens once (or always, if it says so): the result, and the requests that were sent.
fn outcome(call: Call, fault: &str) -> Outcome {
    use Call::*;
    // A claim is never asked for twice, as the first answer may have held one; requests of libraries are theirs to
    // repeat.
    let once = matches!(call, Claim | Signed | Plain);
    let http = matches!(call, Signed | Plain);
    let fetch = matches!(call, FetchArtifact | FetchUrl | FetchIndex);
    let lost = match call {
        Claim => Error("Unavailable", 1),
        Signed | Plain => Error("ResourceUnavailable", 1),
        _ => Fine(2),
    };
    match (fault, call) {
        ("slow request" | "slow answer" | "twice", _) => Fine(1),
        // Any answer of storage that says 2xx is a receipt for all bytes.
        ("trickle" | "no JSON" | "wrong shape" | "endless body", Upload) => Fine(1),
        // The head is enough to know where to go.
        ("cut answer", FetchArtifact) => Fine(1),
        ("reset" | "hang" | "cut request" | "trickle" | "cut answer", _) => lost,
        ("lost answer" | "no HTTP" | "endless header", _) => lost,
        // Content is whatever it is; who knows what it has to be gives its hash.
        ("no JSON" | "wrong shape", Signed | Plain | FetchArtifact | FetchUrl) => Fine(1),
        ("wrong shape", Ping) => Fine(1),
        ("no JSON" | "wrong shape", Claim) => Error("Protocol 200", 1),
        ("no JSON" | "wrong shape", _) => Fine(2),
        ("endless body", FetchArtifact | FetchUrl) => Error("TaskFailed", 1),
        ("endless body", _) => lost,
        // Libraries are given any answer as it is.
        ("400" | "401" | "403" | "404" | "409" | "429" | "500" | "503 for ever", _) if http => Fine(1),
        ("401" | "403", _) if fetch => Error("MalformedPayload", 1),
        ("400" | "404" | "409", _) if fetch => Error("ResourceNotFound", 1),
        ("400", _) => Error("Invalid", 1),
        ("401", _) => Error("Unauthorized 401", 1),
        ("403", _) => Error("Unauthorized 403", 1),
        ("404", _) => Error("NotFound", 1),
        ("409", _) => Error("Conflict", 1),
        ("429", Claim) => Error("RateLimited", 1),
        ("429" | "500", _) if !once => Fine(2),
        ("500" | "503 for ever", Claim) => Error("Unavailable", 1),
        ("503 for ever", _) if fetch => Error("ResourceUnavailable", 6),
        ("503 for ever", _) => Error("Unavailable", 3),
        // Where an artifact is found is what the queue says with a redirection; what has no signature may follow one.
        ("302" | "307", Location | FetchArtifact | FetchUrl | Signed | Plain) => Fine(1),
        ("302" | "307", FetchIndex) => Error("ResourceNotFound", 1),
        ("302", _) => Error("Protocol 302", 1),
        ("307", _) => Error("Protocol 307", 1),
        _ => panic!("the table has nothing for {call:?} x {fault}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_has_its_outcome_for_everything_that_can_happen() {
    let scene = Arc::new(Scene::new().await);
    let thief = Proxy::start(scene.queue.root_url()).await;
    thief.rule(Rule::always("GET", "/elsewhere", Fault::Answer("{}".to_owned())));
    let mut cells = Vec::new();
    for (number, (name, fault)) in faults(&thief.url).into_iter().enumerate() {
        for (place, call) in CALLS.iter().enumerate() {
            cells.push((format!("p{number}/c{place}"), *call, name, fault.clone()));
        }
    }
    let count = cells.len();
    let wrong: Vec<String> = futures_util::stream::iter(cells)
        .map(|(pool, call, name, fault)| {
            let scene = Arc::clone(&scene);
            async move {
                let expected = outcome(call, name);
                let cell = Cell::new(&scene, &pool, call).await;
                let always = name.ends_with("for ever");
                let rule = if always { Rule::always } else { Rule::once };
                cell.proxy.rule(rule(call.method(), call.path(), fault.clone()));
                let found = cell.make().await;
                let mut problems = Vec::new();
                if found != expected {
                    problems.push(format!(
                        "came to {found:?} instead of {expected:?}: {}",
                        cell.said()
                    ));
                }
                // What a made-up answer says has happened has not.
                let made_up = matches!(fault, Fault::NotJson | Fault::WrongShape | Fault::EndlessBody)
                    || matches!(fault, Fault::Trickle | Fault::Redirect(..));
                let is_made_up = made_up && found == Fine(1);
                if matches!(found, Fine(_))
                    && !is_made_up
                    && let Err(problem) = cell.is_done().await
                {
                    problems.push(problem);
                }
                problems
                    .into_iter()
                    .map(|problem| format!("{call:?} x {name}: {problem}"))
                    .collect::<Vec<_>>()
            }
        })
        .buffer_unordered(24)
        .collect::<Vec<_>>()
        .await
        .concat();
    assert!(
        wrong.is_empty(),
        "{} of {count}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // Whoever we were sent to has seen no signature.
    let seen = thief.seen("GET", "/elsewhere");
    assert!(
        !seen.is_empty() && seen.iter().all(|seen| !seen.authorized),
        "{seen:?}"
    );
    assert!(thief.seen("POST", "/elsewhere").is_empty() && thief.seen("PUT", "/elsewhere").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_refused_works_as_soon_as_somebody_listens() {
    let scene = Arc::new(Scene::new().await);
    let cells = CALLS.iter().enumerate().map(|(place, call)| {
        let scene = Arc::clone(&scene);
        async move {
            let cell = Cell::new(&scene, &format!("refused/c{place}"), *call).await;
            cell.proxy.refuse().await;
            let expected = match call {
                Call::Claim | Call::Upload => "Unavailable",
                Call::Signed | Call::Plain => "ResourceUnavailable",
                Call::FetchArtifact | Call::FetchUrl | Call::FetchIndex => "ResourceUnavailable",
                _ => "Unavailable",
            };
            let found = cell.make().await;
            assert_eq!(found, Error(expected, 0), "{call:?}");
            assert!(cell.said().contains("refused"), "{call:?}: {}", cell.said());
            cell.proxy.listen();
            assert_eq!(cell.make().await, Fine(1), "{call:?}");
            cell.is_done().await.unwrap();
        }
    });
    futures_util::future::join_all(cells).await;
}

/// A client of the scene's queue behind a proxy, with nothing else said about it.
fn client(scene: &Scene, proxy: &Proxy, adjust: impl FnOnce(&mut ClientConfig)) -> QueueClient {
    let worker = WorkerIdentity {
        pool: POOL.parse().unwrap(),
        group: "g".to_owned(),
        id: "w".to_owned(),
    };
    let credentials = Some(scene.queue.credentials());
    let mut config = ClientConfig::new(proxy.url.clone(), credentials).with_worker(worker);
    adjust(&mut config);
    QueueClient::new(config).unwrap()
}

/// A clock that is minutes off, and whether the queue refuses what is signed by it.
struct Off {
    minutes: i64,
    refused: bool,
    clock: fn() -> SystemTime,
}

const CLOCKS: [Off; 4] = [
    Off {
        minutes: -10,
        refused: false,
        clock: || SystemTime::now() - Duration::from_secs(600),
    },
    Off {
        minutes: 10,
        refused: false,
        clock: || SystemTime::now() + Duration::from_secs(600),
    },
    Off {
        minutes: -20,
        refused: true,
        clock: || SystemTime::now() - Duration::from_secs(1200),
    },
    Off {
        minutes: 20,
        refused: true,
        clock: || SystemTime::now() + Duration::from_secs(1200),
    },
];

#[tokio::test]
async fn a_clock_that_is_off_costs_at_most_one_request() {
    let scene = Scene::new().await;
    for Off {
        minutes,
        refused,
        clock,
    } in CLOCKS
    {
        let proxy = Proxy::start(scene.queue.root_url()).await;
        let client = client(&scene, &proxy, |config| config.clock = clock);
        let id = scene.create().await;
        // What must not be repeated is not repeated; the clock is known then.
        if refused {
            let error = client.claim_work(1).await.unwrap_err();
            assert!(
                matches!(error, QueueError::Unauthorized { status: 401, .. }),
                "{error}"
            );
            assert!(
                error.to_string().contains("this machine's clock is 20 minutes"),
                "{error}"
            );
        }
        let claim = client.claim_work(1).await.unwrap().remove(0);
        assert_eq!(claim.task_id(), &id, "{minutes}");
        let requests = proxy.seen("POST", "/claim-work/").len();
        assert_eq!(requests, if refused { 2 } else { 1 }, "{minutes}");
        // The claim ends when the queue says so, by the clock that is on this wall.
        let left = |until: DateTime<Utc>| (until - DateTime::<Utc>::from(clock())).num_seconds();
        assert!(
            (1140..=1200).contains(&left(claim.taken_until)),
            "{minutes}: {}",
            claim.taken_until
        );
        // So does the task's deadline, in an hour by the queue's.
        let deadline = left(claim.deadline());
        assert!((3500..=3600).contains(&deadline), "{minutes}: {deadline}");
        let run = client.for_claim(&claim);
        let reclaimed = run.reclaim().await.unwrap();
        assert!((1140..=1200).contains(&left(reclaimed.taken_until)), "{minutes}");
        run.report_completed().await.unwrap();
        assert_eq!(proxy.seen("POST", "/reclaim").len(), 1);
    }
}

#[tokio::test]
async fn a_refusal_that_may_come_from_the_clock_says_so() {
    let scene = Scene::new().await;
    for Off {
        minutes,
        refused,
        clock,
    } in CLOCKS
    {
        let proxy = Proxy::start(scene.queue.root_url()).await;
        proxy.rule(Rule::always("GET", "/", Fault::NoDate));
        let client = client(&scene, &proxy, |config| config.clock = clock);
        let id = scene.create().await;
        let outcome = client.status(&id).await;
        assert_eq!(proxy.seen("GET", "/status").len(), 1);
        match outcome {
            Err(error @ QueueError::Unauthorized { status: 401, .. }) if refused => {
                assert!(error.to_string().contains("the clock"), "{error}");
            }
            outcome => assert!(outcome.is_ok() && !refused, "{minutes}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_is_left_alone_for_as_long_as_it_asks() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let proxy = Proxy::start(scene.queue.root_url()).await;
    let client = client(&scene, &proxy, |_| ());
    let dates: [&'static str; 2] = [
        "retry-after: 1\r\n",
        "date: Sun, 06 Nov 1994 08:49:36 GMT\r\nretry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
    ];
    for headers in dates {
        proxy.behave();
        proxy.rule(Rule::once("GET", "/status", Fault::Status(429, headers)));
        let started = Instant::now();
        client.status(&id).await.unwrap();
        assert!(started.elapsed() >= Duration::from_secs(1), "{headers}");
    }
}

#[tokio::test]
async fn a_queue_that_fails_for_minutes_is_asked_nine_times() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let proxy = Proxy::start(scene.queue.root_url()).await;
    proxy.rule(Rule::always("GET", "/status", Fault::Status(500, "")));
    // A thousandth of the usual: the minute that those attempts take is another test's.
    let usual = RetryPolicy::default();
    let client = client(&scene, &proxy, |config| {
        config.retry = RetryPolicy {
            first_pause: usual.first_pause / 1000,
            longest_pause: usual.longest_pause / 1000,
            ..usual
        }
    });
    let error = client.status(&id).await.unwrap_err();
    assert!(
        matches!(error, QueueError::Unavailable { attempts: 9, .. }),
        "{error}"
    );
    assert!(error.is_transient());
    assert_eq!(proxy.seen("GET", "/status").len(), 9);
    proxy.behave();
    client.status(&id).await.unwrap();
}

#[tokio::test]
async fn pages_that_do_not_end_are_not_turned_for_ever() {
    let scene = Scene::new().await;
    let id = scene.create().await;
    let proxy = Proxy::start(scene.queue.root_url()).await;
    let client = client(&scene, &proxy, |_| ());
    let now = Utc::now();
    let status = json!({ "status": {
        "taskId": id, "taskQueueId": POOL, "state": "pending", "retriesLeft": 5, "deadline": now, "expires": now,
        "runs": [],
    } });
    for (page, requests) in [
        // Nothing, and more of it.
        (
            json!({ "statuses": [], "artifacts": [], "continuationToken": "a" }),
            1,
        ),
        // The same page over and over; of one task there is one status.
        (
            json!({ "statuses": [status], "artifacts": [], "continuationToken": "a" }),
            2,
        ),
    ] {
        proxy.behave();
        let before = proxy.seen("POST", "/tasks/status").len();
        proxy.rule(Rule::always(
            "POST",
            "/tasks/status",
            Fault::Answer(page.to_string()),
        ));
        proxy.rule(Rule::always("GET", "/artifacts", Fault::Answer(page.to_string())));
        let errors = [
            client.statuses(std::slice::from_ref(&id)).await.unwrap_err(),
            client.list_artifacts(&id, None).await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.to_string().contains("its pages do not end"), "{error}");
        }
        assert_eq!(proxy.seen("POST", "/tasks/status").len() - before, requests);
    }
}

#[tokio::test]
async fn a_task_made_twice_is_one_task_and_another_one_under_its_id_is_refused() {
    let scene = Scene::new().await;
    let proxy = Proxy::start(scene.queue.root_url()).await;
    let client = client(&scene, &proxy, |_| ());
    let (id, definition) = (TaskId::random(), task());
    proxy.rule(Rule::once("PUT", "/task/", Fault::LostAnswer));
    client.create_task(&id, &definition).await.unwrap();
    assert_eq!(proxy.seen("PUT", "/task/").len(), 2);
    let mut other = definition.clone();
    other["deadline"] = json!(Utc::now() + TimeDelta::hours(2));
    let error = client.create_task(&id, &other).await.unwrap_err();
    assert!(matches!(error, QueueError::Conflict { .. }), "{error}");
}
