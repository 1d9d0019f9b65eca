//! A line between client and site that somebody watches, cuts and changes: what it can
//! learn and break.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amberfs::vault::client::{Claim, NewRecord, Pin, VaultError};
use amberfs::vault::line::Timeouts;
use amberfs::vault::protocol::{
    Address, Argon2Choice, Argon2Cost, Bind, Locator, REPLY_SIZE, REQUEST_SIZE, RecordState, Tries,
};

use crate::main_job::Vault;
use crate::relay::{REPO, RIGHT, WRONG, client, key, password, timeouts};
use crate::world::World;

/// What the line does with a record of one direction.
type Rule = dyn Fn(&mut Wire, bool, Vec<u8>) -> Vec<Vec<u8>> + Send + Sync;

/// What was seen of one connection: whether it came from the client, and bytes of
/// each TLS record behind the handshake.
#[derive(Clone, Default)]
struct Wire {
    records: Vec<(bool, usize)>,
    cut: bool,
}

/// Somebody between client and site, who sees records and does as `rule` says.
struct Line {
    place: SocketAddr,
    seen: Arc<Mutex<Vec<Wire>>>,
    rule: Arc<Mutex<Arc<Rule>>>,
}

/// One TLS record, head and all.
pub fn record(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 5];
    stream.read_exact(&mut bytes).ok()?;
    bytes.resize(5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]])), 0);
    stream.read_exact(&mut bytes[5..]).ok()?;
    Some(bytes)
}

/// Bytes of a record with one request or reply in it.
const REQUEST: usize = 5 + REQUEST_SIZE + 1 + 16;
const REPLY: usize = 5 + REPLY_SIZE + 1 + 16;

impl Line {
    fn to(site: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap();
        let (seen, site) = (Arc::<Mutex<Vec<Wire>>>::default(), site.to_owned());
        let honest: Arc<Rule> = Arc::new(|_, _, record| vec![record]);
        let rule = Arc::new(Mutex::new(honest));
        let line = Self { place, seen: Arc::clone(&seen), rule: Arc::clone(&rule) };
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), Ok(site)) = (client, TcpStream::connect(&site)) else { continue };
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(Wire::default());
                    seen.len() - 1
                };
                for from_client in [true, false] {
                    let (client, site) = (client.try_clone().unwrap(), site.try_clone().unwrap());
                    let (mut from, mut to) =
                        if from_client { (client, site) } else { (site, client) };
                    let (seen, rule) = (Arc::clone(&seen), Arc::clone(&rule));
                    std::thread::spawn(move || {
                        while let Some(bytes) = record(&mut from) {
                            let rule = Arc::clone(&rule.lock().unwrap());
                            let (on, cut) = {
                                let wire = &mut seen.lock().unwrap()[number];
                                if [REQUEST, REPLY].contains(&bytes.len()) {
                                    wire.records.push((from_client, bytes.len()));
                                }
                                (rule(wire, from_client, bytes), wire.cut)
                            };
                            let sent = on.iter().all(|bytes| to.write_all(bytes).is_ok());
                            if cut || !sent {
                                break;
                            }
                        }
                        let _ = from.shutdown(std::net::Shutdown::Both);
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
        line
    }

    fn obey(
        &self,
        rule: impl Fn(&mut Wire, bool, Vec<u8>) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) {
        *self.rule.lock().unwrap() = Arc::new(rule);
    }

    /// Records of all connections since the last call.
    fn taken(&self) -> Vec<Vec<(bool, usize)>> {
        // What was shut down is noted by then.
        std::thread::sleep(Duration::from_millis(100));
        let mut seen = self.seen.lock().unwrap();
        let all = seen.iter().map(|wire| wire.records.clone()).collect();
        seen.iter_mut().for_each(|wire| wire.records.clear());
        all
    }
}

/// A record in a vault, whose locator leads over a line.
struct Wired {
    _world: World,
    vault: Vault,
    line: Line,
    locator: Locator,
    pin: Pin,
}

impl Wired {
    fn new() -> Self {
        let world = World::new();
        let vault = Vault::start(&world);
        let line = Line::to(vault.place());
        let direct: Address = vault.address.parse().unwrap();
        let fingerprint = direct.fingerprint();
        let address = Address::new(vec![line.place.to_string()], fingerprint).unwrap();
        let (id, key) = key();
        let new = NewRecord {
            address: &address,
            epoch: 0,
            repo: &REPO,
            keys: &[(id, &key)],
            password: &password(RIGHT),
            argon: Argon2Choice::Exactly(Argon2Cost::FLOOR),
            claim: Claim::Open,
            bind: Bind::Usual,
        };
        let locator = client(Timeouts::default()).register(&new).ok().unwrap().locator;
        line.taken();
        let pin = Pin { fingerprint, epoch: 0 };
        Self { _world: world, vault, line, locator, pin }
    }

    fn unlock(&self, text: &str) -> Result<(), VaultError> {
        let client = client(timeouts());
        client.unlock(&self.locator, &REPO, &password(text), self.pin).map(drop)
    }

    /// Not over the line.
    fn state(&self) -> RecordState {
        let address = self.vault.address.parse().unwrap();
        let locator = Locator { address, ..self.locator.clone() };
        client(timeouts()).status(&locator, self.pin).unwrap().state
    }

    fn left(&self) -> u8 {
        match self.state() {
            RecordState::Active { tries: Tries { left, .. }, .. } => left,
            _ => 0,
        }
    }
}

/// The number of a client's request in its connection, from 1.
fn nth(wire: &Wire) -> usize {
    wire.records.iter().filter(|(from_client, _)| *from_client).count()
}

#[test]
fn a_line_that_drops_the_proof_ten_times_does_not_lock_the_owner_out() {
    let wired = Wired::new();
    // The attempt is a connection's second request; what comes third, or second
    // after another connection's attempt, is the proof.
    let dropped = Arc::new(Mutex::new(0));
    let (count, attempts) = (Arc::clone(&dropped), Arc::new(Mutex::new(0)));
    let met = Arc::clone(&attempts);
    wired.line.obey(move |wire, from_client, record| {
        if !from_client || record.len() != REQUEST || nth(wire) < 2 {
            return vec![record];
        }
        let mut attempts = met.lock().unwrap();
        if *attempts == 0 {
            *attempts = 1;
            return vec![record];
        }
        *count.lock().unwrap() += 1;
        wire.cut = true;
        Vec::new()
    });
    for number in 1..10 {
        *attempts.lock().unwrap() = 0;
        let failed = wired.unlock(RIGHT).unwrap_err();
        assert!(matches!(failed, VaultError::Unanswered { right: true, .. }), "{failed}");
        assert_eq!(wired.left(), 10 - number);
    }
    // The tenth closes the record; its proof gets through at the third sending.
    *attempts.lock().unwrap() = 0;
    let sent = Arc::new(Mutex::new(0));
    wired.line.obey(move |wire, from_client, record| {
        if from_client && record.len() == REQUEST && nth(wire) >= 2 {
            let mut sent = sent.lock().unwrap();
            *sent += 1;
            if [2, 3].contains(&*sent) {
                wire.cut = true;
                return Vec::new();
            }
        }
        vec![record]
    });
    wired.unlock(RIGHT).unwrap();
    assert_eq!(wired.left(), 10);
    assert!(*dropped.lock().unwrap() >= 9);
}

#[test]
fn the_line_cannot_tell_right_from_wrong_from_closed() {
    let wired = Wired::new();
    wired.unlock(RIGHT).unwrap();
    let right = wired.line.taken();
    let failed = wired.unlock(WRONG).unwrap_err();
    assert!(matches!(failed, VaultError::WrongPassword(_)));
    let wrong = wired.line.taken();
    while wired.left() > 0 {
        wired.unlock(WRONG).unwrap_err();
    }
    wired.line.taken();
    for text in [RIGHT, WRONG] {
        let failed = wired.unlock(text).unwrap_err();
        assert!(matches!(failed, VaultError::Closed { .. }));
        assert_eq!(wired.line.taken().last(), right.last(), "closed, and {text}");
    }
    assert_eq!(right.last(), wrong.last());
    let (ask, answer) = ((true, REQUEST), (false, REPLY));
    assert_eq!(right.last().unwrap(), &[ask, answer, ask, answer, ask, answer]);
}

#[test]
fn a_line_that_changes_repeats_or_mixes_records_gets_nowhere() {
    let wired = Wired::new();
    let start = wired.left();
    // Each breaks the inner TLS at one record: nothing is believed, nothing counted
    // beyond the attempts that arrived.
    let kept: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
    for what in ["flip", "truncate", "repeat", "swap", "substitute"] {
        let old = Arc::clone(&kept);
        wired.line.obey(move |wire, from_client, mut record| {
            if record.len() != if from_client { REQUEST } else { REPLY } || nth(wire) != 2 {
                return vec![record];
            }
            if from_client {
                return vec![record];
            }
            let mut old = old.lock().unwrap();
            let before = old.first().cloned();
            old.insert(0, record.clone());
            match what {
                "flip" => {
                    record[100] ^= 1;
                    vec![record]
                }
                "truncate" => {
                    wire.cut = true;
                    vec![record[..1000].to_vec()]
                }
                // The first copy is good, the second is not the next record.
                "repeat" => vec![record.clone(), record],
                "swap" => vec![before.unwrap(), record],
                _ => vec![before.unwrap()],
            }
        });
        let outcome = wired.unlock(RIGHT);
        assert!(
            matches!(
                &outcome,
                Ok(()) | Err(VaultError::Unreachable { .. } | VaultError::Unanswered { .. })
            ),
            "{what}: {outcome:?}"
        );
    }
    // And late: all of it three times as slow as a network can be.
    wired.line.obey(|_, _, record| {
        std::thread::sleep(Duration::from_millis(300));
        vec![record]
    });
    wired.unlock(RIGHT).unwrap();
    assert_eq!(wired.left(), start, "a success refills");
}
