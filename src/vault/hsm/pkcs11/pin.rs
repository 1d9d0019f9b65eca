//! The token's PIN: from a file, or from systemd.

use std::path::PathBuf;

use cryptoki::types::AuthPin;

use crate::io::{SecretFrom, open_secret, read_secret};
use crate::vault::config::Token;
use crate::vault::hsm::TokenError;

/// The credential's name in `$CREDENTIALS_DIRECTORY`.
const CREDENTIAL: &str = "amberfs-vault.pin";

/// Reads the PIN; one line end is not part of it.
pub fn read_pin(token: &Token) -> Result<AuthPin, TokenError> {
    let credentials = || std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let (path, from) = if let Some(path) = &token.pin_file {
        (path.clone(), SecretFrom::User)
    } else if let Some(folder) = credentials() {
        (folder.join(CREDENTIAL), SecretFrom::Credential)
    } else {
        let what = "is not known: give pin_file in vault.toml, or in the unit LoadCredential=";
        return Err(TokenError::PinFile(format!("{what}{CREDENTIAL}:PATH")));
    };
    let text = open_secret(&path, from)
        .and_then(read_secret)
        .map_err(|error| TokenError::PinFile(format!("{} {error}", path.display())))?;
    let pin = text.strip_suffix('\n').unwrap_or(&text);
    let pin = pin.strip_suffix('\r').unwrap_or(pin);
    if pin.is_empty() {
        return Err(TokenError::PinFile(format!("{} is empty", path.display())));
    }
    Ok(AuthPin::new(Box::from(pin)))
}
