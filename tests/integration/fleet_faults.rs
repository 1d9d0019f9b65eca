//! Five sites and five etcd members in real processes: clients guess right and
//! wrong while two machines at a time are killed, stopped or cut off. What is
//! checked is read from etcd's own history, value after value.
//!
//! `AMBERFS_TEST_SEED` says what is done to whom, `AMBERFS_TEST_FACTOR` for how
//! long.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use amberfs::crypto::{KeyCheck, Secret, hex, key_check, unhex};
use amberfs::io::{DirFolder, Exit, SystemClock, SystemRandom};
use amberfs::vault::client::{Claim, Client, LoggingIn, NewRecord, Pin, VaultError};
use amberfs::vault::hsm::{FileKeys, KeyProtection};
use amberfs::vault::ledger::history::{History, Recorded};
use amberfs::vault::ledger::{
    EtcdLedger, Ledger, LedgerError, Lineage, Name, Swap, VALUE_SIZE, Value, open_value, read_mark,
};
use amberfs::vault::line::{Greeting, Timeouts};
use amberfs::vault::protocol::{
    Address, Argon2Choice, Argon2Cost, AttemptId, Bind, KE2, Locator, Password, RecordState,
    Refusal, Reply, Request,
};
use amberfs::vault::server::{PENDING_LIMIT, Record, State};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;

use crate::fleet::{Fleet, Plan, SITES, has_etcd, own_ip};
use crate::relay::{Relay, introduce};
use crate::world::factor;

#[path = "../../src/vault/server/tests/law.rs"]
mod law;

pub const REPO: [u8; 16] = [7; 16];
pub const RIGHT: &str = "correct horse battery staple";
pub const WRONG: &str = "incorrect horse battery staple";

fn timeouts() -> Timeouts {
    Timeouts {
        connect: Duration::from_secs(1),
        reply: Duration::from_secs(7),
        proof: Duration::from_secs(40),
    }
}

fn client() -> Client<'static> {
    Client::new(&SystemRandom, &SystemClock, timeouts())
}

fn password(text: &str) -> Password {
    Password::new(text.as_bytes()).unwrap()
}

fn key() -> (KeyCheck, Secret) {
    let key = Secret::take(&mut [3; 32]);
    (key_check(&key, &REPO), key)
}

fn register(fleet: &Plan, first: usize) -> Result<Locator, VaultError> {
    let (id, key) = key();
    let address = fleet.address(first);
    let registration = client().register(&NewRecord {
        address: &address,
        epoch: 0,
        repo: &REPO,
        keys: &[(id, &key)],
        password: &password(RIGHT),
        argon: Argon2Choice::Exactly(Argon2Cost::FLOOR),
        claim: Claim::Open,
        bind: Bind::Usual,
    })?;
    Ok(registration.locator)
}

/// Sites need their members, and members a leader.
pub fn registered(fleet: &mut Fleet) -> Locator {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        match register(fleet, 0) {
            Ok(locator) => return locator,
            Err(error) => assert!(Instant::now() < end, "{error}\n{}", fleet.log(0)),
        }
        fleet.mind_sites();
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn pin(fleet: &Plan) -> Pin {
    Pin { fingerprint: fleet.fingerprint, epoch: 0 }
}

fn unlock(fleet: &Plan, locator: &Locator, text: &str) -> Result<(), VaultError> {
    client().unlock(locator, &REPO, &password(text), pin(fleet)).map(drop)
}

/// Whether it may be asked again: nobody answered, or only that it is too soon.
fn is_away(error: &VaultError) -> bool {
    use VaultError::{TryLater, Unanswered, Unexpected, Unreachable};
    matches!(
        error,
        Unreachable { .. } | Unanswered { .. } | TryLater { .. }
            // Somebody guessed before it could be asked again.
            | Unexpected("the attempt is no longer known")
    )
}

/// Asks until the fleet decides. Members elect a leader meanwhile, and sites
/// that ended for want of one are started again.
fn decided<T>(
    fleet: &mut Fleet,
    ask: impl Fn(&Plan) -> Result<T, VaultError>,
) -> Result<T, VaultError> {
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        match ask(fleet) {
            Err(error) if is_away(&error) => {
                assert!(Instant::now() < end, "{error}\n{}", fleet.log(0));
                fleet.mind_sites();
                std::thread::sleep(Duration::from_millis(200));
            }
            decision => return decision,
        }
    }
}

/// A wrong guess; more than one try is gone if it had to be made again.
fn guess_wrong(fleet: &mut Fleet, locator: &Locator) {
    let failed = decided(fleet, |fleet| unlock(fleet, locator, WRONG)).err().unwrap();
    assert!(matches!(failed, VaultError::WrongPassword(_)), "{failed}");
}

fn tries_left(fleet: &mut Fleet, locator: &Locator) -> u8 {
    let status = decided(fleet, |fleet| client().status(locator, pin(fleet))).unwrap();
    let RecordState::Active { tries, .. } = status.state else { panic!("{:?}", status.state) };
    tries.left
}

fn keys(fleet: &Plan) -> FileKeys {
    FileKeys::decode(&fs::read(fleet.folder(0).join("keys")).unwrap()).ok().unwrap()
}

/// Every value that etcd ever had under every name of the fleet, in order.
fn history(fleet: &Plan, keys: &FileKeys) -> BTreeMap<Name, Vec<Record>> {
    use etcd_client::{Certificate, Client, ConnectOptions, GetOptions, Identity, TlsOptions};
    // Member 0 may be the one that does not run any more.
    let settings = fleet.settings(SITES - 1);
    let read = |path: &Path| fs::read(path).unwrap();
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read(&settings.ca)))
        .identity(Identity::from_pem(read(&settings.cert), read(&settings.key)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = ConnectOptions::new().with_tls(tls);
        let etcd = Client::connect(&settings.endpoints[..1], Some(options)).await.unwrap();
        let prefix = format!("amberfs-vault/{}/", hex(&keys.fleet()));
        let options = GetOptions::new().with_prefix().with_keys_only();
        let found = etcd.kv_client().get(prefix.as_str(), Some(options)).await.unwrap();
        let mut names = BTreeMap::new();
        for key in found.kvs().iter().map(|kv| kv.key_str().unwrap()) {
            let name = unhex(&key[prefix.len()..]).unwrap();
            let (mut records, mut before) = (Vec::new(), i64::MAX);
            while before > 1 {
                // From the newest back to the one that made the name.
                let at = if before == i64::MAX { 0 } else { before - 1 };
                let options = GetOptions::new().with_revision(at);
                let found = etcd.kv_client().get(key, Some(options)).await.unwrap();
                let kv = &found.kvs()[0];
                let value: Value = kv.value().to_vec().into_boxed_slice().try_into().unwrap();
                let record = Record::decode(&open_value(keys, &name, &value).ok().unwrap());
                records.push(record.unwrap());
                before = if kv.version() == 1 { 0 } else { kv.mod_revision() };
            }
            records.reverse();
            names.insert(name, records);
        }
        names
    })
}

#[derive(Default)]
struct Seen {
    /// KE2 that came out, with their attempts.
    answers: Mutex<HashSet<(AttemptId, [u8; KE2])>>,
    guesses: AtomicUsize,
    /// Openings by way of relays.
    relayed: AtomicUsize,
    opened: AtomicUsize,
    registered: Mutex<Vec<Locator>>,
    /// Longest time an owner needed.
    longest: Mutex<Duration>,
}

/// Guesses as an intruder does: at any site, and asked again at others.
fn guess(fleet: &Plan, locator: &Locator, seen: &Seen, rng: &mut StdRng) {
    let timeouts = Timeouts { reply: Duration::from_secs(4), ..timeouts() };
    let mut request = None;
    for _ in 0..4 {
        let host = fleet.address(rng.gen_range(0..SITES)).endpoints()[0].clone();
        let opened = Greeting::open(&host, &timeouts)
            .and_then(|greeting| greeting.verify(fleet.fingerprint, 0));
        let Ok(mut channel) = opened else { continue };
        let request = request.get_or_insert_with(|| {
            let manifest = channel.manifest();
            let step = LoggingIn::start(manifest, locator, &REPO, &password(WRONG), &SystemRandom);
            seen.guesses.fetch_add(1, Ordering::SeqCst);
            step.ok().unwrap().0
        });
        match (channel.call(request), &*request) {
            (Ok(Reply::Challenge { ke2, .. }), Request::Attempt { attempt, .. }) => {
                seen.answers.lock().unwrap().insert((*attempt, *ke2));
                return;
            }
            (Ok(Reply::Refused(Refusal::TryLater)) | Err(_), _) => {}
            _ => return,
        }
    }
}

/// Two relays before the fleet, at places that stay when they are started anew.
struct Relays {
    folders: Vec<PathBuf>,
    /// As in an address.
    places: Vec<String>,
    running: Vec<Option<Relay>>,
    killed: usize,
    stopped: usize,
}

impl Relays {
    fn before(fleet: &mut Fleet) -> Self {
        let sites = fleet.address(0).endpoints().to_vec();
        let listen: Vec<String> =
            (0..2).map(|at| format!("{}:{}", own_ip(), 24_000 + at)).collect();
        let folders: Vec<_> = (0..2).map(|at| fleet.path(&format!("relay{at}"))).collect();
        let keys: Vec<String> = folders
            .iter()
            .zip(&listen)
            .map(|(folder, listen)| Relay::init(folder, &sites, &["--listen", listen]))
            .collect();
        introduce(fleet, &keys, false);
        let places = listen.iter().map(|place| format!("plainrelay+{place}")).collect();
        let running = folders.iter().map(|folder| Some(Relay::serve(folder))).collect();
        Self { folders, places, running, killed: 0, stopped: 0 }
    }

    /// One at a time is killed or stopped for a while.
    fn trouble(&mut self, stop: &AtomicBool, rng: &mut StdRng) {
        while !stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(rng.gen_range(500..3000)));
            let at = rng.gen_range(0..2);
            let pause = Duration::from_millis(rng.gen_range(200..3000));
            if rng.r#gen() {
                self.running[at] = None;
                std::thread::sleep(pause);
                self.running[at] = Some(Relay::serve(&self.folders[at]));
                self.killed += 1;
            } else {
                let relay = self.running[at].as_ref().expect("it was started anew");
                relay.signal(Signal::STOP);
                std::thread::sleep(pause);
                relay.signal(Signal::CONT);
                self.stopped += 1;
            }
        }
    }
}

/// An owner who opens again and again, by way of `relays` each second time, and
/// registers anew when the guessers have used up all tries.
fn own(
    fleet: &Plan,
    relays: &[String],
    number: usize,
    seen: &Seen,
    stop: &AtomicBool,
    rng: &mut StdRng,
) {
    let newest = || seen.registered.lock().unwrap()[number].clone();
    while !stop.load(Ordering::SeqCst) {
        // Long enough for all tries to be guessed away now and then.
        std::thread::sleep(Duration::from_millis(rng.gen_range(0..4000)));
        let address = if rng.r#gen() {
            fleet.address(rng.gen_range(0..SITES))
        } else {
            seen.relayed.fetch_add(1, Ordering::SeqCst);
            Address::new(relays.to_vec(), fleet.fingerprint).unwrap()
        };
        let locator = Locator { address, ..newest() };
        let started = Instant::now();
        let outcome = loop {
            match unlock(fleet, &locator, RIGHT) {
                // Three machines can talk at any time: it must come to an end.
                Err(error) if is_away(&error) => {
                    assert!(started.elapsed() < Duration::from_secs(90), "{error}");
                }
                decision => break decision,
            }
        };
        match outcome {
            Ok(()) => {
                seen.opened.fetch_add(1, Ordering::SeqCst);
                let mut longest = seen.longest.lock().unwrap();
                *longest = (*longest).max(started.elapsed());
            }
            Err(VaultError::Closed { .. }) => {
                if let Ok(new) = register(fleet, rng.gen_range(0..SITES)) {
                    seen.registered.lock().unwrap()[number] = new;
                }
            }
            Err(error) => panic!("the right password: {error}"),
        }
    }
}

/// Does things to two machines at a time until the time is over.
fn trouble(fleet: &Mutex<Fleet>, rng: &mut StdRng, end: Instant, counts: &mut [usize; 4]) {
    while Instant::now() < end {
        let first = rng.gen_range(0..SITES);
        let pair = [first, (first + rng.gen_range(1..SITES)) % SITES];
        let kinds = pair.map(|_| rng.gen_range(0..if lock(fleet).is_apart() { 4 } else { 3 }));
        for (at, kind) in pair.into_iter().zip(kinds) {
            counts[kind] += 1;
            let mut fleet = lock(fleet);
            match kind {
                0 => fleet.kill_member(at),
                1 => fleet.kill_site(at),
                2 => fleet.stop(at, true),
                _ => Plan::cut(at, true),
            }
        }
        std::thread::sleep(Duration::from_millis(rng.gen_range(500..4000)));
        for (at, kind) in pair.into_iter().zip(kinds) {
            let mut fleet = lock(fleet);
            match kind {
                0 => fleet.start_member(at),
                1 => fleet.start_site(at),
                2 => fleet.stop(at, false),
                _ => Plan::cut(at, false),
            }
        }
        // Members catch up; then three that can talk are three that know all.
        std::thread::sleep(Duration::from_millis(rng.gen_range(1500..3000)));
        lock(fleet).mind_sites();
    }
}

fn lock(fleet: &Mutex<Fleet>) -> std::sync::MutexGuard<'_, Fleet> {
    fleet.lock().unwrap()
}

/// Swaps at a ledger of its own beside the records, to have the history of
/// every question and answer.
fn swap_on(ledger: &dyn Ledger, stop: &AtomicBool, rng: &mut StdRng) {
    while !stop.load(Ordering::SeqCst) {
        let name = [rng.gen_range(0..2); 32];
        let Ok(entry) = ledger.read(&name) else { continue };
        let mut value: Value = Box::new([0; VALUE_SIZE]);
        rng.fill(&mut value[..32]);
        let expected = entry.map(|entry| entry.revision);
        let _ = ledger.swap(&name, expected, &value, false);
        std::thread::sleep(Duration::from_millis(rng.gen_range(0..20)));
    }
}

#[test]
fn no_fault_of_two_machines_stretches_the_limit() {
    if !has_etcd("five members and sites") {
        return;
    }
    let seed = std::env::var("AMBERFS_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| rand::thread_rng().r#gen());
    let apart = rustix::process::geteuid().is_root();
    if !apart {
        println!("SKIPPED machines cut off from the network: needs root");
    }
    println!("fleet: AMBERFS_TEST_SEED={seed}");
    let time = Duration::from_secs(20 * factor() as u64);
    let mut fleet = Fleet::new(apart);
    let mut relays = Relays::before(&mut fleet);
    let first = registered(&mut fleet);
    let second = registered(&mut fleet);
    let places = relays.places.clone();
    // Talking to the fleet needs no lock: only what starts and ends processes.
    let view = (*fleet).clone();
    let fleet = Mutex::new(fleet);
    let seen = Seen { registered: Mutex::new(vec![first, second]), ..Seen::default() };
    let (stop, registers) = (AtomicBool::new(false), Arc::new(History::default()));
    let mut counts = [0; 4];
    std::thread::scope(|scope| {
        let (view, seen, stop, places) = (&view, &seen, &stop, &*places);
        let mut rng = StdRng::seed_from_u64(seed + 31);
        let relays = &mut relays;
        scope.spawn(move || relays.trouble(stop, &mut rng));
        for number in 0..2 {
            let mut rng = StdRng::seed_from_u64(seed + 1 + number as u64);
            scope.spawn(move || own(view, places, number, seen, stop, &mut rng));
            let mut rng = StdRng::seed_from_u64(seed + 11 + number as u64);
            scope.spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let locator = seen.registered.lock().unwrap()[number].clone();
                    guess(view, &locator, seen, &mut rng);
                    std::thread::sleep(Duration::from_millis(rng.gen_range(50..600)));
                }
            });
        }
        for at in 0..3 {
            let settings = view.settings(at);
            let ledger = EtcdLedger::open(&settings, &[9; 16]).unwrap();
            let ledger = Recorded::new(ledger, Arc::clone(&registers));
            let mut rng = StdRng::seed_from_u64(seed + 21 + at as u64);
            scope.spawn(move || swap_on(&ledger, stop, &mut rng));
        }
        let mut rng = StdRng::seed_from_u64(seed);
        trouble(&fleet, &mut rng, Instant::now() + time, &mut counts);
        stop.store(true, Ordering::SeqCst);
    });

    let mut fleet = fleet.into_inner().unwrap();
    fleet.mind_sites();
    let keys = keys(&fleet);
    let records = history(&fleet, &keys);
    let (mut evaluated, mut most) = (0, 0);
    let mut written = HashSet::new();
    for values in records.values() {
        let law = law::check_law(values);
        evaluated += law.evaluated;
        most = most.max(law.most);
        written.extend(law.written);
    }
    let answers = seen.answers.lock().unwrap();
    assert!(answers.iter().all(|answer| written.contains(answer)), "KE2 left before its write");
    let states: Vec<State> = records.values().map(|all| all.last().unwrap().state).collect();
    for locator in &*seen.registered.lock().unwrap() {
        let status = decided(&mut fleet, |fleet| client().status(locator, pin(fleet))).unwrap();
        match status.state {
            RecordState::Active { .. } => {
                decided(&mut fleet, |fleet| unlock(fleet, locator, RIGHT)).unwrap();
            }
            RecordState::Closed { .. } => {}
            other => panic!("an acknowledged registration is there: {other:?}"),
        }
    }
    assert!(registers.is_linearizable(), "etcd, as the ledger asks it, is one register a name");
    println!(
        "fleet: {} s, killed {} members and {} sites, stopped {} machines, cut off {}; \
         killed {} relays, stopped {}; {} guesses, \
         {} of them answered, {evaluated} evaluated, at most {most} between successes, {} opened ({} asked \
         for by relays), longest {:?}, {} records, {} closed; {} operations on registers, {} unanswered",
        time.as_secs(),
        counts[0],
        counts[1],
        counts[2],
        counts[3],
        relays.killed,
        relays.stopped,
        seen.guesses.load(Ordering::SeqCst),
        answers.len(),
        seen.opened.load(Ordering::SeqCst),
        seen.relayed.load(Ordering::SeqCst),
        seen.longest.lock().unwrap(),
        records.len(),
        states.iter().filter(|state| matches!(state, State::Closed { .. })).count(),
        registers.len(),
        registers.unknown(),
    );
    assert!(most <= 10 && evaluated > 10 && seen.opened.load(Ordering::SeqCst) > 2);
    assert!(registers.len() > 100 && answers.len() > 5, "there was something to check");
}

/// What somebody with the ledger's certificate can do, and an operator with an
/// old copy.
#[test]
fn what_is_put_back_into_etcd_freezes_or_is_refused() {
    if !has_etcd("put back into etcd") {
        return;
    }
    let mut fleet = Fleet::new(false);
    let locator = registered(&mut fleet);
    let (frozen, left) = (registered(&mut fleet), registered(&mut fleet));
    let keys = keys(&fleet);
    let names: Vec<Name> = [&locator, &frozen, &left]
        .map(|locator| amberfs::vault::ledger::record_name(&keys, &locator.ticket).unwrap())
        .to_vec();
    let key = |name: &Name| format!("amberfs-vault/{}/{}", hex(&keys.fleet()), hex(name));
    let value = |fleet: &Fleet, name: &Name| {
        let mut bytes = fleet.etcdctl(&["get", "--print-value-only", &key(name)], b"");
        assert_eq!(bytes.pop(), Some(b'\n'));
        assert_eq!(bytes.len(), VALUE_SIZE);
        bytes
    };
    let is_frozen = |fleet: &mut Fleet, locator: &Locator| {
        for text in [RIGHT, WRONG] {
            let opened = decided(fleet, |fleet| unlock(fleet, locator, text));
            assert!(matches!(opened, Err(VaultError::Tampered)));
        }
        let status = decided(fleet, |fleet| client().status(locator, pin(fleet)));
        assert!(matches!(status, Err(VaultError::Tampered)));
    };

    // PUT of an old value; DELETE and PUT of the newest one.
    let old = value(&fleet, &names[0]);
    guess_wrong(&mut fleet, &locator);
    fleet.etcdctl(&["put", &key(&names[0])], &old);
    is_frozen(&mut fleet, &locator);
    let newest = value(&fleet, &names[1]);
    fleet.etcdctl(&["del", &key(&names[1])], b"");
    let opened = decided(&mut fleet, |fleet| unlock(fleet, &frozen, RIGHT));
    assert!(matches!(opened, Err(VaultError::UnknownTicket)));
    fleet.etcdctl(&["put", &key(&names[1])], &newest);
    is_frozen(&mut fleet, &frozen);
    // By whichever site was asked: the first may have been busy.
    let alarm = format!(
        "ALARM: a record was changed behind the vault's back and is frozen; it is {}",
        hex(&names[0])
    );
    let logs: Vec<String> = (0..SITES).map(|at| fleet.log(at)).collect();
    assert!(logs.iter().any(|log| log.contains(&alarm)), "{}", logs.join("\n"));
    decided(&mut fleet, |fleet| unlock(fleet, &left, RIGHT)).unwrap();

    // A snapshot, a guess, and the snapshot in place of all.
    let snapshot = fleet.path("snapshot");
    fleet.etcdctl(&["snapshot", "save", snapshot.to_str().unwrap()], b"");
    guess_wrong(&mut fleet, &left);
    let spent = 10 - tries_left(&mut fleet, &left);
    // Every site has noticed what the others wrote, or it could not miss it.
    let marks = |fleet: &Fleet| {
        let mark = |at| read_mark(&DirFolder::new(fleet.folder(at)), &keys).unwrap().revision.0;
        (0..SITES).map(mark).collect::<Vec<u64>>()
    };
    let written = marks(&fleet).into_iter().max().unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while marks(&fleet).iter().any(|mark| *mark < written) {
        assert!(Instant::now() < end, "{:?}, not {written:?}", marks(&fleet));
        std::thread::sleep(Duration::from_millis(300));
    }
    fleet.restore(&snapshot);
    fleet.etcdctl(&["get", "x"], b"");
    // Sites that run notice it and end; started again, they refuse.
    let end = Instant::now() + Duration::from_secs(40);
    while let Some(at) = (0..SITES).find(|at| !fleet.log(*at).contains("an old copy was put back"))
    {
        assert!(Instant::now() < end, "site {at}: {}", fleet.log(at));
        fleet.mind_sites();
        std::thread::sleep(Duration::from_millis(300));
    }
    // Nobody is there, or ends in the middle.
    let failed = unlock(&fleet, &left, WRONG).err().unwrap();
    assert!([Exit::VaultUnreachable, Exit::Unanswered].contains(&failed.exit_code()), "{failed}");
    for at in 0..SITES {
        fleet.kill_site(at);
    }
    let folder = fleet.folder(0);
    let refused = Plan::vault(&["serve", folder.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("accept-rollback"), "{said}");
    // The operator takes what was spent since, at one site.
    for at in 0..SITES {
        let folder = fleet.folder(at);
        let spend = if at == 0 { spent.to_string() } else { "0".into() };
        let arguments = ["ledger", "accept-rollback", folder.to_str().unwrap(), "--spend", &spend];
        let output = Plan::vault(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        fleet.start_site(at);
    }
    assert_eq!(tries_left(&mut fleet, &left), 10 - spent);
    is_frozen(&mut fleet, &locator);
    decided(&mut fleet, |fleet| unlock(fleet, &left, RIGHT)).unwrap();

    // All tries of all records.
    fleet.kill_site(0);
    let arguments = ["ledger", "accept-rollback", folder.to_str().unwrap(), "--spend-all"];
    let output = Plan::vault(&arguments);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "records with fewer tries: 1\n");
    let opened = decided(&mut fleet, |fleet| unlock(fleet, &left, RIGHT));
    assert!(matches!(opened, Err(VaultError::Closed { .. })));
}

/// One member comes back with the data of yesterday: the others know better.
#[test]
fn a_member_that_was_rolled_back_changes_nothing() {
    if !has_etcd("one member rolled back") {
        return;
    }
    let mut fleet = Fleet::new(false);
    let locator = registered(&mut fleet);
    fleet.kill_member(0);
    let (data, copy) = (fleet.path("member0"), fleet.path("copy"));
    let copied = |from: &Path, to: &Path| {
        let copied = std::process::Command::new("cp").arg("-a").args([from, to]).status();
        assert!(copied.unwrap().success());
    };
    copied(&data, &copy);
    fleet.start_member(0);
    for _ in 0..3 {
        guess_wrong(&mut fleet, &locator);
    }
    let left = tries_left(&mut fleet, &locator);
    fleet.kill_member(0);
    fs::remove_dir_all(&data).unwrap();
    copied(&copy, &data);
    fleet.start_member(0);
    // Site 0 asks that member first.
    for _ in 0..20 {
        assert_eq!(tries_left(&mut fleet, &locator), left);
    }
    guess_wrong(&mut fleet, &locator);
    assert!(tries_left(&mut fleet, &locator) < left);
    let values = history(&fleet, &keys(&fleet));
    let law = law::check_law(values.values().next().unwrap());
    let (evaluated, most) = (law.evaluated, law.most);
    assert!(evaluated >= 6 && (4..=10).contains(&most), "{evaluated} evaluated, {most} at most");
}

/// What etcd counts is what the simulated ledger counts, and what cannot be
/// reached is an error.
#[test]
fn etcd_counts_as_the_simulated_ledger_does() {
    if !has_etcd("etcd's counts") {
        return;
    }
    let mut fleet = Fleet::new(false);
    registered(&mut fleet);
    let ledger = EtcdLedger::open(&fleet.settings(0), &[5; 16]).unwrap();
    let value = |byte| -> Value { Box::new([byte; VALUE_SIZE]) };
    let base = ledger.head().unwrap().revision.0;
    let entry = |name: u8| {
        let entry = ledger.read(&[name; 32]).unwrap().unwrap();
        let Lineage { created, version } = entry.lineage;
        (entry.revision.0 - base, created.0 - base, version)
    };
    assert!(ledger.read(&[1; 32]).unwrap().is_none());
    let written = |outcome| matches!(outcome, Ok(Swap::Written(_)));
    assert!(written(ledger.swap(&[1; 32], None, &value(1), false)));
    assert_eq!(entry(1), (1, 1, 1));
    assert!(matches!(ledger.swap(&[1; 32], None, &value(2), false), Ok(Swap::Lost)));
    assert!(written(ledger.swap(&[2; 32], None, &value(1), false)));
    let revision = ledger.read(&[1; 32]).unwrap().unwrap().revision;
    assert!(written(ledger.swap(&[1; 32], Some(revision), &value(2), false)));
    assert_eq!(entry(1), (3, 1, 2));
    assert!(matches!(ledger.swap(&[1; 32], Some(revision), &value(3), false), Ok(Swap::Lost)));
    let key = |name: u8| format!("amberfs-vault/{}/{}", hex(&[5; 16]), hex(&[name; 32]));
    fleet.etcdctl(&["put", &key(1)], &[1; VALUE_SIZE]);
    assert_eq!(entry(1), (4, 1, 3));
    fleet.etcdctl(&["del", &key(1)], b"");
    assert!(ledger.read(&[1; 32]).unwrap().is_none());
    fleet.etcdctl(&["put", &key(1)], &[1; VALUE_SIZE]);
    assert_eq!(entry(1), (6, 6, 1));
    // A name goes only as it was read.
    assert!(written(ledger.swap(&[3; 32], None, &value(1), false)));
    let revision = ledger.read(&[3; 32]).unwrap().unwrap().revision;
    assert!(written(ledger.swap(&[3; 32], Some(revision), &value(2), false)));
    assert!(matches!(ledger.remove(&[3; 32], revision), Ok(Swap::Lost)));
    let revision = ledger.read(&[3; 32]).unwrap().unwrap().revision;
    assert!(written(ledger.remove(&[3; 32], revision)));
    assert!(ledger.read(&[3; 32]).unwrap().is_none());
    // Names that no vault wrote, and values of another size.
    fleet.etcdctl(&["put", &format!("amberfs-vault/{}/", hex(&[5; 16]))], b"x");
    fleet.etcdctl(&["put", &format!("amberfs-vault/{}/zz", hex(&[5; 16]))], b"x");
    assert_eq!(ledger.list(None, 1).unwrap(), [[1; 32]]);
    assert_eq!(ledger.list(None, 9).unwrap(), [[1; 32], [2; 32]]);
    assert_eq!(ledger.list(Some(&[1; 32]), 9).unwrap(), [[2; 32]]);
    assert!(ledger.list(Some(&[2; 32]), 1).unwrap().is_empty());
    let page = |after, limit| -> Vec<(u8, Option<u64>)> {
        let page = ledger.page(after, limit).unwrap().into_iter();
        page.map(|(name, found)| {
            let entry = found.map(|entry| entry.expect("is there"));
            let as_read = ledger.read(&name).map(|entry| entry.expect("is there"));
            match (entry, as_read) {
                (Ok(entry), Ok(as_read)) => {
                    assert_eq!((entry.lineage, entry.value), (as_read.lineage, as_read.value));
                    (name[0], Some(entry.revision.0 - base))
                }
                (Err(LedgerError::Foreign), Err(LedgerError::Foreign)) => (name[0], None),
                _ => panic!("a page and a read differ"),
            }
        })
        .collect()
    };
    assert_eq!(page(None, 1), [(1, Some(6))]);
    assert_eq!(page(None, 9), [(1, Some(6)), (2, Some(2))]);
    assert_eq!(page(Some(&[1; 32]), 9), [(2, Some(2))]);
    assert!(page(Some(&[2; 32]), 1).is_empty());
    fleet.etcdctl(&["put", &key(1)], b"short");
    assert!(matches!(ledger.read(&[1; 32]), Err(LedgerError::Foreign)));
    assert_eq!(page(None, 9), [(1, None), (2, Some(2))]);
    // More than one answer of gRPC holds.
    for name in [1, 3, 4] {
        fleet.etcdctl(&["put", &key(name)], &vec![b'x'; 1_400_000]);
    }
    assert_eq!(page(None, 9), [(1, None), (2, Some(2)), (3, None), (4, None)]);
    // Another fleet's names are not seen.
    let other = EtcdLedger::open(&fleet.settings(1), &[6; 16]).unwrap();
    assert!(other.list(None, 9).unwrap().is_empty() && other.read(&[2; 32]).unwrap().is_none());

    // Two members less: the others answer. Three: nobody does.
    fleet.kill_member(0);
    fleet.kill_member(1);
    let end = Instant::now() + Duration::from_secs(30);
    while ledger.read(&[2; 32]).is_err() {
        assert!(Instant::now() < end, "three members are a majority");
    }
    let warnings = ledger.warnings();
    let silent = warnings.iter().filter(|warning| warning.contains("does not answer")).count();
    assert_eq!(silent, 2, "{warnings:?}");
    fleet.kill_member(2);
    let started = Instant::now();
    assert!(matches!(ledger.read(&[2; 32]), Err(LedgerError::Unanswered(_))));
    let revision = amberfs::vault::ledger::Revision(base + 2);
    let swapped = ledger.swap(&[2; 32], Some(revision), &value(9), false);
    assert!(matches!(swapped, Err(LedgerError::Unanswered(_))));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    // A site that is started now says why it does not serve.
    fleet.kill_site(4);
    let folder = fleet.folder(4);
    let refused = Plan::vault(&["serve", folder.to_str().unwrap(), "--listen", "127.0.0.1:0"]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(refused.status.code() == Some(1) && said.contains("did not answer"), "{said}");
}
