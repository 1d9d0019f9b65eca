//! An attempt, step by step.

use opaque_ke::errors::{InternalError, ProtocolError};
use opaque_ke::{ClientLogin, ClientLoginFinishParameters, CredentialResponse, Identifiers};
use zeroize::Zeroizing;

use super::error::VaultError;
use crate::crypto::{KeyCheck, RepoId, Secret, random_id};
use crate::io::Random;
use crate::vault::protocol::{
    AttemptId, Binding, Events, KE1, KE3, Locator, Manifest, Mark, NoteKeys, Password, Refusal,
    Reply, Request, Rng, Stretch, Suite, Ticket, Tries, open_payload, terms_hash,
};

/// Waits for KE2. In memory only: on disk it would be a test for passwords
/// without Argon2id.
pub struct LoggingIn {
    state: ClientLogin<Suite>,
    input: Zeroizing<Vec<u8>>,
    binding: Binding,
    attempt: AttemptId,
    ticket: Ticket,
    stretch: Stretch,
}

impl LoggingIn {
    /// Blinds the password under a fresh attempt id. The request may be sent
    /// again as it is; only its first arrival spends a try.
    pub fn start(
        manifest: &Manifest,
        locator: &Locator,
        repo: &RepoId,
        password: &Password,
        random: &dyn Random,
    ) -> Result<(Request, Self), VaultError> {
        let cost = locator.cost.check()?;
        let stretch = Stretch::claim(cost)?;
        let binding =
            Binding { repo: *repo, registration: locator.registration, fleet: manifest.fleet };
        let input = password.input(repo, cost)?;
        let started = ClientLogin::<Suite>::start(&mut Rng(random), &input)
            .map_err(|_| VaultError::Unexpected("the password cannot be blinded"))?;
        let attempt = random_id(random);
        let ke1: [u8; KE1] =
            started.message.serialize().as_slice().try_into().expect("RFC 9807's size for P-256");
        let terms = terms_hash(repo, &locator.registration, cost);
        let (ticket, ke1) = (locator.ticket, Box::new(ke1));
        let message = Request::Attempt { ticket, attempt, terms, ke1 };
        let state =
            Self { state: started.state, input, binding, attempt, ticket: locator.ticket, stretch };
        Ok((message, state))
    }

    /// Lets stretching fail.
    #[cfg(all(test, feature = "server"))]
    pub(super) fn without_memory(mut self) -> Self {
        self.stretch = Stretch::default();
        self
    }

    /// Stretches the password and checks KE2. A proof-sized request comes out
    /// whether or not the password was right, so that the line does not tell.
    pub fn challenged(
        self,
        reply: Reply,
        manifest: &Manifest,
        random: &dyn Random,
    ) -> Result<(Request, Proving), VaultError> {
        let (ke2, tries) = match reply {
            Reply::Challenge { ke2, tries } => (ke2, tries),
            Reply::Refused(refusal) => return Err(refusal.into()),
            _ => return Err(VaultError::Unexpected("a reply to another question")),
        };
        let (client, server) = (self.binding.client_id(), self.binding.server_id());
        let context = self.binding.context(&self.attempt);
        let identifiers = Identifiers { client: Some(&client), server: Some(&server) };
        let finished = CredentialResponse::<Suite>::deserialize(&ke2[..]).and_then(|response| {
            self.state.finish(
                &mut Rng(random),
                &self.input,
                response,
                ClientLoginFinishParameters::new(Some(&context), identifiers, Some(&self.stretch)),
            )
        });
        let mut ke3 = [0; KE3];
        random.fill(&mut ke3);
        let outcome = match finished {
            Ok(finished) => match manifest.generation_of(&finished.server_s_pk.serialize()) {
                Some(generation) => {
                    ke3.copy_from_slice(&finished.message.serialize());
                    let mut export: [u8; 32] = finished.export_key.into();
                    Outcome::Right(Secret::take(&mut export), generation)
                }
                // Neither is the password's fault, so it must not be called wrong.
                None => Outcome::ForeignKey,
            },
            Err(ProtocolError::LibraryError(InternalError::KsfError)) => Outcome::NotStretched,
            Err(_) => Outcome::Wrong,
        };
        let message = Request::Redeem { ticket: self.ticket, attempt: self.attempt, ke3 };
        Ok((message, Proving { outcome, binding: self.binding, tries }))
    }
}

/// What the client knows of the password after KE2.
enum Outcome {
    /// With the export key, and the key's generation.
    Right(Secret, u32),
    Wrong,
    ForeignKey,
    NotStretched,
}

/// Waits for the payload, or for nothing: after a wrong password.
pub struct Proving {
    outcome: Outcome,
    binding: Binding,
    tries: Tries,
}

/// What the vault handed out.
pub struct Unlocked {
    /// Key ids and keys, the current one first.
    pub keys: Vec<(KeyCheck, Secret)>,
    /// The tries that are left now.
    pub tries: Tries,
    /// What happened to the record, this opening included.
    pub events: Events,
    /// How far each device had come, as the owner's devices noted.
    pub marks: Vec<Mark>,
    /// Generation of the keys that the record was made under; one older than the
    /// manifest's newest should be registered anew.
    pub generation: u32,
    /// The manifest: to be remembered, and its epoch never gone below.
    pub manifest: Manifest,
}

impl Proving {
    /// Whether the password was right.
    pub(crate) fn is_right(&self) -> bool {
        matches!(self.outcome, Outcome::Right(..))
    }

    /// The OPAQUE export key, after a right password: for the test that searches
    /// disks for it.
    #[doc(hidden)]
    pub fn export_key(&self) -> Option<&Secret> {
        match &self.outcome {
            Outcome::Right(export, _) => Some(export),
            _ => None,
        }
    }

    /// The error where the password was not found right, whatever the vault
    /// answers.
    pub fn failed(&self) -> VaultError {
        match self.outcome {
            Outcome::NotStretched => VaultError::Memory { counted: true },
            Outcome::ForeignKey => VaultError::ForeignKey,
            Outcome::Right(..) | Outcome::Wrong => VaultError::WrongPassword(self.tries),
        }
    }

    /// Opens the payload that the site sent after the proof, and checks it.
    pub fn answered(self, reply: Reply, manifest: &Manifest) -> Result<Unlocked, VaultError> {
        let Outcome::Right(export, generation) = &self.outcome else {
            return Err(match (&self.outcome, reply) {
                (Outcome::Wrong, Reply::Refused(Refusal::BadProof(tries))) => {
                    VaultError::WrongPassword(tries)
                }
                _ => self.failed(),
            });
        };
        match reply {
            Reply::Opened { payload, tries, events, note } => {
                let keys = open_payload(export, &self.binding, &payload[..])
                    .map_err(|_| VaultError::Unexpected("a damaged payload"))?;
                // A note that is not the owner's says nothing; the key counts more.
                let open = |(_, key): &(KeyCheck, Secret)| {
                    let Binding { repo, registration, .. } = &self.binding;
                    NoteKeys::derive(key, repo, registration).open(&note).ok()
                };
                let marks = keys.first().and_then(open).unwrap_or_default();
                let (generation, manifest) = (*generation, manifest.clone());
                Ok(Unlocked { keys, tries, events, marks, generation, manifest })
            }
            Reply::Refused(Refusal::BadProof(_)) => {
                Err(VaultError::Unexpected("a right proof was refused"))
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(VaultError::Unexpected("a reply to another question")),
        }
    }
}
