//! Whether a folder lies inside one that a sync client uploads.
//!
//! Some clients mark their folders, some are named in settings, some give their folder
//! a name that says it. Of the others there is one thing to go by: REPO is in a folder
//! that is uploaded. So what lies beside it counts as uploaded too, unless the folder
//! around both is one that holds everything.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::clients::Settings;
use crate::control::{MountEntry, mount_over};

/// Who uploads a folder, and what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Synced {
    /// The name of the sync client.
    pub client: &'static str,
    /// What shows that the client uploads the folder.
    pub evidence: Evidence,
}

/// What shows that a folder is uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A file or folder that the client leaves.
    Mark(PathBuf),
    /// The client's settings, which name the folder.
    Settings(PathBuf),
    /// The name of this folder is one that the client gives.
    Name(PathBuf),
    /// The folder is the client's file system.
    Mount(PathBuf),
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mark(path) => write!(f, "found {}", path.display()),
            Self::Settings(path) => write!(f, "named in {}", path.display()),
            Self::Name(path) => write!(f, "by the name of {}", path.display()),
            Self::Mount(path) => write!(f, "its mount is {}", path.display()),
        }
    }
}

/// Looks for what shows that `path`, absolute and without links, is uploaded: marks in
/// it and all folders above it, settings, mounts, names.
pub(crate) fn synced_by(
    path: &Path,
    mounts: &[MountEntry],
    settings: Option<&Settings>,
) -> Option<Synced> {
    let marked = || path.ancestors().find_map(mark_in);
    let named = || {
        let mut roots = settings?.roots().into_iter();
        let root = roots.find(|root| path.starts_with(&root.folder))?;
        Some(Synced { client: root.client, evidence: Evidence::Settings(root.settings) })
    };
    let mounted = || {
        let over = mount_over(mounts, path)?;
        let client = client_of_mount(&over.kind)?;
        Some(Synced { client, evidence: Evidence::Mount(over.mountpoint.clone()) })
    };
    let called = || {
        path.ancestors().find_map(|folder| {
            let client = client_of_folder(folder.file_name()?.to_str()?)?;
            Some(Synced { client, evidence: Evidence::Name(folder.to_owned()) })
        })
    };
    marked().or_else(named).or_else(mounted).or_else(called)
}

/// The folder around REPO, if `path` lies in it too and it is no folder for everything.
pub(crate) fn holder_of_both(
    path: &Path,
    repo: &Path,
    settings: Option<&Settings>,
) -> Option<PathBuf> {
    let holder = repo.parent()?;
    (path.starts_with(holder) && !holds_everything(holder, settings)).then(|| holder.to_owned())
}

/// The mode of a folder where everybody makes files and removes only their own.
const STICKY_FOR_ALL: u32 = 0o1002;

/// Home folders, the system's own, those that others are mounted in or made in for a
/// while: nobody uploads the whole of one.
fn holds_everything(folder: &Path, settings: Option<&Settings>) -> bool {
    let home = settings.and_then(|settings| settings.home.canonicalize().ok());
    if home.is_some_and(|home| home == folder) {
        return true;
    }
    let (Some(parent), depth) = (folder.parent(), folder.components().count()) else { return true };
    // `/` is the first component: /srv has two.
    if depth <= 2 || (depth == 3 && parent == Path::new("/home")) {
        return true;
    }
    // A folder made in one where everybody makes theirs, such as /tmp.
    std::env::temp_dir().canonicalize().is_ok_and(|temporary| temporary == parent)
        || parent.metadata().is_ok_and(|data| data.mode() & STICKY_FOR_ALL == STICKY_FOR_ALL)
}

/// A client's mark in a folder.
fn mark_in(folder: &Path) -> Option<Synced> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let path = entry.path();
        let client = client_of(name.to_str()?, is_dir)
            .or_else(|| (name == ".sync" && is_dir).then(|| client_of_sync(&path))?)?;
        Some(Synced { client, evidence: Evidence::Mark(path) })
    })
}

fn client_of(name: &str, is_dir: bool) -> Option<&'static str> {
    let database =
        |prefix| name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(".db")).is_some();
    match name {
        ".nextcloudsync.log" | ".owncloudsync.log" => Some("Nextcloud"),
        _ if !is_dir && (database(".sync_") || database("._sync_")) => Some("Nextcloud"),
        ".stfolder" | ".stignore" => Some("Syncthing"),
        ".dropbox.cache" => Some("Dropbox"),
        // As a folder this is the client's own settings, in the home folder.
        ".dropbox" if !is_dir => Some("Dropbox"),
        ".OneDrive" | ".onedrive-sync" if !is_dir => Some("OneDrive"),
        ".tmp.driveupload" | ".tmp.drivedownload" if is_dir => Some("Google Drive"),
        ".grive" | ".grive_state" if !is_dir => Some("Google Drive"),
        ".gd" if is_dir => Some("Google Drive"),
        ".maestral" if !is_dir => Some("Dropbox"),
        ".megaignore" if !is_dir => Some("MEGA"),
        ".debris" if is_dir => Some("MEGA"),
        ".seafile-data" if is_dir => Some("Seafile"),
        ".filen.trash.local" if is_dir => Some("Filen"),
        "RCLONE_TEST" if !is_dir => Some("rclone bisync"),
        _ => None,
    }
}

/// Whose a folder `.sync` is: in home folders programs keep their settings under that
/// name too.
fn client_of_sync(folder: &Path) -> Option<&'static str> {
    let has = |name: &str| folder.join(name).is_file();
    match () {
        () if has("ID") => Some("Resilio Sync"),
        () if has("core.log") => Some("Yandex.Disk"),
        () => None,
    }
}

/// The client whose file system this is: what is written into the folder while nothing
/// is mounted on it goes to its servers.
fn client_of_mount(kind: &str) -> Option<&'static str> {
    Some(match kind.strip_prefix("fuse.")? {
        "rclone" => "rclone",
        "google-drive-ocamlfuse" => "Google Drive",
        "pcloud" | "pcloudfs" | "pCloud" => "pCloud",
        "onedriver" => "OneDrive",
        "seadrive" => "Seafile",
        "mega" | "mega-fuse" | "megafs" => "MEGA",
        _ => return None,
    })
}

/// The client that calls its folder so where nobody says otherwise; some put a name of
/// the account behind: `OneDrive - Work`, `Dropbox (Work)`.
fn client_of_folder(name: &str) -> Option<&'static str> {
    const NAMES: [(&str, &str); 19] = [
        ("Dropbox", "Dropbox"),
        ("OneDrive", "OneDrive"),
        ("Google Drive", "Google Drive"),
        ("GoogleDrive", "Google Drive"),
        ("My Drive", "Google Drive"),
        ("Insync", "Insync"),
        ("MEGA", "MEGA"),
        ("MEGAsync", "MEGA"),
        ("pCloudDrive", "pCloud"),
        ("pCloud Drive", "pCloud"),
        ("Seafile", "Seafile"),
        ("SeaDrive", "Seafile"),
        ("Nextcloud", "Nextcloud"),
        ("ownCloud", "ownCloud"),
        ("Yandex.Disk", "Yandex.Disk"),
        ("kDrive", "kDrive"),
        ("Proton Drive", "Proton Drive"),
        ("iCloud Drive", "iCloud Drive"),
        ("SpiderOak Hive", "SpiderOak"),
    ];
    let is = |known: &str| {
        let rest = name.strip_prefix(known);
        rest.is_some_and(|rest| {
            rest.is_empty() || rest.starts_with(" - ") || rest.starts_with(" (")
        })
    };
    NAMES.iter().find(|(known, _)| is(known)).map(|(_, client)| *client)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::parse_mountinfo;

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
            (".debris", true, Some("MEGA")),
            (".debris", false, None),
            (".sync_x.db-wal", false, None),
            ("sync_1a2b.db", false, None),
        ] {
            assert_eq!(client_of(name, is_dir), client, "{name}");
        }
    }

    #[test]
    fn names_and_mounts_are_known() {
        for (name, client) in [
            ("OneDrive", Some("OneDrive")),
            ("OneDrive - Work", Some("OneDrive")),
            ("Dropbox (Work)", Some("Dropbox")),
            ("MEGA", Some("MEGA")),
            ("pCloudDrive", Some("pCloud")),
            ("OneDriver", None),
            ("chats", None),
        ] {
            assert_eq!(client_of_folder(name), client, "{name}");
        }
        assert_eq!(client_of_mount("fuse.rclone"), Some("rclone"));
        assert_eq!(client_of_mount("ext4"), None);
        let mounts = parse_mountinfo(b"42 27 0:39 / /x/drive rw - fuse.rclone remote: rw\n");
        let synced = synced_by(Path::new("/x/drive/mnt"), &mounts, None).expect("is synced");
        assert_eq!(synced.evidence, Evidence::Mount("/x/drive".into()));
    }

    #[test]
    fn parents_count() {
        let folder = tempfile::tempdir().expect("folder");
        let deep = folder.path().join("a/b/c");
        std::fs::create_dir_all(&deep).expect("create");
        assert_eq!(synced_by(&deep, &[], None), None);
        let mark = folder.path().join("a/.stfolder");
        std::fs::create_dir(&mark).expect("create");
        let evidence = Evidence::Mark(mark);
        assert_eq!(synced_by(&deep, &[], None), Some(Synced { client: "Syncthing", evidence }));
        assert_eq!(synced_by(folder.path(), &[], None), None, "only above");
    }

    /// Settings of programs lie in such folders too.
    #[test]
    fn a_folder_called_sync_is_looked_into() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::create_dir(folder.path().join(".sync")).expect("create");
        std::fs::write(folder.path().join(".sync/settings.dat"), "").expect("write");
        assert_eq!(synced_by(folder.path(), &[], None), None);
        std::fs::write(folder.path().join(".sync/ID"), "").expect("write");
        let synced = synced_by(folder.path(), &[], None).expect("is synced");
        assert_eq!(synced.client, "Resilio Sync");
    }

    /// MEGA, Insync and others leave nothing that could be found.
    #[test]
    fn what_lies_beside_the_repository_counts() {
        let home = tempfile::tempdir().expect("folder");
        let home = home.path().canonicalize().expect("path");
        let settings = Settings { home: home.clone(), ..Settings::default() };
        let both = |path: &str, repo: &str| {
            holder_of_both(&home.join(path), &home.join(repo), Some(&settings))
        };
        assert_eq!(both("Cloud/plain", "Cloud/chats"), Some(home.join("Cloud")));
        assert_eq!(both("Cloud/a/b/plain", "Cloud/chats"), Some(home.join("Cloud")));
        assert_eq!(both("plain", "Cloud/chats"), None);
        assert_eq!(both("Cloudy/plain", "Cloud/chats"), None);
        assert_eq!(both("plain", "chats"), None, "in the home folder");
        for (path, repo, counts) in [
            ("/srv/mnt", "/srv/repo", false),
            ("/home/ada/mnt", "/home/ada/repo", false),
            ("/home/ada/x/mnt", "/home/ada/x/repo", true),
            ("/mnt/disk/mnt", "/mnt/disk/repo", true),
            ("/mnt", "/repo", false),
        ] {
            let holder = holder_of_both(Path::new(path), Path::new(repo), None);
            assert_eq!(holder.is_some(), counts, "{path} and {repo}");
        }
    }
}
