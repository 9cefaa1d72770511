//! Which signed requests have been seen, so that none is carried out twice.
//!
//! A request is remembered for as long as its time would still be accepted, as 8 bytes of a hash, in memory and in a file
//! that the next process begins with. The file is written before the request is carried out and not synchronised: it
//! survives the process, whatever ends it; after a power loss, what was signed in the last seconds before could be sent again.

use std::collections::{BTreeMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

/// The most requests that are remembered: some 20 MB, and more than 1,000 a second for all of the time.
pub(super) const MOST: usize = 1 << 20;
/// Bytes of one entry in the file.
const RECORD: usize = 16;
/// How much longer than needed the file may become before it is written anew.
const SLACK: usize = 1 << 16;
/// What counts as the present, in seconds: nobody's entries from then are given up or refused for lack of room.
const PRESENT: u64 = 60;

/// Why a request is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its time is too far from ours.
    Time,
    /// It was here before.
    Repeated,
    /// There are too many to remember.
    Full,
}

/// The requests seen.
pub(super) struct Nonces {
    seen: Mutex<Seen>,
    /// How far a time may be off, in seconds.
    tolerance: u64,
    most: usize,
}

#[derive(Default)]
struct Seen {
    /// By the minute of their own time, so that they are forgotten together.
    minutes: BTreeMap<u64, HashSet<u64>>,
    count: usize,
    /// What was signed before this is refused: its minute had to be given up.
    floor: u64,
    spool: Option<Spool>,
}

/// The file.
struct Spool {
    path: PathBuf,
    file: File,
    records: usize,
}

impl Nonces {
    /// Goes on with what the file at `path` says, if there is one. Blocks.
    pub(super) fn open(path: &Path, tolerance: u64, most: usize, now: u64) -> io::Result<Self> {
        let mut bytes = Vec::new();
        match File::open(path) {
            // Never more than was written: what is longer is not ours.
            Ok(file) => file
                .take(((most + SLACK) * 2 * RECORD) as u64)
                .read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let mut seen = Seen::default();
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .rev()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        for record in bytes.chunks_exact(RECORD) {
            let (ts, hash) = record.split_at(RECORD / 2);
            let ts = number(ts);
            // Times are those of a minute's end.
            if ts.saturating_add(tolerance) >= now && ts <= now + tolerance + 60 && seen.count < most {
                seen.insert(ts, number(hash));
            }
        }
        seen.spool = Some(seen.spool_at(path)?);
        Ok(Self {
            seen: Mutex::new(seen),
            tolerance,
            most,
        })
    }

    /// Remembers a request whose signature is right, or says why it must not be carried out. Times are in seconds.
    pub(super) fn admit(&self, now: u64, client: &str, nonce: &str, ts: u64) -> Result<(), Refusal> {
        if ts.abs_diff(now) > self.tolerance {
            return Err(Refusal::Time);
        }
        let hash = hash(client, nonce, ts);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.forget_before(now.saturating_sub(self.tolerance));
        if ts < seen.floor {
            return Err(Refusal::Time);
        }
        if seen
            .minutes
            .get(&(ts / 60))
            .is_some_and(|minute| minute.contains(&hash))
        {
            return Err(Refusal::Repeated);
        }
        // Clocks that are ahead must not take the room of those that are right.
        if ts > now + PRESENT && seen.ahead(now + PRESENT) >= self.most / 2 {
            return Err(Refusal::Full);
        }
        while seen.count >= self.most {
            let oldest = seen.minutes.keys().next().copied().unwrap_or_default();
            let end = (oldest + 1) * 60;
            if end + PRESENT > now || ts < end {
                return Err(Refusal::Full);
            }
            seen.forget_before(end);
            seen.floor = end;
        }
        seen.insert(ts, hash);
        seen.write_down(ts, hash);
        Ok(())
    }
}

impl Seen {
    fn insert(&mut self, ts: u64, hash: u64) {
        if self.minutes.entry(ts / 60).or_default().insert(hash) {
            self.count += 1;
        }
    }

    /// Forgets the minutes that are over by `time`.
    fn forget_before(&mut self, time: u64) {
        while let Some(oldest) = self.minutes.first_entry()
            && (oldest.key() + 1) * 60 <= time
        {
            self.count -= oldest.remove().len();
        }
    }

    fn ahead(&self, time: u64) -> usize {
        self.minutes
            .range(time / 60..)
            .map(|(_, minute)| minute.len())
            .sum()
    }

    fn write_down(&mut self, ts: u64, hash: u64) {
        let Some(spool) = &mut self.spool else { return };
        let mut record = [0; RECORD];
        record[..RECORD / 2].copy_from_slice(&ts.to_le_bytes());
        record[RECORD / 2..].copy_from_slice(&hash.to_le_bytes());
        let mut written = spool.file.write_all(&record);
        spool.records += 1;
        if written.is_ok() && spool.records > self.count * 2 + SLACK {
            let path = spool.path.clone();
            written = self.spool_at(&path).map(|fresh| self.spool = Some(fresh));
        }
        if let Err(error) = written {
            tracing::warn!(
                %error,
                "the embedded queue cannot write down which requests it has seen: those of the last 15 minutes could be \
                 repeated after its next start"
            );
            self.spool = None;
        }
    }

    /// A new file with what is remembered, in place of the old one.
    fn spool_at(&self, path: &Path) -> io::Result<Spool> {
        let fresh = path.with_extension("new");
        let mut bytes = Vec::with_capacity(self.count * RECORD);
        for (minute, hashes) in &self.minutes {
            // The end of the minute: remembered a little longer, never too short.
            let ts = minute * 60 + 59;
            for hash in hashes {
                bytes.extend_from_slice(&ts.to_le_bytes());
                bytes.extend_from_slice(&hash.to_le_bytes());
            }
        }
        let mut file =
            super::files::private(OpenOptions::new().write(true).create(true).truncate(true)).open(&fresh)?;
        file.write_all(&bytes)?;
        std::fs::rename(&fresh, path)?;
        Ok(Spool {
            path: path.to_owned(),
            file,
            records: self.count,
        })
    }
}

fn hash(client: &str, nonce: &str, ts: u64) -> u64 {
    let mut hasher = Sha256::new();
    // The length keeps `a` + `bc` apart from `ab` + `c`.
    hasher.update((client.len() as u64).to_le_bytes());
    hasher.update(client);
    hasher.update(ts.to_le_bytes());
    hasher.update(nonce);
    let hash = hasher.finalize();
    hash.iter()
        .take(8)
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_000_000_020;

    fn open(directory: &tempfile::TempDir, most: usize) -> Nonces {
        Nonces::open(&directory.path().join("nonces"), 900, most, NOW).unwrap()
    }

    #[test]
    fn once_and_only_within_the_tolerance() {
        let directory = tempfile::tempdir().unwrap();
        let nonces = open(&directory, 10);
        assert_eq!(nonces.admit(NOW, "c", "n", NOW), Ok(()));
        assert_eq!(nonces.admit(NOW + 600, "c", "n", NOW), Err(Refusal::Repeated));
        assert_eq!(nonces.admit(NOW, "c", "other", NOW), Ok(()));
        assert_eq!(nonces.admit(NOW, "other", "n", NOW), Ok(()));
        assert_eq!(nonces.admit(NOW, "c", "n", NOW + 1), Ok(()));
        for ts in [NOW - 901, NOW + 901, 0, u64::MAX] {
            assert_eq!(nonces.admit(NOW, "c", "n", ts), Err(Refusal::Time), "{ts}");
        }
        for ts in [NOW - 900, NOW + 900] {
            assert_eq!(nonces.admit(NOW, "c", "n", ts), Ok(()), "{ts}");
        }
    }

    #[test]
    fn what_is_too_old_is_forgotten_and_memory_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let nonces = open(&directory, 1000);
        for step in 0..100_000 {
            assert_eq!(nonces.admit(NOW + step * 2, "c", "n", NOW + step * 2), Ok(()));
        }
        let count = nonces.seen.lock().unwrap().count;
        assert!((450..=520).contains(&count), "{count}");
        let length = std::fs::metadata(directory.path().join("nonces")).unwrap().len();
        assert!(length < ((count * 2 + SLACK + 1) * RECORD) as u64, "{length}");
    }

    #[test]
    fn a_restart_remembers() {
        let directory = tempfile::tempdir().unwrap();
        for round in 0..3 {
            let nonces = open(&directory, 10);
            let outcome = nonces.admit(NOW, "c", "n", NOW);
            assert_eq!(
                outcome,
                if round == 0 {
                    Ok(())
                } else {
                    Err(Refusal::Repeated)
                }
            );
        }
        // A tail that was cut off, and one that is nonsense.
        let path = directory.path().join("nonces");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.extend_from_slice(&[0xff; 37]);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(
            open(&directory, 10).admit(NOW, "c", "n", NOW),
            Err(Refusal::Repeated)
        );
    }

    #[test]
    fn when_it_is_full_old_minutes_are_given_up_and_refused() {
        let directory = tempfile::tempdir().unwrap();
        let nonces = open(&directory, 10);
        for n in 0..10 {
            assert_eq!(nonces.admit(NOW, "c", &format!("old {n}"), NOW - 600), Ok(()));
        }
        assert_eq!(nonces.admit(NOW, "c", "new", NOW), Ok(()));
        assert_eq!(nonces.admit(NOW, "c", "old 0", NOW - 600), Err(Refusal::Time));
        assert_eq!(nonces.admit(NOW, "c", "unseen", NOW - 600), Err(Refusal::Time));
        // Nobody's present is given up: not by the present, and not by those who are ahead.
        for n in 1..10 {
            assert_eq!(nonces.admit(NOW, "c", &format!("new {n}"), NOW), Ok(()));
        }
        assert_eq!(nonces.admit(NOW, "c", "one more", NOW), Err(Refusal::Full));
        let nonces = open(&tempfile::tempdir().unwrap(), 10);
        for n in 0..5 {
            assert_eq!(nonces.admit(NOW, "c", &format!("{n}"), NOW + 800), Ok(()));
        }
        assert_eq!(nonces.admit(NOW, "c", "5", NOW + 800), Err(Refusal::Full));
        assert_eq!(nonces.admit(NOW, "c", "5", NOW), Ok(()));
    }
}
