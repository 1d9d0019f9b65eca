//! What the daemon does for the command line.

use std::path::PathBuf;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::run::{Event, write_back_and_checkpoint};
use super::service::{Service, Why};
use crate::control::{
    Answer, Described, Exchange, Failure, Handler, MountLocation, Registry, Request, take_end,
};
use crate::fuse::Session;
use crate::io::Exit;

/// How long somebody waits for a mount that is being made.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A mount that is being made: its daemon can be asked before the kernel shows
/// it, or whoever saw it at once would find nobody.
#[derive(Default)]
pub(super) struct PendingMount {
    session: Mutex<Option<Result<Weak<Session>, Failure>>>,
    changed: Condvar,
}

impl PendingMount {
    /// Ends all waits: the mount is usable, or could not be made.
    pub(super) fn finish(&self, session: Result<Weak<Session>, Failure>) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
        self.changed.notify_all();
    }

    fn wait(&self) -> Result<Weak<Session>, Failure> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let (session, _) = self
            .changed
            .wait_timeout_while(session, START_LIMIT, |session| session.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        session.clone().unwrap_or_else(|| {
            let text = "the mount is still being made; try again".into();
            Err(Failure { code: Exit::Unusable, text })
        })
    }
}

pub(super) struct Requests<S> {
    pub(super) service: Arc<S>,
    pub(super) pending: Arc<PendingMount>,
    pub(super) one_checkpoint: Arc<Mutex<()>>,
    pub(super) events: Sender<Event>,
    /// How closing ended; set once a note about it is where it belongs.
    pub(super) closed: Arc<OnceLock<Result<(), Failure>>>,
    pub(super) registry: Registry,
    pub(super) mountpoint: PathBuf,
    pub(super) repo: PathBuf,
}

impl<S: Service> Requests<S> {
    fn sync(&self, session: &Weak<Session>) -> Result<(), Failure> {
        let gone = || Failure { code: Exit::Other, text: "the mount is going away".into() };
        let session = session.upgrade().ok_or_else(gone)?;
        let _one = self.one_checkpoint.lock().unwrap_or_else(PoisonError::into_inner);
        write_back_and_checkpoint(&*self.service, &session, Why::Asked)
    }

    /// Who has the mount, as a part of a sentence.
    fn users(&self, session: &Weak<Session>) -> String {
        let mountpoint = self.mountpoint.display();
        let session = session.upgrade().filter(|session| session.is_alive());
        let Some(session) = session else {
            return format!("was unmounted from {mountpoint}, and still works for it");
        };
        match session.location() {
            Ok(MountLocation::At(place)) => format!("has it mounted on {}", place.display()),
            Ok(MountLocation::Covered(place, _)) => {
                format!("has it mounted on {}, below another file system", place.display())
            }
            Ok(MountLocation::Gone) => {
                let users = session.users();
                format!("was unmounted from {mountpoint}, and is still used by {users}")
            }
            Err(error) => format!("has it mounted on {mountpoint}, or had: {error}"),
        }
    }

    fn unmount(&self) -> Answer {
        let (reply, outcome) = mpsc::channel();
        let _ = self.events.send(Event::Unmount(reply));
        outcome.recv().unwrap_or_else(|_| match self.closed.get() {
            // Nobody took the event any more: all is over. Whoever asks after this one
            // learns nothing from the note.
            Some(Ok(())) => {
                take_end(&self.registry, &self.mountpoint);
                Answer::Done
            }
            Some(Err(failure)) => Answer::Failed(failure.clone()),
            None => Answer::Failed(Failure {
                code: Exit::Other,
                text: "the daemon ended without an answer".into(),
            }),
        })
    }
}

impl<S: Service> Handler for Requests<S> {
    fn describe(&self) -> Described {
        Described {
            pid: std::process::id(),
            mountpoint: self.mountpoint.clone(),
            repo: self.repo.clone(),
        }
    }

    fn handle(&self, request: Request, exchange: &mut Exchange<'_>) -> Answer {
        let session = match self.pending.wait() {
            Ok(session) => session,
            Err(failure) => return Answer::Failed(failure),
        };
        match request {
            Request::Status => match exchange.send(&self.service.status()) {
                Ok(()) => Answer::Done,
                Err(error) => {
                    Answer::Failed(Failure { code: Exit::Other, text: error.to_string() })
                }
            },
            Request::Sync => match self.sync(&session) {
                Ok(()) => Answer::Done,
                Err(failure) => Answer::Failed(failure),
            },
            Request::Unmount => self.unmount(),
            Request::Users => match exchange.send(self.users(&session).as_bytes()) {
                Ok(()) => Answer::Done,
                Err(error) => {
                    Answer::Failed(Failure { code: Exit::Other, text: error.to_string() })
                }
            },
            Request::Call(body) => self.service.call(&body, exchange),
            Request::Describe | Request::Input(_) | Request::EndOfInput => {
                Answer::Failed(Failure {
                    code: Exit::Other,
                    text: "there is no command that this belongs to".into(),
                })
            }
        }
    }
}
