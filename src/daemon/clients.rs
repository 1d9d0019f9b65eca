//! What sync clients' own settings say of the folders that they upload.
//!
//! Read as far as it is there: at most `LIMIT` bytes of a file, and what is not
//! understood names no folder.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Settings are shorter than this.
const LIMIT: u64 = 1 << 20;
/// Accounts of one client, looked into.
const ACCOUNTS: usize = 64;

/// Where this user's programs keep their settings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Settings {
    /// The path of the home folder.
    pub home: PathBuf,
    /// The folder for settings: `$XDG_CONFIG_HOME`, usually `~/.config`.
    pub config: PathBuf,
    /// The folder for state: `$XDG_STATE_HOME`, usually `~/.local/state`.
    pub state: PathBuf,
}

/// A folder that a client uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Root {
    pub(super) client: &'static str,
    pub(super) folder: PathBuf,
    /// The file that says so.
    pub(super) settings: PathBuf,
}

/// How a file of settings names folders.
#[derive(Clone, Copy)]
enum Format {
    /// Lines `KEY = "FOLDER"` with keys that end in this.
    Lines(&'static str),
    /// `"path": "FOLDER"` anywhere in JSON.
    Json,
    /// `<folder ... path="FOLDER"`.
    Xml,
    /// One line, a folder in the one that is meant.
    Below,
}

impl Settings {
    /// The folders of the user that this process runs as; none if there is no home folder.
    pub(crate) fn own() -> Option<Self> {
        let set = |name: &str| {
            std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
        };
        let home = set("HOME").or_else(std::env::home_dir).filter(|home| home.is_absolute())?;
        Some(Self {
            config: set("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config")),
            state: set("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state")),
            home,
        })
    }

    /// All folders that clients' settings name, absolute and without links.
    pub(super) fn roots(&self) -> Vec<Root> {
        let mut roots = Vec::new();
        for (client, format, file) in self.files() {
            let Some(text) = read(&file) else { continue };
            for named in folders(format, &text) {
                let folder = match named.strip_prefix("~/") {
                    Some(rest) => self.home.join(rest),
                    None if named == "~" => self.home.clone(),
                    None => PathBuf::from(named),
                };
                let Ok(folder) = folder.canonicalize() else { continue };
                // A client that names all there is would forbid every mountpoint.
                if folder.parent().is_some() {
                    roots.push(Root { client, folder, settings: file.clone() });
                }
            }
        }
        roots
    }

    fn files(&self) -> Vec<(&'static str, Format, PathBuf)> {
        let Self { home, config, state } = self;
        let local = Format::Lines("localPath");
        let onedrive = Format::Lines("sync_dir");
        let mut files = vec![
            ("Dropbox", Format::Json, home.join(".dropbox/info.json")),
            ("OneDrive", onedrive, config.join("onedrive/config")),
            ("OneDrive", onedrive, PathBuf::from("/etc/onedrive/config")),
            ("Nextcloud", local, config.join("Nextcloud/nextcloud.cfg")),
            ("ownCloud", local, config.join("ownCloud/owncloud.cfg")),
            ("Syncthing", Format::Xml, state.join("syncthing/config.xml")),
            ("Syncthing", Format::Xml, config.join("syncthing/config.xml")),
            ("Seafile", Format::Below, home.join(".ccnet/seafile.ini")),
            ("Yandex.Disk", Format::Lines("dir"), config.join("yandex-disk/config.cfg")),
        ];
        let more = |folder: PathBuf, wanted: fn(&str) -> bool| {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries
                .filter(move |entry| entry.file_name().to_str().is_some_and(wanted))
                .map(|entry| entry.path())
                .take(ACCOUNTS)
        };
        let accounts = more(config.clone(), |name| name.starts_with("onedrive-"))
            .chain(more(config.join("onedrive/accounts"), |_| true));
        files.extend(accounts.map(|path| ("OneDrive", onedrive, path.join("config"))));
        let maestral = more(config.join("maestral"), |name| {
            Path::new(name).extension().is_some_and(|extension| extension == "ini")
        });
        files.extend(maestral.map(|path| ("Dropbox", Format::Lines("path"), path)));
        files
    }
}

/// The text of a regular file.
fn read(path: &Path) -> Option<String> {
    let mut options = File::options();
    // Whatever lies there, it is not waited for.
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn folders(format: Format, text: &str) -> Vec<String> {
    match format {
        Format::Lines(key) => text.lines().filter_map(|line| value(line, key)).collect(),
        Format::Json => {
            let mut found = Vec::new();
            if let Ok(value) = serde_json::from_str(text) {
                paths(&value, &mut found);
            }
            found
        }
        Format::Xml => text.split("<folder ").skip(1).filter_map(attribute).collect(),
        Format::Below => {
            let folder = text.lines().next().map(|line| Path::new(line.trim()));
            let parent = folder.and_then(|folder| folder.parent()?.to_str().map(str::to_owned));
            parent.into_iter().collect()
        }
    }
}

/// The value of a line whose key is `key`, or ends in it behind what says whose it is.
fn value(line: &str, key: &str) -> Option<String> {
    let (name, value) = line.trim_start_matches('\u{feff}').split_once('=')?;
    let own = name.trim().rsplit('\\').next()?;
    (own == key).then(|| value.trim().trim_matches(['"', '\'']).to_owned())
}

fn paths(value: &serde_json::Value, found: &mut Vec<String>) {
    // Its depth is limited by the parser.
    for (name, value) in value.as_object().into_iter().flatten() {
        match value.as_str() {
            Some(path) if name == "path" => found.push(path.to_owned()),
            _ => paths(value, found),
        }
    }
}

/// The attribute `path` in the text before the end of a tag.
fn attribute(tag: &str) -> Option<String> {
    let tag = tag.split('>').next()?;
    let (_, rest) = tag.split_once(" path=").or_else(|| tag.split_once("path="))?;
    let quote = rest.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let text = rest[1..].split(quote).next()?;
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\"")];
    let more = [("&apos;", "'"), ("&#39;", "'"), ("&amp;", "&")];
    let plain = |text: String, (entity, character): &(&str, &str)| text.replace(entity, character);
    Some(entities.iter().chain(&more).fold(text.to_owned(), plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each client's settings, as the client writes it.
    #[test]
    fn settings_of_clients_name_their_folders() {
        let home = tempfile::tempdir().expect("folder");
        let at = |name: &str| home.path().join(name);
        let settings = Settings {
            home: home.path().to_owned(),
            config: at(".config"),
            state: at(".local/state"),
        };
        assert_eq!(settings.roots(), []);
        let here = home.path().display().to_string();
        for (client, file, text) in [
            (
                "Dropbox",
                ".dropbox/info.json",
                r#"{"personal": {"path": "HOME/one", "host": 7, "is_team": false}}"#.to_owned(),
            ),
            ("OneDrive", ".config/onedrive/config", "# a\nsync_dir = \"~/one\"\n".to_owned()),
            ("OneDrive", ".config/onedrive-work/config", "sync_dir=\"~/one\"".to_owned()),
            ("OneDrive", ".config/onedrive/accounts/a/config", "sync_dir = \"~/one\"".to_owned()),
            (
                "Nextcloud",
                ".config/Nextcloud/nextcloud.cfg",
                "[Accounts]\n0\\Folders\\1\\localPath=HOME/one/\n0\\url=https://x\n".to_owned(),
            ),
            (
                "ownCloud",
                ".config/ownCloud/owncloud.cfg",
                "[Accounts]\n0\\Folders\\1\\localPath=HOME/one/\n".to_owned(),
            ),
            (
                "Syncthing",
                ".local/state/syncthing/config.xml",
                "<configuration>\n <folder id=\"a\" label=\"A &amp; B\" path=\"~/one\" \
                 type=\"sendreceive\">\n"
                    .to_owned(),
            ),
            (
                "Syncthing",
                ".config/syncthing/config.xml",
                "<folder id='a' path='HOME/a &amp; b'>".to_owned(),
            ),
            ("Seafile", ".ccnet/seafile.ini", "HOME/one/seafile-data\n".to_owned()),
            ("Yandex.Disk", ".config/yandex-disk/config.cfg", "dir=\"HOME/one\"\n".to_owned()),
            ("Dropbox", ".config/maestral/maestral.ini", "[sync]\npath = HOME/one\n".to_owned()),
        ] {
            let text = text.replace("HOME", &here);
            let folder = at(if text.contains("a &amp; b") { "a & b" } else { "one" });
            std::fs::create_dir_all(&folder).expect("create");
            let file = at(file);
            std::fs::create_dir_all(file.parent().expect("folder")).expect("create");
            std::fs::write(&file, text).expect("write");
            let folder = folder.canonicalize().expect("path");
            let root = Root { client, folder, settings: file.clone() };
            assert_eq!(settings.roots(), [root]);
            std::fs::remove_file(file).expect("remove");
        }
    }

    #[test]
    fn what_is_not_understood_names_nothing() {
        let home = tempfile::tempdir().expect("folder");
        let config = home.path().join(".config");
        let settings = Settings {
            home: home.path().to_owned(),
            config: config.clone(),
            ..Settings::default()
        };
        for text in ["", "sync_dir", "sync_dir = /", "sync_dir = \"/none/of/these\"", "\u{0}=\u{0}"]
        {
            std::fs::create_dir_all(config.join("onedrive")).expect("create");
            std::fs::write(config.join("onedrive/config"), text).expect("write");
            assert_eq!(settings.roots(), [], "{text:?}");
        }
        for text in ["<folder path=", "<folder path=\"", "<folder path=\u{e9}>", "<folder >"] {
            assert!(folders(Format::Xml, text).iter().all(String::is_empty), "{text}");
        }
        for text in ["{", "[[[[", "{\"path\": 7}", &"[".repeat(1 << 16)] {
            assert!(folders(Format::Json, text).is_empty());
        }
        // A pipe is not waited for.
        std::fs::remove_file(config.join("onedrive/config")).expect("remove");
        let made =
            std::process::Command::new("mkfifo").arg(config.join("onedrive/config")).status();
        assert!(made.expect("runs").success());
        assert_eq!(settings.roots(), []);
    }
}
