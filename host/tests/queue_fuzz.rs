//! The embedded queue under requests that no client would send: it never panics, never answers with a fault of its own,
//! always answers in good form or closes, keeps its memory, and serves the next proper request.
//!
//! Requests are valid ones of every call, with bytes changed, or with their parts changed and then signed, so that what
//! lies behind the signature is met too. Each run says its seed; `TCW_FUZZ_SEED` repeats it, one request after the other
//! if `TCW_FUZZ_ONE_BY_ONE` is set, and `TCW_FUZZ_REQUESTS` says how many.

#[expect(dead_code, reason = "other tests use the rest")]
mod queue_support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use queue_support::raw::{Answer, Raw, Signing, address, exchange, temporary};
use queue_support::{POOL, Scene, in_an_hour, routes, task};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use tcw_host::queue::{Credentials, Queue as _, TaskId};

/// What parsers stumble over.
const TOKENS: &[&str] = &[
    "\0",
    "\r\n",
    "\r\n\r\n",
    "%",
    "%00",
    "%2e%2e%2f",
    "%ff",
    "../",
    "//",
    "?",
    "&",
    "=",
    "#",
    "\"",
    "\\",
    "{",
    "[",
    "]]]]",
    "null",
    "-1",
    "0",
    "1e999",
    "18446744073709551616",
    "9223372036854775807",
    "-9223372036854775808",
    "\u{202e}",
    "ü",
    "💥",
    "*",
    "**",
    "Hawk ",
    "bewit=",
    "bytes=0-0",
    "bytes=-1",
    "bytes=9-1",
    "bytes=0-18446744073709551615",
    "Content-Length: 5\r\n",
    "Transfer-Encoding: chunked\r\n",
    "Expect: 100-continue\r\n",
    "Upgrade: h2c\r\n",
    "2026-13-45T99:99:99.999Z",
    "9999-12-31T23:59:59.999Z",
    "+275760-09-13T00:00:00.000Z",
    "application/json",
];
/// More of this than a busy queue ever needs, and less than one of the bounded things unbounded would take.
const MEMORY: u64 = 400 << 20;

/// Counts panics, wherever in this process they happen.
static PANICS: AtomicUsize = AtomicUsize::new(0);

struct Fuzz {
    scene: Scene,
    root: Credentials,
    corpus: Vec<Raw>,
}

impl Fuzz {
    async fn new() -> Self {
        let scene = Scene::with(|config| {
            config.poll_timeout = Duration::from_millis(10);
            config.limits.head = Duration::from_millis(200);
            config.limits.body = Duration::from_millis(200);
            config.limits.stall = Duration::from_millis(200);
            config.max_artifact_size = 1 << 20;
            config.max_storage_size = 64 << 20;
        })
        .await;
        let root = scene.queue.credentials();
        let corpus = corpus(&scene, &root).await;
        let known: BTreeSet<String> = known_as(&scene, &corpus).await;
        let of_auth = routes::of_auth().into_iter().map(|name| format!("auth {name}"));
        let of_queue = routes::of_the_queue().into_iter().map(str::to_owned);
        assert_eq!(known, of_queue.chain(of_auth).collect(), "a request of each call");
        Fuzz { scene, root, corpus }
    }

    /// One request, from nothing but the seed and the corpus.
    fn request(&self, rng: &mut StdRng) -> Vec<u8> {
        let mut raw = self.corpus.choose(rng).expect("there are some").clone();
        if rng.random_bool(0.5) {
            // The parts first: the signature fits what is sent.
            if rng.random_bool(0.4) {
                raw.target = text(rng, &raw.target);
            }
            if rng.random_bool(0.5) && !raw.body.is_empty() {
                raw.body = match serde_json::from_slice::<Value>(&raw.body) {
                    Ok(mut value) if rng.random_bool(0.8) => {
                        change_value(rng, &mut value);
                        value.to_string().into_bytes()
                    }
                    _ => bytes(rng, &raw.body),
                };
            }
            if rng.random_bool(0.1) {
                raw.method = ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "X"]
                    .choose(rng)
                    .expect("some")
                    .to_string();
            }
            if rng.random_bool(0.1) {
                raw = raw.header("Range", text(rng, "bytes=0-5"));
            }
            let signing = Signing {
                ext: rng
                    .random_bool(0.1)
                    .then(|| text(rng, "eyJhdXRob3JpemVkU2NvcGVzIjpbXX0=").replace('"', "")),
                authorized_scopes: rng.random_bool(0.1).then(|| vec![text(rng, "queue:*")]),
                ..Signing::default()
            };
            let limited = temporary(&self.root, None, &["queue:*", "auth:*"]);
            let who = if rng.random_bool(0.8) {
                &self.root
            } else {
                &limited
            };
            if rng.random_bool(0.9) && !raw.target.starts_with("/storage/") {
                raw = raw.signed_as(who, &signing);
            }
            return raw.bytes();
        }
        if !raw.target.starts_with("/storage/") {
            raw = raw.signed(&self.root);
        }
        bytes(rng, &raw.bytes())
    }

    /// Sends it; the answer, if there is one, has to be in good form and not the server's own fault.
    async fn try_one(&self, request: &[u8], name: &str) {
        let answer = exchange(address(&self.scene.queue), request).await;
        let shown = || {
            format!(
                "{name}\n--- request\n{}\n--- answer\n{}",
                request.escape_ascii(),
                answer.escape_ascii()
            )
        };
        if answer.is_empty() {
            return;
        }
        let parsed = Answer::parse(&answer).unwrap_or_else(|wrong| panic!("{wrong}: {}", shown()));
        assert!(parsed.status != 500 && parsed.status != 502, "{}", shown());
        // A request that holds several, or a method HEAD, has no single length.
        let plain = ["HTTP/1.1 ", "Transfer-Encoding", "transfer-encoding", "HEAD"];
        let is_one = plain.iter().all(|mark| {
            let mark = mark.as_bytes();
            let count = |bytes: &[u8]| bytes.windows(mark.len()).filter(|part| *part == mark).count();
            count(request) + count(&answer) <= usize::from(mark.starts_with(b"HTTP"))
        });
        if is_one && let Some(length) = parsed.header("Content-Length") {
            assert_eq!(length.parse(), Ok(parsed.body.len()), "{}", shown());
        }
    }

    async fn still_serves(&self) {
        let id = self.scene.create().await;
        assert_eq!(self.scene.client.status(&id).await.unwrap().task_id, id);
    }
}

/// The queue's own names for the calls that are in a corpus.
async fn known_as(scene: &Scene, corpus: &[Raw]) -> BTreeSet<String> {
    let impostor = Credentials::new("tcw/root", "not the token");
    let mut names = BTreeSet::new();
    for raw in corpus {
        let path = raw.target.split('?').next().expect("a path");
        let of_auth = path.starts_with("/api/auth/");
        if !of_auth && !path.starts_with("/api/queue/") {
            continue;
        }
        // Refused once it is clear which call it is, and before anything comes of it.
        let odd = match of_auth {
            true => Raw::new(&scene.queue, &raw.method, path).signed(&impostor),
            false => Raw::new(&scene.queue, &raw.method, format!("{path}?nonsense=1")),
        };
        let error = odd.send(&scene.queue).await.json();
        let name = error["requestInfo"]["method"].as_str();
        names.insert(match of_auth {
            // Nobody looks at who asks for a sign of life.
            true => format!("auth {}", name.unwrap_or("ping")),
            false => name.unwrap_or_default().to_owned(),
        });
    }
    names
}

/// A proper request of every call, not yet signed.
async fn corpus(scene: &Scene, root: &Credentials) -> Vec<Raw> {
    let (queue, auth) = ("/api/queue/v1", "/api/auth/v1");
    let id = scene.create().await;
    let (_, run) = scene.claim().await;
    assert_eq!(run.task_id(), &id);
    let raw = |method: &str, target: String| Raw::new(&scene.queue, method, target);
    let s3 = json!({ "storageType": "s3", "contentType": "text/plain", "contentLength": 7, "expires": in_an_hour() });
    let artifact = format!("{queue}/task/{id}/runs/0/artifacts/public%2Fa");
    let made = raw("POST", artifact.clone())
        .json(&s3)
        .signed(root)
        .send(&scene.queue)
        .await;
    let put_url = made.json()["putUrl"].as_str().expect("a URL").to_owned();
    let upload = put_url
        .strip_prefix(scene.queue.root_url())
        .expect("ours")
        .to_owned();
    let mut put = raw("PUT", upload).header("Content-Type", "text/plain");
    put.body = b"content".to_vec();
    assert_eq!(put.send(&scene.queue).await.status, 200);
    let found = raw("GET", artifact.clone()).send(&scene.queue).await;
    let location = found.header("Location").expect("a redirect").to_owned();
    let download = location
        .strip_prefix(scene.queue.root_url())
        .expect("ours")
        .to_owned();
    let expires = in_an_hour();
    let reference =
        json!({ "storageType": "reference", "url": "https://a", "contentType": "a/b", "expires": expires });
    let link = json!({ "storageType": "link", "artifact": "public/a", "expires": expires });
    let error = json!({ "storageType": "error", "reason": "too-large-file-on-worker", "message": "m", "expires": expires });
    let client = json!({ "description": "", "scopes": ["a"], "expires": expires });
    let mut definition = task();
    definition["dependencies"] = json!([id]);
    definition["scopes"] = json!(["a:b"]);
    definition["expires"] = json!(expires);
    let ids = json!({ "taskIds": [id, TaskId::random()] });
    let claim = json!({ "workerGroup": "g", "workerId": "w", "tasks": 2 });
    let mut all = vec![
        put,
        raw("GET", download.clone()).header("Range", "bytes=1-3"),
        raw("HEAD", download),
        raw("PUT", format!("{queue}/task/{}", TaskId::random())).json(&definition),
        raw("POST", format!("{queue}/tasks")).json(&ids),
        raw("POST", format!("{queue}/tasks/status?limit=1")).json(&ids),
        raw("POST", format!("{queue}/claim-work/{}", POOL.replace('/', "%2F"))).json(&claim),
        raw("POST", format!("{queue}/task/{id}/runs/0/exception"))
            .json(&json!({ "reason": "internal-error" })),
        raw("PUT", format!("{auth}/clients/a%2Fb")).json(&client),
        raw(
            "GET",
            format!("{auth}/clients/?limit=1&prefix=a&continuationToken=a"),
        ),
    ];
    for body in [&s3, &reference, &link, &error] {
        all.push(raw("POST", artifact.clone()).json(body));
    }
    for path in [
        format!("{queue}/ping"),
        format!("{queue}/task/{id}"),
        format!("{queue}/task/{id}/status"),
        format!("{queue}/pending/{POOL}"),
        format!("{queue}/task/{id}/runs/0/artifacts?limit=1&continuationToken=cHVibGlj"),
        format!("{queue}/task/{id}/artifacts"),
        format!("{queue}/task/{id}/artifacts/public%2Fa"),
        format!("{queue}/task/{id}/runs/0/artifact-content/public%2Fa"),
        format!("{queue}/task/{id}/artifact-info/public%2Fa"),
        format!("{queue}/task/{id}/artifacts/public%2Fa?bewit=dGN3L3Jvb3RcMTg5MzQ1NjAwMFxBQUFBXA"),
        format!("{queue}/task/{id}/runs/0/artifacts/public%2Fa"),
        format!("{queue}/task/{id}/artifact-content/public%2Fa"),
        format!("{queue}/task/{id}/runs/0/artifact-info/public%2Fa"),
        format!("{queue}/task-group/{id}"),
        format!("{queue}/task-group/{id}/list?limit=1"),
        format!("{queue}/task/{id}/dependents?limit=1"),
        format!("{queue}/task-queues?limit=1&continuationToken=YQ"),
        format!("{queue}/task-queues/proj-test%2Flinux"),
        format!("{queue}/task-queues/proj-test%2Flinux/counts"),
        format!("{queue}/task-queues/proj-test%2Flinux/pending?limit=1&continuationToken=MQ"),
        format!("{queue}/task-queues/proj-test%2Flinux/claimed?limit=1&continuationToken=MQph"),
        format!("{queue}/provisioners?limit=1&continuationToken=YQ"),
        format!("{queue}/provisioners/proj-test"),
        format!("{queue}/provisioners/proj-test/worker-types?limit=1"),
        format!("{queue}/provisioners/proj-test/worker-types/linux"),
        format!("{queue}/provisioners/proj-test/worker-types/linux/workers?quarantined=true&limit=1"),
        format!("{queue}/provisioners/proj-test/worker-types/linux/workers/g/w"),
        format!("{queue}/__heartbeat__"),
        format!("{queue}/__lbheartbeat__"),
        format!("{queue}/__version__"),
        format!("{auth}/ping"),
        format!("{auth}/clients/a%2Fb"),
    ] {
        all.push(raw("GET", path));
    }
    for verb in [
        "schedule",
        "rerun",
        "cancel",
        "runs/0/reclaim",
        "runs/0/completed",
        "runs/0/failed",
    ] {
        all.push(raw("POST", format!("{queue}/task/{id}/{verb}")));
    }
    let worker = format!("{queue}/provisioners/proj-test/worker-types/linux");
    let name = json!({ "workerGroup": "g", "workerId": "w" });
    let priority = json!({ "newPriority": "high" });
    for (method, path, body) in [
        ("POST", format!("{queue}/task/{id}/priority"), &priority),
        ("POST", format!("{queue}/task-group/{id}/priority"), &priority),
        ("POST", format!("{queue}/task/{id}/runs/0/claim"), &name),
        ("PUT", artifact, &json!({ "uploadId": id })),
        (
            "PUT",
            format!("{worker}/workers/g/w"),
            &json!({ "quarantineUntil": expires }),
        ),
        ("PUT", format!("{worker}/g/w"), &json!({ "expires": expires })),
    ] {
        all.push(raw(method, path).json(body));
    }
    for verb in ["seal", "cancel"] {
        all.push(raw("POST", format!("{queue}/task-group/{id}/{verb}")));
    }
    all.push(raw("POST", format!("{auth}/clients/a%2Fb/reset")));
    all.push(raw("DELETE", format!("{auth}/clients/a%2Fb")));
    all
}

/// Some of the bytes changed, moved, left out or doubled.
fn bytes(rng: &mut StdRng, from: &[u8]) -> Vec<u8> {
    let mut bytes = from.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..24)).min(bytes.len());
        match rng.random_range(0..6) {
            0 if at < bytes.len() => bytes[at] = rng.random(),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            3 => {
                let token = TOKENS.choose(rng).expect("there are some");
                bytes.splice(at..end, token.bytes());
            }
            4 => bytes.truncate(at),
            _ => {
                let times = rng.random_range(1..2000);
                let byte = rng.random();
                bytes.splice(at..at, std::iter::repeat_n(byte, times));
            }
        }
    }
    bytes
}

/// The same for what has to stay printable, so that it can stand in a line of a request.
fn text(rng: &mut StdRng, from: &str) -> String {
    let changed = bytes(rng, from.as_bytes());
    String::from_utf8_lossy(&changed)
        .chars()
        .filter(|c| c.is_ascii_graphic())
        .collect()
}

fn change_value(rng: &mut StdRng, value: &mut Value) {
    let choice = rng.random_range(0..10);
    match value {
        Value::Object(map) if !map.is_empty() && choice < 8 => {
            let keys: Vec<String> = map.keys().cloned().collect();
            let key = keys.choose(rng).expect("not empty");
            match choice {
                0 => drop(map.remove(key)),
                1 => drop(map.insert(text(rng, key), json!(1))),
                _ => change_value(rng, &mut map[key]),
            }
        }
        Value::Array(items) if !items.is_empty() && choice < 8 => {
            let at = rng.random_range(0..items.len());
            match choice {
                0 => drop(items.remove(at)),
                1 => {
                    let copy = items[at].clone();
                    items.extend(std::iter::repeat_n(copy, rng.random_range(1..50)));
                }
                _ => change_value(rng, &mut items[at]),
            }
        }
        Value::String(old) if choice < 7 => {
            let token = *TOKENS.choose(rng).expect("there are some");
            *value = match choice {
                0 => json!(token),
                1 => json!(format!("{old}{token}")),
                2 => json!(old.repeat(rng.random_range(2..200))),
                _ => json!(String::from_utf8_lossy(&bytes(rng, old.as_bytes()))),
            };
        }
        _ => {
            *value = match choice {
                0 => Value::Null,
                1 => json!(rng.random::<i64>()),
                2 => json!(rng.random::<u64>()),
                3 => json!(1e300),
                4 => json!([]),
                5 => json!({}),
                6 => (0..100).fold(json!(0), |inner, _| json!([inner])),
                7 => json!(true),
                8 => json!("x".repeat(rng.random_range(0..5000))),
                _ => json!(*TOKENS.choose(rng).expect("there are some")),
            }
        }
    }
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("it is there");
    line.trim()
        .trim_end_matches(" kB")
        .parse::<u64>()
        .expect("a number")
        << 10
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

async fn fuzz(seed: u64, requests: u64) {
    let (seed, requests) = (
        number("TCW_FUZZ_SEED").unwrap_or(seed),
        number("TCW_FUZZ_REQUESTS").unwrap_or(requests),
    );
    eprintln!(
        "seed {seed}, {requests} requests; repeat with TCW_FUZZ_SEED={seed} TCW_FUZZ_REQUESTS={requests}"
    );
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        before(panic);
    }));
    let fuzz = Arc::new(Fuzz::new().await);
    let started = resident();
    let together = if std::env::var_os("TCW_FUZZ_ONE_BY_ONE").is_some() {
        1
    } else {
        32
    };
    for first in (0..requests).step_by(together) {
        let some = (first..(first + together as u64).min(requests)).map(|n| {
            let fuzz = Arc::clone(&fuzz);
            tokio::spawn(async move {
                // Each request is a matter of its own number: which others there are does not change it.
                let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(n));
                let request = fuzz.request(&mut rng);
                fuzz.try_one(&request, &format!("seed {seed}, request {n}")).await;
            })
        });
        for outcome in futures_util::future::join_all(some).await {
            outcome.expect("said above");
        }
        assert_eq!(
            PANICS.load(Ordering::Relaxed),
            0,
            "seed {seed}, at request {first} or a little later"
        );
    }
    fuzz.still_serves().await;
    let grown = resident().saturating_sub(started);
    assert!(
        grown < MEMORY,
        "seed {seed}: {grown} bytes more than at the start"
    );
    assert_eq!(PANICS.load(Ordering::Relaxed), 0, "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_sent_breaks_it() {
    fuzz(1, 3000).await;
}

/// Long, and with another seed each time.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: tests/run.sh --full"]
async fn nothing_that_is_sent_for_long_breaks_it() {
    fuzz(rand::random::<u32>().into(), 40_000).await;
}
