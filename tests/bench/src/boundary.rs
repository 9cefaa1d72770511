//! The boundary itself: what a call into a library costs, and loading one.

use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use tcw_host::library::{Diagnostics, Library, Loader};
use tokio::runtime::Runtime;

use crate::Build;
use crate::pairs::{Figure, Target, median, micros, millis};

const CALLS: usize = 2000;
const IDLE_CALLS: usize = 100;
const IDLE: Duration = Duration::from_millis(2);

fn host() -> Runtime {
    let runtime = Runtime::new().expect("threads");
    tcw_abi::runtime::adopt(runtime.handle().clone());
    runtime
}

fn engine(build: &Build, runtime: &Runtime) -> Library {
    let state = tempfile::tempdir().expect("a directory");
    let _inside = runtime.enter();
    Loader::new(state.path(), Diagnostics::start())
        .load(&build.engine)
        .unwrap_or_else(|error| panic!("{error}"))
}

/// Each call goes to the library's own threads and back: it is asked for a plugin that it does not have.
fn call(runtime: &Runtime, library: &Library, pause: Option<Duration>, count: usize) -> f64 {
    let root = library.root;
    let calls = runtime.spawn(async move {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
            let start = Instant::now();
            assert!(root.plugin_provider(u32::MAX).await.is_err());
            times.push(micros(start.elapsed()));
        }
        median(times)
    });
    runtime.block_on(calls).expect("the calls")
}

/// Two threads that send a word to and fro.
pub(crate) fn ping_pong(pause: Option<Duration>, count: usize) -> f64 {
    let (ping, pings) = channel::<()>();
    let (pong, pongs) = channel::<()>();
    let other = std::thread::spawn(move || {
        while pings.recv().is_ok() {
            if pong.send(()).is_err() {
                break;
            }
        }
    });
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        if let Some(pause) = pause {
            std::thread::sleep(pause);
        }
        let start = Instant::now();
        ping.send(()).expect("the other thread");
        pongs.recv().expect("the other thread");
        times.push(micros(start.elapsed()));
    }
    drop(ping);
    other.join().expect("the other thread");
    median(times)
}

/// The median of calls one right after another.
pub(crate) fn back_to_back(build: &Build) -> Figure {
    let runtime = host();
    let library = engine(build, &runtime);
    Figure::pairs(
        build.pairs,
        "us",
        Target::AtMost(25.0),
        || call(&runtime, &library, None, CALLS),
        || ping_pong(None, CALLS),
    )
}

/// The median of calls after both sides slept for 2 ms.
pub(crate) fn after_idling(build: &Build) -> Figure {
    let runtime = host();
    let library = engine(build, &runtime);
    Figure::pairs(
        build.pairs,
        "us",
        Target::RatioAtMost(2.0),
        || call(&runtime, &library, Some(IDLE), IDLE_CALLS),
        || ping_pong(Some(IDLE), IDLE_CALLS),
    )
}

/// Verify, store, open and check one library; the yardstick reads and writes the same file.
pub(crate) fn load(build: &Build) -> Figure {
    let runtime = host();
    let _inside = runtime.enter();
    let diagnostics = Diagnostics::start();
    let figure = || {
        let state = tempfile::tempdir().expect("a directory");
        let start = Instant::now();
        let loader = Loader::new(state.path(), diagnostics.clone());
        loader
            .load(&build.engine)
            .unwrap_or_else(|error| panic!("{error}"));
        millis(start.elapsed())
    };
    let yardstick = || {
        let directory = tempfile::tempdir().expect("a directory");
        let start = Instant::now();
        std::fs::copy(&build.engine, directory.path().join("copy")).expect("a copy");
        millis(start.elapsed())
    };
    Figure::pairs(build.pairs, "ms", Target::AtMost(25.0), figure, yardstick)
}
