//! Accounts by JSON Web Tokens (RFC 7519) of an issuer that the operator trusts,
//! whose public keys are a JWK set (RFC 7517).
//!
//! Invariant: only keys of the set verify, each with algorithms of its own kind, and
//! none of them a shared secret; a token without end, issuer or audience is nobody's,
//! and so is one that was made for another purpose.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;

use crate::vault::protocol::is_account;

/// Seconds that clocks may differ.
const LEEWAY: u64 = 60;

/// Which JSON web tokens the relay accepts: their issuer, their audience, and the claim
/// with the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be or have.
    pub audience: String,
    /// The name of the claim that holds the account, mostly `sub`.
    pub claim: String,
}

/// Why a JWK set cannot be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeysError {
    /// Not JSON, or no JWK set.
    #[error("it is no JWK set: {0}")]
    Syntax(String),
    /// A shared secret: whoever verifies could sign.
    #[error("it has a shared secret (kty oct); only public keys are taken")]
    Secret,
    /// No key that can verify.
    #[error("it has no key that this relay can verify with")]
    None,
}

/// A JWK set, before its keys are looked at.
#[derive(Deserialize)]
struct Set {
    keys: Vec<serde_json::Value>,
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    verifying: DecodingKey,
}

/// Verifies JSON web tokens with the public keys of their issuer.
pub struct Verifier {
    terms: Terms,
    keys: Vec<Key>,
}

/// What a key of this kind may have signed with; nothing for kinds that are not
/// known here.
fn algorithms(jwk: &Jwk) -> Vec<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let of_kind = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => vec![ES256],
            EllipticCurve::P384 => vec![ES384],
            _ => Vec::new(),
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            vec![EdDSA]
        }
        AlgorithmParameters::OctetKeyPair(_) | AlgorithmParameters::OctetKey(_) => Vec::new(),
    };
    match jwk.common.key_algorithm {
        // One that is named is the only one.
        Some(named) => {
            of_kind.into_iter().filter(|known| named.to_string() == format!("{known:?}")).collect()
        }
        None => of_kind,
    }
}

/// Whether a token of this `typ` says who somebody is, or lets somebody in (RFC 8725,
/// section 3.11). An issuer signs other statements with the same keys and about the same
/// people: logout tokens, proofs of possession, security events; each says so in `typ`.
/// `JWT` is the type of any token (RFC 7519, section 5.1), `at+jwt` that of access tokens
/// (RFC 9068, section 2.1), and `application/` before it may be left out (RFC 7515,
/// section 4.1.9). No type is taken too: `OpenID` Connect asks none of an ID token.
fn is_for_us(typ: Option<&str>) -> bool {
    let Some(typ) = typ else { return true };
    let typ = typ.to_ascii_lowercase();
    matches!(typ.strip_prefix("application/").unwrap_or(&typ), "jwt" | "at+jwt")
}

/// The claim that tells whether the issuer verified what `claim` says; none where that
/// needs no proof (`OpenID` Connect Core 1.0, section 5.1).
fn proof_of(claim: &str) -> Option<&'static str> {
    match claim {
        "email" => Some("email_verified"),
        "phone_number" => Some("phone_number_verified"),
        _ => None,
    }
}

impl Verifier {
    /// Reads a JWK set. Keys for encryption and of unknown kinds are passed over.
    pub fn parse(text: &str, terms: Terms) -> Result<Self, KeysError> {
        let set: Set =
            serde_json::from_str(text).map_err(|error| KeysError::Syntax(error.to_string()))?;
        let mut keys = Vec::new();
        for value in set.keys {
            if value.get("kty").is_some_and(|kind| kind == "oct") {
                return Err(KeysError::Secret);
            }
            // RFC 7517, section 5: what is not understood is ignored.
            let Ok(jwk) = serde_json::from_value::<Jwk>(value) else { continue };
            if jwk.common.public_key_use == Some(PublicKeyUse::Encryption) {
                continue;
            }
            let (algorithms, id) = (algorithms(&jwk), jwk.common.key_id.clone());
            if let (false, Ok(verifying)) = (algorithms.is_empty(), DecodingKey::from_jwk(&jwk)) {
                keys.push(Key { id, algorithms, verifying });
            }
        }
        if keys.is_empty() { Err(KeysError::None) } else { Ok(Self { terms, keys }) }
    }

    /// The account that a valid token names; none if the token is not valid now.
    pub fn account(&self, token: &str) -> Option<String> {
        let header = decode_header(token).ok()?;
        // Nothing that must be understood is understood here (RFC 7515, section 4.1.11).
        if header.crit.is_some() || !is_for_us(header.typ.as_deref()) {
            return None;
        }
        self.keys
            .iter()
            // A token that names a key is that key's.
            .filter(|key| header.kid.is_none() || key.id == header.kid)
            .filter(|key| key.algorithms.contains(&header.alg))
            .find_map(|key| self.verified(token, key, header.alg))
    }

    fn verified(&self, token: &str, key: &Key, algorithm: Algorithm) -> Option<String> {
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY;
        validation.validate_nbf = true;
        validation.set_issuer(&[&self.terms.issuer]);
        validation.set_audience(&[&self.terms.audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        let claims: serde_json::Map<String, serde_json::Value> =
            decode(token, &key.verifying, &validation).ok()?.claims;
        if let Some(proof) = proof_of(&self.terms.claim) {
            let said = claims.get(proof)?;
            // Some issuers write a string.
            if said.as_bool() != Some(true) && said.as_str() != Some("true") {
                return None;
            }
        }
        let account = claims.get(&self.terms.claim)?.as_str()?;
        is_account(account).then(|| account.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Clock, SystemClock};
    use jsonwebtoken::{EncodingKey, Header, encode};
    use serde_json::{Value, json};

    /// Ed25519: RFC 8037, appendix A.
    const SECRET: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
    const PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn terms() -> Terms {
        Terms {
            issuer: "https://id.example.org".into(),
            audience: "vault".into(),
            claim: "sub".into(),
        }
    }

    fn keys() -> Value {
        json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "x": PUBLIC, "kid": "one", "alg": "EdDSA", "use": "sig"},
            {"kty": "OKP", "crv": "X25519", "x": PUBLIC, "kid": "two", "use": "enc"},
        ]})
    }

    fn signing() -> EncodingKey {
        // PKCS #8 (RFC 8410) around the 32 bytes.
        let mut der = vec![
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        der.extend(base64(SECRET));
        EncodingKey::from_ed_der(&der)
    }

    fn base64(text: &str) -> Vec<u8> {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let (mut out, mut bits, mut held) = (Vec::new(), 0_u32, 0);
        for digit in text.bytes() {
            let value = DIGITS.iter().position(|known| *known == digit).unwrap() as u32;
            bits = bits << 6 | value;
            held += 6;
            if held >= 8 {
                held -= 8;
                out.push((bits >> held) as u8);
            }
        }
        out
    }

    type Change = fn(&mut Value, &mut Header);

    fn now() -> u64 {
        SystemClock.now().secs as u64
    }

    fn token(change: impl FnOnce(&mut Value, &mut Header)) -> String {
        let mut claims = json!({
            "iss": "https://id.example.org", "aud": "vault", "sub": "anna", "exp": now() + 600,
        });
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("one".into());
        change(&mut claims, &mut header);
        encode(&header, &claims, &signing()).unwrap()
    }

    #[test]
    fn a_token_of_the_issuer_is_its_account() {
        let verifier = Verifier::parse(&keys().to_string(), terms()).ok().unwrap();
        assert_eq!(verifier.account(&token(|_, _| {})).as_deref(), Some("anna"));
        assert_eq!(verifier.account(&token(|_, head| head.kid = None)).as_deref(), Some("anna"));
        let many = token(|claims, _| claims["aud"] = json!(["x", "vault"]));
        assert_eq!(verifier.account(&many).as_deref(), Some("anna"));
        let by_mail = Terms { claim: "email".into(), ..terms() };
        let by_mail = Verifier::parse(&keys().to_string(), by_mail).ok().unwrap();
        let mail = token(|claims, _| {
            claims["email"] = json!("anna@example.org");
            claims["email_verified"] = json!(true);
        });
        assert_eq!(by_mail.account(&mail).as_deref(), Some("anna@example.org"));
        assert_eq!(by_mail.account(&token(|_, _| {})), None);
    }

    /// A logout token or a `DPoP` proof of the same issuer was taken for a right to come.
    #[test]
    fn tokens_for_another_purpose_are_nobodys() {
        let verifier = Verifier::parse(&keys().to_string(), terms()).ok().unwrap();
        let account = |typ: Option<&str>| {
            verifier.account(&token(|_, header| header.typ = typ.map(str::to_owned)))
        };
        let taken = ["JWT", "jwt", "application/jwt", "at+jwt", "AT+JWT", "Application/at+jwt"];
        for typ in taken.map(Some).into_iter().chain([None]) {
            assert_eq!(account(typ).as_deref(), Some("anna"), "{typ:?}");
        }
        for other in [
            "logout+jwt",
            "dpop+jwt",
            "secevent+jwt",
            "application/logout+jwt",
            "token-introspection+jwt",
            "JOSE",
            "",
            " JWT",
            "text/jwt",
            "application/",
            "application/application/jwt",
            "JWT, at+jwt",
        ] {
            assert_eq!(account(Some(other)), None, "{other:?}");
        }
    }

    #[test]
    fn a_header_that_must_be_understood_is_not_passed_over() {
        let verifier = Verifier::parse(&keys().to_string(), terms()).ok().unwrap();
        for crit in [vec!["exp".to_owned()], vec!["b64".to_owned()], Vec::new()] {
            let crit = token(|_, header| header.crit = Some(crit));
            assert_eq!(verifier.account(&crit), None);
        }
    }

    /// At an issuer that lets people write any address into their profile, everybody
    /// could be anybody.
    #[test]
    fn an_address_that_the_issuer_did_not_verify_names_nobody() {
        let account = |claim: &str, value: &str, verified: Option<Value>| {
            let terms = Terms { claim: claim.into(), ..terms() };
            let verifier = Verifier::parse(&keys().to_string(), terms).ok().unwrap();
            verifier.account(&token(|claims, _| {
                claims[claim] = json!(value);
                if let Some(verified) = verified {
                    claims[format!("{claim}_verified")] = verified;
                }
            }))
        };
        for (claim, value) in [("email", "anna@example.org"), ("phone_number", "+43123456789")] {
            for yes in [json!(true), json!("true")] {
                assert_eq!(account(claim, value, Some(yes)).as_deref(), Some(value));
            }
            assert_eq!(account(claim, value, None), None, "{claim}: nothing is said");
            for no in [
                json!(false),
                json!("false"),
                json!("True"),
                json!("yes"),
                json!(""),
                json!(1),
                json!(null),
                json!([true]),
                json!({"verified": true}),
            ] {
                assert_eq!(account(claim, value, Some(no.clone())), None, "{claim}: {no}");
            }
        }
        // Other claims have nothing of the kind.
        assert_eq!(account("name", "anna", None).as_deref(), Some("anna"));
        assert_eq!(account("name", "anna", Some(json!(false))).as_deref(), Some("anna"));
    }

    #[test]
    fn other_tokens_are_nobodys() {
        let verifier = Verifier::parse(&keys().to_string(), terms()).ok().unwrap();
        let changes: [(&str, Change); 11] = [
            ("another issuer", |claims, _| claims["iss"] = json!("https://evil.example")),
            ("another audience", |claims, _| claims["aud"] = json!("mail")),
            ("too old", |claims, _| claims["exp"] = json!(now() - LEEWAY - 5)),
            ("too early", |claims, _| claims["nbf"] = json!(now() + LEEWAY + 60)),
            ("no end", |claims, _| drop(claims.as_object_mut().unwrap().remove("exp"))),
            ("no issuer", |claims, _| drop(claims.as_object_mut().unwrap().remove("iss"))),
            ("no audience", |claims, _| drop(claims.as_object_mut().unwrap().remove("aud"))),
            ("no account", |claims, _| drop(claims.as_object_mut().unwrap().remove("sub"))),
            ("an odd account", |claims, _| claims["sub"] = json!("anna b")),
            ("a number", |claims, _| claims["sub"] = json!(7)),
            ("another key's name", |_, header| header.kid = Some("two".into())),
        ];
        for (what, change) in changes {
            assert_eq!(verifier.account(&token(change)), None, "{what}");
        }
        let good = token(|_, _| {});
        let (signed, signature) = good.rsplit_once('.').unwrap();
        let (_, claims) = signed.split_once('.').unwrap();
        // {"alg":"none"}, and the public key taken for a shared secret.
        let none = format!("eyJhbGciOiJub25lIn0.{claims}.");
        let confused = encode(
            &Header::new(Algorithm::HS256),
            &json!({"iss": "https://id.example.org", "aud": "vault", "sub": "anna",
                    "exp": now() + 600}),
            &EncodingKey::from_secret(&base64(PUBLIC)),
        );
        let other = format!("{signed}.{}", signature.chars().rev().collect::<String>());
        for bad in [none, confused.unwrap(), other, String::new(), "..".into(), "x".repeat(2000)] {
            assert_eq!(verifier.account(&bad), None, "{bad}");
        }
    }

    #[test]
    fn sets_without_public_keys_are_refused() {
        let parse = |text: &str| Verifier::parse(text, terms()).err();
        assert!(matches!(parse("["), Some(KeysError::Syntax(_))));
        assert_eq!(parse("{\"keys\": []}"), Some(KeysError::None));
        let secret = json!({"keys": [{"kty": "oct", "k": "AAAA", "kid": "x"}]});
        assert_eq!(parse(&secret.to_string()), Some(KeysError::Secret));
        let only_for_encryption = json!({"keys": [keys()["keys"][1]]});
        assert_eq!(parse(&only_for_encryption.to_string()), Some(KeysError::None));
        let wrong = json!({"keys": [
            {"kty": "OKP", "crv": "Ed25519", "x": PUBLIC, "kid": "one", "alg": "RS256"},
        ]});
        assert_eq!(parse(&wrong.to_string()), Some(KeysError::None));
    }
}
