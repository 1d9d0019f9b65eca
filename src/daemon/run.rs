//! The daemon's life: mount, serve, flush, unmount, end.
//!
//! Invariant: however it ends (umount, signal, `amberfs umount`, a panic in a
//! thread), the mountpoint is cleared and `close` is called once, after the
//! last page the kernel gave us.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::guard;
use super::process::give_back_memory;
use super::requests::{Coming, Requests};
use super::service::{Handle, Service, Why};
use crate::control::{Answer, Failure, Registry, Server, holders};
use crate::fuse::{MountOptions, Session, Unmount};

/// How long a signalled daemon waits for those who still use the mount; the
/// service manager's own limit is 90 seconds.
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long the kernel may take to let go once unmounting succeeded.
const END_LIMIT: Duration = Duration::from_secs(60);
/// How long one try to pull the kernel's pages may take, and how many are made
/// for somebody who waits for the outcome.
const PULL_LIMIT: Duration = Duration::from_secs(5);
const PULL_TRIES: u32 = 60;
/// How often unmounting is tried while it is busy and nobody is seen.
const BUSY_TRIES: u32 = 10;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
const TICK: Duration = Duration::from_millis(500);
/// How long answers may take to reach the command line at the end.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// What a mount needs besides its service.
pub struct Setup {
    /// As `check_mountpoint` returned it.
    pub mountpoint: PathBuf,
    /// The repository's folder, absolute and without symlinks.
    pub repo: PathBuf,
    /// How to mount.
    pub options: MountOptions,
    /// Where to put the socket.
    pub registry: Registry,
    /// Whether a guard clears the mountpoint if this process is killed. The
    /// program's `main` must begin with `guard_if_asked` then.
    pub guarded: bool,
}

/// What the main thread waits for.
pub(super) enum Event {
    /// The kernel let go of the mount.
    Ended,
    /// SIGTERM, SIGINT.
    Stop,
    /// The service found that nobody uses the mount.
    Idle,
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
    let unusable = |error: &dyn std::fmt::Display| Failure { code: 17, text: error.to_string() };
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
    let coming = Arc::new(Coming::default());
    let handler = Arc::new(Requests {
        service: Arc::clone(&service),
        coming: Arc::clone(&coming),
        one_checkpoint: Arc::clone(&one_checkpoint),
        events: events.clone(),
        closed: Arc::clone(&closed),
        mountpoint: setup.mountpoint.clone(),
        repo: setup.repo.clone(),
    });
    // Before the mount too: whoever sees it must find its daemon.
    let server = setup.registry.new_socket().and_then(|path| Server::start(&path, handler));
    let server = match server {
        Ok(server) => server,
        Err(error) => {
            let _ = service.close();
            return Err(unusable(&error));
        }
    };
    let ended = events.clone();
    let on_end = move || drop(ended.send(Event::Ended));
    let session = Session::mount(service.operations(), &setup.mountpoint, &setup.options, on_end);
    let session = match session {
        Ok(session) => Arc::new(session),
        Err(error) => {
            let failure = unusable(&error);
            coming.tell(Err(failure.clone()));
            let _ = service.close();
            server.finish(ANSWER_LIMIT);
            return Err(failure);
        }
    };
    if setup.guarded
        && let Err(error) = guard::start(session.mountpoint(), session.device())
    {
        log::warn!("nobody will clear the mountpoint if this process is killed: {error}");
    }
    let mounted = Arc::downgrade(&session);
    let mut life = Life { service, session, one_checkpoint, waiting: Vec::new(), closed };
    let (checkpoints, wanted) = mpsc::channel();
    let result = match life.start_threads(&events, checkpoints, wanted) {
        Ok(()) => {
            coming.tell(Ok(mounted));
            ready();
            life.wait(&received);
            life.close(&received)
        }
        Err(failure) => {
            coming.tell(Err(failure.clone()));
            life.stop();
            life.close(&received).and(Err(failure))
        }
    };
    // Who asks from here on is answered by how that ended.
    drop(received);
    server.finish(ANSWER_LIMIT);
    result
}

/// In the foreground: tells the service manager that the mount is usable.
pub fn notify_ready() {
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

/// Pulls what the kernel holds, then makes a checkpoint. Where pulling takes
/// too long, a write may be waiting for room that only a checkpoint makes: so
/// the checkpoint comes first, and then another try.
pub(super) fn pull_and_checkpoint<S: Service>(
    service: &S,
    session: &Session,
    why: Why,
) -> Result<(), Failure> {
    let failed = |text: String| Err(Failure { code: 1, text });
    for _ in 0..PULL_TRIES {
        let pulled = session.pull(PULL_LIMIT);
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
        .map_err(|error| Failure { code: 1, text: format!("no thread could be started: {error}") })
}

struct Life<S> {
    service: Arc<S>,
    session: Arc<Session>,
    one_checkpoint: Arc<Mutex<()>>,
    /// Who is told when everything is in REPO.
    waiting: Vec<Sender<Answer>>,
    closed: Arc<OnceLock<Result<(), Failure>>>,
}

impl<S: Service> Life<S> {
    fn start_threads(
        &self,
        events: &Sender<Event>,
        checkpoints: Sender<()>,
        wanted: Receiver<()>,
    ) -> Result<(), Failure> {
        let handle = Handle {
            session: Arc::downgrade(&self.session),
            invalidator: self.session.invalidator(),
            checkpoints: checkpoints.clone(),
            events: events.clone(),
        };
        self.service.started(handle);
        let (service, session) = (Arc::clone(&self.service), Arc::downgrade(&self.session));
        spawn("ticker", move || {
            // The session is held by the main thread: without it, it is over.
            while session.upgrade().is_some() {
                let next = Instant::now() + TICK;
                let due = catch_unwind(AssertUnwindSafe(|| service.tick())).unwrap_or(false);
                if due && checkpoints.send(()).is_err() {
                    return;
                }
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        })?;
        let (service, session) = (Arc::clone(&self.service), Arc::downgrade(&self.session));
        let one = Arc::clone(&self.one_checkpoint);
        spawn("checkpoint", move || {
            while wanted.recv().is_ok() {
                // Several requests for one checkpoint are one.
                while wanted.try_recv().is_ok() {}
                let _one = one.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(session) = session.upgrade() else { return };
                if let Err(failure) = pull_and_checkpoint(&*service, &session, Why::Due) {
                    log::error!("checkpoint failed: {}", failure.text);
                }
            }
        })
    }

    /// Returns when the kernel has let go, or the time for that is over.
    fn wait(&mut self, events: &Receiver<Event>) {
        for event in events {
            match event {
                Event::Ended => return,
                Event::Stop => return self.stop(),
                Event::Idle => {
                    if self.unmount().is_ok() {
                        return self.let_go();
                    }
                }
                Event::Unmount(reply) => match self.unmount() {
                    Ok(()) => {
                        self.waiting.push(reply);
                        return self.let_go();
                    }
                    Err(answer) => drop(reply.send(answer)),
                },
            }
        }
    }

    /// Everything into REPO, then unmounts if nobody uses it. The bulk goes
    /// first, while reading is still possible.
    fn unmount(&self) -> Result<(), Answer> {
        let checkpoint = || {
            let _one = self.one_checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
            pull_and_checkpoint(&*self.service, &self.session, Why::Unmount)
        };
        checkpoint().map_err(Answer::Failed)?;
        for left in (0..BUSY_TRIES).rev() {
            match self.session.unmount(Unmount::IfIdle) {
                Ok(()) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                    let holders = holders(self.session.mountpoint());
                    if left == 0 || !holders.is_empty() {
                        return Err(Answer::Busy(holders.iter().map(|who| who.pid).collect()));
                    }
                    // Somebody passing through, perhaps a pull of our own.
                    thread::sleep(BUSY_PAUSE);
                }
                Err(error) => {
                    let text = format!("the kernel would not unmount: {error}");
                    return Err(Answer::Failed(Failure { code: 17, text }));
                }
            }
        }
        Err(Answer::Busy(Vec::new()))
    }

    /// Waits for the kernel's end. It does not come while another mount
    /// namespace has a copy of the mount, which nobody here can unmount.
    fn let_go(&self) {
        if !self.session.wait(END_LIMIT) {
            log::warn!("the mount lives on in another mount namespace; it ends now");
        }
    }

    /// Must end: clears the name at once, even if it is in use, and whatever
    /// REPO does. What is in memory is published when the service is closed; the
    /// kernel writes its pages as it lets go.
    fn stop(&mut self) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        if self.session.unmount(Unmount::IfIdle).is_ok() {
            return self.let_go();
        }
        log::warn!("the mount is in use; it is detached");
        if let Err(error) = self.session.detach_and_pull(PULL_LIMIT) {
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
            Err(Failure { code: 1, text: "internal error while closing; see the log".into() })
        });
        drop(one);
        let _ = self.closed.set(result.clone());
        let late = events.try_iter().filter_map(|event| match event {
            Event::Unmount(reply) => Some(reply),
            _ => None,
        });
        for reply in self.waiting.into_iter().chain(late) {
            let _ = reply.send(match &result {
                Ok(()) => Answer::Done,
                Err(failure) => Answer::Failed(failure.clone()),
            });
        }
        result
    }
}
