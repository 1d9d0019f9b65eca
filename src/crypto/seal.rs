//! AES-256-GCM-SIV (RFC 8452) in segments.
//!
//! *seal\[key, aad\](domain, frame, plaintext)*: the plaintext is cut into
//! segments of 4096 bytes; segment *i* is sealed under the nonce
//! `domain (1) || last (1) || 0 (2) || frame (4, LE) || i (4, LE)`. An empty
//! plaintext is one empty last segment. So segments cannot be reordered, moved
//! to another frame, cut off or appended to, and no nonce repeats under a key.

use aes_gcm_siv::aead::KeyInit;
use aes_gcm_siv::aead::inout::InOutBuf;
use aes_gcm_siv::{AeadInOut, Aes256GcmSiv};

use super::keys::Secret;

/// Plaintext bytes in a full segment.
pub const SEGMENT: usize = 4096;
/// Bytes of an authentication tag.
pub const TAG: usize = 16;
/// Bytes of a full sealed segment.
pub const SEGMENT_SEALED: usize = SEGMENT + TAG;

/// What a run of segments is, so that one kind cannot stand in for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Domain {
    /// The place (offset and length) of the directory.
    Place = 1,
    /// The directory of a file.
    Directory = 2,
    /// A frame of chunks.
    Frame = 3,
}

/// The bytes are not what was sealed under this key, place and data.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("does not authenticate")]
pub struct OpenError;

/// Bytes that `plain` bytes take once sealed in segments.
pub const fn sealed_len(plain: u64) -> u64 {
    let segments = plain.div_ceil(SEGMENT as u64);
    plain + TAG as u64 * if segments == 0 { 1 } else { segments }
}

/// Plaintext length of `sealed` bytes, or `None` if no plaintext has that size.
pub(crate) const fn plain_len(sealed: u64) -> Option<u64> {
    let full = sealed / SEGMENT_SEALED as u64;
    let rest = sealed % SEGMENT_SEALED as u64;
    if rest == 0 && full > 0 {
        Some(full * SEGMENT as u64)
    } else if rest > TAG as u64 || (full == 0 && rest == TAG as u64) {
        Some(full * SEGMENT as u64 + rest - TAG as u64)
    } else {
        None
    }
}

/// Seals the parts of one file.
pub struct FileCipher {
    cipher: Aes256GcmSiv,
    aad: Vec<u8>,
}

fn nonce(domain: Domain, last: bool, frame: u32, segment: u32) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[0] = domain as u8;
    nonce[1] = u8::from(last);
    nonce[4..8].copy_from_slice(&frame.to_le_bytes());
    nonce[8..].copy_from_slice(&segment.to_le_bytes());
    nonce
}

impl FileCipher {
    /// `key` must belong to one file (one salt); `aad` binds every segment.
    pub fn new(key: &Secret, aad: Vec<u8>) -> Self {
        Self { cipher: Aes256GcmSiv::new(key.expose().into()), aad }
    }

    /// Appends the sealed form of `plain` to `out`.
    pub fn seal(&self, domain: Domain, frame: u32, plain: &[u8], out: &mut Vec<u8>) {
        let count = plain.len().div_ceil(SEGMENT).max(1);
        out.reserve(plain.len() + count * TAG);
        for segment in 0..count {
            let piece = &plain[segment * SEGMENT..plain.len().min((segment + 1) * SEGMENT)];
            let nonce = nonce(domain, segment + 1 == count, frame, segment as u32);
            let start = out.len();
            out.extend_from_slice(piece);
            let tag = self
                .cipher
                .encrypt_inout_detached(&nonce.into(), &self.aad, InOutBuf::from(&mut out[start..]))
                .expect("a segment is far below RFC 8452's limit of 2^36 bytes");
            out.extend_from_slice(&tag);
        }
    }

    /// Opens everything that [`Self::seal`] wrote.
    pub fn open(&self, domain: Domain, frame: u32, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let plain = plain_len(sealed.len() as u64).ok_or(OpenError)?;
        let mut out = vec![0; plain as usize];
        self.open_segments(domain, frame, (0, plain), sealed, 0, &mut out)?;
        Ok(out)
    }

    /// Opens whole segments out of a longer run, of `(first, plain_total)`:
    /// `sealed` starts at segment `first`, and the whole run has `plain_total`
    /// bytes of plaintext. Its plaintext from byte `skip` on goes into `out`. After
    /// an error nothing in `out` means anything.
    pub fn open_segments(
        &self,
        domain: Domain,
        frame: u32,
        (first, plain_total): (u32, u64),
        sealed: &[u8],
        mut skip: usize,
        mut out: &mut [u8],
    ) -> Result<(), OpenError> {
        let last_segment = plain_total.div_ceil(SEGMENT as u64).max(1) - 1;
        let mut part = [0; SEGMENT];
        for (index, piece) in sealed.chunks(SEGMENT_SEALED).enumerate() {
            let segment = first as u64 + index as u64;
            let expected = if segment == last_segment {
                plain_total - segment * SEGMENT as u64
            } else {
                SEGMENT as u64
            };
            if segment > last_segment || piece.len() as u64 != expected + TAG as u64 {
                return Err(OpenError);
            }
            let (body, tag) = piece.split_at(piece.len() - TAG);
            let tag: [u8; TAG] = tag.try_into().expect("split at the tag");
            let nonce = nonce(domain, segment == last_segment, frame, segment as u32);
            let wanted = body.len().saturating_sub(skip).min(out.len());
            let (now, rest) = out.split_at_mut(wanted);
            let plain = if wanted == body.len() { &mut *now } else { &mut part[..body.len()] };
            let buffer = InOutBuf::new(body, plain).expect("of one length");
            self.cipher
                .decrypt_inout_detached(&nonce.into(), &self.aad, buffer, &tag.into())
                .map_err(|_| OpenError)?;
            if wanted < body.len() {
                now.copy_from_slice(&part[skip..skip + wanted]);
            }
            (out, skip) = (rest, 0);
        }
        if out.is_empty() { Ok(()) } else { Err(OpenError) }
    }
}

/// Seals single values under one key, each with its own number as the nonce
/// (journal records, keyrings). The caller never uses a number twice.
pub struct ValueCipher(Aes256GcmSiv);

impl ValueCipher {
    /// A cipher for values under `key`.
    pub fn new(key: &Secret) -> Self {
        Self(Aes256GcmSiv::new(key.expose().into()))
    }

    fn nonce(number: u64) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_le_bytes());
        nonce
    }

    /// Seals `out[from..]` in place and appends the tag.
    pub fn seal(&self, number: u64, aad: &[u8], out: &mut Vec<u8>, from: usize) {
        let tag = self.seal_in_place(number, aad, &mut out[from..]);
        out.extend_from_slice(&tag);
    }

    /// Seals `body` where it lies and returns the tag, for a caller that has
    /// left room for it.
    pub fn seal_in_place(&self, number: u64, aad: &[u8], body: &mut [u8]) -> [u8; TAG] {
        self.0
            .encrypt_inout_detached(&Self::nonce(number).into(), aad, InOutBuf::from(body))
            .expect("a value is far below RFC 8452's limit of 2^36 bytes")
            .into()
    }

    /// Opens the value that was sealed under this key with `number` and `aad`. An error if the
    /// bytes are not what was sealed.
    pub fn open(&self, number: u64, aad: &[u8], sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
        let body = sealed.len().checked_sub(TAG).ok_or(OpenError)?;
        let tag: [u8; TAG] = sealed[body..].try_into().expect("the last 16 bytes");
        let mut plain = sealed[..body].to_vec();
        self.0
            .decrypt_inout_detached(
                &Self::nonce(number).into(),
                aad,
                InOutBuf::from(&mut plain[..]),
                &tag.into(),
            )
            .map_err(|_| OpenError)?;
        Ok(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::unhex;

    fn cipher() -> FileCipher {
        let mut key = [7; 32];
        FileCipher::new(&Secret::take(&mut key), b"aad".to_vec())
    }

    /// RFC 8452, appendix C.2, `AEAD_AES_256_GCM_SIV`: the empty case, one of 8
    /// bytes, and one with associated data.
    #[test]
    fn rfc_8452_known_answers() {
        let mut key = [0; 32];
        key[0] = 1;
        let cipher = Aes256GcmSiv::new((&key).into());
        let mut nonce = [0u8; 12];
        nonce[0] = 3;
        for (aad, plain, sealed) in [
            ("", "", "07f5f4169bbf55a8400cd47ea6fd400f"),
            ("", "0100000000000000", "c2ef328e5c71c83b843122130f7364b761e0b97427e3df28"),
            ("01", "0200000000000000", "1de22967237a813291213f267e3b452f02d01ae33e4ec854"),
        ] {
            let bytes = |text: &str| -> Vec<u8> {
                text.as_bytes()
                    .chunks(2)
                    .map(|pair| unhex::<1>(std::str::from_utf8(pair).unwrap()).unwrap()[0])
                    .collect()
            };
            let mut buffer = bytes(plain);
            let tag = cipher
                .encrypt_inout_detached(&nonce.into(), &bytes(aad), InOutBuf::from(&mut buffer[..]))
                .unwrap();
            buffer.extend_from_slice(&tag);
            assert_eq!(buffer, bytes(sealed));
        }
    }

    #[test]
    fn lengths_agree_at_the_edges() {
        for plain in [0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 1 << 20] {
            let mut out = Vec::new();
            cipher().seal(Domain::Frame, 5, &vec![3; plain], &mut out);
            assert_eq!(out.len() as u64, sealed_len(plain as u64));
            assert_eq!(plain_len(out.len() as u64), Some(plain as u64));
            assert_eq!(cipher().open(Domain::Frame, 5, &out).unwrap(), vec![3; plain]);
        }
        for impossible in [0, 15, SEGMENT_SEALED as u64 + 16, SEGMENT_SEALED as u64 + 3] {
            assert_eq!(plain_len(impossible), None);
        }
    }

    #[test]
    fn moved_cut_or_changed_segments_do_not_open() {
        let mut sealed = Vec::new();
        cipher().seal(Domain::Frame, 5, &[1; 10_000], &mut sealed);
        assert!(cipher().open(Domain::Frame, 6, &sealed).is_err());
        assert!(cipher().open(Domain::Directory, 5, &sealed).is_err());
        assert!(cipher().open(Domain::Frame, 5, &sealed[..2 * SEGMENT_SEALED]).is_err());
        let mut swapped = sealed[SEGMENT_SEALED..2 * SEGMENT_SEALED].to_vec();
        swapped.extend_from_slice(&sealed[..SEGMENT_SEALED]);
        swapped.extend_from_slice(&sealed[2 * SEGMENT_SEALED..]);
        assert!(cipher().open(Domain::Frame, 5, &swapped).is_err());
        for at in [0, 4100, sealed.len() - 1] {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert!(cipher().open(Domain::Frame, 5, &flipped).is_err());
        }
    }

    #[test]
    fn single_segments_open_alone() {
        let plain: Vec<u8> = (0..10_000u32).map(|i| i as u8).collect();
        let mut sealed = Vec::new();
        cipher().seal(Domain::Frame, 1, &plain, &mut sealed);
        let run = &sealed[2 * SEGMENT_SEALED..];
        let open = |run: &[u8], skip, len| {
            let mut out = vec![0; len];
            let opened = cipher().open_segments(Domain::Frame, 1, (2, 10_000), run, skip, &mut out);
            opened.map(|()| out)
        };
        assert_eq!(open(run, 0, 1808).unwrap(), &plain[8192..]);
        // Parts, within a segment and across two.
        assert_eq!(open(run, 100, 7).unwrap(), &plain[8292..8299]);
        for (first, skip, len) in [(0, 0, 8192), (0, 4000, 200), (0, 1, 9999), (1, 4095, 1)] {
            let run = &sealed[first * SEGMENT_SEALED..];
            let mut out = vec![0; len];
            let place = (first as u32, 10_000);
            cipher().open_segments(Domain::Frame, 1, place, run, skip, &mut out).unwrap();
            assert_eq!(out, &plain[first * SEGMENT + skip..][..len], "{first} {skip} {len}");
        }
        // More than there is, another place, a changed bit.
        assert_eq!(open(run, 0, 1809), Err(OpenError));
        assert_eq!(open(&sealed[SEGMENT_SEALED..], 0, 10), Err(OpenError));
        let mut flipped = run.to_vec();
        flipped[1500] ^= 1;
        assert_eq!(open(&flipped, 0, 10), Err(OpenError));
    }
}
