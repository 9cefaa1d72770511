//! Places at which a test may end the process, to see what the next start makes of what is left.
//!
//! Only in builds with debug assertions, and only if the environment asks for it: `TCW_FAULT_POINT=NAME:COUNT:ACTION`.
//! `NAME` is that of a point, or the beginning of one with `*` after it; `COUNT` says at which time that one of them is
//! reached it happens, counted from 1; `ACTION` is `kill`: the process gets SIGKILL; or `panic`: the thread panics. `NAME:0:say` writes every one that
//! is reached to stderr, and does nothing.
//!
//! Here, and not beside this module, because the loader uses nothing of the host but itself: see `tests/abi-history`.

/// A point that has this name, given as for `format!`. Nothing in a release.
macro_rules! fault_point {
    ($($name:tt)+) => {
        #[cfg(debug_assertions)]
        $crate::library::fault_point::reached(&format!($($name)+))
    };
}
pub(crate) use fault_point;

#[cfg(debug_assertions)]
pub(crate) use debug::reached;

#[cfg(debug_assertions)]
mod debug {
    use std::io::Write as _;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    const VARIABLE: &str = "TCW_FAULT_POINT";

    #[derive(Debug, PartialEq, Eq)]
    enum Action {
        Kill,
        Panic,
        Say,
    }

    /// What the environment asks for.
    #[derive(Debug, PartialEq, Eq)]
    struct Fault {
        name: String,
        at: u64,
        action: Action,
    }

    impl Fault {
        fn parse(text: &str) -> Option<Fault> {
            let mut parts = text.split(':');
            let fault = Fault {
                name: parts.next()?.to_owned(),
                at: parts.next()?.parse().ok()?,
                action: match parts.next()? {
                    "kill" => Action::Kill,
                    "panic" => Action::Panic,
                    "say" => Action::Say,
                    _ => return None,
                },
            };
            parts.next().is_none().then_some(fault)
        }

        fn is_meant(&self, name: &str) -> bool {
            match self.name.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == self.name,
            }
        }
    }

    /// The process is at the point of this name.
    pub(crate) fn reached(name: &str) {
        static FAULT: OnceLock<Option<Fault>> = OnceLock::new();
        static REACHED: AtomicU64 = AtomicU64::new(0);
        let fault = FAULT.get_or_init(|| {
            let text = std::env::var(VARIABLE).ok()?;
            let fault = Fault::parse(&text);
            assert!(
                fault.is_some(),
                "{VARIABLE}={text}: it is NAME:COUNT:kill, NAME:COUNT:panic or NAME:0:say"
            );
            fault
        });
        let Some(fault) = fault.as_ref().filter(|fault| fault.is_meant(name)) else {
            return;
        };
        let count = REACHED.fetch_add(1, Ordering::SeqCst) + 1;
        // There may be nobody to read it.
        let _ = writeln!(std::io::stderr(), "fault point {count} {name}");
        assert!(
            fault.action != Action::Panic || count != fault.at,
            "the fault point {name}"
        );
        if fault.action == Action::Kill && count == fault.at {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            // Other threads go no further either.
            loop {
                std::thread::park();
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_fault_has_a_name_a_count_and_an_action() {
            let fault = Fault::parse("journal.*:3:kill").unwrap();
            assert!(fault.is_meant("journal.claimed.before") && !fault.is_meant("task.claimed"));
            assert_eq!((fault.at, &fault.action), (3, &Action::Kill));
            assert_eq!(
                Fault::parse("task.Running:1:panic").unwrap().action,
                Action::Panic
            );
            let exact = Fault::parse("task.claimed:0:say").unwrap();
            assert!(exact.is_meant("task.claimed") && !exact.is_meant("task.claimed.late"));
            for wrong in ["", "a", "a:1", "a:b:kill", "a:1:maim", "a:1:kill:more"] {
                assert_eq!(Fault::parse(wrong), None, "{wrong}");
            }
        }
    }
}
