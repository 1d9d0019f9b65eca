//! Relays: people use a vault through them, and what a hostile one can do.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use amberfs::crypto::{Hash, KeyCheck, Secret, hash, hex, key_check};
use amberfs::io::{SystemClock, SystemRandom};
use amberfs::vault::client::{Claim, Client, NewRecord, Pin, VaultError};
use amberfs::vault::line::{Greeting, Timeouts};
use amberfs::vault::protocol::assertion::{ASSERTION, Assertion, VALID};
use amberfs::vault::protocol::greeting::{WELCOME, Welcome, decode_welcome, encode_greeting};
use amberfs::vault::protocol::{Address, Argon2Choice, Argon2Cost, Bind, Password};
use ed25519_dalek::SigningKey;

use crate::main_job::{COST, Vault, secret};
use crate::world::{World, wait_for};

const PROGRAM: &str = env!("CARGO_BIN_EXE_amberfs-vault");
pub const REPO: [u8; 16] = [7; 16];
pub const RIGHT: &str = "correct horse battery staple";
pub const WRONG: &str = "incorrect horse battery staple";

pub struct Relay {
    child: Child,
    /// As in an address.
    pub place: String,
    key: String,
}

fn did(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

impl Relay {
    /// Makes a relay in `folder`, before its sites know it.
    pub fn init(folder: &std::path::Path, sites: &[String], more: &[&str]) -> String {
        let mut command = Command::new(PROGRAM);
        command.args(["relay", "init"]).arg(folder).args(more);
        if !more.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        for site in sites {
            command.args(["--site", site]);
        }
        did(&mut command).trim().strip_prefix("relay key: ").unwrap().to_owned()
    }

    pub fn serve(folder: &std::path::Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(["relay", "serve"])
            .arg(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let place = line.trim().strip_prefix("relay place: ").expect("it serves").to_owned();
        let mut log = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        stderr.read_line(&mut log).unwrap();
        // What it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let key = log.trim().rsplit_once(' ').unwrap().1.to_owned();
        Self { child, place, key }
    }

    /// The id of the process that serves the relay.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, signal).unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate for 127.0.0.1, and the authority that signed it.
fn certificate(world: &World) {
    let openssl = |arguments: &[&str]| did(&mut world.program("openssl", arguments));
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let own =
        ["req", "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&own[..], &key].concat());
    let ask = ["req", "-new", "-subj", "/CN=relay", "-keyout", "tls.key", "-out", "tls.csr"];
    openssl(&[&ask[..], &key].concat());
    fs::write(world.path("tls.ext"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "tls.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "tls.ext",
        "-out",
        "tls.pem",
    ]);
    fs::set_permissions(world.path("tls.key"), fs::Permissions::from_mode(0o600)).unwrap();
}

fn has_openssl(what: &str) -> bool {
    let found = Command::new("openssl").arg("version").output().is_ok();
    if !found {
        println!("SKIPPED {what}: openssl is missing");
    }
    found
}

#[test]
fn a_vault_is_used_through_a_relay_with_accounts() {
    if !has_openssl("relay with accounts") {
        return;
    }
    let world = World::new();
    certificate(&world);
    did(Command::new(PROGRAM).arg("init").arg(world.path("vault")));
    let site = {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        port.to_string()
    };
    let files = [world.path("tls.pem"), world.path("tls.key")];
    let [certificate, private] = files.each_ref().map(|path| path.to_str().unwrap());
    let mut more =
        vec!["--accounts", "tokens", "--certificate", certificate, "--private-key", private];
    // A token names the place that its relay advertises.
    let named = world.path("named");
    let advertised = [&more[..], &["--advertise", "relay.example:443"]].concat();
    Relay::init(&named, std::slice::from_ref(&site), &advertised);
    let bound = did(Command::new(PROGRAM).args(["relay", "token"]).arg(&named).arg("anna"));
    assert!(bound.starts_with("amber-relay.example:443-"), "{bound}");
    more.extend(["--listen", "127.0.0.1:0"]);
    let folder = world.path("relay");
    let key = Relay::init(&folder, std::slice::from_ref(&site), &more);
    let token = |account: &str| {
        did(Command::new(PROGRAM).args(["relay", "token"]).arg(&folder).arg(account))
    };
    secret(&world, "token", &token("anna"));
    let settings = format!("[relays]\nkeys = [\"{key}\"]\nonly = true\nregister = true\n");
    fs::write(world.path("vault/vault.toml"), settings).unwrap();
    // Registration is closed but for accounts: what is advertised is elsewhere.
    let mut child = Command::new(PROGRAM)
        .arg("serve")
        .arg(world.path("vault"))
        .args(["--listen", &site, "--advertise", "vault.example:1", "--no-delays"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let print = line.trim().rsplit_once('#').unwrap().1.to_owned();
    let relay = Relay::serve(&folder);
    assert!(relay.key == key && relay.place.starts_with("relay+127.0.0.1:"));

    let address = format!("amber-vault://{}/#{print}", relay.place);
    secret(&world, "password", "seven small boats drift home\n");
    let ca = world.path("ca.pem");
    let run = |arguments: &[&str]| {
        let output = world.command(arguments).env("SSL_CERT_FILE", &ca).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let init = |vault: &str, more: &[&str]| {
        let mut all = vec!["init", "repo", "--vault", vault, "--key-out", "key"];
        all.extend(["--password-file", "password"].iter().chain(&COST).chain(more));
        run(&all)
    };
    let by_token = ["--vault-token", "token"];
    let (code, said) = init(&address, &[]);
    assert!(code == Some(15) && said.contains("--vault-token"), "{said}");
    secret(&world, "other", "amber-0000\n");
    let (code, said) = init(&address, &["--vault-token", "other"]);
    assert!(code == Some(15) && said.contains("does not know this token"), "{said}");
    // Nobody comes directly, and not without the outer TLS.
    for place in [site.clone(), relay.place.replace("relay+", "plainrelay+")] {
        let (code, said) = init(&format!("amber-vault://{place}/#{print}"), &by_token);
        assert_eq!(code, Some(15), "{said}");
    }
    let (code, said) = init(&address, &by_token);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("not bound to your account"), "{said}");
    let ls = ["ls", "repo", "--password-file", "password"];
    let (code, said) = run(&[&ls[..], &by_token].concat());
    assert_eq!(code, Some(0), "{said}");
    // Without the authority nobody knows that relay.
    let output = world.command(&[&ls[..], &by_token].concat()).output().unwrap();
    assert_eq!(output.status.code(), Some(15));

    // Another account, while it runs.
    secret(&world, "token", &token("bert"));
    let (code, said) = run(&[&ls[..], &by_token].concat());
    assert!(code == Some(15) && said.contains("does not know"), "{said}");
    relay.signal(rustix::process::Signal::HUP);
    wait_for("the new token", Duration::from_secs(20), || {
        run(&[&ls[..], &by_token].concat()).0 == Some(0)
    });
    // The folder says where, and no token.
    for file in world.files("repo") {
        let bytes = fs::read(world.path("repo").join(&file)).unwrap_or_default();
        assert!(!bytes.windows(6).any(|part| part == b"amber-"), "{}", file.display());
    }
    let _ = child.kill();
    let (code, said) = run(&[&ls[..], &by_token].concat());
    assert!(code == Some(15) && said.contains("no site"), "{said}");
    let _ = child.wait();
}

pub fn timeouts() -> Timeouts {
    Timeouts {
        connect: Duration::from_secs(2),
        reply: Duration::from_secs(10),
        proof: Duration::from_millis(1500),
    }
}

pub fn client(timeouts: Timeouts) -> Client<'static> {
    Client::new(&SystemRandom, &SystemClock, timeouts)
}

pub fn password(text: &str) -> Password {
    Password::new(text.as_bytes()).unwrap()
}

pub fn key() -> (KeyCheck, Secret) {
    let key = Secret::take(&mut [3; 32]);
    (key_check(&key, &REPO), key)
}

/// A site on loopback took registrations from anybody, and so from everybody whom a relay
/// before it let in.
#[test]
fn a_site_that_knows_a_relay_is_not_open_because_it_listens_on_loopback() {
    let world = World::new();
    did(Command::new(PROGRAM).arg("init").arg(world.path("vault")));
    let key = SigningKey::from_bytes(&[1; 32]).verifying_key().to_bytes();
    for (relays, open) in
        [(format!("[relays]\nkeys = [\"{}\"]\n", hex(&key)), false), (String::new(), true)]
    {
        fs::write(world.path("vault/vault.toml"), relays).unwrap();
        let vault = Vault::serve(&world, "vault", "127.0.0.1:0");
        let address: Address = vault.address.parse().unwrap();
        let secret = Secret::take(&mut [3; 32]);
        let registered = client(timeouts()).register(&NewRecord {
            address: &address,
            epoch: 0,
            repo: &REPO,
            keys: &[(key_check(&secret, &REPO), &secret)],
            password: &password(RIGHT),
            argon: Argon2Choice::Exactly(Argon2Cost::FLOOR),
            claim: Claim::Open,
            bind: Bind::Usual,
        });
        assert_eq!(registered.is_ok(), open);
        assert!(open || matches!(registered, Err(VaultError::RegistrationClosed)));
    }
}

#[test]
fn an_assertion_is_good_for_one_connection() {
    let world = World::new();
    did(Command::new(PROGRAM).arg("init").arg(world.path("vault")));
    let keys = [1, 2].map(|byte| SigningKey::from_bytes(&[byte; 32]));
    let known = keys[0].verifying_key().to_bytes();
    let relays = format!("[relays]\nkeys = [\"{}\"]\nonly = true\n", hex(&known));
    let settings = format!("{relays}[serve]\nopen_registration = true\n");
    fs::write(world.path("vault/vault.toml"), settings).unwrap();
    let vault = Vault::serve(&world, "vault", "127.0.0.1:0");
    // What a client says first, as a relay sees it.
    let hello = || {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = listener.local_addr().unwrap().to_string();
        let asking = std::thread::spawn(move || {
            let timeouts = Timeouts { reply: Duration::from_millis(200), ..timeouts() };
            drop(Greeting::open(&place, &timeouts));
        });
        let hello = crate::wire::record(&mut listener.accept().unwrap().0).unwrap();
        asking.join().unwrap();
        hello
    };
    let now =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let says = |key: &SigningKey, id: u8, about: Hash, expires: u64| -> [u8; ASSERTION] {
        let relay = key.verifying_key().to_bytes();
        Assertion { relay, expires, id: [id; 16], hello: about, account: Some("anna".into()) }
            .sign(key)
    };
    // Whether the site goes on with the handshake.
    let goes_on = |bytes: &[&[u8]]| {
        let mut stream = TcpStream::connect(vault.place()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let sent = stream.write_all(&bytes.concat()).is_ok();
        let mut first = [0];
        sent && stream.read(&mut first).is_ok_and(|read| read == 1) && first[0] == 22
    };
    let (one, other) = (hello(), hello());
    let good = says(&keys[0], 1, hash(&one), now() + VALID);
    assert!(!goes_on(&[&one]), "directly");
    assert!(!goes_on(&[&good, &other]), "spliced");
    assert!(!goes_on(&[&says(&keys[1], 2, hash(&one), now() + VALID), &one]), "an unknown relay");
    assert!(!goes_on(&[&says(&keys[0], 3, hash(&one), now() - 301), &one]), "an old one");
    assert!(!goes_on(&[&says(&keys[0], 4, hash(&one), now() + 1000), &one]), "one for later");
    let mut torn = good;
    torn[110] ^= 1;
    assert!(!goes_on(&[&torn, &one]), "a changed account");
    // It is used up by a handshake that succeeds, and by none that does not: hellos
    // that led to nothing kept everybody out.
    for _ in 0..3 {
        assert!(goes_on(&[&good, &one]), "as it should be");
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let place = listener.local_addr().unwrap().to_string();
    let asking = std::thread::spawn(move || Greeting::open(&place, &timeouts()).is_ok());
    let mut client = listener.accept().unwrap().0;
    let own = crate::wire::record(&mut client).unwrap();
    let good = says(&keys[0], 5, hash(&own), now() + VALID);
    let mut site = TcpStream::connect(vault.place()).unwrap();
    site.write_all(&[&good[..], &own].concat()).unwrap();
    assert!(goes_on(&[&good, &own]), "a copy, before the handshake is over");
    let mut ways = [(client.try_clone().unwrap(), site.try_clone().unwrap()), (site, client)];
    std::thread::scope(|scope| {
        for (from, to) in &mut ways {
            scope.spawn(|| std::io::copy(from, to));
        }
        assert!(asking.join().unwrap(), "the handshake succeeds");
        // The site has the client's last message when it has ended the connection.
    });
    assert!(!goes_on(&[&good, &own]), "replayed");
    // Garbage harms nobody.
    for bytes in [&b"amberfs-relay/1\0"[..], &[0; 4096], &[22; 4096], &[0x61; 300]] {
        assert!(!goes_on(&[bytes]));
    }
    assert!(goes_on(&[&says(&keys[0], 9, hash(&other), now() + VALID), &other]));
}

/// A client that says anything at all to a relay.
#[test]
fn garbage_at_a_relay_harms_nobody() {
    let world = World::new();
    let vault = Vault::start(&world);
    let folder = world.path("relay");
    Relay::init(&folder, &[vault.place().to_owned()], &[]);
    let relay = Relay::serve(&folder);
    let place = relay.place.strip_prefix("plainrelay+").unwrap();
    let mut noise = vec![0; 10_000];
    for seed in 0..20u8 {
        use rand::{RngCore, SeedableRng};
        rand::rngs::StdRng::seed_from_u64(seed.into()).fill_bytes(&mut noise);
        let mut stream = TcpStream::connect(place).unwrap();
        if seed % 2 == 0 {
            // A good greeting before it.
            noise[..2048].fill(0);
            noise[0] = 1;
        }
        let _ = stream.write_all(&noise);
        let _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
        let _ = stream.read(&mut [0; 16]);
    }
    // The relay is not one of the site's own, so it says so; and it still answers.
    let address = Address::new(
        vec![relay.place.clone()],
        vault.address.parse::<Address>().unwrap().fingerprint(),
    );
    let address = address.unwrap();
    let pin = Pin { fingerprint: address.fingerprint(), epoch: 0 };
    let failed = client(timeouts()).manifest(&address, pin).err().unwrap();
    assert!(matches!(failed, VaultError::Unreachable { .. }), "{failed}");
    // What an operator gets wrong is said.
    let bad = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let text = folder.to_str().unwrap();
    assert!(bad(&["relay", "serve", "/nowhere"]).contains("is not a relay"));
    assert!(bad(&["relay", "token", text, "anna"]).contains("accounts = \"tokens\""));
    assert!(bad(&["relay", "init", text, "--site", "a:1"]).contains("not empty"));
    let open = ["relay", "init", "/tmp/none", "--site", "a:1", "--listen", "0.0.0.0:1"];
    assert!(bad(&open).contains("loopback"));
    fs::write(folder.join("relay.toml"), "listen = \"127.0.0.1:0\"\nsite = 1\n").unwrap();
    assert!(bad(&["relay", "serve", text]).contains("site"));
}

/// An issuer that says where its keys are, and signs for an account.
#[test]
fn a_relay_asks_the_issuer_for_its_keys() {
    use amberfs::vault::relay::outer_server_config;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    if !has_openssl("keys of an issuer") {
        return;
    }
    let world = World::new();
    certificate(&world);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let issuer = format!("https://{}", listener.local_addr().unwrap());
    let chain = CertificateDer::pem_file_iter(world.path("tls.pem")).unwrap();
    let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_file(world.path("tls.key")).unwrap();
    let config = outer_server_config(chain, key).unwrap();
    let (named, place) = (Arc::new(Mutex::new(issuer.clone())), issuer.clone());
    let claimed = Arc::clone(&named);
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, socket.unwrap());
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                head.push(byte[0]);
            }
            // RFC 8037, appendix A.
            let body = if head.starts_with(b"GET /keys ") {
                r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "one",
                    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#
                    .to_owned()
            } else {
                let named = claimed.lock().unwrap();
                format!("{{\"issuer\": \"{named}\", \"jwks_uri\": \"{place}/keys\"}}")
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
            let _ = stream.flush();
        }
    });
    let folder = world.path("relay");
    Relay::init(&folder, &["127.0.0.1:1".into()], &["--accounts", "jwt"]);
    let serve = |authority: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["relay", "serve"]).arg(&folder).env("SSL_CERT_FILE", authority);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let refused = |authority: &str, why: &str| {
        let output = serve(authority).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(why), "{said}");
    };
    let ca = world.path("ca.pem").to_str().unwrap().to_owned();
    refused(&ca, "needs [jwt]");
    let mut settings = fs::read_to_string(folder.join("relay.toml")).unwrap();
    let _ = write!(settings, "\n[jwt]\nissuer = \"{issuer}\"\naudience = \"vault\"\n");
    fs::write(folder.join("relay.toml"), settings).unwrap();
    refused("/dev/null", &issuer);
    "https://evil.example".clone_into(&mut named.lock().unwrap());
    refused(&ca, "it calls itself https://evil.example");
    issuer.clone_into(&mut named.lock().unwrap());

    let mut child = serve(&ca);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let place = line.trim().strip_prefix("relay place: plainrelay+").expect("it serves");
    let ask = |token: &str| {
        let mut socket = TcpStream::connect(place).unwrap();
        socket.write_all(&encode_greeting(Some(token)).unwrap()).unwrap();
        let mut answer = [0; WELCOME];
        socket.read_exact(&mut answer).unwrap();
        decode_welcome(&answer).unwrap()
    };
    let claims = serde_json::json!({
        "iss": issuer, "aud": "vault", "sub": "anna", "exp": 4_000_000_000_u64,
    });
    let secret: [u8; 32] =
        amberfs::crypto::unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
            .unwrap();
    let der =
        [&[0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20][..], &secret]
            .concat();
    let signing = jsonwebtoken::EncodingKey::from_ed_der(&der);
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
    let token = jsonwebtoken::encode(&header, &claims, &signing).unwrap();
    // It lets anna in; only, there is no site.
    assert_eq!(ask(&token), Welcome::NoSite);
    assert_eq!(ask(&token.replace('a', "b")), Welcome::Account);
    let _ = child.kill();
    let _ = child.wait();
}

/// Tells every site of the relays with these keys, and starts it anew.
#[cfg(all(feature = "etcd", feature = "fuzzing"))]
pub fn introduce(fleet: &mut crate::fleet::Fleet, keys: &[String], only: bool) {
    let keys: Vec<String> = keys.iter().map(|key| format!("\"{key}\"")).collect();
    for at in 0..crate::fleet::SITES {
        let path = fleet.folder(at).join("vault.toml");
        let mut text = fs::read_to_string(&path).unwrap();
        let _ = write!(text, "\n[relays]\nkeys = [{}]\nonly = {only}\n", keys.join(", "));
        fs::write(&path, text).unwrap();
        fleet.kill_site(at);
        fleet.start_site(at);
    }
}

/// A person at a vault of five sites, two of which are down, through two relays, one
/// of which goes down too.
#[cfg(all(feature = "etcd", feature = "fuzzing"))]
#[test]
fn a_folder_is_made_and_mounted_through_relays_with_two_sites_down() {
    use crate::fleet::{Fleet, has_etcd};
    if !has_etcd("relays before five sites") || !crate::mounted::has_fuse("relays") {
        return;
    }
    let mut fleet = Fleet::new(false);
    let world = World::new();
    let sites: Vec<String> = fleet.address(0).endpoints().to_vec();
    let folders: Vec<_> = (0..2).map(|at| world.path(&format!("relay{at}"))).collect();
    let keys: Vec<String> = folders.iter().map(|dir| Relay::init(dir, &sites, &[])).collect();
    introduce(&mut fleet, &keys, true);
    let mut relays: Vec<Relay> = folders.iter().map(|dir| Relay::serve(dir)).collect();
    let places: Vec<&str> = relays.iter().map(|relay| &*relay.place).collect();
    let address =
        Address::new(places.iter().map(|place| (*place).to_owned()).collect(), fleet.fingerprint);
    let address = address.unwrap().to_string();
    // The first two machines, which both relays would ask first.
    for at in 0..2 {
        fleet.kill_site(at);
        fleet.kill_member(at);
    }
    secret(&world, "password", "seven small boats drift home\n");
    secret(&world, "new", "eleven quiet lamps by the water\n");
    let mut init = vec!["init", "repo", "--vault", &address, "--key-out", "key"];
    init.extend(["--password-file", "password"].iter().chain(&COST));
    // The members elect a leader first.
    let end = std::time::Instant::now() + Duration::from_secs(90);
    loop {
        let _ = fs::remove_dir_all(world.path("repo"));
        let _ = fs::remove_file(world.path("key"));
        fleet.mind_sites();
        let made = world.run(&init);
        if made.status.success() {
            break;
        }
        let said = String::from_utf8_lossy(&made.stderr);
        assert!(std::time::Instant::now() < end, "{said}");
    }
    let again = |arguments: &[&str], what: &str| {
        wait_for(what, Duration::from_secs(60), || world.run(arguments).status.success());
    };
    let mounted = world.mount("repo", "mnt", &["--password-file", "password"]);
    fs::write(world.path("mnt/chat.txt"), "are you there?").unwrap();
    mounted.unmount(&world);
    // One relay less.
    relays.remove(0);
    let passwd = ["passwd", "repo", "--password-file", "password", "--new-password-file", "new"];
    again(&[&passwd[..], &COST].concat(), "a new password");
    fs::remove_dir_all(world.path("state")).unwrap();
    let cat = ["cat", "repo", "/chat.txt", "--password-file", "new", "--vault", &address];
    again(&cat, "the file by the new password");
    assert_eq!(world.run(&cat).stdout, b"are you there?");
    // A site that nobody vouches to takes nobody.
    let pin = Pin { fingerprint: fleet.fingerprint, epoch: 0 };
    assert!(client(timeouts()).manifest(&fleet.address(3), pin).is_err());
}
