//! Secrets, the table of derivation purposes, and keyed ids.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::io::Random;

/// Names a repository; random, 16 bytes.
pub type RepoId = [u8; 16];
/// Names a device; random, 16 bytes; the name of its folder in REPO.
pub type DeviceId = [u8; 16];
/// Names an epoch of the keyring; random, 16 bytes.
pub type EpochId = [u8; 16];
/// Commits to K and names it: 16 bytes.
pub type KeyCheck = [u8; 16];

/// 32 secret bytes. Wiped on drop; has no `Debug`, `Clone` or `==` on purpose.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret(Box<[u8; 32]>);

impl Secret {
    /// Takes over `bytes` and wipes the original.
    pub fn take(bytes: &mut [u8; 32]) -> Self {
        let secret = Self(Box::new(*bytes));
        bytes.zeroize();
        secret
    }

    /// Makes a secret of 32 fresh random bytes.
    pub fn random(random: &dyn Random) -> Self {
        let mut secret = Self(Box::new([0; 32]));
        random.fill(&mut secret.0[..]);
        secret
    }

    /// The bytes themselves, for a primitive that needs them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// A second owner of the same secret; named so that it shows in review.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self(self.0.clone())
    }
}

/// What a derived key is for. One row of the table in `docs/format.md`
/// ("Keys") each; the contexts are constants of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// K, repo id: 16 bytes that commit to K (BLAKE3 is collision resistant).
    KeyCheck,
    /// K, repo id, salt: seals the keyring in a register.
    KeyringSeal,
    /// K, repo id, registration id: seed of the Ed25519 key that speaks for
    /// the owner to the vault.
    VaultSigning,
    /// Epoch key, repo id, epoch id, salt: seals one file in REPO.
    FileSeal,
    /// Epoch key, repo id, epoch id, salt: seals one journal file.
    JournalSeal,
    /// Epoch key, repo id, epoch id, salt: seals one other file of local state.
    StateSeal,
    /// Id key, repo id: ids of chunks of file content.
    ChunkId,
    /// Id key, repo id: ids of tree nodes.
    NodeId,
    /// Id key, repo id: hashes of names, which order directories.
    NameHash,
    /// Id key, repo id: node boundaries of the namespace tree.
    Boundary,
    /// Id key, repo id: inode numbers of files that lost theirs to another version.
    LoserNumber,
    /// Epoch key, repo id, epoch id, salt: seals a kept chat key.
    ChatKeySeal,
    /// Output of a security key, repo id, salt: seals K in an unlock slot.
    SecurityKeySeal,
    /// Chunker key, repo id: the seed of the content-defined chunker.
    ChunkerSeed,
    /// OPAQUE export key, registration id: seals the payload kept in the vault.
    VaultPayload,
    /// K, repo id, registration id: seals the owner's note kept in the vault.
    VaultNote,
    /// K, repo id, registration id: seed of the Ed25519 key that signs that note.
    VaultNoteSigning,
}

impl Purpose {
    /// The BLAKE3 `derive_key` context string, a constant of format version 1.
    pub const fn context(self) -> &'static str {
        match self {
            Self::KeyCheck => "amberfs v1 2026-11 key check value",
            Self::KeyringSeal => "amberfs v1 2026-11 keyring seal",
            Self::VaultSigning => "amberfs v1 2026-11 vault signing key",
            Self::FileSeal => "amberfs v1 2026-11 file seal",
            Self::JournalSeal => "amberfs v1 2026-11 journal seal",
            Self::StateSeal => "amberfs v1 2026-11 state seal",
            Self::ChunkId => "amberfs v1 2026-11 chunk id",
            Self::NodeId => "amberfs v1 2026-11 node id",
            Self::NameHash => "amberfs v1 2026-11 name hash",
            Self::Boundary => "amberfs v1 2026-11 node boundary",
            Self::LoserNumber => "amberfs v1 2026-11 loser number",
            Self::ChatKeySeal => "amberfs v1 2026-11 chat key seal",
            Self::SecurityKeySeal => "amberfs v1 2026-11 security key seal",
            Self::ChunkerSeed => "amberfs v1 2026-11 chunker seed",
            Self::VaultPayload => "amberfs v1 2026-11 vault payload seal",
            Self::VaultNote => "amberfs v1 2026-11 vault note seal",
            Self::VaultNoteSigning => "amberfs v1 2026-11 vault note signing key",
        }
    }
}

/// BLAKE3 in key-derivation mode (BLAKE3 paper, section 2.3): the context is
/// the purpose's constant, the key material is `key` followed by `material`.
/// Every piece of `material` has a fixed length, so pieces cannot be confused.
pub fn derive(purpose: Purpose, key: &Secret, material: &[&[u8]]) -> Secret {
    let mut hasher = blake3::Hasher::new_derive_key(purpose.context());
    hasher.update(key.expose());
    for piece in material {
        hasher.update(piece);
    }
    let mut output = *hasher.finalize().as_bytes();
    hasher.zeroize();
    Secret::take(&mut output)
}

/// The key check value of `key` in `repo`.
pub fn key_check(key: &Secret, repo: &RepoId) -> KeyCheck {
    let full = derive(Purpose::KeyCheck, key, &[repo]);
    full.expose()[..16].try_into().expect("16 of 32 bytes")
}

/// 16 random bytes that name something.
pub fn random_id(random: &dyn Random) -> [u8; 16] {
    let mut id = [0; 16];
    random.fill(&mut id);
    id
}

/// The keyed ids of one repository; they never change, so that equal content
/// keeps equal ids across epochs.
pub struct IdKeys {
    chunk: Secret,
    node: Secret,
    name: Secret,
    boundary: Secret,
    loser: Secret,
    chunker_seed: u64,
}

impl IdKeys {
    /// Derives all of them from the keyring's id key and chunker key.
    pub fn new(id_key: &Secret, chunker_key: &Secret, repo: &RepoId) -> Self {
        let seed = derive(Purpose::ChunkerSeed, chunker_key, &[repo]);
        Self {
            chunk: derive(Purpose::ChunkId, id_key, &[repo]),
            node: derive(Purpose::NodeId, id_key, &[repo]),
            name: derive(Purpose::NameHash, id_key, &[repo]),
            boundary: derive(Purpose::Boundary, id_key, &[repo]),
            loser: derive(Purpose::LoserNumber, id_key, &[repo]),
            chunker_seed: u64::from_le_bytes(seed.expose()[..8].try_into().expect("8 bytes")),
        }
    }

    fn id(key: &Secret, bytes: &[u8]) -> [u8; 16] {
        blake3::keyed_hash(key.expose(), bytes).as_bytes()[..16].try_into().expect("16 of 32 bytes")
    }

    /// The id of a chunk of file content: the first 16 bytes of keyed BLAKE3.
    pub fn chunk_id(&self, plaintext: &[u8]) -> [u8; 16] {
        Self::id(&self.chunk, plaintext)
    }

    /// The id of an encoded tree node.
    pub fn node_id(&self, encoded: &[u8]) -> [u8; 16] {
        Self::id(&self.node, encoded)
    }

    /// The 63-bit hash of a name; also its readdir cookie, so at least 4
    /// (0 is the start, 1 and 2 are `.` and `..`, 3 is kept free).
    pub fn name_hash(&self, name: &[u8]) -> u64 {
        let full = blake3::keyed_hash(self.name.expose(), name);
        let hash = u64::from_le_bytes(full.as_bytes()[..8].try_into().expect("8 bytes"));
        (hash >> 1).max(4)
    }

    /// 32 pseudo-random bits that decide whether a tree node ends after `key`
    /// at `level`.
    pub fn boundary(&self, level: u8, key: &[u8]) -> u32 {
        let mut hasher = blake3::Hasher::new_keyed(self.boundary.expose());
        hasher.update(&[level]);
        hasher.update(key);
        u32::from_le_bytes(hasher.finalize().as_bytes()[..4].try_into().expect("4 bytes"))
    }

    /// The inode number of a version that is shown beside the file of which it is one: 2^62, and
    /// the lowest 62 bits of a hash of the file's number and of the version's origin, which is
    /// the writer and the record of a change.
    pub fn loser_number(&self, ino: u64, writer: &[u8; 5], record: u64) -> u64 {
        let mut hasher = blake3::Hasher::new_keyed(self.loser.expose());
        hasher.update(&ino.to_be_bytes()).update(writer).update(&record.to_be_bytes());
        let full = hasher.finalize();
        let low = u64::from_le_bytes(full.as_bytes()[..8].try_into().expect("8 bytes"));
        1 << 62 | low & ((1 << 62) - 1)
    }

    /// The seed that the content-defined chunker mixes into its table. No
    /// security claim rests on it.
    pub fn chunker_seed(&self) -> u64 {
        self.chunker_seed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_distinct() {
        let all = [
            Purpose::KeyCheck,
            Purpose::KeyringSeal,
            Purpose::VaultSigning,
            Purpose::FileSeal,
            Purpose::JournalSeal,
            Purpose::StateSeal,
            Purpose::ChunkId,
            Purpose::NodeId,
            Purpose::NameHash,
            Purpose::Boundary,
            Purpose::LoserNumber,
            Purpose::ChatKeySeal,
            Purpose::SecurityKeySeal,
            Purpose::ChunkerSeed,
            Purpose::VaultPayload,
            Purpose::VaultNote,
            Purpose::VaultNoteSigning,
        ];
        let mut contexts: Vec<_> = all.iter().map(|purpose| purpose.context()).collect();
        contexts.sort_unstable();
        contexts.dedup();
        assert_eq!(contexts.len(), all.len());
    }

    /// The example of `docs/format.md`, section 16.
    #[test]
    fn the_number_of_a_loser() {
        let secret = |byte| Secret::take(&mut [byte; 32]);
        let keys = IdKeys::new(&secret(0x33), &secret(0x44), &[0x11; 16]);
        assert_eq!(keys.loser_number(0x80_0002, &[0, 0, 0, 0, 1], 3), 0x5fe9_1c56_8ebb_940d);
    }

    /// BLAKE3's own test vectors (`test_vectors.json`): input of length 0 and 3
    /// (bytes counting from 0), key and context as given there.
    #[test]
    fn blake3_known_answers() {
        let key = b"whats the Elvish word for friend";
        let context = "BLAKE3 2019-12-27 16:29:52 test vectors context";
        assert_eq!(
            crate::crypto::hex(&crate::crypto::hash(b"")),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!(
            crate::crypto::hex(blake3::keyed_hash(key, b"").as_bytes()),
            "92b2b75604ed3c761f9d6f62392c8a9227ad0ea3f09573e783f1498a4ed60d26"
        );
        assert_eq!(
            crate::crypto::hex(&blake3::derive_key(context, b"")),
            "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d"
        );
        assert_eq!(
            crate::crypto::hex(&crate::crypto::hash(&[0, 1, 2])),
            "e1be4d7a8ab5560aa4199eea339849ba8e293d55ca0a81006726d184519e647f"
        );
    }
}
