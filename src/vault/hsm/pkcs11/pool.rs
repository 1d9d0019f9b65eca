//! Sessions with a token: one a worker, each on a thread of its own, so that a
//! call that hangs costs its caller no more than the deadline.
//!
//! Invariants: a wrong PIN is tried once; what comes after its deadline is
//! dropped; a lost session is opened anew once for the job that met it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::UserType;
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;

use super::connection::{Connection, classify};
use super::pin::read_pin;
use crate::vault::config::Token;
use crate::vault::hsm::TokenError;

/// What sessions may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The session uses keys and makes none.
    Use,
    /// Make and destroy them too.
    Change,
}

/// What was asked, and by when it is worth doing.
struct Job {
    due: Instant,
    work: Box<dyn FnOnce(&mut Worker) + Send>,
}

/// How long the end of a pool waits for a call that hangs.
const LINGER: Duration = Duration::from_secs(2);

/// Sessions with one token.
pub struct Pool {
    /// Empty only while the pool ends.
    jobs: Option<mpsc::Sender<Job>>,
    /// Closed once all workers have ended.
    ended: Mutex<mpsc::Receiver<()>>,
    deadline: Duration,
    lost: Arc<AtomicBool>,
}

/// What all sessions share.
struct Place {
    context: Pkcs11,
    label: String,
    pin: AuthPin,
    access: Access,
    /// What the token said about the PIN, if it did not like it.
    refused: Mutex<Option<TokenError>>,
}

/// A thread's session.
struct Worker {
    place: Arc<Place>,
    session: Option<(Slot, Connection)>,
    lost: Arc<AtomicBool>,
}

impl Place {
    fn open(token: &Token, access: Access) -> Result<Self, TokenError> {
        let module = |why: Error| TokenError::Module {
            module: token.module.display().to_string(),
            why: match why {
                Error::Pkcs11(code, function) => format!("{function} answered {code:?}"),
                other => other.to_string(),
            },
        };
        let pin = read_pin(token)?;
        let context = Pkcs11::new(&token.module).map_err(module)?;
        match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(module(error)),
        }
        let label = token.token.clone();
        Ok(Self { context, label, pin, access, refused: Mutex::new(None) })
    }

    /// Whether the slot still has our token.
    fn is_in(&self, slot: Slot) -> bool {
        self.context.get_token_info(slot).is_ok_and(|info| info.label() == self.label)
    }

    fn slot(&self) -> Result<Slot, TokenError> {
        let slots = self.context.get_slots_with_token().map_err(classify)?;
        let mut found = slots.into_iter().filter(|slot| self.is_in(*slot));
        match (found.next(), found.next()) {
            (Some(slot), None) => Ok(slot),
            (None, _) => Err(TokenError::Absent(self.label.clone())),
            (Some(_), Some(_)) => Err(TokenError::Twins(self.label.clone())),
        }
    }

    fn connect(&self) -> Result<(Slot, Connection), TokenError> {
        // Held while logging in: one try of a PIN at a time, so that the
        // second worker hears of the first one's failure.
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = &*refused {
            return Err(error.clone());
        }
        let slot = self.slot()?;
        let session = match self.access {
            Access::Use => self.context.open_ro_session(slot),
            Access::Change => self.context.open_rw_session(slot),
        }
        .map_err(classify)?;
        match session.login(UserType::User, Some(&self.pin)) {
            // Login is the application's, not the session's.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => {
                let error = classify(error);
                if error.is_about_the_pin() {
                    *refused = Some(error.clone());
                }
                return Err(error);
            }
        }
        Ok((slot, Connection::new(session)))
    }
}

impl Worker {
    fn perform<T>(
        &mut self,
        work: &dyn Fn(&mut Connection) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        let outcome = self.attempt(work);
        let lost = |error: &TokenError| error.is_absence() || error.is_about_the_pin();
        self.lost.store(outcome.as_ref().is_err_and(lost), Ordering::Relaxed);
        outcome
    }

    fn attempt<T>(
        &mut self,
        work: &dyn Fn(&mut Connection) -> Result<T, TokenError>,
    ) -> Result<T, TokenError> {
        loop {
            let kept = self.session.take();
            let fresh = kept.is_none();
            let (slot, mut connection) = match kept {
                Some(kept) => kept,
                None => self.place.connect()?,
            };
            let error = match work(&mut connection) {
                Ok(value) => {
                    self.session = Some((slot, connection));
                    return Ok(value);
                }
                Err(error) => error,
            };
            // A library may say anything of a token that is gone, that it has
            // no such key for one.
            let error = if self.place.is_in(slot) { error } else { TokenError::Removed };
            if error != TokenError::Removed {
                self.session = Some((slot, connection));
                return Err(error);
            }
            drop(connection);
            if fresh || self.place.access == Access::Change {
                return Err(error);
            }
        }
    }
}

impl Pool {
    /// Loads the library, reads the PIN and starts `token.sessions` workers
    /// (one to change keys); the token is met by the first job.
    pub fn open(token: &Token, access: Access, deadline: Duration) -> Result<Self, TokenError> {
        let place = Arc::new(Place::open(token, access)?);
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let lost = Arc::new(AtomicBool::new(false));
        let (ending, ended) = mpsc::channel();
        let workers = if access == Access::Use { token.sessions } else { 1 };
        for number in 0..workers {
            let (queue, lost, ending) = (Arc::clone(&queue), Arc::clone(&lost), ending.clone());
            let mut worker = Worker { place: Arc::clone(&place), session: None, lost };
            std::thread::Builder::new()
                .name(format!("token-{number}"))
                .spawn(move || {
                    loop {
                        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                        let Ok(job) = next else { break };
                        // Nobody waits for it any more.
                        if Instant::now() < job.due {
                            (job.work)(&mut worker);
                        }
                    }
                    drop(worker);
                    drop(ending);
                })
                .map_err(|error| TokenError::Refused(format!("no thread: {error}")))?;
        }
        Ok(Self { jobs: Some(jobs), ended: Mutex::new(ended), deadline, lost })
    }

    /// Does `work` in a session, and waits for it until the deadline; with
    /// [`Access::Use`] it must bear being done twice. What is secret in `T` is
    /// on the heap and wiped by its type: moving it leaves no copy.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Connection) -> Result<T, TokenError> + Send + 'static,
    ) -> Result<T, TokenError> {
        let (reply, answer) = mpsc::sync_channel(1);
        let work = move |worker: &mut Worker| {
            let _ = reply.send(worker.perform(&work));
        };
        let job = Job { due: Instant::now() + self.deadline, work: Box::new(work) };
        let jobs = self.jobs.as_ref().expect("taken by drop only");
        jobs.send(job).map_err(|_| TokenError::Removed)?;
        answer.recv_timeout(self.deadline).unwrap_or_else(|error| {
            self.lost.store(true, Ordering::Relaxed);
            Err(match error {
                mpsc::RecvTimeoutError::Timeout => TokenError::Slow(self.deadline),
                // The worker died of a panic.
                mpsc::RecvTimeoutError::Disconnected => TokenError::Removed,
            })
        })
    }

    /// Whether the last job met no token, or could not log in.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Pool {
    /// Sessions must be closed before the process ends: libraries clean up then,
    /// and a session that is closed meanwhile crashes some.
    fn drop(&mut self) {
        drop(self.jobs.take());
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(LINGER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cryptoki::context::Function;

    #[test]
    fn what_a_library_says_is_sorted_by_what_to_do() {
        let sorted = |code| classify(Error::Pkcs11(code, Function::Login));
        assert_eq!(sorted(RvError::PinIncorrect), TokenError::PinWrong);
        assert_eq!(sorted(RvError::PinLocked), TokenError::PinLocked);
        for gone in [RvError::DeviceRemoved, RvError::TokenNotPresent, RvError::SessionClosed] {
            assert!(sorted(gone).is_absence());
        }
        let other = sorted(RvError::MechanismInvalid);
        assert!(!other.is_absence() && !other.is_about_the_pin());
        assert!(other.to_string().contains("MechanismInvalid"), "{other}");
    }
}
