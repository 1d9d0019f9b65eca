//! An attempt, step by step.

use opaque_ke::errors::{InternalError, ProtocolError};
use opaque_ke::{ClientLogin, ClientLoginFinishParameters, CredentialResponse, Identifiers};
use zeroize::Zeroizing;

use super::error::VaultError;
use crate::crypto::{KeyCheck, RepoId, Secret, random_id};
use crate::io::Random;
use crate::vault::protocol::{
    AttemptId, Binding, KE1, KE3, Locator, Manifest, Password, Refusal, Reply, Request, Rng,
    Stretch, Suite, Ticket, Tries, open_payload,
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
        let binding =
            Binding { repo: *repo, registration: locator.registration, fleet: manifest.fleet };
        let input = password.input(repo, cost)?;
        let started = ClientLogin::<Suite>::start(&mut Rng(random), &input)
            .map_err(|_| VaultError::Unexpected("the password cannot be blinded"))?;
        let attempt = random_id(random);
        let ke1: [u8; KE1] =
            started.message.serialize().as_slice().try_into().expect("RFC 9807's size for P-256");
        let message = Request::Attempt { ticket: locator.ticket, attempt, ke1: Box::new(ke1) };
        let state = Self {
            state: started.state,
            input,
            binding,
            attempt,
            ticket: locator.ticket,
            stretch: Stretch::new(cost),
        };
        Ok((message, state))
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
        let finished = match finished {
            // Not the password's fault, so it must not be called wrong.
            Err(ProtocolError::LibraryError(InternalError::KsfError)) => {
                return Err(VaultError::Memory);
            }
            other => {
                other.ok().filter(|finished| manifest.has_ake(&finished.server_s_pk.serialize()))
            }
        };
        let mut ke3 = [0; KE3];
        let export = if let Some(finished) = finished {
            ke3.copy_from_slice(&finished.message.serialize());
            let mut export: [u8; 32] = finished.export_key.into();
            Some(Secret::take(&mut export))
        } else {
            random.fill(&mut ke3);
            None
        };
        let message = Request::Redeem { ticket: self.ticket, attempt: self.attempt, ke3 };
        Ok((message, Proving { export, binding: self.binding, tries }))
    }
}

/// Waits for the payload, or for nothing: after a wrong password.
pub struct Proving {
    export: Option<Secret>,
    binding: Binding,
    tries: Tries,
}

/// What the vault handed out.
pub struct Unlocked {
    /// Key ids and keys, the current one first.
    pub keys: Vec<(KeyCheck, Secret)>,
    /// What is left now.
    pub tries: Tries,
    /// The manifest's epoch: to be remembered, and never gone below.
    pub epoch: u64,
}

impl Proving {
    /// Whether the password was right.
    pub fn is_right(&self) -> bool {
        self.export.is_some()
    }

    /// The error after a wrong password, whatever the vault answers.
    pub fn wrong(&self) -> VaultError {
        VaultError::WrongPassword(self.tries)
    }

    /// Opens the payload.
    pub fn answered(self, reply: Reply, epoch: u64) -> Result<Unlocked, VaultError> {
        let Some(export) = &self.export else {
            return Err(match reply {
                Reply::Refused(Refusal::BadProof(tries)) => VaultError::WrongPassword(tries),
                _ => self.wrong(),
            });
        };
        match reply {
            Reply::Opened { payload, tries } => {
                let keys = open_payload(export, &self.binding, &payload[..])
                    .map_err(|_| VaultError::Unexpected("a damaged payload"))?;
                Ok(Unlocked { keys, tries, epoch })
            }
            Reply::Refused(Refusal::BadProof(_)) => {
                Err(VaultError::Unexpected("a right proof was refused"))
            }
            Reply::Refused(refusal) => Err(refusal.into()),
            _ => Err(VaultError::Unexpected("a reply to another question")),
        }
    }
}
