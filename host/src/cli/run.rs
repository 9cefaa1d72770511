//! `tcw-host run`: work until told to stop.

use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::flags::WorkerFlags;
use super::outcome::{self, Failure};
use super::signals::{Signals, leave_at_once};
use super::{logging, start};
use crate::config::Config;
use crate::queue::{Queue, format_time};
use crate::services::log::LogOptions;
use crate::worker::status;
use crate::worker::{Command, Control, Exit, Stop, Worker, WorkerOptions, recover};

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
    let located = start::locate(config).await?;
    let parts = start::load(config, &start::worker_directory(config), &located, &pool).await?;
    parts.warn(config);
    let connected = parts.connect(config, located, pool)?;
    let journal = parts.journal.clone();
    let engine = (
        Arc::clone(&parts.assembly.engine.engine),
        parts.assembly.engine.name.clone(),
    );
    let queue_name = connected.queue_name();
    let recovery = recover(
        &journal,
        connected.client.as_ref(),
        &queue_name,
        &engine.0,
        &engine.1,
    )
    .await?;
    for message in &recovery.messages {
        tracing::warn!("left by an earlier process: {message}");
    }
    let control = parts.control.clone();
    let about = about(config, &parts, &connected);
    let (environment, commands) = parts.environment(config, &connected.pool, LogOptions::default());
    let plugins: Vec<&str> = environment
        .plugins
        .iter()
        .map(|plugin| plugin.name.as_str())
        .collect();
    let plugins = plugins.join(",");
    let options = WorkerOptions {
        capacity: config.worker.capacity,
        queue_name,
        number_of_tasks: config.worker.number_of_tasks,
        idle_timeout: config.worker.idle_timeout,
        cancellation_interval: config.worker.cancellation_interval,
        ..WorkerOptions::default()
    };
    let (pool, root_url) = (connected.pool, connected.client.root_url().to_owned());
    let embedded = connected.embedded.map(Arc::new);
    let mut worker = Worker::new(environment, connected.client, journal, options, commands);
    if let Some(embedded) = &embedded {
        let embedded = Arc::downgrade(embedded);
        worker = worker.releasing_polls(move || {
            if let Some(embedded) = embedded.upgrade() {
                embedded.release_polls();
            }
        });
    }
    let directory = start::worker_directory(config);
    let answering = status::serve(&directory, worker.board(), about);
    if let Err(error) = &answering {
        tracing::warn!(
            %error,
            "`tcw-host status` will not work: the socket {} cannot be made",
            status::socket(&directory).display()
        );
    }
    // Whoever reads that it is waiting may ask for its status, and stop it.
    let signals = Signals::new()?;
    tracing::info!(
        worker_pool = %pool,
        worker_group = config.worker.group,
        worker_id = config.worker.id,
        capacity = config.worker.capacity,
        root_url,
        engine = engine.1,
        plugins,
        "waiting for tasks"
    );
    if embedded.is_some() {
        tracing::info!(
            "the queue is embedded: put tasks into it with `tcw-host submit TASK.yml`; its credentials are in {}",
            start::embedded_credentials(config).display()
        );
    }
    let work = async {
        let exit = tokio::spawn(worker.run()).await.map_err(Failure::general)?;
        if let Some(embedded) = embedded.and_then(Arc::into_inner) {
            embedded.stop().await;
        }
        Ok(exit)
    };
    tokio::select! {
        exit = work => exit,
        never = stop_on_signals(signals, &control) => never,
    }
}

/// What does not change while the worker runs, for `tcw-host status`.
fn about(config: &Config, parts: &start::Parts, connected: &start::Connected) -> Value {
    let libraries = parts.assembly.libraries.iter().map(|library| {
        json!({
            "name": library.manifest.name,
            "version": library.manifest.version,
            "sha256": library.sha256,
            "path": library.source,
        })
    });
    json!({
        "pid": std::process::id(),
        "since": format_time(std::time::SystemTime::now().into()),
        "workerPool": connected.pool.to_string(),
        "workerGroup": config.worker.group,
        "workerId": config.worker.id,
        "capacity": config.worker.capacity,
        "rootUrl": connected.client.root_url(),
        "engine": parts.assembly.engine.name,
        "libraries": libraries.collect::<Vec<_>>(),
    })
}

/// SIGINT asks the worker to stop after its tasks; SIGTERM, or SIGINT once more, to resolve them and stop. The signal after
/// that does not wait for anything: the next start looks after what is left.
async fn stop_on_signals(mut signals: Signals, control: &Control) -> ! {
    if signals.next().await == "SIGINT" {
        control.send(Command::Stop(Stop::Graceful("interrupted (SIGINT)".into())));
        let reason = format!("a second signal ({})", signals.next().await);
        control.send(Command::Stop(Stop::Now(reason)));
    } else {
        control.send(Command::Stop(Stop::Now("terminated (SIGTERM)".into())));
    }
    let last = signals.next().await;
    let exit = Exit::Now(format!("{last} once more"));
    tracing::warn!(
        status = exit.status(),
        "{last} once more: leaving at once; the next start resolves what still runs"
    );
    leave_at_once(exit.status())
}
