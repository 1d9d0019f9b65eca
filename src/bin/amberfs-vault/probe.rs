//! `amberfs-vault probe`: what a client does, at each place of an address, on a
//! record that is deleted again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use amberfs::crypto::{Secret, key_check, random_id, unhex};
use amberfs::io::{SystemClock, SystemRandom};
use amberfs::vault::client::{Claim, Client, NewRecord, Pin, Token, VaultError};
use amberfs::vault::line::Timeouts;
use amberfs::vault::protocol::{Address, Argon2Choice, Argon2Cost, Bind, Password};
use clap::Args;
use zeroize::Zeroizing;

use super::guard::read_secret_file;
use super::{Exit, Failure, say};

const RIGHT: &str = "a canary sings before the gas";
const WRONG: &str = "a canary sleeps after the gas";

#[derive(Args)]
pub struct ProbeArguments {
    /// The vault's address
    address: String,
    /// File with the token of an account that may register (- for standard input)
    #[arg(long, value_name = "FILE")]
    vault_token: Option<PathBuf>,
    /// File with an invite (- for standard input); it is used up at the first place
    #[arg(long, value_name = "FILE", conflicts_with = "vault_token")]
    invite_file: Option<PathBuf>,
}

pub fn run(arguments: &ProbeArguments) -> Result<(), Failure> {
    let address: Address = arguments.address.parse().map_err(Failure::other)?;
    let token = match &arguments.vault_token {
        Some(path) => {
            let text = read_secret_file(path, "Token: ")?;
            Some(Zeroizing::new(text.trim().to_owned()))
        }
        None => None,
    };
    let claim = match &arguments.invite_file {
        Some(path) => {
            let text = read_secret_file(path, "Invite: ")?;
            let digits = text.trim().trim_start_matches("amber-invite-");
            let usage = || Failure { code: Exit::Usage, text: "this is no invite".into() };
            Claim::Invite(unhex(digits).ok_or_else(usage)?)
        }
        None => Claim::Open,
    };
    let mut failed = 0;
    for endpoint in address.endpoints() {
        let one =
            Address::new(vec![endpoint.clone()], address.fingerprint()).map_err(Failure::other)?;
        let mut times = Vec::new();
        match probe(&one, token.as_ref(), claim, &mut times) {
            Ok(()) => say(&format!("{endpoint}: ok ({})", times.join(", ")))?,
            Err((what, error)) => {
                failed += 1;
                say(&format!("{endpoint}: {what} failed: {error}"))?;
            }
        }
    }
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::other(format!("{failed} of {} places failed", address.endpoints().len())))
}

/// Each step, and how long it took.
fn probe(
    address: &Address,
    token: Option<&Zeroizing<String>>,
    claim: Claim<'_>,
    times: &mut Vec<String>,
) -> Result<(), (&'static str, VaultError)> {
    let timeouts = Timeouts { proof: Duration::from_secs(10), ..Timeouts::default() };
    let client = Client::new(&SystemRandom, &SystemClock, timeouts);
    let client = client.with_token(
        token.map(|text| Token { text: text.clone(), endpoints: address.endpoints().to_vec() }),
    );
    let (repo, key) = (random_id(&SystemRandom), Secret::random(&SystemRandom));
    let password = |text: &str| Password::new(text.as_bytes()).expect("it is plain ASCII");
    let pin = Pin { fingerprint: address.fingerprint(), epoch: 0 };
    let mut timed = |what, took: Duration| times.push(format!("{what} {} ms", took.as_millis()));
    let started = Instant::now();
    let new = NewRecord {
        address,
        epoch: 0,
        repo: &repo,
        keys: &[(key_check(&key, &repo), &key)],
        password: &password(RIGHT),
        argon: Argon2Choice::Exactly(Argon2Cost::FLOOR),
        claim,
        bind: Bind::Nobody,
    };
    let locator = client.register(&new).map_err(|error| ("registering", error))?.locator;
    timed("register", started.elapsed());
    // From here on the record is deleted whatever happens.
    let attempts = || {
        let mut steps = Vec::new();
        let started = Instant::now();
        client
            .unlock(&locator, &repo, &password(RIGHT), pin)
            .map_err(|error| ("opening", error))?;
        steps.push(("open", started.elapsed()));
        let started = Instant::now();
        match client.unlock(&locator, &repo, &password(WRONG), pin) {
            Err(VaultError::WrongPassword(_)) => steps.push(("wrong", started.elapsed())),
            Err(error) => return Err(("a wrong password", error)),
            Ok(_) => {
                let error = VaultError::Unexpected("the key for a wrong password");
                return Err(("a wrong password", error));
            }
        }
        Ok(steps)
    };
    let outcome = attempts();
    let started = Instant::now();
    let deleted = client.delete(&locator, &repo, &key, pin);
    let took = started.elapsed();
    for (what, took) in outcome? {
        timed(what, took);
    }
    deleted.map_err(|error| ("deleting", error))?;
    timed("delete", took);
    Ok(())
}
