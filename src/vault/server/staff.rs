//! What the staff of a vault can do to a record: view its state, freeze it, release it,
//! and delete it. The staff can neither read K, nor give tries back, nor undo the end of
//! a record.

use std::fmt;

use super::effect::Write;
use super::record::{Record, State};
use super::served::Served;
use super::site::{Content, Site, Undecided};
use crate::crypto::hex;
use crate::vault::ledger::{Name, record_name};
use crate::vault::protocol::{
    Ended, Event, EventKind, FAILURES, RecordState, Reply, Seconds, TRIES, Ticket,
};

/// How often an action is tried again because another site wrote the record meanwhile.
const RACES: usize = 16;

/// The state of a record, as the vault's staff may see it.
#[derive(Clone, Debug)]
pub struct RecordView {
    /// The name of the record in the ledger.
    pub name: Name,
    /// What the record is and how far it has come; none if somebody else than the vault
    /// changed the ledger.
    pub state: Option<State>,
    /// The account that registered it, if that is known.
    pub label: Option<String>,
    /// Whether the staff froze it.
    pub frozen_by_staff: bool,
    /// Generation of the keys it was made under.
    pub generation: u32,
    /// Guesses left, and failures left in its life.
    pub left: (u8, u8),
    /// When the next attempt may be made, by the vault's own time; 0 for at once.
    pub not_before: Served,
    /// When it was made.
    pub created: Seconds,
    /// Whether it opens only for the account that registered it.
    pub bound: bool,
    /// The last events of the record, oldest first.
    pub events: Vec<Event>,
    /// When it was looked at, by the vault's own time and by the wall clock.
    pub seen: (Served, Seconds),
}

impl RecordView {
    fn of(name: Name, content: Content, seen: (Served, Seconds)) -> Self {
        let (record, state) = match content {
            Content::Record(record) => {
                let state = record.state;
                (Some(record), Some(state))
            }
            Content::Displaced(record) => (Some(record), None),
            Content::Forged => (None, None),
        };
        let nothing = || Record::reservation(0, [0; 16], [0; 16], (None, false), (0, Served(0)));
        let record = record.unwrap_or_else(nothing);
        Self {
            name,
            state,
            label: record.label.as_deref().map(str::to_owned),
            frozen_by_staff: record.frozen_by_staff,
            generation: record.generation,
            left: (record.tries_left.min(TRIES), FAILURES.saturating_sub(record.failures)),
            not_before: record.not_before,
            created: record.created,
            bound: record.bound,
            events: record.events.all().to_vec(),
            seen,
        }
    }

    /// The state of the record as text for the staff. Times are in UTC.
    fn state_text(&self) -> String {
        match self.state {
            None => "frozen: somebody else than the vault changed it in the ledger".into(),
            Some(State::Reserved | State::Started | State::Stored) => "registering".into(),
            Some(State::Active) => "active".into(),
            Some(State::Closed { until }) => {
                format!("closed; erased not before {}", self.at(until))
            }
            Some(State::Ended(ended)) => format!("ended: {}", reason(ended)),
            Some(State::Invite { until }) => format!("an invite; until {}", self.at(until)),
            Some(State::Used) => "an invite that was used".into(),
            Some(State::Account) => "an account's count of registrations".into(),
            Some(State::Clock) => format!("the vault was served for {} s", self.seen.0.0),
        }
    }

    /// When the vault's own time will be `then`, if it is served all the time.
    fn at(&self, then: Served) -> String {
        utc(self.seen.1.saturating_add(then.left_at(self.seen.0)))
    }
}

/// RFC 3339, in UTC.
fn utc(seconds: Seconds) -> String {
    let time = i64::try_from(seconds).ok().and_then(|secs| jiff::Timestamp::from_second(secs).ok());
    time.map_or_else(|| format!("{seconds} s"), |time| time.to_string())
}

fn reason(ended: Ended) -> &'static str {
    match ended {
        Ended::Exhausted => "tries used up",
        Ended::Superseded => "replaced by its owner",
        Ended::Deleted => "deleted by its owner",
        Ended::Abandoned => "never activated",
        Ended::Removed => "deleted by staff",
    }
}

impl fmt::Display for RecordView {
    /// Prints one fact a line, for a terminal.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "record {}", hex(&self.name))?;
        writeln!(out, "  {}", self.state_text())?;
        if self.frozen_by_staff {
            writeln!(out, "  frozen by staff")?;
        }
        if let Some(label) = &self.label {
            let only = if self.bound { ", and opens for no other" } else { "" };
            writeln!(out, "  account {label}{only}")?;
        }
        let (left, failures) = self.left;
        write!(out, "  {left} tries left, {failures} failures left")?;
        if self.not_before > self.seen.0 {
            write!(out, ", none before {}", self.at(self.not_before))?;
        }
        write!(out, "\n  made {}, keys of generation {}", utc(self.created), self.generation)?;
        for Event { kind, time } in &self.events {
            let what = match kind {
                EventKind::Activated => "activated",
                EventKind::Failed => "failed",
                EventKind::Opened => "opened",
                EventKind::Closed => "closed",
                EventKind::Spent => "tries taken by staff",
                EventKind::FrozenByStaff => "frozen by staff",
                EventKind::Released => "released by staff",
            };
            write!(out, "\n  {} {what}", utc(*time))?;
        }
        Ok(())
    }
}

/// What the staff of a vault does to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StaffAction {
    /// Freezes the record: the site evaluates no attempt until it is released.
    Freeze,
    /// Releases a record that is frozen.
    Release,
    /// Erases the record's key material. A tombstone stays.
    Remove,
}

impl Site {
    /// The name of a ticket's record.
    pub(crate) fn name_of(&self, ticket: &Ticket) -> Result<Name, String> {
        record_name(self.keys(), ticket).map_err(|error| error.to_string())
    }

    fn seen(&self) -> Result<(Served, Seconds), String> {
        Ok((self.served().map_err(|error| error.to_string())?, self.now()))
    }

    /// The state of a record; none if the ledger has no such name.
    pub fn view(&self, name: &Name) -> Result<Option<RecordView>, String> {
        let found = self.read(name).map_err(|error| error.to_string())?;
        let seen = self.seen()?;
        Ok(found.map(|found| RecordView::of(*name, found.content, seen)))
    }

    /// All records and invites of an account. Reads the whole ledger.
    pub(crate) fn views_of(&self, label: &str) -> Result<Vec<RecordView>, String> {
        let (mut views, mut failed) = (Vec::new(), None);
        let seen = self.seen()?;
        let all = self.each(|name, found| {
            match found {
                Ok(found) => {
                    let view = found.map(|found| RecordView::of(*name, found.content, seen));
                    views.extend(view.filter(|view| {
                        let is_record = !matches!(
                            view.state,
                            Some(State::Used | State::Account | State::Clock)
                        );
                        is_record && view.label.as_deref() == Some(label)
                    }));
                }
                Err(error) => failed = failed.take().or(Some(error)),
            }
            Ok(())
        });
        match (all, failed) {
            (Err(error), _) => Err(error.to_string()),
            (_, Some(error)) => Err(error.to_string()),
            _ => Ok(views),
        }
    }

    /// Applies an action to a record. The error is a message for the staff.
    pub(crate) fn apply_staff_action(
        &self,
        action: StaffAction,
        name: &Name,
    ) -> Result<(), String> {
        let error = |error: Undecided| error.to_string();
        for _ in 0..RACES {
            let found = self.read(name).map_err(error)?.ok_or("there is no such record")?;
            let expected = found.expected();
            let record = match (found.content, action) {
                (Content::Record(record), _) => record,
                // To end it is still right.
                (Content::Displaced(record), StaffAction::Remove) => record,
                _ => return Err("somebody else than the vault changed it in the ledger".into()),
            };
            let next = match (action, record.state) {
                (_, State::Ended(_)) => return Err("it is over already".into()),
                (_, State::Used | State::Account | State::Clock) => {
                    return Err("it is no record".into());
                }
                (StaffAction::Remove, _) => record.tombstone(Ended::Removed),
                _ if record.state.is_beside() => return Err("it is no record".into()),
                (StaffAction::Freeze | StaffAction::Release, _) => {
                    let freeze = action == StaffAction::Freeze;
                    if record.frozen_by_staff == freeze {
                        return Ok(());
                    }
                    let mut next = Record { frozen_by_staff: freeze, ..record };
                    let kind = if freeze { EventKind::FrozenByStaff } else { EventKind::Released };
                    next.events.note(kind, self.now());
                    next
                }
            };
            // Nobody waits for this reply.
            let write = Write { record: next, then: Reply::State(RecordState::Registering) };
            if self.write(name, Some(expected), write).map_err(error)?.is_some() {
                return Ok(());
            }
        }
        Err(Undecided::Races.to_string())
    }
}
