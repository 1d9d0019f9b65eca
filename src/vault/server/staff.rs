//! What the people who run a vault can do to a record: look at how it stands, stop
//! it, let it go, and delete it. Nobody can read what is in it, give tries back, or
//! bring back what is over.

use std::fmt;

use super::effect::Write;
use super::record::{Record, State};
use super::served::Served;
use super::site::{Content, Site, Undecided};
use crate::crypto::hex;
use crate::vault::ledger::{Name, record_name};
use crate::vault::protocol::{
    Ended, Event, EventKind, FAILURES, Reply, Seconds, Standing, TRIES, Ticket,
};

/// Lost races before it is put off.
const RACES: usize = 16;

/// How a record stands, as its vault's staff sees it.
#[derive(Clone, Debug)]
pub struct Sight {
    /// Its name in the ledger.
    pub name: Name,
    /// Where it stands; none if the ledger was changed behind the vault's back.
    pub state: Option<State>,
    /// Whose it is, if that is known.
    pub label: Option<String>,
    /// Whether staff stopped it.
    pub held: bool,
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
    /// The last events.
    pub events: Vec<Event>,
    /// When it was looked at, by the vault's own time and by the wall clock.
    pub seen: (Served, Seconds),
}

impl Sight {
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
            held: record.held,
            generation: record.generation,
            left: (record.tries_left.min(TRIES), FAILURES.saturating_sub(record.failures)),
            not_before: record.not_before,
            created: record.created,
            bound: record.bound,
            events: record.events.all().to_vec(),
            seen,
        }
    }

    fn stands(&self) -> String {
        match self.state {
            None => "frozen: it was changed behind the vault's back".into(),
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

impl fmt::Display for Sight {
    /// A line each.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "record {}", hex(&self.name))?;
        writeln!(out, "  {}", self.stands())?;
        if self.held {
            writeln!(out, "  stopped by staff")?;
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
                EventKind::Held => "stopped by staff",
                EventKind::Released => "let go by staff",
            };
            write!(out, "\n  {} {what}", utc(*time))?;
        }
        Ok(())
    }
}

/// What staff does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// Nothing is evaluated until it is let go.
    Hold,
    /// The end of that.
    Release,
    /// Its key material is erased, and a tombstone stays.
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

    /// How a record stands; none if there is none.
    pub fn look(&self, name: &Name) -> Result<Option<Sight>, String> {
        let found = self.read(name).map_err(|error| error.to_string())?;
        let seen = self.seen()?;
        Ok(found.map(|found| Sight::of(*name, found.content, seen)))
    }

    /// All records and invites of an account. Reads the whole ledger.
    pub(crate) fn look_for(&self, label: &str) -> Result<Vec<Sight>, String> {
        let (mut sights, mut failed) = (Vec::new(), None);
        let seen = self.seen()?;
        let all = self.each(|name, found| {
            match found {
                Ok(found) => {
                    let sight = found.map(|found| Sight::of(*name, found.content, seen));
                    sights.extend(sight.filter(|sight| {
                        let is_record = !matches!(
                            sight.state,
                            Some(State::Used | State::Account | State::Clock)
                        );
                        is_record && sight.label.as_deref() == Some(label)
                    }));
                }
                Err(error) => failed = failed.take().or(Some(error)),
            }
            Ok(())
        });
        match (all, failed) {
            (Err(error), _) => Err(error.to_string()),
            (_, Some(error)) => Err(error.to_string()),
            _ => Ok(sights),
        }
    }

    /// Does it. What was done, or why not.
    pub(crate) fn staff_does(&self, deed: Deed, name: &Name) -> Result<(), String> {
        let error = |error: Undecided| error.to_string();
        for _ in 0..RACES {
            let found = self.read(name).map_err(error)?.ok_or("there is no such record")?;
            let place = found.place();
            let record = match (found.content, deed) {
                (Content::Record(record), _) => record,
                // To end it is still right.
                (Content::Displaced(record), Deed::Remove) => record,
                _ => return Err("it was changed behind the vault's back".into()),
            };
            let next = match (deed, record.state) {
                (_, State::Ended(_)) => return Err("it is over already".into()),
                (_, State::Used | State::Account | State::Clock) => {
                    return Err("it is no record".into());
                }
                (Deed::Remove, _) => record.tombstone(Ended::Removed),
                _ if record.state.is_beside() => return Err("it is no record".into()),
                (Deed::Hold | Deed::Release, _) => {
                    let held = deed == Deed::Hold;
                    if record.held == held {
                        return Ok(());
                    }
                    let mut next = Record { held, ..record };
                    let kind = if held { EventKind::Held } else { EventKind::Released };
                    next.events.note(kind, self.now());
                    next
                }
            };
            // Nobody waits for this reply.
            let write = Write { record: next, then: Reply::Standing(Standing::Registering) };
            if self.write(name, Some(place), write).map_err(error)?.is_some() {
                return Ok(());
            }
        }
        Err(Undecided::Races.to_string())
    }
}
