//! The high-water mark: the newest revision of the ledger that this site knows,
//! in a file of its folder, so that an old copy of the ledger is noticed.
//!
//! ```text
//! at 0 and 4096: 24 magic, version | 8 cluster | 8 revision | 4 key generation
//!                32 HMAC-SHA256 of all before
//! ```
//!
//! Invariant: what was answered because of a write is not older than the mark
//! on stable storage. The two places are written in turn, so a torn write
//! leaves the mark before. Whoever puts back the folder together with the
//! ledger is not noticed; nor is a copy newer than the last mark.

use std::sync::Mutex;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::{Entry, Head, Ledger, LedgerError, Listed, Name, Revision, Swap, Value, WentBack};
use crate::crypto::Secret;
use crate::io::{OpenMode, PrivateFile, PrivateFolder};
use crate::vault::hsm::{KeyError, KeyProtection};

/// The file's name in a site's folder.
pub const MARK: &str = "mark";
const MAGIC: &[u8; 24] = b"amberfs-vault mark 1\0\0\0\0";
const CHECKED: usize = 24 + 8 + 8 + 4;
const SLOT: usize = CHECKED + 32;
const SIDES: [u64; 2] = [0, 4096];

/// Why there is no mark to go by.
#[derive(Debug, thiserror::Error)]
pub enum MarkError {
    /// The ledger cannot be used.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The keys of the site cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The file is not there.
    #[error("the high-water mark of the ledger is missing")]
    Missing,
    /// Neither place holds a mark of this fleet.
    #[error("the high-water mark of the ledger is damaged")]
    Damaged,
}

impl WentBack {
    /// How `found` is not what `seen` has become, if so.
    pub(super) fn find(seen: Head, found: Head) -> Option<Self> {
        if seen.cluster != found.cluster {
            return Some(Self::Other { found: found.cluster, seen: seen.cluster });
        }
        (found.revision < seen.revision)
            .then_some(Self::Older { found: found.revision.0, seen: seen.revision.0 })
    }
}

/// The key of a generation's marks: asked of the token once.
fn mark_key(keys: &dyn KeyProtection, generation: u32) -> Result<Secret, KeyError> {
    keys.seal_mac(generation, b"amberfs-vault mark 1")
}

fn mac(key: &Secret, bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key.expose()).expect("any length is allowed");
    mac.update(bytes);
    mac
}

fn encode(key: &Secret, generation: u32, head: Head) -> Vec<u8> {
    let mut out = Vec::with_capacity(SLOT);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&head.cluster.to_le_bytes());
    out.extend_from_slice(&head.revision.0.to_le_bytes());
    out.extend_from_slice(&generation.to_le_bytes());
    let tag = mac(key, &out).finalize().into_bytes();
    out.extend_from_slice(&tag);
    out
}

fn decode(keys: &dyn KeyProtection, slot: &[u8]) -> Result<Option<Head>, KeyError> {
    if slot.len() != SLOT || !slot.starts_with(MAGIC) {
        return Ok(None);
    }
    let number = |at: usize| u64::from_le_bytes(slot[at..at + 8].try_into().expect("8 bytes"));
    let generation = u32::from_le_bytes(slot[40..44].try_into().expect("4 bytes"));
    let key = match mark_key(keys, generation) {
        // Torn, or of keys that were destroyed.
        Err(KeyError::Generation(_)) => return Ok(None),
        other => other?,
    };
    let is_ours = mac(&key, &slot[..CHECKED]).verify_slice(&slot[CHECKED..]).is_ok();
    Ok(is_ours.then(|| Head { cluster: number(24), revision: Revision(number(32)) }))
}

/// Writes a first mark, or over one that is not believed any more.
pub fn reset_mark(
    folder: &dyn PrivateFolder,
    keys: &dyn KeyProtection,
    head: Head,
) -> Result<(), MarkError> {
    let generation = keys.generation();
    let slot = encode(&mark_key(keys, generation)?, generation, head);
    folder.replace(MARK, &slot).map_err(LedgerError::from)?;
    Ok(())
}

/// The mark of a site's folder; that of a new site is all zeros.
pub fn read_mark(folder: &dyn PrivateFolder, keys: &dyn KeyProtection) -> Result<Head, MarkError> {
    let file = match folder.open(MARK, OpenMode::Read) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(MarkError::Missing);
        }
        other => other.map_err(LedgerError::from)?,
    };
    Ok(newest(&*file, keys)?.1)
}

/// The place of the newest mark, and the mark.
fn newest(file: &dyn PrivateFile, keys: &dyn KeyProtection) -> Result<(usize, Head), MarkError> {
    let mut best: Option<(usize, Head)> = None;
    for (side, offset) in SIDES.iter().enumerate() {
        let mut slot = [0; SLOT];
        let read = file.read_at(*offset, &mut slot).map_err(LedgerError::from)?;
        let Some(head) = decode(keys, &slot[..read])? else { continue };
        if best.is_none_or(|(_, before)| before.revision <= head.revision) {
            best = Some((side, head));
        }
    }
    best.ok_or(MarkError::Damaged)
}

struct State {
    file: Box<dyn PrivateFile>,
    side: usize,
    durable: Head,
    failed: bool,
}

/// A ledger that is believed only as long as it does not go back behind the
/// mark.
pub struct Guarded {
    inner: Box<dyn Ledger>,
    key: Secret,
    generation: u32,
    state: Mutex<State>,
}

impl Guarded {
    /// Refuses a ledger that is older than the mark or another one.
    pub fn open(
        inner: Box<dyn Ledger>,
        folder: &dyn PrivateFolder,
        keys: &dyn KeyProtection,
    ) -> Result<Self, MarkError> {
        read_mark(folder, keys)?;
        let file = folder.open(MARK, OpenMode::Write).map_err(LedgerError::from)?;
        let (side, mark) = newest(&*file, keys)?;
        // It may be in the page cache only. Where a flush of it failed before, the kernel calls the
        // page clean: it is durable only once it is written again.
        let mut slot = [0; SLOT];
        file.read_at(SIDES[side], &mut slot)
            .and_then(|_| file.write_at(SIDES[side], &slot))
            .and_then(|()| file.sync_data())
            .map_err(LedgerError::from)?;
        let generation = keys.generation();
        let key = mark_key(keys, generation)?;
        let state = Mutex::new(State { file, side, durable: mark, failed: false });
        let guarded = Self { inner, key, generation, state };
        let head = guarded.inner.head()?;
        if mark != Head::default() {
            WentBack::find(mark, head).map_or(Ok(()), Err).map_err(LedgerError::from)?;
        }
        guarded.raise(head)?;
        Ok(guarded)
    }

    /// Returns once the mark on stable storage is not below `head`.
    fn raise(&self, head: Head) -> Result<(), LedgerError> {
        let mut state = self.state.lock().map_err(|_| LedgerError::Poisoned)?;
        if state.failed {
            return Err(LedgerError::Poisoned);
        }
        if state.durable.cluster == head.cluster && state.durable.revision >= head.revision {
            return Ok(());
        }
        let side = 1 - state.side;
        let slot = encode(&self.key, self.generation, head);
        // Whether it is on stable storage nobody knows until both are done.
        state.failed = true;
        state.file.write_at(SIDES[side], &slot)?;
        state.file.sync_data()?;
        state.side = side;
        state.durable = head;
        state.failed = false;
        Ok(())
    }

    fn cluster(&self) -> Result<u64, LedgerError> {
        Ok(self.state.lock().map_err(|_| LedgerError::Poisoned)?.durable.cluster)
    }
}

impl Ledger for Guarded {
    fn read(&self, name: &Name) -> Result<Option<Entry>, LedgerError> {
        self.inner.read(name)
    }

    fn swap(
        &self,
        name: &Name,
        expected: Option<Revision>,
        value: &Value,
        last: bool,
    ) -> Result<Swap, LedgerError> {
        let outcome = self.inner.swap(name, expected, value, last)?;
        if let Swap::Written(durable) = &outcome {
            self.raise(Head { cluster: self.cluster()?, revision: durable.revision() })?;
        }
        Ok(outcome)
    }

    fn remove(&self, name: &Name, expected: Revision) -> Result<Swap, LedgerError> {
        let outcome = self.inner.remove(name, expected)?;
        if let Swap::Written(durable) = &outcome {
            self.raise(Head { cluster: self.cluster()?, revision: durable.revision() })?;
        }
        Ok(outcome)
    }

    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError> {
        self.inner.list(after, limit)
    }

    fn page(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Listed>, LedgerError> {
        self.inner.page(after, limit)
    }

    fn head(&self) -> Result<Head, LedgerError> {
        self.inner.head()
    }

    fn tend(&self) -> Result<(), LedgerError> {
        let head = self.inner.head()?;
        let seen = self.state.lock().map_err(|_| LedgerError::Poisoned)?.durable;
        // Another thread may have raised it since, to what came after `head`.
        if seen.cluster != head.cluster {
            return Err(WentBack::Other { found: head.cluster, seen: seen.cluster }.into());
        }
        self.raise(head)
    }

    fn is_usable(&self) -> bool {
        self.state.lock().is_ok_and(|state| !state.failed) && self.inner.is_usable()
    }

    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SystemRandom;
    use crate::io::sim::{Crash, Fault, SimWorld, Unsynced};
    use crate::vault::hsm::FileKeys;
    use crate::vault::ledger::sim::SimLedger;
    use crate::vault::ledger::{VALUE_SIZE, Value};
    use std::sync::Arc;

    fn keys() -> FileKeys {
        FileKeys::create(&SystemRandom).ok().unwrap()
    }

    fn value(byte: u8) -> Value {
        Box::new([byte; VALUE_SIZE])
    }

    fn write(ledger: &dyn Ledger, name: u8) -> Result<Swap, LedgerError> {
        let expected = ledger.read(&[name; 32])?.map(|entry| entry.revision);
        ledger.swap(&[name; 32], expected, &value(name), false)
    }

    struct Fixture {
        world: SimWorld,
        keys: FileKeys,
        ledger: Arc<SimLedger>,
    }

    impl Fixture {
        fn new() -> Self {
            let (world, keys) = (SimWorld::new(), keys());
            reset_mark(&*world.folder("site"), &keys, Head::default()).unwrap();
            Self { world, keys, ledger: Arc::default() }
        }

        fn open(&self) -> Result<Guarded, MarkError> {
            let ledger = Box::new(Arc::clone(&self.ledger));
            Guarded::open(ledger, &*self.world.folder("site"), &self.keys)
        }
    }

    #[test]
    fn an_old_copy_of_the_ledger_is_refused() {
        let fixture = Fixture::new();
        let site = fixture.open().unwrap();
        write(&site, 1).unwrap();
        let snapshot = fixture.ledger.contents();
        drop(site);
        assert!(fixture.open().is_ok(), "what it was when the mark was set");
        let site = fixture.open().unwrap();
        write(&site, 1).unwrap();
        drop(site);
        fixture.ledger.restore(snapshot);
        let refused = fixture.open().err().unwrap();
        let MarkError::Ledger(LedgerError::WentBack(how)) = refused else { panic!("{refused}") };
        assert_eq!(how, WentBack::Older { found: 1, seen: 2 });
        // An operator says so.
        let head = fixture.ledger.head().unwrap();
        reset_mark(&*fixture.world.folder("site"), &fixture.keys, head).unwrap();
        assert!(fixture.open().is_ok());
    }

    /// The site that comes after one whose flush failed believes what only the page cache has.
    #[test]
    fn a_mark_that_an_opening_believed_survives_a_power_cut() {
        let fixture = Fixture::new();
        let site = fixture.open().unwrap();
        write(&site, 1).unwrap();
        let snapshot = fixture.ledger.contents();
        fixture.world.fail_at(fixture.world.operations() + 2, Fault::Io);
        assert!(write(&site, 1).is_err(), "the flush of the mark fails");
        drop(site);
        drop(fixture.open().unwrap());
        let world = fixture.world.crash(Crash { data: Unsynced::Lost, names_kept: true });
        fixture.ledger.restore(snapshot);
        let fixture = Fixture { world, ..fixture };
        let refused = fixture.open().err().unwrap();
        assert!(matches!(refused, MarkError::Ledger(LedgerError::WentBack(_))), "{refused}");
    }

    /// What other sites wrote is in the mark once it was tended.
    #[test]
    fn a_mark_follows_what_others_write() {
        let fixture = Fixture::new();
        let site = fixture.open().unwrap();
        let snapshot = fixture.ledger.contents();
        write(&fixture.ledger, 1).unwrap();
        site.tend().unwrap();
        drop(site);
        fixture.ledger.restore(snapshot);
        assert!(fixture.open().is_err());
    }

    /// The mark must be there before anybody is answered.
    #[test]
    fn no_answer_is_newer_than_the_mark_after_a_power_cut() {
        let fixture = Fixture::new();
        let site = fixture.open().unwrap();
        for round in 1..=5 {
            write(&site, 1).unwrap();
            let crash = Crash { data: Unsynced::Lost, names_kept: false };
            let mark = read_mark(&*fixture.world.crash(crash).folder("site"), &fixture.keys);
            assert_eq!(mark.unwrap().revision, Revision(round));
        }
        fixture.world.fail_at(fixture.world.operations() + 1, Fault::Io);
        assert!(write(&site, 1).is_err(), "nothing is answered");
        assert!(!site.is_usable(), "until it is opened anew");
        assert!(write(&site, 1).is_err());
    }

    #[test]
    fn a_torn_mark_leaves_the_one_before() {
        let fixture = Fixture::new();
        let site = fixture.open().unwrap();
        for _ in 0..3 {
            write(&site, 1).unwrap();
        }
        drop(site);
        let whole = fixture.world.get("site/mark").unwrap();
        let revision = |bytes: &[u8]| {
            fixture.world.put("site/mark", bytes);
            read_mark(&*fixture.world.folder("site"), &fixture.keys).map(|head| head.revision.0)
        };
        assert_eq!(revision(&whole).unwrap(), 3);
        let newest = SIDES
            .iter()
            .map(|at| *at as usize)
            .find(|at| whole[*at + 32] == 3)
            .expect("the newest is in one of two places");
        for at in newest..newest + SLOT {
            let mut torn = whole.clone();
            torn[at] ^= 1;
            assert_eq!(revision(&torn).unwrap(), 2, "byte {at}");
        }
        for len in 0..SLOT {
            assert!(matches!(revision(&whole[..len]), Err(MarkError::Damaged)));
        }
        // Of another fleet.
        fixture.world.put("site/mark", &whole);
        let strange = read_mark(&*fixture.world.folder("site"), &keys());
        assert!(matches!(strange, Err(MarkError::Damaged)));
        let missing = read_mark(&*fixture.world.folder("nowhere"), &fixture.keys);
        assert!(matches!(missing, Err(MarkError::Missing)));
    }
}
