//! A fleet of real processes: five etcd members that speak mutual TLS, five
//! sites, and what can be done to them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use amberfs::vault::config::{Config, Etcd, LedgerAt};
use amberfs::vault::protocol::{Address, Fingerprint};

pub const SITES: usize = 5;

/// Where one site and its member live: together on one machine, which has an
/// address of its own if there are network namespaces.
#[derive(Clone)]
struct Place {
    namespace: Option<String>,
    ip: String,
    client: u16,
    peer: u16,
    serve: u16,
}

/// Where everything is; who talks to the fleet needs no more.
#[derive(Clone)]
pub struct Plan {
    root: PathBuf,
    places: Vec<Place>,
    apart: bool,
    pub fingerprint: Fingerprint,
}

pub struct Fleet {
    _alone: MutexGuard<'static, ()>,
    plan: Plan,
    _dir: tempfile::TempDir,
    members: [Option<Child>; SITES],
    sites: [Option<Child>; SITES],
}

impl std::ops::Deref for Fleet {
    type Target = Plan;
    fn deref(&self) -> &Plan {
        &self.plan
    }
}

fn sh(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// Whether etcd and openssl are here.
pub fn has_etcd(what: &str) -> bool {
    let is_here = |(name, version): &(&str, &str)| {
        let mut command = Command::new(name);
        command.arg(version).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    };
    let needed = [("etcd", "--version"), ("etcdctl", "version"), ("openssl", "version")];
    let missing: Vec<_> =
        needed.iter().filter(|tool| !is_here(tool)).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        println!("SKIPPED {what}: {} is missing", missing.join(" and "));
    }
    missing.is_empty()
}

/// An address of this process alone. A port that was free a moment ago may have gone to
/// another test, or to either end of any connection, when a process that was killed
/// comes back to it.
pub fn own_ip() -> String {
    let id = std::process::id();
    format!("127.{}.{}.{}", 64 + (id >> 16 & 63), id >> 8 & 255, id & 255)
}

impl Place {
    fn command(&self, program: &str) -> Command {
        match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, program]);
                command
            }
            None => Command::new(program),
        }
    }
}

fn signal(child: Option<&Child>, signal: rustix::process::Signal) {
    if let Some(child) = child {
        let id = rustix::process::Pid::from_child(child);
        let _ = rustix::process::kill_process(id, signal);
    }
}

fn end(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Plan {
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn append(&self, name: &str) -> fs::File {
        fs::OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap()
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn make_certificates(&self) {
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let (ca, ca_key) = (self.text("ca.pem"), self.text("ca.key"));
        let mut own = vec!["req", "-x509", "-days", "2", "-subj", "/CN=fleet"];
        own.extend(key);
        own.extend(["-keyout", &ca_key, "-out", &ca]);
        sh("openssl", &own);
        for at in 0..SITES {
            let [pem, secret, asked, more] =
                ["pem", "key", "csr", "ext"].map(|end| self.text(&format!("site{at}.{end}")));
            let names = format!(
                "subjectAltName=IP:{},IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n",
                self.places[at].ip
            );
            fs::write(&more, names).unwrap();
            let subject = format!("/CN=site{at}");
            let mut ask = vec!["req", "-new", "-subj", &subject];
            ask.extend(key);
            ask.extend(["-keyout", &secret, "-out", &asked]);
            sh("openssl", &ask);
            let mut sign = vec!["x509", "-req", "-days", "2", "-in", &asked, "-CA", &ca];
            sign.extend(["-CAkey", &ca_key, "-CAcreateserial", "-extfile", &more, "-out", &pem]);
            sh("openssl", &sign);
            fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }

    fn url(&self, at: usize) -> String {
        format!("https://{}:{}", self.places[at].ip, self.places[at].client)
    }

    fn peer_url(&self, at: usize) -> String {
        format!("https://{}:{}", self.places[at].ip, self.places[at].peer)
    }

    /// All members as `--initial-cluster` wants them.
    fn cluster(&self) -> String {
        let all: Vec<_> = (0..SITES).map(|at| format!("m{at}={}", self.peer_url(at))).collect();
        all.join(",")
    }

    /// How site `at` reaches the ledger: its own member first.
    pub fn settings(&self, at: usize) -> Etcd {
        let urls = (0..SITES).map(|step| self.url((at + step) % SITES)).collect();
        let file = |end: &str| self.path(&format!("site{at}.{end}"));
        let mut etcd = Etcd::new(urls, self.path("ca.pem"), file("pem"), file("key"));
        etcd.deadline_ms = 3000;
        etcd
    }

    pub fn folder(&self, at: usize) -> PathBuf {
        self.path(&format!("vault{at}"))
    }

    pub fn vault(arguments: &[&str]) -> std::process::Output {
        Command::new(env!("CARGO_BIN_EXE_amberfs-vault")).args(arguments).output().unwrap()
    }

    fn did(arguments: &[&str]) -> String {
        let output = Plan::vault(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The address, beginning with place `first`.
    pub fn address(&self, first: usize) -> Address {
        let hosts = (0..SITES).map(|step| {
            let machine = &self.places[(first + step) % SITES];
            format!("{}:{}", machine.ip, machine.serve)
        });
        Address::new(hosts.collect(), self.fingerprint).unwrap()
    }

    /// Whether a machine can be cut off from all others.
    pub fn is_apart(&self) -> bool {
        self.apart
    }

    pub fn cut(at: usize, cut: bool) {
        let outside = format!("amv{}o{at}", std::process::id());
        sh("ip", &["link", "set", &outside, if cut { "down" } else { "up" }]);
    }

    /// etcdctl as the operator of the ledger runs it.
    pub fn etcdctl(&self, arguments: &[&str], input: &[u8]) -> Vec<u8> {
        use std::io::Write;
        let (ca, pem, key) = (self.text("ca.pem"), self.text("site0.pem"), self.text("site0.key"));
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let mut child = self.places[0]
                .command("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["--endpoints", &self.url(0), "--cacert", &ca, "--cert", &pem])
                .args(["--key", &key])
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(input).unwrap();
            let output = child.wait_with_output().unwrap();
            if output.status.success() {
                return output.stdout;
            }
            // Members elect first.
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(Instant::now() < deadline, "{arguments:?}: {said}");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// What a site said last.
    pub fn log(&self, at: usize) -> String {
        let file = fs::File::open(self.path(&format!("site{at}.log"))).unwrap();
        let lines: Vec<_> = BufReader::new(file).lines().map_while(Result::ok).collect();
        lines.join("\n")
    }
}

impl Fleet {
    /// Starts all. With `apart` every machine has a network of its own, which
    /// takes root.
    pub fn new(apart: bool) -> Self {
        // Ten processes at a time are enough.
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::tempdir().unwrap();
        let id = std::process::id();
        let bridge = apart.then(|| format!("amv{id}"));
        if let Some(bridge) = &bridge {
            sh("ip", &["link", "add", bridge, "type", "bridge"]);
            sh("ip", &["addr", "add", "10.213.77.254/24", "dev", bridge]);
            sh("ip", &["link", "set", bridge, "up"]);
        }
        let places = (0..SITES).map(|at| {
            let namespace = bridge.as_ref().map(|bridge| {
                let (name, inside) = (format!("amv{id}-{at}"), format!("amv{id}i{at}"));
                let outside = format!("amv{id}o{at}");
                sh("ip", &["netns", "add", &name]);
                sh("ip", &["link", "add", &outside, "type", "veth", "peer", "name", &inside]);
                sh("ip", &["link", "set", &inside, "netns", &name]);
                sh("ip", &["link", "set", &outside, "master", bridge]);
                sh("ip", &["link", "set", &outside, "up"]);
                let address = format!("10.213.77.{}/24", at + 1);
                sh("ip", &["-n", &name, "addr", "add", &address, "dev", &inside]);
                sh("ip", &["-n", &name, "link", "set", &inside, "up"]);
                sh("ip", &["-n", &name, "link", "set", "lo", "up"]);
                name
            });
            let ip = if apart { format!("10.213.77.{}", at + 1) } else { own_ip() };
            // Below those that connections get by themselves.
            let [client, peer, serve] = [21_000, 22_000, 23_000].map(|port| port + at as u16);
            Place { namespace, ip, client, peer, serve }
        });
        let (root, fingerprint) = (dir.path().to_owned(), Fingerprint([0; 32]));
        let plan = Plan { root, places: places.collect(), apart, fingerprint };
        let (members, sites) = Default::default();
        let mut fleet = Self { _alone: alone, plan, _dir: dir, members, sites };
        fleet.make_certificates();
        for at in 0..SITES {
            fleet.start_member(at);
        }
        fleet.make_sites();
        for at in 0..SITES {
            fleet.start_site(at);
        }
        fleet
    }

    pub fn start_member(&mut self, at: usize) {
        let log = self.append(&format!("member{at}.log"));
        let (data, ca) = (self.text(&format!("member{at}")), self.text("ca.pem"));
        let [pem, key] = ["pem", "key"].map(|end| self.text(&format!("site{at}.{end}")));
        let (url, peer) = (self.url(at), self.peer_url(at));
        let child = self.places[at]
            .command("etcd")
            .args(["--name", &format!("m{at}"), "--data-dir", &data])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &self.cluster(), "--initial-cluster-token", "t"])
            .args(["--client-cert-auth", "--trusted-ca-file", &ca])
            .args(["--cert-file", &pem, "--key-file", &key])
            .args(["--peer-client-cert-auth", "--peer-trusted-ca-file", &ca])
            .args(["--peer-cert-file", &pem, "--peer-key-file", &key])
            .args(["--heartbeat-interval", "100", "--election-timeout", "1000"])
            .args(["--logger", "zap", "--log-level", "error"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.members[at] = Some(child);
    }

    fn make_sites(&mut self) {
        let folders: Vec<String> =
            (0..SITES).map(|at| self.folder(at).to_str().unwrap().to_owned()).collect();
        let said = Plan::did(&["init", &folders[0]]);
        let line = said.lines().find_map(|line| line.strip_prefix("vault fingerprint: ")).unwrap();
        let whole = format!("amber-vault://a:1/#{line}");
        self.plan.fingerprint = whole.parse::<Address>().unwrap().fingerprint();
        for (at, folder) in folders.iter().enumerate().skip(1) {
            Plan::did(&["join", folder, &folders[0], "--site-name", &format!("site {at}")]);
        }
        let manifest = format!("{}/manifest", folders[0]);
        for (at, folder) in folders.iter().enumerate() {
            // Two ledgers would count separately.
            let refused = Plan::vault(&["status", folder]);
            assert!(String::from_utf8_lossy(&refused.stderr).contains("several sites"));
            let said = Plan::did(&["install-manifest", folder, &manifest]);
            assert_eq!(said, format!("manifest epoch: {SITES}\n"));
            let config = Config { ledger: LedgerAt::Etcd(self.settings(at)), ..Config::default() };
            config.store(&amberfs::io::DirFolder::new(Path::new(folder))).unwrap();
        }
    }

    /// Starts a site and does not wait for it.
    pub fn start_site(&mut self, at: usize) {
        let log = self.append(&format!("site{at}.log"));
        let machine = &self.places[at];
        let listen = format!("{}:{}", machine.ip, machine.serve);
        let child = machine
            .command(env!("CARGO_BIN_EXE_amberfs-vault"))
            .arg("serve")
            .arg(self.folder(at))
            .args([
                "--listen",
                &listen,
                "--no-delays",
                "--open-registration",
                "--registrations",
                "1000000",
            ])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.sites[at] = Some(child);
    }

    /// A site that ended by itself, as one does whose ledger was away at its
    /// start, is started again, as systemd does.
    pub fn mind_sites(&mut self) {
        for at in 0..SITES {
            let ended = |child: &mut Child| matches!(child.try_wait(), Ok(Some(_)) | Err(_));
            if self.sites[at].as_mut().is_some_and(ended) {
                self.start_site(at);
            }
        }
    }

    pub fn kill_member(&mut self, at: usize) {
        end(&mut self.members[at]);
    }

    pub fn kill_site(&mut self, at: usize) {
        end(&mut self.sites[at]);
    }

    /// Both processes of a machine stand still.
    pub fn stop(&self, at: usize, stop: bool) {
        use rustix::process::Signal;
        let which = if stop { Signal::STOP } else { Signal::CONT };
        signal(self.members[at].as_ref(), which);
        signal(self.sites[at].as_ref(), which);
    }

    /// Puts a snapshot in the place of every member's data.
    pub fn restore(&mut self, snapshot: &Path) {
        for at in 0..SITES {
            self.kill_member(at);
        }
        for at in 0..SITES {
            let data = self.path(&format!("member{at}"));
            fs::remove_dir_all(&data).unwrap();
            let (name, peer) = (format!("m{at}"), self.peer_url(at));
            let output = Command::new("etcdctl")
                .env("ETCDCTL_API", "3")
                .args(["snapshot", "restore", snapshot.to_str().unwrap()])
                .args(["--name", &name, "--data-dir", data.to_str().unwrap()])
                .args(["--initial-cluster", &self.cluster(), "--initial-cluster-token", "t"])
                .args(["--initial-advertise-peer-urls", &peer])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        for at in 0..SITES {
            self.start_member(at);
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.sites.iter_mut().chain(&mut self.members) {
            end(child);
        }
        for machine in &self.plan.places {
            if let Some(namespace) = &machine.namespace {
                let _ = Command::new("ip").args(["netns", "del", namespace]).status();
            }
        }
        if self.plan.apart {
            let bridge = format!("amv{}", std::process::id());
            let _ = Command::new("ip").args(["link", "del", &bridge]).status();
        }
    }
}
