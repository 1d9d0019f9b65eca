//! The daemon's side of the socket.
//!
//! Invariant: at most `MAX_CONNECTIONS` at once, each in its own thread; a
//! connection serves one request after another until it is closed.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::message::{Described, Failure, MAX_DATA, Reply, Request};
use super::socket;

const MAX_CONNECTIONS: usize = 32;
/// Somebody who connects and says nothing is cut off after this.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// How a request ended.
pub enum Answer {
    /// Done.
    Done,
    /// Everything is in REPO, and somebody uses the mount: how it is, and who.
    Busy(String),
    /// Failed.
    Failed(Failure),
}

/// What a daemon does for each request.
pub trait Handler: Send + Sync + 'static {
    /// Who it is.
    fn describe(&self) -> Described;
    /// Everything else.
    fn handle(&self, request: Request, exchange: &mut Exchange<'_>) -> Answer;
}

/// The open connection of one request.
pub struct Exchange<'a> {
    stream: &'a UnixStream,
}

impl Exchange<'_> {
    /// Sends a part of the answer, cut into frames.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        bytes
            .chunks(MAX_DATA)
            .try_for_each(|piece| socket::send(self.stream, &Reply::Data(piece.to_vec()).encode()))
    }

    /// The next piece of input; `None` at its end.
    pub fn receive(&mut self) -> io::Result<Option<Vec<u8>>> {
        let frame = socket::receive(self.stream)?
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        match Request::decode(&frame) {
            Ok(Request::Input(bytes)) => Ok(Some(bytes)),
            Ok(Request::EndOfInput) => Ok(None),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "input was expected")),
        }
    }
}

/// Listens until dropped; the socket file goes with it.
pub struct Server {
    path: PathBuf,
    stopped: Arc<AtomicBool>,
    /// Requests whose answer is not sent yet.
    busy: Arc<AtomicUsize>,
}

impl Server {
    /// Starts listening at `path`, in a folder that is closed to others.
    pub fn start<H: Handler>(path: &Path, handler: Arc<H>) -> io::Result<Self> {
        // Bound aside: a socket that does not listen yet refuses as that of a
        // dead daemon does, and whoever looked for daemons removed it.
        let aside = path.with_extension("new");
        let listener = UnixListener::bind(&aside)?;
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&aside, path)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let busy = Arc::new(AtomicUsize::new(0));
        let (flag, counter) = (Arc::clone(&stopped), Arc::clone(&busy));
        thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &flag, &counter, &handler))?;
        Ok(Self { path: path.to_path_buf(), stopped, busy })
    }

    /// Stops listening and waits until all answers were sent, at most `limit`:
    /// the process may end right after.
    pub fn finish(self, limit: Duration) {
        let end = Instant::now() + limit;
        while self.busy.load(Ordering::SeqCst) > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = UnixStream::connect(&self.path);
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept<H: Handler>(
    listener: &UnixListener,
    stopped: &AtomicBool,
    busy: &Arc<AtomicUsize>,
    handler: &Arc<H>,
) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        if stopped.load(Ordering::SeqCst) {
            return;
        }
        let Ok(stream) = stream else {
            // Out of descriptors, perhaps: not in a tight loop.
            thread::sleep(Duration::from_millis(100));
            continue;
        };
        if open.fetch_add(1, Ordering::SeqCst) >= MAX_CONNECTIONS {
            open.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (handler, count) = (Arc::clone(handler), Arc::clone(&open));
        let busy = Arc::clone(busy);
        let started = thread::Builder::new().name("connection".into()).spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                serve(&stream, &busy, &*handler)
            }));
            if let Ok(Err(error)) = result {
                log::debug!("a control connection ended: {error}");
            }
            count.fetch_sub(1, Ordering::SeqCst);
        });
        if started.is_err() {
            open.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// Counts a request from its arrival until its answer was sent.
struct Busy<'a>(&'a AtomicUsize);

impl<'a> Busy<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn limit(stream: &UnixStream, time: Option<Duration>) -> io::Result<()> {
    stream.set_read_timeout(time)?;
    stream.set_write_timeout(time)
}

fn serve<H: Handler>(stream: &UnixStream, busy: &AtomicUsize, handler: &H) -> io::Result<()> {
    socket::check_peer(stream)?;
    limit(stream, Some(IDLE_LIMIT))?;
    while let Some(frame) = socket::receive(stream)? {
        let _busy = Busy::new(busy);
        let reply = match Request::decode(&frame) {
            Ok(Request::Describe) => Reply::Described(handler.describe()),
            Ok(request) => {
                // A pager or a slow pipe at the other end may take its time.
                limit(stream, None)?;
                let answer = handler.handle(request, &mut Exchange { stream });
                limit(stream, Some(IDLE_LIMIT))?;
                match answer {
                    Answer::Done => Reply::Done,
                    Answer::Busy(text) => Reply::Busy(text),
                    Answer::Failed(failure) => Reply::Failed(failure),
                }
            }
            Err(error) => {
                let text = format!("the request is not understood: it {error}");
                Reply::Failed(Failure { code: 1, text })
            }
        };
        socket::send(stream, &reply.encode())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Client, ControlError, Registry};
    use super::*;

    struct Echo;

    impl Handler for Echo {
        fn describe(&self) -> Described {
            Described { pid: std::process::id(), mountpoint: "/m".into(), repo: "/r".into() }
        }

        fn handle(&self, request: Request, exchange: &mut Exchange<'_>) -> Answer {
            match request {
                Request::Call(body) if body == b"panic" => panic!("a bug"),
                Request::Call(body) => {
                    let mut all = body;
                    while let Ok(Some(bytes)) = exchange.receive() {
                        all.extend(bytes);
                    }
                    exchange.send(&all).expect("sends");
                    Answer::Done
                }
                Request::Unmount => Answer::Busy("in use".into()),
                _ => Answer::Failed(Failure { code: 3, text: "no".into() }),
            }
        }
    }

    #[test]
    fn a_whole_conversation() {
        let folder = tempfile::tempdir().expect("folder");
        let registry = Registry::at(&folder.path().join("run"));
        let server =
            Server::start(&registry.new_socket().expect("path"), Arc::new(Echo)).expect("starts");
        let mode = std::fs::metadata(server.path()).expect("socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let found = registry.find(Path::new("/m/x/y")).expect("is inside");
        assert!(registry.find(Path::new("/mm")).is_none());

        let mut client = Client::connect(&found.socket).expect("connects");
        client.send(&Request::Call(b"a".to_vec())).expect("sends");
        client.send_input(&vec![b'b'; MAX_DATA + 10]).expect("sends");
        let mut got = Vec::new();
        client
            .ask(&Request::EndOfInput, |bytes| {
                got.extend_from_slice(bytes);
                Ok(())
            })
            .expect("is answered");
        assert_eq!(got.len(), MAX_DATA + 11);
        assert!(matches!(client.ask(&Request::Unmount, |_| Ok(())), Err(ControlError::Busy(_))));
        assert!(matches!(client.ask(&Request::Sync, |_| Ok(())), Err(ControlError::Failed(_))));
        assert!(client.ask(&Request::Call(b"panic".to_vec()), |_| Ok(())).is_err());

        let path = server.path().to_path_buf();
        drop(server);
        assert!(!path.exists());
        assert_eq!(registry.all(), []);
    }

    /// Between bind(2) and listen(2) it looked dead, and was removed.
    #[test]
    fn a_socket_is_not_removed_while_it_is_made() {
        let folder = tempfile::tempdir().expect("folder");
        let registry = Registry::at(&folder.path().join("run"));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::SeqCst) {
                        registry.all();
                    }
                });
            }
            let lost = (0..300).find(|_| {
                let path = registry.new_socket().expect("path");
                let server = Server::start(&path, Arc::new(Echo)).expect("starts");
                !server.path().exists()
            });
            over.store(true, Ordering::SeqCst);
            assert_eq!(lost, None);
        });
    }

    #[test]
    fn nonsense_is_refused_and_the_connection_goes_on() {
        let folder = tempfile::tempdir().expect("folder");
        let registry = Registry::at(&folder.path().join("run"));
        let server =
            Server::start(&registry.new_socket().expect("path"), Arc::new(Echo)).expect("starts");
        let stream = UnixStream::connect(server.path()).expect("connects");
        for bad in [&b""[..], b"\x01", b"\x09\x01", b"\x01\x63", b"\x01\x05\xff"] {
            socket::send(&stream, bad).expect("sends");
            let reply = socket::receive(&stream).expect("receives").expect("is open");
            assert!(matches!(Reply::decode(&reply), Ok(Reply::Failed(_))));
        }
    }
}
