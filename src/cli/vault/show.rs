//! `vault show`.

use super::super::args::{Global, ShowArgs};
use super::super::opening::{FoundRepository, find};
use super::super::trust::{NamedBy, remember_or_warn, trust, vault_endpoints};
use super::super::{Exit, Result};
use super::client;
use crate::crypto::hex;
use crate::io::{Clock, DirSynced, SystemClock, local_time, output};
use crate::vault::client::VaultError;
use crate::vault::line::Timeouts;
use crate::vault::protocol::{Locator, Protection, RecordState};

/// `vault show`: spends no try.
pub fn show(global: &Global, args: &ShowArgs) -> Result<Exit> {
    let FoundRepository { path, early: repository } = find(&args.repo)?;
    let folder = DirSynced::new(&path, None);
    // Older registers only name what this one replaced.
    let locator =
        repository.vault_slots(&folder).into_iter().find_map(|slot| Locator::decode(slot).ok());
    let Some(locator) = locator.filter(|_| !repository.clear_vault_slots().is_empty()) else {
        if global.json {
            output::object(&serde_json::json!({"message_type": "vault", "vault": null}))?;
        } else {
            say!("no vault: only the 64-digit key opens this repository")?;
        }
        return Ok(Exit::Done);
    };
    if args.ticket {
        let ticket = hex(&locator.ticket);
        if global.json {
            output::object(&serde_json::json!({"message_type": "ticket", "ticket": ticket}))?;
        } else {
            output::secret(&ticket)?;
        }
        return Ok(Exit::Done);
    }
    let pin = trust(global, &locator)?;
    let endpoints = vault_endpoints(global, &locator, NamedBy::Folder)?;
    let client = client(global, &path, Timeouts::default(), &endpoints.trusted)?;
    let status =
        client.status(&endpoints.locator, pin).map_err(|error| endpoints.explain(error))?;
    // The root has signed it: whatever comes later must not be older.
    remember_or_warn(global, locator.address.fingerprint(), &status.manifest, &endpoints.trusted);
    if global.json {
        let mut object = state_json(&status.state);
        object["message_type"] = "vault".into();
        object["vault"] = locator.address.to_string().into();
        object["text"] = state_text(&status.state).into();
        object["keys"] = match status.manifest.protection {
            Protection::File => "file".into(),
            Protection::Hsm => "hsm".into(),
        };
        object["epoch"] = status.manifest.epoch.into();
        output::object(&object)?;
        return Ok(Exit::Done);
    }
    say!("{}", locator.address)?;
    say!("  {}", state_text(&status.state))?;
    let place = match status.manifest.protection {
        Protection::File => "a file",
        Protection::Hsm => "an HSM",
    };
    say!("  its keys are in {place}; manifest of epoch {}", status.manifest.epoch)?;
    Ok(Exit::Done)
}

/// So many seconds from now, in seconds since 1970 by this machine's clock.
fn in_seconds(seconds: u64) -> u64 {
    let now = SystemClock.now().secs.max(0) as u64;
    now.saturating_add(seconds)
}

/// The state of a record as JSON. Times are in seconds since 1970.
fn state_json(state: &RecordState) -> serde_json::Value {
    match state {
        RecordState::Registering => serde_json::json!({"state": "registering"}),
        RecordState::Active { tries, bound } => serde_json::json!({
            "state": "active",
            "bound": bound,
            "tries_left": tries.left,
            "failures_left": tries.failures_left,
            "not_before": (tries.wait != 0).then(|| in_seconds(tries.wait)),
        }),
        RecordState::Closed { left } => {
            serde_json::json!({"state": "closed", "tries_left": 0, "until": in_seconds(*left)})
        }
        RecordState::Ended(_) => serde_json::json!({"state": "ended", "tries_left": 0}),
    }
}

/// The state of a record as text for its owner. Times are local.
fn state_text(state: &RecordState) -> String {
    let time = |seconds: u64| local_time(in_seconds(seconds).try_into().unwrap_or(i64::MAX));
    match state {
        RecordState::Registering => "not activated yet".into(),
        RecordState::Active { tries, bound } => {
            let only = if *bound { "; opens only for the account that registered it" } else { "" };
            let left = format!(
                "active: {} tries left, {} failures left in its life{only}",
                tries.left, tries.failures_left
            );
            match tries.wait {
                0 => left,
                wait => format!("{left}, no attempt before {}", time(wait)),
            }
        }
        RecordState::Closed { left } => {
            format!("closed: all tries are used up; erased at {}", time(*left))
        }
        RecordState::Ended(ended) => VaultError::Ended(*ended).to_string(),
    }
}
