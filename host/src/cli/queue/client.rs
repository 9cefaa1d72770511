//! `tcw-host queue client`: who may use the queue.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use chrono::{DateTime, TimeDelta, TimeZone as _, Utc};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::QueueFlags;
use crate::cli::outcome::Failure;
use crate::cli::{logging, submit, terminal};
use crate::queue::{Queue as _, QueueClient, WorkerPoolId, format_time};
use crate::schema::units;

#[derive(Args, Debug)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Make a client and print its credentials as a configuration
    Create(Box<Create>),
    /// A line for every client: its name, how long it lasts, its scopes
    List {
        /// For programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        queue: QueueFlags,
    },
    /// Give a client a new access token; the old one is worth nothing from then on
    Reset {
        /// As it was created
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        output: Output,
        #[command(flatten)]
        queue: QueueFlags,
    },
    /// Delete a client: what it signs is refused from then on. Tasks that it has claimed or created stay
    Delete {
        /// As it was created
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        queue: QueueFlags,
    },
}

#[derive(Args, Debug)]
struct Create {
    /// Such as worker/build-1 or people/anna: letters, digits and any of !@/:.+|_-
    #[arg(value_name = "NAME")]
    name: String,
    /// For a worker of this pool: may claim its tasks; can be given several times
    #[arg(long, value_name = "POOL")]
    worker_pool: Vec<String>,
    /// With --worker-pool: only as workers of this group
    #[arg(long, value_name = "NAME", requires = "worker_pool")]
    worker_group: Option<String>,
    /// For people and programs with tasks for this pool: may create them, schedule, rerun and cancel them, and read all
    /// artifacts; can be given several times
    #[arg(long, value_name = "POOL")]
    submit_to: Vec<String>,
    /// Any scope; can be given several times
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// How long it lasts, such as "30 days"; without it, until it is deleted
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    queue: QueueFlags,
}

#[derive(Args, Debug)]
struct Output {
    /// A new file for the credentials, for its owner only, instead of stdout
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) async fn run(arguments: Arguments) -> Result<ExitCode, Failure> {
    match arguments.command {
        Commands::Create(create) => self::create(&create).await?,
        Commands::List { json, queue } => {
            let clients = connect(&queue)?.0.list_clients().await?;
            if json {
                terminal::print_line(format_args!("{:#}", Value::Array(clients)))?;
            } else {
                terminal::print(clients.iter().map(line).collect::<String>())?;
            }
        }
        Commands::Reset { name, output, queue } => {
            let client = connect(&queue)?;
            let file = output.open()?;
            let answer = client.0.reset_access_token(&name).await;
            output.write(file, answer, &client, None)?;
        }
        Commands::Delete { name, queue } => connect(&queue)?.0.delete_client(&name).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(create: &Create) -> Result<(), Failure> {
    let scopes = create.scopes()?;
    if scopes.is_empty() {
        return Err(Failure::usage(
            "a client without scopes may do nothing that anybody may not do: give it some with --worker-pool, \
             --submit-to or --scope",
        ));
    }
    let expires = match &create.expires {
        Some(text) => in_so_long(text).map_err(|wrong| Failure::usage(format!("--expires: {wrong}")))?,
        // The API wants a time.
        None => Utc
            .with_ymd_and_hms(3000, 1, 1, 0, 0, 0)
            .single()
            .unwrap_or_default(),
    };
    let client = connect(&create.queue)?;
    let file = create.output.open()?;
    let definition = json!({
        "description": create.description,
        "scopes": scopes,
        "expires": format_time(expires),
        "deleteOnExpiration": true,
    });
    let answer = client.0.create_client(&create.name, &definition).await;
    let pool = create
        .worker_pool
        .first()
        .filter(|_| create.worker_pool.len() == 1);
    create
        .output
        .write(file, answer, &client, pool.map(String::as_str))
}

impl Create {
    fn scopes(&self) -> Result<Vec<String>, Failure> {
        let group = self
            .worker_group
            .as_deref()
            .map_or_else(String::new, |group| format!("{group}/"));
        let mut scopes = self.scope.clone();
        for pool in &self.worker_pool {
            let pool = checked(pool)?;
            scopes.push(format!("queue:claim-work:{pool}"));
            scopes.push(format!("queue:worker-id:{group}*"));
        }
        for pool in &self.submit_to {
            let pool = checked(pool)?;
            // Of equal standing: what one of a small team has put into the queue, another can take out of it.
            scopes.extend(
                [
                    "highest",
                    "very-high",
                    "high",
                    "medium",
                    "low",
                    "very-low",
                    "lowest",
                ]
                .map(|priority| format!("queue:create-task:{priority}:{pool}")),
            );
            scopes.extend(
                [
                    "queue:create-task:project:none",
                    "queue:scheduler-id:*",
                    "queue:schedule-task:*",
                    "queue:rerun-task:*",
                    "queue:cancel-task:*",
                    "queue:get-artifact:*",
                ]
                .map(str::to_owned),
            );
        }
        scopes.sort_unstable();
        scopes.dedup();
        Ok(scopes)
    }
}

fn checked(pool: &str) -> Result<WorkerPoolId, Failure> {
    pool.parse().map_err(Failure::usage)
}

fn in_so_long(text: &str) -> Result<DateTime<Utc>, String> {
    let duration = TimeDelta::from_std(units::duration(text)?).map_err(|error| error.to_string())?;
    Utc::now()
        .checked_add_signed(duration)
        .filter(|time| time.timestamp() < 253_402_300_799)
        .ok_or_else(|| "that is too long; leave it out for a client that lasts".to_owned())
}

/// A client of the queue, and what it needs to be trusted.
fn connect(flags: &QueueFlags) -> Result<(QueueClient, Option<PathBuf>), Failure> {
    let config = flags.load(|flags| {
        flags.log_level.get_or_insert_with(|| "warn".to_owned());
    })?;
    logging::start(&config.log);
    Ok((submit::client(&config)?, config.ca_certificates))
}

impl Output {
    /// The file first: a token that cannot be written down would be lost.
    fn open(&self) -> Result<Option<File>, Failure> {
        let Some(path) = &self.output else {
            return Ok(None);
        };
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        file.map(Some).map_err(|error| {
            Failure::general(format!(
                "{} cannot be made ({error}); choose a new file",
                path.display()
            ))
        })
    }

    fn write(
        &self,
        file: Option<File>,
        answer: Result<Value, crate::queue::QueueError>,
        (client, ca_certificates): &(QueueClient, Option<PathBuf>),
        pool: Option<&str>,
    ) -> Result<(), Failure> {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                if let Some(path) = &self.output {
                    // It is empty, and ours.
                    let _ = std::fs::remove_file(path);
                }
                return Err(error.into());
            }
        };
        let text = configuration(client.root_url(), &answer, pool, ca_certificates);
        match (file, self.output.as_deref()) {
            (Some(mut file), path) => {
                let name = path.map_or_else(String::new, |path| Path::display(path).to_string());
                file.write_all(text.as_bytes()).map_err(|error| {
                    Failure::general(format!(
                        "{name} cannot be written ({error}); delete the client and try again"
                    ))
                })
            }
            (None, _) => terminal::print(text),
        }
    }
}

/// What a worker, or somebody with tasks, has in their configuration. Values are JSON, which YAML is a superset of.
fn configuration(
    root_url: &str,
    client: &Value,
    pool: Option<&str>,
    ca_certificates: &Option<PathBuf>,
) -> String {
    let mut text = format!(
        "queue:\n  rootUrl: {}\n  clientId: {}\n  accessToken: {}\n",
        json!(root_url),
        client["clientId"],
        client["accessToken"]
    );
    // The file goes where this one goes, into the same directory.
    if let Some(file) = ca_certificates.as_deref().and_then(Path::file_name) {
        text += &format!("  caCertificates: {}\n", json!(file.to_string_lossy()));
    }
    if let Some(pool) = pool {
        text += &format!("worker:\n  workerPool: {}\n", json!(pool));
    }
    text
}

fn line(client: &Value) -> String {
    let text = |key: &str| client[key].as_str().unwrap_or_default().to_owned();
    let until = match text("expires") {
        lasting if lasting.starts_with("3000-") => "until deleted".to_owned(),
        time => format!("until {time}"),
    };
    let scopes = client["scopes"].as_array().into_iter().flatten();
    let scopes: Vec<&str> = scopes.filter_map(Value::as_str).collect();
    let description = match text("description") {
        none if none.is_empty() => none,
        some => format!("  ({some})"),
    };
    // Descriptions are whoever's: no line of a terminal may be forged with them.
    let line = format!("{}  {until}  {}{description}", text("clientId"), scopes.join(" "));
    line.replace(char::is_control, " ") + "\n"
}
