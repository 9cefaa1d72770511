//! Connections: taken, as TLS if so configured, bounded in number and in how long they may be silent.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Body;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use super::error::StartError;
use super::server::{self, Server};
use super::{Limits, TlsFiles};

/// The most bytes of a request's line and headers, and what is read ahead of a body.
const LARGEST_HEAD: usize = 128 * 1024;
/// How long to wait when no connection can be taken, mostly because there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// How often it is said that there are too many connections.
const FULL_INTERVAL: Duration = Duration::from_secs(60);

/// The certificate in use; another one can take its place.
pub(super) struct Tls {
    files: TlsFiles,
    acceptor: RwLock<TlsAcceptor>,
}

impl Tls {
    /// Reads certificate and key. Blocks.
    pub(super) fn open(files: TlsFiles) -> Result<Self, StartError> {
        let acceptor = RwLock::new(acceptor(&files)?);
        Ok(Self { files, acceptor })
    }

    /// Reads them again, for connections from now on; if they are wrong, the old ones stay in use. Blocks.
    pub(super) fn reload(&self) -> Result<(), StartError> {
        let fresh = acceptor(&self.files)?;
        *self.acceptor.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    fn current(&self) -> TlsAcceptor {
        self.acceptor
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

fn acceptor(files: &TlsFiles) -> Result<TlsAcceptor, StartError> {
    let wrong = |path: &Path, problem: String| StartError::Tls {
        path: path.to_owned(),
        problem,
    };
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|error| wrong(path, format!("it cannot be read ({error})")))
    };
    check_key_is_private(&files.key)?;
    let (certificate, key) = (read(&files.certificate)?, read(&files.key)?);
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&files.certificate, format!("it is not PEM ({error})")))?;
    if chain.is_empty() {
        let problem = "there is no certificate in it; it has to begin with -----BEGIN CERTIFICATE-----";
        return Err(wrong(&files.certificate, problem.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| {
        let problem = format!("it is not a private key in PEM without a password ({error})");
        wrong(&files.key, problem)
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|error| {
            let problem = format!("certificate and key do not go together ({error})");
            wrong(&files.certificate, problem)
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Whoever has the key can be this queue for everybody.
fn check_key_is_private(path: &Path) -> Result<(), StartError> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let mode = std::fs::metadata(path).map(|metadata| metadata.mode() & 0o7777);
        if let Ok(mode) = mode
            && mode & 0o077 != 0
        {
            return Err(StartError::ExposedKey {
                path: path.to_owned(),
                mode,
            });
        }
    }
    Ok(())
}

/// Serves until told to stop; then it takes no more connections, and those there are end with their answers.
pub(super) async fn serve(listener: TcpListener, server: Arc<Server>, tls: Option<Arc<Tls>>) {
    let mut stopping = server.stopping.clone();
    let places = Arc::new(Semaphore::new(server.config.limits.connections));
    let graceful = GracefulShutdown::new();
    // Dropped with this future: no connection outlives the queue.
    let mut connections = JoinSet::new();
    let mut said_full = None;
    loop {
        if places.available_permits() == 0
            && said_full.is_none_or(|said: tokio::time::Instant| said.elapsed() > FULL_INTERVAL)
        {
            said_full = Some(tokio::time::Instant::now());
            tracing::warn!(
                connections = server.config.limits.connections,
                "the embedded queue has as many connections as it takes; more wait until some end"
            );
        }
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            _ = stopping.wait_for(|stopping| *stopping) => break,
            Some(_) = connections.join_next() => continue,
            next = next => next,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Of the connection itself: it is gone, and the next may be well.
                let of_one = [
                    io::ErrorKind::ConnectionAborted,
                    io::ErrorKind::ConnectionReset,
                    io::ErrorKind::ConnectionRefused,
                ];
                if !of_one.contains(&error.kind()) {
                    tracing::warn!(%error, "the embedded queue cannot take a connection; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let connection = one(stream, Arc::clone(&server), tls.clone(), graceful.watcher());
        connections.spawn(async move {
            let _place = place;
            connection.await;
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn one(stream: TcpStream, server: Arc<Server>, tls: Option<Arc<Tls>>, watcher: Watcher) {
    // Answers are small and waited for: none may be held back to be sent together with the next.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let Some(tls) = tls else {
        return speak(stream, server, watcher).await;
    };
    let handshake = tls.current().accept(stream);
    match tokio::time::timeout(server.config.limits.head, handshake).await {
        Ok(Ok(stream)) => speak(stream, server, watcher).await,
        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Send + 'static, server: Arc<Server>, watcher: Watcher) {
    let Limits { head, stall, .. } = server.config.limits;
    let mut stream = TimeoutStream::new(stream);
    // A client that does not take its answer must not hold a connection for ever.
    stream.set_write_timeout(Some(stall));
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let server = Arc::clone(&server);
        async move { Ok::<_, Infallible>(server::handle(server, request.map(Body::new)).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, "a connection ended with an error");
    }
}
