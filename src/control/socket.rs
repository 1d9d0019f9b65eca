//! Frames on a Unix socket, and who is at its other end.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use super::message::MAX_FRAME;

/// Sends one frame.
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
    let peer = rustix::net::sockopt::socket_peercred(stream)?;
    if peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
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

    #[test]
    fn the_same_user_is_let_in() {
        let (a, _b) = UnixStream::pair().expect("pair");
        check_peer(&a).expect("ourselves");
    }
}
