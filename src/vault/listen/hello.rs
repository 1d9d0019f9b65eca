//! What a client's handshake begins with, as a relay and a site carry it on.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The first byte of a handshake record (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 22;
/// Longest first record; an X25519MLKEM768 hello has some 1500 bytes.
const HELLO_MAX: usize = 4096;

/// Reads the client's first record: a whole `ClientHello` (RFC 8446, sections 4.1.2
/// and 5.1). A client of ours sends it in one record, and needs no second one, for
/// there is one group only.
pub async fn read_hello(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    const CLIENT_HELLO: u8 = 1;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "it does not begin with a hello");
    let mut head = [0; 5];
    stream.read_exact(&mut head).await?;
    let len = usize::from(u16::from_be_bytes([head[3], head[4]]));
    if head[0] != HANDSHAKE || head[1] != 3 || !(4..=HELLO_MAX).contains(&len) {
        return Err(bad());
    }
    let mut hello = head.to_vec();
    hello.resize(5 + len, 0);
    stream.read_exact(&mut hello[5..]).await?;
    let body = u32::from_be_bytes([0, hello[6], hello[7], hello[8]]) as usize;
    if hello[5] == CLIENT_HELLO && body == len - 4 { Ok(hello) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_hello_is_carried() {
        let read = |bytes: &[u8]| {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(read_hello(&mut &bytes[..])).ok()
        };
        let hello = [22, 3, 1, 0, 6, 1, 0, 0, 2, 3, 3];
        assert_eq!(read(&[&hello[..], b"rest"].concat()), Some(hello.to_vec()));
        for (at, byte) in [(0, 23), (1, 2), (3, 255), (4, 3), (5, 2), (8, 3)] {
            let mut bad = hello;
            bad[at] = byte;
            assert_eq!(read(&bad), None, "{at}");
        }
        for cut in 0..hello.len() {
            assert_eq!(read(&hello[..cut]), None);
        }
    }
}
