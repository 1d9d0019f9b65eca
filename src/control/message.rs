//! The messages and their encoding.
//!
//! Invariant: a frame is a length of four bytes, at most `MAX_FRAME`, and that
//! many bytes: version, kind, fields. Anything else is refused.

use std::path::PathBuf;

use crate::format::wire::{DecodeError, Decoder, Encoder, Result};
use crate::io::Exit;

/// Largest frame in bytes; longer answers come in several.
pub(crate) const MAX_FRAME: usize = 1 << 20;
/// Data and input are cut to this, which leaves room for the frame's head.
pub(crate) const MAX_DATA: usize = MAX_FRAME - 64;
/// Version of this protocol; both ends are installed together.
const VERSION: u8 = 1;
const MAX_PATH: usize = 4096;
const MAX_TEXT: usize = 64 << 10;

/// What the command line asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Who are you? Answered by `Described`.
    Describe,
    /// The status as one line of JSON. Answered by `Data`, then `Done`.
    Status,
    /// Put everything into REPO. Answered by `Done` when that is so.
    Sync,
    /// Put everything into REPO and unmount. Answered by `Done` when both are
    /// so and nobody has the mount any more, or by `Busy`, in which case the
    /// daemon goes on serving.
    Unmount,
    /// A command of a later layer; answered by any number of `Data`, then
    /// `Done`. The client may send `Input` and `EndOfInput` after it.
    Call(Vec<u8>),
    /// Bytes for a running call.
    Input(Vec<u8>),
    /// The last of them.
    EndOfInput,
    /// Who has the mount? Answered by `Data` with a sentence, then `Done`.
    Users,
}

/// A daemon describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The number of the daemon's process.
    pub pid: u32,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The folder of the repository.
    pub repo: PathBuf,
}

/// Why something failed: an exit code and what to tell the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the command that asked is to end.
    pub code: Exit,
    /// What failed, for people. Further lines are hints.
    pub text: String,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The request is done. No frame follows.
    Done,
    /// The answer to `Describe`.
    Described(Described),
    /// A piece of the answer; more follows.
    Data(Vec<u8>),
    /// Everything is in REPO, and somebody uses the mount: what of it is left,
    /// and who they are as far as they can be seen.
    Busy(String),
    /// The request failed. No frame follows.
    Failed(Failure),
}

/// The longest part of `text` of at most `limit` bytes that ends with a whole
/// character (`str::floor_char_boundary` is newer than our compiler).
pub(crate) fn char_boundary(text: &str, limit: usize) -> usize {
    (0..=limit.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

fn head(kind: u8) -> Encoder {
    let mut encoder = Encoder::new();
    encoder.u8(VERSION).u8(kind);
    encoder
}

fn kind(decoder: &mut Decoder<'_>) -> Result<u8> {
    if decoder.u8()? != VERSION {
        return Err(DecodeError::Invalid("version of the message"));
    }
    decoder.u8()
}

fn path(decoder: &mut Decoder<'_>) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = decoder.bytes(MAX_PATH, "path")?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec())))
}

fn path_bytes(path: &std::path::Path) -> &[u8] {
    use std::os::unix::ffi::OsStrExt as _;
    path.as_os_str().as_bytes()
}

impl Request {
    /// The frame's bytes, without the length.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoder = head(match self {
            Self::Describe => 1,
            Self::Status => 2,
            Self::Sync => 3,
            Self::Unmount => 4,
            Self::Call(_) => 5,
            Self::Input(_) => 6,
            Self::EndOfInput => 7,
            Self::Users => 8,
        });
        if let Self::Call(body) | Self::Input(body) = self {
            encoder.bytes(body);
        }
        encoder.finish()
    }

    /// Reads a frame's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut decoder = Decoder::new(bytes);
        let request = match kind(&mut decoder)? {
            1 => Self::Describe,
            2 => Self::Status,
            3 => Self::Sync,
            4 => Self::Unmount,
            5 => Self::Call(decoder.bytes(MAX_FRAME, "call")?.to_vec()),
            6 => Self::Input(decoder.bytes(MAX_FRAME, "input")?.to_vec()),
            7 => Self::EndOfInput,
            8 => Self::Users,
            _ => return Err(DecodeError::Invalid("kind of request")),
        };
        decoder.end()?;
        Ok(request)
    }
}

impl Reply {
    /// The frame's bytes, without the length.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Done => head(1).finish(),
            Self::Described(described) => {
                let mut encoder = head(2);
                encoder.u32(described.pid);
                encoder.bytes(path_bytes(&described.mountpoint));
                encoder.bytes(path_bytes(&described.repo));
                encoder.finish()
            }
            Self::Data(bytes) => {
                let mut encoder = head(3);
                encoder.bytes(bytes);
                encoder.finish()
            }
            Self::Failed(failure) => {
                let mut encoder = head(5);
                encoder.u8(failure.code.number()).bytes(truncated(&failure.text));
                encoder.finish()
            }
            // Kind 4 was a list of processes.
            Self::Busy(text) => {
                let mut encoder = head(6);
                encoder.bytes(truncated(text));
                encoder.finish()
            }
        }
    }

    /// Reads a frame's bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut decoder = Decoder::new(bytes);
        let reply = match kind(&mut decoder)? {
            1 => Self::Done,
            2 => Self::Described(Described {
                pid: decoder.u32()?,
                mountpoint: path(&mut decoder)?,
                repo: path(&mut decoder)?,
            }),
            3 => Self::Data(decoder.bytes(MAX_FRAME, "data")?.to_vec()),
            5 => Self::Failed(Failure { code: exit(&mut decoder)?, text: text(&mut decoder)? }),
            6 => Self::Busy(text(&mut decoder)?),
            _ => return Err(DecodeError::Invalid("kind of reply")),
        };
        decoder.end()?;
        Ok(reply)
    }
}

fn exit(decoder: &mut Decoder<'_>) -> Result<Exit> {
    Exit::from_number(decoder.u8()?).ok_or(DecodeError::Invalid("exit code"))
}

/// A text's bytes, as far as they fit into a message.
fn truncated(text: &str) -> &[u8] {
    &text.as_bytes()[..char_boundary(text, MAX_TEXT)]
}

fn text(decoder: &mut Decoder<'_>) -> Result<String> {
    String::from_utf8(decoder.bytes(MAX_TEXT, "text")?.to_vec())
        .map_err(|_| DecodeError::Invalid("text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests() -> Vec<Request> {
        vec![
            Request::Describe,
            Request::Status,
            Request::Sync,
            Request::Unmount,
            Request::Call(b"ls".to_vec()),
            Request::Input(vec![0; 300]),
            Request::EndOfInput,
            Request::Users,
        ]
    }

    fn replies() -> Vec<Reply> {
        vec![
            Reply::Done,
            Reply::Described(Described { pid: 7, mountpoint: "/m".into(), repo: "/r".into() }),
            Reply::Data(vec![1, 2, 3]),
            Reply::Busy("in use".into()),
            Reply::Failed(Failure { code: Exit::Unusable, text: "no".into() }),
        ]
    }

    #[test]
    fn messages_survive() {
        for request in requests() {
            assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
        for reply in replies() {
            assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn cut_or_lengthened_messages_are_refused() {
        let encodings = requests()
            .iter()
            .map(Request::encode)
            .map(|bytes| (bytes, true))
            .chain(replies().iter().map(|reply| (reply.encode(), false)))
            .collect::<Vec<_>>();
        for (bytes, is_request) in encodings {
            let refused = |bytes: &[u8]| {
                if is_request {
                    Request::decode(bytes).is_err()
                } else {
                    Reply::decode(bytes).is_err()
                }
            };
            for cut in 0..bytes.len() {
                assert!(refused(&bytes[..cut]), "{bytes:?} cut at {cut}");
            }
            assert!(refused(&[&bytes[..], &[0]].concat()));
            let mut version = bytes.clone();
            version[0] = 9;
            assert!(refused(&version));
            let mut unknown = bytes.clone();
            unknown[1] = 99;
            assert!(refused(&unknown));
        }
        assert!(Reply::decode(&[1, 6, 0xff, 0xff, 0x7f]).is_err(), "a text that is too long");
        assert!(Reply::decode(&[1, 5, 0, 1, 0xff]).is_err(), "text that is not UTF-8");
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let failure = Failure { code: Exit::Other, text: "é".repeat(MAX_TEXT) };
        let Ok(Reply::Failed(back)) = Reply::decode(&Reply::Failed(failure).encode()) else {
            panic!("must decode");
        };
        assert!(back.text.len() <= MAX_TEXT && back.text.ends_with('é'));
    }
}
