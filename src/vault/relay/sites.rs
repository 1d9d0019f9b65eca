//! The sites behind a relay, and which of them answer.

use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, socket};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout};

use crate::vault::listen::is_own_trouble;

/// For how long a site that did not answer is asked after all others.
const SHUNNED: Duration = Duration::from_secs(10);
/// How long connecting to one site may take.
const CONNECT: Duration = Duration::from_secs(1);

/// Endpoints of sites, the nearest first.
pub struct Sites {
    endpoints: Vec<String>,
    /// When each did not answer last.
    failed: Mutex<Vec<Option<Instant>>>,
    /// Where the name of each led last.
    known: Mutex<Vec<Vec<SocketAddr>>>,
}

impl Sites {
    /// Makes the list of the sites at these endpoints, the nearest first.
    pub fn new(endpoints: Vec<String>) -> Self {
        let failed = Mutex::new(vec![None; endpoints.len()]);
        let known = Mutex::new(vec![Vec::new(); endpoints.len()]);
        Self { endpoints, failed, known }
    }

    /// In which order to ask: those that answered, then those that failed longest
    /// ago.
    fn order(&self, now: Instant) -> Vec<usize> {
        let failed = self.failed.lock().expect("marking does not panic");
        let shunned = |at: &usize| failed[*at].filter(|then| now.duration_since(*then) < SHUNNED);
        let mut order: Vec<usize> = (0..self.endpoints.len()).collect();
        order.sort_by_key(shunned);
        order
    }

    /// Remembers whether a site took a connection. What went wrong here already says
    /// nothing of the site.
    fn note<T>(&self, at: usize, connected: &io::Result<T>) {
        let mark = match connected {
            Ok(_) => None,
            Err(error) if is_own_trouble(error) => return,
            Err(_) => Some(Instant::now()),
        };
        self.failed.lock().expect("marking does not panic")[at] = mark;
    }

    /// A connection to the first site that takes one. The error is this machine's own
    /// trouble, if there was any.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no site");
        for at in self.order(Instant::now()) {
            let connected = match timeout(CONNECT, self.connect_to(at)).await {
                Ok(connected) => connected,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            self.note(at, &connected);
            match connected {
                Ok(stream) => return Ok(stream),
                Err(_) if is_own_trouble(&last) => {}
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Sites {
    /// A connection to one site. A resolver that has no descriptor says that there is no
    /// such name: then the site is asked where it was before.
    async fn connect_to(&self, at: usize) -> io::Result<TcpStream> {
        let found = lookup_host(&self.endpoints[at]).await.map(Iterator::collect::<Vec<_>>);
        let addresses = {
            let mut known = self.known.lock().expect("remembering does not panic");
            match found {
                Ok(addresses) => known[at] = addresses,
                Err(error) if known[at].is_empty() => {
                    socket(AddressFamily::INET, SocketType::STREAM, None)?;
                    return Err(error);
                }
                Err(_) => {}
            }
            known[at].clone()
        };
        TcpStream::connect(&addresses[..]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_that_failed_is_asked_last_for_a_while() {
        let sites = Sites::new(vec!["a:1".into(), "b:1".into(), "c:1".into()]);
        let start = Instant::now();
        assert_eq!(sites.order(start), [0, 1, 2]);
        let later = start + Duration::from_secs(1);
        *sites.failed.lock().unwrap() = vec![Some(later), None, Some(start)];
        assert_eq!(sites.order(later), [1, 2, 0]);
        assert_eq!(sites.order(start + SHUNNED), [1, 2, 0]);
        assert_eq!(sites.order(later + SHUNNED), [0, 1, 2]);
    }

    /// A relay out of descriptors asked the nearest site last for ten seconds.
    #[test]
    fn a_site_is_not_shunned_for_the_relays_own_trouble() {
        let sites = Sites::new(vec!["a:1".into(), "b:1".into()]);
        let note = |code| sites.note::<()>(0, &Err(io::Error::from_raw_os_error(code)));
        for own in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL] {
            note(own);
            assert_eq!(sites.order(Instant::now()), [0, 1], "{own}");
        }
        note(libc::ECONNREFUSED);
        assert_eq!(sites.order(Instant::now()), [1, 0]);
        // Nor does it clear the site.
        note(libc::EMFILE);
        assert_eq!(sites.order(Instant::now()), [1, 0]);
        sites.note(0, &Ok(()));
        assert_eq!(sites.order(Instant::now()), [0, 1]);
    }
}
