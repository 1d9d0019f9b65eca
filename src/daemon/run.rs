//! The daemon's life: mount, serve, flush, unmount, end.
//!
//! Invariant: however it ends by itself (umount, signal, `amberfs umount`, a panic in
//! a thread), the mountpoint is cleared and `close` is called once, after the
//! last page the kernel gave us. While anybody has the mount, here or in another
//! mount namespace, it goes on, unless it is told to stop.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::guard::Guard;
use super::mountpoint;
use super::process::give_back_memory;
use super::requests::{PendingMount, Requests};
use super::service::{Handle, Service, Why};
use crate::control::{Answer, Failure, MountLocation, Registry, Server, note_end, take_end};
use crate::fuse::{MountOptions, Session, Unmount};
use crate::io::Exit;

/// How long a signalled daemon waits for those who still use the mount; the
/// service manager's own limit is 90 seconds.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long a mount that is unmounted here, and that the kernel still has, is waited
/// for before it is said that somebody else has it.
const LET_GO_LIMIT: Duration = Duration::from_secs(2);
/// How often that is waited for while nobody is seen who has it.
const LET_GO_TRIES: u32 = 5;
/// How long event loops may take to end once the kernel has let go.
const END_LIMIT: Duration = Duration::from_secs(60);
/// How long one try to pull the kernel's pages may take, and how many are made
/// for somebody who waits for the outcome.
const WRITEBACK_LIMIT: Duration = Duration::from_secs(5);
const WRITEBACK_TRIES: u32 = 60;
/// How often unmounting is tried while it is busy and nobody is seen.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// From one tick of the service to the next.
pub(super) const TICK: Duration = Duration::from_millis(500);
/// The longest pause from one question whether something came from elsewhere to the next.
const FOLLOW_PAUSE: Duration = Duration::from_secs(5);
/// The pause from one question whether there is something that can wait to the next.
const UPKEEP_PAUSE: Duration = Duration::from_secs(5);
/// How long answers may take to reach the command line at the end.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What a mount needs besides its service.
pub struct Setup {
    /// As `check_mountpoint` returned it.
    pub mountpoint: PathBuf,
    /// The repository's folder, absolute and without symlinks.
    pub repo: PathBuf,
    /// The options that go to the kernel.
    pub options: MountOptions,
    /// Where to put the socket.
    pub registry: Registry,
    /// Whether the mountpoint may hold files, which the mount hides.
    pub nonempty: bool,
    /// Whether a guard ends the connection to the kernel if this process is killed.
    /// The program's `main` must begin with `guard_if_asked` then.
    pub guarded: bool,
}

/// What the thread of the life of a mount waits for.
pub(super) enum Event {
    /// The kernel let go of the mount.
    Ended,
    /// A signal asks the daemon to end: SIGTERM or SIGINT.
    Stop,
    /// `amberfs umount`; answered at the very end.
    Unmount(Sender<Answer>),
}

/// Mounts, calls `ready`, serves until unmounted or told to stop, and returns
/// once the service is closed.
pub fn run<S: Service>(
    service: Arc<S>,
    setup: &Setup,
    ready: impl FnOnce(),
) -> Result<(), Failure> {
    let unusable =
        |error: &dyn std::fmt::Display| Failure { code: Exit::Unusable, text: error.to_string() };
    let (events, received) = mpsc::channel();
    // Before the mount: a signal from here on must not end the process.
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(|error| unusable(&error))?;
    let signalled = events.clone();
    spawn("signals", move || {
        for signal in signals.forever() {
            // The terminal's end is not the mount's.
            if signal != SIGHUP {
                let _ = signalled.send(Event::Stop);
            }
        }
    })?;
    let one_checkpoint = Arc::new(Mutex::new(()));
    let closed = Arc::new(OnceLock::new());
    let pending = Arc::new(PendingMount::default());
    let handler = Arc::new(Requests {
        service: Arc::clone(&service),
        pending: Arc::clone(&pending),
        one_checkpoint: Arc::clone(&one_checkpoint),
        events: events.clone(),
        closed: Arc::clone(&closed),
        registry: setup.registry.clone(),
        mountpoint: setup.mountpoint.clone(),
        repo: setup.repo.clone(),
    });
    // Before the mount too: whoever sees it must find its daemon.
    let server = setup.registry.new_sockets().and_then(|paths| Server::start(&paths, &handler));
    let server = match server {
        Ok(server) => server,
        Err(error) => {
            let _ = service.close();
            return Err(unusable(&error));
        }
    };
    let ended = events.clone();
    let on_end = move || drop(ended.send(Event::Ended));
    // Only now: what a killed daemon left there kept programs from writing into the
    // folder below.
    let session = mountpoint::free(&setup.mountpoint, setup.nonempty)
        .map_err(|unfit| Failure { code: unfit.exit_code(), text: unfit.to_string() })
        .and_then(|()| {
            Session::mount(service.operations(), &setup.mountpoint, &setup.options, on_end)
                .map_err(|error| unusable(&error))
        });
    let session = match session {
        Ok(session) => Arc::new(session),
        Err(failure) => {
            pending.finish(Err(failure.clone()));
            let _ = service.close();
            server.finish(ANSWER_LIMIT);
            return Err(failure);
        }
    };
    let guard = setup.guarded.then(|| Guard::start(&session.id())).and_then(|guard| {
        let why = "nobody will end the mount's connection if this process is killed";
        guard.inspect_err(|error| log::warn!("{why}: {error}")).ok()
    });
    let mounted = Arc::downgrade(&session);
    let mut life = Life {
        service,
        session,
        one_checkpoint,
        waiting: Vec::new(),
        closed,
        repo: setup.repo.clone(),
        sockets: server.paths().cloned().collect(),
    };
    take_end(&setup.registry, &setup.mountpoint);
    let (checkpoints, wanted) = mpsc::channel();
    let started = life.start_threads(checkpoints, wanted);
    pending.finish(started.clone().map(|()| mounted));
    if started.is_ok() {
        ready();
    }
    // The guard is told of a killed process once its main thread has ended. One that waits for the
    // mount itself could not end, so all that touches the mount is done by another thread.
    let live = move || {
        match &started {
            Ok(()) => life.wait(&received),
            Err(_) => life.stop(),
        }
        // Who asks from here on is answered by how that ended.
        life.close(&received).and(started)
    };
    let result = thread::scope(|scope| {
        let lived = thread::Builder::new().name("life".into()).spawn_scoped(scope, live);
        let lived = lived.map_err(|error| no_thread(&error))?;
        lived.join().unwrap_or_else(|_| {
            let text = "internal error in the daemon; see the log".into();
            Err(Failure { code: Exit::Other, text })
        })
    });
    server.finish(ANSWER_LIMIT);
    if let Some(guard) = guard {
        guard.dismiss();
    }
    result
}

/// In the foreground: tells the service manager that the mount is usable.
pub(crate) fn notify_ready() {
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Pulls what the kernel holds, then makes a checkpoint. Where pulling takes
/// too long, a write may be waiting for room that only a checkpoint makes: so
/// the checkpoint comes first, and then another try.
pub(super) fn write_back_and_checkpoint<S: Service>(
    service: &S,
    session: &Session,
    why: Why,
) -> Result<(), Failure> {
    let failed = |text: String| Err(Failure { code: Exit::Other, text });
    for _ in 0..WRITEBACK_TRIES {
        let pulled = session.write_back(WRITEBACK_LIMIT);
        catch_unwind(AssertUnwindSafe(|| service.checkpoint(why)))
            .unwrap_or_else(|_| failed("internal error in a checkpoint; see the log".into()))?;
        give_back_memory();
        match pulled {
            Ok(()) => return Ok(()),
            // The next one takes the rest; what was fsynced is here.
            Err(error) if why == Why::Due => {
                log::warn!("the kernel's pages could not be pulled: {error}");
                return Ok(());
            }
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {}
            Err(error) => return failed(format!("written pages could not be saved: {error}")),
        }
    }
    failed("written pages could not be saved in time".into())
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), Failure> {
    thread::Builder::new()
        .name(name.into())
        .spawn(work)
        .map(drop)
        .map_err(|error| no_thread(&error))
}

fn no_thread(error: &std::io::Error) -> Failure {
    Failure { code: Exit::Other, text: format!("no thread could be started: {error}") }
}

struct Life<S> {
    service: Arc<S>,
    session: Arc<Session>,
    one_checkpoint: Arc<Mutex<()>>,
    /// Who is told when everything is in REPO.
    waiting: Vec<Sender<Answer>>,
    closed: Arc<OnceLock<Result<(), Failure>>>,
    repo: PathBuf,
    /// Where this daemon is asked.
    sockets: Vec<PathBuf>,
}

impl<S: Service> Life<S> {
    fn start_threads(&self, checkpoints: Sender<()>, wanted: Receiver<()>) -> Result<(), Failure> {
        let handle =
            Handle { session: Arc::downgrade(&self.session), checkpoints: checkpoints.clone() };
        self.service.started(handle);
        let (service, session) = (Arc::clone(&self.service), Arc::downgrade(&self.session));
        spawn("ticker", move || {
            // The session is held by the thread of its life: without it, it is over.
            while session.upgrade().is_some() {
                let next = Instant::now() + TICK;
                let due = catch_unwind(AssertUnwindSafe(|| service.tick())).unwrap_or(false);
                if due && checkpoints.send(()).is_err() {
                    return;
                }
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        })?;
        self.start_following()?;
        self.start_upkeep()?;
        let (service, session) = (Arc::clone(&self.service), Arc::downgrade(&self.session));
        let one = Arc::clone(&self.one_checkpoint);
        spawn("checkpoint", move || {
            while wanted.recv().is_ok() {
                // Several requests for one checkpoint are one.
                while wanted.try_recv().is_ok() {}
                let _one = one.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(session) = session.upgrade() else { return };
                if let Err(failure) = write_back_and_checkpoint(&*service, &session, Why::Due) {
                    log::error!("checkpoint failed: {}", failure.text);
                }
            }
        })
    }

    /// Starts the thread for what can wait.
    fn start_upkeep(&self) -> Result<(), Failure> {
        let (service, session) = (Arc::clone(&self.service), Arc::downgrade(&self.session));
        spawn("upkeep", move || {
            while session.strong_count() > 0 {
                let _ = catch_unwind(AssertUnwindSafe(|| service.maintain()));
                thread::sleep(UPKEEP_PAUSE);
            }
        })
    }

    /// Starts the thread that shows what comes from elsewhere.
    fn start_following(&self) -> Result<(), Failure> {
        let (service, session) = (Arc::clone(&self.service), Arc::downgrade(&self.session));
        let (one, closed) = (Arc::clone(&self.one_checkpoint), Arc::clone(&self.closed));
        spawn("follow", move || {
            loop {
                service.wait_for_news(FOLLOW_PAUSE);
                if session.upgrade().is_none() {
                    return;
                }
                let look = || {
                    service.tell_kernel();
                    service.has_news()
                };
                if !catch_unwind(AssertUnwindSafe(look)).unwrap_or(false) {
                    continue;
                }
                let _one = one.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(session) = session.upgrade().filter(|_| closed.get().is_none()) else {
                    return;
                };
                if let Err(error) = session.write_back(WRITEBACK_LIMIT) {
                    log::warn!("the kernel's pages could not be pulled: {error}");
                    continue;
                }
                let _ = catch_unwind(AssertUnwindSafe(|| service.follow()));
                give_back_memory();
            }
        })
    }

    /// Returns when the kernel has let go, or the daemon is to stop.
    fn wait(&mut self, events: &Receiver<Event>) {
        for event in events {
            match event {
                Event::Ended => return,
                Event::Stop => return self.stop(),
                Event::Unmount(reply) => match self.unmount() {
                    Ok(()) => return self.waiting.push(reply),
                    Err(answer) => drop(reply.send(answer)),
                },
            }
        }
    }

    /// Everything into REPO, then unmounts if nobody uses it, and waits for the
    /// kernel to let go. The bulk goes first, while reading is still possible.
    fn unmount(&self) -> Result<(), Answer> {
        let checkpoint = || {
            let _one = self.one_checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
            write_back_and_checkpoint(&*self.service, &self.session, Why::Unmount)
        };
        checkpoint().map_err(Answer::Failed)?;
        // Where others have it mounted, unmounting here would succeed, and change
        // nothing for them.
        let others = self.session.other_mounts();
        if !others.is_empty() && self.is_here() {
            return Err(self.busy(&format!("is in use by {}", self.session.users())));
        }
        for left in (0..BUSY_TRIES).rev() {
            match self.session.unmount(Unmount::IfIdle) {
                Ok(()) => return self.let_go().map_err(|text| self.busy(&text)),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    if let Ok(MountLocation::Covered(_, kind)) = self.session.location() {
                        let kind = if kind.is_empty() { "one" } else { &kind };
                        let text = format!("is below another file system ({kind})");
                        return Err(self.busy(&text));
                    }
                    let users = self.session.users();
                    if left == 0 || !users.is_empty() {
                        return Err(self.busy(&format!("is in use by {users}")));
                    }
                    // Somebody passing through, perhaps a pull of our own.
                    thread::sleep(BUSY_PAUSE);
                }
                Err(error) => {
                    let text = format!("the kernel would not unmount: {error}");
                    return Err(Answer::Failed(Failure { code: Exit::Unusable, text }));
                }
            }
        }
        Err(self.busy(&format!("is in use by {}", self.session.users())))
    }

    /// The answer to whoever wants to unmount, right after a checkpoint.
    fn busy(&self, how: &str) -> Answer {
        let (mountpoint, repo) = (self.session.mountpoint().display(), self.repo.display());
        Answer::Busy(format!("{mountpoint} {how}; everything so far is in {repo}"))
    }

    /// Whether the mount is where programs find it.
    fn is_here(&self) -> bool {
        !matches!(self.session.location(), Ok(MountLocation::Gone))
    }

    /// Waits for the kernel's end after unmounting. It does not come while others
    /// have the file system, whom this says then.
    fn let_go(&self) -> Result<(), String> {
        for left in (0..LET_GO_TRIES).rev() {
            if self.session.wait(LET_GO_LIMIT) {
                return Ok(());
            }
            if !self.session.is_alive() {
                break;
            }
            // On a busy machine the end takes longer, and nobody has it then.
            let users = self.session.users();
            if left == 0 || !users.is_empty() {
                return Err(format!("is unmounted here, but still used by {users}"));
            }
        }
        if !self.session.wait(END_LIMIT) {
            log::warn!("requests of the mount still wait for an answer; it ends now");
        }
        Ok(())
    }

    /// Must end: clears the name at once, even if it is in use, and whatever
    /// REPO does. What is in memory is published when the service is closed; the
    /// kernel writes its pages as it lets go.
    fn stop(&mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        let pulled = match self.session.unmount(Unmount::IfIdle) {
            Ok(()) => match self.let_go() {
                Ok(()) => return,
                Err(_) => self.session.write_back(WRITEBACK_LIMIT),
            },
            Err(_) => self.session.detach_and_write_back(WRITEBACK_LIMIT),
        };
        log::warn!("the mount is in use, and ends for those who use it");
        if let Err(error) = pulled {
            log::error!("pages could not be pulled while detaching: {error}");
        }
        self.session.wait(STOP_LIMIT);
    }

    /// Closes the service and tells who waits for it, whoever asked meanwhile
    /// too.
    fn close(self, events: &Receiver<Event>) -> Result<(), Failure> {
        // A checkpoint that is under way ends first.
        let one = self.one_checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = catch_unwind(AssertUnwindSafe(|| self.service.close()));
        let result = closed.unwrap_or_else(|_| {
            Err(Failure {
                code: Exit::Other,
                text: "internal error while closing; see the log".into(),
            })
        });
        drop(one);
        let late = events.try_iter().filter_map(|event| match event {
            Event::Unmount(reply) => Some(reply),
            _ => None,
        });
        let replies: Vec<_> = self.waiting.into_iter().chain(late).collect();
        if self.session.has_ended() && matches!(self.session.location(), Ok(MountLocation::At(_))) {
            // Not by unmounting: somebody ended the connection.
            if replies.is_empty() {
                log::warn!("the connection to the kernel was ended; the dead mount stays");
            } else if let Err(error) = self.session.unmount(Unmount::Detach) {
                log::warn!("the dead mount could not be cleared: {error}");
            }
        }
        if replies.is_empty() && result.is_ok() {
            for socket in &self.sockets {
                if let Err(error) = note_end(socket, self.session.mountpoint()) {
                    log::debug!("whoever asks later may not know that all is in REPO: {error}");
                }
            }
        }
        // Whoever asks from here on takes that note away with the answer.
        let _ = self.closed.set(result.clone());
        for reply in replies {
            let _ = reply.send(match &result {
                Ok(()) => Answer::Done,
                Err(failure) => Answer::Failed(failure.clone()),
            });
        }
        result
    }
}
