//! AES-256-GCM-SIV (RFC 8452) in segments.
//!
//! *seal\[key, aad\](domain, frame, phase, plaintext)*: the plaintext is cut into
//! segments of 4096 bytes, of which the first is shorter by the *phase*; segment *i* is sealed under the nonce
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

/// How a plaintext is cut into segments: each but the last ends where a multiple of 4096 bytes ends,
/// counted from `phase` bytes before the plaintext. An empty plaintext is one empty segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    plain: u64,
    phase: u64,
}

impl Segments {
    /// The segments of `plain` bytes; all but the last are full.
    pub const fn new(plain: u64) -> Self {
        Self { plain, phase: 0 }
    }

    /// The segments of `plain` bytes of which the first is shorter by `phase` bytes, below 4096.
    pub const fn with_phase(plain: u64, phase: u16) -> Self {
        assert!((phase as usize) < SEGMENT, "the first segment has a byte at least");
        Self { plain, phase: phase as u64 }
    }

    /// The segments of the plaintext that takes `sealed` bytes where all segments but the last are full;
    /// none if no plaintext has that size.
    const fn of_sealed(sealed: u64) -> Option<Self> {
        let full = sealed / (SEGMENT + TAG) as u64;
        let rest = sealed % (SEGMENT + TAG) as u64;
        if rest == 0 && full > 0 {
            Some(Self::new(full * SEGMENT as u64))
        } else if rest > TAG as u64 || (full == 0 && rest == TAG as u64) {
            Some(Self::new(full * SEGMENT as u64 + rest - TAG as u64))
        } else {
            None
        }
    }

    /// How many segments there are.
    const fn count(self) -> u64 {
        let count = (self.phase + self.plain).div_ceil(SEGMENT as u64);
        if count == 0 { 1 } else { count }
    }

    /// The number of the segment with a byte of the plaintext.
    pub const fn of_byte(self, at: u64) -> u64 {
        (self.phase + at) / SEGMENT as u64
    }

    /// Where a segment begins in the plaintext; the one behind the last, where that ends.
    pub const fn begin(self, segment: u64) -> u64 {
        let begin = (segment * SEGMENT as u64).saturating_sub(self.phase);
        if begin < self.plain { begin } else { self.plain }
    }

    /// Where a segment begins in the sealed bytes; the one behind the last, where those end.
    pub const fn sealed_begin(self, segment: u64) -> u64 {
        self.begin(segment) + TAG as u64 * segment
    }

    /// Bytes that the plaintext takes once it is sealed.
    pub const fn sealed_len(self) -> u64 {
        self.plain + TAG as u64 * self.count()
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

    /// Appends the sealed form of `plain` to `out`, in full segments.
    pub fn seal(&self, domain: Domain, frame: u32, plain: &[u8], out: &mut Vec<u8>) {
        self.seal_segments(domain, frame, Segments::new(plain.len() as u64), plain, out);
    }

    /// Appends the sealed form of `plain` to `out`, in these segments of it.
    pub fn seal_segments(
        &self,
        domain: Domain,
        frame: u32,
        segments: Segments,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) {
        assert_eq!(segments.plain, plain.len() as u64, "they are those of this plaintext");
        out.reserve(segments.sealed_len() as usize);
        for segment in 0..segments.count() {
            let (begin, end) = (segments.begin(segment), segments.begin(segment + 1));
            let piece = &plain[begin as usize..end as usize];
            let nonce = nonce(domain, segment + 1 == segments.count(), frame, segment as u32);
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
        let segments = Segments::of_sealed(sealed.len() as u64).ok_or(OpenError)?;
        let mut out = vec![0; segments.plain as usize];
        self.open_segments(domain, frame, (segments, 0), sealed, 0, &mut out)?;
        Ok(out)
    }

    /// Opens segments of a plaintext, from the one of number `first` on, whose sealed bytes begin
    /// `sealed`. What they hold from byte `skip` on goes into `out`. After an error nothing in `out`
    /// means anything.
    pub fn open_segments(
        &self,
        domain: Domain,
        frame: u32,
        (segments, first): (Segments, u64),
        mut sealed: &[u8],
        mut skip: usize,
        mut out: &mut [u8],
    ) -> Result<(), OpenError> {
        let mut part = [0; SEGMENT];
        let mut segment = first;
        while !sealed.is_empty() {
            let len = segments.begin(segment + 1) - segments.begin(segment) + TAG as u64;
            if segment >= segments.count() {
                return Err(OpenError);
            }
            let (piece, behind) = sealed.split_at_checked(len as usize).ok_or(OpenError)?;
            let (body, tag) = piece.split_at(piece.len() - TAG);
            let tag: [u8; TAG] = tag.try_into().expect("split at the tag");
            let nonce = nonce(domain, segment + 1 == segments.count(), frame, segment as u32);
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
            (sealed, segment) = (behind, segment + 1);
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

    /// Bytes of a full sealed segment.
    const SEGMENT_SEALED: usize = SEGMENT + TAG;

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
            let segments = Segments::new(plain as u64);
            assert_eq!(out.len() as u64, segments.sealed_len());
            assert_eq!(Segments::of_sealed(out.len() as u64), Some(segments));
            assert_eq!(cipher().open(Domain::Frame, 5, &out).unwrap(), vec![3; plain]);
        }
        for impossible in [0, 15, SEGMENT_SEALED as u64 + 16, SEGMENT_SEALED as u64 + 3] {
            assert_eq!(Segments::of_sealed(impossible), None);
        }
    }

    /// A page of the file is in one segment, wherever in a page the plaintext begins.
    #[test]
    fn segments_begin_where_pages_do() {
        for phase in [0u16, 1, 100, 4095] {
            for len in [1, 3996, 3997, 4096, 8192, 10_000] {
                let plain: Vec<u8> = (0..len as u32).map(|i| i as u8).collect();
                let segments = Segments::with_phase(len as u64, phase);
                let mut sealed = Vec::new();
                cipher().seal_segments(Domain::Frame, 1, segments, &plain, &mut sealed);
                assert_eq!(sealed.len() as u64, segments.sealed_len());
                let open = |first, from: u64, to: u64, skip, out: &mut [u8]| {
                    let sealed = &sealed[from as usize..to as usize];
                    cipher().open_segments(Domain::Frame, 1, (segments, first), sealed, skip, out)
                };
                let mut all = vec![0; len];
                open(0, 0, segments.sealed_len(), 0, &mut all).unwrap();
                assert_eq!(all, plain, "{phase} {len}");
                let (mut at, pages) = (0, (u64::from(phase) + len as u64).div_ceil(4096));
                for page in 0..pages {
                    let end = ((page + 1) * 4096 - u64::from(phase)).min(len as u64);
                    let (first, last) = (segments.of_byte(at), segments.of_byte(end - 1));
                    assert_eq!((first, last), (page, page), "{phase} {len}");
                    let (from, to) = (segments.sealed_begin(page), segments.sealed_begin(page + 1));
                    let mut out = vec![0; (end - at) as usize];
                    open(page, from, to, 0, &mut out).unwrap();
                    assert_eq!(out, &plain[at as usize..end as usize]);
                    at = end;
                }
                assert_eq!(segments.sealed_begin(pages), segments.sealed_len());
                // Of another phase it is something else.
                let other = Segments::with_phase(len as u64, (phase + 7) % 4096);
                if other.count() > 1 {
                    let opened =
                        cipher().open_segments(Domain::Frame, 1, (other, 0), &sealed, 0, &mut all);
                    assert_eq!(opened, Err(OpenError), "{phase} {len}");
                }
            }
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
            let place = (Segments::new(10_000), 2);
            let opened = cipher().open_segments(Domain::Frame, 1, place, run, skip, &mut out);
            opened.map(|()| out)
        };
        assert_eq!(open(run, 0, 1808).unwrap(), &plain[8192..]);
        // Parts, within a segment and across two.
        assert_eq!(open(run, 100, 7).unwrap(), &plain[8292..8299]);
        for (first, skip, len) in [(0, 0, 8192), (0, 4000, 200), (0, 1, 9999), (1, 4095, 1)] {
            let run = &sealed[first * SEGMENT_SEALED..];
            let mut out = vec![0; len];
            let place = (Segments::new(10_000), first as u64);
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
