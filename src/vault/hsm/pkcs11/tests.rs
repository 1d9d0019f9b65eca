//! Against `SoftHSM`. It takes its folder from the environment, which a test
//! must not change for its neighbours: each test runs in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use cryptoki::object::{Attribute, KeyType};
use p256::ecdsa::signature::Verifier;
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::{NonZeroScalar, PublicKey, SecretKey};
use rand::rngs::OsRng;
use rustls::SignatureScheme;

use super::admin::{P256, public_rights, rights};
use super::connection::{OCTET_STRING, classify};
use super::*;
use crate::io::SystemRandom;
use crate::vault::hsm::FileKeys;
use crate::vault::hsm::spki;
use crate::vault::hsm::transfer::keys_fingerprint;

const HERE: &str = "AMBERFS_TEST_TOKEN";
const MODULES: [&str; 3] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

fn module() -> Option<PathBuf> {
    MODULES.iter().map(PathBuf::from).find(|path| path.exists())
}

/// Runs `body` with a fresh token, in a child that does nothing else.
fn with_token(test: &str, body: fn(&Token)) {
    let Some(module) = module() else {
        println!("SKIPPED: {test}: softhsm2 is missing");
        return;
    };
    if let Some(dir) = std::env::var_os(HERE) {
        let pin = Path::new(&dir).join("pin");
        return body(&Token::new(module, "vault".into(), Some(pin)));
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("tokens")).unwrap();
    let conf = dir.path().join("softhsm2.conf");
    let tokens = format!("directories.tokendir = {}\n", dir.path().join("tokens").display());
    std::fs::write(&conf, tokens).unwrap();
    write_pin(&dir.path().join("pin"), "1234\n");
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "vault", "--so-pin", "12345678"])
        .args(["--pin", "1234"])
        .env("SOFTHSM2_CONF", &conf)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let child = Command::new(std::env::current_exe().unwrap())
        .args([&format!("vault::hsm::pkcs11::tests::{test}"), "--exact", "--nocapture"])
        .env("SOFTHSM2_CONF", &conf)
        .env(HERE, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let why = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && said.contains("1 passed"), "{said}\n{why}");
}

fn write_pin(path: &Path, pin: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, pin).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// Puts software keys into the token, where later tests find them.
fn import(token: &Token, keys: &FileKeys) {
    let bytes = keys.encode();
    let parts: Vec<[u8; 32]> =
        bytes[39..].chunks(32).map(|part| part.try_into().unwrap()).collect();
    let pool = Pool::open(token, Access::Change, Duration::from_secs(10)).unwrap();
    let fleet = keys.fleet();
    let purposes =
        [(Purpose::Seed, 1), (Purpose::Ake, 1), (Purpose::Seal, 1), (Purpose::Lookup, 0)];
    let purposes = purposes.into_iter().chain([(Purpose::Tls, 0)]);
    for ((purpose, generation), value) in purposes.zip(parts) {
        let name = KeyName { fleet, generation, purpose };
        pool.run(move |token| {
            let mut template = rights(&name, false);
            template.push(Attribute::Value(value.to_vec()));
            if purpose.class() == ObjectClass::PRIVATE_KEY {
                template.push(Attribute::EcParams(P256.to_vec()));
                let public = SecretKey::from_slice(&value).unwrap().public_key();
                let point = public.to_encoded_point(false);
                let mut public = public_rights(&name);
                public.extend([
                    Attribute::Class(ObjectClass::PUBLIC_KEY),
                    Attribute::KeyType(KeyType::EC),
                    Attribute::EcParams(P256.to_vec()),
                    Attribute::EcPoint([&OCTET_STRING[..], point.as_bytes()].concat()),
                ]);
                token.session.create_object(&public).map_err(classify)?;
            }
            token.session.create_object(&template).map(drop).map_err(classify)
        })
        .unwrap();
    }
}

#[test]
fn a_token_gives_the_same_bytes_as_software() {
    with_token("a_token_gives_the_same_bytes_as_software", |token| {
        let file = FileKeys::create(&SystemRandom).unwrap();
        import(token, &file);
        let keys = TokenKeys::open(token, file.fleet(), &[1]).unwrap();
        assert_eq!((keys.protection(), keys.generation()), (Protection::Hsm, 1));
        assert!(!keys.is_exportable() && keys.is_usable());
        assert_eq!(keys.ake_public(1), file.ake_public(1));
        assert_eq!(spki(&*keys.tls()), spki(&*file.tls()));
        assert_eq!(keys_fingerprint(&keys, 1), keys_fingerprint(&file, 1));
        for at in 0..50 {
            let credential = [at; 32];
            let (left, right) =
                (keys.oprf_material(1, &credential), file.oprf_material(1, &credential));
            assert_eq!(left.ok().unwrap().expose(), right.ok().unwrap().expose());
            let message = vec![at; at as usize * 3];
            let (left, right) = (keys.seal_mac(1, &message), file.seal_mac(1, &message));
            assert_eq!(left.ok().unwrap().expose(), right.ok().unwrap().expose());
            assert_eq!(keys.lookup_mac(&message), file.lookup_mac(&message));
        }
        // Also the points where x or a sum has leading zeros, and -G.
        let mut peers: Vec<PublicKey> = (0..600)
            .map(|_| PublicKey::from_secret_scalar(&NonZeroScalar::random(&mut OsRng)))
            .collect();
        let g = p256::ProjectivePoint::GENERATOR;
        for point in [g, -g, g + g, -(g + g)] {
            peers.push(PublicKey::from_affine(point.to_affine()).unwrap());
        }
        let mut odd = 0;
        for peer in peers {
            let peer = compress(&peer);
            let (left, right) = (keys.ake_agree(1, &peer), file.ake_agree(1, &peer));
            let left = left.unwrap();
            assert_eq!(left[..], right.unwrap()[..]);
            odd += usize::from(left[0] == 3);
        }
        assert!((200..400).contains(&odd), "{odd} of 604 are odd");
        assert_eq!(keys.ake_agree(1, &[0; 33]).err(), Some(KeyError::Point));
        for call in [
            keys.ake_public(2).err(),
            keys.oprf_material(2, &[0; 32]).err(),
            keys.seal_mac(0, b"").err(),
        ] {
            assert!(matches!(call, Some(KeyError::Generation(_))));
        }
    });
}

#[test]
fn tls_is_signed_by_the_token() {
    with_token("tls_is_signed_by_the_token", |token| {
        let admin = TokenAdmin::open(token, [1; 16]).unwrap();
        admin.create_fleet(false).unwrap();
        let made = admin.create_tls().unwrap();
        assert_eq!(admin.create_tls().unwrap(), made, "made once");
        let keys = TokenKeys::open(token, [1; 16], &[1]).unwrap();
        let key = keys.tls();
        assert_eq!(spki(&*key), Some(made));
        assert!(key.choose_scheme(&[SignatureScheme::ED25519]).is_none());
        let signer = key.choose_scheme(&[SignatureScheme::ECDSA_NISTP256_SHA256]).unwrap();
        let signature = signer.sign(b"message").unwrap();
        let name = KeyName { fleet: [1; 16], generation: 0, purpose: Purpose::Tls };
        let public = keys.pool.run(move |token| token.public(&name)).unwrap();
        let signature = p256::ecdsa::Signature::from_der(&signature).unwrap();
        VerifyingKey::from(&public).verify(b"message", &signature).unwrap();
        assert!(VerifyingKey::from(&public).verify(b"massage", &signature).is_err());
    });
}

#[test]
fn keys_that_are_made_cannot_be_read_or_misused() {
    with_token("keys_that_are_made_cannot_be_read_or_misused", |token| {
        use cryptoki::mechanism::Mechanism;
        use cryptoki::object::AttributeType;
        let admin = TokenAdmin::open(token, [1; 16]).unwrap();
        admin.create_fleet(false).unwrap();
        admin.create_tls().unwrap();
        let name = |generation, purpose| KeyName { fleet: [1; 16], generation, purpose };
        let names = [
            name(1, Purpose::Seed),
            name(1, Purpose::Ake),
            name(1, Purpose::Seal),
            name(0, Purpose::Lookup),
            name(0, Purpose::Tls),
        ];
        let pool = Pool::open(token, Access::Use, Duration::from_secs(10)).unwrap();
        for name in names {
            let seen = pool.run(move |token| {
                let key = token.key(&name)?;
                let kinds =
                    [AttributeType::Value, AttributeType::Sensitive, AttributeType::Extractable];
                token.session.get_attributes(key, &kinds).map_err(classify)
            });
            let only = vec![Attribute::Sensitive(true), Attribute::Extractable(false)];
            assert_eq!(seen.unwrap(), only, "{name}");
        }
        // The AKE key does not sign, the TLS key does not agree.
        let digest = [1; 32];
        let wrong = pool.run(move |token| token.sign(&names[1], &digest));
        assert!(matches!(wrong, Err(TokenError::Refused(_))), "{wrong:?}");
        let base = p256::ProjectivePoint::GENERATOR.to_affine().to_encoded_point(false);
        let base: [u8; 65] = base.as_bytes().try_into().unwrap();
        let wrong = pool.run(move |token| token.agree(&names[4], &base).map(drop));
        assert!(matches!(wrong, Err(TokenError::Refused(_))), "{wrong:?}");
        // A session that only uses keys makes none.
        let made = pool.run(move |token| {
            let template = rights(&name(7, Purpose::Seal), false);
            let made = token.session.generate_key(&Mechanism::GenericSecretKeyGen, &template);
            made.map(drop).map_err(classify)
        });
        assert!(matches!(made, Err(TokenError::Refused(_))), "{made:?}");
        // Nothing is made over what is there.
        let again = admin.create_fleet(false).err().unwrap().to_string();
        assert!(again.contains("already"), "{again}");
    });
}

#[test]
fn a_missing_key_is_named() {
    with_token("a_missing_key_is_named", |token| {
        let admin = TokenAdmin::open(token, [1; 16]).unwrap();
        admin.create_fleet(false).unwrap();
        let without_tls = TokenKeys::open(token, [1; 16], &[1]).err().unwrap().to_string();
        assert!(without_tls.contains("no TLS key"), "{without_tls}");
        admin.create_tls().unwrap();
        assert!(TokenKeys::open(token, [1; 16], &[1]).is_ok());
        let absent = TokenKeys::open(token, [1; 16], &[1, 2]).err().unwrap().to_string();
        assert!(absent.contains("no OPRF seed of generation 2"), "{absent}");
        let other = TokenKeys::open(token, [2; 16], &[1]).err().unwrap().to_string();
        assert!(other.contains("no lookup key of fleet 02020202"), "{other}");
        admin.destroy_shared(1).unwrap();
        assert!(TokenKeys::open(token, [1; 16], &[1]).is_err());
    });
}

/// A public half that is not the private one's would be found by every client.
#[test]
fn halves_of_different_pairs_are_noticed() {
    with_token("halves_of_different_pairs_are_noticed", |token| {
        let one = FileKeys::create(&SystemRandom).unwrap();
        import(token, &one);
        assert!(TokenKeys::open(token, one.fleet(), &[1]).is_ok());
        let pool = Pool::open(token, Access::Change, Duration::from_secs(10)).unwrap();
        let name = KeyName { fleet: one.fleet(), generation: 1, purpose: Purpose::Ake };
        let other = SecretKey::random(&mut OsRng).public_key().to_encoded_point(false);
        let point = [&OCTET_STRING[..], other.as_bytes()].concat();
        pool.run(move |token| {
            let old = token.only(&name, ObjectClass::PUBLIC_KEY)?;
            token.session.destroy_object(old).map_err(classify)?;
            let mut public = public_rights(&name);
            public.extend([
                Attribute::Class(ObjectClass::PUBLIC_KEY),
                Attribute::KeyType(KeyType::EC),
                Attribute::EcParams(P256.to_vec()),
                Attribute::EcPoint(point.clone()),
            ]);
            token.session.create_object(&public).map(drop).map_err(classify)
        })
        .unwrap();
        let error = TokenKeys::open(token, one.fleet(), &[1]).err();
        assert_eq!(error, Some(TokenError::Wrong("AKE key").into()));
    });
}

#[test]
fn tokens_and_pins_that_are_not_there_are_told_apart() {
    with_token("tokens_and_pins_that_are_not_there_are_told_apart", |token| {
        let refused = |token: &Token| match TokenAdmin::open(token, [1; 16]) {
            Ok(admin) => admin.create_fleet(false).err().unwrap(),
            Err(error) => error,
        };
        let elsewhere = Token { module: "/nonexistent/p11.so".into(), ..token.clone() };
        assert!(matches!(refused(&elsewhere), KeyError::Token(TokenError::Module { .. })));
        let other = Token { token: "other".into(), ..token.clone() };
        assert_eq!(refused(&other), TokenError::Absent("other".into()).into());
        let pin = token.pin_file.clone().unwrap();
        let no_file = Token { pin_file: Some(pin.with_extension("none")), ..token.clone() };
        assert!(refused(&no_file).to_string().contains("cannot be read"));
        for (bad, what) in [("", "is empty"), ("\n", "is empty")] {
            write_pin(&pin, bad);
            assert!(refused(token).to_string().contains(what));
        }
        write_pin(&pin, "4321");
        assert_eq!(refused(token), TokenError::PinWrong.into());
        // Remembered by what is open: the next job does not log in again.
        let admin = TokenAdmin::open(token, [1; 16]).unwrap();
        assert_eq!(admin.create_fleet(false), Err(TokenError::PinWrong.into()));
        assert_eq!(admin.create_fleet(false), Err(TokenError::PinWrong.into()));
        write_pin(&pin, "1234\n");
        assert_eq!(admin.create_fleet(false), Err(TokenError::PinWrong.into()));
        TokenAdmin::open(token, [1; 16]).unwrap().create_fleet(false).unwrap();
        let no_pin = Token { pin_file: None, ..token.clone() };
        let without = TokenAdmin::open(&no_pin, [1; 16]).err().unwrap().to_string();
        assert!(without.contains("LoadCredential=amberfs-vault.pin"), "{without}");
    });
}

#[test]
fn many_callers_share_few_sessions() {
    with_token("many_callers_share_few_sessions", |token| {
        let file = FileKeys::create(&SystemRandom).unwrap();
        import(token, &file);
        let token = Token { sessions: 3, ..token.clone() };
        let keys = TokenKeys::open(&token, file.fleet(), &[1]).unwrap();
        std::thread::scope(|scope| {
            for caller in 0..12u8 {
                let (keys, file) = (&keys, &file);
                scope.spawn(move || {
                    for turn in 0..40u8 {
                        let message = [caller, turn];
                        assert_eq!(keys.lookup_mac(&message), file.lookup_mac(&message));
                        let peer = SecretKey::random(&mut OsRng).public_key();
                        let peer = compress(&peer);
                        let (left, right) = (keys.ake_agree(1, &peer), file.ake_agree(1, &peer));
                        assert_eq!(left.unwrap()[..], right.unwrap()[..]);
                    }
                });
            }
        });
    });
}
