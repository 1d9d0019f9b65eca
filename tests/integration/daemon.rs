//! A daemon from mount to umount, as the command line drives it.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use amberfs::control::{Client, ControlError, Failure, Registry, Reply, Request};
use amberfs::daemon::{Setup, run};
use amberfs::fuse::MountOptions;
use amberfs::io::Exit;

use crate::mounted::has_fuse;
use crate::service::MemService;
use crate::world::{is_mounted, wait_for};

const LIMIT: Duration = Duration::from_secs(20);

struct Daemon {
    folder: tempfile::TempDir,
    service: Arc<MemService>,
    thread: JoinHandle<Result<(), Failure>>,
}

impl Daemon {
    fn start() -> Self {
        let (daemon, is_ready) = Self::begin(0);
        is_ready.recv_timeout(LIMIT).expect("becomes ready");
        daemon
    }

    /// A mount whose root takes a while to answer is seen before it is usable.
    fn begin(delay: u64) -> (Self, mpsc::Receiver<()>) {
        let folder = tempfile::tempdir().expect("folder");
        let path = |name: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir(&path).expect("create");
            path.canonicalize().expect("path")
        };
        let setup = Setup {
            mountpoint: path("mnt"),
            repo: path("repo"),
            options: MountOptions::default(),
            registry: Registry::at(&folder.path().join("run")),
            nonempty: false,
            guarded: false,
        };
        let service = Arc::new(MemService::new());
        service.start_delay.store(delay, Ordering::SeqCst);
        let served = Arc::clone(&service);
        let (ready, is_ready) = mpsc::channel();
        let thread =
            std::thread::spawn(move || run(served, &setup, || ready.send(()).expect("awaited")));
        (Self { folder, service, thread }, is_ready)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client(&self, path: &Path) -> Client {
        let registry = Registry::at(&self.path("run"));
        Client::connect(&registry.find(path).expect("is registered").socket).expect("connects")
    }
}

fn ask(client: &mut Client, request: &Request) -> Result<Vec<u8>, ControlError> {
    let mut bytes = Vec::new();
    client.ask(request, |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

/// Asks again while the mount is in use: programs that other tests start have our
/// files, or a copy of the mount, until they run.
fn unmount(client: &mut Client) {
    wait_for("umount", LIMIT, || match ask(client, &Request::Unmount) {
        Err(ControlError::Busy(_)) => false,
        answer => answer.map(|_| true).expect("unmounts"),
    });
}

#[test]
fn a_daemon_serves_and_unmounts_when_everything_is_saved() {
    if !has_fuse("daemon") {
        return;
    }
    let daemon = Daemon::start();
    std::fs::write(daemon.path("mnt/file"), "x").expect("write");
    // A path inside the mount finds its daemon, and so does the repository.
    let mut client = daemon.client(&daemon.path("mnt/file"));
    daemon.client(&daemon.path("repo"));
    let before = daemon.service.checkpoints.load(Ordering::SeqCst);
    ask(&mut client, &Request::Sync).expect("syncs");
    assert!(daemon.service.checkpoints.load(Ordering::SeqCst) > before);
    let status = ask(&mut client, &Request::Status).expect("tells");
    assert!(status.starts_with(b"{\"checkpoints\":"));
    let long = vec![7; 3 << 20 >> 2];
    assert_eq!(ask(&mut client, &Request::Call(long.clone())).expect("answers"), long);

    let held = std::fs::File::open(daemon.path("mnt/file")).expect("open");
    assert!(matches!(ask(&mut client, &Request::Unmount), Err(ControlError::Busy(_))));
    drop(held);
    unmount(&mut client);
    assert_eq!(daemon.service.closed.load(Ordering::SeqCst), 1, "closed before the answer");
    assert!(!daemon.path("mnt/file").exists());
    daemon.thread.join().expect("joins").expect("succeeds");
    assert_eq!(Registry::at(&daemon.folder.path().join("run")).all(), []);
}

#[test]
fn unmounting_by_umount_closes_too() {
    if !has_fuse("umount") {
        return;
    }
    let daemon = Daemon::start();
    let program = if rustix::process::geteuid().is_root() { "umount" } else { "fusermount3" };
    let mut command = std::process::Command::new(program);
    if program == "fusermount3" {
        command.arg("-u");
    }
    command.arg(daemon.path("mnt"));
    // Programs that other tests start have our files until they run.
    wait_for("umount", LIMIT, || command.status().expect("runs").success());
    daemon.thread.join().expect("joins").expect("succeeds");
    assert_eq!(daemon.service.closed.load(Ordering::SeqCst), 1);
}

/// What arrived while the mount was being closed was never answered: "the
/// daemon ended without an answer".
#[test]
fn whoever_asks_to_unmount_is_told_the_end() {
    if !has_fuse("twice") {
        return;
    }
    let daemon = Daemon::start();
    let mut clients: Vec<_> = (0..4).map(|_| daemon.client(&daemon.path("mnt"))).collect();
    for client in &mut clients {
        client.send(&Request::Unmount).expect("sends");
    }
    for client in &mut clients {
        match client.receive().expect("is answered") {
            Reply::Busy(_) => unmount(client),
            reply => assert_eq!(reply, Reply::Done),
        }
    }
    daemon.thread.join().expect("joins").expect("succeeds");
    assert_eq!(daemon.service.closed.load(Ordering::SeqCst), 1);
}

/// `amberfs umount` in the moment after the kernel showed the mount said that
/// it was not mounted: the daemon had no socket yet.
#[test]
fn a_mount_that_is_seen_has_a_daemon_that_answers() {
    if !has_fuse("seen") {
        return;
    }
    for request in [Request::Status, Request::Sync, Request::Unmount] {
        let (daemon, is_ready) = Daemon::begin(500);
        let mountpoint = daemon.path("mnt").canonicalize().expect("path");
        wait_for("the mount", LIMIT, || is_mounted(&mountpoint));
        let mut client = daemon.client(&daemon.path("repo"));
        is_ready.try_recv().expect_err("is not usable yet");
        match ask(&mut client, &request) {
            Err(ControlError::Busy(_)) if request == Request::Unmount => {}
            answer => drop(answer.expect("is answered once it is usable")),
        }
        is_ready.recv_timeout(LIMIT).expect("became ready");
        if is_mounted(&mountpoint) {
            unmount(&mut client);
        }
        daemon.thread.join().expect("joins").expect("succeeds");
        assert!(!is_mounted(&mountpoint));
    }
}

/// What cannot be mounted leaves no socket, and who asked meanwhile is told.
#[test]
fn a_mount_that_fails_leaves_no_socket() {
    if !has_fuse("fails") {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let registry = Registry::at(&folder.path().join("run"));
    let setup = Setup {
        mountpoint: folder.path().join("none"),
        repo: folder.path().to_path_buf(),
        options: MountOptions::default(),
        registry: registry.clone(),
        nonempty: false,
        guarded: false,
    };
    let service = Arc::new(MemService::new());
    let failure = run(Arc::clone(&service), &setup, || ()).expect_err("there is no such folder");
    assert_eq!(failure.code, Exit::Unusable);
    assert_eq!(service.closed.load(Ordering::SeqCst), 1);
    assert_eq!(registry.all(), []);
    assert_eq!(std::fs::read_dir(folder.path().join("run")).expect("is there").count(), 0);
}
