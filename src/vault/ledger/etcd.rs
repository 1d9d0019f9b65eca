//! The ledger of a fleet, in etcd: one key a name, under a prefix of the fleet.
//!
//! Invariant: reads are linearizable, and a swap is asked once. A swap that is
//! not answered (no answer in time, a line that broke, a change of leader) may
//! have happened or may happen later: it is an error, never asked again here.
//! Whoever asks anew reads first.

mod care;
mod sight;

use std::future::Future;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error, GetOptions, Identity, KeyValue,
    KvClient, ResponseHeader, TlsOptions, Txn, TxnOp,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::{
    Durable, Entry, Head, Ledger, LedgerError, Lineage, Listed, Name, Revision, Swap, Value,
    WentBack, one_by_one,
};
use crate::crypto::{hex, unhex};
use crate::io::{SecretFrom, open_secret, read_regular, read_secret};
use crate::vault::config::Etcd;
use crate::vault::protocol::FleetId;
use sight::Sight;

/// Between two rounds of a read over all members.
const PAUSE: Duration = Duration::from_millis(50);
/// More often than etcd's `--grpc-keepalive-min-time` (5 s) it hangs up.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(3);
/// Most bytes of a file of certificates.
const FILE_MAX: u64 = 1 << 20;

/// A ledger in an etcd cluster. Calls block and must not be made on a thread
/// that drives an executor.
pub struct EtcdLedger {
    /// None only while it is dropped.
    runtime: Option<Runtime>,
    members: Vec<Client>,
    /// The member that answered last.
    first: AtomicUsize,
    prefix: String,
    /// For one swap, and for one read of as many members as it takes.
    deadline: Duration,
    sight: Sight,
    care: Mutex<care::Care>,
}

/// What an answer says about the ledger as a whole.
fn head(header: Option<&ResponseHeader>) -> Head {
    header.map_or_else(Head::default, |header| Head {
        cluster: header.cluster_id(),
        revision: Revision(header.revision().max(0) as u64),
    })
}

fn number(signed: i64) -> u64 {
    signed.max(0) as u64
}

fn unanswered(error: &Error) -> LedgerError {
    LedgerError::Unanswered(match error {
        Error::GRpcStatus(status) => status.message().to_owned(),
        other => other.to_string(),
    })
}

/// Files of settings, which name themselves when they cannot be read.
fn file(path: &std::path::Path) -> Result<Vec<u8>, LedgerError> {
    read_regular(path, FILE_MAX)
        .map_err(|error| LedgerError::Settings(format!("{}: {error}", path.display())))
}

fn options(settings: &Etcd) -> Result<ConnectOptions, LedgerError> {
    let key = open_secret(&settings.key, SecretFrom::User)
        .and_then(read_secret)
        .map_err(|error| LedgerError::Settings(format!("{} {error}", settings.key.display())))?;
    let identity = Identity::from_pem(file(&settings.cert)?, key.as_bytes());
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(file(&settings.ca)?))
        .identity(identity);
    Ok(ConnectOptions::new()
        .with_tls(tls)
        .with_connect_timeout(settings.connect())
        .with_keep_alive(PING_EVERY, PING_ANSWER)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true))
}

impl EtcdLedger {
    /// A ledger for this fleet. Connects when it is first asked; members may be
    /// down.
    pub fn open(settings: &Etcd, fleet: &FleetId) -> Result<Self, LedgerError> {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let options = options(settings)?;
        let mut members = Vec::with_capacity(settings.endpoints.len());
        for endpoint in &settings.endpoints {
            // One client a member: the order in which they are asked is ours.
            let client = runtime
                .block_on(Client::connect([endpoint], Some(options.clone())))
                .map_err(|error| LedgerError::Settings(format!("{endpoint}: {error}")))?;
            members.push(client);
        }
        Ok(Self {
            runtime: Some(runtime),
            members,
            first: AtomicUsize::new(0),
            prefix: format!("amberfs-vault/{}/", hex(fleet)),
            deadline: settings.deadline(),
            sight: Sight::default(),
            care: Mutex::default(),
        })
    }

    fn key(&self, name: &Name) -> String {
        format!("{}{}", self.prefix, hex(name))
    }

    fn wait<F: Future>(&self, what: F) -> F::Output {
        self.runtime.as_ref().expect("until it is dropped").block_on(what)
    }

    /// Asks what changes nothing, of one member after the other.
    fn ask<T, F>(&self, ask: impl Fn(KvClient) -> F) -> Result<T, LedgerError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let end = Instant::now() + self.deadline;
        let first = self.first.load(Ordering::Relaxed);
        self.wait(async {
            let mut last = LedgerError::Unanswered("no answer in time".into());
            for round in 0.. {
                for step in 0..self.members.len() {
                    let at = (first + step) % self.members.len();
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(last);
                    }
                    let asked = ask(self.members[at].kv_client());
                    match timeout(left.min(self.deadline / 3), asked).await {
                        Ok(Ok(answer)) => {
                            self.first.store(at, Ordering::Relaxed);
                            return Ok(answer);
                        }
                        Ok(Err(error)) => last = unanswered(&error),
                        Err(_) if round == 0 && step == 0 => {}
                        Err(_) => last = LedgerError::Unanswered("no answer in time".into()),
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
            unreachable!("rounds do not end");
        })
    }

    /// Does `change` if the name still has the revision `expected`, and asks once.
    fn swap_by(&self, name: &Name, expected: Revision, change: TxnOp) -> Result<Swap, LedgerError> {
        let floor = self.sight.floor()?;
        let revision = expected.0 as i64;
        let swap = Txn::new()
            .when([Compare::mod_revision(self.key(name), CompareOp::Equal, revision)])
            .and_then([change]);
        // Of the member that answered the read.
        let at = self.first.load(Ordering::Relaxed);
        let mut kv = self.members[at].kv_client();
        let outcome = self.wait(async { timeout(self.deadline, kv.txn(swap)).await });
        let answer = match outcome {
            Ok(Ok(answer)) => answer,
            failed => {
                self.first.store((at + 1) % self.members.len(), Ordering::Relaxed);
                return Err(match failed {
                    Ok(Err(error)) => unanswered(&error),
                    _ => LedgerError::Unanswered("no answer in time".into()),
                });
            }
        };
        let head = head(answer.header());
        self.sight.admit(floor, head)?;
        Ok(if answer.succeeded() {
            Swap::Written(Durable::after_write(head.revision))
        } else {
            Swap::Lost
        })
    }

    /// Up to `limit` names above `after` with what `options` ask for.
    fn range(
        &self,
        after: Option<&Name>,
        limit: usize,
        options: GetOptions,
    ) -> Result<Vec<(Name, KeyValue)>, LedgerError> {
        let mut from = match after {
            // The next key there can be.
            Some(name) => self.key(name) + "\0",
            None => self.prefix.clone(),
        };
        // The prefix ends in a slash; next comes what ends in a zero.
        let end = format!("{}0", &self.prefix[..self.prefix.len() - 1]);
        let options = options.with_range(end).with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        loop {
            let floor = self.sight.floor()?;
            let mut answer = self.ask(|mut kv| {
                let (from, options) = (from.clone(), options.clone());
                async move { kv.get(from, Some(options)).await }
            })?;
            self.sight.admit(floor, head(answer.header()))?;
            let kvs = answer.take_kvs();
            let last = kvs.last().map(|kv| kv.key().to_vec());
            let named = |kv: KeyValue| {
                let name = unhex(kv.key_str().ok()?.strip_prefix(self.prefix.as_str())?)?;
                Some((name, kv))
            };
            let found: Vec<_> = kvs.into_iter().filter_map(named).collect();
            // Keys that no vault wrote are passed over, also a whole page.
            match last {
                Some(last) if found.is_empty() => {
                    let Ok(last) = String::from_utf8(last) else {
                        return Err(LedgerError::Foreign);
                    };
                    from = last + "\0";
                }
                _ => return Ok(found),
            }
        }
    }
}

/// A key's value.
fn entry(kv: &KeyValue) -> Result<Entry, LedgerError> {
    let value: Value =
        kv.value().to_vec().into_boxed_slice().try_into().map_err(|_| LedgerError::Foreign)?;
    let created = Revision(number(kv.create_revision()));
    Ok(Entry {
        revision: Revision(number(kv.mod_revision())),
        lineage: Lineage { created, version: number(kv.version()) },
        value,
    })
}

impl Ledger for EtcdLedger {
    fn read(&self, name: &Name) -> Result<Option<Entry>, LedgerError> {
        let floor = self.sight.floor()?;
        let key = self.key(name);
        let answer = self.ask(|mut kv| {
            let key = key.clone();
            async move { kv.get(key, None).await }
        })?;
        self.sight.admit(floor, head(answer.header()))?;
        answer.kvs().first().map(entry).transpose()
    }

    fn swap(
        &self,
        name: &Name,
        expected: Option<Revision>,
        value: &Value,
        _last: bool,
    ) -> Result<Swap, LedgerError> {
        let put = TxnOp::put(self.key(name), value.to_vec(), None);
        // 0 is etcd's word for "no such key".
        self.swap_by(name, expected.unwrap_or_default(), put)
    }

    fn remove(&self, name: &Name, expected: Revision) -> Result<Swap, LedgerError> {
        let key = self.key(name);
        let delete = TxnOp::delete(key, None);
        self.swap_by(name, expected, delete)
    }

    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError> {
        let found = self.range(after, limit, GetOptions::new().with_keys_only())?;
        Ok(found.into_iter().map(|(name, _)| name).collect())
    }

    fn page(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Listed>, LedgerError> {
        match self.range(after, limit, GetOptions::new()) {
            Ok(found) => {
                Ok(found.into_iter().map(|(name, kv)| (name, entry(&kv).map(Some))).collect())
            }
            // Values that no vault wrote may be too long for one answer.
            Err(LedgerError::Unanswered(_)) => one_by_one(self, after, limit),
            Err(error) => Err(error),
        }
    }

    fn head(&self) -> Result<Head, LedgerError> {
        let floor = self.sight.floor()?;
        let answer = self.ask(|mut kv| {
            let options = GetOptions::new().with_keys_only();
            let key = self.prefix.clone();
            async move { kv.get(key, Some(options)).await }
        })?;
        let head = head(answer.header());
        self.sight.admit(floor, head)?;
        Ok(head)
    }

    fn is_usable(&self) -> bool {
        self.sight.floor().is_ok()
    }

    fn warnings(&self) -> Vec<String> {
        care::warnings(self)
    }
}

impl Drop for EtcdLedger {
    fn drop(&mut self) {
        // Also where blocking is not allowed.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
