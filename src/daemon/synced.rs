//! Whether a folder lies inside one that a sync client uploads.
//!
//! Clients mark their folders; every parent is looked at.

use std::path::{Path, PathBuf};

/// A marker that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// The client's name.
    pub client: &'static str,
    /// The marker.
    pub marker: PathBuf,
}

/// Looks for markers of sync clients in `path` and all folders above it.
pub fn synced_by(path: &Path) -> Option<Synced> {
    path.ancestors().find_map(|folder| {
        let entries = std::fs::read_dir(folder).ok()?;
        entries.flatten().find_map(|entry| {
            let name = entry.file_name();
            let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let client = client_of(name.to_str()?, is_dir)?;
            Some(Synced { client, marker: entry.path() })
        })
    })
}

fn client_of(name: &str, is_dir: bool) -> Option<&'static str> {
    let database =
        |prefix| name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".db")).is_some();
    match name {
        ".nextcloudsync.log" | ".owncloudsync.log" => Some("Nextcloud"),
        _ if !is_dir && (database(".sync_") || database("._sync_")) => Some("Nextcloud"),
        ".stfolder" => Some("Syncthing"),
        ".dropbox.cache" => Some("Dropbox"),
        // As a folder this is the client's own settings, in the home folder.
        ".dropbox" if !is_dir => Some("Dropbox"),
        ".OneDrive" | ".onedrive-sync" if !is_dir => Some("OneDrive"),
        ".tmp.driveupload" | ".tmp.drivedownload" if is_dir => Some("Google Drive"),
        ".maestral" if !is_dir => Some("Dropbox"),
        "RCLONE_TEST" if !is_dir => Some("rclone bisync"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_known() {
        for (name, is_dir, client) in [
            (".sync_1a2b.db", false, Some("Nextcloud")),
            ("._sync_1a2b.db", false, Some("Nextcloud")),
            (".nextcloudsync.log", false, Some("Nextcloud")),
            (".stfolder", true, Some("Syncthing")),
            (".dropbox.cache", true, Some("Dropbox")),
            (".dropbox", false, Some("Dropbox")),
            (".dropbox", true, None),
            (".sync_x.db-wal", false, None),
            ("sync_1a2b.db", false, None),
        ] {
            assert_eq!(client_of(name, is_dir), client, "{name}");
        }
    }

    #[test]
    fn parents_count() {
        let folder = tempfile::tempdir().expect("folder");
        let deep = folder.path().join("a/b/c");
        std::fs::create_dir_all(&deep).expect("create");
        assert_eq!(synced_by(&deep), None);
        let marker = folder.path().join("a/.stfolder");
        std::fs::create_dir(&marker).expect("create");
        assert_eq!(synced_by(&deep), Some(Synced { client: "Syncthing", marker }));
        assert_eq!(synced_by(folder.path()), None, "only above");
    }
}
