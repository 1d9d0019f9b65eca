//! One site: reads, decides, evaluates, writes, and only then answers.

use std::sync::Arc;

use super::effect::{Effect, Write};
use super::evaluate;
use super::metrics::Metrics;
use super::record::{Record, State};
use super::step::{Policy, spend_step, step, sweep_step};
use crate::crypto::hex;
use crate::io::{Clock, Random};
use crate::vault::hsm::{KeyError, KeyProtection};
use crate::vault::ledger::{
    Ledger, LedgerError, Lineage, Name, Revision, SealError, Swap, open_value, record_name,
    seal_value, sealed_under,
};
use crate::vault::protocol::{Ended, Refusal, Reply, Request, Right, Seconds, Ticket};

/// Lost races before a request is put off.
const RACES_LIMIT: usize = 16;
/// Names read at once by a sweep.
pub(super) const SWEEP_PAGE: usize = 256;

/// Why a request could not be decided. Nothing that depends on a key is
/// answered then.
#[derive(Debug, thiserror::Error)]
pub(super) enum Undecided {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("a record does not decode")]
    Record,
    #[error("too many writers at one record")]
    Races,
}

/// What is under a name.
pub(super) struct Found {
    pub revision: Revision,
    pub lineage: Lineage,
    /// Generation of the key it is sealed under.
    pub sealed: u32,
    pub content: Content,
}

impl Found {
    /// What a write over it must expect.
    pub fn place(&self) -> (Revision, Lineage) {
        (self.revision, self.lineage)
    }
}

pub(super) enum Content {
    /// A record where it belongs.
    Record(Record),
    /// A record that was deleted and put back, or an old one in place of a
    /// newer: its counters mean nothing.
    Displaced(Record),
    /// Not sealed by this fleet for this name.
    Forged,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Names in the ledger.
    pub names: usize,
    /// Records that became tombstones.
    pub ended: usize,
    /// Records that could not be read or written.
    pub failed: usize,
}

/// How many records stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Not activated.
    pub registering: usize,
    /// Can be opened.
    pub active: usize,
    /// No tries left.
    pub closed: usize,
    /// Tombstones.
    pub ended: usize,
    /// Changed behind the vault's back: never opened again.
    pub frozen: usize,
    /// Cannot be read with these keys.
    pub unreadable: usize,
    /// Stopped by the operator; counted with the others too.
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

/// Who asks, as far as the site knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Whether it may register without an invite.
    pub open: bool,
    /// The account that a relay vouched for.
    pub account: Option<Arc<str>>,
}

impl Caller {
    /// Somebody without an account.
    pub fn unknown(open: bool) -> Self {
        Self { open, account: None }
    }
}

/// A site's keys, ledger and sources of time and chance.
pub struct Site {
    keys: Arc<dyn KeyProtection>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    manifest: Vec<u8>,
    delays: bool,
    metrics: Metrics,
}

fn ticket_of(request: &Request) -> Option<&Ticket> {
    match request {
        Request::Manifest => None,
        Request::RegisterStart { ticket, .. }
        | Request::RegisterFinish { ticket, .. }
        | Request::Activate { ticket, .. }
        | Request::Attempt { ticket, .. }
        | Request::Redeem { ticket, .. }
        | Request::Retire { ticket, .. }
        | Request::Status { ticket }
        | Request::Note { ticket, .. } => Some(ticket),
    }
}

impl Site {
    /// A site that serves `manifest` (signed, as the root made it).
    pub fn new(
        keys: Arc<dyn KeyProtection>,
        ledger: Arc<dyn Ledger>,
        random: Arc<dyn Random>,
        clock: Arc<dyn Clock>,
        manifest: Vec<u8>,
        delays: bool,
    ) -> Self {
        Self { keys, ledger, random, clock, manifest, delays, metrics: Metrics::default() }
    }

    /// Seconds since 1970, by its clock.
    pub fn now(&self) -> Seconds {
        self.clock.now().secs.max(0) as Seconds
    }

    /// What it counts for its operator.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The site's keys.
    pub fn keys(&self) -> &dyn KeyProtection {
        &*self.keys
    }

    /// Whether its ledger and keys can be used; if not, the site must be opened
    /// anew. May be slow.
    pub fn is_usable(&self) -> bool {
        self.ledger.is_usable() && self.keys.is_usable()
    }

    /// Whether the ledger answers now.
    pub fn reaches_ledger(&self) -> bool {
        self.ledger.head().is_ok()
    }

    /// Takes notice of the ledger; to be called now and then.
    pub fn tend(&self) -> Result<(), LedgerError> {
        self.ledger.tend()
    }

    /// What the ledger's operator should know.
    pub fn warnings(&self) -> Vec<String> {
        self.ledger.warnings()
    }

    /// Does what one request of `caller` asks, and answers. Blocks on keys and
    /// ledger.
    pub fn handle(&self, request: &Request, caller: &Caller) -> Reply {
        let started = self.clock.elapsed();
        let reply = match ticket_of(request).map(|ticket| self.decide(ticket, request, caller)) {
            None => Reply::Manifest(self.manifest.clone()),
            Some(Ok(reply)) => reply,
            Some(Err(error)) => {
                // Names no ticket, no record: the cause is the site's own.
                log::error!("a request was not decided: {error}");
                Reply::Refused(Refusal::TryLater)
            }
        };
        self.metrics.handled(request, &reply, self.clock.elapsed().saturating_sub(started));
        reply
    }

    /// The one line that names a record, by its name in the ledger: whoever runs
    /// the ledger must be able to look.
    fn alarm(&self, name: &Name) {
        self.metrics.record_was_frozen();
        log::error!(
            "ALARM: a record was changed behind the vault's back and is frozen; it is {} in the \
             ledger",
            hex(name)
        );
    }

    fn decide(
        &self,
        ticket: &Ticket,
        request: &Request,
        caller: &Caller,
    ) -> Result<Reply, Undecided> {
        let name = record_name(self.keys(), ticket)?;
        let policy = Policy { fleet: self.keys.fleet(), delays: self.delays };
        for _ in 0..RACES_LIMIT {
            let mut found = self.read(&name)?;
            let before = found.as_ref().map(Found::place);
            let record = match found.take().map(|found| found.content) {
                None => None,
                Some(Content::Record(record)) => Some(record),
                // To end it is still right: a tombstone has nothing to guess at.
                Some(Content::Displaced(record)) if matches!(request, Request::Retire { .. }) => {
                    Some(record)
                }
                Some(Content::Displaced(_) | Content::Forged) => {
                    self.alarm(&name);
                    return Ok(Reply::Refused(Refusal::Frozen));
                }
            };
            let write = match step(&policy, record, self.now(), request) {
                Effect::Answer(reply) => return Ok(reply),
                Effect::Persist(write) => write,
                // Whoever takes it: the next round sees it.
                Effect::Reserve(reservation) => {
                    match self.entitle(ticket, &reservation, caller)? {
                        Ok(label) => {
                            let write = reservation.write(self.keys.generation(), label);
                            self.write(&name, before, write)?;
                        }
                        Err(refusal) => return Ok(Reply::Refused(refusal)),
                    }
                    continue;
                }
                Effect::Enrol(enrolment) => {
                    if let Request::RegisterStart { right: Right::Invite(invite), .. } = request
                        && !self.confirm_invite(invite, enrolment.registration())?
                    {
                        return Ok(Reply::Refused(Refusal::Invite));
                    }
                    let generation = self.keys.generation();
                    let mut credential = [0; 32];
                    self.random.fill(&mut credential);
                    let reply = evaluate::register(
                        self.keys(),
                        &*self.random,
                        generation,
                        &credential,
                        &enrolment.request,
                    )?;
                    enrolment.evaluated(generation, credential, reply)
                }
                Effect::Evaluate(admission) => {
                    let record = admission.record();
                    let material =
                        record.material.as_ref().expect("only active records are evaluated");
                    let evaluated = evaluate::challenge(
                        self.keys(),
                        &*self.random,
                        record.generation,
                        &material.credential,
                        &material.upload,
                        &record.binding(policy.fleet),
                        &admission.attempt,
                        &admission.ke1,
                    )?;
                    admission.evaluated(evaluated.ke2, &evaluated.login)
                }
            };
            // A lost race drops what was evaluated; the next round finds the
            // winner's answer or pays anew.
            if let Some(reply) = self.write(&name, before, write)? {
                return Ok(reply);
            }
            self.metrics.race_was_lost();
        }
        Err(Undecided::Races)
    }

    pub(super) fn read(&self, name: &Name) -> Result<Option<Found>, Undecided> {
        let started = self.clock.elapsed();
        let entry = self.ledger.read(name);
        self.metrics.read_took(self.clock.elapsed().saturating_sub(started));
        let entry = match entry {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(None),
            Err(LedgerError::Foreign) => {
                let (revision, lineage) = (Revision(0), Lineage::default());
                return Ok(Some(Found { revision, lineage, sealed: 0, content: Content::Forged }));
            }
            Err(error) => return Err(error.into()),
        };
        let content = match open_value(self.keys(), name, &entry.value) {
            Ok(plain) => {
                let record = Record::decode(&plain).map_err(|_| Undecided::Record)?;
                if record.is_in_place(entry.lineage) {
                    Content::Record(record)
                } else {
                    Content::Displaced(record)
                }
            }
            Err(SealError::Forged) => Content::Forged,
            Err(error) => return Err(error.into()),
        };
        let (revision, lineage, sealed) =
            (entry.revision, entry.lineage, sealed_under(&entry.value));
        Ok(Some(Found { revision, lineage, sealed, content }))
    }

    /// Writes over what was found (none: makes the name).
    pub(super) fn write(
        &self,
        name: &Name,
        found: Option<(Revision, Lineage)>,
        write: Write,
    ) -> Result<Option<Reply>, Undecided> {
        let (expected, lineage) = found.unzip();
        let write = write.of_lineage(lineage);
        let value = seal_value(self.keys(), &*self.random, name, &write.record().encode())?;
        let started = self.clock.elapsed();
        let swapped = self.ledger.swap(name, expected, &value, write.is_last());
        self.metrics.write_took(self.clock.elapsed().saturating_sub(started), swapped.is_err());
        match swapped? {
            Swap::Written(durable) => Ok(Some(write.release(&durable))),
            Swap::Lost => Ok(None),
        }
    }

    /// Counts all records.
    pub fn census(&self) -> Result<Census, LedgerError> {
        let mut census = Census::default();
        let mut after = None;
        loop {
            let names = self.ledger.list(after.as_ref(), SWEEP_PAGE)?;
            let Some(last) = names.last() else {
                self.metrics.counted(census);
                return Ok(census);
            };
            after = Some(*last);
            for name in &names {
                let found = self.read(name);
                if let Ok(Some(found)) = &found {
                    census.outdated += usize::from(self.is_outdated(found));
                }
                let count = match found.map(|found| found.map(|found| found.content)) {
                    Ok(Some(Content::Record(record))) => {
                        census.held += usize::from(record.held);
                        match record.state {
                            State::Reserved | State::Started | State::Stored => {
                                &mut census.registering
                            }
                            State::Active => &mut census.active,
                            State::Closed { .. } => &mut census.closed,
                            State::Ended(_) => &mut census.ended,
                            State::Invite { .. } => &mut census.invites,
                            State::Used | State::Account => continue,
                        }
                    }
                    Ok(Some(Content::Displaced(_))) => &mut census.frozen,
                    Ok(None | Some(Content::Forged)) | Err(_) => &mut census.unreadable,
                };
                *count += 1;
            }
        }
    }

    /// Whether keys of an older generation are needed for it.
    fn is_outdated(&self, found: &Found) -> bool {
        let current = self.keys.generation();
        let made = match &found.content {
            // Without material nothing is evaluated.
            Content::Record(record) if record.material.is_some() => record.generation,
            _ => current,
        };
        found.sealed != current || made != current
    }

    /// Seals all values under the current generation that are under an older one.
    /// Returns how many it did, and how many it could not.
    pub fn reseal(&self) -> Result<(usize, usize), LedgerError> {
        let (mut done, mut left, mut after) = (0, 0, None);
        loop {
            let names = self.ledger.list(after.as_ref(), SWEEP_PAGE)?;
            let Some(last) = names.last() else { return Ok((done, left)) };
            after = Some(*last);
            for name in &names {
                match self.reseal_one(name) {
                    Ok(Some(true)) => done += 1,
                    Ok(None) => {}
                    Ok(Some(false)) => left += 1,
                    Err(error) => {
                        left += 1;
                        log::error!("a value was not sealed anew: {error}");
                    }
                }
            }
        }
    }

    /// None if there is nothing to do; false if it could not be done now.
    fn reseal_one(&self, name: &Name) -> Result<Option<bool>, Undecided> {
        for _ in 0..RACES_LIMIT {
            let Some(found) = self.read(name)? else { return Ok(None) };
            if found.sealed == self.keys.generation() {
                return Ok(None);
            }
            let place = found.place();
            let record = match found.content {
                // Half a day's registration ends or goes on by itself.
                Content::Record(record) if record.is_placeholder() => {
                    record.tombstone(Ended::Abandoned)
                }
                Content::Record(record) if record.state != State::Reserved => record,
                _ => return Ok(Some(false)),
            };
            // Nobody waits for this reply.
            let write = Write { record, then: Reply::Refused(Refusal::TryLater) };
            if self.write(name, Some(place), write)?.is_some() {
                return Ok(Some(true));
            }
        }
        Err(Undecided::Races)
    }

    /// Turns records whose time is up into tombstones. A record that changes
    /// meanwhile is left to the next sweep.
    pub fn sweep(&self) -> Result<Swept, LedgerError> {
        let mut swept = Swept::default();
        let mut after = None;
        loop {
            let names = self.ledger.list(after.as_ref(), SWEEP_PAGE)?;
            let Some(last) = names.last() else { return Ok(swept) };
            after = Some(*last);
            swept.names += names.len();
            for name in &names {
                match self.sweep_one(name) {
                    Ok(true) => swept.ended += 1,
                    Ok(false) => {}
                    Err(error) => {
                        swept.failed += 1;
                        log::error!("a record was not swept: {error}");
                    }
                }
            }
        }
    }

    /// Takes tries from every record, as [`spend_step`] says. Returns how many
    /// were written. An error if one record could not be: then nothing may be
    /// served, and all is to be done again.
    pub fn spend(&self, tries: u8) -> Result<usize, LedgerError> {
        let (mut spent, mut after) = (0, None);
        loop {
            let names = self.ledger.list(after.as_ref(), SWEEP_PAGE)?;
            let Some(last) = names.last() else { return Ok(spent) };
            after = Some(*last);
            for name in &names {
                match self.spend_one(name, tries) {
                    Ok(did) => spent += usize::from(did),
                    Err(Undecided::Ledger(error)) => return Err(error),
                    Err(error) => return Err(LedgerError::Unanswered(error.to_string())),
                }
            }
        }
    }

    fn spend_one(&self, name: &Name, tries: u8) -> Result<bool, Undecided> {
        for _ in 0..RACES_LIMIT {
            // What is frozen is not evaluated anyway.
            let Some(found) = self.read(name)? else { return Ok(false) };
            let place = found.place();
            let Content::Record(record) = found.content else { return Ok(false) };
            let Some(write) = spend_step(&record, self.now(), tries) else { return Ok(false) };
            if self.write(name, Some(place), write)?.is_some() {
                return Ok(true);
            }
        }
        Err(Undecided::Races)
    }

    fn sweep_one(&self, name: &Name) -> Result<bool, Undecided> {
        let Some(found) = self.read(name)? else { return Ok(false) };
        let place = found.place();
        let Content::Record(record) = found.content else {
            self.alarm(name);
            return Ok(false);
        };
        match sweep_step(&record, self.now()) {
            Some(write) => Ok(self.write(name, Some(place), write)?.is_some()),
            None => Ok(false),
        }
    }
}
