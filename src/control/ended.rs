//! Notes of daemons that ended by themselves with everything in REPO, and told
//! nobody: whoever unmounts by other means and asks afterwards gets an answer.
//!
//! Invariant: a note is of the last mount at its place. It goes when it is read,
//! and when something is mounted there again.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::Registry;
use crate::crypto::{hash, hex};

/// One name for each mountpoint, so that notes cannot become many.
fn name(mountpoint: &Path) -> String {
    format!("{}.ended", hex(&hash(mountpoint.as_os_str().as_bytes())[..16]))
}

/// Leaves a note beside a daemon's socket.
pub(crate) fn note_end(socket: &Path, mountpoint: &Path) -> io::Result<()> {
    std::fs::write(socket.with_file_name(name(mountpoint)), b"")
}

/// Takes the notes of a mountpoint away; tells whether there was one.
pub(crate) fn take_end(registry: &Registry, mountpoint: &Path) -> bool {
    let notes = registry.folders().map(|folder| folder.join(name(mountpoint)));
    let taken: Vec<PathBuf> = notes.filter(|note| std::fs::remove_file(note).is_ok()).collect();
    !taken.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_once() {
        let folder = tempfile::tempdir().expect("folder");
        let registry = Registry::at(&folder.path().join("run"));
        let socket = registry.new_sockets().expect("path").remove(0);
        assert!(!take_end(&registry, Path::new("/m")));
        note_end(&socket, Path::new("/m")).expect("writes");
        assert!(!take_end(&registry, Path::new("/m/n")));
        assert!(take_end(&registry, Path::new("/m")));
        assert!(!take_end(&registry, Path::new("/m")));
    }
}
