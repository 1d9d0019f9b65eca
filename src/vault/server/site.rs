//! One site: reads, decides, evaluates, writes, and only then answers.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::effect::{Effect, Write};
use super::evaluate;
use super::metrics::Metrics;
use super::openly::Openings;
use super::record::Record;
use super::served::Stopwatch;
use super::step::{Asked, Policy, step};
use crate::crypto::hex;
use crate::io::{Clock, Random};
use crate::vault::config::OpenLimits;
use crate::vault::hsm::{KeyError, KeyProtection};
use crate::vault::ledger::{
    Entry, Ledger, LedgerError, Lineage, Name, Revision, SealError, Swap, open_value, record_name,
    seal_value, sealed_under,
};
use crate::vault::protocol::{Refusal, Reply, Request, Right, Seconds, Ticket};

/// Lost races before a request is put off.
pub(super) const RACES_LIMIT: usize = 16;

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

impl Undecided {
    /// For callers that look at the ledger only.
    pub(crate) fn into_ledger(self) -> LedgerError {
        match self {
            Self::Ledger(error) => error,
            other => LedgerError::Unanswered(other.to_string()),
        }
    }
}

/// An entry of the ledger, and what the site could unseal of its value.
pub(super) struct OpenedEntry {
    /// The revision that a swap of this entry must expect.
    pub revision: Revision,
    /// The lineage that the ledger counts for the name.
    pub lineage: Lineage,
    /// The generation of the seal key under which the value is sealed; 0 if it cannot be read.
    pub sealed_under: u32,
    /// The record in the value, and whether it belongs there.
    pub content: Content,
}

impl OpenedEntry {
    /// Revision and lineage that a write over this entry must expect.
    pub fn expected(&self) -> (Revision, Lineage) {
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

/// Who asks, as far as the site knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Whether it may register without an invite.
    pub open: bool,
    /// The account that a relay vouched for.
    pub account: Option<Arc<str>>,
    /// Where its connection comes from: an IPv4 address or a /48 of IPv6. None for loopback,
    /// and for whoever comes by a relay.
    pub origin: Option<IpAddr>,
}

impl Caller {
    /// Somebody without an account.
    pub fn unknown(open: bool) -> Self {
        Self { open, ..Self::default() }
    }
}

/// A site's keys, ledger and sources of time and chance.
pub struct Site {
    keys: Arc<dyn KeyProtection>,
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    pub(super) stopwatch: Stopwatch,
    manifest: Vec<u8>,
    delays: bool,
    binds: bool,
    pub(super) openings: Openings,
    /// Names in the ledger at the last sweep.
    names: AtomicUsize,
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
        let (stopwatch, metrics) = (Stopwatch::new(Arc::clone(&clock)), Metrics::default());
        let (binds, openings) = (false, Openings::new(OpenLimits::default()));
        let names = AtomicUsize::new(0);
        Self {
            keys,
            ledger,
            random,
            clock,
            stopwatch,
            manifest,
            delays,
            binds,
            openings,
            names,
            metrics,
        }
    }

    /// Sets whether new records open only for the account that registers them, where their
    /// owner does not say it.
    #[must_use]
    pub fn binding(self, binds: bool) -> Self {
        Self { binds, ..self }
    }

    /// Sets the limits for registrations of people without an account or an invite.
    #[must_use]
    pub fn opening(self, limits: OpenLimits) -> Self {
        Self { openings: Openings::new(limits), ..self }
    }

    /// Names in the ledger, as far as a sweep has told.
    pub(super) fn names(&self) -> usize {
        self.names.load(Ordering::Relaxed)
    }

    pub(super) fn note_names(&self, names: usize) {
        self.names.store(names, Ordering::Relaxed);
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Whether new records are bound to their account where their owner does not say it.
    pub(super) fn binds(&self) -> bool {
        self.binds
    }

    /// Seconds since 1970, by its wall clock: for people, and for what others sign.
    pub fn now(&self) -> Seconds {
        self.clock.now().secs.max(0) as Seconds
    }

    /// What it counts for its operator.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The keys of the site.
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
    pub(super) fn alarm(&self, name: &Name) {
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
            let account = caller.account.as_deref();
            let asked = Asked { wall: self.now(), now: self.served()?, account };
            let before = found.as_ref().map(OpenedEntry::expected);
            let record = match found.take().map(|found| found.content) {
                None => None,
                Some(Content::Record(record)) => Some(record),
                // To end it is still right: a tombstone has nothing to guess at.
                Some(Content::Displaced(record)) if matches!(request, Request::Retire { .. }) => {
                    Some(record)
                }
                Some(Content::Displaced(_) | Content::Forged) => {
                    self.alarm(&name);
                    return Ok(Reply::Refused(Refusal::Tampered));
                }
            };
            let write = match step(&policy, record, &asked, request) {
                Effect::Answer(reply) => return Ok(reply),
                Effect::Persist(write) => write,
                // Whoever takes it: the next round sees it.
                Effect::Reserve(reservation) => {
                    match self.authorize(ticket, &reservation, caller)? {
                        Ok(owner) => {
                            let write = reservation.write(self.keys.generation(), owner);
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
                        // Somebody else has it: the name that was taken for it goes.
                        self.end_unfinished(ticket)?;
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
                Effect::Evaluate(attempt) => {
                    let record = attempt.record();
                    let material =
                        record.material.as_ref().expect("only active records are evaluated");
                    let evaluated = evaluate::challenge(
                        self.keys(),
                        &*self.random,
                        record.generation,
                        &material.credential,
                        &material.upload,
                        &record.binding(policy.fleet),
                        &attempt.id,
                        &attempt.ke1,
                    )?;
                    attempt.evaluated(evaluated.ke2, &evaluated.login)
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

    pub(super) fn read(&self, name: &Name) -> Result<Option<OpenedEntry>, Undecided> {
        let started = self.clock.elapsed();
        let entry = self.ledger.read(name);
        self.metrics.read_took(self.clock.elapsed().saturating_sub(started));
        self.open_entry(name, entry)
    }

    /// Unseals the value of an entry that was read from the ledger; `None` if the ledger has no
    /// entry. A value that is forged or out of its place is no error: the content says so.
    pub(super) fn open_entry(
        &self,
        name: &Name,
        entry: Result<Option<Entry>, LedgerError>,
    ) -> Result<Option<OpenedEntry>, Undecided> {
        let entry = match entry {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok(None),
            Err(LedgerError::Foreign) => {
                let (revision, lineage) = (Revision(0), Lineage::default());
                return Ok(Some(OpenedEntry {
                    revision,
                    lineage,
                    sealed_under: 0,
                    content: Content::Forged,
                }));
            }
            Err(error) => return Err(error.into()),
        };
        let content = match open_value(self.keys(), name, &entry.value) {
            Ok(plain) => {
                let record = Record::decode(&plain).map_err(|_| Undecided::Record)?;
                if record.is_in_place(entry.lineage) {
                    self.stopwatch.adopt(record.touched);
                    Content::Record(record)
                } else {
                    Content::Displaced(record)
                }
            }
            Err(SealError::Forged) => Content::Forged,
            Err(error) => return Err(error.into()),
        };
        let Entry { revision, lineage, value } = entry;
        Ok(Some(OpenedEntry { revision, lineage, sealed_under: sealed_under(&value), content }))
    }

    /// Writes over the entry with this revision and lineage; with `None` makes the name.
    pub(super) fn write(
        &self,
        name: &Name,
        over: Option<(Revision, Lineage)>,
        write: Write,
    ) -> Result<Option<Reply>, Undecided> {
        let (expected, lineage) = over.unzip();
        let write = write.of_lineage(lineage, self.stopwatch.now());
        let value = seal_value(self.keys(), &*self.random, name, &write.record().encode())?;
        let started = self.clock.elapsed();
        let swapped = self.ledger.swap(name, expected, &value, write.is_last());
        self.metrics.write_took(self.clock.elapsed().saturating_sub(started), swapped.is_err());
        match swapped? {
            Swap::Written(durable) => Ok(Some(write.release(&durable))),
            Swap::Lost => Ok(None),
        }
    }
}
