//! A relay before a site, both among strangers, on real listeners.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use ed25519_dalek::SigningKey;

use super::accounts::{Accounts, new_token};
use super::{Relay, RelayLimits, Sites, serve_relay};
use crate::io::{SystemClock, SystemRandom};
use crate::vault::line::{Channel, ConnectError, Greeting};
use crate::vault::protocol::greeting::{WELCOME, Welcome, decode_welcome, encode_greeting};
use crate::vault::serve::tests::{Here, asks, impatient, listening};
use crate::vault::serve::{Admission, Limits, Relays};

/// A relay before a site that takes nobody without it.
struct Both {
    _runtime: tokio::runtime::Runtime,
    _stop: tokio::sync::watch::Sender<bool>,
    here: Here,
    place: SocketAddr,
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[5; 32])
}

fn admission() -> Admission {
    let keys = vec![key().verifying_key().to_bytes()];
    Admission::new(true, Relays { keys, only: true, ..Relays::default() })
}

impl Both {
    fn serve(limits: RelayLimits, accounts: Accounts, here: Here) -> Self {
        let relay = Relay::new(
            accounts,
            key(),
            Sites::new(vec![here.endpoint.to_string()]),
            limits,
            (Arc::new(SystemClock), Arc::new(SystemRandom)),
            None,
        );
        let (runtime, listener) = listening();
        let place = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        runtime.spawn(serve_relay(listener, Arc::new(relay), stopped));
        Self { _runtime: runtime, _stop: stop, here, place }
    }

    fn with_few(connections: usize) -> Self {
        let limits = RelayLimits { connections, ..RelayLimits::default() };
        Self::serve(limits, Accounts::None, Here::serve(Limits::default(), admission()))
    }

    fn way(&self) -> String {
        format!("plainrelay+{}", self.place)
    }

    fn owner(&self) -> Result<Channel, ConnectError> {
        self.here.owner(&self.way())
    }

    fn silent(&self) -> TcpStream {
        TcpStream::connect(self.place).unwrap()
    }

    /// A stranger whom the relay bids welcome, and what the relay answered.
    fn greeted(&self, token: Option<&str>) -> (TcpStream, Option<Welcome>) {
        let mut stream = self.silent();
        stream.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
        stream.write_all(&encode_greeting(token).unwrap()).unwrap();
        let mut answer = [0; WELCOME];
        let answer = stream.read_exact(&mut answer).is_ok().then(|| decode_welcome(&answer));
        (stream, answer.flatten())
    }

    /// A stranger who sends a hello and cannot finish a handshake.
    fn garbage(&self) -> TcpStream {
        let (mut stream, _) = self.greeted(None);
        let _ = stream.write_all(&[22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3]);
        stream
    }
}

/// Each took a place in the site's memory of assertions for seven minutes, and a full
/// memory refused everybody behind relays.
#[test]
fn garbage_hellos_leave_nothing_at_a_site() {
    const MOST: usize = 16;
    let here = Here::serve(Limits::default(), admission().remembering(MOST));
    let both = Both::serve(RelayLimits::default(), Accounts::None, here);
    for number in 0..=2 * MOST {
        let mut stream = both.garbage();
        // The site has seen it: it ends such a connection.
        let _ = stream.read(&mut [0; 64]);
        assert!(number % 8 != 0 || both.owner().is_ok(), "after {number}");
    }
    // More owners than the memory holds.
    for number in 0..=MOST {
        assert!(both.owner().is_ok(), "owner {number}");
    }
}

#[test]
fn silent_strangers_do_not_keep_an_owner_out() {
    let both = Both::with_few(8);
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.extend((0..10).map(|_| both.silent()));
        assert!(asks(&mut both.owner().expect("the owner gets in")));
    }
}

#[test]
fn greetings_without_a_hello_keep_no_place() {
    let both = Both::with_few(8);
    let strangers: Vec<_> = (0..20).map(|_| both.greeted(None)).collect();
    assert!(strangers.iter().all(|(_, answer)| *answer == Some(Welcome::Open)));
    assert!(asks(&mut both.owner().ok().unwrap()));
}

#[test]
fn whoever_spoke_stays_while_strangers_come() {
    let both = Both::with_few(8);
    let mut channel = both.owner().ok().unwrap();
    let _strangers: Vec<_> = (0..100).map(|_| both.silent()).collect();
    assert!(both.owner().is_ok());
    assert!(asks(&mut channel));
}

#[test]
fn one_hello_keeps_no_place_for_ever() {
    let both = Both::with_few(8);
    let _strangers: Vec<_> = (0..20).map(|_| both.garbage()).collect();
    assert!(asks(&mut both.owner().ok().unwrap()));
    let speakers: Vec<_> = (0..20).map(|_| both.owner()).collect();
    assert!(speakers.iter().all(Result::is_ok));
    assert!(asks(&mut both.owner().ok().unwrap()));
}

/// A relay's connections at a site are one address's, and not counted.
#[test]
fn strangers_behind_a_relay_do_not_fill_its_site() {
    let few = Limits { connections: 8, ..Limits::default() };
    let limits = RelayLimits::default();
    let both = Both::serve(limits, Accounts::None, Here::serve(few, admission()));
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.extend((0..20).map(|_| both.greeted(None)));
        assert!(asks(&mut both.owner().expect("the owner gets in")));
    }
}

#[test]
fn an_account_keeps_its_place_before_strangers() {
    let (token, line) = new_token("anna", "", &SystemRandom);
    let Accounts::Tokens(tokens) = Accounts::parse(&line).ok().unwrap() else { panic!() };
    let accounts = Accounts::Tokens(HashMap::from_iter(tokens));
    let limits = RelayLimits { connections: 8, ..RelayLimits::default() };
    let both = Both::serve(limits, accounts, Here::serve(Limits::default(), admission()));
    // Before her hello already.
    let (mut early, answer) = both.greeted(Some(&token));
    assert_eq!(answer, Some(Welcome::Open));
    let mut strangers = Vec::new();
    for _ in 0..3 {
        strangers.extend((0..20).map(|_| both.silent()));
        let greeting = Greeting::open_as(&both.way(), &impatient(), Some(&token));
        assert!(greeting.is_ok(), "anna gets in");
    }
    assert_eq!(both.greeted(None).1, Some(Welcome::Account));
    early.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let waits = early.read(&mut [0]).unwrap_err();
    assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock, "it is still there");
}
