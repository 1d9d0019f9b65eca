//! The ledger of a single site: one file.
//!
//! ```text
//! page 0           magic, version
//! page 1 + 2i      one copy of the value of the i-th name
//! page 2 + 2i      the other copy
//!
//! 32 name | 8 revision | 3968 value | 1 last | 8 created | 8 version
//! 39 zeros | 32 BLAKE3 of all before
//! ```
//!
//! A write goes to the page with the older copy and is synced before it
//! answers, so a torn one leaves the newest acknowledged value. The last value
//! of a name, a tombstone, overwrites both pages: nothing is left to erase.
//! A name whose two pages are both used and both bad is damage, and the ledger
//! does not open: to guess at a counter would be to refill it. Opening mends
//! what a crash left (one torn page at most, half a tombstone), and writes the
//! newest pages again: they may have come out of the system's cache only.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::{
    Durable, Entry, Head, Ledger, LedgerError, Lineage, Name, Revision, Swap, VALUE_SIZE, Value,
};
use crate::crypto::hash;
use crate::io::{OpenMode, PrivateFile, PrivateFolder};

const PAGE: usize = 4096;
const MAGIC: &[u8; 24] = b"amberfs-vault ledger 1\0\0";
/// Most names in one ledger; each takes 8 KiB of disk.
pub const NAMES_LIMIT: usize = 1 << 20;
/// The file's name in a site's folder.
pub const FILE: &str = "ledger";
const CHECKED: usize = PAGE - 32;

/// Where a page says whether its value is the last of its name.
const LAST: usize = 32 + 8 + VALUE_SIZE;
/// Where the lineage is: zeros in pages of before.
const LINEAGE: usize = LAST + 1;

const _: () = assert!(LINEAGE + 16 < CHECKED);

/// Where the newest copy of a name is.
#[derive(Clone, Copy)]
struct Place {
    /// Index of the name's pair of pages.
    pair: u64,
    /// Which page of the pair, 0 or 1.
    side: u64,
    revision: Revision,
    lineage: Lineage,
}

struct State {
    names: BTreeMap<Name, Place>,
    pairs: u64,
    /// Pairs that hold no name.
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
    Good(Good),
}

#[derive(Clone, Copy)]
struct Good {
    name: Name,
    revision: Revision,
    lineage: Lineage,
    last: bool,
}

fn encode_page(
    name: &Name,
    revision: Revision,
    lineage: Lineage,
    value: &Value,
    last: bool,
) -> Vec<u8> {
    let mut page = Vec::with_capacity(PAGE);
    page.extend_from_slice(name);
    page.extend_from_slice(&revision.0.to_le_bytes());
    page.extend_from_slice(&value[..]);
    page.push(u8::from(last));
    page.extend_from_slice(&lineage.created.0.to_le_bytes());
    page.extend_from_slice(&lineage.version.to_le_bytes());
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
    let number = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().expect("8 bytes"));
    let lineage = Lineage { created: Revision(number(LINEAGE)), version: number(LINEAGE + 8) };
    Copy::Good(Good { name, revision: Revision(number(32)), lineage, last: page[LAST] != 0 })
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

    /// Opens the ledger and reads all names. Nobody else may use it.
    pub fn open(folder: &dyn PrivateFolder) -> Result<Self, LedgerError> {
        let (ledger, mends) = Self::scan(folder, OpenMode::Write)?;
        for mend in &mends {
            let mut page = vec![0; PAGE];
            if let Some(side) = mend.from {
                ledger.file.read_at(offset(mend.pair, side), &mut page)?;
            }
            ledger.file.write_at(offset(mend.pair, mend.to), &page)?;
        }
        ledger.file.sync_data()?;
        Ok(ledger)
    }

    /// Opens it to be read only, beside the one who serves it.
    pub fn view(folder: &dyn PrivateFolder) -> Result<Self, LedgerError> {
        Self::scan(folder, OpenMode::Read).map(|(ledger, _)| ledger)
    }

    fn scan(folder: &dyn PrivateFolder, mode: OpenMode) -> Result<(Self, Vec<Mend>), LedgerError> {
        let file = folder.open(FILE, mode)?;
        let len = file.len()?;
        let mut page = vec![0; PAGE];
        let read = file.read_at(0, &mut page)?;
        if read != PAGE || !page.starts_with(MAGIC) {
            return Err(LedgerError::Damaged("it is not a ledger"));
        }
        let pairs = (len - PAGE as u64).div_ceil(2 * PAGE as u64);
        let mut state =
            State { names: BTreeMap::new(), pairs, free: Vec::new(), highest: 0, poisoned: false };
        let mut mends = Vec::new();
        let (mut bad, mut newest) = (0, Vec::new());
        for pair in 0..pairs {
            let mut copies = [Copy::Unused, Copy::Unused];
            for (side, copy) in copies.iter_mut().enumerate() {
                page.fill(0);
                let read = file.read_at(offset(pair, side as u64), &mut page)?;
                *copy = judge(&page[..read]);
                bad += usize::from(matches!(copy, Copy::Bad));
            }
            let before = state.highest;
            mends.extend(state.admit(pair, &copies)?);
            if state.highest > before {
                newest = again(pair, &copies, Revision(state.highest));
            }
        }
        // One write is under way at a time, so a crash tears one page.
        if bad > 1 {
            return Err(LedgerError::Damaged("more pages are bad than a crash can tear"));
        }
        mends.extend(newest);
        Ok((Self { file, state: Mutex::new(state) }, mends))
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, State>, LedgerError> {
        let state = self.state.lock().map_err(|_| LedgerError::Poisoned)?;
        if state.poisoned { Err(LedgerError::Poisoned) } else { Ok(state) }
    }

    /// A pair that is not used, with its room on disk: where there is none, no
    /// value was touched and the ledger goes on.
    fn free_pair(&self, state: &mut State) -> Result<u64, LedgerError> {
        if let Some(pair) = state.free.last() {
            return Ok(*pair);
        }
        let pair = state.pairs;
        self.file.write_at(offset(pair, 0), &[0; 2 * PAGE])?;
        self.file.sync_data()?;
        state.pairs += 1;
        state.free.push(pair);
        Ok(pair)
    }

    fn write(&self, place: Place, page: &[u8]) -> Result<(), LedgerError> {
        self.file.write_at(offset(place.pair, place.side), page)?;
        self.file.sync_data()?;
        Ok(())
    }
}

/// A page to be written at opening: a copy of another one, or of itself, or
/// zeros.
struct Mend {
    pair: u64,
    from: Option<u64>,
    to: u64,
}

/// The pages of a pair that have this revision, each onto itself.
fn again(pair: u64, copies: &[Copy; 2], revision: Revision) -> Vec<Mend> {
    let mends = (0..).zip(copies).map(|(side, copy)| match copy {
        Copy::Good(good) if good.revision == revision => {
            Some(Mend { pair, from: Some(side), to: side })
        }
        _ => None,
    });
    mends.flatten().collect()
}

fn offset(pair: u64, side: u64) -> u64 {
    (1 + 2 * pair + side) * PAGE as u64
}

impl State {
    /// Takes a pair in; what has to be mended about it, if anything.
    fn admit(&mut self, pair: u64, copies: &[Copy; 2]) -> Result<Option<Mend>, LedgerError> {
        let (side, good, other) = match copies {
            [Copy::Good(a), Copy::Good(b)] => {
                if a.name != b.name {
                    return Err(LedgerError::Damaged("two names in one place"));
                }
                if b.revision > a.revision { (1, *b, &copies[0]) } else { (0, *a, &copies[1]) }
            }
            [Copy::Good(good), other] => (0, *good, other),
            [other, Copy::Good(good)] => (1, *good, other),
            [Copy::Bad, Copy::Bad] => {
                return Err(LedgerError::Damaged("both copies of a value are bad"));
            }
            // A first write that was cut off before it was acknowledged, or none.
            [a, _] => {
                self.free.push(pair);
                let to = u64::from(!matches!(a, Copy::Bad));
                let is_bad = matches!(copies[to as usize], Copy::Bad);
                return Ok(is_bad.then_some(Mend { pair, from: None, to }));
            }
        };
        self.highest = self.highest.max(good.revision.0);
        let place = Place { pair, side, revision: good.revision, lineage: good.lineage };
        if self.names.insert(good.name, place).is_some() {
            return Err(LedgerError::Damaged("one name in two places"));
        }
        let mend = match other {
            Copy::Bad => true,
            // Half a tombstone: the other half still has what it should erase.
            Copy::Good(other) => good.last && other.revision < good.revision,
            Copy::Unused => false,
        };
        Ok(mend.then_some(Mend { pair, from: Some(side), to: 1 - side }))
    }
}

impl Ledger for EmbeddedLedger {
    fn read(&self, name: &Name) -> Result<Option<Entry>, LedgerError> {
        let state = self.lock()?;
        let Some(place) = state.names.get(name) else { return Ok(None) };
        let mut page = vec![0; PAGE];
        self.file.read_at(offset(place.pair, place.side), &mut page)?;
        match judge(&page) {
            Copy::Good(good) if good.name == *name && good.revision == place.revision => {
                let value = page[40..LAST].to_vec().into_boxed_slice();
                let value = value.try_into().expect("VALUE_SIZE bytes");
                Ok(Some(Entry { revision: good.revision, lineage: good.lineage, value }))
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
        let place = match current {
            Some(place) => Place {
                pair: place.pair,
                side: 1 - place.side,
                revision,
                lineage: place.lineage.next(),
            },
            None if state.names.len() >= NAMES_LIMIT => return Err(LedgerError::Full),
            None => {
                let lineage = Lineage { created: revision, ..Lineage::FIRST };
                Place { pair: self.free_pair(&mut state)?, side: 0, revision, lineage }
            }
        };
        let page = encode_page(name, revision, place.lineage, value, last);
        // Until both writes are known to be durable, nobody may trust memory.
        state.poisoned = true;
        self.write(place, &page)?;
        if last {
            self.write(Place { side: 1 - place.side, ..place }, &page)?;
        }
        if current.is_none() {
            state.free.pop();
        }
        state.highest = revision.0;
        state.names.insert(*name, place);
        state.poisoned = false;
        Ok(Swap::Written(Durable::after_write(revision)))
    }

    fn remove(&self, name: &Name, expected: Revision) -> Result<Swap, LedgerError> {
        let mut state = self.lock()?;
        let Some(place) = state.names.get(name).copied() else { return Ok(Swap::Lost) };
        // Revisions are counted by the pages there are: the newest one must stay, or the
        // next opening would count it twice.
        if place.revision != expected || place.revision.0 == state.highest {
            return Ok(Swap::Lost);
        }
        state.poisoned = true;
        // The older copy first: cut off in between, the newest is there as before.
        for side in [1 - place.side, place.side] {
            self.write(Place { side, ..place }, &[0; PAGE])?;
        }
        state.names.remove(name);
        state.free.push(place.pair);
        state.poisoned = false;
        Ok(Swap::Written(Durable::after_write(Revision(state.highest))))
    }

    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError> {
        use std::ops::Bound;
        let state = self.lock()?;
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = state.names.range::<Name, _>((from, Bound::Unbounded));
        Ok(names.take(limit).map(|(name, _)| *name).collect())
    }

    fn head(&self) -> Result<Head, LedgerError> {
        Ok(Head { cluster: 0, revision: Revision(self.lock()?.highest) })
    }

    fn is_usable(&self) -> bool {
        self.lock().is_ok()
    }
}

#[cfg(test)]
mod tests;
