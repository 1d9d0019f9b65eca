//! Registrations of people without an account or an invite: how many a site takes.
//!
//! Invariant: whatever strangers do, a site begins [`OpenLimits::all`] such registrations at
//! once and as many each hour at most, and none while the ledger has more than [`NAMES`]
//! names. The names of those that were never activated go again ([`Site::sweep`]).

use std::net::IpAddr;
use std::time::Duration;

use super::site::{Caller, Site};
use crate::vault::budget::Budget;
use crate::vault::config::OpenLimits;
use crate::vault::ledger::NAMES_LIMIT;

/// A ledger that has more names than this takes none of them: what is left is for people whom
/// the operator knows. Three quarters of what a ledger in a file holds.
const NAMES: usize = NAMES_LIMIT / 4 * 3;
/// The time in which they are counted.
const PERIOD: Duration = Duration::from_secs(3600);

/// What is left of [`OpenLimits`], in memory: a site that starts anew begins anew.
pub(super) struct Openings {
    each: Budget<IpAddr>,
    all: Budget<()>,
}

impl Openings {
    pub fn new(limits: OpenLimits) -> Self {
        Self { each: Budget::within(limits.each, PERIOD), all: Budget::within(limits.all, PERIOD) }
    }
}

impl Site {
    /// Counts one; false if there were too many. Whoever had too many from one address
    /// takes nothing from what is left for others.
    pub(super) fn may_open(&self, caller: &Caller) -> bool {
        if self.names() > NAMES {
            return false;
        }
        let now = self.clock().elapsed();
        caller.origin.is_none_or(|origin| self.openings.each.take(origin, now))
            && self.openings.all.take((), now)
    }
}
