//! Proxies: what a task reaches by HTTP under the name of a proxy, and nobody else does.
//!
//! A task names the address in its payload, so it has to be known from the proxy's name alone: it is asked of a builder
//! that is thrown away, and has to be the same again.

use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};

use super::server::{Request, Server};
use super::together::all;
use super::{Bench, Built, Failure, Need, case_list, purpose};
use crate::engine::feature;
use crate::error::ErrorKind;

const PROXIES: Need = Need::Feature(feature::PROXIES);
const PINGS: Need = Need::Payload(&purpose::PING_PROXY);
const SILENT: Need = Need::Payload(&purpose::SILENT);

case_list! {
    "proxies/ping", "A task reaches its proxy, which sees the path without its own name", [PROXIES, PINGS], ping;
    "proxies/not-found", "Status and body of a 404 reach the task", [PROXIES, PINGS], not_found;
    "proxies/live-log", "While a proxy does not answer yet, what the task has printed is in its log",
        [PROXIES, PINGS], live_log;
    "proxies/in-parallel", "Several sandboxes have each their own proxy under one name", [PROXIES, PINGS], in_parallel;
    "proxies/several", "One sandbox has several proxies, with the shortest and the longest name",
        [PROXIES, PINGS], several;
    "proxies/root", "The proxy without a name is http://taskcluster/, and sees whole paths", [PROXIES, PINGS], root;
    "proxies/root-and-named", "Beside the root a proxy with a name gets what is its own", [PROXIES, PINGS], root_and_named;
    "proxies/elsewhere", "A sandbox without the proxy does not reach it, while another has it and afterwards",
        [PROXIES, PINGS, Need::Payload(&purpose::PRINT_AND_WAIT)], elsewhere;
    "proxies/nobody-serves", "A task whose proxy is not served sees that, and ends", [PROXIES, PINGS], nobody_serves;
    "proxies/bad-names", "Names that are not three to 22 letters from a to z are MalformedPayload",
        [PROXIES, SILENT], bad_names;
    "proxies/taken", "A second proxy of one name is a NamingConflict", [PROXIES, SILENT], taken;
    "proxies/abort", "A task that waits for its proxy can be aborted", [PROXIES, PINGS], abort;
}

const NAME: &str = "checkproxy";
const SECRET: &str = "secret=42";

async fn attach(bench: &Bench, built: &Built<'_>, name: &str, endpoint: String) -> Result<String, Failure> {
    let what = format!("SandboxBuilder.attach_proxy({name:?})");
    let url = bench
        .ok(&what, built.builder.attach_proxy(name.into(), endpoint))
        .await?;
    Failure::unless(url.starts_with("http://"), || {
        format!("{what} has to answer an address, seen {url:?}")
    })?;
    Ok(url.trim_end_matches('/').to_owned())
}

/// The address of a proxy of this name, from a builder that is thrown away.
async fn address(bench: &Bench, name: &str) -> Result<String, Failure> {
    let built = bench
        .build_for(&purpose::PING_PROXY, &[("url", "http://taskcluster/unused")])
        .await?;
    let endpoint = bench.services().root().join("unused.sock").display().to_string();
    let url = attach(bench, &built, name, endpoint).await?;
    built.discard().await?;
    Ok(url)
}

/// A builder of a task that sends GET to `url`, with these proxies: name, endpoint, address.
async fn pinging<'a>(
    bench: &'a Bench,
    url: &str,
    proxies: &[(&str, String, &str)],
) -> Result<Built<'a>, Failure> {
    let built = bench.build_for(&purpose::PING_PROXY, &[("url", url)]).await?;
    for (name, endpoint, address) in proxies {
        let again = attach(bench, &built, name, endpoint.clone()).await?;
        Failure::unless_equal(
            "the address of a proxy, which has to be known from its name alone",
            again.as_str(),
            address,
        )?;
    }
    Ok(built)
}

/// Runs such a task. Answers whether it succeeded, and its output.
async fn run(bench: &Bench, url: &str, proxies: &[(&str, String, &str)]) -> Result<(bool, String), Failure> {
    let built = pinging(bench, url, proxies).await?;
    let ended = built.start().await?.wait().await?;
    let success = ended.report.success;
    Ok((success, ended.finish_text().await?))
}

fn serve(
    bench: &Bench,
    name: &str,
    handler: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static,
) -> Result<Server, Failure> {
    Server::start(bench.services().root(), name, handler)
}

fn asked(server: &Server, path: &str) -> Result<(), Failure> {
    let expected = [Request {
        method: "GET".into(),
        path: path.into(),
    }];
    Failure::unless_equal(
        "what the proxy was asked for",
        server.requests().as_slice(),
        &expected,
    )
}

fn has(success: (bool, &str), expected: bool, text: &str) -> Result<(), Failure> {
    let (success, output) = success;
    Failure::unless(success == expected && output.contains(text), || {
        format!(
            "a task that pings a proxy: expected success {expected} and {text:?} in its output, seen success {success} \
             and {:?}",
            super::show(output.as_bytes())
        )
    })
}

async fn ping(bench: &Bench) -> Result<(), Failure> {
    let address = address(bench, NAME).await?;
    let server = serve(bench, "ping", |_| (200, SECRET.into()))?;
    let url = format!("{address}/v1/ping");
    let (success, output) = run(bench, &url, &[(NAME, server.endpoint(), &address)]).await?;
    has((success, &output), true, SECRET)?;
    asked(&server, "/v1/ping")
}

async fn not_found(bench: &Bench) -> Result<(), Failure> {
    let address = address(bench, NAME).await?;
    let server = serve(bench, "not-found", |_| (404, "there is no ping here".into()))?;
    let url = format!("{address}/v1/ping");
    let (success, output) = run(bench, &url, &[(NAME, server.endpoint(), &address)]).await?;
    has((success, &output), false, "there is no ping here")
}

/// A handler that answers when it is told to, and the way to tell it.
fn blocked() -> (
    mpsc::Sender<()>,
    impl Fn(&Request) -> (u16, String) + Send + Sync + 'static,
) {
    let (go, told) = mpsc::channel();
    let told = Mutex::new(told);
    (go, move |_: &Request| {
        // The case may have ended without a word.
        let _ = told.lock().unwrap_or_else(PoisonError::into_inner).recv();
        (200, SECRET.into())
    })
}

async fn live_log(bench: &Bench) -> Result<(), Failure> {
    let address = address(bench, NAME).await?;
    let (go, handler) = blocked();
    let server = serve(bench, "live", handler)?;
    let url = format!("{address}/v1/ping");
    let built = pinging(bench, &url, &[(NAME, server.endpoint(), &address)]).await?;
    let running = built.start().await?;
    running.printed("Pinging").await?;
    let early = String::from_utf8_lossy(&running.task.output()).contains(SECRET);
    drop(go);
    Failure::unless(!early, || {
        "the task has printed an answer that nobody has given".to_owned()
    })?;
    let ended = running.wait().await?;
    let success = ended.report.success;
    has((success, &ended.finish_text().await?), true, SECRET)
}

async fn in_parallel(bench: &Bench) -> Result<(), Failure> {
    let address = address(bench, NAME).await?;
    let address = address.as_str();
    let most = bench.description().max_concurrency.unwrap_or(4).clamp(1, 4);
    let run = |number: u32| async move {
        let secret = format!("secret={number}");
        let body = secret.clone();
        let server = serve(bench, &format!("parallel-{number}"), move |_| (200, body.clone()))?;
        let url = format!("{address}/v1/ping/{number}");
        let (success, output) = self::run(bench, &url, &[(NAME, server.endpoint(), address)]).await?;
        has((success, &output), true, &secret)?;
        asked(&server, &format!("/v1/ping/{number}"))
    };
    all((0..most).map(run)).await.map(drop)
}

async fn several(bench: &Bench) -> Result<(), Failure> {
    let names = ["abc", "abcdefghijklmnopqrstuv"];
    let addresses = [address(bench, names[0]).await?, address(bench, names[1]).await?];
    let servers = [
        serve(bench, "first", |_| (200, "from the first".into()))?,
        serve(bench, "second", |_| (200, "from the second".into()))?,
    ];
    let proxies = [
        (names[0], servers[0].endpoint(), addresses[0].as_str()),
        (names[1], servers[1].endpoint(), addresses[1].as_str()),
    ];
    for (address, text) in addresses.iter().zip(["from the first", "from the second"]) {
        let (success, output) = run(bench, &format!("{address}/v1/ping"), &proxies).await?;
        has((success, &output), true, text)?;
    }
    for server in &servers {
        asked(server, "/v1/ping")?;
    }
    Ok(())
}

async fn root(bench: &Bench) -> Result<(), Failure> {
    let address = address(bench, "").await?;
    Failure::unless_equal(
        "the address of the proxy without a name",
        address.as_str(),
        "http://taskcluster",
    )?;
    let server = serve(bench, "root", |_| (200, SECRET.into()))?;
    let url = "http://taskcluster/api/queue/v1/ping";
    let (success, output) = run(bench, url, &[("", server.endpoint(), &address)]).await?;
    has((success, &output), true, SECRET)?;
    asked(&server, "/api/queue/v1/ping")
}

async fn root_and_named(bench: &Bench) -> Result<(), Failure> {
    let (root, named) = (address(bench, "").await?, address(bench, NAME).await?);
    let of_root = serve(bench, "root", |_| (200, "from the root".into()))?;
    let of_named = serve(bench, "named", |_| (200, "from the named".into()))?;
    let proxies = [
        ("", of_root.endpoint(), root.as_str()),
        (NAME, of_named.endpoint(), named.as_str()),
    ];
    let (success, output) = run(bench, &format!("{named}/v1/ping"), &proxies).await?;
    has((success, &output), true, "from the named")?;
    let (success, output) = run(bench, &format!("{root}/api/queue/v1/ping"), &proxies).await?;
    has((success, &output), true, "from the root")?;
    asked(&of_named, "/v1/ping")?;
    asked(&of_root, "/api/queue/v1/ping")
}

async fn elsewhere(bench: &Bench) -> Result<(), Failure> {
    const TEXT: &str = "this task has a proxy";
    let address = address(bench, NAME).await?;
    let server = serve(bench, "elsewhere", |_| (200, SECRET.into()))?;
    let url = format!("{address}/v1/ping");
    let several = bench.description().max_concurrency.is_none_or(|most| most > 1);
    let built = bench
        .build_for(&purpose::PRINT_AND_WAIT, &[("text", TEXT)])
        .await?;
    attach(bench, &built, NAME, server.endpoint()).await?;
    let owner = built.start().await?;
    owner.printed(TEXT).await?;
    if several {
        let (success, output) = run(bench, &url, &[]).await?;
        has((success, &output), false, "Pinging")?;
    }
    owner.abort().await?;
    let (success, output) = run(bench, &url, &[]).await?;
    has((success, &output), false, "Pinging")?;
    Failure::unless(server.requests().is_empty(), || {
        format!(
            "a sandbox that was not given the proxy has reached it: {:?}",
            server.requests()
        )
    })
}

async fn nobody_serves(bench: &Bench) -> Result<(), Failure> {
    let address = address(bench, NAME).await?;
    let endpoint = bench.services().root().join("nobody.sock").display().to_string();
    let (success, output) = run(
        bench,
        &format!("{address}/v1/ping"),
        &[(NAME, endpoint, &address)],
    )
    .await?;
    has((success, &output), false, "Pinging")
}

async fn bad_names(bench: &Bench) -> Result<(), Failure> {
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    for name in [
        "ab",
        "abcdefghijklmnopqrstuvw",
        "Upper",
        "with-dash",
        "with1digit",
        "with space",
        "with/slash",
        "../..",
        "new\nline",
        "umläute",
    ] {
        let endpoint = bench.services().root().join("unused.sock").display().to_string();
        let call = built.builder.attach_proxy(name.into(), endpoint);
        bench
            .refused(
                &format!("SandboxBuilder.attach_proxy({name:?})"),
                &[ErrorKind::MalformedPayload],
                call,
            )
            .await?;
    }
    built.discard().await
}

async fn taken(bench: &Bench) -> Result<(), Failure> {
    let server = serve(bench, "taken", |_| (200, SECRET.into()))?;
    let built = bench.build_for(&purpose::SILENT, &[]).await?;
    for name in ["", NAME] {
        attach(bench, &built, name, server.endpoint()).await?;
        let again = built.builder.attach_proxy(name.into(), server.endpoint());
        bench
            .refused(
                &format!("SandboxBuilder.attach_proxy({name:?}), the second time"),
                &[ErrorKind::NamingConflict],
                again,
            )
            .await?;
    }
    built.discard().await
}

async fn abort(bench: &Bench) -> Result<(), Failure> {
    let address = address(bench, NAME).await?;
    let (go, handler) = blocked();
    let server = serve(bench, "abort", handler)?;
    let url = format!("{address}/v1/ping");
    let built = pinging(bench, &url, &[(NAME, server.endpoint(), &address)]).await?;
    let running = built.start().await?;
    running.printed("Pinging").await?;
    running.abort().await?;
    drop(go);
    Ok(())
}
