//! Commands of the vault's staff. `amberfs-vault record` and `invite` send them to the
//! server that has the ledger open, over the socket `control` in the vault's folder: one
//! line of JSON there, one line of JSON back.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::site::Site;
use super::staff::{RecordView, StaffAction};
use crate::crypto::{hex, unhex};
use crate::vault::ledger::Name;
use crate::vault::protocol::is_account;

/// Longest command or answer, in bytes.
pub const ADMIN_LIMIT: usize = 1 << 20;
/// Longest time of an invite, in days.
const DAYS_LIMIT: u32 = 366;

/// How staff names a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Which {
    /// By its name in the ledger: 64 hexadecimal digits.
    Name(String),
    /// By the ticket in the owner's folder: 32 hexadecimal digits.
    Ticket(String),
}

/// A command of the vault's staff to a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum AdminCommand {
    /// Make an invite.
    Invite {
        /// The account it is for.
        account: Option<String>,
        /// How long it can be used.
        days: u32,
    },
    /// Print the state of a record.
    Show(Which),
    /// Print the states of all records of an account.
    List(String),
    /// Freeze a record: the site evaluates no attempt on it.
    Freeze(Which),
    /// Release a record that is frozen.
    Thaw(Which),
    /// Erase a record's key material. A tombstone stays.
    Delete(Which),
    /// Seal all records under the newest key generation.
    Reseal,
}

/// The site's answer to an [`AdminCommand`]: text for a terminal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// The command was executed; this is its output.
    Done(String),
    /// The command failed; this is why.
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

    /// Executes a command of the staff. Blocks on keys and ledger.
    pub fn execute(&self, command: &AdminCommand) -> Answer {
        self.try_to_execute(command).map_or_else(Answer::Failed, Answer::Done)
    }

    fn try_to_execute(&self, command: &AdminCommand) -> Result<String, String> {
        let apply = |action, which| -> Result<String, String> {
            let name = self.which(which)?;
            self.apply_staff_action(action, &name)?;
            log::warn!("staff: {action:?} {}", hex(&name));
            Ok(format!("done: {}", hex(&name)))
        };
        match command {
            AdminCommand::Invite { account, days } => {
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
            AdminCommand::Show(which) => {
                let view = self.view(&self.which(which)?)?;
                view.map(|view| view.to_string()).ok_or_else(|| "there is no such record".into())
            }
            AdminCommand::List(account) => {
                let views: Vec<RecordView> = self.views_of(account)?;
                let mut text = String::new();
                for view in &views {
                    let _ = writeln!(text, "{view}");
                }
                Ok(format!("{text}records: {}", views.len()))
            }
            AdminCommand::Reseal => {
                let (done, left) = self.reseal().map_err(|error| error.to_string())?;
                let census = self.census().map_err(|error| error.to_string())?;
                Ok(format!("sealed anew: {done}, not yet: {left}, outdated: {}", census.outdated))
            }
            AdminCommand::Freeze(which) => apply(StaffAction::Freeze, which),
            AdminCommand::Thaw(which) => apply(StaffAction::Release, which),
            AdminCommand::Delete(which) => apply(StaffAction::Remove, which),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_as_they_were_written_and_unknown_ones_are_refused() {
        for command in [
            AdminCommand::Invite { account: Some("anna".into()), days: 7 },
            AdminCommand::Show(Which::Ticket("00".repeat(16))),
            AdminCommand::List("anna".into()),
            AdminCommand::Delete(Which::Name("00".repeat(32))),
        ] {
            let text = serde_json::to_string(&command).unwrap();
            assert_eq!(serde_json::from_str::<AdminCommand>(&text).unwrap(), command);
        }
        for bad in ["", "{}", "{\"refill\":{\"name\":\"00\"}}", "{\"invite\":{\"days\":7,\"x\":1}}"]
        {
            assert!(serde_json::from_str::<AdminCommand>(bad).is_err(), "{bad}");
        }
    }
}
