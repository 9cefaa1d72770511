//! Between a worker and its queue: counts what passes, and can be cut, swallow everything, or keep a request back.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

/// What becomes of what is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Mode {
    #[default]
    Pass,
    Cut,
    Swallow,
}

#[derive(Default)]
struct Passing {
    sent: Vec<u8>,
    mode: Mode,
    /// Attempts that came to nothing.
    vain: usize,
    /// What has this in it waits.
    kept: Option<String>,
    /// Somebody waits so.
    keeps: bool,
    open: Vec<TcpStream>,
}

#[derive(Default)]
struct Shared {
    passing: Mutex<Passing>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Passing> {
        self.passing.lock().expect("no panic")
    }

    fn change(&self, change: impl FnOnce(&mut Passing)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait(&self, what: &str, until: impl Fn(&Passing) -> bool) {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), Duration::from_secs(120), |passing| !until(passing))
            .expect("no panic");
        assert!(!waited.1.timed_out(), "{what}");
    }
}

impl Proxy {
    pub(crate) fn before(server: &str) -> Self {
        let server = server.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let shared: Arc<Shared> = Arc::default();
        let proxy = Proxy {
            address: listener.local_addr().expect("it has one"),
            shared: Arc::clone(&shared),
        };
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(queue) = TcpStream::connect(&server) else {
                    continue;
                };
                let mut passing = shared.lock();
                if passing.mode == Mode::Cut {
                    passing.vain += 1;
                    shared.changed.notify_all();
                    continue;
                }
                let clone = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
                passing.open.extend([clone(&client), clone(&queue)]);
                let (from, to) = (clone(&client), clone(&queue));
                let (there, back) = (Arc::clone(&shared), Arc::clone(&shared));
                std::thread::spawn(move || pass(from, to, &there, true));
                std::thread::spawn(move || pass(queue, client, &back, false));
            }
        });
        proxy
    }

    /// How often this was sent to the queue.
    pub(crate) fn count(&self, what: &str) -> usize {
        count(&self.shared.lock().sent, what)
    }

    /// The certificates of requests whose first line has this in it, in their order: each credentials have their own.
    pub(crate) fn certificates(&self, what: &str) -> Vec<String> {
        let passing = self.shared.lock();
        let text = String::from_utf8_lossy(&passing.sent).into_owned();
        let heads = text.split("\r\n\r\n").filter(|head| {
            let line = head.lines().find(|line| line.ends_with(" HTTP/1.1"));
            line.is_some_and(|line| line.contains(what))
        });
        heads
            .filter_map(|head| head.split_once("ext=\"")?.1.split_once('"'))
            .map(|(ext, _)| ext.to_owned())
            .collect()
    }

    /// Waits until this was sent so often.
    pub(crate) fn waits_for(&self, what: &str, times: usize) {
        let late = format!("{what:?} was not sent {times} times");
        self.shared
            .wait(&late, |passing| count(&passing.sent, what) >= times);
    }

    /// Requests that have this in them wait from now on.
    pub(crate) fn keeps_back(&self, what: &str) {
        self.shared.change(|passing| passing.kept = Some(what.to_owned()));
    }

    /// Waits until there is one.
    pub(crate) fn waits_until_it_keeps_one(&self) {
        self.shared.wait("nothing was kept back", |passing| passing.keeps);
    }

    /// They may pass.
    pub(crate) fn lets_pass(&self) {
        self.shared.change(|passing| passing.kept = None);
    }

    /// From now on, connections break.
    pub(crate) fn cut(&self) {
        self.shared.change(|passing| {
            passing.mode = Mode::Cut;
            passing.close();
        });
    }

    /// From now on, everything is taken and nothing answered.
    pub(crate) fn swallow(&self) {
        self.shared.change(|passing| passing.mode = Mode::Swallow);
    }

    /// Waits until somebody has tried in vain to reach the queue.
    pub(crate) fn waits_until_it_is_missed(&self) {
        self.shared
            .wait("nobody misses the queue", |passing| passing.vain > 0);
    }

    /// The queue is there again, for who connects anew.
    pub(crate) fn mend(&self) {
        self.shared.change(|passing| {
            passing.mode = Mode::Pass;
            passing.kept = None;
            passing.close();
        });
    }
}

impl Passing {
    fn close(&mut self) {
        for stream in self.open.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn count(bytes: &[u8], what: &str) -> usize {
    String::from_utf8_lossy(bytes).matches(what).count()
}

fn pass(mut from: TcpStream, mut to: TcpStream, shared: &Shared, to_queue: bool) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        let bytes = &buffer[..length];
        let mut passing = shared.lock();
        if to_queue {
            passing.sent.extend_from_slice(bytes);
            let is_kept = |passing: &Passing| {
                let kept = passing.kept.as_deref();
                passing.mode == Mode::Pass && kept.is_some_and(|kept| count(bytes, kept) > 0)
            };
            if is_kept(&passing) {
                passing.keeps = true;
            }
            shared.changed.notify_all();
            passing = shared
                .changed
                .wait_while(passing, |passing| is_kept(passing))
                .expect("no panic");
        }
        match passing.mode {
            Mode::Pass => {}
            Mode::Cut => break,
            Mode::Swallow => {
                passing.vain += usize::from(to_queue);
                shared.changed.notify_all();
                continue;
            }
        }
        drop(passing);
        if to.write_all(bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
