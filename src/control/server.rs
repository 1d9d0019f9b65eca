//! The daemon's side of the socket.
//!
//! Invariant: at most `MAX_CONNECTIONS` at once, each in its own thread; a
//! connection serves one request after another until it is closed.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::message::{Described, Failure, MAX_DATA, Reply, Request};
use super::socket;
use crate::io::Exit;

const MAX_CONNECTIONS: usize = 32;
/// Somebody who connects and says nothing is cut off after this.
const IDLE_LIMIT: Duration = Duration::from_secs(60);

/// How a request ended.
pub enum Answer {
    /// The request is done.
    Done,
    /// Everything is in REPO, and somebody uses the mount: how it is, and who.
    Busy(String),
    /// The request failed.
    Failed(Failure),
}

/// What a daemon does for each request.
pub trait Handler: Send + Sync + 'static {
    /// Says which daemon this is, of which mount and repository.
    fn describe(&self) -> Described;
    /// Executes any other request. Output goes out by `exchange`.
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

/// Listens until dropped; its socket files go with it.
pub struct Server {
    listening: Vec<(PathBuf, UnixListener)>,
    open: Arc<Open>,
}

/// Connections that are open.
#[derive(Default)]
struct Open {
    connections: Mutex<Connections>,
    changed: Condvar,
}

#[derive(Default)]
struct Connections {
    /// By a number each.
    streams: HashMap<u64, Arc<UnixStream>>,
    next: u64,
    /// No more are to be taken.
    stopped: bool,
    /// Threads that take connections: when it stops, each ends with the last that was
    /// there.
    taking: usize,
}

impl Open {
    fn change<T>(&self, work: impl FnOnce(&mut Connections) -> T) -> T {
        let result = work(&mut self.connections.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        result
    }

    /// Waits until `condition` holds, or it is `end`.
    fn wait(&self, end: Instant, condition: impl Fn(&Connections) -> bool) {
        let connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = end.saturating_duration_since(Instant::now());
        drop(self.changed.wait_timeout_while(connections, limit, |open| !condition(open)));
    }
}

impl Server {
    /// Starts listening at each of `paths`, in folders that are closed to others; fails
    /// where it can listen at none.
    pub fn start<H: Handler>(paths: &[PathBuf], handler: &Arc<H>) -> io::Result<Self> {
        let mut server = Self { listening: Vec::new(), open: Arc::default() };
        let mut last = io::Error::other("no socket to listen at");
        for path in paths {
            if let Err(error) = server.listen(path, handler) {
                last = error;
            }
        }
        if server.listening.is_empty() { Err(last) } else { Ok(server) }
    }

    fn listen<H: Handler>(&mut self, path: &Path, handler: &Arc<H>) -> io::Result<()> {
        // Bound aside: a socket that does not listen yet refuses as that of a
        // dead daemon does, and whoever looked for daemons removed it.
        let aside = path.with_extension(socket::ASIDE);
        let listener = socket::bind(&aside)?;
        std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&aside, path)?;
        let own = listener.try_clone()?;
        let (taken, handler) = (Arc::clone(&self.open), Arc::clone(handler));
        taken.change(|open| open.taking += 1);
        let started = thread::Builder::new().name("control".into()).spawn(move || {
            accept(&listener, &taken, &handler);
            taken.change(|open| open.taking -= 1);
        });
        if let Err(error) = started {
            self.open.change(|open| open.taking -= 1);
            return Err(error);
        }
        self.listening.push((path.to_path_buf(), own));
        Ok(())
    }

    /// Stops listening, and waits until whoever had connected has the answers to
    /// what was asked, at most `limit`: the process may end right after.
    pub(crate) fn finish(self, limit: Duration) {
        let end = Instant::now() + limit;
        self.stop();
        self.open.wait(end, |open| open.taking == 0);
        self.open.change(|open| {
            for stream in open.streams.values() {
                // What was sent can still be read.
                let _ = stream.shutdown(Shutdown::Read);
            }
        });
        self.open.wait(end, |open| open.streams.is_empty());
    }

    /// The paths of the sockets that the server listens on.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.listening.iter().map(|(path, _)| path)
    }

    fn stop(&self) {
        if self.open.change(|open| std::mem::replace(&mut open.stopped, true)) {
            return;
        }
        // Nobody connects after whoever wakes the thread that accepts.
        for (path, listener) in &self.listening {
            let aside = path.with_extension("end");
            let _ = std::fs::rename(path, &aside);
            if socket::connect(&aside).is_err() {
                // The file was removed: nobody has connected for long.
                let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
            }
            let _ = std::fs::remove_file(&aside);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn accept<H: Handler>(listener: &UnixListener, open: &Arc<Open>, handler: &Arc<H>) {
    loop {
        let stream = listener.accept();
        let stopped = open.change(|open| open.stopped);
        match stream {
            Ok((stream, _)) => take(stream, open, handler),
            Err(_) if stopped => return,
            // Out of descriptors, perhaps: not in a tight loop.
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
        // The others that had connected by then are there.
        if stopped && listener.set_nonblocking(true).is_err() {
            return;
        }
    }
}

/// Serves a connection, in a thread of its own.
fn take<H: Handler>(stream: UnixStream, open: &Arc<Open>, handler: &Arc<H>) {
    let stream = Arc::new(stream);
    let number = open.change(|open| {
        open.next += 1;
        let room = open.streams.len() < MAX_CONNECTIONS;
        room.then(|| open.streams.insert(open.next, Arc::clone(&stream))).map(|_| open.next)
    });
    let Some(number) = number else { return };
    let (handler, count) = (Arc::clone(handler), Arc::clone(open));
    let started = thread::Builder::new().name("connection".into()).spawn(move || {
        let result =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| serve(&stream, &*handler)));
        if let Ok(Err(error)) = result {
            log::debug!("a control connection ended: {error}");
        }
        count.change(|open| open.streams.remove(&number));
    });
    if started.is_err() {
        open.change(|open| open.streams.remove(&number));
    }
}

fn limit(stream: &UnixStream, time: Option<Duration>) -> io::Result<()> {
    stream.set_read_timeout(time)?;
    stream.set_write_timeout(time)
}

fn serve<H: Handler>(stream: &UnixStream, handler: &H) -> io::Result<()> {
    socket::check_peer(stream)?;
    limit(stream, Some(IDLE_LIMIT))?;
    while let Some(frame) = socket::receive(stream)? {
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
                Reply::Failed(Failure { code: Exit::Other, text })
            }
        };
        socket::send(stream, &reply.encode())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

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
                _ => Answer::Failed(Failure { code: Exit::Partial, text: "no".into() }),
            }
        }
    }

    #[test]
    fn a_whole_conversation() {
        let folder = tempfile::tempdir().expect("folder");
        let registry = Registry::at(&folder.path().join("run"));
        let server =
            Server::start(&registry.new_sockets().expect("path"), &Arc::new(Echo)).expect("starts");
        let path = server.paths().next().expect("listens").clone();
        let mode = std::fs::metadata(&path).expect("socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let found = registry.find(Path::new("/m/x/y")).expect("is inside");
        assert!(registry.find(Path::new("/mm")).is_none());

        let mut client = Client::connect(&found.socket).expect("connects");
        client.send(&Request::Call(b"a".to_vec())).expect("sends");
        for piece in vec![b'b'; MAX_DATA + 10].chunks(MAX_DATA) {
            client.send(&Request::Input(piece.to_vec())).expect("sends");
        }
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

        drop(server);
        assert!(!path.exists());
        assert_eq!(registry.all(), []);
    }

    /// Whoever had connected when the daemon ended got no answer: "the daemon is gone".
    #[test]
    fn whoever_has_asked_is_answered_at_the_end() {
        let folder = tempfile::tempdir().expect("folder");
        let registry = Registry::at(&folder.path().join("run"));
        for _ in 0..20 {
            let paths = registry.new_sockets().expect("path");
            let server = Server::start(&paths, &Arc::new(Echo)).expect("starts");
            let path = paths[0].clone();
            let mut asked: Vec<_> =
                (0..8).map(|_| Client::connect(&path).expect("connects")).collect();
            for client in &mut asked {
                client.send(&Request::Sync).expect("sends");
            }
            // One that never asks holds nobody up.
            let silent = Client::connect(&path).expect("connects");
            let started = Instant::now();
            server.finish(Duration::from_secs(30));
            assert!(started.elapsed() < Duration::from_secs(20));
            for client in &mut asked {
                assert!(matches!(client.receive(), Err(ControlError::Failed(_))));
            }
            drop(silent);
            assert!(!path.exists());
        }
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
                let paths = registry.new_sockets().expect("path");
                let server = Server::start(&paths, &Arc::new(Echo)).expect("starts");
                !server.paths().all(|path| path.exists())
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
            Server::start(&registry.new_sockets().expect("path"), &Arc::new(Echo)).expect("starts");
        let stream =
            UnixStream::connect(server.paths().next().expect("listens")).expect("connects");
        for bad in [&b""[..], b"\x01", b"\x09\x01", b"\x01\x63", b"\x01\x05\xff"] {
            socket::send(&stream, bad).expect("sends");
            let reply = socket::receive(&stream).expect("receives").expect("is open");
            assert!(matches!(Reply::decode(&reply), Ok(Reply::Failed(_))));
        }
    }
}
