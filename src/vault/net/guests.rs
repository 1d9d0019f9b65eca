//! How many connections each origin has.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

/// What counts as one client: an IPv4 address, or the /64 of an IPv6 one, which
/// a single subscriber has whole.
pub fn origin(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        other => other,
    }
}

/// Counts connections of one origin; gives back when dropped.
pub struct Guest {
    counts: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Guest {
    /// One more of `address`, if there are fewer than `limit`; loopback always.
    pub fn admit(
        counts: &Arc<Mutex<HashMap<IpAddr, usize>>>,
        address: IpAddr,
        limit: usize,
    ) -> Option<Self> {
        let address = origin(address);
        let mut map = counts.lock().expect("counting does not panic");
        let count = map.entry(address).or_insert(0);
        if *count >= limit && !address.is_loopback() {
            return None;
        }
        *count += 1;
        Some(Self { counts: Arc::clone(counts), address })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut map = self.counts.lock().expect("counting does not panic");
        if let Some(count) = map.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                map.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subscriber_is_counted_once_however_many_addresses_it_has() {
        let counts = Arc::default();
        let admit = |text: &str| Guest::admit(&counts, text.parse().unwrap(), 1);
        let first = admit("2001:db8:1:2::1");
        assert!(first.is_some() && admit("2001:db8:1:2:ffff::9").is_none());
        let others = [admit("2001:db8:1:3::1"), admit("192.0.2.1"), admit("192.0.2.2")];
        assert!(others.iter().all(Option::is_some));
        assert!(admit("::ffff:192.0.2.1").is_none(), "the same IPv4 address");
        assert!(admit("::1").is_some() && admit("::1").is_some());
        drop(first);
        assert!(admit("2001:db8:1:2::7").is_some());
    }
}
