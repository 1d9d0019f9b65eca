//! Files that hold a secret: regular, own or root's, closed to others.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

/// Longest secrets file, bytes.
pub const SECRET_MAX: u64 = 4096;

/// Who named a secrets file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretFrom {
    /// The user.
    User,
    /// systemd, which gives a unit with `User=` a file of root's that an access
    /// list opens to that user; the list shows as permissions of the group.
    Credential,
}

/// Why a secrets file is not used.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The disk.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// A folder, a pipe or a device.
    #[error("is not a regular file")]
    NotRegular,
    /// Neither ours nor root's.
    #[error("belongs to somebody else")]
    Foreign,
    /// Permissions for others.
    #[error("can be read by others")]
    Open,
    /// More than [`SECRET_MAX`].
    #[error("is too long")]
    TooLong,
    /// Not UTF-8.
    #[error("is not text")]
    NotText,
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

/// Reads a secret to its end.
pub fn read_secret(input: impl Read) -> Result<Zeroizing<String>, SecretFileError> {
    // All room at once, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_MAX as usize + 1));
    input.take(SECRET_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SECRET_MAX {
        return Err(SecretFileError::TooLong);
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| SecretFileError::NotText)?;
    Ok(Zeroizing::new(text.to_string()))
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
        fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(read(), Err(SecretFileError::NotText)));
        fs::write(&path, vec![b'1'; SECRET_MAX as usize + 1]).unwrap();
        assert!(matches!(read(), Err(SecretFileError::TooLong)));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(read(), Err(SecretFileError::NotRegular)));
    }
}
