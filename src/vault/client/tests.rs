//! End to end over loopback TLS, in one process. Argon2id runs at its floor.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio_rustls::TlsAcceptor;

use super::driver::Registration;
use super::*;
use crate::crypto::{KeyCheck, RepoId, Secret, key_check};
use crate::io::sim::SimWorld;
use crate::io::{Clock, DirFolder, Exit, SystemClock, SystemRandom, Timestamp};
use crate::vault::hsm::{FileKeys, KeyProtection};
use crate::vault::ledger::sim::SimLedger;
use crate::vault::ledger::{Entry, Head, Ledger, LedgerError, Name, Revision, Swap, Value};
use crate::vault::line::{Greeting, Timeouts};
use crate::vault::protocol::*;
use crate::vault::serve::{Admission, Limits, Relays, serve, server_config};
use crate::vault::server::{Site, create_site, join_site, open_site};
use ed25519_dalek::SigningKey;

const REPO: RepoId = [7; 16];

fn admission(open: bool) -> Arc<Admission> {
    Arc::new(Admission::new(open, Relays::default()))
}

#[derive(Default)]
struct Later(AtomicI64);

impl Clock for Later {
    fn now(&self) -> Timestamp {
        let now = SystemClock.now();
        Timestamp { secs: now.secs + self.0.load(Ordering::SeqCst), ..now }
    }
    fn elapsed(&self) -> Duration {
        let later = self.0.load(Ordering::SeqCst).max(0) as u64;
        SystemClock.elapsed() + Duration::from_secs(later)
    }
}

/// A vault in a temporary folder; it can be killed and started again.
struct Vault {
    dir: tempfile::TempDir,
    fingerprint: Fingerprint,
    clock: Arc<Later>,
    place: SocketAddr,
    running: Option<(tokio::runtime::Runtime, tokio::sync::watch::Sender<bool>, Arc<Site>)>,
}

impl Vault {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = DirFolder::new(dir.path());
        let fingerprint = create_site(&folder, &SystemRandom, Argon2Cost::FLOOR).ok().unwrap();
        let place = "127.0.0.1:0".parse().unwrap();
        let mut vault = Self { dir, fingerprint, clock: Arc::default(), place, running: None };
        vault.start(true);
        vault
    }

    fn start(&mut self, open: bool) {
        let opened = open_site(&DirFolder::new(self.dir.path())).ok().unwrap();
        let acceptor = TlsAcceptor::from(server_config(opened.keys.tls()).unwrap());
        let site = Arc::new(Site::new(
            opened.keys,
            opened.ledger,
            Arc::new(SystemRandom),
            Arc::<Later>::clone(&self.clock),
            opened.signed,
            false,
        ));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(self.place)).unwrap();
        self.place = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let serving = serve(
            listener,
            Arc::clone(&site),
            acceptor,
            Limits::default(),
            admission(open),
            stopped,
        );
        runtime.spawn(serving);
        self.running = Some((runtime, stop, site));
    }

    /// As abrupt as a process that dies: nothing is finished, nothing said.
    fn kill(&mut self) {
        let (runtime, _, site) = self.running.take().unwrap();
        runtime.shutdown_timeout(Duration::from_secs(5));
        drop(site);
    }

    fn sweep(&self) {
        self.running.as_ref().unwrap().2.sweep().unwrap();
    }

    fn address(&self) -> Address {
        Address::new(vec![self.place.to_string()], self.fingerprint).unwrap()
    }

    fn pin(&self) -> Pin {
        Pin { fingerprint: self.fingerprint, epoch: 0 }
    }
}

fn client() -> Client<'static> {
    let timeouts = Timeouts {
        connect: Duration::from_secs(2),
        reply: Duration::from_secs(20),
        proof: Duration::from_secs(10),
    };
    Client::new(&SystemRandom, &SystemClock, timeouts)
}

fn password(text: &str) -> Password {
    Password::new(text.as_bytes()).unwrap()
}

const RIGHT: &str = "correct horse battery staple";
const CHEAP: Argon2Choice = Argon2Choice::Exactly(Argon2Cost::FLOOR);

fn key(byte: u8) -> (KeyCheck, Secret) {
    let key = Secret::take(&mut [byte; 32]);
    (key_check(&key, &REPO), key)
}

fn register(vault: &Vault, keys: &[(KeyCheck, Secret)], text: &str) -> Locator {
    let registration = try_register(vault, keys, text, CHEAP).unwrap();
    assert_eq!(registration.manifest.protection, Protection::File);
    registration.locator
}

fn try_register(
    vault: &Vault,
    keys: &[(KeyCheck, Secret)],
    text: &str,
    argon: Argon2Choice,
) -> Result<Registration, VaultError> {
    let keys: Vec<_> = keys.iter().map(|(check, key)| (*check, key)).collect();
    let (address, password) = (vault.address(), password(text));
    client().register(&NewRecord {
        address: &address,
        epoch: 0,
        repo: &REPO,
        keys: &keys,
        password: &password,
        argon,
        claim: Claim::Open,
        bind: Bind::Usual,
    })
}

#[test]
fn a_password_opens_what_was_registered_until_ten_wrong_ones_close_it() {
    let vault = Vault::new();
    let keys = [key(1), key(2)];
    let locator = register(&vault, &keys, RIGHT);
    assert!(Locator::decode(&locator.encode()).is_ok_and(|read| read == locator));
    // Registering did one real login, so all tries are there.
    let RecordState::Active { tries, .. } = client().status(&locator, vault.pin()).unwrap().state
    else {
        panic!("not active");
    };
    assert_eq!((tries.left, tries.failures_left), (10, 50));

    let wrong = password("incorrect horse battery staple");
    let error = client().unlock(&locator, &REPO, &wrong, vault.pin()).err().unwrap();
    assert_eq!((error.exit_code(), error.tries_left()), (Exit::WrongSecret, Some(9)));
    assert_eq!(
        error.to_string(),
        "Wrong password. 9 of 10 tries left; after the last the vault destroys the key. \
         No waiting time."
    );
    // Whoever writes to the folder can change what the password is computed with, and
    // made the right one a counted failure by that.
    let dearer = Argon2Cost { passes: 4, ..locator.cost };
    let forged = [
        (Locator { cost: dearer, ..locator.clone() }, REPO),
        (Locator { registration: [8; 16], ..locator.clone() }, REPO),
        (locator.clone(), [8; 16]),
    ];
    for (locator, repo) in forged {
        let error = client().unlock(&locator, &repo, &password(RIGHT), vault.pin()).err().unwrap();
        assert!(matches!(error, VaultError::Terms), "{error}");
        assert_eq!((error.exit_code(), error.tries_left()), (Exit::NotThePinnedVault, None));
    }
    let right = client().unlock(&locator, &REPO, &password(RIGHT), vault.pin()).unwrap();
    assert_eq!(right.keys.len(), 2);
    assert!(right.keys.iter().zip(&keys).all(|(a, b)| a.0 == b.0 && a.1.expose() == b.1.expose()));
    assert_eq!((right.tries.left, right.tries.failures_left), (10, 49));

    for left in (0..10).rev() {
        let error = client().unlock(&locator, &REPO, &wrong, vault.pin()).err().unwrap();
        assert_eq!((error.exit_code(), error.tries_left()), (Exit::WrongSecret, Some(left)));
    }
    for _ in 0..2 {
        let error = client().unlock(&locator, &REPO, &password(RIGHT), vault.pin()).err().unwrap();
        assert!(matches!(error, VaultError::Closed { .. }));
        assert_eq!((error.exit_code(), error.tries_left()), (Exit::RecordDead, Some(0)));
    }
    vault.clock.0.fetch_add(GRACE as i64 + 1, Ordering::SeqCst);
    vault.sweep();
    let error = client().unlock(&locator, &REPO, &password(RIGHT), vault.pin()).err().unwrap();
    assert!(matches!(error, VaultError::Ended(Ended::Exhausted)));
    assert_eq!(error.exit_code(), Exit::RecordDead);
}

#[test]
fn a_new_password_ends_the_old_registration_and_delete_ends_the_new_one() {
    let vault = Vault::new();
    let keys = [key(1)];
    let old = register(&vault, &keys, RIGHT);
    let second = password("a wholly different pass phrase");
    let given = [(keys[0].0, &keys[0].1)];
    let address = vault.address();
    let new = NewRecord {
        address: &address,
        epoch: 1,
        repo: &REPO,
        keys: &given,
        password: &second,
        argon: CHEAP,
        claim: Claim::Open,
        bind: Bind::Usual,
    };
    let new = client().register(&new).unwrap().locator;
    client().retire(&old, &REPO, &keys[0].1, vault.pin(), Retirement::Superseded).unwrap();
    assert_ne!(new.ticket, old.ticket);
    let error = client().unlock(&old, &REPO, &password(RIGHT), vault.pin()).err().unwrap();
    assert!(matches!(error, VaultError::Ended(Ended::Superseded)));
    assert!(client().unlock(&new, &REPO, &second, vault.pin()).is_ok());

    let stranger = client().delete(&new, &REPO, &key(9).1, vault.pin()).err().unwrap();
    assert!(matches!(stranger, VaultError::BadSignature));
    client().delete(&new, &REPO, &keys[0].1, vault.pin()).unwrap();
    client().delete(&new, &REPO, &keys[0].1, vault.pin()).unwrap();
    let status = client().status(&new, vault.pin()).unwrap();
    assert_eq!(status.state, RecordState::Ended(Ended::Deleted));
    // What the vault does not know is over too.
    let unknown = Locator { ticket: [9; 16], ..new };
    client().delete(&unknown, &REPO, &keys[0].1, vault.pin()).unwrap();
}

#[test]
fn weak_passwords_and_cheap_costs_never_reach_the_vault() {
    let vault = Vault::new();
    let weak = try_register(&vault, &[key(1)], "password1", CHEAP);
    assert!(matches!(weak.err(), Some(VaultError::Password(PasswordError::Weak(_)))));
    let cost = Argon2Cost { memory: 1024, ..Argon2Cost::FLOOR };
    let cheap = try_register(&vault, &[key(1)], RIGHT, Argon2Choice::Exactly(cost));
    assert!(matches!(cheap.err(), Some(VaultError::Cost(CostError(refused))) if refused == cost));
}

#[test]
fn a_vault_that_is_closed_to_registrations_says_so() {
    let mut vault = Vault::new();
    vault.kill();
    vault.start(false);
    let refused = try_register(&vault, &[key(1)], RIGHT, CHEAP);
    assert!(matches!(refused.err(), Some(VaultError::RegistrationClosed)));
}

#[test]
fn another_root_an_older_epoch_and_a_site_outside_the_manifest_are_refused() {
    let vault = Vault::new();
    let locator = register(&vault, &[key(1)], RIGHT);
    let other = Vault::new();
    // The folder names another vault than the pinned one: nothing is sent.
    let error = client().unlock(&locator, &REPO, &password(RIGHT), other.pin()).err().unwrap();
    assert!(
        matches!(error, VaultError::NotPinned(_)) && error.exit_code() == Exit::NotThePinnedVault
    );
    // The right fingerprint at another vault's door.
    let moved = Address::new(other.address().endpoints().to_vec(), vault.fingerprint).unwrap();
    let moved = Locator { address: moved, ..locator.clone() };
    let error = client().unlock(&moved, &REPO, &password(RIGHT), vault.pin()).err().unwrap();
    assert!(matches!(error, VaultError::NotPinned(_)));
    let pin = Pin { epoch: 2, ..vault.pin() };
    let error = client().unlock(&locator, &REPO, &password(RIGHT), pin).err().unwrap();
    assert!(matches!(error, VaultError::NotPinned(_)));
    // The true manifest served under a key that is not in it.
    let mut thief = other;
    thief.kill();
    std::fs::copy(vault.dir.path().join("manifest"), thief.dir.path().join("manifest")).unwrap();
    assert!(open_site(&DirFolder::new(thief.dir.path())).is_err(), "serve refuses the mixture");
    serve_stolen_manifest(&mut thief, &vault);
    let stolen = Address::new(vec![thief.place.to_string()], vault.fingerprint).unwrap();
    let stolen = Locator { address: stolen, ..locator };
    let error = client().unlock(&stolen, &REPO, &password(RIGHT), vault.pin()).err().unwrap();
    assert!(matches!(&error, VaultError::NotPinned(why) if why.contains("not one of")), "{error}");
}

impl Vault {
    /// Its root makes a manifest that ends then, and the vault is served with it.
    fn renewed(&mut self, ends: u64) -> u64 {
        self.kill();
        let read = |name| std::fs::read(self.dir.path().join(name)).unwrap();
        let mut manifest = Manifest::own(&read("manifest")).unwrap();
        manifest.epoch += 1;
        manifest.ends = ends;
        let root = SigningKey::from_bytes(&read("root.key").try_into().unwrap());
        let signed = sign_manifest(&manifest, &[&root]);
        std::fs::write(self.dir.path().join("manifest"), signed).unwrap();
        self.start(true);
        manifest.epoch
    }
}

/// A new machine took a manifest that the root had replaced: whoever kept the key of a site
/// that was thrown out could stand in for the vault.
#[test]
fn a_manifest_that_is_over_is_taken_by_whoever_has_seen_it() {
    let mut vault = Vault::new();
    let locator = register(&vault, &[key(1)], RIGHT);
    assert_eq!(locator.epoch, 1);
    let epoch = vault.renewed(1_000_000_000);
    let unlock = |vault: &Vault, seen| {
        let pin = Pin { epoch: seen, ..vault.pin() };
        client().unlock(&locator, &REPO, &password(RIGHT), pin)
    };
    for seen in [0, epoch - 1] {
        let error = unlock(&vault, seen).err().unwrap();
        assert!(error.to_string().contains("ended on 2001-09-09"), "{error}");
        assert_eq!((error.exit_code(), error.tries_left()), (Exit::NotThePinnedVault, None));
    }
    assert!(unlock(&vault, epoch).is_ok(), "this machine has seen this very one");
    vault.renewed(u64::MAX);
    assert!(unlock(&vault, 0).is_ok());
}

/// The epoch that the owner saw stands in the locator.
#[test]
fn a_manifest_older_than_the_locators_is_refused() {
    let vault = Vault::new();
    let locator = register(&vault, &[key(1)], RIGHT);
    let newer = Locator { epoch: 2, ..locator };
    let error = client().unlock(&newer, &REPO, &password(RIGHT), vault.pin()).err().unwrap();
    assert!(matches!(error, VaultError::NotPinned(_)), "{error}");
    assert!(client().status(&newer, vault.pin()).is_err());
}

/// The whole token went to whichever relay stood first in the folder.
#[test]
fn a_token_is_sent_to_its_relay_and_to_no_place_that_only_the_folder_names() {
    let token = |text: &str| Token {
        text: text.to_owned().into(),
        endpoints: vec!["relay+ours.example:443".into(), "plainrelay+127.0.0.1:7".into()],
    };
    let issued = token("eyJhbGciOiJFUzI1NiJ9.e30.c2ln");
    assert!(issued.at("relay+ours.example:443").is_some());
    for strange in ["relay+theirs.example:443", "plainrelay+127.0.0.1:8", "ours.example:443"] {
        assert_eq!(issued.at(strange), None, "{strange}");
    }
    let bound = token(&format!("amber-ours.example:443-{}", "ab".repeat(32)));
    assert!(bound.at("relay+ours.example:443").is_some());
    assert_eq!(bound.at("plainrelay+127.0.0.1:7"), None, "it is for another relay");
}

fn serve_stolen_manifest(thief: &mut Vault, owner: &Vault) {
    let folder = DirFolder::new(owner.dir.path());
    let signed = crate::io::PrivateFolder::read(&folder, "manifest", 4096).unwrap();
    let keys = crate::vault::hsm::FileKeys::create(&SystemRandom).ok().unwrap();
    let acceptor = TlsAcceptor::from(server_config(keys.tls()).unwrap());
    let ledger = tempfile::tempdir().unwrap();
    let folder = DirFolder::new(ledger.path());
    crate::vault::ledger::EmbeddedLedger::create(&folder).unwrap();
    let site = Arc::new(Site::new(
        Arc::new(keys),
        Arc::new(crate::vault::ledger::EmbeddedLedger::open(&folder).unwrap()),
        Arc::new(SystemRandom),
        Arc::new(SystemClock),
        signed,
        false,
    ));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    thief.place = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    runtime.spawn(serve(
        listener,
        Arc::clone(&site),
        acceptor,
        Limits::default(),
        admission(true),
        stopped,
    ));
    thief.running = Some((runtime, stop, site));
}

#[test]
fn garbage_and_silence_are_an_unreachable_vault() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap();
    let talker = std::thread::spawn(move || {
        for (n, stream) in listener.incoming().take(2).enumerate() {
            let mut stream = stream.unwrap();
            let mut hello = [0; 512];
            let _ = stream.read(&mut hello);
            let garbage: &[u8] = if n == 0 { &[0x42; 4096] } else { b"" };
            let _ = stream.write_all(garbage);
        }
    });
    let address = Address::new(vec![place.to_string()], Fingerprint([1; 32])).unwrap();
    let pin = Pin { fingerprint: Fingerprint([1; 32]), epoch: 0 };
    for _ in 0..3 {
        let error = client().manifest(&address, pin).err().unwrap();
        assert!(matches!(error, VaultError::Unreachable { .. }), "{error}");
        assert_eq!(error.exit_code(), Exit::VaultUnreachable);
    }
    talker.join().unwrap();
}

#[test]
fn an_attempt_survives_the_death_of_the_site_in_its_middle() {
    let mut vault = Vault::new();
    let locator = register(&vault, &[key(1)], RIGHT);
    let timeouts = Timeouts::default();
    let connect = |vault: &Vault| {
        let host = &vault.address().endpoints()[0].clone();
        Greeting::open(host, &timeouts).unwrap().verify(vault.fingerprint, 0).ok().unwrap()
    };
    let mut channel = connect(&vault);
    let manifest = channel.manifest().clone();
    let (request, step) =
        LoggingIn::start(&manifest, &locator, &REPO, &password(RIGHT), &SystemRandom).unwrap();
    // The vault answers, the answer is lost, the vault dies.
    let Reply::Challenge { ke2: lost, .. } = channel.call(&request).unwrap() else { panic!() };
    vault.kill();
    assert!(channel.call(&request).is_err());
    vault.start(true);
    // The same attempt again: the same answer, no second charge.
    let mut channel = connect(&vault);
    let again = channel.call(&request).unwrap();
    assert!(matches!(&again, Reply::Challenge { ke2, tries } if *ke2 == lost && tries.left == 9));
    let (proof, step) = step.challenged(again, &manifest, &SystemRandom).unwrap();
    // It dies again before the proof arrives, and after the proof's answer.
    vault.kill();
    vault.start(true);
    let mut channel = connect(&vault);
    assert!(matches!(channel.call(&proof).unwrap(), Reply::Opened { .. }));
    vault.kill();
    vault.start(true);
    let reply = connect(&vault).call(&proof).unwrap();
    let unlocked = step.answered(reply, &manifest).unwrap();
    assert_eq!(unlocked.keys[0].1.expose(), key(1).1.expose());
    assert_eq!((unlocked.tries.left, unlocked.tries.failures_left), (10, 50));
}

/// Who watches the line must not see that this machine has no memory, nor that
/// the vault's key is another.
#[test]
fn a_proof_is_sent_whatever_became_of_ke2() {
    let vault = Vault::new();
    let locator = register(&vault, &[key(1)], RIGHT);
    let host = vault.address().endpoints()[0].clone();
    let mut channel = Greeting::open(&host, &Timeouts::default())
        .and_then(|greeting| greeting.verify(vault.fingerprint, 0))
        .ok()
        .unwrap();
    let manifest = channel.manifest().clone();
    for no_memory in [true, false] {
        let (request, step) =
            LoggingIn::start(&manifest, &locator, &REPO, &password(RIGHT), &SystemRandom).unwrap();
        let reply = channel.call(&request).unwrap();
        let mut manifest = manifest.clone();
        let step = if no_memory {
            step.without_memory()
        } else {
            manifest.ake[0].public[1] ^= 1;
            step
        };
        let (proof, step) = step.challenged(reply, &manifest, &SystemRandom).unwrap();
        let reply = channel.call(&proof).unwrap();
        assert!(matches!(reply, Reply::Refused(Refusal::BadProof(_))));
        assert!(!step.is_right());
        let error = step.answered(reply, &manifest).err().unwrap();
        match error {
            VaultError::Memory { counted: true } => assert!(no_memory),
            VaultError::ForeignKey => assert!(!no_memory),
            other => panic!("{other}"),
        }
    }
}

#[test]
fn the_driver_finds_a_site_that_comes_back() {
    let mut vault = Vault::new();
    let locator = register(&vault, &[key(1)], RIGHT);
    vault.kill();
    let down = client().unlock(&locator, &REPO, &password(RIGHT), vault.pin()).err().unwrap();
    assert_eq!(down.exit_code(), Exit::VaultUnreachable);
    let pin = vault.pin();
    let opening = std::thread::spawn({
        let locator = locator.clone();
        move || {
            // Starts while the vault is up, goes on while it is restarted.
            client().unlock(&locator, &REPO, &password(RIGHT), pin)
        }
    });
    vault.start(true);
    let _ = opening.join().unwrap();
    assert!(client().unlock(&locator, &REPO, &password(RIGHT), pin).is_ok());
    // An address with a dead place in front still opens.
    let mut hosts = vec!["127.0.0.1:1".to_owned()];
    hosts.extend(vault.address().endpoints().iter().cloned());
    let address = Address::new(hosts, vault.fingerprint).unwrap();
    let locator = Locator { address, ..locator };
    assert!(client().unlock(&locator, &REPO, &password(RIGHT), pin).is_ok());
}

#[test]
fn a_connection_ends_after_its_number_of_requests_and_at_a_stop() {
    let vault = Vault::new();
    let host = vault.address().endpoints()[0].clone();
    let timeouts = Timeouts::default();
    let open = || Greeting::open(&host, &timeouts).unwrap().verify(vault.fingerprint, 0);
    let mut channel = open().ok().unwrap();
    let status = Request::Status { ticket: [0; 16] };
    for _ in 1..Limits::default().requests {
        assert!(matches!(channel.call(&status).unwrap(), Reply::Refused(Refusal::UnknownTicket)));
    }
    assert!(channel.call(&status).is_err());
    let mut idle = open().ok().unwrap();
    vault.running.as_ref().unwrap().1.send(true).unwrap();
    assert!(idle.call(&status).is_err());
    assert!(Greeting::open(&host, &timeouts).and_then(|g| g.verify(vault.fingerprint, 0)).is_err());
}

/// Answers so many swaps, and then is cut off from the others.
struct CutOff {
    ledger: Arc<SimLedger>,
    swaps: AtomicI64,
}

impl Ledger for CutOff {
    fn read(&self, name: &Name) -> Result<Option<Entry>, LedgerError> {
        if self.swaps.load(Ordering::SeqCst) > 0 {
            self.ledger.read(name)
        } else {
            Err(LedgerError::Unanswered("cut off".into()))
        }
    }

    fn swap(
        &self,
        name: &Name,
        expected: Option<Revision>,
        value: &Value,
        last: bool,
    ) -> Result<Swap, LedgerError> {
        self.swaps.fetch_sub(1, Ordering::SeqCst);
        self.ledger.swap(name, expected, value, last)
    }

    fn remove(&self, _name: &Name, _expected: Revision) -> Result<Swap, LedgerError> {
        Ok(Swap::Lost)
    }

    fn list(&self, after: Option<&Name>, limit: usize) -> Result<Vec<Name>, LedgerError> {
        self.ledger.list(after, limit)
    }

    fn head(&self) -> Result<Head, LedgerError> {
        self.ledger.head()
    }
}

/// A site that could not reach the ledger was asked again and again, although
/// another one could.
#[test]
fn what_one_site_began_another_finishes() {
    let world = SimWorld::new();
    let folders = ["one", "two"].map(|name| world.folder(name));
    let fingerprint = create_site(&*folders[0], &SystemRandom, Argon2Cost::FLOOR).ok().unwrap();
    let root = Secret::take(&mut world.get("one/root.key").unwrap().try_into().unwrap());
    join_site(&*folders[0], &*folders[1], &SystemRandom, &[root], "second").unwrap();
    let signed = world.get("one/manifest").unwrap();
    let ledger = Arc::new(SimLedger::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let cut_off = Arc::new(CutOff { ledger: Arc::clone(&ledger), swaps: AtomicI64::new(i64::MAX) });
    let ledgers: [Arc<dyn Ledger>; 2] = [Arc::<CutOff>::clone(&cut_off), ledger];
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let hosts = ["one", "two"].into_iter().zip(ledgers).map(|(name, ledger)| {
        let keys = FileKeys::decode(&world.get(&format!("{name}/keys")).unwrap()).ok().unwrap();
        let acceptor = TlsAcceptor::from(server_config(keys.tls()).unwrap());
        let site = Arc::new(Site::new(
            Arc::new(keys),
            ledger,
            Arc::new(SystemRandom),
            Arc::new(SystemClock),
            signed.clone(),
            false,
        ));
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        runtime.spawn(serve(
            listener,
            site,
            acceptor,
            Limits::default(),
            admission(true),
            stopped.clone(),
        ));
        host
    });
    let address = Address::new(hosts.collect(), fingerprint).unwrap();
    let pin = Pin { fingerprint, epoch: 0 };
    let (id, key) = key(1);
    let new = NewRecord {
        address: &address,
        epoch: 0,
        repo: &REPO,
        keys: &[(id, &key)],
        password: &password(RIGHT),
        argon: CHEAP,
        claim: Claim::Open,
        bind: Bind::Usual,
    };
    let locator = client().register(&new).unwrap().locator;
    // Cut off before the attempt, after it, and after the proof.
    for swaps in [0, 1, 2] {
        cut_off.swaps.store(swaps, Ordering::SeqCst);
        let unlocked = client().unlock(&locator, &REPO, &password(RIGHT), pin).unwrap();
        assert_eq!((unlocked.tries.left, unlocked.tries.failures_left), (10, 50), "{swaps}");
        assert_eq!(unlocked.manifest.epoch, 2);
    }
    // In the middle of a registration too.
    cut_off.swaps.store(3, Ordering::SeqCst);
    assert!(client().register(&new).is_ok());
}
