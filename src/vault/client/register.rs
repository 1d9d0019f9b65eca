//! A registration, step by step. Every step gives the next request; each may be
//! sent again as it is.

use ed25519_dalek::{Signer, SigningKey};
use opaque_ke::{
    ClientRegistration, ClientRegistrationFinishParameters, Identifiers, RegistrationResponse,
};
use zeroize::Zeroizing;

use super::error::VaultError;
use crate::crypto::{Hash, KeyCheck, Purpose, RepoId, Secret, derive, random_id};
use crate::io::Random;
use crate::vault::protocol::{
    Argon2Cost, Bind, Binding, Enrolled, Invite, Locator, Manifest, NoteKeys, Password,
    REGISTER_REQUEST, RegistrationId, Reply, Request, Retirement, Right, Rng, Stretch, Suite,
    Ticket, activation_statement, seal_payload, succession_statement, terms_hash,
};

/// The Ed25519 key that speaks for the owner about one registration.
pub(super) fn signing_key(
    key: &Secret,
    repo: &RepoId,
    registration: &RegistrationId,
) -> SigningKey {
    SigningKey::from_bytes(derive(Purpose::VaultSigning, key, &[repo, registration]).expose())
}

/// The request that ends a registration, signed.
pub(super) fn retirement(
    key: &Secret,
    binding: &Binding,
    ticket: Ticket,
    reason: Retirement,
) -> Request {
    let signing = signing_key(key, &binding.repo, &binding.registration);
    let signature = signing.sign(&reason.statement(binding)).to_bytes();
    Request::Retire { ticket, registration: binding.registration, reason, signature }
}

/// By what right a client asks for a registration.
#[derive(Clone, Copy)]
pub enum Claim<'a> {
    /// None: the vault takes anybody, or whoever has an account.
    Open,
    /// An invite of the vault's staff.
    Invite(Invite),
    /// The owner has an active record at this vault, and the new one replaces it.
    After {
        /// The locator of the old record.
        locator: &'a Locator,
        /// The first of the keys it was registered with.
        key: &'a Secret,
    },
}

impl Claim<'_> {
    fn right(&self, new: &Binding, ticket: &Ticket) -> Right {
        match *self {
            Self::Open => Right::Open,
            Self::Invite(invite) => Right::Invite(invite),
            Self::After { locator, key } => {
                let (ticket_before, before) = (locator.ticket, locator.registration);
                let old = Binding { registration: before, ..*new };
                let statement = succession_statement(&old, &new.registration, ticket);
                let signing = signing_key(key, &old.repo, &before);
                let signature = signing.sign(&statement).to_bytes();
                Right::Successor { ticket: ticket_before, registration: before, signature }
            }
        }
    }
}

fn unexpected(reply: &Reply) -> VaultError {
    match reply {
        Reply::Refused(refusal) => (*refusal).into(),
        _ => VaultError::Unexpected("a reply to another question"),
    }
}

/// Waits for the evaluated password.
pub struct Registering {
    state: ClientRegistration<Suite>,
    request: [u8; REGISTER_REQUEST],
    input: Zeroizing<Vec<u8>>,
    binding: Binding,
    ticket: Ticket,
    cost: Argon2Cost,
    terms: Hash,
    stretch: Stretch,
}

impl Registering {
    /// Blinds `password`, which must be fit for registration, under a fresh
    /// ticket and registration id.
    pub fn start(
        manifest: &Manifest,
        repo: &RepoId,
        password: &Password,
        cost: Argon2Cost,
        (claim, bind): (Claim<'_>, Bind),
        random: &dyn Random,
    ) -> Result<(Request, Self), VaultError> {
        password.check_new()?;
        let cost = cost.at_least(manifest.cost).check()?;
        let binding =
            Binding { repo: *repo, registration: random_id(random), fleet: manifest.fleet };
        let ticket = random_id(random);
        let stretch = Stretch::claim(cost)?;
        let input = password.input(repo, cost)?;
        let terms = terms_hash(repo, &binding.registration, cost);
        let started = ClientRegistration::<Suite>::start(&mut Rng(random), &input)
            .map_err(|_| VaultError::Unexpected("the password cannot be blinded"))?;
        let request: [u8; REGISTER_REQUEST] = started.message.serialize().into();
        let message = Request::RegisterStart {
            ticket,
            registration: binding.registration,
            repo: *repo,
            right: claim.right(&binding, &ticket),
            bind,
            terms,
            request,
        };
        let state = started.state;
        Ok((message, Self { state, request, input, binding, ticket, cost, terms, stretch }))
    }

    /// Stretches the password and seals `keys` (the current one first) with
    /// what comes out. Takes as long as the cost says.
    pub fn evaluated(
        self,
        reply: Reply,
        manifest: &Manifest,
        keys: &[(KeyCheck, &Secret)],
        random: &dyn Random,
    ) -> Result<(Request, Uploading), VaultError> {
        let Reply::Registered { reply, generation, bound } = reply else {
            return Err(unexpected(&reply));
        };
        let response = RegistrationResponse::<Suite>::deserialize(&reply[..])
            .map_err(|_| VaultError::Unexpected("a malformed registration reply"))?;
        let (client, server) = (self.binding.client_id(), self.binding.server_id());
        let identifiers = Identifiers { client: Some(&client), server: Some(&server) };
        let finished = self
            .state
            .finish(
                &mut Rng(random),
                &self.input,
                response,
                ClientRegistrationFinishParameters::new(identifiers, Some(&self.stretch)),
            )
            .map_err(|_| VaultError::Unexpected("a registration reply that does not fit"))?;
        let current = manifest.ake.last().map(|key| (key.generation, &key.public[..]));
        let used = finished.server_s_pk.serialize();
        if current != Some((generation, used.as_slice())) {
            return Err(VaultError::Unexpected("a key that is not in its manifest"));
        }
        let mut export: [u8; 32] = finished.export_key.into();
        let export = Secret::take(&mut export);
        let payload = seal_payload(&export, &self.binding, keys).ok_or(VaultError::Keys)?;
        let current = keys.first().ok_or(VaultError::Keys)?.1;
        let signing = signing_key(current, &self.binding.repo, &self.binding.registration);
        let verifying = signing.verifying_key().to_bytes();
        let note_key = {
            let Binding { repo, registration, .. } = &self.binding;
            NoteKeys::derive(current, repo, registration).verifying()
        };
        let upload = finished.message.serialize();
        let enrolled = Enrolled {
            generation,
            bound,
            terms: &self.terms,
            request: &self.request,
            reply: &reply[..],
            upload: &upload,
            verifying: &verifying,
            note_key: &note_key,
            payload: &payload,
        };
        let statement = activation_statement(&enrolled.hash(&self.binding));
        let signature = signing.sign(&statement).to_bytes();
        let registration = self.binding.registration;
        let message = Request::RegisterFinish {
            ticket: self.ticket,
            registration,
            upload: Box::new(upload.as_slice().try_into().expect("RFC 9807's size for P-256")),
            verifying,
            note_key,
            payload: payload.into_boxed_slice().try_into().expect("sealed payloads have one size"),
        };
        let registered = Registered { ticket: self.ticket, registration, cost: self.cost, bound };
        Ok((message, Uploading { registered, signature }))
    }
}

/// Waits until the record is stored.
pub struct Uploading {
    registered: Registered,
    signature: [u8; 64],
}

impl Uploading {
    /// Activates it. The signature is over what this client registered, not
    /// over anything the vault says.
    pub fn stored(self, reply: &Reply) -> Result<(Request, Activating), VaultError> {
        let Reply::Uploaded = reply else { return Err(unexpected(reply)) };
        let message = Request::Activate {
            ticket: self.registered.ticket,
            registration: self.registered.registration,
            signature: self.signature,
        };
        Ok((message, Activating(self.registered)))
    }
}

/// Waits until the record is active.
pub struct Activating(Registered);

/// An active registration; one real login still has to prove it.
#[derive(Clone, Copy)]
pub struct Registered {
    /// The ticket that names the new record.
    pub ticket: Ticket,
    /// The id of the new registration.
    pub registration: RegistrationId,
    /// The cost it was made at.
    pub cost: Argon2Cost,
    /// Whether it opens only for the account that registered it.
    pub bound: bool,
}

impl Activating {
    /// The registration is active.
    pub fn activated(self, reply: &Reply) -> Result<Registered, VaultError> {
        match reply {
            Reply::Activated(_) => Ok(self.0),
            other => Err(unexpected(other)),
        }
    }
}
