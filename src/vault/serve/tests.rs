//! A site among strangers, on a real listener. All come from loopback, which is not
//! counted by address; counting is tested in `listen::table`.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::TlsAcceptor;

use super::*;
use crate::io::sim::SimWorld;
use crate::io::{SystemClock, SystemRandom};
use crate::vault::line::{Channel, ConnectError, Greeting, Timeouts};
use crate::vault::listen::descriptors_for;
use crate::vault::protocol::{Argon2Cost, Fingerprint, Refusal, Reply, Request};
use crate::vault::server::{Site, create_site, open_site};

/// A site of its own. Dropping it ends it.
pub(crate) struct Here {
    _runtime: tokio::runtime::Runtime,
    _stop: tokio::sync::watch::Sender<bool>,
    site: Arc<Site>,
    pub(crate) endpoint: SocketAddr,
    fingerprint: Fingerprint,
}

/// How long owners of these tests wait. A stranger's grace is longer.
pub(crate) fn impatient() -> Timeouts {
    let [connect, reply, proof] = [2, 4, 4].map(Duration::from_secs);
    Timeouts { connect, reply, proof }
}

/// What a server of a test runs on, and a free port of this machine.
pub(crate) fn listening() -> (tokio::runtime::Runtime, tokio::net::TcpListener) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    (runtime, listener)
}

impl Here {
    pub(crate) fn serve(limits: Limits, admission: Admission) -> Self {
        let world = SimWorld::new();
        let folder = world.folder("vault");
        let fingerprint = create_site(&*folder, &SystemRandom, Argon2Cost::FLOOR).ok().unwrap();
        let opened = open_site(&*folder).ok().unwrap();
        let acceptor = TlsAcceptor::from(server_config(opened.keys.tls()).unwrap());
        let site = Arc::new(Site::new(
            opened.keys,
            opened.ledger,
            Arc::new(SystemRandom),
            Arc::new(SystemClock),
            opened.signed,
            false,
        ));
        let (runtime, listener) = listening();
        let endpoint = listener.local_addr().unwrap();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let admission = Arc::new(admission);
        runtime.spawn(serve(listener, Arc::clone(&site), acceptor, limits, admission, stopped));
        Self { _runtime: runtime, _stop: stop, site, endpoint, fingerprint }
    }

    /// Somebody who finished the handshake at `place` and sent no request yet.
    pub(crate) fn greet(endpoint: &str) -> Result<Greeting, ConnectError> {
        Greeting::open(endpoint, &impatient())
    }

    /// Somebody who has sent a first request, by way of `place`.
    pub(crate) fn owner(&self, endpoint: &str) -> Result<Channel, ConnectError> {
        Self::greet(endpoint)?.verify(self.fingerprint, 0)
    }

    fn own(&self) -> String {
        self.endpoint.to_string()
    }
}

/// Whether the channel still serves its owner.
pub(crate) fn asks(channel: &mut Channel) -> bool {
    let reply = channel.call(&Request::Status { ticket: [0; 16] });
    matches!(reply, Ok(Reply::Refused(Refusal::UnknownTicket)))
}

fn few() -> Limits {
    Limits { connections: 8, ..Limits::default() }
}

fn open() -> Admission {
    Admission::new(true, Relays::default())
}

/// 256 connections that said nothing kept everybody out.
#[test]
fn silent_strangers_do_not_keep_an_owner_out() {
    let here = Here::serve(few(), open());
    let mut strangers = Vec::new();
    for _ in 0..5 {
        strangers.extend((0..10).map(|_| TcpStream::connect(here.endpoint).unwrap()));
        let mut channel = here.owner(&here.own()).expect("the owner gets in");
        assert!(asks(&mut channel));
    }
}

#[test]
fn whoever_spoke_stays_while_strangers_come() {
    let here = Here::serve(few(), open());
    let mut channel = here.owner(&here.own()).ok().unwrap();
    let _strangers: Vec<_> = (0..100).map(|_| TcpStream::connect(here.endpoint).unwrap()).collect();
    // The strangers are in.
    assert!(here.owner(&here.own()).is_ok());
    assert!(asks(&mut channel));
    let told = here.site.metrics().print();
    let dropped = |kind: &str| {
        let name = format!("amberfs_vault_connections_{kind}_total ");
        let line = told.lines().find_map(|line| line.strip_prefix(&name));
        line.unwrap().parse::<u32>().unwrap()
    };
    assert_eq!((dropped("dropped_silent"), dropped("dropped_idle")), (94, 0));
    assert_eq!(dropped("refused"), 0);
}

#[test]
fn a_handshake_alone_keeps_no_place() {
    let here = Here::serve(few(), open());
    let strangers: Vec<_> = (0..20).map(|_| Here::greet(&here.own())).collect();
    assert!(strangers.iter().all(Result::is_ok), "each gets in, at the cost of an older one");
    assert!(here.owner(&here.own()).is_ok());
}

#[test]
fn one_request_keeps_no_place_for_ever() {
    let here = Here::serve(few(), open());
    let speakers: Vec<_> = (0..20).map(|_| here.owner(&here.own())).collect();
    assert!(speakers.iter().all(Result::is_ok), "each gets in, at the cost of an idle one");
    let mut channel = here.owner(&here.own()).ok().unwrap();
    assert!(asks(&mut channel));
}

#[test]
fn a_first_request_must_come_in_time() {
    let limits = Limits { handshake: Duration::from_millis(500), ..Limits::default() };
    let here = Here::serve(limits, open());
    let silent = Here::greet(&here.own()).ok().unwrap();
    let mut spoke = here.owner(&here.own()).ok().unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert!(silent.verify(here.fingerprint, 0).is_err());
    assert!(asks(&mut spoke));
}

/// What shells and service managers give is enough for a site.
#[test]
fn a_site_fits_into_the_usual_limit_of_descriptors() {
    assert!(descriptors_for(Limits::default().connections, 1) <= 1024);
}
