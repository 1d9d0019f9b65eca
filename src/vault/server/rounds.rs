//! Rounds through all records of a ledger: counting, sweeping, sealing anew, taking
//! tries after the ledger was put back.

use super::effect::Write;
use super::record::State;
use super::site::{Content, OpenedEntry, RACES_LIMIT, Site, Undecided};
use super::step::{Asked, may_go, spend_step, sweep_step};
use crate::vault::ledger::{LedgerError, Name, Swap};
use crate::vault::protocol::{Ended, Refusal, Reply};

/// Records read at once: a mebibyte of them.
const PAGE: usize = 256;

/// How many names a sweep of the ledger read, ended and removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Names in the ledger.
    pub names: usize,
    /// Records that became tombstones.
    pub ended: usize,
    /// Names that went: of registrations never activated, and of accounts' counts.
    pub removed: usize,
    /// Records that could not be read or written.
    pub failed: usize,
}

/// What a sweep did to one name.
enum Done {
    Nothing,
    Ended,
    Removed,
}

/// How many records are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Records that are not activated yet.
    pub registering: usize,
    /// Active records.
    pub active: usize,
    /// Records without tries, which wait for their end.
    pub closed: usize,
    /// Tombstones.
    pub ended: usize,
    /// Records that somebody else than the vault changed in the ledger. They are never
    /// opened again.
    pub frozen: usize,
    /// Records that cannot be read with the keys of this site.
    pub unreadable: usize,
    /// Records that the staff froze; counted with the others too.
    pub held: usize,
    /// Invites that can still be used.
    pub invites: usize,
    /// Values sealed under, or records made under, keys of an older generation;
    /// counted with the others too.
    pub outdated: usize,
}

impl Census {
    /// The counts with their names.
    pub fn by_state(&self) -> [(&'static str, usize); 9] {
        [
            ("active", self.active),
            ("registering", self.registering),
            ("closed", self.closed),
            ("ended", self.ended),
            ("frozen", self.frozen),
            ("unreadable", self.unreadable),
            ("held", self.held),
            ("invites", self.invites),
            ("outdated", self.outdated),
        ]
    }
}

impl Site {
    /// Calls `each` with every name, in order, and what reading it gave, until it
    /// fails.
    pub(super) fn each(
        &self,
        mut each: impl FnMut(&Name, Result<Option<OpenedEntry>, Undecided>) -> Result<(), LedgerError>,
    ) -> Result<(), LedgerError> {
        let mut after = None;
        loop {
            let page = self.ledger.page(after.as_ref(), PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (name, entry) in page {
                each(&name, self.open_entry(&name, entry))?;
            }
        }
    }

    /// Counts the records of each state. Reads the whole ledger.
    pub fn census(&self) -> Result<Census, LedgerError> {
        let mut census = Census::default();
        self.each(|_, found| {
            self.count(&mut census, &found);
            Ok(())
        })?;
        self.metrics().counted(census);
        Ok(census)
    }

    fn count(&self, census: &mut Census, found: &Result<Option<OpenedEntry>, Undecided>) {
        if let Ok(Some(found)) = found {
            census.outdated += usize::from(self.is_outdated(found));
        }
        let count = match found.as_ref().map(|found| found.as_ref().map(|found| &found.content)) {
            Ok(Some(Content::Record(record))) => {
                census.held += usize::from(record.frozen_by_staff);
                match record.state {
                    State::Reserved | State::Started | State::Stored => &mut census.registering,
                    State::Active => &mut census.active,
                    State::Closed { .. } => &mut census.closed,
                    State::Ended(_) => &mut census.ended,
                    State::Invite { .. } => &mut census.invites,
                    State::Used | State::Account | State::Clock => return,
                }
            }
            Ok(Some(Content::Displaced(_))) => &mut census.frozen,
            Ok(None | Some(Content::Forged)) | Err(_) => &mut census.unreadable,
        };
        *count += 1;
    }

    /// Turns records whose time is up into tombstones, and counts all, as they were
    /// before. A record that changes meanwhile is left to the next sweep.
    pub fn sweep(&self) -> Result<Swept, LedgerError> {
        let (mut swept, mut census) = (Swept::default(), Census::default());
        self.each(|name, found| {
            swept.names += 1;
            self.count(&mut census, &found);
            match found.and_then(|found| self.sweep_one(name, found)) {
                Ok(Done::Nothing) => {}
                Ok(Done::Ended) => swept.ended += 1,
                Ok(Done::Removed) => swept.removed += 1,
                Err(error) => {
                    swept.failed += 1;
                    log::error!("a record was not swept: {error}");
                }
            }
            Ok(())
        })?;
        self.metrics().counted(census);
        self.note_names(swept.names);
        Ok(swept)
    }

    fn sweep_one(&self, name: &Name, found: Option<OpenedEntry>) -> Result<Done, Undecided> {
        let Some(found) = found else { return Ok(Done::Nothing) };
        let expected = found.expected();
        let Content::Record(record) = found.content else {
            self.alarm(name);
            return Ok(Done::Nothing);
        };
        let now = self.served()?;
        if may_go(&record, now) {
            let removed = matches!(self.ledger.remove(name, expected.0)?, Swap::Written(_));
            return Ok(if removed { Done::Removed } else { Done::Nothing });
        }
        let Some(write) = sweep_step(&record, now) else { return Ok(Done::Nothing) };
        let ended = self.write(name, Some(expected), write)?.is_some();
        Ok(if ended { Done::Ended } else { Done::Nothing })
    }

    /// Whether keys of an older generation are needed for it.
    fn is_outdated(&self, found: &OpenedEntry) -> bool {
        let current = self.keys().generation();
        let made = match &found.content {
            // Without material nothing is evaluated.
            Content::Record(record) if record.material.is_some() => record.generation,
            _ => current,
        };
        found.sealed_under != current || made != current
    }

    /// Seals all values under the current generation that are under an older one.
    /// Returns how many it did, and how many it could not.
    pub fn reseal(&self) -> Result<(usize, usize), LedgerError> {
        let (mut done, mut left) = (0, 0);
        self.each(|name, found| {
            match self.reseal_one(name, found) {
                Ok(None) => {}
                Ok(Some(true)) => done += 1,
                Ok(Some(false)) => left += 1,
                Err(error) => {
                    left += 1;
                    log::error!("a value was not sealed anew: {error}");
                }
            }
            Ok(())
        })?;
        Ok((done, left))
    }

    /// None if there is nothing to do; false if it could not be done now.
    fn reseal_one(
        &self,
        name: &Name,
        mut found: Result<Option<OpenedEntry>, Undecided>,
    ) -> Result<Option<bool>, Undecided> {
        for _ in 0..RACES_LIMIT {
            let Some(now) = found? else { return Ok(None) };
            if now.sealed_under == self.keys().generation() {
                return Ok(None);
            }
            let expected = now.expected();
            let record = match now.content {
                // Half a day's registration ends or goes on by itself.
                Content::Record(record) if record.is_placeholder() => {
                    record.tombstone(Ended::Abandoned)
                }
                Content::Record(record) if record.state != State::Reserved => record,
                _ => return Ok(Some(false)),
            };
            // Nobody waits for this reply.
            let write = Write { record, then: Reply::Refused(Refusal::TryLater) };
            if self.write(name, Some(expected), write)?.is_some() {
                return Ok(Some(true));
            }
            found = self.read(name);
        }
        Err(Undecided::Races)
    }

    /// Takes tries from every record, as [`spend_step`] says. Returns how many
    /// were written. An error if one record could not be: then nothing may be
    /// served, and all is to be done again.
    pub fn spend(&self, tries: u8) -> Result<usize, LedgerError> {
        let mut spent = 0;
        self.each(|name, found| match self.spend_one(name, found, tries) {
            Ok(did) => {
                spent += usize::from(did);
                Ok(())
            }
            Err(Undecided::Ledger(error)) => Err(error),
            Err(error) => Err(LedgerError::Unanswered(error.to_string())),
        })?;
        Ok(spent)
    }

    fn spend_one(
        &self,
        name: &Name,
        mut found: Result<Option<OpenedEntry>, Undecided>,
        tries: u8,
    ) -> Result<bool, Undecided> {
        for _ in 0..RACES_LIMIT {
            // What is frozen is not evaluated anyway.
            let Some(now) = found? else { return Ok(false) };
            let expected = now.expected();
            let Content::Record(record) = now.content else { return Ok(false) };
            let asked = Asked { wall: self.now(), now: self.served()?, account: None };
            let Some(write) = spend_step(&record, &asked, tries) else { return Ok(false) };
            if self.write(name, Some(expected), write)?.is_some() {
                return Ok(true);
            }
            found = self.read(name);
        }
        Err(Undecided::Races)
    }
}
