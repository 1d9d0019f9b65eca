//! Load on a vault: registrations and logins a second, and how long one takes, by
//! clients whose stretching costs nothing. In `tests/run` for a moment; by
//! `tests/vault` for seconds each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use amberfs::vault::line::{Channel, Greeting, Timeouts};
use amberfs::vault::protocol::{
    Address, Argon2Cost, Bind, Binding, Enrolled, KE3, PAYLOAD_SEALED, REGISTER_REQUEST,
    REGISTER_UPLOAD, Reply, Request, Right, Stretch, Suite, Ticket, activation_statement,
};
use ed25519_dalek::{Signer, SigningKey};
use opaque_ke::{
    ClientLogin, ClientLoginFinishParameters, ClientRegistration,
    ClientRegistrationFinishParameters, CredentialResponse, Identifiers, RegistrationResponse,
};
use rand::Rng;
use rand::rngs::OsRng;

use crate::world::factor;

const PASSWORD: &[u8] = b"right";
const REPO: [u8; 16] = [7; 16];
const TERMS: [u8; 32] = [8; 32];
/// Clients at once.
const CLIENTS: [usize; 3] = [1, 10, 100];

/// Costs nothing: what is measured is the vault.
fn stretch() -> Stretch {
    Stretch::claim(Argon2Cost { memory: 8, passes: 1, lanes: 1 }).unwrap()
}

/// Somebody with a record.
struct Owner {
    ticket: Ticket,
    registration: [u8; 16],
}

fn connect(address: &Address, which: usize) -> Channel {
    let hosts = address.endpoints();
    let timeouts = Timeouts { reply: Duration::from_secs(60), ..Timeouts::default() };
    let greeting = Greeting::open(&hosts[which % hosts.len()], &timeouts).unwrap();
    greeting.verify(address.fingerprint(), 0).unwrap()
}

fn register(address: &Address, which: usize) -> Owner {
    let mut line = connect(address, which);
    let fleet = line.manifest().fleet;
    let owner = Owner { ticket: OsRng.r#gen(), registration: OsRng.r#gen() };
    let (ticket, registration) = (owner.ticket, owner.registration);
    let started = ClientRegistration::<Suite>::start(&mut OsRng, PASSWORD).unwrap();
    let blinded: [u8; REGISTER_REQUEST] = started.message.serialize().into();
    let (right, bind, repo, terms, request) = (Right::Open, Bind::Usual, REPO, TERMS, blinded);
    let start = Request::RegisterStart { ticket, registration, repo, right, bind, terms, request };
    let Reply::Registered { reply, generation, bound } = line.call(&start).unwrap() else {
        panic!("not registered")
    };
    let binding = Binding { repo: REPO, registration, fleet };
    let (client, server) = (binding.client_id(), binding.server_id());
    let identifiers = Identifiers { client: Some(&client), server: Some(&server) };
    let response = RegistrationResponse::deserialize(&reply[..]).unwrap();
    let parameters = ClientRegistrationFinishParameters::new(identifiers, None);
    let stretch = stretch();
    let parameters = ClientRegistrationFinishParameters { ksf: Some(&stretch), ..parameters };
    let finished = started.state.finish(&mut OsRng, PASSWORD, response, parameters).unwrap();
    let upload: [u8; REGISTER_UPLOAD] = finished.message.serialize().as_slice().try_into().unwrap();
    let signing = SigningKey::from_bytes(&[9; 32]);
    let (verifying, payload) = (signing.verifying_key().to_bytes(), [1; PAYLOAD_SEALED]);
    let note_key = verifying;
    let (upload, kept) = (Box::new(upload), Box::new(payload));
    let enrolled = Enrolled {
        generation,
        bound,
        terms: &TERMS,
        request: &blinded,
        reply: &reply[..],
        upload: &upload[..],
        verifying: &verifying,
        note_key: &note_key,
        payload: &payload,
    };
    let hash = enrolled.hash(&binding);
    let finish = Request::RegisterFinish {
        ticket,
        registration,
        upload,
        verifying,
        note_key,
        payload: kept,
    };
    assert!(matches!(line.call(&finish), Ok(Reply::Uploaded)));
    let signature = signing.sign(&activation_statement(&hash)).to_bytes();
    let activate = Request::Activate { ticket, registration, signature };
    assert!(matches!(line.call(&activate), Ok(Reply::Activated(_))));
    owner
}

fn login(address: &Address, owner: &Owner, which: usize) {
    let mut line = connect(address, which);
    let binding =
        Binding { repo: REPO, registration: owner.registration, fleet: line.manifest().fleet };
    let (ticket, attempt) = (owner.ticket, OsRng.r#gen());
    let started = ClientLogin::<Suite>::start(&mut OsRng, PASSWORD).unwrap();
    let ke1 = Box::new(started.message.serialize().as_slice().try_into().unwrap());
    let Reply::Challenge { ke2, .. } =
        line.call(&Request::Attempt { ticket, attempt, terms: TERMS, ke1 }).unwrap()
    else {
        panic!("no challenge")
    };
    let (client, server) = (binding.client_id(), binding.server_id());
    let (context, stretch) = (binding.context(&attempt), stretch());
    let identifiers = Identifiers { client: Some(&client), server: Some(&server) };
    let parameters = ClientLoginFinishParameters::new(Some(&context), identifiers, Some(&stretch));
    let response = CredentialResponse::deserialize(&ke2[..]).unwrap();
    let finished = started.state.finish(&mut OsRng, PASSWORD, response, parameters).unwrap();
    let ke3: [u8; KE3] = finished.message.serialize().into();
    let opened = line.call(&Request::Redeem { ticket, attempt, ke3 }).unwrap();
    assert!(matches!(opened, Reply::Opened { .. }));
}

/// Does `one` by so many clients for a while. How often a second, and the 50th and
/// 99th percentile of the time that one took.
fn measured(
    clients: usize,
    time: Duration,
    one: impl Fn(usize) + Sync,
) -> (f64, Duration, Duration) {
    let started = Instant::now();
    let mut took: Vec<Duration> = std::thread::scope(|scope| {
        let one = &one;
        let threads: Vec<_> = (0..clients)
            .map(|which| {
                scope.spawn(move || {
                    let mut took = Vec::new();
                    while took.is_empty() || started.elapsed() < time {
                        let begun = Instant::now();
                        one(which);
                        took.push(begun.elapsed());
                    }
                    took
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let rate = took.len() as f64 / started.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100];
    (rate, at(50), at(99))
}

/// Loads the vault at `address` and prints what came of it.
pub fn load(what: &str, address: &Address) {
    // A fifth of a second each, or two seconds by tests/vault.
    let time = Duration::from_millis(200 * factor() as u64);
    // A hundred at once are for a machine that does nothing else.
    let most = if factor() > 1 { CLIENTS.len() } else { 2 };
    for clients in &CLIENTS[..most] {
        let clients = *clients;
        let line = |kind: &str, (rate, half, most): (f64, Duration, Duration)| {
            println!(
                "load: {what}: {clients} clients: {rate:.0} {kind} a second, median {half:.0?}, \
                 99th percentile {most:.0?}"
            );
        };
        line(
            "registrations",
            measured(clients, time, |which| {
                let _ = register(address, which);
            }),
        );
        let owners: Vec<Owner> = (0..clients).map(|which| register(address, which)).collect();
        line("logins", measured(clients, time, |which| login(address, &owners[which], which)));
    }
    let counted = Counted::before(&address.endpoints()[0]);
    let through = Address::new(vec![counted.place.to_string()], address.fingerprint()).unwrap();
    let owner = register(address, 0);
    counted.bytes.store(0, Ordering::SeqCst);
    login(&through, &owner, 0);
    let bytes = counted.bytes.load(Ordering::SeqCst);
    println!("load: {what}: {bytes} bytes a login, both ways, with the handshake");
    assert!((8_000..24_000).contains(&bytes), "{bytes}");
}

/// Carries one connection, and counts what passes.
struct Counted {
    place: SocketAddr,
    bytes: Arc<AtomicU64>,
}

impl Counted {
    fn before(site: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let (bytes, site) = (Arc::<AtomicU64>::default(), site.to_owned());
        let counted = Arc::clone(&bytes);
        std::thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let site = TcpStream::connect(site).unwrap();
            let copy = |mut from: TcpStream, mut to: TcpStream, counted: Arc<AtomicU64>| {
                std::thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(read @ 1..) = from.read(&mut buffer) {
                        counted.fetch_add(read as u64, Ordering::SeqCst);
                        if to.write_all(&buffer[..read]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Write);
                })
            };
            copy(client.try_clone().unwrap(), site.try_clone().unwrap(), Arc::clone(&counted));
            copy(site, client, counted);
        });
        Self { place, bytes }
    }
}

#[test]
fn a_site_with_its_ledger_in_a_file() {
    let world = crate::world::World::new();
    let vault = crate::main_job::Vault::start(&world);
    load("software keys, ledger in a file", &vault.address.parse().unwrap());
}

#[cfg(all(feature = "etcd", feature = "fuzzing"))]
#[test]
fn five_sites_with_software_keys() {
    use crate::fleet::{Fleet, has_etcd};
    if !has_etcd("load on five sites") {
        return;
    }
    let mut fleet = Fleet::new(false);
    crate::fleet_faults::registered(&mut fleet);
    let address = fleet.address(0);
    // One answers; another may have ended by itself, because its ledger was not there yet.
    let end = Instant::now() + Duration::from_secs(60);
    for endpoint in address.endpoints() {
        while let Err(error) = Greeting::open(endpoint, &Timeouts::default()) {
            assert!(Instant::now() < end, "{error:?}");
            fleet.mind_sites();
            std::thread::sleep(Duration::from_millis(300));
        }
    }
    load("software keys, five sites and etcd members", &address);
}

/// A million records by `AMBERFS_TEST_RECORDS=1000000`, for which `TMPDIR` needs 8 GB.
#[test]
fn a_login_costs_the_same_among_many_records() {
    use amberfs::io::{DirFolder, SystemClock, SystemRandom};
    use amberfs::vault::server::{Site, create_site, open_site};
    let most = std::env::var("AMBERFS_TEST_RECORDS").ok().and_then(|text| text.parse().ok());
    let most: usize = most.unwrap_or(2000 * factor());
    let mut medians = Vec::new();
    let mut records = 0;
    let world = crate::world::World::new();
    let dir = world.path("vault");
    std::fs::create_dir(&dir).unwrap();
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let folder = DirFolder::new(&dir);
    create_site(&folder, &SystemRandom, Argon2Cost::FLOOR).ok().unwrap();
    for size in [most / 100, most / 10, most] {
        let opened = open_site(&folder).ok().unwrap();
        let (random, clock) = (Arc::new(SystemRandom), Arc::new(SystemClock));
        let site = Site::new(opened.keys, opened.ledger, random, clock, opened.signed, true);
        let started = Instant::now();
        // Invites are as large as records, and looked at by every sweep.
        while records < size {
            site.invite(&None, u64::MAX).unwrap();
            records += 1;
        }
        let filled = started.elapsed();
        let started = Instant::now();
        let swept = site.sweep().unwrap();
        assert!(swept.names >= size && swept.failed == 0);
        let swept = started.elapsed();
        drop(site);
        let started = Instant::now();
        let vault = crate::main_job::Vault::serve(&world, "vault", "127.0.0.1:0");
        let served = started.elapsed();
        let address: Address = vault.address.parse().unwrap();
        let owner = register(&address, 0);
        let (_, median, most) = measured(1, Duration::from_secs(1), |_| login(&address, &owner, 0));
        let status = std::fs::read_to_string(format!("/proc/{}/status", vault.pid())).unwrap();
        let memory = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        println!(
            "load: {size} records: login {median:.1?}, 99th percentile {most:.1?}; a sweep \
             {swept:.1?}, a start {served:.1?}, {memory}; filled in {filled:.0?}"
        );
        medians.push(median);
    }
    assert!(medians[2] < medians[0] * 3 + Duration::from_millis(20), "{medians:?}");
}
