//! Where connections come from.

use std::net::{IpAddr, Ipv6Addr};

/// What counts as one client, and the network that client is in. Of IPv4 both are the
/// address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// An IPv4 address, or the /64 of an IPv6 one, which a single subscriber has whole.
    pub subscriber: IpAddr,
    /// An IPv4 address, or the /48 of an IPv6 one: an organisation or a tunnel has
    /// 65,536 subscribers' worth of it.
    pub network: IpAddr,
}

impl Origin {
    /// None for loopback, which is not counted.
    pub fn of(address: IpAddr) -> Option<Self> {
        let address = address.to_canonical();
        if address.is_loopback() {
            return None;
        }
        let IpAddr::V6(long) = address else {
            return Some(Self { subscriber: address, network: address });
        };
        let [a, b, c, d, ..] = long.segments();
        let of = |d: u16| Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into();
        Some(Self { subscriber: of(d), network: of(0) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_one_subscriber_and_of_one_network_are_told() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        let one = of("2001:db8:1:2::1").unwrap();
        assert_eq!(of("2001:db8:1:2:ffff::9"), Some(one));
        let beside = of("2001:db8:1:3::1").unwrap();
        assert!(beside.subscriber != one.subscriber && beside.network == one.network);
        assert_ne!(of("2001:db8:2:2::1").unwrap().network, one.network);
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
        assert_ne!(of("192.0.2.1").unwrap().network, of("192.0.2.2").unwrap().network);
        assert_eq!([of("127.0.0.9"), of("::1"), of("::ffff:127.0.0.1")], [None; 3]);
    }
}
