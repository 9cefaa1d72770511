//! `tcw-host run`: work until told to stop.

use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use super::flags::WorkerFlags;
use super::outcome::{Failure, status};
use super::{logging, start};
use crate::config::Config;
use crate::queue::Queue;
use crate::services::log::LogOptions;
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
    Ok(status(exit.status()))
}

async fn work(config: &Config) -> Result<Exit, Failure> {
    let pool = start::pool(config)?;
    let located = start::locate(config).await?;
    let parts = start::load(config, &start::worker_directory(config), &located, &pool).await?;
    let connected = parts.connect(config, located, pool)?;
    let journal = parts.journal.clone();
    let engine = (
        Arc::clone(&parts.assembly.engine.engine),
        parts.assembly.engine.name.clone(),
    );
    let recovery = recover(&journal, connected.client.as_ref(), &engine.0, &engine.1).await?;
    for message in &recovery.messages {
        tracing::warn!("left by an earlier process: {message}");
    }
    let control = parts.control.clone();
    let (environment, commands) = parts.environment(config, &connected.pool, LogOptions::default());
    tracing::info!(
        worker_pool = %connected.pool,
        worker_group = config.worker.group,
        worker_id = config.worker.id,
        capacity = config.worker.capacity,
        root_url = connected.client.root_url(),
        engine = environment.engine.name,
        plugins = environment.plugins.iter().map(|plugin| plugin.name.as_str()).collect::<Vec<_>>().join(","),
        "waiting for tasks"
    );
    if connected.embedded.is_some() {
        tracing::info!(
            "the queue is embedded: put tasks into it with `tcw-host submit TASK.yml`; its credentials are in {}",
            start::embedded_credentials(config).display()
        );
    }
    let options = WorkerOptions {
        capacity: config.worker.capacity,
        number_of_tasks: config.worker.number_of_tasks,
        idle_timeout: config.worker.idle_timeout,
        cancellation_interval: config.worker.cancellation_interval,
        ..WorkerOptions::default()
    };
    let embedded = connected.embedded;
    let worker = Worker::new(environment, connected.client, journal, options, commands);
    let mut work = tokio::spawn(worker.run());
    let exit = tokio::select! {
        exit = &mut work => exit,
        second = stop_on_signals(control, embedded.as_ref()) => {
            // The second signal does not wait for anything; the next start looks after what is left.
            let second = second?;
            tracing::warn!("a second signal: leaving at once; the next start resolves what still runs");
            return Ok(second);
        }
    };
    let exit = exit.map_err(Failure::general)?;
    if let Some(embedded) = embedded {
        embedded.stop().await;
    }
    Ok(exit)
}

/// The first signal asks the worker to stop: SIGINT after its tasks, SIGTERM at once. Returns at the second one.
async fn stop_on_signals(
    control: Control,
    embedded: Option<&crate::queue::embedded::EmbeddedQueue>,
) -> Result<Exit, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::general)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::general)?;
    let stop = tokio::select! {
        _ = interrupt.recv() => Stop::Graceful("interrupted (SIGINT)".into()),
        _ = terminate.recv() => Stop::Now("terminated (SIGTERM)".into()),
    };
    control.send(Command::Stop(stop));
    if let Some(embedded) = embedded {
        embedded.release_polls();
    }
    Ok(tokio::select! {
        _ = interrupt.recv() => Exit::Graceful("a second signal".into()),
        _ = terminate.recv() => Exit::Now("a second signal".into()),
    })
}
