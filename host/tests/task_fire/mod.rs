//! The lifecycle under fire: what may happen to a task happens at random, at any time, several things at once, and
//! however it ends, the rules hold.
//!
//! A case is generated and run; [`model`] says how its task may end, [`oracle`] what its trace has to be. What fails is
//! made smaller until nothing can be left out, and printed as a script. `TCW_FIRE_CASES` and `TCW_FIRE_SEED` (`random`,
//! or the number that a failure names) change what is run.

mod case;
mod model;
mod oracle;
mod self_test;

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tcw_host::queue::ExceptionReason;
use tcw_host::task::{Deadlines, Resolution, WorkerEffect};

use self::case::{Case, NAMES, Queue};
use self::model::{Outcome, allowed};
use self::oracle::{Seen, complaints};
use crate::task_support::{FakeQueue, Providers, Setting, Stage};

/// Cases that run at one time: most of them wait most of the time.
const AT_ONCE: usize = 32;

/// How long to look for the smallest case that fails: some cases take seconds.
const SHRINKING: Duration = Duration::from_secs(20);

fn outcome(resolution: Resolution) -> Outcome {
    match resolution {
        Resolution::Completed => Outcome::Completed,
        Resolution::Failed => Outcome::Failed,
        Resolution::ResolvedElsewhere => Outcome::Elsewhere,
        Resolution::Exception(reason) => match reason {
            ExceptionReason::WorkerShutdown => Outcome::Shutdown,
            ExceptionReason::MalformedPayload => Outcome::Malformed,
            ExceptionReason::ResourceUnavailable => Outcome::Unavailable,
            ExceptionReason::InternalError => Outcome::Internal,
            ExceptionReason::IntermittentTask => Outcome::Intermittent,
        },
    }
}

/// Lets the case happen.
async fn run(providers: &Providers, case: &Case) -> Result<Seen, String> {
    let mut deadlines = Deadlines {
        hook_grace: Duration::from_millis(700),
        call_grace: Duration::from_millis(1500),
        exception: Duration::from_secs(2),
        report_again: Duration::from_millis(20),
        ..Deadlines::default()
    };
    if case.is_slow() {
        // Long for whoever does return.
        deadlines.call = Duration::from_secs(3);
    }
    let setting = Setting {
        engine: case.script(None),
        capacity: None,
        plugins: (0..case.plugins)
            .map(|plugin| (NAMES[plugin], case.script(Some(plugin))))
            .collect(),
        deadlines,
        trace: true,
    };
    let stage = Stage::set(providers, setting).await;
    let mut queue = FakeQueue::plain(&stage.events);
    match case.queue {
        Queue::Takes => {}
        Queue::Away(times) => queue.away = times.into(),
        Queue::Conflicts => queue.conflict = true,
        Queue::Refuses => queue.refuses = true,
    }
    let queue = Arc::new(queue);
    let going = stage.begin_with(case.task_payload(), Arc::clone(&queue));
    let control = going.control.clone();
    let sending = futures_util::future::join_all(case.events.iter().map(|(spot, events)| {
        let (control, seen) = (control.clone(), Arc::clone(&stage.events));
        async move {
            seen.like(|line| spot.is_told_by(line)).await;
            for event in events {
                control.send(event.sent());
            }
        }
    }));
    let ending = tokio::time::timeout(Duration::from_secs(60), going.end());
    tokio::pin!(ending, sending);
    let report = tokio::select! {
        ended = &mut ending => ended,
        _ = &mut sending => ending.await,
    };
    let trace = stage.events.all();
    let Ok(report) = report else {
        return Err(format!("it does not end; the trace so far: {trace:#?}"));
    };
    let has_log = queue.stored.lock().unwrap().contains_key("public/logs/a.log");
    let seen = Seen {
        outcome: outcome(report.resolution),
        reported: report.reported,
        incident: report.incident,
        effect: match report.effect {
            WorkerEffect::None => 0,
            WorkerEffect::NonFatal => 1,
            WorkerEffect::Fatal => 2,
        },
        unhealthy: report.unhealthy.into_iter().collect(),
        log: has_log.then(|| queue.log()),
        trace,
    };
    let mut wrong = Vec::new();
    let allowed = allowed(case);
    if !allowed.contains(&seen.outcome) {
        wrong.push(format!(
            "it ended as {:?}; the rules allow {allowed:?}",
            seen.outcome
        ));
    }
    wrong.extend(complaints(case, &seen));
    // What the engine does not let go of is not given back.
    let kept = case
        .conduct
        .iter()
        .any(|(spot, conduct)| spot.plugin.is_none() && (conduct.blocks() || spot.call == "abort"));
    if !kept && stage.env.engine.in_use() != 0 {
        wrong.push(format!(
            "{} of the engine's objects were not given back",
            stage.env.engine.in_use()
        ));
    }
    if wrong.is_empty() {
        Ok(seen)
    } else {
        Err(format!("{}\nseen: {seen:#?}", wrong.join("\n")))
    }
}

fn number(name: &str, usual: u64) -> u64 {
    match std::env::var(name).as_deref() {
        Err(_) => usual,
        Ok("random") => rand::random(),
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name} has to be a number, or `random`")),
    }
}

/// Runs as many cases as were asked for; `usual` if nobody asked.
pub(crate) async fn under_fire(usual: u64, providers: Vec<Providers>) {
    let (cases, seed) = (number("TCW_FIRE_CASES", usual), number("TCW_FIRE_SEED", 4));
    println!("TCW_FIRE_SEED={seed} TCW_FIRE_CASES={cases}");
    quiet_about_scripted_panics();
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    let strategy = case::cases();
    let trees = (0..cases).map(|_| strategy.new_tree(&mut runner).expect("nothing is rejected"));
    let trees: Vec<_> = trees.collect();
    let providers = &providers;
    let mut failed = futures_util::stream::iter(trees)
        .map(|tree| async move {
            let failure = both(providers, &tree.current()).await.err();
            failure.map(|failure| (tree, failure))
        })
        .buffer_unordered(AT_ONCE)
        .filter_map(std::future::ready)
        .boxed_local();
    let Some((mut tree, mut failure)) = failed.next().await else {
        return;
    };
    drop(failed);
    let mut smallest = tree.current();
    let mut simpler = tree.simplify();
    eprintln!("\n{smallest:?}\nfails; looking for a smaller one");
    let begun = std::time::Instant::now();
    while simpler && begun.elapsed() < SHRINKING {
        let case = tree.current();
        simpler = match both(providers, &case).await {
            Err(again) => {
                (smallest, failure) = (case, again);
                tree.simplify()
            }
            Ok(()) => tree.complicate(),
        };
    }
    panic!("\n{smallest:?}\n{failure}\nTCW_FIRE_SEED={seed} TCW_FIRE_CASES={cases}");
}

/// Backtraces of the panics that were asked for would take longer than everything else.
fn quiet_about_scripted_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let text = panic.payload_as_str().unwrap_or_default();
            if !text.contains(" panics in ") && !text.ends_with("scripted") {
                usual(panic);
            }
        }));
    });
}

/// The case with each of these; where the rules leave one way only, they are the same way.
async fn both(providers: &[Providers], case: &Case) -> Result<(), String> {
    for provided in providers {
        run(provided, case).await?;
    }
    Ok(())
}
