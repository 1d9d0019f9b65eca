//! The site's end of a handshake.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::{AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::version::TLS13;
use rustls::{Error, ServerConfig};

use crate::vault::hsm::spki;
use crate::vault::line::tls::provider;

/// A site proves its raw key, and takes up no session again.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SystemRandom;
    use crate::vault::hsm::{FileKeys, KeyProtection};
    use crate::vault::line::tls::{ProvenKey, client_config, config_with};
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::crypto::CryptoProvider;
    use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
    use rustls::pki_types::{ServerName, UnixTime};
    use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
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
        let config = config_with(Arc::new(provider), Arc::new(verifier)).unwrap();
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
        let config = config_with(provider, Arc::new(verifier)).unwrap();
        assert!(handshake(Arc::new(config)).is_err());
    }
}
