//! TLS configurations of both sides.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::version::TLS13;
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
};

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        kx_groups: vec![kx_group::X25519MLKEM768],
        cipher_suites: vec![
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..default_provider()
    })
}

/// The `SubjectPublicKeyInfo` of a signing key, DER, as it appears in TLS.
pub fn spki(key: &dyn SigningKey) -> Option<Vec<u8>> {
    key.public_key().map(|spki| spki.as_ref().to_vec())
}

/// The site's side.
pub fn server_config(key: Arc<dyn SigningKey>) -> Result<Arc<ServerConfig>, Error> {
    let spki =
        spki(&*key).ok_or_else(|| Error::General("the TLS key has no public half".into()))?;
    let certified = CertifiedKey::new(vec![CertificateDer::from(spki)], key);
    let resolver = AlwaysResolvesServerRawPublicKeys::new(Arc::new(certified));
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    // A resumed connection would skip the proof of the key.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// Accepts any raw key that the peer proves to hold. Whether it is a site's key
/// is decided afterwards, from the manifest; until then nothing is said.
#[derive(Debug)]
struct ProvenKey(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for ProvenKey {
    fn verify_server_cert(
        &self,
        _key: &CertificateDer<'_>,
        _rest: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("only TLS 1.3".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The client's side.
pub fn client_config() -> Result<Arc<ClientConfig>, Error> {
    let provider = provider();
    let verifier = ProvenKey(provider.signature_verification_algorithms);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(Arc::new(config))
}

/// A relay's outer side, with an ordinary certificate.
pub fn outer_server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<ServerConfig>, Error> {
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(Arc::new(config))
}

/// The client's side of that: the roots of this machine, or of `SSL_CERT_FILE`.
pub(crate) fn outer_client_config() -> Result<Arc<ClientConfig>, Error> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Error::General("this machine trusts no certificates".into()));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SystemRandom;
    use crate::vault::hsm::{FileKeys, KeyProtection};
    use rustls::{ClientConnection, HandshakeKind, NamedGroup, ServerConnection};

    /// A handshake in memory; both ends, or the first error.
    fn handshake(client: Arc<ClientConfig>) -> Result<(ClientConnection, ServerConnection), Error> {
        let keys = FileKeys::create(&SystemRandom).ok().unwrap();
        let name = ServerName::try_from("vault.invalid").unwrap();
        let mut client = ClientConnection::new(client, name)?;
        let mut server = ServerConnection::new(server_config(keys.tls())?)?;
        for _ in 0..8 {
            let mut line = Vec::new();
            client.write_tls(&mut line).unwrap();
            server.read_tls(&mut &line[..]).unwrap();
            server.process_new_packets()?;
            let mut line = Vec::new();
            server.write_tls(&mut line).unwrap();
            client.read_tls(&mut &line[..]).unwrap();
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        let proven = client.peer_certificates().unwrap()[0].as_ref().to_vec();
        assert_eq!(Some(proven), spki(&*keys.tls()));
        Ok((client, server))
    }

    #[test]
    fn the_hybrid_group_is_used_and_no_ticket_is_sent() {
        let (client, _) = handshake(client_config().unwrap()).ok().unwrap();
        let group =
            client.negotiated_key_exchange_group().map(rustls::crypto::SupportedKxGroup::name);
        assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
        assert_eq!(client.tls13_tickets_received(), 0);
        assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
    }

    #[test]
    fn a_client_without_the_hybrid_group_is_refused() {
        let provider = CryptoProvider { kx_groups: vec![kx_group::X25519], ..default_provider() };
        let verifier = ProvenKey(provider.signature_verification_algorithms);
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        assert!(handshake(Arc::new(config)).is_err());
    }

    /// Wants an X.509 certificate, as every browser does.
    #[derive(Debug)]
    struct Certificates(ProvenKey);

    impl ServerCertVerifier for Certificates {
        fn verify_server_cert(
            &self,
            _key: &CertificateDer<'_>,
            _rest: &[CertificateDer<'_>],
            _name: &ServerName<'_>,
            _ocsp: &[u8],
            _now: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            key: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.0.verify_tls12_signature(message, key, signature)
        }
        fn verify_tls13_signature(
            &self,
            message: &[u8],
            key: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            self.0.verify_tls13_signature(message, key, signature)
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_verify_schemes()
        }
    }

    #[test]
    fn a_client_that_wants_a_certificate_is_refused() {
        let provider = provider();
        let verifier = Certificates(ProvenKey(provider.signature_verification_algorithms));
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        assert!(handshake(Arc::new(config)).is_err());
    }
}
