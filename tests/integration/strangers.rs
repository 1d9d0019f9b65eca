//! Strangers who take connections from a vault and from its relay, in real processes,
//! while an owner opens his record again and again.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use amberfs::crypto::{Secret, key_check};
use amberfs::io::{SystemClock, SystemRandom};
use amberfs::vault::client::{Claim, Client, NewRecord, Pin};
use amberfs::vault::line::{Greeting, Timeouts};
use amberfs::vault::protocol::greeting::{WELCOME, Welcome, decode_welcome, encode_greeting};
use amberfs::vault::protocol::{Address, Argon2Choice, Argon2Cost, Bind, Locator, Password};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::main_job::Vault;
use crate::relay::Relay;
use crate::world::{World, factor};

const REPO: [u8; 16] = [7; 16];
/// Longest that an opening may take in a flood. It is far below the ten seconds after
/// which silent strangers are dropped anyhow.
const OPENING_LIMIT: Duration = Duration::from_secs(5);

fn client() -> Client<'static> {
    let [connect, reply, proof] = [3, 4, 4].map(Duration::from_secs);
    Client::new(&SystemRandom, &SystemClock, Timeouts { connect, reply, proof })
}

fn password() -> Password {
    Password::new(b"correct horse battery staple").unwrap()
}

/// Somebody with a record.
struct Owner {
    locator: Locator,
    pin: Pin,
}

impl Owner {
    /// Registers at `address`; his locator leads over `place`.
    fn new(address: &Address, place: &str) -> Self {
        let key = Secret::take(&mut [3; 32]);
        let registered = client().register(&NewRecord {
            address,
            epoch: 0,
            repo: &REPO,
            keys: &[(key_check(&key, &REPO), &key)],
            password: &password(),
            argon: Argon2Choice::Exactly(Argon2Cost::FLOOR),
            claim: Claim::Open,
            bind: Bind::Usual,
        });
        let fingerprint = address.fingerprint();
        let through = Address::new(vec![place.to_owned()], fingerprint).unwrap();
        let locator = Locator { address: through, ..registered.ok().unwrap().locator };
        Self { locator, pin: Pin { fingerprint, epoch: 0 } }
    }

    /// How long an opening takes.
    fn opens(&self) -> Duration {
        let started = Instant::now();
        let opened = client().unlock(&self.locator, &REPO, &password(), self.pin);
        assert!(opened.is_ok(), "{:?}", opened.err());
        started.elapsed()
    }
}

/// The place of a relay as a socket's address.
fn socket(place: &str) -> &str {
    place.strip_prefix("plainrelay+").unwrap()
}

/// Somebody who greets a relay; what it answers.
fn greet(place: &str) -> Option<(TcpStream, Welcome)> {
    let mut stream = TcpStream::connect(place).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
    stream.write_all(&encode_greeting(None).unwrap()).ok()?;
    let mut answer = [0; WELCOME];
    stream.read_exact(&mut answer).ok()?;
    Some((stream, decode_welcome(&answer)?))
}

/// The owner opens his record for a few seconds while `stranger` comes again and again
/// and keeps the last `kept` of what it took.
fn floods<S: Send>(
    what: &str,
    owner: &Owner,
    kept: usize,
    stranger: impl Fn() -> Option<S> + Sync,
) {
    const STRANGERS: usize = 4;
    // One flood at a time: the strangers' descriptors are this process's.
    static ONE: Mutex<()> = Mutex::new(());
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (over, came) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..STRANGERS {
            scope.spawn(|| {
                let mut held = std::collections::VecDeque::new();
                while !over.load(Ordering::SeqCst) {
                    if let Some(taken) = stranger() {
                        came.fetch_add(1, Ordering::SeqCst);
                        held.push_back(taken);
                    }
                    if held.len() > kept / STRANGERS {
                        held.pop_front();
                        // The machine is the owner's too.
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
            });
        }
        // The strangers end also when the owner fails.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let filled = Instant::now();
            while came.load(Ordering::SeqCst) < kept && filled.elapsed() < OPENING_LIMIT {
                std::thread::sleep(Duration::from_millis(10));
            }
            let (started, mut times, mut longest) = (Instant::now(), 0, Duration::ZERO);
            while times == 0 || started.elapsed() < Duration::from_secs(2 * factor() as u64) {
                longest = longest.max(owner.opens());
                times += 1;
                assert!(longest < OPENING_LIMIT, "{what}: an opening took {longest:.1?}");
            }
            println!(
                "{what}: {} strangers, {times} openings, the longest {longest:.1?}",
                came.load(Ordering::SeqCst)
            );
        }));
        over.store(true, Ordering::SeqCst);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
}

#[test]
fn an_owner_gets_in_while_strangers_fill_a_site() {
    let world = World::new();
    let vault = Vault::start(&world);
    let address: Address = vault.address.parse().unwrap();
    let owner = Owner::new(&address, vault.place());
    let fingerprint = address.fingerprint();
    // Twice what a site takes: it does not help to wait until strangers go by themselves.
    floods("silent at a site", &owner, 512, || TcpStream::connect(vault.place()).ok());
    let open = || Greeting::open(vault.place(), &Timeouts::default()).ok();
    floods("handshakes at a site", &owner, 300, open);
    let ask = || open()?.verify(fingerprint, 0).ok();
    floods("one request each at a site", &owner, 300, ask);
}

#[test]
fn an_owner_gets_in_while_strangers_fill_a_relay() {
    let world = World::new();
    let folder = world.path("relay");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let key = Relay::init(&folder, &[port.to_string()], &[]);
    let settings = fs::read_to_string(folder.join("relay.toml")).unwrap();
    assert!(settings.contains("connections = 1024"), "{settings}");
    let settings = settings.replace("connections = 1024", "connections = 64");
    fs::write(folder.join("relay.toml"), settings).unwrap();
    drop(Vault::start(&world));
    let settings = format!("[relays]\nkeys = [\"{key}\"]\n[serve]\nopen_registration = true\n");
    fs::write(world.path("vault/vault.toml"), settings).unwrap();
    let vault = Vault::serve(&world, "vault", &port.to_string());
    let relay = Relay::serve(&folder);
    let address: Address = vault.address.parse().unwrap();
    let owner = Owner::new(&address, &relay.place);
    let place = socket(&relay.place);
    floods("silent at a relay", &owner, 200, || TcpStream::connect(place).ok());
    floods("greetings at a relay", &owner, 100, || greet(place));
    floods("garbage hellos at a relay", &owner, 100, || {
        let (mut stream, _) = greet(place)?;
        stream.write_all(&[22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3]).ok()?;
        Some(stream)
    });
}

/// How many descriptors a process has.
fn descriptors(pid: u32) -> u64 {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

/// Takes all descriptors but `left` from a process that runs.
fn starve(pid: u32, left: u64) {
    let most = Some(descriptors(pid) + left);
    let pid = Pid::from_raw(pid.cast_signed());
    prlimit(pid, Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
}

/// Out of descriptors, a relay called its sites dead and took nobody until strangers
/// went by themselves.
#[test]
fn a_relay_out_of_descriptors_goes_on() {
    let world = World::new();
    let folder = world.path("relay");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    // By name: a resolver needs descriptors too.
    let key = Relay::init(&folder, &[format!("localhost:{}", port.port())], &[]);
    drop(Vault::start(&world));
    let settings = format!("[relays]\nkeys = [\"{key}\"]\n[serve]\nopen_registration = true\n");
    fs::write(world.path("vault/vault.toml"), settings).unwrap();
    let vault = Vault::serve(&world, "vault", &port.to_string());
    let relay = Relay::serve(&folder);
    let owner = Owner::new(&vault.address.parse().unwrap(), &relay.place);
    owner.opens();
    let place = socket(&relay.place);
    starve(relay.pid(), 61);
    // Each takes two descriptors there.
    let strangers: Vec<_> = (0..80).map(|_| greet(place)).collect();
    let welcomes: Vec<Option<Welcome>> =
        strangers.iter().map(|answer| answer.as_ref().map(|(_, welcome)| *welcome)).collect();
    assert!(!welcomes.contains(&Some(Welcome::NoSite)), "{welcomes:?}");
    floods("greetings at a relay out of descriptors", &owner, 80, || greet(place));
    let silent = || TcpStream::connect(place).ok();
    floods("silent at a relay out of descriptors", &owner, 160, silent);
}

#[test]
fn a_site_out_of_descriptors_goes_on() {
    let world = World::new();
    let vault = Vault::start(&world);
    let owner = Owner::new(&vault.address.parse().unwrap(), vault.place());
    owner.opens();
    starve(vault.pid(), 40);
    floods("silent at a site out of descriptors", &owner, 480, || {
        TcpStream::connect(vault.place()).ok()
    });
}

/// A relay took as many connections as it was told to, and failed at each one that it
/// had no descriptors for.
#[test]
fn a_relay_takes_what_its_descriptors_allow_and_says_so() {
    let world = World::new();
    let folder = world.path("relay");
    Relay::init(&folder, &["127.0.0.1:1".into()], &[]);
    let serve = |limit: u32| {
        let program = env!("CARGO_BIN_EXE_amberfs-vault");
        let script = format!("ulimit -n {limit}; exec {program} relay serve {}", folder.display());
        let mut command = Command::new("bash");
        command.args(["-c", &script]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut child = serve(100);
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    let _ = child.kill();
    let _ = child.wait();
    let told = "may open 100 files: it takes 18 connections instead of 1024";
    assert!(line.contains(told) && line.contains("need 2112"), "{line}");
    let output = serve(65).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("needs 66 at least"), "{said}");
}
