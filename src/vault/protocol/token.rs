//! The tokens that a relay gives out itself: `amber-`, the relay they are for, digits.

use zeroize::Zeroizing;

use crate::crypto::{hex, unhex};
use crate::io::Random;

/// How our own tokens begin.
const TOKEN: &str = "amber-";

/// The relay (`HOST:PORT`) that a token of ours is for; none if it does not say it, as an
/// issuer's token does not.
pub fn audience(token: &str) -> Option<&str> {
    let (audience, digits) = token.strip_prefix(TOKEN)?.rsplit_once('-')?;
    unhex::<32>(digits).map(|_| audience)
}

/// A new token for the relay `audience` (`HOST:PORT`; empty if it is not known). Clients
/// send it to that relay only.
pub fn new_token(audience: &str, random: &dyn Random) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; 32]);
    random.fill(&mut *bytes);
    let dash = if audience.is_empty() { "" } else { "-" };
    Zeroizing::new(format!("{TOKEN}{audience}{dash}{}", hex(&*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::SystemRandom;

    #[test]
    fn a_token_says_which_relay_it_is_for() {
        let [token, other] = ["", "relay-1.example:443"].map(|at| new_token(at, &SystemRandom));
        assert_eq!((audience(&token), audience(&other)), (None, Some("relay-1.example:443")));
        assert_eq!((audience("amber-x-y"), audience("eyJh.e30.x-1")), (None, None));
    }
}
