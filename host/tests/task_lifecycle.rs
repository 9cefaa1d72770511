//! The lifecycle of a task: every scenario twice, with an engine and plugins in this process, and with the same ones
//! behind the boundary, from a library.

mod support;
mod task_fire;
mod task_support;

use std::sync::Arc;

use task_support::Providers;
use task_support::fakes::{ScriptedEngineProvider, ScriptedPluginProvider};
use tcw_host::library::{Diagnostics, Loader};

async fn in_process() -> Providers {
    Providers {
        engine: Arc::new(ScriptedEngineProvider),
        plugin: Arc::new(ScriptedPluginProvider),
    }
}

/// A copy of the library for each scenario: what one panics or hangs in is not the next one's.
async fn from_library() -> Providers {
    let state = tempfile::tempdir().unwrap();
    let loader = Loader::new(state.path(), Diagnostics::start());
    let library = loader
        .load(&support::library("scripted_library"))
        .unwrap_or_else(|error| panic!("{error}"));
    Providers {
        engine: library.root.engine_provider().await.unwrap(),
        plugin: library.root.plugin_provider(0).await.unwrap(),
    }
}

macro_rules! scenarios {
    ($($name:ident,)*) => {
        mod in_this_process {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::task_support::scenarios::$name(&super::in_process().await).await;
            })*
        }

        mod through_a_library {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::task_support::scenarios::$name(&super::from_library().await).await;
            })*
        }
    };
}

scenarios! {
    completes,
    fails,
    malformed_payload,
    malformed_by_several,
    unsupported_features,
    events_in_every_state,
    order_of_exceptions,
    events_of_more_weight,
    max_run_time,
    hangs,
    busy_is_not_hanging,
    overdue_but_well,
    exception_is_bounded,
    precedence,
    panics,
    host_panics,
    late_and_forbidden_calls,
    conflict_at_the_report,
    queue_is_away,
    queue_stays_away,
    shutdown_with_a_silent_queue,
    waits_for_a_slot,
    late_sandbox,
    slot_is_free_before_cleaning_up,
}

/// The same, at random: see [`task_fire`].
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_fire_in_this_process() {
    task_fire::under_fire(150, vec![in_process().await]).await;
}

/// The same cases in this process and through a library.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_fire_through_a_library() {
    task_fire::under_fire(40, vec![in_process().await, from_library().await]).await;
}
