//! Files that hold a secret: regular, own or root's, closed to others.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::terminal::{AnswerError, Terminal, can_ask};

/// The longest secrets file that is read, in bytes.
pub const SECRET_MAX: u64 = 4096;

/// Who gives the path of a secrets file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretFrom {
    /// The user, by an option, a variable or a setting.
    User,
    /// systemd, which gives a unit with `User=` a file of root's that an access
    /// list opens to that user; the list shows as permissions of the group.
    Credential,
}

/// Why a secrets file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A folder, a pipe or a device.
    #[error("is not a regular file")]
    NotRegular,
    /// The file belongs neither to this user nor to root.
    #[error("belongs to somebody else")]
    Foreign,
    /// Others than the owner may read or write the file.
    #[error("can be read by others")]
    Open,
    /// The secret has more than [`SECRET_MAX`] bytes.
    #[error("is too long")]
    TooLong,
    /// The secret is not valid UTF-8.
    #[error("is not text")]
    NotText,
    /// Two bytes for each character, as some editors save text.
    #[error("is no UTF-8: it has zero bytes, or the mark of UTF-16")]
    Utf16,
    /// Asked for on the terminal in its place, and not given.
    #[error(transparent)]
    Answer(#[from] AnswerError),
}

/// Opens a secrets file and looks at what was opened.
pub fn open_secret(path: &Path, from: SecretFrom) -> Result<File, SecretFileError> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let data = file.metadata()?;
    if !data.is_file() {
        return Err(SecretFileError::NotRegular);
    }
    if ![rustix::process::geteuid().as_raw(), 0].contains(&data.uid()) {
        return Err(SecretFileError::Foreign);
    }
    let closed = match from {
        SecretFrom::Credential if data.uid() == 0 => 0o037,
        _ => 0o077,
    };
    if data.mode() & closed != 0 {
        return Err(SecretFileError::Open);
    }
    Ok(file)
}

/// What some editors put before text to say that it is UTF-8.
const MARK: char = '\u{feff}';

/// Reads a secret to its end. A byte order mark before it is none of it.
pub fn read_secret(input: impl Read) -> Result<Zeroizing<String>, SecretFileError> {
    // All room at once, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX as usize + 1));
    input.take(SECRET_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SECRET_MAX {
        return Err(SecretFileError::TooLong);
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) || bytes.contains(&0) {
        return Err(SecretFileError::Utf16);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretFileError::NotText)?;
    Ok(Zeroizing::new(text.trim_start_matches(MARK).to_owned()))
}

/// Reads a secret from standard input: on a terminal it is asked for.
pub fn read_secret_from_stdin(question: &str) -> Result<Zeroizing<String>, SecretFileError> {
    if can_ask() {
        return Ok(Terminal::open()?.ask_secret(question)?);
    }
    // Around the standard library's buffer, which nobody wipes.
    read_secret(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_closed_regular_files_of_text_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let read = || read_secret(open_secret(&path, SecretFrom::User)?);
        assert!(matches!(read(), Err(SecretFileError::Io(_))));
        fs::write(&path, "1234").unwrap();
        for open in [0o640, 0o604, 0o610] {
            fs::set_permissions(&path, fs::Permissions::from_mode(open)).unwrap();
            assert!(matches!(read(), Err(SecretFileError::Open)), "{open:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(*read().unwrap(), "1234");
        fs::write(&path, [0xff, 0xff]).unwrap();
        assert!(matches!(read(), Err(SecretFileError::NotText)));
        fs::write(&path, "\u{feff}1234\r\n").unwrap();
        assert_eq!(*read().unwrap(), "1234\r\n");
        for utf16 in
            [&b"\xff\xfe1\x002\x00"[..], b"\xfe\xff\x001\x002", b"1\x002\x00", b"\x001\x002"]
        {
            fs::write(&path, utf16).unwrap();
            assert!(matches!(read(), Err(SecretFileError::Utf16)), "{utf16:?}");
        }
        fs::write(&path, vec![b'1'; SECRET_MAX as usize + 1]).unwrap();
        assert!(matches!(read(), Err(SecretFileError::TooLong)));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(), Err(SecretFileError::NotRegular)));
    }
}
