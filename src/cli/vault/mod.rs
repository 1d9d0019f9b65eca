//! Passwords: the vault seen from the command line.

mod opened;
mod passwd;
mod register;
mod remove;
mod show;
mod unlock;

use std::path::Path;

use zeroize::Zeroizing;

use super::args::Global;
use super::opening::ScannedRepository;
use super::trust::{NamedBy, VaultEndpoints, known, vault_endpoints};
use super::{Result, secrets};
use crate::daemon::NoteWriter;
use crate::io::{SystemClock, SystemRandom};
use crate::vault::client::{Client, Token};
use crate::vault::line::Timeouts;
use crate::vault::protocol::{Locator, NoteKeys};
use crate::volume::repository::vault_slots;

pub use passwd::{add, passwd, renew};
pub use register::{register_first, withdraw};
pub use remove::remove;
pub use show::show;
pub use unlock::unlock;

/// Who talks to vaults, with the account's token if there is one; it is sent to no endpoint but
/// `endpoints`.
fn client(
    global: &Global,
    repo: &Path,
    timeouts: Timeouts,
    endpoints: &[String],
) -> Result<Client<'static>> {
    Ok(client_by(token(global, repo)?.as_ref(), timeouts, endpoints))
}

/// The account's token, if there is one: it may come from standard input, once.
fn token(global: &Global, repo: &Path) -> Result<Option<Zeroizing<String>>> {
    let token = secrets::text(global.vault_token.as_ref(), None, &secrets::TOKEN, repo)?;
    Ok(token.map(|(text, _)| Zeroizing::new(text.trim().to_owned())))
}

fn client_by(
    token: Option<&Zeroizing<String>>,
    timeouts: Timeouts,
    endpoints: &[String],
) -> Client<'static> {
    let token = token.map(|text| Token { text: text.clone(), endpoints: endpoints.to_vec() });
    Client::new(&SystemRandom, &SystemClock, timeouts).with_token(token)
}

/// What tells the vault how far this device came, for the record that the sealed entry of
/// a repository names; none without a vault.
pub fn note_writer(global: &Global, scanned: &ScannedRepository) -> Result<Option<NoteWriter>> {
    let Some(sealed) = vault_slots(&scanned.slots).find_map(|slot| Locator::decode(slot).ok())
    else {
        return Ok(None);
    };
    // Sealed with K: the address is the owner's own.
    let pin = known(global, sealed.address.fingerprint())?;
    let VaultEndpoints { locator, trusted, .. } =
        vault_endpoints(global, &sealed, NamedBy::Sealed)?;
    let keys = NoteKeys::derive(scanned.key(), &scanned.repository.repo, &locator.registration);
    let client = client(global, &scanned.path, NoteWriter::TIMEOUTS, &trusted)?;
    Ok(Some(NoteWriter { client, locator, keys, pin }))
}
