//! The ledger of a single site: one file.
//!
//! ```text
//! page 0           magic, version
//! page 1 + 2i      one copy of the value of the i-th name
//! page 2 + 2i      the other copy
//!
//! 32 name | 8 revision | 3968 value | 56 zeros | 32 BLAKE3 of all before
//! ```
//!
//! A write goes to the page with the older copy and is synced before it
//! answers, so a torn one leaves the newest acknowledged value. The last value
//! of a name, a tombstone, overwrites both pages: nothing is left to erase.
//! A name whose two pages are both used and both bad is damage, and the ledger
//! does not open: to guess at a counter would be to refill it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{Durable, Ledger, LedgerError, Name, Revision, Swap, VALUE_SIZE, Value};
use crate::crypto::hash;
use crate::io::{OpenMode, PrivateFile, PrivateFolder};

const PAGE: usize = 4096;
const MAGIC: &[u8; 24] = b"amberfs-vault ledger 1\0\0";
/// Most names in one ledger; each takes 8 KiB of disk.
const NAMES_LIMIT: usize = 1 << 20;
const FILE: &str = "ledger";
const CHECKED: usize = PAGE - 32;

const _: () = assert!(32 + 8 + VALUE_SIZE <= CHECKED);

/// Where the newest copy of a name is.
#[derive(Clone, Copy)]
struct Place {
    /// Index of the name's pair of pages.
    pair: u64,
    /// Which page of the pair, 0 or 1.
    side: u64,
    revision: Revision,
}

struct State {
    names: BTreeMap<Name, Place>,
    pairs: u64,
    /// Pairs whose only write was torn before it was acknowledged.
    free: Vec<u64>,
    highest: u64,
    poisoned: bool,
}

/// A ledger in one file of a private folder.
pub struct EmbeddedLedger {
    file: Box<dyn PrivateFile>,
    state: Mutex<State>,
}

enum Copy {
    Unused,
    Bad,
    Good(Name, Revision),
}

fn encode_page(name: &Name, revision: Revision, value: &Value) -> Vec<u8> {
    let mut page = Vec::with_capacity(PAGE);
    page.extend_from_slice(name);
    page.extend_from_slice(&revision.0.to_le_bytes());
    page.extend_from_slice(&value[..]);
    page.resize(CHECKED, 0);
    let check = hash(&page);
    page.extend_from_slice(&check);
    page
}

fn judge(page: &[u8]) -> Copy {
    if page.iter().all(|byte| *byte == 0) {
        return Copy::Unused;
    }
    if page.len() != PAGE || hash(&page[..CHECKED]) != page[CHECKED..] {
        return Copy::Bad;
    }
    let name = page[..32].try_into().expect("32 bytes");
    let revision = u64::from_le_bytes(page[32..40].try_into().expect("8 bytes"));
    Copy::Good(name, Revision(revision))
}

impl EmbeddedLedger {
    /// Makes an empty ledger; the folder must not have one.
    pub fn create(folder: &dyn PrivateFolder) -> Result<(), LedgerError> {
        if folder.list("")?.iter().any(|name| name == FILE) {
            return Err(LedgerError::Damaged("there is a ledger already"));
        }
        let mut head = vec![0; PAGE];
        head[..MAGIC.len()].copy_from_slice(MAGIC);
        folder.replace(FILE, &head)?;
        Ok(())
    }

    /// Opens the ledger and reads all names.
    pub fn open(folder: &dyn PrivateFolder) -> Result<Self, LedgerError> {
        let file = folder.open(FILE, OpenMode::Write)?;
        let len = file.len()?;
        let mut page = vec![0; PAGE];
        let read = file.read_at(0, &mut page)?;
        if read != PAGE || !page.starts_with(MAGIC) {
            return Err(LedgerError::Damaged("it is not a ledger"));
        }
        let pairs = (len - PAGE as u64).div_ceil(2 * PAGE as u64);
        let mut state =
            State { names: BTreeMap::new(), pairs, free: Vec::new(), highest: 0, poisoned: false };
        for pair in 0..pairs {
            let mut copies = [Copy::Unused, Copy::Unused];
            for (side, copy) in copies.iter_mut().enumerate() {
                page.fill(0);
                let read = file.read_at(offset(pair, side as u64), &mut page)?;
                *copy = judge(&page[..read]);
            }
            state.admit(pair, &copies)?;
        }
        Ok(Self { file, state: Mutex::new(state) })
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, State>, LedgerError> {
        let state = self.state.lock().map_err(|_| LedgerError::Poisoned)?;
        if state.poisoned { Err(LedgerError::Poisoned) } else { Ok(state) }
    }

    fn write(&self, place: Place, name: &Name, value: &Value) -> Result<(), LedgerError> {
        let page = encode_page(name, place.revision, value);
        self.file.write_at(offset(place.pair, place.side), &page)?;
        self.file.sync_data()?;
        Ok(())
    }
}

fn offset(pair: u64, side: u64) -> u64 {
    (1 + 2 * pair + side) * PAGE as u64
}

impl State {
    fn admit(&mut self, pair: u64, copies: &[Copy; 2]) -> Result<(), LedgerError> {
        let newest = match copies {
            [Copy::Good(a, at), Copy::Good(b, bt)] => {
                if a != b {
                    return Err(LedgerError::Damaged("two names in one place"));
                }
                let side = u64::from(bt > at);
                (*a, Place { pair, side, revision: *at.max(bt) })
            }
            [Copy::Good(name, revision), _] => {
                (*name, Place { pair, side: 0, revision: *revision })
            }
            [_, Copy::Good(name, revision)] => {
                (*name, Place { pair, side: 1, revision: *revision })
            }
            [Copy::Bad, Copy::Bad] => {
                return Err(LedgerError::Damaged("both copies of a value are bad"));
            }
            // A first write that was cut off before it was acknowledged.
            _ => {
                self.free.push(pair);
                return Ok(());
            }
        };
        self.highest = self.highest.max(newest.1.revision.0);
        if self.names.insert(newest.0, newest.1).is_some() {
            return Err(LedgerError::Damaged("one name in two places"));
        }
        Ok(())
    }
}

impl Ledger for EmbeddedLedger {
    fn read(&self, name: &Name) -> Result<Option<(Revision, Value)>, LedgerError> {
        let state = self.lock()?;
        let Some(place) = state.names.get(name) else { return Ok(None) };
        let mut page = vec![0; PAGE];
        self.file.read_at(offset(place.pair, place.side), &mut page)?;
        match judge(&page) {
            Copy::Good(found, revision) if found == *name && revision == place.revision => {
                let value = page[40..40 + VALUE_SIZE].to_vec().into_boxed_slice();
                Ok(Some((revision, value.try_into().expect("VALUE_SIZE bytes"))))
            }
            _ => Err(LedgerError::Damaged("a value changed on disk")),
        }
    }

    fn swap(
        &self,
        name: &Name,
        expected: Option<Revision>,
        value: &Value,
        last: bool,
    ) -> Result<Swap, LedgerError> {
        let mut state = self.lock()?;
        let current = state.names.get(name).copied();
        if current.map(|place| place.revision) != expected {
            return Ok(Swap::Lost);
        }
        let revision = Revision(state.highest + 1);
        let fresh = state.free.last().copied().unwrap_or(state.pairs);
        let place = match current {
            Some(place) => Place { pair: place.pair, side: 1 - place.side, revision },
            None if state.names.len() >= NAMES_LIMIT => return Err(LedgerError::Full),
            None => Place { pair: fresh, side: 0, revision },
        };
        // Until both writes are known to be durable, nobody may trust memory.
        state.poisoned = true;
        self.write(place, name, value)?;
        if last {
            self.write(Place { side: 1 - place.side, ..place }, name, value)?;
        }
        if current.is_none() && state.free.pop().is_none() {
            state.pairs += 1;
        }
        state.highest = revision.0;
        state.names.insert(*name, place);
        state.poisoned = false;
        Ok(Swap::Written(Durable::after_write()))
    }

    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError> {
        use std::ops::Bound;
        let state = self.lock()?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = state.names.range::<Name, _>((from, Bound::Unbounded));
        Ok(names.take(limit).map(|(name, _)| *name).collect())
    }
}

#[cfg(test)]
mod tests;
