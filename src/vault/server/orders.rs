//! What staff asks of a site, as it goes from the command line to the server that
//! has the ledger open: one line of JSON each way.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::site::Site;
use super::staff::{Deed, Sight};
use crate::crypto::{hex, unhex};
use crate::vault::ledger::Name;
use crate::vault::protocol::is_account;

/// Longest order or answer, in bytes.
pub const ORDER_LIMIT: usize = 1 << 20;
/// Longest time of an invite, in days.
const DAYS_LIMIT: u32 = 366;

/// Which record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// By its name in the ledger: 64 hexadecimal digits.
    Name(String),
    /// By the ticket in the owner's folder: 32 hexadecimal digits.
    Ticket(String),
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Order {
    /// A new invite.
    Invite {
        /// The account it is for.
        account: Option<String>,
        /// How long it can be used.
        days: u32,
    },
    /// How a record stands.
    Show(Which),
    /// How all records of an account stand.
    List(String),
    /// Nothing is evaluated any more.
    Freeze(Which),
    /// It is again.
    Thaw(Which),
    /// Erase it.
    Delete(Which),
    /// Seal all under the newest keys.
    Reseal,
}

/// What came of it: text for a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Done.
    Done(String),
    /// Not done, and why.
    Failed(String),
}

impl Site {
    fn which(&self, which: &Which) -> Result<Name, String> {
        match which {
            Which::Name(text) => {
                unhex(text).ok_or_else(|| "a name has 64 hexadecimal digits".into())
            }
            Which::Ticket(text) => {
                self.name_of(&unhex(text).ok_or("a ticket has 32 hexadecimal digits")?)
            }
        }
    }

    /// Does what staff asks. Blocks on keys and ledger.
    pub fn obey(&self, order: &Order) -> Answer {
        self.try_to_obey(order).map_or_else(Answer::Failed, Answer::Done)
    }

    fn try_to_obey(&self, order: &Order) -> Result<String, String> {
        let deed = |deed, which| -> Result<String, String> {
            let name = self.which(which)?;
            self.staff_does(deed, &name)?;
            log::warn!("staff: {deed:?} {}", hex(&name));
            Ok(format!("done: {}", hex(&name)))
        };
        match order {
            Order::Invite { account, days } => {
                if account.as_deref().is_some_and(|account| !is_account(account)) {
                    return Err("an account is 1 to 64 printable characters without a space".into());
                }
                if !(1..=DAYS_LIMIT).contains(days) {
                    return Err("an invite is good for 1 to 366 days".into());
                }
                let seconds = u64::from(*days) * 24 * 3600;
                let invite = self.invite(&account.as_deref().map(Into::into), seconds)?;
                log::info!("staff: an invite for {days} days");
                Ok(format!("amber-invite-{}", hex(&invite)))
            }
            Order::Show(which) => {
                let sight = self.look(&self.which(which)?)?;
                sight.map(|sight| sight.to_string()).ok_or_else(|| "there is no such record".into())
            }
            Order::List(account) => {
                let sights: Vec<Sight> = self.look_for(account)?;
                let mut text = String::new();
                for sight in &sights {
                    let _ = writeln!(text, "{sight}");
                }
                Ok(format!("{text}records: {}", sights.len()))
            }
            Order::Reseal => {
                let (done, left) = self.reseal().map_err(|error| error.to_string())?;
                let census = self.census().map_err(|error| error.to_string())?;
                Ok(format!("sealed anew: {done}, not yet: {left}, outdated: {}", census.outdated))
            }
            Order::Freeze(which) => deed(Deed::Hold, which),
            Order::Thaw(which) => deed(Deed::Release, which),
            Order::Delete(which) => deed(Deed::Remove, which),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_as_they_were_written_and_strangers_are_not() {
        for order in [
            Order::Invite { account: Some("anna".into()), days: 7 },
            Order::Show(Which::Ticket("00".repeat(16))),
            Order::List("anna".into()),
            Order::Delete(Which::Name("00".repeat(32))),
        ] {
            let text = serde_json::to_string(&order).unwrap();
            assert_eq!(serde_json::from_str::<Order>(&text).unwrap(), order);
        }
        for bad in ["", "{}", "{\"refill\":{\"name\":\"00\"}}", "{\"invite\":{\"days\":7,\"x\":1}}"]
        {
            assert!(serde_json::from_str::<Order>(bad).is_err(), "{bad}");
        }
    }
}
