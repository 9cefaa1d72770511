//! What tasks pretend to do.

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use tcw_abi::io::Handle;
use tcw_abi::runtime::blocking;
use tcw_abi::services::{HttpHead, HttpRequest, Services, StopMode, TaskContext};
use tcw_abi::{Error, Result};

use crate::builder::Setup;
use crate::files::{Files, MemoryFile};
use crate::payload::{Function, Payload};

/// What lies in every file that a function writes.
const HELLO: &[u8] = b"Hello World";

/// `write-many` writes no more, whatever its argument.
const MOST_FILES: u64 = 100_000;

/// What a volume has after `write-volume`.
const VOLUME_FILE: &str = "written-by-mock";

/// Everything that a function can use.
pub(crate) struct Stage {
    pub(crate) services: Arc<dyn Services>,
    pub(crate) task: Arc<dyn TaskContext>,
    pub(crate) payload: Arc<Payload>,
    pub(crate) setup: Setup,
    /// The task's output.
    pub(crate) log: Handle,
}

impl Stage {
    /// Answers the exit code and the files that there are in the end. Dropped in the middle, it leaves nothing.
    pub(crate) async fn perform(mut self) -> Result<(i32, Files)> {
        tokio::time::sleep(Duration::from_millis(self.payload.delay)).await;
        let success = self.function().await?;
        let code = self.payload.exit_code.unwrap_or(i32::from(!success));
        Ok((code, self.setup.files))
    }

    async fn function(&mut self) -> Result<bool> {
        let argument = self.payload.argument.clone();
        match self.payload.function {
            Function::True | Function::MalformedPayloadInitial => Ok(true),
            Function::False => Ok(false),
            Function::Wait => std::future::pending().await,
            Function::WriteVolume => Ok(self.setup.mounts.get(&argument).is_some_and(|mount| {
                let writable = !mount.read_only;
                if writable {
                    mount.content.files().insert(VOLUME_FILE.into(), hello());
                }
                writable
            })),
            Function::ReadVolume => Ok(self
                .setup
                .mounts
                .get(&argument)
                .is_some_and(|mount| mount.content.files().contains_key(VOLUME_FILE))),
            Function::GetUrl => self.get(argument).await,
            Function::PingProxy => {
                self.print("Pinging").await?;
                let answer = self.setup.proxies.get(&argument).await;
                match answer {
                    Ok((status, body)) => {
                        self.print(String::from_utf8_lossy(&body)).await?;
                        Ok(status == 200)
                    }
                    Err(problem) => {
                        self.print(problem).await?;
                        Ok(false)
                    }
                }
            }
            Function::WriteLog => self.print(argument).await.map(|()| true),
            Function::WriteErrorLog => self.print(argument).await.map(|()| false),
            Function::WriteLogSleep => {
                self.print(argument).await?;
                tokio::time::sleep(Duration::from_millis(500)).await;
                Ok(true)
            }
            Function::WriteLogWait => {
                self.print(argument).await?;
                std::future::pending().await
            }
            Function::FloodLog => self.flood(argument).await,
            Function::WriteFiles => {
                for path in argument.split(' ').filter(|path| !path.is_empty()) {
                    self.setup.files.insert(path.to_owned(), hello());
                }
                Ok(true)
            }
            Function::WriteMany => {
                let count = number("write-many needs a number of files", &argument)?;
                for number in 0..count.min(MOST_FILES) {
                    let file = MemoryFile {
                        content: number.to_string().into_bytes(),
                        mode: 0o644,
                    };
                    self.setup.files.insert(format!("many/{number}"), file);
                }
                Ok(true)
            }
            Function::PrintFile => match self.setup.file(&argument) {
                Some(file) => self.write(file.content).await.map(|()| true),
                None => Ok(false),
            },
            Function::PrintMode => match self.setup.file(&argument) {
                Some(file) => self
                    .print(format!("{:o}", file.mode & 0o777))
                    .await
                    .map(|()| true),
                None => Ok(false),
            },
            Function::PrintEnvVar => match self.setup.variable(&argument).map(str::to_owned) {
                Some(value) => self.print(value).await.map(|()| true),
                None => Ok(false),
            },
            Function::MalformedPayloadAfterStart => Err(Error::malformed(format!(
                "malformed, as it was asked for: {argument}"
            ))),
            Function::FatalInternalError => Err(Error::fatal("a fatal error, as it was asked for")),
            Function::NonfatalInternalError => Err(Error::internal("an error, as it was asked for")),
            Function::StopNowSleep => {
                self.services
                    .stop(StopMode::Now, "a task of the mock engine asked for it".into())
                    .await?;
                std::future::pending().await
            }
        }
    }

    async fn print(&self, text: impl AsRef<str>) -> Result<()> {
        let mut line = text.as_ref().to_owned();
        line.push('\n');
        self.write(line.into_bytes()).await
    }

    async fn write(&self, bytes: Vec<u8>) -> Result<()> {
        // A pipe may be full for as long as nobody reads it.
        let mut file = self.log.try_clone()?.into_file();
        blocking(move || Ok(file.write_all(&bytes)?)).await
    }

    async fn flood(&self, argument: String) -> Result<bool> {
        let mut left = number("flood-log needs a number of bytes", &argument)?;
        let mut chunk = b"0123456789abcdefghijklmnopqrstuvwxyz-mock-engine-floods-the-log".to_vec();
        chunk.push(b'\n');
        let chunk = chunk.repeat(1024);
        while left > 0 {
            let length = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.write(chunk[..length].to_vec()).await?;
            left -= length as u64;
        }
        Ok(true)
    }

    async fn get(&self, url: String) -> Result<bool> {
        let answer = self
            .task
            .http(HttpRequest {
                head: HttpHead {
                    method: "GET".into(),
                    url,
                    ..HttpHead::default()
                },
                body: None,
            })
            .await;
        match answer {
            Ok(answer) => {
                let body = blocking(move || {
                    let mut body = Vec::new();
                    answer.body.into_file().read_to_end(&mut body)?;
                    Ok(body)
                })
                .await?;
                self.print(String::from_utf8_lossy(&body)).await?;
                Ok(answer.head.status == 200)
            }
            Err(error) => {
                self.print(error.message()).await?;
                Ok(false)
            }
        }
    }
}

fn number(needs: &str, argument: &str) -> Result<u64> {
    let parsed = argument.trim().parse();
    parsed.map_err(|_| Error::malformed(format!("{needs}, not {argument:?}")))
}

fn hello() -> MemoryFile {
    MemoryFile {
        content: HELLO.to_vec(),
        mode: 0o644,
    }
}
