//! What an operator should hear about the cluster before it stops: a quota that
//! is nearly full, history that nobody compacts, versions that lose data.

use std::time::{Duration, Instant};

use etcd_client::{AlarmAction, AlarmType, Client, Error, GetOptions};
use tokio::time::timeout;

use super::{EtcdLedger, Revision};

/// etcd's default; its members tell theirs from 3.6 on.
const DEFAULT_QUOTA: u64 = 2 << 30;
/// Of a hundred parts of the quota.
const FULL: u64 = 75;
/// A write stays readable by its revision until it is compacted.
const KEPT_AT_MOST: Duration = Duration::from_secs(25 * 3600);
/// History of so few writes says nothing.
const WRITES: u64 = 10_000;
/// For each question to each member.
const ANSWER: Duration = Duration::from_secs(2);

/// A revision, and when it was the newest.
#[derive(Default)]
pub struct Care {
    noted: Option<(Instant, Revision)>,
}

/// Versions that lost data after a crash (etcd issue 13766).
fn loses_data(version: &str) -> bool {
    ["3.5.0", "3.5.1", "3.5.2"].contains(&version)
}

/// Whether a database of `size` bytes is near the quota; 0 is "not told".
fn is_nearly_full(size: u64, quota: u64) -> bool {
    let quota = if quota == 0 { DEFAULT_QUOTA } else { quota };
    size.saturating_mul(100) > quota.saturating_mul(FULL)
}

/// One member's warnings.
async fn of_member(client: &Client) -> Result<Vec<String>, Error> {
    let mut maintenance = client.maintenance_client();
    let status = maintenance.status().await?;
    let mut warnings = Vec::new();
    if loses_data(status.version()) {
        warnings.push(format!("runs etcd {}, which loses data in a crash", status.version()));
    }
    let (size, quota) = (super::number(status.db_size()), super::number(status.db_size_quota()));
    if is_nearly_full(size, quota) {
        let quota = if quota == 0 {
            "a quota that it does not tell (the default is 2048 MiB)".to_owned()
        } else {
            format!("its quota of {} MiB", quota >> 20)
        };
        warnings.push(format!(
            "has {} MiB on disk, near {quota}: a full one stops every mount; compact and \
             defragment",
            size >> 20
        ));
    }
    Ok(warnings)
}

async fn alarms(client: &Client) -> Result<Vec<String>, Error> {
    let mut maintenance = client.maintenance_client();
    let answer = maintenance.alarm(AlarmAction::Get, AlarmType::None, None).await?;
    let warnings = answer.alarms().iter().map(|alarm| match alarm.alarm() {
        AlarmType::Nospace => "etcd's quota is full: nothing can be counted until it is \
             compacted, defragmented and the alarm disarmed"
            .to_owned(),
        other => format!("etcd member {:x} has the alarm {other:?}", alarm.member_id()),
    });
    Ok(warnings.collect())
}

/// Whether what a revision held can still be read.
fn is_readable(ledger: &EtcdLedger, revision: u64) -> bool {
    let options = GetOptions::new().with_keys_only().with_revision(revision as i64);
    let answer = ledger.ask(|mut kv| {
        let (key, options) = (ledger.prefix.clone(), options.clone());
        async move {
            match kv.get(key, Some(options)).await {
                Ok(_) => Ok(true),
                Err(Error::GRpcStatus(status)) if status.message().contains("compacted") => {
                    Ok(false)
                }
                Err(error) => Err(error),
            }
        }
    });
    answer.unwrap_or(false)
}

fn of_history(ledger: &EtcdLedger) -> Option<String> {
    const SAYS: &str = "set --auto-compaction-mode and --auto-compaction-retention at every \
         member, or the quota fills up and stops every mount";
    let newest = super::Ledger::head(ledger).ok()?.revision;
    let mut care = ledger.care.lock().ok()?;
    let (since, noted) = *care.noted.get_or_insert((Instant::now(), newest));
    if newest.0 > WRITES && is_readable(ledger, 1) {
        return Some(format!("etcd's history was never compacted: {SAYS}"));
    }
    if since.elapsed() < KEPT_AT_MOST {
        return None;
    }
    care.noted = Some((Instant::now(), newest));
    (newest.0 > noted.0 + WRITES && is_readable(ledger, noted.0))
        .then(|| format!("etcd's history of a day ago is not compacted: {SAYS}"))
}

/// All warnings there are now.
pub fn warnings(ledger: &EtcdLedger) -> Vec<String> {
    let mut all = ledger.wait(async {
        let mut all = Vec::new();
        for (at, client) in ledger.members.iter().enumerate() {
            match timeout(ANSWER, of_member(client)).await {
                Ok(Ok(warnings)) => {
                    let named = |warning| format!("etcd endpoint {} {warning}", at + 1);
                    all.extend(warnings.into_iter().map(named));
                }
                _ => all.push(format!("etcd endpoint {} does not answer", at + 1)),
            }
        }
        for client in &ledger.members {
            if let Ok(Ok(warnings)) = timeout(ANSWER, alarms(client)).await {
                all.extend(warnings);
                break;
            }
        }
        all
    });
    all.extend(of_history(ledger));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quota_that_is_told_counts_and_else_the_default() {
        assert!(!is_nearly_full(1 << 30, 0) && is_nearly_full(1700 << 20, 0));
        assert!(!is_nearly_full(1700 << 20, 8 << 30) && is_nearly_full(7 << 30, 8 << 30));
        assert!(loses_data("3.5.1") && !loses_data("3.5.12") && !loses_data("3.4.23"));
    }
}
