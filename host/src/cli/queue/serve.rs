//! `tcw-host queue serve`: the embedded queue until told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::QueueFlags;
use crate::cli::outcome::Failure;
use crate::cli::signals::{Signals, leave_at_once};
use crate::cli::{logging, start};
use crate::config::{self, QueueConfig};
use crate::queue::embedded::EmbeddedQueue;
use crate::worker::Exit;

/// Where it listens if nobody says: workers have to find it again after a restart, so not just anywhere.
const LISTEN: &str = "127.0.0.1:8090";
/// How long it may take to end: more than the queue's own patience.
const STOPPING: Duration = Duration::from_secs(10);

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(flatten)]
    queue: QueueFlags,
    /// Address and port; 127.0.0.1:8090 if neither this nor the configuration says. Beyond loopback it needs a root URL,
    /// and a certificate or --behind-proxy
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// What workers and others find the queue under, such as https://queue.example.com:8090
    #[arg(long, value_name = "URL")]
    root_url: Option<String>,
    /// The certificate in PEM, followed by those between it and its authority
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its private key in PEM, which only its owner may read
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Something before the queue speaks TLS and hands on what is for the root URL
    #[arg(long)]
    behind_proxy: bool,
    /// Refuse tasks for this pool whose payload does not fit the schema that `tcw-host schema` printed; can be given
    /// several times
    #[arg(long, value_name = "POOL=FILE", value_parser = pool_and_file)]
    payload_schema: Vec<(String, PathBuf)>,
}

fn pool_and_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((pool, file)) if !file.is_empty() => Ok((pool.to_owned(), file.into())),
        _ => Err("write it as in local/native=schema.json".to_owned()),
    }
}

pub(super) async fn run(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let config = arguments.queue.load(|flags| {
        // A shell that is set up for a deployment says nothing about this queue.
        flags.embedded = true;
        let serve = &mut flags.serve;
        serve.listen.clone_from(&arguments.listen);
        serve.default_listen = Some(LISTEN.to_owned());
        serve.root_url.clone_from(&arguments.root_url);
        serve.tls_certificate.clone_from(&arguments.tls_certificate);
        serve.tls_key.clone_from(&arguments.tls_key);
        serve.behind_proxy = arguments.behind_proxy;
        serve.payload_schemas.clone_from(&arguments.payload_schema);
    })?;
    logging::start(&config.log);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let QueueConfig::Embedded(settings) = &config.queue else {
        return Err(Failure::usage(
            "the configuration names a deployment: remove `queue.rootUrl` to serve a queue here",
        ));
    };
    let mut signals = Signals::new()?;
    // Before it starts: until then, SIGHUP would end the process.
    let mut reload = signal(SignalKind::hangup())
        .map_err(|error| Failure::general(format!("signals cannot be received: {error}")))?;
    start::state_directory(&config)?;
    let located = start::start_embedded(&config, settings)
        .await
        .map_err(start::unusable)?;
    let Some(queue) = located.embedded else {
        return Err(Failure::general("the embedded queue did not start"));
    };
    start::publish_schemas(&queue, settings)?;
    tracing::info!(
        root_url = queue.root_url(),
        listen = %queue.listens_on(),
        "serving; the credentials that may do everything are in {}; for workers and people, make some with `tcw-host \
         queue client create`",
        start::embedded_credentials(&config).display()
    );
    let told = until_told(&mut signals, &mut reload, &queue, settings).await;
    tracing::info!("{told}: stopping");
    tokio::select! {
        stopped = tokio::time::timeout(STOPPING, queue.stop()) => {
            if stopped.is_err() {
                tracing::warn!("the queue did not stop within {} s; leaving all the same", STOPPING.as_secs());
            }
        }
        again = signals.next() => {
            let exit = Exit::Now(format!("{again} once more"));
            tracing::warn!(status = exit.status(), "{exit}");
            leave_at_once(exit.status());
        }
    }
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// Waits for a signal to end; on SIGHUP, what may have been replaced is read again.
async fn until_told(
    signals: &mut Signals,
    reload: &mut Signal,
    queue: &EmbeddedQueue,
    settings: &config::EmbeddedQueue,
) -> &'static str {
    loop {
        tokio::select! {
            told = signals.next() => return told,
            _ = reload.recv() => {
                // One without the other: a wrong schema must not keep a certificate that is about to end in use.
                let certificate = queue.reload_certificate();
                let schemas = start::publish_schemas(queue, settings);
                match &certificate {
                    Ok(()) if schemas.is_err() => tracing::info!("SIGHUP: the certificate was read again"),
                    Ok(()) => tracing::info!("SIGHUP: certificate and payload schemas were read again"),
                    Err(error) => tracing::error!("SIGHUP: the certificate that was in use stays in use: {error}"),
                }
                match &schemas {
                    Ok(()) if certificate.is_err() => tracing::info!("SIGHUP: payload schemas were read again"),
                    Ok(()) => {}
                    Err(error) => tracing::error!(
                        "SIGHUP: not all payload schemas were read again; those that were in use stay in use: {error}"
                    ),
                }
            }
        }
    }
}
