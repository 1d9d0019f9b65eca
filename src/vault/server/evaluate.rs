//! The vault's side of OPAQUE, with seed and AKE key behind
//! [`KeyProtection`]. Results of these functions depend on the OPRF key: they
//! leave only inside a [`Write`](super::Write).

use opaque_ke::generic_array::GenericArray;
use opaque_ke::keypair::{KeyPair, PublicKey};
use opaque_ke::{
    CredentialFinalization, CredentialRequest, Identifiers, RegistrationRequest,
    RegistrationUpload, ServerLogin, ServerLoginParameters, ServerRegistration, ServerSetup,
};
use zeroize::Zeroizing;

use crate::io::Random;
use crate::vault::hsm::{KeyError, KeyProtection};
use crate::vault::protocol::{
    AttemptId, Binding, KE1, KE2, KE3, LOGIN_STATE, REGISTER_REPLY, REGISTER_REQUEST,
    REGISTER_UPLOAD, Rng, Suite,
};

/// Stands for keys that this process may not have.
#[derive(Clone)]
struct Remote;

type Setup = ServerSetup<Suite, Remote, Remote>;

fn setup(
    keys: &dyn KeyProtection,
    random: &dyn Random,
    generation: u32,
) -> Result<Setup, KeyError> {
    let public = PublicKey::deserialize(&keys.ake_public(generation)?)
        .map_err(|_| KeyError::Unusable("the AKE key is not a point"))?;
    let pair = KeyPair::new(Remote, public);
    Ok(ServerSetup::new_with_key_pair_and_seed(&mut Rng(random), pair, Remote))
}

/// Whether a client's message is well formed; checked before a try is spent.
pub(super) fn ke1_is_valid(ke1: &[u8; KE1]) -> bool {
    CredentialRequest::<Suite>::deserialize(ke1).is_ok()
}

/// Whether the bytes are a registration request of OPAQUE, with a valid point.
pub(super) fn request_is_valid(request: &[u8; REGISTER_REQUEST]) -> bool {
    RegistrationRequest::<Suite>::deserialize(request).is_ok()
}

/// Whether the bytes are a registration upload of OPAQUE, with a valid public key.
pub(super) fn upload_is_valid(upload: &[u8; REGISTER_UPLOAD]) -> bool {
    RegistrationUpload::<Suite>::deserialize(upload).is_ok()
}

/// Evaluates a registration request.
pub(super) fn register(
    keys: &dyn KeyProtection,
    random: &dyn Random,
    generation: u32,
    credential: &[u8; 32],
    request: &[u8; REGISTER_REQUEST],
) -> Result<[u8; REGISTER_REPLY], KeyError> {
    let request =
        RegistrationRequest::<Suite>::deserialize(request).map_err(|_| KeyError::Point)?;
    let material = keys.oprf_material(generation, credential)?;
    let started = ServerRegistration::<Suite>::start_with_key_material(
        &setup(keys, random, generation)?,
        GenericArray::clone_from_slice(material.expose()),
        request,
    )
    .map_err(|_| KeyError::Point)?;
    Ok(started.message.serialize().as_slice().try_into().expect("RFC 9807's size for P-256"))
}

/// A KE2 and the state that waits for KE3.
pub(super) struct Evaluated {
    pub ke2: Box<[u8; KE2]>,
    pub login: Zeroizing<[u8; LOGIN_STATE]>,
}

/// Evaluates the KE1 of an attempt. Returns KE2, and the state that a proof is checked
/// with.
#[expect(clippy::too_many_arguments, reason = "each is one input of RFC 9807's GenerateKE2")]
pub(super) fn challenge(
    keys: &dyn KeyProtection,
    random: &dyn Random,
    generation: u32,
    credential: &[u8; 32],
    upload: &[u8; REGISTER_UPLOAD],
    binding: &Binding,
    attempt: &AttemptId,
    ke1: &[u8; KE1],
) -> Result<Evaluated, KeyError> {
    let request = CredentialRequest::<Suite>::deserialize(ke1).map_err(|_| KeyError::Point)?;
    let file = ServerRegistration::<Suite>::deserialize(upload).map_err(|_| KeyError::Point)?;
    let material = keys.oprf_material(generation, credential)?;
    let (client, server) = (binding.client_id(), binding.server_id());
    let context = binding.context(attempt);
    let builder = ServerLogin::builder_with_key_material(
        &mut Rng(random),
        &setup(keys, random, generation)?,
        GenericArray::clone_from_slice(material.expose()),
        Some(file),
        request,
        ServerLoginParameters {
            context: Some(&context),
            identifiers: Identifiers { client: Some(&client), server: Some(&server) },
        },
    )
    .map_err(|_| KeyError::Point)?;
    let ephemeral = builder.data().serialize().into();
    let shared = keys.ake_agree(generation, &ephemeral)?;
    let started =
        builder.build(GenericArray::clone_from_slice(&shared[..])).map_err(|_| KeyError::Point)?;
    Ok(Evaluated {
        ke2: Box::new(
            started.message.serialize().as_slice().try_into().expect("RFC 9807's size for P-256"),
        ),
        login: Zeroizing::new(started.state.serialize().into()),
    })
}

/// Whether `ke3` proves that the attempt's guess was right. opaque-ke compares
/// in constant time.
pub(super) fn proof_is_right(
    login: &[u8; LOGIN_STATE],
    binding: &Binding,
    attempt: &AttemptId,
    ke3: &[u8; KE3],
) -> bool {
    let (client, server) = (binding.client_id(), binding.server_id());
    let context = binding.context(attempt);
    let parameters = ServerLoginParameters {
        context: Some(&context),
        identifiers: Identifiers { client: Some(&client), server: Some(&server) },
    };
    let Ok(login) = ServerLogin::<Suite>::deserialize(login) else { return false };
    let Ok(ke3) = CredentialFinalization::deserialize(ke3) else { return false };
    login.finish(ke3, parameters).is_ok()
}
