//! The engine's own lines in the task log, in generic-worker's form: people and tools look for them.

use std::time::Duration;

use crate::spawn::Exit;

/// The width of the labels; the value follows after a colon.
const LABEL_WIDTH: usize = 32;

/// How a command went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Succeeded,
    Failed,
    Aborted,
}

impl Verdict {
    fn text(self) -> &'static str {
        match self {
            Verdict::Succeeded => "SUCCEEDED",
            Verdict::Failed => "FAILED",
            Verdict::Aborted => "ABORTED",
        }
    }
}

/// Announces a command.
pub(crate) fn executing(index: usize, command: &[String]) -> String {
    let words: Vec<String> = command.iter().map(|word| escape(word)).collect();
    format!("Executing command {index}: {}", words.join(" "))
}

/// Tells how a command went, several lines in one text.
pub(crate) fn finished(exit: &Exit, wall: Duration, verdict: Verdict) -> String {
    let mut lines = vec![line("Exit Code", &exit.code.unwrap_or(-1).to_string())];
    if let Some(signal) = exit.signal {
        lines.push(line("Signal", &signal.to_string()));
    }
    lines.push(line("User Time", &time(exit.user)));
    lines.push(line("Kernel Time", &time(exit.system)));
    lines.push(line("Wall Time", &time(wall)));
    lines.push(line("Result", verdict.text()));
    lines.join("\n")
}

fn line(label: &str, value: &str) -> String {
    format!("{label:>LABEL_WIDTH$}: {value}")
}

/// Nobody needs nanoseconds.
fn time(time: Duration) -> String {
    let time = Duration::from_micros(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    if time.is_zero() {
        return "0s".into();
    }
    let minutes = time.as_secs() / 60;
    if minutes == 0 {
        return format!("{time:?}");
    }
    let rest = time - Duration::from_secs(minutes * 60);
    format!("{minutes}m{}s", rest.as_secs_f64())
}

/// A word as a shell would take it.
fn escape(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./:=@%+,^".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_can_be_pasted_into_a_shell() {
        let command = ["/bin/bash", "-cx", "echo 'hi' $HOME", "", "a=b"].map(str::to_owned);
        assert_eq!(
            executing(3, &command),
            r"Executing command 3: /bin/bash -cx 'echo '\''hi'\'' $HOME' '' a=b"
        );
    }

    #[test]
    fn results_are_aligned_as_generic_worker_aligns_them() {
        let exit = Exit {
            code: Some(7),
            signal: None,
            user: Duration::ZERO,
            system: Duration::from_nanos(15_625_999),
            peak_memory: 0,
        };
        let wall = Duration::from_micros(62_500_000);
        assert_eq!(
            finished(&exit, wall, Verdict::Failed),
            "                       Exit Code: 7\n                       User Time: 0s\n                     \
             Kernel Time: 15.625ms\n                       Wall Time: 1m2.5s\n                          \
             Result: FAILED"
        );
    }
}
