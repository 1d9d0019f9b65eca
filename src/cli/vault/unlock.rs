//! K by password.

use std::path::Path;

use super::super::args::Global;
use super::super::secrets::Obtained;
use super::super::trust::{
    NamedBy, keep_entry, kept_entry, remember_or_warn, trust, vault_endpoints,
};
use super::super::{Exit, Failure, Result};
use super::{client_by, token};
use crate::io::{DirSynced, local_time};
use crate::vault::client::{Unlocked, VaultError};
use crate::vault::line::Timeouts;
use crate::vault::protocol::FAILURES;
use crate::vault::protocol::{Event, EventKind, Locator, Password};
use crate::volume::repository::Repository;

/// Vault entries to try, the likeliest first: the one that opened this folder on this machine
/// last, then those that the folder shows.
fn entries(kept: Option<&Locator>, folder: &DirSynced, repository: &Repository) -> Vec<Locator> {
    let shown = repository.vault_slots(folder).into_iter();
    let mut all: Vec<Locator> = Vec::new();
    let shown = shown.filter_map(|slot| Locator::decode(slot).ok());
    for locator in kept.cloned().into_iter().chain(shown) {
        if !all.contains(&locator) {
            all.push(locator);
        }
    }
    all
}

/// K by password, from a vault that a register names: the newest first, and on
/// to older ones while the answer is that there is nothing to try.
pub fn unlock(
    global: &Global,
    repo: &Path,
    repository: &Repository,
    password: &[u8],
) -> Result<Obtained> {
    let password = Password::new(password).map_err(|error| Failure::new(Exit::Usage, error))?;
    if !repository.has_vault() {
        return Err(Failure::new(
            Exit::WrongSecret,
            "this repository has no password, only its 64-digit key",
        )
        .hint("give --key-file F, or type the key"));
    }
    let token = token(global, repo)?;
    let folder = DirSynced::new(repo, None);
    let kept = kept_entry(global, &repository.repo);
    // What to say in the end: a try that was spent goes before what cost nothing.
    let (mut spent, mut first) = (None, None);
    let mut distrusted = Vec::new();
    for locator in entries(kept.as_ref(), &folder, repository) {
        let fingerprint = locator.address.fingerprint();
        if distrusted.contains(&fingerprint) {
            continue;
        }
        let pin = match trust(global, &locator) {
            Ok(pin) => pin,
            Err(failure) => {
                distrusted.push(fingerprint);
                first.get_or_insert(failure);
                continue;
            }
        };
        let endpoints = vault_endpoints(global, &locator, NamedBy::Folder)?;
        let client = client_by(token.as_ref(), Timeouts::default(), &endpoints.trusted);
        match client.unlock(&endpoints.locator, &repository.repo, &password, pin) {
            Ok(unlocked) => {
                let is_outdated = unlocked.generation < unlocked.manifest.generation();
                let found = (&locator, endpoints.trusted.as_slice());
                let obtained = opened(global, &folder, repository, found, unlocked)?;
                let outdated = is_outdated.then_some(password);
                return Ok(Obtained { outdated, ..obtained });
            }
            Err(error) => {
                // The folder may have gone on to another record since this machine opened it.
                let was_kept = kept.as_ref() == Some(&locator);
                let goes_on = has_nothing_to_try(&error) || was_kept && is_decided(&error);
                let is_wrong = matches!(error, VaultError::WrongPassword(_));
                let failure = endpoints.explain(error);
                match (goes_on, is_wrong) {
                    (false, true) => return Err(failure),
                    (false, false) => return Err(spent.unwrap_or(failure)),
                    (true, true) => spent = Some(failure),
                    (true, false) => drop(first.get_or_insert(failure)),
                }
            }
        }
    }
    Err(spent.or(first).unwrap_or_else(|| {
        Failure::new(Exit::Damage, "what names the vault of this repository is damaged")
            .hint("amberfs check REPO --no-key names the files; the 64-digit key still opens it")
    }))
}

/// Whether the record is none that a password could be tried at, which costs nothing.
fn has_nothing_to_try(error: &VaultError) -> bool {
    matches!(
        error,
        VaultError::UnknownTicket
            | VaultError::Ended(_)
            | VaultError::NotActivated
            | VaultError::Terms
            | VaultError::Tampered
    )
}

/// Whether it is known what became of the attempt: if not, a try may be spent.
fn is_decided(error: &VaultError) -> bool {
    !matches!(error, VaultError::Memory { .. } | VaultError::Unanswered { .. })
}

/// Judges what the record that `locator` names has given; `known` are endpoints of its vault
/// that somebody other than the folder named.
fn opened(
    global: &Global,
    folder: &DirSynced,
    repository: &Repository,
    (locator, known): (&Locator, &[String]),
    unlocked: Unlocked,
) -> Result<Obtained> {
    let key = unlocked.keys.into_iter().map(|(_, key)| key);
    let Some(key) = key.into_iter().find(|key| repository.unlock(key).is_some()) else {
        return Err(Failure::new(
            Exit::NotAllHere,
            "the vault's key does not open this folder: the folder is behind, or its header is \
             damaged",
        ));
    };
    // That the folder shows another entry than the sealed one is told by whoever opens it.
    let sealed = repository.sealed_vault_slots(folder, &key);
    let sealed = sealed.iter().filter_map(|slot| Locator::decode(slot).ok());
    let fingerprint = locator.address.fingerprint();
    // The very record that opened: an older one may stand in a folder that was put back.
    let sealed = sealed.into_iter().find(|sealed| {
        (sealed.ticket, sealed.registration) == (locator.ticket, locator.registration)
    });
    let named = sealed.as_ref().map_or(&[][..], |sealed| sealed.address.endpoints());
    let endpoints = [known, named].concat();
    if sealed.as_ref().is_some_and(|sealed| sealed.epoch > unlocked.manifest.epoch) {
        note!(
            "amberfs: the vault showed an older manifest than its owner saw at the registration: \
             something that stands in for it may have answered. Ask its operator"
        );
    }
    remember_or_warn(global, fingerprint, &unlocked.manifest, &endpoints);
    if let Some(sealed) = sealed {
        keep_entry(global, &repository.repo, &sealed);
    }
    for line in event_lines(unlocked.events.since_opened()) {
        note!("amberfs: {line}");
    }
    let failures = FAILURES.saturating_sub(unlocked.tries.failures_left);
    if failures > 0 {
        note!(
            "amberfs: {failures} of {FAILURES} failed attempts in the life of this password are \
             used up; a new one (amberfs passwd) starts anew"
        );
    }
    Ok(Obtained { key, marks: unlocked.marks, outdated: None })
}

/// What the owner should know of what happened since the password last opened the
/// record; of one day and kind in one line.
fn event_lines(events: &[Event]) -> Vec<String> {
    let mut days: Vec<(String, EventKind, usize)> = Vec::new();
    for event in events {
        let day = local_time(event.time.try_into().unwrap_or(i64::MAX));
        let day = day.split(' ').next().unwrap_or_default().to_owned();
        match days.last_mut() {
            Some((last, kind, count)) if *last == day && *kind == event.kind => *count += 1,
            _ => days.push((day, event.kind, 1)),
        }
    }
    let lines = days.into_iter().filter_map(|(day, kind, count)| match kind {
        EventKind::Failed if count == 1 => Some(format!("1 wrong password on {day}")),
        EventKind::Failed => Some(format!("{count} wrong passwords on {day}")),
        EventKind::Closed => Some(format!("all tries were used up on {day}")),
        EventKind::Spent => Some(format!("the vault's operator took tries on {day}")),
        EventKind::FrozenByStaff => Some(format!("the vault's operator froze the record on {day}")),
        EventKind::Released => Some(format!("the vault's operator released the record on {day}")),
        EventKind::Activated | EventKind::Opened => None,
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_day_and_kind_have_one_line() {
        let event = |kind, time| Event { kind, time };
        let noon = 1_700_000_000 / 86_400 * 86_400 + 43_200;
        let lines = event_lines(&[
            event(EventKind::Activated, noon),
            event(EventKind::Failed, noon + 1),
            event(EventKind::Failed, noon + 2),
            event(EventKind::Failed, noon + 3 * 86_400),
            event(EventKind::Closed, noon + 3 * 86_400),
            event(EventKind::Spent, u64::MAX),
        ]);
        let starts = [
            "2 wrong passwords on 2023-11-14",
            "1 wrong password on 2023-11-17",
            "all tries were used up on 2023-11-17",
            "the vault's operator took",
        ];
        assert_eq!(lines.len(), starts.len(), "{lines:?}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
    }
}
