//! Whole points from a token that gives x-coordinates only.
//!
//! 3DH (RFC 9807, section 6.4.2.1) hashes compressed points; `CKM_ECDH1_DERIVE`
//! gives x(dP) and so leaves the sign of y open. A second derivation settles
//! it: with Q = dG known, x(d(P + G)) = x(dP + Q), and of the two candidates S
//! and -S for dP exactly one has x(S + Q) of that value, because x(S + Q) =
//! x(-S + Q) would mean 2S = 0 or 2Q = 0, which a group of odd prime order
//! excludes. opaque-ke's own tests with a token do the same.

use p256::elliptic_curve::group::Group;
use p256::elliptic_curve::point::{AffineCoordinates, DecompressPoint};
use p256::elliptic_curve::sec1::ToEncodedPoint;
use p256::{AffinePoint, FieldBytes, ProjectivePoint, PublicKey};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use zeroize::{Zeroize, Zeroizing};

use crate::crypto::Secret;
use crate::vault::protocol::AKE_PUBLIC;

/// What to ask a token about a peer's point P.
pub enum Questions {
    /// P and P + G, uncompressed.
    Two(Box<[[u8; 65]; 2]>),
    /// P is -G, so dP is -Q and needs no question.
    Inverse,
}

fn uncompressed(point: &AffinePoint) -> [u8; 65] {
    let encoded = point.to_encoded_point(false);
    encoded.as_bytes().try_into().expect("not the identity")
}

fn compressed(point: &AffinePoint) -> Option<Zeroizing<[u8; AKE_PUBLIC]>> {
    let mut encoded = point.to_encoded_point(true);
    let bytes = encoded.as_bytes().try_into().ok().map(Zeroizing::new);
    encoded.zeroize();
    bytes
}

/// The questions about `peer`.
pub fn questions(peer: &PublicKey) -> Questions {
    let shifted = peer.to_projective() + ProjectivePoint::GENERATOR;
    if bool::from(shifted.is_identity()) {
        return Questions::Inverse;
    }
    Questions::Two(Box::new([uncompressed(peer.as_affine()), uncompressed(&shifted.to_affine())]))
}

/// dP for [`Questions::Inverse`].
pub fn inverse(own: &PublicKey) -> Option<Zeroizing<[u8; AKE_PUBLIC]>> {
    compressed(&(-own.to_projective()).to_affine())
}

/// dP, compressed, from x(dP), x(d(P + G)) (big-endian) and Q = dG. `None` if no point has
/// these coordinates: then the token did not compute with the key of `own`.
pub fn recover(
    plain: &Secret,
    shifted: &Secret,
    own: &PublicKey,
) -> Option<Zeroizing<[u8; AKE_PUBLIC]>> {
    let decompressed =
        AffinePoint::decompress(FieldBytes::from_slice(plain.expose()), Choice::from(0));
    let mut even = ProjectivePoint::from(Option::<AffinePoint>::from(decompressed)?);
    let fits = |candidate: &ProjectivePoint| {
        let sum = *candidate + own.to_projective();
        let mut x = sum.to_affine().x();
        let same = x.ct_eq(&shifted.expose()[..]) & !sum.is_identity();
        x.zeroize();
        same
    };
    let (as_even, as_odd) = (fits(&even), fits(&-even));
    let mut point = ProjectivePoint::conditional_select(&even, &-even, as_odd);
    even.zeroize();
    let mut affine = point.to_affine();
    point.zeroize();
    let bytes = compressed(&affine);
    affine.zeroize();
    if bool::from(as_even ^ as_odd) { bytes } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p256::elliptic_curve::sec1::FromEncodedPoint;
    use p256::{NonZeroScalar, SecretKey};
    use rand::rngs::OsRng;

    /// A token: x-coordinates only.
    fn derive(key: &SecretKey, peer: &[u8; 65]) -> Secret {
        let point = p256::EncodedPoint::from_bytes(peer).unwrap();
        let point = AffinePoint::from_encoded_point(&point).unwrap();
        let shared = (ProjectivePoint::from(point) * *key.to_nonzero_scalar()).to_affine();
        Secret::take(&mut shared.x().into())
    }

    fn by_token(key: &SecretKey, peer: &PublicKey) -> Zeroizing<[u8; AKE_PUBLIC]> {
        match questions(peer) {
            Questions::Two(points) => {
                let (plain, shifted) = (derive(key, &points[0]), derive(key, &points[1]));
                recover(&plain, &shifted, &key.public_key()).unwrap()
            }
            Questions::Inverse => inverse(&key.public_key()).unwrap(),
        }
    }

    fn by_software(key: &SecretKey, peer: &PublicKey) -> Zeroizing<[u8; AKE_PUBLIC]> {
        let shared = peer.to_projective() * *key.to_nonzero_scalar();
        compressed(&shared.to_affine()).unwrap()
    }

    fn public(point: ProjectivePoint) -> PublicKey {
        PublicKey::from_affine(point.to_affine()).unwrap()
    }

    #[test]
    fn both_signs_are_recovered() {
        let mut odd = 0;
        for _ in 0..500 {
            let key = SecretKey::random(&mut OsRng);
            let peer = PublicKey::from_secret_scalar(&NonZeroScalar::random(&mut OsRng));
            let (token, software) = (by_token(&key, &peer), by_software(&key, &peer));
            assert_eq!(token[..], software[..]);
            odd += usize::from(token[0] == 3);
        }
        assert!((150..350).contains(&odd), "{odd} of 500 are odd");
    }

    /// Points whose sums are the identity or twice a point.
    #[test]
    fn special_points_are_recovered() {
        let key = SecretKey::random(&mut OsRng);
        let g = ProjectivePoint::GENERATOR;
        let q = key.public_key().to_projective();
        let minus = -p256::Scalar::ONE;
        for point in [g, -g, g + g, -(g + g), q, -q, q + g, q - g, g * minus] {
            let peer = public(point);
            assert_eq!(by_token(&key, &peer)[..], by_software(&key, &peer)[..]);
        }
        // A key of 1: dP is P, Q is G.
        let one = SecretKey::new(p256::elliptic_curve::ScalarPrimitive::ONE);
        for point in [g, -g, q] {
            assert_eq!(by_token(&one, &public(point))[..], by_software(&one, &public(point))[..]);
        }
    }

    #[test]
    fn answers_of_another_key_are_noticed() {
        let (key, other) = (SecretKey::random(&mut OsRng), SecretKey::random(&mut OsRng));
        let peer = public(ProjectivePoint::random(&mut OsRng));
        let Questions::Two(points) = questions(&peer) else { panic!("P is not -G") };
        let (plain, shifted) = (derive(&key, &points[0]), derive(&key, &points[1]));
        assert!(recover(&plain, &shifted, &key.public_key()).is_some());
        assert!(recover(&plain, &shifted, &other.public_key()).is_none());
        assert!(recover(&plain, &derive(&other, &points[1]), &key.public_key()).is_none());
        // No point has this x.
        let mut off = [0; 32];
        off[31] = (0..=255)
            .find(|x| {
                let mut bytes = [0; 32];
                bytes[31] = *x;
                let bytes = FieldBytes::from(bytes);
                bool::from(AffinePoint::decompress(&bytes, Choice::from(0)).is_none())
            })
            .unwrap();
        let off = Secret::take(&mut off);
        assert!(recover(&off, &shifted, &key.public_key()).is_none());
    }
}
