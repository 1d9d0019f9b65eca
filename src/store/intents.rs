//! The intent log: names of files that may enter REPO. With it, the bytes of the heads that are
//! entering.
//!
//! Its steps: a name is logged; then its file enters REPO; a head that names all of them
//! enters REPO; the log is emptied. After a crash, the next opening decides about each name
//! that is left.
//!
//! Invariant: a name is durable in the log before its file enters REPO, and a head's bytes are
//! durable in local state before it enters, unless local state is gone or has no room.

use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Result, Store, StoreError};
use crate::crypto::{Hash, hash};
use crate::format::commit::Name;
use crate::format::container::CONTAINER_MAX;
use crate::io::{OpenMode, PrivateFolder};

/// The log's file in local state.
const INTENT: &str = "intent";
/// The bytes of the last two heads that were to enter REPO, in local state. Until the name of one is
/// logged, the last one whose name was must be there.
const STAGED_HEADS: [&str; 2] = ["head.0", "head.1"];
/// Longest log that is read, in bytes.
const INTENT_MAX: u64 = 64 << 20;

/// The intent log of a store.
pub(super) struct Intents {
    state: Option<Arc<dyn PrivateFolder>>,
    /// Local state is gone: names are not logged before their files enter REPO.
    stateless: AtomicBool,
    places: Mutex<Places>,
}

/// Which of [`STAGED_HEADS`] hold what.
#[derive(Default)]
struct Places {
    /// The head that was staged last, if its name is not logged yet.
    staged: Option<usize>,
    /// The last head whose name was logged by this process.
    logged: Option<usize>,
}

impl Intents {
    /// The log in `state`. Without it no name can be logged.
    pub(super) fn new(state: Option<Arc<dyn PrivateFolder>>) -> Self {
        Self { state, stateless: AtomicBool::new(false), places: Mutex::default() }
    }

    /// Logs a name durably. Its file may enter REPO then.
    pub(super) fn log(&self, name: &Name) -> Result<()> {
        if self.is_stateless() {
            return Ok(());
        }
        let state = self.state.as_ref().expect("only a store with state publishes");
        append(&**state, name).map_err(|error| StoreError::state("intent log", error))?;
        if matches!(name, Name::Head { .. }) {
            let mut places = self.places();
            places.logged = places.staged.take().or(places.logged);
        }
        Ok(())
    }

    // A panic elsewhere does not make it wrong: it is changed in one step.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the bytes of a head durable before its name is logged. A power cut may take it out of
    /// REPO after a sync client read it there: then the next opening brings it back. The last one whose
    /// name is logged stays, however many after it fail before theirs are.
    pub(super) fn stage_head(&self, bytes: &[u8]) -> Result<()> {
        if self.is_stateless() {
            return Ok(());
        }
        let state = self.state.as_ref().expect("only a store with state publishes");
        let failed = |error| StoreError::state("head", error);
        let at = self.places().logged.map_or(0, |logged| 1 - logged);
        self.places().staged = Some(at);
        let place = STAGED_HEADS[at];
        match state.replace(place, bytes).map_err(failed) {
            Err(StoreError::Full) => {
                log::warn!("local state has no room for a copy of the next head");
                remove(&**state, place).and_then(|()| state.sync_dir("")).map_err(failed)
            }
            other => other,
        }
    }

    fn is_stateless(&self) -> bool {
        self.stateless.load(Ordering::Relaxed)
    }
}

fn append(state: &dyn PrivateFolder, name: &Name) -> io::Result<()> {
    let file = match state.open(INTENT, OpenMode::Write) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let file = state.open(INTENT, OpenMode::CreateNew)?;
            state.sync_dir("")?;
            file
        }
        other => other?,
    };
    // What went wrong before may have left half a line.
    file.write_at(file.len()?, format!("\n{}\n", name.path()).as_bytes())?;
    file.sync_data()
}

fn remove(state: &dyn PrivateFolder, path: &str) -> io::Result<()> {
    match state.remove(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

impl Store {
    /// Publishes from here on although local state is gone: what is in memory must
    /// not be lost with it. A crash may leave files in REPO that no head names.
    pub fn go_on_without_state(&self) {
        self.intents.stateless.store(true, Ordering::Relaxed);
    }

    /// Whether local state is gone.
    pub fn is_stateless(&self) -> bool {
        self.intents.is_stateless()
    }

    /// Names in the intent log: files that may be in REPO without a head.
    pub fn intents(state: &dyn PrivateFolder) -> io::Result<Vec<String>> {
        match state.read(INTENT, INTENT_MAX) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes)
                .split_inclusive('\n')
                .filter_map(|line| line.strip_suffix('\n'))
                .map(str::to_string)
                .collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The bytes of a head of this hash that was to enter REPO; none if they are not kept (any more).
    pub fn staged_head(state: &dyn PrivateFolder, of: &Hash) -> io::Result<Option<Vec<u8>>> {
        for path in STAGED_HEADS {
            match state.read(path, CONTAINER_MAX) {
                Ok(bytes) if hash(&bytes) == *of => return Ok(Some(bytes)),
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Empties the intent log: the head that names everything is durable.
    pub fn clear_intents(state: &dyn PrivateFolder) -> io::Result<()> {
        match state.open(INTENT, OpenMode::Write) {
            Ok(file) => {
                file.set_len(0)?;
                file.sync_data()?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        STAGED_HEADS.iter().try_for_each(|path| remove(state, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sim::SimWorld;

    /// The second of two heads that failed before their names were logged took the place of the copy of
    /// the one before, which a client had: after a power cut nothing could bring that back.
    #[test]
    fn the_last_head_whose_name_is_logged_stays_whatever_is_staged_after_it() {
        let state = SimWorld::new().folder("state");
        let intents = Intents::new(Some(state.clone()));
        let is_kept = |bytes: &[u8]| Store::staged_head(&*state, &hash(bytes)).unwrap().is_some();
        let name = |bytes: &[u8]| Name::Head { device: [1; 16], generation: 1, hash: hash(bytes) };
        for (number, logged) in [b"one", b"two"].into_iter().enumerate() {
            intents.stage_head(logged).unwrap();
            intents.log(&name(logged)).unwrap();
            for failed in 0..5 {
                let failed = format!("{number} {failed}");
                intents.stage_head(failed.as_bytes()).unwrap();
                assert!(is_kept(logged) && is_kept(failed.as_bytes()));
            }
        }
        assert!(!is_kept(b"one"));
    }
}
