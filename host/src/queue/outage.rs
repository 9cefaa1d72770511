//! Something that fails again and again, as it is told in the log: at once, then ever more rarely, and at its end.

use std::time::{Duration, Instant};

/// The longest that a failure which goes on is not mentioned.
const LONGEST_SILENCE: Duration = Duration::from_secs(600);
/// How long after its first mention it is mentioned again; then twice as long, and so on.
const FIRST_SILENCE: Duration = Duration::from_secs(30);

/// What is failing at the moment, if anything is.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    since: Option<Since>,
}

#[derive(Debug)]
struct Since {
    begun: Instant,
    count: u32,
    told: Instant,
    silence: Duration,
}

impl Outage {
    /// Once more. True if it is to be told.
    pub(crate) fn failed(&mut self) -> bool {
        self.failed_at(Instant::now())
    }

    fn failed_at(&mut self, now: Instant) -> bool {
        let Some(since) = &mut self.since else {
            self.since = Some(Since {
                begun: now,
                count: 1,
                told: now,
                silence: FIRST_SILENCE,
            });
            return true;
        };
        since.count += 1;
        if now.duration_since(since.told) < since.silence {
            return false;
        }
        since.told = now;
        since.silence = (since.silence * 2).min(LONGEST_SILENCE);
        true
    }

    /// It works. How often it did not before, and for how long.
    pub(crate) fn ended(&mut self) -> Option<(u32, Duration)> {
        let since = self.since.take()?;
        Some((since.count, since.begun.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_goes_on_is_told_ever_more_rarely() {
        let mut outage = Outage::default();
        let begun = Instant::now();
        let day = 24 * 3600;
        let told = (0..day / 5).filter(|turn| outage.failed_at(begun + Duration::from_secs(turn * 5)));
        let told: Vec<u64> = told.map(|turn| turn * 5).collect();
        assert_eq!(told[..6], [0, 30, 90, 210, 450, 930]);
        // In the end every ten minutes.
        assert!((140..150).contains(&told.len()), "{}", told.len());
        assert_eq!(outage.ended().map(|(count, _)| u64::from(count)), Some(day / 5));
        assert_eq!(outage.ended(), None);
        assert!(outage.failed(), "the next one is news");
    }
}
