//! Frames on a Unix socket, who is at its other end, and names that are too long for one.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::message::MAX_FRAME;

/// The longest name of a socket in bytes; the kernel's field has one more for its end.
const NAME_MAX: usize = 107;
/// What a daemon's socket is called until it listens, and in the kernel's list for ever.
pub(super) const ASIDE: &str = "new";

/// Listens at `path`, of any length.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    by_short_name(path, |name| UnixListener::bind(name))
}

/// Connects to the socket at `path`, of any length.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    by_short_name(path, |name| UnixStream::connect(name))
}

/// A state folder may lie so deep that no socket in it could be named: such a one is
/// named from a descriptor of its folder on.
fn by_short_name<T>(path: &Path, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= NAME_MAX {
        return act(path);
    }
    let folder = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(folder, flags, Mode::empty())?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
    act(&short.join(path.file_name().unwrap_or(OsStr::new(""))))
}

/// Sends one frame: its length and `body`.
pub(super) fn send(mut stream: &UnixStream, body: &[u8]) -> io::Result<()> {
    if body.len() > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "message is too long"));
    }
    let mut frame = (body.len() as u32).to_le_bytes().to_vec();
    frame.extend_from_slice(body);
    stream.write_all(&frame)
}

/// Receives one frame; `None` if the other side closed between frames.
pub(super) fn receive(mut stream: &UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    if stream.read(&mut length[..1])? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut length[1..])?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "message is too long"));
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Some(body))
}

/// Refuses anybody but this user and root (`SO_PEERCRED`).
pub(super) fn check_peer(stream: &UnixStream) -> io::Result<()> {
    check_peer_is(stream, rustix::process::geteuid().as_raw())
}

/// Refuses anybody but the user `uid` and root.
pub(super) fn check_peer_is(stream: &UnixStream, uid: u32) -> io::Result<()> {
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    if peer.uid.is_root() || peer.uid.as_raw() == uid {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "belongs to another user"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_and_have_a_limit() {
        let (a, b) = UnixStream::pair().expect("pair");
        assert!(send(&a, &vec![0; MAX_FRAME + 1]).is_err());
        send(&a, b"hello").expect("sends");
        assert_eq!(receive(&b).expect("receives"), Some(b"hello".to_vec()));
        (&a).write_all(&u32::MAX.to_le_bytes()).expect("writes");
        assert_eq!(receive(&b).expect_err("too long").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_cut_frame_is_an_error_and_a_closed_one_is_the_end() {
        let (a, b) = UnixStream::pair().expect("pair");
        (&a).write_all(&[5, 0, 0, 0, 1]).expect("writes");
        drop(a);
        assert_eq!(receive(&b).expect_err("cut").kind(), io::ErrorKind::UnexpectedEof);
        let (a, b) = UnixStream::pair().expect("pair");
        drop(a);
        assert_eq!(receive(&b).expect("closed"), None);
    }

    /// Below a deep state folder nothing could be bound: "path must be shorter".
    #[test]
    fn a_socket_may_lie_deep() {
        let folder = tempfile::tempdir().expect("folder");
        let deep = folder.path().join("d".repeat(200)).join("e".repeat(200));
        std::fs::create_dir_all(&deep).expect("create");
        let path = deep.join("s.sock");
        let listener = bind(&path).expect("binds");
        assert!(path.exists());
        let ours = connect(&path).expect("connects");
        let (theirs, _) = listener.accept().expect("accepts");
        send(&ours, b"hello").expect("sends");
        assert_eq!(receive(&theirs).expect("receives"), Some(b"hello".to_vec()));
        assert!(connect(&deep.join("none.sock")).is_err());
    }

    #[test]
    fn the_same_user_is_let_in() {
        let (a, _b) = UnixStream::pair().expect("pair");
        check_peer(&a).expect("ourselves");
    }
}
