//! The owner's note in a record: how far each device had come, so that a new
//! machine sees that the folder was put back.
//!
//! ```text
//! 8    number of the note, 1 for the first; rises by one
//! 504  sealed by the owner; zeros if there is none
//! ```

use ed25519_dalek::{Signer, SigningKey};

use super::binding::note_statement;
use super::{Binding, FleetId, RegistrationId};
use crate::crypto::{Purpose, RepoId, Secret, TAG, ValueCipher, derive};

/// Bytes of a note.
pub const NOTE: usize = 512;
/// Bytes of it that the owner seals.
pub const NOTE_TEXT: usize = NOTE - 8;

/// A note, as the vault sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct Note(Box<[u8; NOTE]>);

impl Default for Note {
    fn default() -> Self {
        Self(Box::new([0; NOTE]))
    }
}

impl Note {
    /// The note of this number.
    pub fn new(number: u64, sealed: &[u8; NOTE_TEXT]) -> Self {
        let mut bytes = Box::new([0; NOTE]);
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        bytes[8..].copy_from_slice(sealed);
        Self(bytes)
    }

    /// Out of its bytes.
    pub fn from_bytes(bytes: Box<[u8; NOTE]>) -> Self {
        Self(bytes)
    }

    /// The sealed note as the vault keeps it.
    pub fn bytes(&self) -> &[u8; NOTE] {
        &self.0
    }

    /// The number of the note, which rises with each that is written; 0 if none was.
    pub fn number(&self) -> u64 {
        u64::from_le_bytes(self.0[..8].try_into().expect("8 bytes"))
    }

    /// What the owner sealed.
    pub fn sealed(&self) -> &[u8; NOTE_TEXT] {
        self.0[8..].try_into().expect("the rest of a note")
    }
}

/// How far a device had come: its id, and the generation of its newest head.
pub type Mark = ([u8; 16], u64);

/// Most devices in a note; the least far are left out beyond.
pub const MARKS_LIMIT: usize = 20;
const PLAIN: usize = NOTE_TEXT - TAG;
const _: () = assert!(MARKS_LIMIT * 24 < PLAIN);

/// The note is not the owner's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the note kept in the vault is damaged")]
pub struct NoteError;

/// What writes the notes of one registration, and nothing else: a mount keeps it
/// after K is wiped.
pub struct NoteKeys {
    repo: RepoId,
    registration: RegistrationId,
    signing: SigningKey,
    sealing: Secret,
}

impl NoteKeys {
    /// Derived from K for one registration.
    pub fn derive(key: &Secret, repo: &RepoId, registration: &RegistrationId) -> Self {
        let material = [&repo[..], registration];
        let seed = derive(Purpose::VaultNoteSigning, key, &material);
        let sealing = derive(Purpose::VaultNote, key, &material);
        let signing = SigningKey::from_bytes(seed.expose());
        Self { repo: *repo, registration: *registration, signing, sealing }
    }

    /// The public half, part of what is registered.
    pub fn verifying(&self) -> [u8; 32] {
        self.signing.verifying_key().to_bytes()
    }

    fn binding(&self, fleet: FleetId) -> Binding {
        Binding { repo: self.repo, registration: self.registration, fleet }
    }

    /// Says to a fleet that a note is the owner's.
    pub fn sign(&self, fleet: FleetId, note: &Note) -> [u8; 64] {
        self.signing.sign(&note_statement(&self.binding(fleet), note.bytes())).to_bytes()
    }

    /// Associated data of a note: client identifier of the registration.
    fn aad(&self) -> [u8; 32] {
        self.binding([0; 16]).client_id()
    }

    /// Seals marks as the note of this number, which is the nonce: 1 number of marks,
    /// 24 each (device 16, generation 8), zeros; tag 16. Two devices may seal
    /// different notes of one number: AES-GCM-SIV (RFC 8452) bears that.
    pub fn seal(&self, number: u64, marks: &[Mark]) -> Note {
        let mut marks = marks.to_vec();
        marks.sort_unstable_by_key(|mark| std::cmp::Reverse(mark.1));
        marks.truncate(MARKS_LIMIT);
        marks.sort_unstable();
        let mut sealed = encode_marks(&marks);
        let cipher = ValueCipher::new(&self.sealing);
        cipher.seal(number, &self.aad(), &mut sealed, 0);
        Note::new(number, sealed.as_slice().try_into().expect("marks and tag fill it"))
    }

    /// The marks in a note; none in the note that nobody wrote.
    pub fn open(&self, note: &Note) -> Result<Vec<Mark>, NoteError> {
        if *note == Note::default() {
            return Ok(Vec::new());
        }
        let plain = ValueCipher::new(&self.sealing)
            .open(note.number(), &self.aad(), note.sealed())
            .map_err(|_| NoteError)?;
        decode_marks(&plain).ok_or(NoteError)
    }
}

/// Marks as they are sealed: at most [`MARKS_LIMIT`].
pub(crate) fn encode_marks(marks: &[Mark]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(NOTE_TEXT);
    plain.push(marks.len() as u8);
    for (device, generation) in marks {
        plain.extend_from_slice(device);
        plain.extend_from_slice(&generation.to_le_bytes());
    }
    plain.resize(PLAIN, 0);
    plain
}

/// Marks out of what was sealed: each device once, in order.
pub(crate) fn decode_marks(plain: &[u8]) -> Option<Vec<Mark>> {
    let (count, rest) = plain.split_first()?;
    let count = usize::from(*count);
    if plain.len() != PLAIN || count > MARKS_LIMIT {
        return None;
    }
    let (used, zeros) = rest.split_at(count * 24);
    let marks: Vec<Mark> = used
        .chunks_exact(24)
        .map(|mark| {
            let (device, generation) = mark.split_at(16);
            let generation = generation.try_into().expect("8 of 24 bytes");
            (device.try_into().expect("16 of 24 bytes"), u64::from_le_bytes(generation))
        })
        .collect();
    let in_order = marks.windows(2).all(|pair| pair[0].0 < pair[1].0);
    (in_order && zeros.iter().all(|byte| *byte == 0)).then_some(marks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_opens_for_its_key_number_and_registration_only() {
        let key = || Secret::take(&mut [1; 32]);
        let keys = NoteKeys::derive(&key(), &[2; 16], &[3; 16]);
        let marks: Vec<Mark> = (0..30).map(|at| ([at; 16], u64::from(at) * 10)).collect();
        let note = keys.seal(7, &marks);
        assert_eq!(keys.open(&note), Ok(marks[10..].to_vec()));
        assert_eq!(keys.open(&Note::default()), Ok(Vec::new()));
        let other = NoteKeys::derive(&Secret::take(&mut [9; 32]), &[2; 16], &[3; 16]);
        assert_eq!(other.open(&note), Err(NoteError));
        let moved = NoteKeys::derive(&key(), &[2; 16], &[9; 16]);
        assert_eq!(moved.open(&note), Err(NoteError));
        assert_eq!(keys.open(&Note::new(8, note.sealed())), Err(NoteError));
        let another = keys.seal(8, &marks);
        assert!(another.sealed() != note.sealed(), "every note looks new");
        assert_ne!(keys.verifying(), other.verifying());
    }

    #[test]
    fn marks_have_one_encoding() {
        let good = |marks: &[(u8, u8)]| {
            let mut plain = vec![marks.len() as u8];
            for (device, generation) in marks {
                plain.extend([*device; 16]);
                plain.extend([*generation, 0, 0, 0, 0, 0, 0, 0]);
            }
            plain.resize(PLAIN, 0);
            plain
        };
        assert!(decode_marks(&good(&[(1, 5), (2, 4)])).is_some());
        for bad in [&[(2, 5), (1, 4)][..], &[(1, 5), (1, 4)], &[(1, 1); MARKS_LIMIT + 1]] {
            assert!(decode_marks(&good(bad)).is_none());
        }
        let mut dirty = good(&[(1, 5)]);
        *dirty.last_mut().unwrap() = 1;
        assert!(decode_marks(&dirty).is_none() && decode_marks(&dirty[..9]).is_none());
        assert!(decode_marks(&[]).is_none());
    }
}
