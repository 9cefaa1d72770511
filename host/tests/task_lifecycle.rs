//! The lifecycle of a task, with an engine and plugins in this process.

mod task_support;

use std::sync::Arc;

use task_support::Providers;
use task_support::fakes::{ScriptedEngineProvider, ScriptedPluginProvider};

fn in_process() -> Providers {
    Providers {
        engine: Arc::new(ScriptedEngineProvider),
        plugin: Arc::new(ScriptedPluginProvider),
    }
}

macro_rules! scenarios {
    ($($name:ident,)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            task_support::scenarios::$name(&in_process()).await;
        })*
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
    waits_for_a_slot,
    late_sandbox,
    slot_is_free_before_cleaning_up,
}
