//! The sites behind a relay, and which of them answer.

use std::io;
use std::sync::Mutex;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// For how long a site that did not answer is asked after all others.
const SHUNNED: Duration = Duration::from_secs(10);
/// For one connection.
const CONNECT: Duration = Duration::from_secs(1);

/// Places of sites, the nearest first.
pub struct Sites {
    places: Vec<String>,
    /// When each did not answer last.
    failed: Mutex<Vec<Option<Instant>>>,
}

impl Sites {
    /// Sites at `HOST:PORT`.
    pub fn new(places: Vec<String>) -> Self {
        let failed = Mutex::new(vec![None; places.len()]);
        Self { places, failed }
    }

    /// In which order to ask: those that answered, then those that failed longest
    /// ago.
    fn order(&self, now: Instant) -> Vec<usize> {
        let failed = self.failed.lock().expect("marking does not panic");
        let shunned = |at: &usize| failed[*at].filter(|then| now.duration_since(*then) < SHUNNED);
        let mut order: Vec<usize> = (0..self.places.len()).collect();
        order.sort_by_key(shunned);
        order
    }

    /// A connection to the first site that takes one.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "there is no site");
        for at in self.order(Instant::now()) {
            let connected = match timeout(CONNECT, TcpStream::connect(&self.places[at])).await {
                Ok(connected) => connected,
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            let mark = connected.is_err().then(Instant::now);
            self.failed.lock().expect("marking does not panic")[at] = mark;
            match connected {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
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
}
