//! A REPO that hangs, as a network folder does whose server is gone.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use amberfs::fuse::{Access, MountOptions, Session, Unmount};

use crate::memfs::MemFs;
use crate::mounted::has_fuse;
use crate::world::{World, is_mounted, noise, wait_for};

/// What is answered by local state alone must be answered within this, also on
/// a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// A file system of this process, for REPO.
struct Elsewhere {
    fs: Arc<MemFs>,
    session: Session,
}

impl Elsewhere {
    fn mount(at: &Path) -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let fs = Arc::new(MemFs::new(uid, gid));
        // Each write that hangs takes one.
        let options =
            MountOptions { access: Access::Owner, event_loops: 16, ..MountOptions::default() };
        let session = Session::mount(Arc::clone(&fs), at, &options, || ()).expect("mounts");
        Self { fs, session }
    }

    fn hang(&self, hangs: bool) {
        let delay = if hangs { u64::MAX } else { 0 };
        self.fs.write_delay.store(delay, Ordering::Relaxed);
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.hang(false);
        let _ = self.session.unmount(Unmount::Detach);
    }
}

/// A test that fails must not wait for ever for a daemon that hangs.
struct Recovers(Arc<MemFs>);

impl Drop for Recovers {
    fn drop(&mut self) {
        self.0.write_delay.store(0, Ordering::Relaxed);
    }
}

fn within_limit<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let result = work();
    assert!(started.elapsed() < SOON, "{what} took {:?}", started.elapsed());
    result
}

/// Has the pages of a file stay in the kernel's cache until the process ends, with mlock(2). A machine that
/// is short of memory, or gives idle memory back, drops others, and to read these the mount needs REPO.
fn keep_cached(path: &Path) -> Child {
    const PROGRAM: &str = r"
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
file = os.open(sys.argv[1], os.O_RDONLY)
size = ctypes.c_size_t(os.fstat(file).st_size)
at = ctypes.c_void_p(libc.mmap(None, size, 1, 1, file, ctypes.c_long(0)))
print(libc.mlock(at, size), flush=True)
sys.stdin.read()
";
    let mut keeper = Command::new("python3");
    let keeper = keeper.args(["-B", "-c", PROGRAM]).arg(path);
    let mut keeper = keeper.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("starts");
    let mut said = [0; 2];
    keeper.stdout.as_mut().expect("is a pipe").read_exact(&mut said).expect("reads");
    assert_eq!(&said, b"0\n", "the pages cannot be locked");
    keeper
}

#[test]
fn a_hung_repository_keeps_nobody_waiting_who_does_not_need_it() {
    if !has_fuse("hung") {
        return;
    }
    let world = World::new();
    fs::create_dir(world.path("far")).expect("creates");
    let elsewhere = Elsewhere::mount(&world.path("far"));
    world.ok(&["init", "far/repo", "--key-out", "key"]);
    let mount = world.mount("far/repo", "mnt", &["--key-file", "key"]);
    let _recovers = Recovers(Arc::clone(&elsewhere.fs));
    let path = |name: &str| world.path(&format!("mnt/{name}"));
    fs::write(path("early"), noise(100_000, 1)).expect("writes");
    world.ok(&["sync", "mnt"]);
    let mut keeper = keep_cached(&path("early"));

    elsewhere.hang(true);
    within_limit("small file and fsync", || {
        let mut file = fs::File::create(path("note")).expect("creates");
        file.write_all(b"kept").expect("writes");
        file.sync_all().expect("syncs");
    });
    // More than the journal and memory take together: it has to wait. A process
    // of its own: closing the file, as each fork and exec here would, waits too.
    let target = format!("of={}", path("big").display());
    let mut writer = Command::new("dd")
        .args(["if=/dev/urandom", &target, "bs=1M", "count=600", "conv=fsync", "status=none"])
        .spawn()
        .expect("starts");
    let waiting = world.path("mnt/big");
    wait_for("the copy to fill memory", Duration::from_secs(120), || {
        let before = fs::metadata(&waiting).map_or(0, |file| file.len());
        std::thread::sleep(Duration::from_secs(2));
        before > 0 && fs::metadata(&waiting).is_ok_and(|file| file.len() == before)
    });
    // More of those who look into the past, which needs REPO, than there are threads for them.
    let past = path(".snapshots");
    let mut looking: Vec<Child> = (0..4)
        .map(|_| Command::new("ls").arg(&past).stdout(Stdio::null()).spawn().expect("starts"))
        .collect();
    std::thread::sleep(Duration::from_secs(1));
    within_limit("attributes of the past", || fs::metadata(&past).expect("is there"));
    within_limit("mkdir", || fs::create_dir(path("folder")).expect("makes"));
    within_limit("rename", || fs::rename(path("early"), path("folder/early")).expect("renames"));
    let early = within_limit("read", || fs::read(path("folder/early")).expect("reads"));
    assert!(early == noise(100_000, 1));
    within_limit("list", || assert_eq!(fs::read_dir(world.path("mnt")).expect("lists").count(), 3));
    within_limit("status", || world.ok(&["status", "mnt"]));

    let pid = mount.pid();
    assert!(Command::new("kill").arg(pid.to_string()).status().expect("runs").success());
    let stopped = Instant::now();
    wait_for("the name to be cleared", Duration::from_secs(15), || !is_mounted(&world.path("mnt")));
    eprintln!("cleared after {:?}", stopped.elapsed());
    keeper.kill().expect("ends");
    keeper.wait().expect("ends");
    elsewhere.hang(false);
    assert!(mount.ended_well(), "{}", world.log());
    for looks in &mut looking {
        looks.wait().expect("ends");
    }
    // It was either told that it failed, or all of it is there.
    let written = writer.wait().expect("ends").success();
    let mount = world.mount("far/repo", "mnt", &["--key-file", "key"]);
    assert_eq!(fs::read(path("note")).expect("reads"), b"kept");
    assert!(fs::read(path("folder/early")).expect("reads") == noise(100_000, 1));
    if written {
        assert_eq!(fs::metadata(path("big")).expect("is there").len(), 600 << 20);
    }
    mount.unmount(&world);
    world.ok(&["check", "far/repo", "--read-data"]);
}
