//! A proxy that does to requests what the world does: each in a way that a rule says, over real sockets.
//!
//! A rule names calls by method and path, how many of them to leave alone first and how many to meddle with. Whatever
//! no rule is for goes to the server and back as it is. Every connection ends with its answer.

mod exchange;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use exchange::{Pace, Request};

/// What happens to a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Fault {
    /// The connection is closed as soon as the head of the request is there.
    Reset,
    /// It is taken and never answered.
    Hang,
    /// It is read in small pieces with pauses, then passed on.
    SlowRequest,
    /// Half of its body is read, then the connection is closed.
    CutRequest,
    /// The server's answer comes one byte at a time.
    SlowAnswer,
    /// An answer begins and comes so slowly that nobody waits for it; it never gets whole.
    Trickle,
    /// The server does it; half of its answer arrives.
    CutAnswer,
    /// The server does it; nothing of its answer arrives.
    LostAnswer,
    /// The server does it twice; its first answer arrives.
    Twice,
    /// The server's answer arrives without the time in it.
    NoDate,
    /// Bytes that are no HTTP.
    NotHttp,
    /// 200, and a page for people.
    NotJson,
    /// 200, and JSON that means nothing here.
    WrongShape,
    /// 200, and a body that does not end.
    EndlessBody,
    /// A head that does not end.
    EndlessHeader,
    /// This status, in the services' form, with these lines among the headers. The server sees nothing.
    Status(u16, &'static str),
    /// A redirection to this place.
    Redirect(u16, String),
    /// 200 with this body. The server sees nothing.
    Answer(String),
}

/// Which requests a fault is for.
pub(crate) struct Rule {
    pub(crate) method: &'static str,
    /// A part of the path.
    pub(crate) path: String,
    /// So many of them are left alone first.
    pub(crate) skip: usize,
    /// So many of them are meddled with.
    pub(crate) times: usize,
    pub(crate) fault: Fault,
}

impl Rule {
    /// For the first of these requests.
    pub(crate) fn once(method: &'static str, path: impl Into<String>, fault: Fault) -> Self {
        Rule {
            method,
            path: path.into(),
            skip: 0,
            times: 1,
            fault,
        }
    }

    /// For all of these requests.
    pub(crate) fn always(method: &'static str, path: impl Into<String>, fault: Fault) -> Self {
        Rule {
            times: usize::MAX,
            ..Rule::once(method, path, fault)
        }
    }

    fn is_for(&self, method: &str, path: &str) -> bool {
        self.method == method && path.contains(&self.path)
    }
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    pub(crate) authorized: bool,
}

struct Ruled {
    rule: Rule,
    met: usize,
}

struct State {
    upstream: SocketAddr,
    rules: Mutex<Vec<Ruled>>,
    seen: watch::Sender<Vec<Seen>>,
    let_go: Notify,
}

/// A socket at an address that others of this process may have, too.
fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

/// A running proxy. It ends with this object.
pub(crate) struct Proxy {
    pub(crate) url: String,
    address: SocketAddr,
    /// Holds the port and never listens: while connections are refused, nobody else may get it.
    _port: TcpSocket,
    state: Arc<State>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Proxy {
    /// In front of the server at this URL.
    pub(crate) async fn start(upstream: &str) -> Self {
        let upstream = upstream.strip_prefix("http://").unwrap().parse().unwrap();
        let port = bound("127.0.0.1:0".parse().unwrap());
        let address = port.local_addr().unwrap();
        let proxy = Proxy {
            url: format!("http://{address}"),
            address,
            _port: port,
            state: Arc::new(State {
                upstream,
                rules: Mutex::default(),
                seen: watch::Sender::default(),
                let_go: Notify::new(),
            }),
            accepting: Mutex::default(),
        };
        proxy.listen();
        proxy
    }

    fn accept_from(&self, listener: TcpListener) {
        let state = Arc::clone(&self.state);
        let accepting = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                tokio::spawn(serve(Arc::clone(&state), connection));
            }
        });
        *self.accepting.lock().unwrap() = Some(accepting);
    }

    /// From now on connections are refused.
    pub(crate) async fn refuse(&self) {
        let accepting = self.accepting.lock().unwrap().take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // The socket is closed when the task is gone.
            let _ = accepting.await;
        }
    }

    /// From now on connections are taken again, at the same place.
    pub(crate) fn listen(&self) {
        self.accept_from(bound(self.address).listen(64).unwrap());
    }

    /// One rule more. The first that is for a request counts.
    pub(crate) fn rule(&self, rule: Rule) {
        self.state.rules.lock().unwrap().push(Ruled { rule, met: 0 });
    }

    /// No rules any more; what hangs is let go.
    pub(crate) fn behave(&self) {
        self.state.rules.lock().unwrap().clear();
        self.state.let_go.notify_waiters();
    }

    /// The requests so far with this method and this part of a path.
    pub(crate) fn seen(&self, method: &str, path: &str) -> Vec<Seen> {
        let seen = self.state.seen.borrow();
        let is_meant = |seen: &&Seen| seen.method == method && seen.path.contains(path);
        seen.iter().filter(is_meant).cloned().collect()
    }

    /// Waits until so many such requests have come.
    pub(crate) async fn sees(&self, count: usize, method: &str, path: &str) {
        let mut changes = self.state.seen.subscribe();
        changes
            .wait_for(|seen| {
                let is_meant = |seen: &&Seen| seen.method == method && seen.path.contains(path);
                seen.iter().filter(is_meant).count() >= count
            })
            .await
            .unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.lock().unwrap().take() {
            accepting.abort();
        }
    }
}

impl State {
    fn fault_for(&self, method: &str, path: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        for ruled in rules.iter_mut().filter(|ruled| ruled.rule.is_for(method, path)) {
            ruled.met += 1;
            let number = ruled.met - 1;
            if number >= ruled.rule.skip && number - ruled.rule.skip < ruled.rule.times {
                return Some(ruled.rule.fault.clone());
            }
        }
        None
    }
}

/// One request, and what becomes of it.
async fn serve(state: Arc<State>, connection: TcpStream) {
    let _ = connection.set_nodelay(true);
    let mut connection = BufReader::new(connection);
    let Some(mut request) = Request::head(&mut connection).await else {
        return;
    };
    let fault = state.fault_for(&request.method, &request.path);
    state.seen.send_modify(|seen| {
        seen.push(Seen {
            method: request.method.clone(),
            path: request.path.clone(),
            authorized: request.authorized,
        });
    });
    if fault == Some(Fault::Reset) {
        return exchange::reset(connection.into_inner());
    }
    let pace = match fault {
        Some(Fault::SlowRequest) => Pace::Slow,
        Some(Fault::CutRequest) => Pace::Half,
        _ => Pace::Fast,
    };
    if request.body(&mut connection, pace).await.is_none() {
        return;
    }
    let mut client = connection.into_inner();
    let server = || request.at(state.upstream);
    // The client may be gone in the middle of anything.
    let _ = match fault {
        None | Some(Fault::SlowRequest) => client.write_all(&server().await).await,
        Some(Fault::Reset | Fault::CutRequest) => {
            exchange::reset(client);
            return;
        }
        Some(Fault::Hang) => {
            let mut nothing = [0];
            tokio::select! {
                _ = client.read(&mut nothing) => {}
                () = state.let_go.notified() => {}
            }
            Ok(())
        }
        Some(Fault::SlowAnswer) => exchange::byte_by_byte(&mut client, &server().await).await,
        Some(Fault::Trickle) => exchange::trickle(&mut client).await,
        Some(Fault::CutAnswer) => {
            let answer = server().await;
            client.write_all(exchange::first_half(&answer)).await
        }
        Some(Fault::LostAnswer) => {
            server().await;
            Ok(())
        }
        Some(Fault::Twice) if request.path.contains("/claim-work/") => {
            let sent = client.write_all(&server().await).await;
            let _ = client.shutdown().await;
            // It waits for more work, and nobody for it.
            server().await;
            sent
        }
        Some(Fault::Twice) => {
            let first = server().await;
            server().await;
            client.write_all(&first).await
        }
        Some(Fault::NoDate) => client.write_all(&exchange::undated(&server().await)).await,
        Some(Fault::NotHttp) => client.write_all(b"\x16\x03\x01 who is there?\r\n\r\n").await,
        Some(Fault::NotJson) => client.write_all(&exchange::page()).await,
        Some(Fault::WrongShape) => {
            let body = r#"{"status": 7, "tasks": {}, "statuses": "none", "taskId": []}"#;
            client.write_all(&exchange::answer(200, "", body)).await
        }
        Some(Fault::Answer(body)) => client.write_all(&exchange::answer(200, "", &body)).await,
        Some(Fault::EndlessBody) => exchange::endless_body(&mut client).await,
        Some(Fault::EndlessHeader) => exchange::endless_header(&mut client).await,
        Some(Fault::Status(status, headers)) => {
            let body = r#"{"code": "Asked", "message": "as the test asked for", "requestInfo": {}}"#;
            client.write_all(&exchange::answer(status, headers, body)).await
        }
        Some(Fault::Redirect(status, to)) => {
            let location = format!("location: {to}\r\n");
            client.write_all(&exchange::answer(status, &location, "")).await
        }
    };
    let _ = client.shutdown().await;
}
