//! How many connections the limit of descriptors lets a process carry, and errors that
//! say that it is out of them.

use std::io;

use rustix::process::{Resource, getrlimit};

/// Descriptors for all but connections: standard streams, listeners, ledger, the
/// runtime's own, the admin port, files that are read anew.
const SPARE: usize = 64;

/// Descriptors for `connections` that take `each`, and for all else.
pub fn descriptors_for(connections: usize, each: usize) -> usize {
    connections.saturating_mul(each).saturating_add(SPARE)
}

/// How many connections that take `each` fit into `limit` descriptors.
fn fitting(limit: usize, each: usize) -> usize {
    limit.saturating_sub(SPARE) / each
}

/// How many of `wanted` connections that take `each` descriptors this process can
/// carry. The operator is told if it is fewer. An error if it is none.
pub fn affordable(wanted: usize, each: usize) -> Result<usize, TooFew> {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return Ok(wanted) };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let fits = fitting(limit, each);
    if fits == 0 {
        return Err(TooFew { limit, least: descriptors_for(1, each) });
    }
    if fits < wanted {
        log::warn!(
            "this process may open {limit} files: it takes {fits} connections instead of {wanted}, \
             for which it would need {} (LimitNOFILE= of its unit, or ulimit -n)",
            descriptors_for(wanted, each)
        );
    }
    Ok(fits.min(wanted))
}

/// The limit of open files leaves no room for a connection.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this process may open {limit} files, and needs {least} at least (ulimit -n)")]
pub struct TooFew {
    limit: usize,
    least: usize,
}

/// Whether this process is out of descriptors.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMFILE)
}

/// Whether this process or machine is out of what one connection less would give back.
pub(crate) fn wants_room(error: &io::Error) -> bool {
    const CAUSES: [i32; 4] = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| CAUSES.contains(&code))
}

/// Whether a connection failed by this machine's own trouble, which says nothing of
/// the other end.
pub(crate) fn is_own_trouble(error: &io::Error) -> bool {
    wants_room(error) || error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_what_has_descriptors() {
        for (wanted, each) in [(1, 1), (256, 1), (1024, 2), (100_000, 2)] {
            let limit = descriptors_for(wanted, each);
            assert_eq!(fitting(limit, each), wanted);
            assert_eq!(fitting(limit - 1, each), wanted - 1);
        }
        assert_eq!([0, 10, 65].map(|limit| fitting(limit, 2)), [0; 3]);
    }

    #[test]
    fn what_the_other_end_did_is_no_own_trouble() {
        let of = io::Error::from_raw_os_error;
        for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert!(wants_room(&of(code)) && is_own_trouble(&of(code)));
        }
        assert!(is_own_trouble(&of(libc::EADDRNOTAVAIL)) && !wants_room(&of(libc::EADDRNOTAVAIL)));
        for code in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::ETIMEDOUT] {
            assert!(!is_own_trouble(&of(code)));
        }
        assert!(!is_own_trouble(&io::ErrorKind::TimedOut.into()));
    }
}
