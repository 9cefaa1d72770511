//! `tcw-host run`: work until told to stop.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::flags::WorkerFlags;
use super::generations::{Generations, describe};
use super::outcome::{self, Failure};
use super::signals::{Signals, leave_at_once};
use super::{logging, start};
use crate::config::Config;
use crate::queue::{Queue, format_time};
use crate::worker::status::{self, Board};
use crate::worker::{Exit, Stop, WorkerOptions, recover, recover_later};

/// How long the embedded queue may take to end. What it has answered is written down by then.
const STOPPING: Duration = Duration::from_secs(10);

pub(super) async fn run(flags: &WorkerFlags) -> Result<ExitCode, Failure> {
    let config = flags.load()?;
    logging::start(&config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let exit = work(&config).await?;
    match &exit {
        Exit::Fatal(_) | Exit::Unhealthy(_) => tracing::error!(status = exit.status(), "{exit}"),
        _ => tracing::info!(status = exit.status(), "{exit}"),
    }
    Ok(outcome::status(exit.status()))
}

async fn work(config: &Config) -> Result<Exit, Failure> {
    start::check(config)?;
    let pool = start::pool(config)?;
    let directory = start::worker_directory(config);
    let journal = start::open_journal(&directory, false).await?;
    let located = start::locate(config).await?;
    let parts = start::load(config, &directory, journal, &located, &pool).await?;
    parts.warn(config);
    let connected = parts.connect(config, located, pool)?;
    let queue_name = connected.queue_name();
    let recovery = recover(
        &parts.journal,
        connected.client.as_ref(),
        &queue_name,
        &parts.undoers(&parts.stored(config)),
    )
    .await?;
    for message in &recovery.messages {
        tracing::warn!("left by an earlier process: {message}");
    }
    let board = Board::default();
    let (about, asked) = watch::channel(about(config, &parts, &connected));
    let answering = status::serve(&directory, board.clone(), asked);
    if let Err(error) = &answering {
        tracing::warn!(
            %error,
            "`tcw-host status` will not work: the socket {} cannot be made",
            status::socket(&directory).display()
        );
    }
    // Whoever reads that it is waiting may ask for its status, and stop it.
    let signals = Signals::new()?;
    let plugins = parts.assembly.plugins.iter().map(|plugin| plugin.name.as_str());
    tracing::info!(
        worker_pool = %connected.pool,
        worker_group = config.worker.group,
        worker_id = config.worker.id,
        capacity = config.worker.capacity,
        root_url = connected.client.root_url(),
        engine = parts.assembly.engine.name,
        plugins = plugins.collect::<Vec<_>>().join(","),
        "waiting for tasks"
    );
    let embedded = connected.embedded.map(Arc::new);
    if embedded.is_some() {
        tracing::info!(
            "the queue is embedded: put tasks into it with `tcw-host submit TASK.yml`; its credentials are in {}",
            start::embedded_credentials(config).display()
        );
    }
    let (told, stops) = watch::channel(None);
    let (journal, queue) = (parts.journal.clone(), Arc::clone(&connected.client));
    let later_name = queue_name.clone();
    let later = recover_later(&journal, queue.as_ref(), &later_name, recovery.left_claims);
    let generations = Generations {
        config,
        pool: connected.pool,
        client: connected.client,
        embedded,
        options: WorkerOptions {
            capacity: config.worker.capacity,
            queue_name,
            number_of_tasks: config.worker.number_of_tasks,
            idle_timeout: config.worker.idle_timeout,
            cancellation_interval: config.worker.cancellation_interval,
            reload: config.libraries.reload,
            ..WorkerOptions::default()
        },
        board,
        about,
        stops,
    };
    let work = async {
        let exit = generations.run(parts).await;
        if let Some(embedded) = generations.embedded.and_then(Arc::into_inner) {
            // While a library's constructor does not return, the system's loader is locked, and a thread of this runtime
            // may wait for it with one of the queue's tasks in its hands.
            if tokio::time::timeout(STOPPING, embedded.stop()).await.is_err() {
                tracing::warn!(
                    "the embedded queue did not stop within {} s; leaving all the same",
                    STOPPING.as_secs()
                );
            }
        }
        exit
    };
    tokio::select! {
        exit = work => exit,
        never = later => never,
        never = stop_on_signals(signals, &told) => never,
    }
}

/// For `tcw-host status`.
fn about(config: &Config, parts: &start::Parts, connected: &start::Connected) -> Value {
    let mut about = json!({
        "pid": std::process::id(),
        "since": format_time(std::time::SystemTime::now().into()),
        "workerPool": connected.pool.to_string(),
        "workerGroup": config.worker.group,
        "workerId": config.worker.id,
        "capacity": config.worker.capacity,
        "rootUrl": connected.client.root_url(),
    });
    describe(&mut about, parts);
    about
}

/// SIGINT asks the worker to stop after its tasks; SIGTERM, or SIGINT once more, to resolve them and stop. The signal after
/// that does not wait for anything: the next start looks after what is left.
async fn stop_on_signals(mut signals: Signals, told: &watch::Sender<Option<Stop>>) -> ! {
    if signals.next().await == "SIGINT" {
        told.send_replace(Some(Stop::Graceful("interrupted (SIGINT)".into())));
        let reason = format!("a second signal ({})", signals.next().await);
        told.send_replace(Some(Stop::Now(reason)));
    } else {
        told.send_replace(Some(Stop::Now("terminated (SIGTERM)".into())));
    }
    let last = signals.next().await;
    let exit = Exit::Now(format!("{last} once more"));
    tracing::warn!(
        status = exit.status(),
        "{last} once more: leaving at once; the next start resolves what still runs"
    );
    leave_at_once(exit.status())
}
