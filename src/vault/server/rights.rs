//! By what right somebody registers: an account, an invite, or a record there is.
//!
//! Each of these is counted in the ledger, under names of its own, before the
//! registration takes its name: what is counted twice is the site's loss.

use super::effect::{Reservation, Write};
use super::record::{Label, Record, State};
use super::site::{Caller, Content, OpenedEntry, Site, Undecided};
use super::step::is_succeeded;
use crate::vault::ledger::{Name, account_name, invite_name, record_name};
use crate::vault::protocol::{
    Bind, Ended, Invite, RecordState, Refusal, RegistrationId, Reply, Right, Seconds, Ticket,
    succession_statement,
};

/// Registrations of one account within [`COUNTED`].
pub const REGISTRATIONS: u8 = 3;
/// How long they count, in seconds.
pub const COUNTED: u64 = 24 * 3600;
/// Lost races before it is put off.
const RACES: usize = 16;

/// What became of a name that stands for a right.
fn kept(record: Record) -> Write {
    // Nobody waits for this reply.
    Write { record, then: Reply::State(RecordState::Registering) }
}

impl Site {
    /// Decides whether the reservation `wanted` may take the name of `ticket`. Returns the label
    /// of the record, and whether it opens for that account only; or why it is refused.
    pub(super) fn authorize(
        &self,
        ticket: &Ticket,
        wanted: &Reservation,
        caller: &Caller,
    ) -> Result<Result<(Label, bool), Refusal>, Undecided> {
        let registration = &wanted.registration;
        // Bound to what a relay vouched for, and to nothing that somebody wrote down.
        let bound = match wanted.bind {
            Bind::Account if caller.account.is_none() => return Ok(Err(Refusal::Account)),
            Bind::Account => true,
            Bind::Nobody => false,
            Bind::Usual => self.binds() && caller.account.is_some(),
        };
        let labelled = |label: Label| {
            let label = if bound { None } else { label };
            (label.or_else(|| caller.account.clone()), bound)
        };
        match &wanted.right {
            Right::Invite(invite) => {
                let taken = self.take_invite(invite, ticket, registration)?;
                Ok(taken.ok_or(Refusal::Invite).map(labelled))
            }
            Right::Successor { ticket: old, registration: before, signature } => {
                let found = self.read(&record_name(self.keys(), old)?)?;
                if let Some(Content::Record(record)) = found.map(|found| found.content)
                    && record.registration == *before
                    && record.repo == wanted.repo
                {
                    let binding = record.binding(self.keys().fleet());
                    let statement = succession_statement(&binding, registration, ticket);
                    if is_succeeded(&record, &statement, signature) {
                        // Where nothing else is said, it stays as it was.
                        let before = (record.label.clone(), record.bound);
                        let stays = record.bound && wanted.bind == Bind::Usual;
                        // Nobody else could open it, to prove that it was registered well.
                        if stays && record.label != caller.account {
                            return Ok(Err(Refusal::Account));
                        }
                        return Ok(Ok(if stays { before } else { labelled(before.0) }));
                    }
                }
                Ok(self.authorize_openly(registration, caller)?.map(labelled))
            }
            Right::Open => Ok(self.authorize_openly(registration, caller)?.map(labelled)),
        }
    }

    fn authorize_openly(
        &self,
        registration: &RegistrationId,
        caller: &Caller,
    ) -> Result<Result<Label, Refusal>, Undecided> {
        if !caller.open {
            return Ok(Err(Refusal::RegistrationClosed));
        }
        let Some(account) = &caller.account else {
            return Ok(if self.may_open(caller) { Ok(None) } else { Err(Refusal::Budget) });
        };
        let charged = self.charge(account, registration)?;
        Ok(if charged { Ok(Some(account.clone())) } else { Err(Refusal::Budget) })
    }

    /// Makes an invite under `label` that can be used for so many seconds of the vault's
    /// own time.
    pub fn invite(&self, label: &Label, seconds: Seconds) -> Result<Invite, String> {
        let mut invite = [0; 16];
        self.random.fill(&mut invite);
        let make = || -> Result<(), Undecided> {
            let name = invite_name(self.keys(), &invite)?;
            let until = self.served()?.plus(seconds);
            let change = |record: &Record| Record {
                state: State::Invite { until },
                label: label.clone(),
                ..record.clone()
            };
            self.change(&name, |record| {
                matches!(record.state, State::Reserved).then(|| change(record))
            })
            .map(drop)
        };
        make().map_err(|error| error.to_string())?;
        Ok(invite)
    }

    /// The label of an invite, if it may be used for this registration. It may again
    /// if the registration that used it was never activated.
    fn take_invite(
        &self,
        invite: &Invite,
        ticket: &Ticket,
        registration: &RegistrationId,
    ) -> Result<Option<Label>, Undecided> {
        let name = invite_name(self.keys(), invite)?;
        // Asking for one that is not there leaves nothing.
        let Some(found) = self.read(&name)? else { return Ok(None) };
        let Content::Record(record) = &found.content else { return Ok(None) };
        let usable = match record.state {
            State::Invite { until } => self.served()? < until,
            State::Used if record.registration == *registration => {
                return Ok(Some(record.label.clone()));
            }
            State::Used => self.end_unfinished(&record.repo)?,
            _ => false,
        };
        if !usable {
            return Ok(None);
        }
        let label = record.label.clone();
        let used = Record {
            state: State::Used,
            repo: *ticket,
            registration: *registration,
            // Not confirmed.
            tries_left: 0,
            ..record.clone()
        };
        // A lost race: somebody else has it.
        Ok(self.write(&name, Some(found.expected()), kept(used))?.map(|_| label))
    }

    /// Whether an invite is still this registration's, now that its name is taken; then
    /// nobody else gets it without ending this registration first. Somebody may have
    /// found no name there, taken the invite, and not have said so yet: this write is
    /// what makes theirs come second.
    pub(super) fn confirm_invite(
        &self,
        invite: &Invite,
        registration: &RegistrationId,
    ) -> Result<bool, Undecided> {
        let name = invite_name(self.keys(), invite)?;
        for _ in 0..RACES {
            let Some(found) = self.read(&name)? else { return Ok(false) };
            let Content::Record(record) = &found.content else { return Ok(false) };
            if record.state != State::Used || record.registration != *registration {
                return Ok(false);
            }
            let confirmed = kept(Record { tries_left: 1, ..record.clone() });
            if self.write(&name, Some(found.expected()), confirmed)?.is_some() {
                return Ok(true);
            }
        }
        Err(Undecided::Races)
    }

    /// Whether the registration under `ticket` never became a record; then it never
    /// will.
    pub(super) fn end_unfinished(&self, ticket: &Ticket) -> Result<bool, Undecided> {
        let name = record_name(self.keys(), ticket)?;
        let Some(found) = self.read(&name)? else { return Ok(true) };
        let Content::Record(record) = &found.content else { return Ok(false) };
        match record.state {
            State::Ended(ended) => Ok(ended == Ended::Abandoned),
            State::Reserved | State::Started | State::Stored => {
                let over = kept(record.tombstone(Ended::Abandoned));
                Ok(self.write(&name, Some(found.expected()), over)?.is_some())
            }
            _ => Ok(false),
        }
    }

    /// Counts one registration of an account; false if it has none left.
    fn charge(&self, account: &str, registration: &RegistrationId) -> Result<bool, Undecided> {
        let name = account_name(self.keys(), account)?;
        let now = self.served()?;
        let charged = self.change(&name, |record| {
            let fresh = record.state != State::Account || now >= record.began.plus(COUNTED);
            let left = if fresh { REGISTRATIONS } else { record.tries_left };
            let again = !fresh && record.registration == *registration;
            (left > 0 && !again).then(|| Record {
                state: State::Account,
                tries_left: left - 1,
                registration: *registration,
                began: if fresh { now } else { record.began },
                label: Some(account.into()),
                ..record.clone()
            })
        })?;
        // As it was: the same registration again, or nothing left.
        Ok(charged.is_none_or(|record| record.registration == *registration))
    }

    /// Changes what is under a name that stands for a right, and makes the name if it
    /// is not there: by a value that is worth nothing, as for every name. What is
    /// there if it was left as it is.
    pub(super) fn change(
        &self,
        name: &Name,
        change: impl Fn(&Record) -> Option<Record>,
    ) -> Result<Option<Box<Record>>, Undecided> {
        for _ in 0..RACES {
            let Some(found) = self.read(name)? else {
                let generation = self.keys().generation();
                let (owner, now) = ((None, false), (self.now(), self.stopwatch.now()));
                let record = Record::reservation(generation, [0; 16], [0; 16], owner, now);
                self.write(name, None, kept(record))?;
                continue;
            };
            let expected = found.expected();
            let OpenedEntry { content: Content::Record(record), .. } = found else {
                return Err(Undecided::Record);
            };
            let Some(next) = change(&record) else { return Ok(Some(Box::new(record))) };
            if self.write(name, Some(expected), kept(next))?.is_some() {
                return Ok(None);
            }
        }
        Err(Undecided::Races)
    }
}
