//! Whether a folder can be mounted on.
//!
//! Invariant: what passes is absolute and without symlinks, so that nothing
//! can be put in its way between check and mount by renaming a link.

use std::io;
use std::path::{Path, PathBuf};

use super::clients::Settings;
use super::synced::{Evidence, holder_of_both, synced_by};
use crate::control::{mount_at, read_mounts};
use crate::fuse::{DeadMount, dead_mount_at};
use crate::io::Exit;

/// The kernel follows no more symlinks than this in one path.
const MAX_LINKS: u32 = 40;
/// What an automounter puts where something is to be mounted when it is asked
/// for: it may be mounted over. Looking into it would be such a request, which
/// only this mount can answer.
const AUTOMOUNTER: &str = "autofs";

/// The checks of a mountpoint that the user turned off.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checks {
    /// Whether the mountpoint may hold files (`-o nonempty`).
    pub allow_nonempty: bool,
    /// Whether a sync client may upload the mountpoint (`--allow-synced-mountpoint`).
    pub allow_synced: bool,
    /// `-f`: the process stays where it was started.
    pub foreground: bool,
}

/// Why a mountpoint or repository cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The mountpoint does not exist.
    #[error("{0} does not exist. Create it: mkdir {0}")]
    Missing(String),
    /// The mountpoint is not a folder.
    #[error("{0} is not a folder.")]
    NotAFolder(String),
    /// It holds files that the mount would hide.
    #[error(
        "{0} is not empty: its files would be hidden while mounted. Choose another, or -o nonempty."
    )]
    NotEmpty(String),
    /// There is a mount already.
    #[error(
        "{mountpoint} is mounted already ({kind}). Unmount it first: amberfs umount {mountpoint}"
    )]
    Mounted {
        /// The path of the mountpoint.
        mountpoint: String,
        /// Type of the mounted file system.
        kind: String,
    },
    /// Inside REPO.
    #[error(
        "{mountpoint} lies inside the repository {repo}: the files would be uploaded. Choose another mountpoint."
    )]
    InsideRepo {
        /// The path of the mountpoint.
        mountpoint: String,
        /// The path of the repository.
        repo: String,
    },
    /// REPO inside it.
    #[error(
        "The repository {repo} lies inside {mountpoint}: the mount would hide it. Choose another mountpoint."
    )]
    RepoInside {
        /// The path of the mountpoint.
        mountpoint: String,
        /// The path of the repository.
        repo: String,
    },
    /// In a folder that a sync client uploads.
    #[error(
        "{mountpoint} lies in a folder that {client} syncs ({evidence}): your plain files \
         would be uploaded. Choose another, or --allow-synced-mountpoint."
    )]
    Synced {
        /// The path of the mountpoint.
        mountpoint: String,
        /// The name of the sync client.
        client: &'static str,
        /// What shows that the client uploads the folder.
        evidence: Evidence,
    },
    /// In the folder that holds REPO.
    #[error(
        "{mountpoint} lies in {holder}, as the repository does: what uploads the repository would \
         upload your plain files too. Choose another, or, if nothing uploads {holder}, \
         --allow-synced-mountpoint."
    )]
    BesideRepo {
        /// The path of the mountpoint.
        mountpoint: String,
        /// The folder around both.
        holder: String,
    },
    /// An automounter waits for the mount.
    #[error("{0} is watched by an automounter: there, mount with -f, as amberfs@.service does.")]
    Watched(String),
    /// A folder above or in the mountpoint cannot be read.
    #[error("{path} cannot be used: {source}.")]
    Unreadable {
        /// The path that cannot be read.
        path: String,
        /// The error of the system.
        source: io::Error,
    },
}

impl Unfit {
    /// The exit code: in use, or unusable.
    pub fn exit_code(&self) -> Exit {
        match self {
            Self::Mounted { .. } => Exit::InUse,
            _ => Exit::Unusable,
        }
    }
}

/// Checks `mountpoint` for a mount of `repo`; returns it absolute and without
/// symlinks. What a killed daemon left there stays until [`free`].
pub fn check_mountpoint(mountpoint: &Path, repo: &Path, checks: Checks) -> Result<PathBuf, Unfit> {
    let shown = mountpoint.display().to_string();
    let unreadable =
        |path: &Path, source| Unfit::Unreadable { path: path.display().to_string(), source };
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Unfit::Missing(shown.clone()),
        _ => unreadable(mountpoint, error),
    };
    let path = follow(mountpoint).map_err(missing)?;
    let dead = dead_mount_at(&path).map_err(missing)?;
    // Nothing can be known of the folder below a dead mount.
    if dead.is_none() && !path.metadata().map_err(missing)?.is_dir() {
        return Err(Unfit::NotAFolder(shown));
    }
    let watched = dead.is_none() && is_watched(&path)?;
    if watched && !checks.foreground {
        // All but the automounter's process group wait there until the mount
        // is made, and a daemon leaves it.
        return Err(Unfit::Watched(shown));
    }
    let repo_path = repo.canonicalize().map_err(|error| unreadable(repo, error))?;
    let repo = repo.display().to_string();
    if path.starts_with(&repo_path) {
        return Err(Unfit::InsideRepo { mountpoint: shown, repo });
    }
    if repo_path.starts_with(&path) {
        return Err(Unfit::RepoInside { mountpoint: shown, repo });
    }
    if !checks.allow_synced {
        let above = watched || dead.is_some();
        let looked_at = if above { path.parent().unwrap_or(&path) } else { &path };
        let settings = Settings::own();
        let mounts = read_mounts().map_err(|error| unreadable(Path::new("/proc"), error))?;
        if let Some(synced) = synced_by(looked_at, &mounts, settings.as_ref()) {
            let (client, evidence) = (synced.client, synced.evidence);
            return Err(Unfit::Synced { mountpoint: shown, client, evidence });
        }
        if let Some(holder) = holder_of_both(&path, &repo_path, settings.as_ref()) {
            let holder = holder.display().to_string();
            return Err(Unfit::BesideRepo { mountpoint: shown, holder });
        }
    }
    if !checks.allow_nonempty && !watched && dead.is_none() {
        check_empty(&path)?;
    }
    Ok(path)
}

/// Clears away what a killed daemon left at a checked mountpoint, and sees that it
/// is as it was when it was checked: to be called right before mounting, because
/// programs can write into the folder from here on.
pub(super) fn free(path: &Path, allow_nonempty: bool) -> Result<(), Unfit> {
    let unreadable = |source| Unfit::Unreadable { path: path.display().to_string(), source };
    if let Some(dead) = dead_mount_at(path).map_err(unreadable)? {
        dead.clear().map_err(unreadable)?;
        log::warn!("the mount of a daemon that had died was cleared away");
    }
    if allow_nonempty || is_watched(path)? { Ok(()) } else { check_empty(path) }
}

/// Whether an automounter waits there for the mount; another mount is refused.
fn is_watched(path: &Path) -> Result<bool, Unfit> {
    let shown = path.display().to_string();
    let mounts = read_mounts()
        .and_then(|mounts| Ok(mount_at(&mounts, path)?.map(|mount| mount.kind.clone())));
    match mounts {
        Ok(None) => Ok(false),
        Ok(Some(kind)) if kind == AUTOMOUNTER => Ok(true),
        Ok(Some(kind)) => Err(Unfit::Mounted { mountpoint: shown, kind }),
        Err(source) => Err(Unfit::Unreadable { path: shown, source }),
    }
}

fn check_empty(path: &Path) -> Result<(), Unfit> {
    let shown = path.display().to_string();
    match std::fs::read_dir(path).map(|mut entries| entries.next()) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(Unfit::NotEmpty(shown)),
        Err(source) => Err(Unfit::Unreadable { path: shown, source }),
    }
}

/// The mount at `mountpoint` whose daemon has died, if there is one.
pub(crate) fn find_dead(mountpoint: &Path) -> Option<DeadMount> {
    dead_mount_at(&follow(mountpoint).ok()?).ok()?
}

/// Absolute and without symlinks. The folder itself is not looked into: what is
/// mounted there may be dead, or wait for this mount.
fn follow(mountpoint: &Path) -> io::Result<PathBuf> {
    let mut path = std::path::absolute(mountpoint)?;
    for _ in 0..MAX_LINKS {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return path.canonicalize();
        };
        let place = parent.canonicalize()?.join(name);
        match place.read_link() {
            Ok(target) => path = place.with_file_name(target),
            Err(_) => return Ok(place),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct TestFolders {
        folder: tempfile::TempDir,
    }

    impl TestFolders {
        fn new() -> Self {
            let folder = tempfile::tempdir().expect("folder");
            for name in ["repo", "repo/in", "mnt"] {
                std::fs::create_dir(folder.path().join(name)).expect("create");
            }
            Self { folder }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn check(&self, name: &str, checks: Checks) -> Result<PathBuf, Unfit> {
            check_mountpoint(&self.path(name), &self.path("repo"), checks)
        }
    }

    #[test]
    fn an_empty_folder_is_fit() {
        let folders = TestFolders::new();
        let path = folders.check("mnt", Checks::default()).expect("is fit");
        assert_eq!(path, folders.path("mnt").canonicalize().expect("path"));
    }

    #[test]
    fn what_is_no_folder_is_not() {
        let folders = TestFolders::new();
        std::fs::write(folders.path("file"), "").expect("write");
        let error = folders.check("file", Checks::default()).expect_err("is a file");
        assert!(matches!(error, Unfit::NotAFolder(_)));
        let error = folders.check("none", Checks::default()).expect_err("is missing");
        assert!(matches!(error, Unfit::Missing(_)));
        assert_eq!(error.exit_code(), Exit::Unusable);
    }

    #[test]
    fn files_would_be_hidden() {
        let folders = TestFolders::new();
        std::fs::write(folders.path("mnt/file"), "").expect("write");
        let error = folders.check("mnt", Checks::default()).expect_err("is not empty");
        assert!(matches!(error, Unfit::NotEmpty(_)));
        let checks = Checks { allow_nonempty: true, ..Checks::default() };
        folders.check("mnt", checks).expect("was allowed");
    }

    #[test]
    fn neither_contains_the_other() {
        let folders = TestFolders::new();
        for name in ["repo", "repo/in"] {
            let error = folders.check(name, Checks::default()).expect_err("is inside");
            assert!(matches!(error, Unfit::InsideRepo { .. }));
        }
        let link = folders.path("link");
        std::os::unix::fs::symlink(folders.path("repo/in"), link).expect("link");
        let error = folders.check("link", Checks::default()).expect_err("is inside by a link");
        assert!(matches!(error, Unfit::InsideRepo { .. }));
        let error = folders.check("", Checks::default()).expect_err("has it inside");
        assert!(matches!(error, Unfit::RepoInside { .. }));
    }

    #[test]
    fn a_synced_folder_is_refused_in_the_words_of_the_manual() {
        let folders = TestFolders::new();
        std::fs::write(folders.path(".sync_1a2b.db"), "").expect("write");
        let error = folders.check("mnt", Checks::default()).expect_err("is synced");
        let expected = format!(
            "{} lies in a folder that Nextcloud syncs (found {}): your plain files would be \
             uploaded. Choose another, or --allow-synced-mountpoint.",
            folders.path("mnt").display(),
            folders.path(".sync_1a2b.db").canonicalize().expect("path").display(),
        );
        assert_eq!(error.to_string(), expected);
        let checks = Checks { allow_synced: true, ..Checks::default() };
        folders.check("mnt", checks).expect("was allowed");
    }

    #[test]
    fn a_folder_beside_the_repository_is_refused_where_both_may_be_uploaded() {
        let folders = TestFolders::new();
        std::fs::create_dir_all(folders.path("cloud/chats")).expect("create");
        std::fs::create_dir_all(folders.path("cloud/plain")).expect("create");
        let check = |checks| {
            check_mountpoint(&folders.path("cloud/plain"), &folders.path("cloud/chats"), checks)
        };
        let error = check(Checks::default()).expect_err("is beside it");
        assert!(matches!(error, Unfit::BesideRepo { .. }), "{error}");
        assert_eq!(error.exit_code(), Exit::Unusable);
        check(Checks { allow_synced: true, ..Checks::default() }).expect("was allowed");
    }

    #[test]
    fn a_mount_is_in_use() {
        let repo = tempfile::tempdir().expect("folder");
        let error = check_mountpoint(Path::new("/proc"), repo.path(), Checks::default())
            .expect_err("is mounted");
        assert!(matches!(error, Unfit::Mounted { .. }));
        assert_eq!(error.exit_code(), Exit::InUse);
    }
}
