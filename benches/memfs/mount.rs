//! Mounts the file system in memory, for benchmarks and for trying things:
//!
//! `memfs MOUNTPOINT [EVENT_LOOPS]` in the foreground,
//! `memfs --daemon MOUNTPOINT REPO RUNTIME_FOLDER` as `amberfs mount` does,
//! `memfs --stuck MOUNTPOINT REPO RUNTIME_FOLDER` as `amberfs mount -f` does, and
//! no write ever ends.

#[path = "mod.rs"]
mod memfs;
#[path = "service.rs"]
mod service;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use amberfs::control::{Failure, Registry};
use amberfs::daemon::{Checks, Child, Destination, Launched, Setup};
use amberfs::daemon::{check_mountpoint, guard_if_asked, launch, run, start_logging};
use amberfs::fuse::{Access, MountOptions, Session};

fn options() -> MountOptions {
    let root = rustix::process::geteuid().is_root();
    let access = if root { Access::Everybody } else { Access::Owner };
    MountOptions { access, source: "memfs".into(), ..MountOptions::default() }
}

fn main() {
    if guard_if_asked() {
        return;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--daemon", mountpoint, repo, runtime] => daemon(&setup(mountpoint, repo, runtime)),
        ["--stuck", mountpoint, repo, runtime] => {
            let service = service::MemService::new();
            service.fs.write_delay.store(u64::MAX, Ordering::Relaxed);
            run(Arc::new(service), &setup(mountpoint, repo, runtime), || ()).expect("ends");
        }
        [mountpoint] => foreground(mountpoint, &options()),
        [mountpoint, loops] => {
            let event_loops = loops.parse().expect("a number of event loops");
            foreground(mountpoint, &MountOptions { event_loops, ..options() });
        }
        _ => panic!("memfs MOUNTPOINT [EVENT_LOOPS]"),
    }
}

fn foreground(mountpoint: &str, options: &MountOptions) {
    let fs = service::MemService::new().fs;
    let session = Session::mount(fs, Path::new(mountpoint), options, || ()).expect("mounts");
    println!("mounted");
    while !session.wait(Duration::from_secs(3600)) {}
}

fn setup(mountpoint: &str, repo: &str, runtime: &str) -> Setup {
    let checked = check_mountpoint(Path::new(mountpoint), Path::new(repo), Checks::default());
    let mountpoint = match checked {
        Ok(mountpoint) => mountpoint,
        Err(unfit) => {
            eprintln!("{unfit}");
            std::process::exit(unfit.exit_code().number().into());
        }
    };
    Setup {
        mountpoint,
        repo: Path::new(repo).canonicalize().expect("a folder"),
        options: options(),
        registry: Registry::at(&PathBuf::from(runtime)),
        nonempty: false,
        guarded: true,
    }
}

fn daemon(setup: &Setup) {
    match launch().expect("forks") {
        Launched::Parent(mut parent) => {
            parent.send(b"a secret").expect("the child listens");
            if let Err(failure) = parent.wait(|note| eprintln!("{note}")) {
                eprintln!("{}", failure.text);
                std::process::exit(failure.code.number().into());
            }
        }
        Launched::Child(child) => serve(child, setup),
    }
}

fn serve(mut child: Child, setup: &Setup) {
    let log = setup.repo.join("log");
    start_logging(log::LevelFilter::Info, Destination::file(&log).expect("a log file"));
    let secret = child.receive().expect("a secret");
    child.note(&format!("got {} secret bytes", secret.expose().len()));
    let mut child = Some(child);
    let mut report = |failure: Option<&Failure>| match (child.take(), failure) {
        (Some(child), None) => child.ready(),
        (Some(child), Some(failure)) => child.failed(failure),
        (None, _) => {}
    };
    let result = run(Arc::new(service::MemService::new()), setup, || report(None));
    if let Err(failure) = &result {
        report(Some(failure));
    }
}
