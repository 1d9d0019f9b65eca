//! Why a PKCS#11 token did not do what was asked, sorted by what to do about it.

use std::time::Duration;

/// What a token, its library or its PIN refused. None of it costs an owner a
/// try: nothing is evaluated, or what was evaluated is dropped.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// This program was built without the feature `pkcs11`.
    #[error("this amberfs-vault was built without PKCS#11 (cargo build --features pkcs11)")]
    NotBuilt,
    /// The PKCS#11 library could not be loaded.
    #[error("the PKCS#11 module {module} cannot be used: {why}")]
    Module {
        /// The path of the library.
        module: String,
        /// What the loader or the library said.
        why: String,
    },
    /// No token has this label.
    #[error("no token labelled \"{0}\" is there: plug it in, or correct `token` in vault.toml")]
    Absent(String),
    /// Several tokens have this label.
    #[error("more than one token is labelled \"{0}\"")]
    Twins(String),
    /// The file with the PIN.
    #[error("the PIN's file {0}")]
    PinFile(String),
    /// A wrong PIN; remembered, because a token locks after a few.
    #[error("the token refused the PIN; it is not tried again before a new start")]
    PinWrong,
    /// Locked by wrong PINs.
    #[error("the token has locked its PIN; only its security officer can set a new one")]
    PinLocked,
    /// A key that should be there.
    #[error("the token has no {0}")]
    Missing(String),
    /// Two of a key.
    #[error("the token has two of {0}; if a ceremony was cut off, run its last step again")]
    Doubled(String),
    /// No answer in time.
    #[error("the token did not answer within {} ms", .0.as_millis())]
    Slow(Duration),
    /// The token was removed while the program used it.
    #[error("the token was removed, or ended the session")]
    Removed,
    /// Keys that do not belong together, or results that cannot be.
    #[error("the token's {0} is not what it should be")]
    Wrong(&'static str),
    /// The token or its library returned another error.
    #[error("the token: {0}")]
    Refused(String),
}

impl TokenError {
    /// Whether starting again could lock the token.
    pub fn is_about_the_pin(&self) -> bool {
        matches!(self, Self::PinWrong | Self::PinLocked)
    }

    /// Whether it may be over once the token is back.
    #[cfg(feature = "pkcs11")]
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::Absent(_) | Self::Removed | Self::Slow(_))
    }
}
