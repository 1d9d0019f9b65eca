//! A repository that was opened to change what vaults know of it, and the end of records.

use std::path::{Path, PathBuf};

use super::super::Result;
use super::super::args::Global;
use super::super::opening::{self, RepositoryWithKey, Wanted, find};
use super::super::trust::{NamedBy, VaultEndpoints, known, typed_address, vault_endpoints};
use super::{client_by, token};
use crate::crypto::{RepoId, Secret};
use crate::io::DirSynced;
use crate::vault::client::VaultError;
use crate::vault::line::Timeouts;
use crate::vault::protocol::{Fingerprint, Locator, Retirement};
use crate::volume::repository::vault_slots;

/// A repository opened with K, and its vault entries as they were sealed.
pub(super) struct OpenForVault {
    /// The file system of the repository, and the lock of local state.
    open: opening::OpenRepository,
    /// K, the 64-digit key.
    pub key: Secret,
    /// The id of the repository.
    pub repo: RepoId,
    /// The vault entries of the current register.
    pub slots: Vec<Vec<u8>>,
    /// The vault entries that newer ones replaced, as far as older registers are still
    /// there.
    pub replaced: Vec<Vec<u8>>,
    /// The folder of the repository, without symlinks.
    pub path: PathBuf,
}

/// Opens it by what the command line gives.
pub(super) fn open(global: &Global, repo: &Path) -> Result<OpenForVault> {
    let found = find(repo)?;
    let mut opening = global.clone();
    if let Some(address) = typed_address(global)? {
        // The vault to move to says nothing about the one to open at.
        let fingerprint = address.fingerprint();
        let names =
            |slot| Locator::decode(slot).is_ok_and(|l| l.address.fingerprint() == fingerprint);
        let folder = DirSynced::new(&found.path, None);
        if !found.early.vault_slots(&folder).into_iter().any(names) {
            opening.vault = None;
        }
    }
    open_by(global, found.obtain_key(&opening)?)
}

/// Opens it by a key that is here.
pub(super) fn open_by(global: &Global, with_key: RepositoryWithKey) -> Result<OpenForVault> {
    let scanned = with_key.lock_state(global)?.scan()?;
    let (key, repo, path) =
        (scanned.key().duplicate(), scanned.repository.repo, scanned.path.clone());
    let slots: Vec<Vec<u8>> = vault_slots(&scanned.slots).map(<[u8]>::to_vec).collect();
    let folder = DirSynced::new(&path, None);
    let mut replaced = scanned.repository.sealed_vault_slots(&folder, &key);
    replaced.retain(|slot| !slots.contains(slot));
    let open = scanned.open(global, &Wanted::default())?;
    open.print_notices();
    open.refuse_less(global)?;
    Ok(OpenForVault { open, key, repo, slots, replaced, path })
}

impl OpenForVault {
    /// Puts these vault entries into the register, and that into REPO.
    pub fn publish(&self, slots: Vec<Vec<u8>>) -> Result<()> {
        self.open.fs.volume().set_vault_slots(&self.key, slots)?;
        Ok(self.open.fs.publish_register()?)
    }

    /// Ends the registrations in `slots`; returns those that could not be
    /// ended, and why.
    pub fn retire<'a>(
        &self,
        global: &Global,
        slots: &'a [Vec<u8>],
        reason: Retirement,
    ) -> Result<Vec<(&'a Vec<u8>, String)>> {
        let token = token(global, &self.path)?;
        let mut failed = Vec::new();
        // A vault that does not answer is waited for once.
        let mut silent: Vec<(Fingerprint, String)> = Vec::new();
        for slot in slots {
            let Ok(locator) = Locator::decode(slot) else { continue };
            let fingerprint = locator.address.fingerprint();
            if let Some((_, why)) = silent.iter().find(|(silent, _)| *silent == fingerprint) {
                failed.push((slot, why.clone()));
                continue;
            }
            // Sealed with K: these addresses are the owner's own.
            let VaultEndpoints { locator: asked, trusted, .. } =
                vault_endpoints(global, &locator, NamedBy::Sealed)?;
            let client = client_by(token.as_ref(), Timeouts::default(), &trusted);
            let pin = known(global, fingerprint)?;
            if let Err(error) = client.retire(&asked, &self.repo, &self.key, pin, reason) {
                let why = format!("{}: {error}", locator.address);
                if matches!(error, VaultError::Unreachable { .. }) {
                    silent.push((fingerprint, why.clone()));
                }
                failed.push((slot, why));
            }
        }
        Ok(failed)
    }

    /// Ends what newer registrations replaced. Returns how many are left; they
    /// are named, with the command that tries again.
    pub fn retire_replaced(&self, global: &Global, replaced: &[Vec<u8>]) -> Result<usize> {
        let failed = self.retire(global, replaced, Retirement::Superseded)?;
        for (_, why) in &failed {
            note!("amberfs: an older record could not be ended, its password still works: {why}");
        }
        if !failed.is_empty() {
            note!("  amberfs vault remove --replaced {} tries again", self.path.display());
        }
        Ok(failed.len())
    }
}
