//! The driver: carries the steps' requests to a site, again where that is free.

use std::collections::BTreeMap;
use std::time::Duration;

use zeroize::Zeroizing;

use super::error::VaultError;
use super::login::{LoggingIn, Unlocked};
use super::register::{Claim, Registering, retirement};
use crate::crypto::{KeyCheck, RepoId, Secret};
use crate::io::{Clock, Random};
use crate::vault::line::{Channel, ConnectError, Greeting, Timeouts, WANTS_ACCOUNT, pause};
use crate::vault::protocol::{
    Address, Argon2Choice, Argon2Cost, Bind, Binding, Fingerprint, KE3, Locator, Manifest, Mark,
    Note, NoteKeys, Password, RecordState, Refusal, Reply, Request, Retirement, UNICODE_VERSION,
    audience,
};

/// Times a request other than a proof is sent to each endpoint before giving up.
const SENDS: usize = 3;
/// Times a note is merged with one that came first.
const NOTE_RACES: usize = 8;
const PAUSE: Duration = Duration::from_millis(250);

/// What the owner trusts: a fleet's root, and the highest epoch of its manifest
/// that this machine saw (0 if none).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    /// The fingerprint of the vault's root.
    pub fingerprint: Fingerprint,
    /// The highest epoch of the vault's manifest that this machine has seen.
    pub epoch: u64,
}

/// The state of a record, and the manifest of its vault.
#[derive(Clone, Debug)]
pub struct Status {
    /// The state of the record.
    pub state: RecordState,
    /// What the root says about the fleet (key protection, epoch, sites).
    pub manifest: Manifest,
}

/// What is to be registered, and where.
#[derive(Clone, Copy)]
pub struct NewRecord<'a> {
    /// The fleet: typed, or read from a sealed copy; never from a bare folder.
    pub address: &'a Address,
    /// Highest epoch of that fleet's manifest seen on this machine, or 0.
    pub epoch: u64,
    /// The id of the repository.
    pub repo: &'a RepoId,
    /// 1 to 8 key ids and keys, the current one first; it signs for the record.
    pub keys: &'a [(KeyCheck, &'a Secret)],
    /// The new password.
    pub password: &'a Password,
    /// How the cost is chosen.
    pub argon: Argon2Choice,
    /// By what right the client registers.
    pub claim: Claim<'a>,
    /// Whether the record is to open for one account only.
    pub bind: Bind,
}

/// A registration that was proven by a login.
pub struct Registration {
    /// What goes into the folder.
    pub locator: Locator,
    /// What the root says about the fleet: its key protection is to be shown,
    /// its epoch to be remembered.
    pub manifest: Manifest,
    /// Whether the record opens only for the account that registered it.
    pub bound: bool,
}

/// A client of vaults. It connects to one endpoint after another until a site answers.
pub struct Client<'a> {
    random: &'a dyn Random,
    clock: &'a dyn Clock,
    timeouts: Timeouts,
    token: Option<Token>,
}

/// An account's token, and who may see it.
pub struct Token {
    /// As the relay gave it.
    pub text: Zeroizing<String>,
    /// Endpoints that it may be sent to, if they are relays.
    pub endpoints: Vec<String>,
}

impl Token {
    /// The token, if it may be sent to `endpoint`: one that this machine's owner named or
    /// pinned, and not another relay than the one that the token is for.
    pub(super) fn at(&self, endpoint: &str) -> Option<&str> {
        let host = endpoint.rsplit_once('+').map_or(endpoint, |(_, host)| host);
        let is_for = audience(&self.text).is_none_or(|audience| audience == host);
        (is_for && self.endpoints.iter().any(|known| known == endpoint))
            .then_some(self.text.as_str())
    }
}

/// A fleet and, while it holds, a channel to one of its sites.
struct Session<'a> {
    client: &'a Client<'a>,
    address: Address,
    pin: Pin,
    /// Least epoch of its manifest.
    least: u64,
    channel: Channel,
    /// The index of the address's endpoint that the channel leads to.
    at: usize,
    manifest: Manifest,
    broken: bool,
}

impl<'a> Client<'a> {
    /// A client that waits at most `timeouts` for an endpoint and for its replies.
    pub fn new(random: &'a dyn Random, clock: &'a dyn Clock, timeouts: Timeouts) -> Self {
        Self { random, clock, timeouts, token: None }
    }

    /// Sets the account's token that is shown to relays.
    #[must_use]
    pub fn with_token(self, token: Option<Token>) -> Self {
        Self { token, ..self }
    }

    /// Asks a fleet for its manifest and checks it against the pin.
    pub fn manifest(&self, address: &Address, pin: Pin) -> Result<Manifest, VaultError> {
        Ok(self.session(address, pin)?.manifest)
    }

    /// Registers, activates, does one real login, and only then returns.
    pub fn register(&self, new: &NewRecord<'_>) -> Result<Registration, VaultError> {
        let NewRecord { address, epoch, repo, keys, password, argon, claim, bind } = *new;
        password.check_new()?;
        let cost = match argon {
            Argon2Choice::Calibrated => Argon2Cost::calibrate(self.clock),
            Argon2Choice::Exactly(cost) => cost.check()?,
        };
        let pin = Pin { fingerprint: address.fingerprint(), epoch };
        let mut session = self.session(address, pin)?;
        let manifest = session.manifest.clone();
        let (request, step) =
            Registering::start(&manifest, repo, password, cost, (claim, bind), self.random)?;
        let reply = session.call(&request)?;
        if bind == Bind::Account && matches!(reply, Reply::Refused(Refusal::Account)) {
            return Err(VaultError::Unbindable);
        }
        let (request, step) = step.evaluated(reply, &manifest, keys, self.random)?;
        let reply = session.call(&request)?;
        let (request, step) = step.stored(&reply)?;
        let reply = session.call(&request)?;
        let registered = step.activated(&reply)?;
        let locator = Locator {
            address: address.clone(),
            ticket: registered.ticket,
            registration: registered.registration,
            cost: registered.cost,
            unicode: UNICODE_VERSION,
            epoch: manifest.epoch,
        };
        let unlocked = session.login(&locator, repo, password)?;
        let same = unlocked.keys.len() == keys.len()
            && unlocked.keys.iter().zip(keys).all(|(got, given)| {
                got.0 == given.0
                    && bool::from(subtle::ConstantTimeEq::ct_eq(
                        &got.1.expose()[..],
                        &given.1.expose()[..],
                    ))
            });
        if same {
            Ok(Registration { locator, manifest, bound: registered.bound })
        } else {
            Err(VaultError::Unexpected("other keys than registered"))
        }
    }

    /// Opens a record with a password. Spends at most one try.
    pub fn unlock(
        &self,
        locator: &Locator,
        repo: &RepoId,
        password: &Password,
        pin: Pin,
    ) -> Result<Unlocked, VaultError> {
        self.session_of(locator, pin)?.login(locator, repo, password)
    }

    /// Deletes a record, so that its password opens nothing any more. `key` is the first of the
    /// keys with which the record was registered.
    pub fn delete(
        &self,
        locator: &Locator,
        repo: &RepoId,
        key: &Secret,
        pin: Pin,
    ) -> Result<(), VaultError> {
        self.retire(locator, repo, key, pin, Retirement::Deleted)
    }

    /// Ends a registration for the given reason. It is no error if the registration is over
    /// already, was never activated, or is not known to the vault: nothing is left of it then.
    pub(crate) fn retire(
        &self,
        locator: &Locator,
        repo: &RepoId,
        key: &Secret,
        pin: Pin,
        reason: Retirement,
    ) -> Result<(), VaultError> {
        let mut session = self.session_of(locator, pin)?;
        let fleet = session.manifest.fleet;
        let binding = Binding { repo: *repo, registration: locator.registration, fleet };
        match session.call(&retirement(key, &binding, locator.ticket, reason))? {
            Reply::Retired(_)
            | Reply::Refused(Refusal::UnknownTicket | Refusal::WrongState(RecordState::Ended(_))) => {
                Ok(())
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(VaultError::Unexpected("a reply to another question")),
        }
    }

    /// Asks the vault for the state of a record. This takes no try.
    pub fn status(&self, locator: &Locator, pin: Pin) -> Result<Status, VaultError> {
        let mut session = self.session_of(locator, pin)?;
        match session.call(&Request::Status { ticket: locator.ticket })? {
            Reply::State(state) => Ok(Status { state, manifest: session.manifest }),
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(VaultError::Unexpected("a reply to another question")),
        }
    }

    /// Notes with a record how far devices have come: the higher of what is there and
    /// of `marks`. What is there afterwards.
    pub(crate) fn write_note(
        &self,
        locator: &Locator,
        keys: &NoteKeys,
        pin: Pin,
        marks: &[Mark],
    ) -> Result<Vec<Mark>, VaultError> {
        let mut session = self.session_of(locator, pin)?;
        let fleet = session.manifest.fleet;
        let mut send = |note: Note| {
            let (ticket, registration) = (locator.ticket, locator.registration);
            let signature = keys.sign(fleet, &note);
            match session.call(&Request::Note { ticket, registration, note, signature })? {
                Reply::Noted(note) => Ok(note),
                Reply::Refused(refusal) => Err(VaultError::from(refusal)),
                _ => Err(VaultError::Unexpected("a reply to another question")),
            }
        };
        // Number 0 is never kept: it asks.
        let mut there = send(Note::default())?;
        for _ in 0..NOTE_RACES {
            // What cannot be opened is not the owner's, and is written over.
            let known = keys.open(&there).unwrap_or_default();
            let merged = higher(&known, marks);
            if merged == known {
                return Ok(known);
            }
            let number = there.number().checked_add(1).ok_or(VaultError::Unexpected("a note"))?;
            let note = keys.seal(number, &merged);
            there = send(note.clone())?;
            if there == note {
                return Ok(merged);
            }
        }
        Err(VaultError::Unexpected("another note each time"))
    }

    fn session(&self, address: &Address, pin: Pin) -> Result<Session<'_>, VaultError> {
        self.session_from(address, pin, pin.epoch)
    }

    /// With a manifest that is not older than the one which the owner saw at the
    /// registration.
    fn session_of(&self, locator: &Locator, pin: Pin) -> Result<Session<'_>, VaultError> {
        self.session_from(&locator.address, pin, pin.epoch.max(locator.epoch))
    }

    fn session_from(
        &self,
        address: &Address,
        pin: Pin,
        least: u64,
    ) -> Result<Session<'_>, VaultError> {
        if address.fingerprint() != pin.fingerprint {
            return Err(VaultError::NotPinned(format!(
                "the folder names a vault with root {}, the pinned one has {}",
                address.fingerprint(),
                pin.fingerprint
            )));
        }
        let (channel, at) = self.open(address, pin, least, 0)?;
        let manifest = channel.manifest().clone();
        Ok(Session {
            client: self,
            address: address.clone(),
            pin,
            least,
            channel,
            at,
            manifest,
            broken: false,
        })
    }

    /// A channel to the first site that answers, beginning with the endpoint `from`,
    /// and which endpoint that was. A site that is not the pinned fleet's is worth
    /// more words than one that is down.
    fn open(
        &self,
        address: &Address,
        pin: Pin,
        least: u64,
        from: usize,
    ) -> Result<(Channel, usize), VaultError> {
        let mut worst: Option<VaultError> = None;
        let hosts = address.endpoints();
        for at in (0..hosts.len()).map(|step| (from + step) % hosts.len()) {
            let host = &hosts[at];
            let token = self.token.as_ref().and_then(|token| token.at(host));
            let withheld = self.token.is_some() && token.is_none();
            let opened = Greeting::open_as(host, &self.timeouts, token)
                .and_then(|greeting| greeting.verify(pin.fingerprint, least));
            match opened {
                Ok(channel) => match self.check_end(channel.manifest(), pin) {
                    Ok(()) => return Ok((channel, at)),
                    Err(error) => worst = Some(error),
                },
                Err(error) => {
                    let error = match error {
                        ConnectError::Relay(WANTS_ACCOUNT) if withheld => ConnectError::Relay(
                            "it wants an account; the token is for another relay, or only the \
                             folder names this one: give the vault's address by --vault",
                        ),
                        other => other,
                    };
                    let error = VaultError::connect(host, error);
                    if worst.is_none() || matches!(error, VaultError::NotPinned(_)) {
                        worst = Some(error);
                    }
                }
            }
        }
        Err(worst.expect("an address has at least one host"))
    }
}

impl Client<'_> {
    /// Refuses a manifest that is over, unless this machine has seen one of its epoch: an old
    /// one may have been kept by somebody who was thrown out since.
    fn check_end(&self, manifest: &Manifest, pin: Pin) -> Result<(), VaultError> {
        let now = self.clock.now().secs.max(0) as u64;
        if now <= manifest.ends || manifest.epoch == pin.epoch {
            return Ok(());
        }
        Err(VaultError::Over(manifest.end_date()))
    }
}

/// Of each device the higher generation, in order.
fn higher(known: &[Mark], new: &[Mark]) -> Vec<Mark> {
    let mut all: BTreeMap<[u8; 16], u64> = known.iter().copied().collect();
    for (device, generation) in new {
        let there = all.entry(*device).or_default();
        *there = (*there).max(*generation);
    }
    all.into_iter().collect()
}

/// An attempt may have arrived although no answer did.
fn in_the_middle(error: VaultError, right: bool) -> VaultError {
    match error {
        VaultError::Unreachable { host, why } => VaultError::Unanswered { host, why, right },
        other => other,
    }
}

impl Session<'_> {
    fn host(&self) -> String {
        self.address.endpoints().join(", ")
    }

    /// One exchange, at the next site if the last one failed: any site goes on
    /// with what another began. The fleet must not change in between.
    fn once(&mut self, request: &Request) -> Result<Reply, VaultError> {
        if self.broken {
            let (channel, at) =
                self.client.open(&self.address, self.pin, self.least, self.at + 1)?;
            if channel.manifest().fleet != self.manifest.fleet {
                return Err(VaultError::NotPinned("the fleet changed in the middle".into()));
            }
            (self.channel, self.at) = (channel, at);
            self.broken = false;
        }
        let reply = self.channel.call(request).map_err(|error: ConnectError| {
            self.broken = true;
            VaultError::connect(&self.host(), error)
        })?;
        // It may be cut off from the ledger, and another site not.
        // Another place may lead over the relay that knows the account.
        self.broken = matches!(reply, Reply::Refused(Refusal::TryLater | Refusal::Account));
        Ok(reply)
    }

    /// Sends a request until it is answered, a few times. Every request of the
    /// protocol may be repeated: the vault answers the same or changes nothing.
    fn call(&mut self, request: &Request) -> Result<Reply, VaultError> {
        let mut sent = 1;
        let sends = SENDS * self.address.endpoints().len();
        loop {
            match self.once(request) {
                Err(VaultError::Unreachable { .. }) if sent < sends => {}
                Ok(Reply::Refused(Refusal::TryLater)) if sent < sends => {}
                Ok(Reply::Refused(Refusal::Account)) if sent < self.address.endpoints().len() => {}
                other => return other,
            }
            pause(PAUSE);
            sent += 1;
        }
    }

    /// Sends a proof, and tries longer than with other requests: the try is taken already.
    fn call_for_proof(&mut self, request: &Request) -> Result<Reply, VaultError> {
        let deadline = self.client.clock.elapsed() + self.client.timeouts.proof;
        loop {
            let outcome = self.once(request);
            let again = matches!(
                outcome,
                Err(VaultError::Unreachable { .. }) | Ok(Reply::Refused(Refusal::TryLater))
            );
            if !again {
                return outcome;
            }
            if self.client.clock.elapsed() + PAUSE > deadline {
                return outcome
                    .and_then(|_| Err(self.undecided(true)))
                    .map_err(|error| in_the_middle(error, true));
            }
            pause(PAUSE);
        }
    }

    /// The vault could not say whether it counted an attempt.
    fn undecided(&self, right: bool) -> VaultError {
        let why = "it cannot use its ledger or its clock right now".to_owned();
        VaultError::Unanswered { host: self.host(), why, right }
    }

    fn login(
        &mut self,
        locator: &Locator,
        repo: &RepoId,
        password: &Password,
    ) -> Result<Unlocked, VaultError> {
        let manifest = self.manifest.clone();
        let random = self.client.random;
        let (request, step) = LoggingIn::start(&manifest, locator, repo, password, random)?;
        let reply = self.call(&request).map_err(|error| in_the_middle(error, false))?;
        if let Reply::Refused(Refusal::TryLater) = reply {
            return Err(self.undecided(false));
        }
        let refused = matches!(reply, Reply::Refused(_));
        let (proof, step) = match step.challenged(reply, &manifest, random) {
            Ok(challenged) => challenged,
            Err(error) => {
                // What carries the line must not see that there was no challenge.
                if let (true, Request::Attempt { ticket, attempt, .. }) = (refused, &request) {
                    let mut ke3 = [0; KE3];
                    random.fill(&mut ke3);
                    let _ = self.once(&Request::Redeem { ticket: *ticket, attempt: *attempt, ke3 });
                }
                return Err(error);
            }
        };
        if !step.is_right() {
            // Sent all the same, once; what counts was said with KE2.
            return match self.once(&proof) {
                Ok(reply) => Err(step
                    .answered(reply, &manifest)
                    .err()
                    .unwrap_or(VaultError::Unexpected("a wrong proof was accepted"))),
                Err(_) => Err(step.failed()),
            };
        }
        let reply = self.call_for_proof(&proof)?;
        step.answered(reply, &manifest)
    }
}
