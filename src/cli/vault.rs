//! Passwords: the vault seen from the command line.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::args::{Global, RemoveArgs, RepoArgs, ShowArgs, YesNo};
use super::opening::{Found, Keyed, Looked, Wanted, find};
use super::secrets::Obtained;
use super::trust::{
    Reach, Said, keep_entry, kept_entry, known, moved, reached, remember_or_warn, trust,
    typed_address,
};
use super::{Exit, Failure, Result, secrets};
use crate::crypto::{RepoId, Secret, hex, key_check, resembles_key, unhex};
use crate::daemon::NoteWriter;
use crate::io::{
    Clock, DirSynced, SystemClock, SystemRandom, Terminal, can_ask, local_time, output,
};
use crate::vault::client::{Claim, Client, NewRecord, Token, Unlocked, VaultError};
use crate::vault::net::Timeouts;
use crate::vault::protocol::{
    Address, Argon2Choice, Argon2Cost, Bind, Event, EventKind, Fingerprint, Locator, NoteKeys,
    Password, Protection, Retirement, Standing,
};
use crate::vault::server::FAILURES;
use crate::volume::repository::{Repository, vault_slots};

/// How an invite begins, as the operator gives it.
const INVITE: &str = "amber-invite-";
/// Who talks to vaults, with the account's token if there is one; it is sent to no place but
/// `places`.
pub fn client(
    global: &Global,
    repo: &Path,
    timeouts: Timeouts,
    places: &[String],
) -> Result<Client<'static>> {
    Ok(client_by(token(global, repo)?.as_ref(), timeouts, places))
}

/// The account's token, if there is one: it may come from standard input, once.
fn token(global: &Global, repo: &Path) -> Result<Option<Zeroizing<String>>> {
    let token = secrets::text(global.vault_token.as_ref(), None, &secrets::TOKEN, repo)?;
    Ok(token.map(|(text, _)| Zeroizing::new(text.trim().to_owned())))
}

fn client_by(
    token: Option<&Zeroizing<String>>,
    timeouts: Timeouts,
    places: &[String],
) -> Client<'static> {
    let token = token.map(|text| Token { text: text.clone(), places: places.to_vec() });
    Client::with_timeouts(&SystemRandom, &SystemClock, timeouts).with_token(token)
}

/// What tells the vault how far this device came, for the record that the sealed entry of
/// a repository names; none without a vault.
pub fn note_writer(global: &Global, looked: &Looked) -> Result<Option<NoteWriter>> {
    let Some(sealed) = vault_slots(&looked.slots).find_map(|slot| Locator::decode(slot).ok())
    else {
        return Ok(None);
    };
    // Sealed with K: the address is the owner's own.
    let pin = known(global, sealed.address.fingerprint())?;
    let Reach { locator, places, .. } = reached(global, &sealed, Said::Sealed)?;
    let keys = NoteKeys::derive(looked.key(), &looked.repository.repo, &locator.registration);
    let client = client(global, &looked.path, NoteWriter::PATIENCE, &places)?;
    Ok(Some(NoteWriter { client, locator, keys, pin }))
}

/// Vault entries to try, the likeliest first: the one that opened this folder on this machine
/// last, then those that the folder shows.
fn entries(kept: Option<&Locator>, folder: &DirSynced, repository: &Repository) -> Vec<Locator> {
    let shown = repository.vault_slots(folder).into_iter();
    let mut all: Vec<Locator> = Vec::new();
    let shown = shown.filter_map(|slot| Locator::decode(slot).ok());
    for locator in kept.cloned().into_iter().chain(shown) {
        if !all.contains(&locator) {
            all.push(locator);
        }
    }
    all
}

/// K by password, from a vault that a register names: the newest first, and on
/// to older ones while the answer is that there is nothing to try.
pub fn unlock(
    global: &Global,
    repo: &Path,
    repository: &Repository,
    password: &[u8],
) -> Result<Obtained> {
    let password = Password::new(password).map_err(|error| Failure::new(Exit::Usage, error))?;
    if !repository.has_vault() {
        return Err(Failure::new(
            Exit::WrongSecret,
            "this repository has no password, only its 64-digit key",
        )
        .hint("give --key-file F, or type the key"));
    }
    let token = token(global, repo)?;
    let folder = DirSynced::new(repo, None);
    let kept = kept_entry(global, &repository.repo);
    // What to say in the end: a try that was spent goes before what cost nothing.
    let (mut spent, mut first) = (None, None);
    let mut distrusted = Vec::new();
    for locator in entries(kept.as_ref(), &folder, repository) {
        let fingerprint = locator.address.fingerprint();
        if distrusted.contains(&fingerprint) {
            continue;
        }
        let pin = match trust(global, &locator) {
            Ok(pin) => pin,
            Err(failure) => {
                distrusted.push(fingerprint);
                first.get_or_insert(failure);
                continue;
            }
        };
        let reach = reached(global, &locator, Said::Folder)?;
        let client = client_by(token.as_ref(), Timeouts::default(), &reach.places);
        match client.unlock(&reach.locator, &repository.repo, &password, pin) {
            Ok(unlocked) => {
                let is_outdated = unlocked.generation < unlocked.manifest.generation();
                let found = (&locator, reach.places.as_slice());
                let obtained = opened(global, &folder, repository, found, unlocked)?;
                let outdated = is_outdated.then_some(password);
                return Ok(Obtained { outdated, ..obtained });
            }
            Err(error) => {
                // The folder may have gone on to another record since this machine opened it.
                let was_kept = kept.as_ref() == Some(&locator);
                let goes_on = has_nothing_to_try(&error) || was_kept && is_decided(&error);
                let is_wrong = matches!(error, VaultError::WrongPassword(_));
                let failure = reach.explain(error);
                match (goes_on, is_wrong) {
                    (false, true) => return Err(failure),
                    (false, false) => return Err(spent.unwrap_or(failure)),
                    (true, true) => spent = Some(failure),
                    (true, false) => drop(first.get_or_insert(failure)),
                }
            }
        }
    }
    Err(spent.or(first).unwrap_or_else(|| {
        Failure::new(Exit::Damage, "what names the vault of this repository is damaged")
            .hint("amberfs check REPO --no-key names the files; the 64-digit key still opens it")
    }))
}

/// Whether the record is none that a password could be tried at, which costs nothing.
fn has_nothing_to_try(error: &VaultError) -> bool {
    matches!(
        error,
        VaultError::UnknownTicket
            | VaultError::Ended(_)
            | VaultError::NotActivated
            | VaultError::Terms
            | VaultError::Frozen
    )
}

/// Whether it is known what became of the attempt: if not, a try may be spent.
fn is_decided(error: &VaultError) -> bool {
    !matches!(error, VaultError::Memory { .. } | VaultError::Unanswered { .. })
}

/// Judges what the record that `locator` names has given; `known` are places of its vault
/// that somebody other than the folder named.
fn opened(
    global: &Global,
    folder: &DirSynced,
    repository: &Repository,
    (locator, known): (&Locator, &[String]),
    unlocked: Unlocked,
) -> Result<Obtained> {
    let key = unlocked.keys.into_iter().map(|(_, key)| key);
    let Some(key) = key.into_iter().find(|key| repository.unlock(key).is_some()) else {
        return Err(Failure::new(
            Exit::NotAllHere,
            "the vault's key does not open this folder: the folder is behind, or its header is \
             damaged",
        ));
    };
    // That the folder shows another entry than the sealed one is told by whoever opens it.
    let sealed = repository.sealed_vault_slots(folder, &key);
    let sealed = sealed.iter().filter_map(|slot| Locator::decode(slot).ok());
    let fingerprint = locator.address.fingerprint();
    // The very record that opened: an older one may stand in a folder that was put back.
    let sealed = sealed.into_iter().find(|sealed| {
        (sealed.ticket, sealed.registration) == (locator.ticket, locator.registration)
    });
    let named = sealed.as_ref().map_or(&[][..], |sealed| sealed.address.hosts());
    let places = [known, named].concat();
    if sealed.as_ref().is_some_and(|sealed| sealed.epoch > unlocked.manifest.epoch) {
        note!(
            "amberfs: the vault showed an older manifest than its owner saw at the registration: \
             something that stands in for it may have answered. Ask its operator"
        );
    }
    remember_or_warn(global, fingerprint, &unlocked.manifest, &places);
    if let Some(sealed) = sealed {
        keep_entry(global, &repository.repo, &sealed);
    }
    for line in told(unlocked.events.since_opened()) {
        note!("amberfs: {line}");
    }
    let failures = FAILURES.saturating_sub(unlocked.tries.failures_left);
    if failures > 0 {
        note!(
            "amberfs: {failures} of {FAILURES} failed attempts in the life of this password are \
             used up; a new one (amberfs passwd) starts anew"
        );
    }
    Ok(Obtained { key, marks: unlocked.marks, outdated: None })
}

/// What the owner should know of what happened since the password last opened the
/// record; of one day and kind in one line.
fn told(events: &[Event]) -> Vec<String> {
    let mut days: Vec<(String, EventKind, usize)> = Vec::new();
    for event in events {
        let day = local_time(event.time.try_into().unwrap_or(i64::MAX));
        let day = day.split(' ').next().unwrap_or_default().to_owned();
        match days.last_mut() {
            Some((last, kind, count)) if *last == day && *kind == event.kind => *count += 1,
            _ => days.push((day, event.kind, 1)),
        }
    }
    let lines = days.into_iter().filter_map(|(day, kind, count)| match kind {
        EventKind::Failed if count == 1 => Some(format!("1 wrong password on {day}")),
        EventKind::Failed => Some(format!("{count} wrong passwords on {day}")),
        EventKind::Closed => Some(format!("all tries were used up on {day}")),
        EventKind::Spent => Some(format!("the vault's operator took tries on {day}")),
        EventKind::Held => Some(format!("the vault's operator stopped the record on {day}")),
        EventKind::Released => Some(format!("the vault's operator let it go on {day}")),
        EventKind::Activated | EventKind::Opened => None,
    });
    lines.collect()
}

fn cost(global: &Global) -> Result<Argon2Choice> {
    let Some(text) = &global.argon2_cost else { return Ok(Argon2Choice::Calibrated) };
    let parsed = text.split_once(',').and_then(|(memory, passes)| {
        Some(Argon2Cost { memory: memory.parse().ok()?, passes: passes.parse().ok()?, lanes: 1 })
    });
    parsed
        .map(Argon2Choice::Exactly)
        .ok_or_else(|| Failure::new(Exit::Usage, "--argon2-cost takes MEMORY_KIB,PASSES"))
}

/// A new password: from a file, or asked for twice.
fn new_password(file: Option<&Path>, repo: &Path) -> Result<Password> {
    if let Some(path) = file {
        return fit(&secrets::read_file(path, repo)?);
    }
    if !can_ask() {
        return Err(Failure::new(Exit::Usage, "no new password was given")
            .hint("give it in a file, or run this on a terminal"));
    }
    let terminal = Terminal::open()?;
    let first = terminal.ask_secret("New password: ")?;
    // One that is refused need not be typed twice.
    let password = fit(&first)?;
    if *first != *terminal.ask_secret("Again: ")? {
        return Err(Failure::new(Exit::Usage, "the two passwords differ"));
    }
    Ok(password)
}

/// A password that may be registered.
fn fit(text: &str) -> Result<Password> {
    if resembles_key(text) {
        return Err(Failure::new(Exit::Usage, "a password must not look like a 64-digit key")
            .hint("typed with a mistake it would be taken for one"));
    }
    let password =
        Password::new(text.as_bytes()).map_err(|error| Failure::new(Exit::Usage, error))?;
    password.check_new().map_err(|error| Failure::new(Exit::Usage, error))?;
    Ok(password)
}

/// Says what the owner should know of the vault before choosing a password for it.
fn warn_before_the_choice(global: &Global, address: &Address, path: &Path) -> Result<()> {
    let pin = known(global, address.fingerprint())?;
    let client = client(global, path, Timeouts::default(), address.hosts())?;
    let manifest = client.manifest(address, pin)?;
    if manifest.protection == Protection::File && !global.quiet {
        note!(
            "This vault keeps its keys in a file: whoever takes its disk can guess passwords \
             without limit. Choose a long one."
        );
    }
    Ok(())
}

/// The first registration of a repository: asks for the password, and registers.
pub fn register_first(
    global: &Global,
    address: &Address,
    (path, repo): (&Path, &RepoId),
    key: &Secret,
) -> Result<Locator> {
    let claim = first_claim(global, path)?;
    warn_before_the_choice(global, address, path)?;
    let password = new_password(global.password_file.as_deref(), path)?;
    register(global, address, (path, repo), key, &password, claim)
}

/// Ends the registration of a repository that did not come to pass.
pub fn withdraw(
    global: &Global,
    (path, repo): (&Path, &RepoId),
    key: &Secret,
    locator: &Locator,
) -> Result<()> {
    let pin = known(global, locator.address.fingerprint())?;
    let client = client(global, path, Timeouts::default(), locator.address.hosts())?;
    Ok(client.delete(locator, repo, key, pin)?)
}

/// Registers K under a password; the registration has been tried once when
/// this returns.
fn register(
    global: &Global,
    address: &Address,
    (path, repo): (&Path, &RepoId),
    key: &Secret,
    password: &Password,
    claim: Claim<'_>,
) -> Result<Locator> {
    let epoch = known(global, address.fingerprint())?.epoch;
    let keys = [(key_check(key, repo), key)];
    let argon = cost(global)?;
    let bind = match global.bind_account {
        None => Bind::Usual,
        Some(YesNo::Yes) => Bind::Account,
        Some(YesNo::No) => Bind::Nobody,
    };
    let record = NewRecord { address, epoch, repo, keys: &keys, password, argon, claim, bind };
    let client = client(global, path, Timeouts::default(), address.hosts())?;
    let registration = match client.register(&record) {
        Err(VaultError::RegistrationClosed) if matches!(claim, Claim::Open) && can_ask() => {
            let invite = Terminal::open()?
                .ask_secret("The vault takes no one without an invite. Invite: ")?;
            client.register(&NewRecord { claim: invited(&invite)?, ..record })?
        }
        outcome => outcome?,
    };
    remember_or_warn(
        global,
        address.fingerprint(),
        &registration.manifest,
        registration.locator.address.hosts(),
    );
    if !global.quiet {
        tell_binding(global, registration.bound);
    }
    Ok(registration.locator)
}

/// Says whether the new record is bound to the account whose token was given.
fn tell_binding(global: &Global, bound: bool) {
    if bound {
        note!(
            "The password opens this repository only together with the account that it was \
             registered from: a new machine needs that account's token too."
        );
    } else if global.vault_token.is_some() && global.bind_account.is_none() {
        note!(
            "The password is not bound to your account: whoever has the folder may use up its \
             tries. --bind-account yes binds it."
        );
    }
}

/// What a registration where there is none before rests on.
fn first_claim(global: &Global, repo: &Path) -> Result<Claim<'static>> {
    match secrets::text(global.invite_file.as_ref(), None, &secrets::INVITE, repo)? {
        Some((text, _)) => invited(&text),
        None => Ok(Claim::Open),
    }
}

fn invited(text: &str) -> Result<Claim<'static>> {
    let digits = text.trim();
    let digits = digits.strip_prefix(INVITE).unwrap_or(digits);
    unhex(digits).map(Claim::Invite).ok_or_else(|| {
        Failure::new(Exit::Usage, "an invite is what the vault's operator gave: amber-invite-...")
    })
}

/// A repository opened with K, and its vault entries as they were sealed.
struct Opened {
    open: super::opening::Opened,
    key: Secret,
    repo: RepoId,
    /// The current ones.
    slots: Vec<Vec<u8>>,
    /// Those that newer ones replaced, as far as the folder still tells.
    replaced: Vec<Vec<u8>>,
    path: PathBuf,
}

fn open(global: &Global, repo: &Path) -> Result<Opened> {
    let found = find(repo)?;
    let mut opening = global.clone();
    if let Some(address) = typed_address(global)? {
        // The vault to move to says nothing about the one to open at.
        let fingerprint = address.fingerprint();
        let names =
            |slot| Locator::decode(slot).is_ok_and(|l| l.address.fingerprint() == fingerprint);
        let folder = DirSynced::new(&found.path, None);
        if !found.early.vault_slots(&folder).into_iter().any(names) {
            opening.vault = None;
        }
    }
    open_by(global, found.key(&opening)?)
}

fn open_by(global: &Global, keyed: Keyed) -> Result<Opened> {
    let looked = keyed.lock(global)?.look()?;
    let (key, repo, path) = (looked.key().duplicate(), looked.repository.repo, looked.path.clone());
    let slots: Vec<Vec<u8>> = vault_slots(&looked.slots).map(<[u8]>::to_vec).collect();
    let folder = DirSynced::new(&path, None);
    let mut replaced = looked.repository.sealed_vault_slots(&folder, &key);
    replaced.retain(|slot| !slots.contains(slot));
    let open = looked.open(global, &Wanted::default())?;
    open.tell();
    open.refuse_less(global)?;
    Ok(Opened { open, key, repo, slots, replaced, path })
}

impl Opened {
    fn publish(&self, slots: Vec<Vec<u8>>) -> Result<()> {
        self.open.fs.volume().set_vault_slots(&self.key, slots)?;
        Ok(self.open.fs.publish_register()?)
    }

    /// Ends the registrations in `slots`; returns those that could not be
    /// ended, and why.
    fn retire<'a>(
        &self,
        global: &Global,
        slots: &'a [Vec<u8>],
        reason: Retirement,
    ) -> Result<Vec<(&'a Vec<u8>, String)>> {
        let token = token(global, &self.path)?;
        let mut failed = Vec::new();
        // A vault that does not answer is waited for once.
        let mut silent: Vec<(Fingerprint, String)> = Vec::new();
        for slot in slots {
            let Ok(locator) = Locator::decode(slot) else { continue };
            let fingerprint = locator.address.fingerprint();
            if let Some((_, why)) = silent.iter().find(|(silent, _)| *silent == fingerprint) {
                failed.push((slot, why.clone()));
                continue;
            }
            // Sealed with K: these addresses are the owner's own.
            let Reach { locator: asked, places, .. } = reached(global, &locator, Said::Sealed)?;
            let client = client_by(token.as_ref(), Timeouts::default(), &places);
            let pin = known(global, fingerprint)?;
            if let Err(error) = client.retire(&asked, &self.repo, &self.key, pin, reason) {
                let why = format!("{}: {error}", locator.address);
                if matches!(error, VaultError::Unreachable { .. }) {
                    silent.push((fingerprint, why.clone()));
                }
                failed.push((slot, why));
            }
        }
        Ok(failed)
    }

    fn tell_registered(
        &self,
        global: &Global,
        address: &Address,
        left: usize,
        what: &str,
    ) -> Result<Exit> {
        if global.json {
            output::object(&serde_json::json!({
                "message_type": "registered",
                "repository": hex(&self.repo),
                "vault": address.to_string(),
                "older_records_left": left,
            }))?;
        } else if !global.quiet {
            note!("{what} opens this repository; it was tried once.");
        }
        Ok(Exit::Done)
    }

    fn tell_removed(&self, (ended, given_up, left): (usize, usize, usize)) -> Result<()> {
        output::object(&serde_json::json!({
            "message_type": "removed",
            "repository": hex(&self.repo),
            "ended": ended,
            "given_up": given_up,
            "older_records_left": left,
        }))?;
        Ok(())
    }

    /// Ends what newer registrations replaced. Returns how many are left; they
    /// are named, with the command that tries again.
    fn retire_replaced(&self, global: &Global, replaced: &[Vec<u8>]) -> Result<usize> {
        let failed = self.retire(global, replaced, Retirement::Superseded)?;
        for (_, why) in &failed {
            note!("amberfs: an older record could not be ended, its password still works: {why}");
        }
        if !failed.is_empty() {
            note!("  amberfs vault remove --replaced {} tries again", self.path.display());
        }
        Ok(failed.len())
    }
}

/// `passwd`: a new registration, and the end of the old one.
pub fn passwd(global: &Global, args: &RepoArgs) -> Result<Exit> {
    let opened = open(global, &args.repo)?;
    let sealed = opened.slots.iter().find_map(|bytes| Locator::decode(bytes).ok());
    let address = match (typed_address(global)?, sealed) {
        (Some(typed), _) => typed,
        (None, Some(Locator { address, .. })) => {
            moved(global, address.fingerprint())?.unwrap_or(address)
        }
        (None, None) => {
            return Err(Failure::new(Exit::Usage, "this repository has no vault yet")
                .hint("amberfs vault add REPO --vault ADDRESS"));
        }
    };
    warn_before_the_choice(global, &address, &opened.path)?;
    let password = new_password(args.new_password_file.as_deref(), &opened.path)?;
    let left = replace(global, &opened, &address, &password)?;
    opened.tell_registered(global, &address, left, "The new password")
}

/// Registers, publishes the locator, and only then ends the old records: at no
/// time does a folder name a record that is gone. What a crash in between
/// leaves is ended by the next command that comes here.
///
/// Returns how many old records could not be ended.
fn replace(
    global: &Global,
    opened: &Opened,
    address: &Address,
    password: &Password,
) -> Result<usize> {
    let before = opened.slots.iter().filter_map(|slot| Locator::decode(slot).ok());
    let before = before.into_iter().find(|old| old.address.fingerprint() == address.fingerprint());
    let claim = match (&before, first_claim(global, &opened.path)?) {
        (Some(locator), Claim::Open) => Claim::After { locator, key: &opened.key },
        (_, claim) => claim,
    };
    let place = (&*opened.path, &opened.repo);
    let locator = register(global, address, place, &opened.key, password, claim)?;
    opened.publish(vec![locator.encode()])?;
    keep_entry(global, &opened.repo, &locator);
    let replaced = [opened.slots.as_slice(), &opened.replaced].concat();
    opened.retire_replaced(global, &replaced)
}

/// Registers the same password anew, because its record was made under keys that the
/// vault would retire.
pub fn renew(global: &Global, repo: &Path, key: Secret, password: &Password) -> Result<()> {
    let opened = open_by(global, find(repo)?.keyed(key.into()))?;
    let sealed = opened.slots.iter().find_map(|bytes| Locator::decode(bytes).ok());
    let Some(Locator { address, .. }) = sealed else { return Ok(()) };
    let address = moved(global, address.fingerprint())?.unwrap_or(address);
    replace(global, &opened, &address, password).map(drop)
}

/// `vault add`.
pub fn add(global: &Global, args: &RepoArgs) -> Result<Exit> {
    let address = typed_address(global)?
        .ok_or_else(|| Failure::new(Exit::Usage, "give the vault: --vault ADDRESS"))?;
    let opened = open(global, &args.repo)?;
    warn_before_the_choice(global, &address, &opened.path)?;
    let password = new_password(args.new_password_file.as_deref(), &opened.path)?;
    let left = replace(global, &opened, &address, &password)?;
    opened.tell_registered(global, &address, left, "The password")
}

/// `vault remove`.
pub fn remove(global: &Global, args: &RemoveArgs) -> Result<Exit> {
    if args.replaced {
        return remove_replaced(global, args);
    }
    if global.key_file.is_none() && global.key_command.is_none() {
        return Err(Failure::new(Exit::Usage, "vault remove takes the 64-digit key")
            .hint("it will be the only way in: show that you have it with --key-file F")
            .hint("amberfs key show REPO prints it"));
    }
    let opened = open(global, &args.repo)?;
    if opened.slots.is_empty() && opened.replaced.is_empty() {
        return Err(Failure::new(Exit::Other, "this repository has no vault"));
    }
    let failed = opened.retire(global, &opened.slots, Retirement::Deleted)?;
    if !failed.is_empty() && !args.give_up {
        let mut failure = Failure::new(
            Exit::VaultUnreachable,
            format!("the record could not be deleted: {}", failed[0].1),
        );
        if failed.len() < opened.slots.len() {
            // The folder does not name what is gone.
            opened.publish(failed.iter().map(|(slot, _)| (*slot).clone()).collect())?;
            let done = opened.slots.len() - failed.len();
            failure = failure.hint(format!(
                "{done} of {} records were deleted, and the folder names the others only",
                opened.slots.len()
            ));
        } else {
            failure = failure.hint("nothing was changed");
        }
        return Err(failure.hint("try again when the vault can be reached").hint(
            "or give it up with --give-up: if it still exists, its password still works there",
        ));
    }
    if !opened.slots.is_empty() {
        opened.publish(Vec::new())?;
    }
    for (_, why) in &failed {
        note!("amberfs: given up; if the record exists, its password still works: {why}");
    }
    let left = opened.retire_replaced(global, &opened.replaced)?;
    if global.json {
        let ended = opened.slots.len() + opened.replaced.len() - failed.len() - left;
        opened.tell_removed((ended, failed.len(), left))?;
    } else if !global.quiet {
        let done = if failed.is_empty() { "The vault's record is deleted. " } else { "" };
        note!("{done}Only the 64-digit key opens this repository now.");
    }
    Ok(Exit::Done)
}

/// `vault remove --replaced`: finishes what an earlier change of the password
/// could not.
fn remove_replaced(global: &Global, args: &RemoveArgs) -> Result<Exit> {
    let opened = open(global, &args.repo)?;
    let left = opened.retire_replaced(global, &opened.replaced)?;
    if left > 0 {
        return Err(Failure::new(
            Exit::VaultUnreachable,
            format!("{left} of {} older records are left", opened.replaced.len()),
        ));
    }
    if global.json {
        opened.tell_removed((opened.replaced.len(), 0, 0))?;
    } else if !global.quiet {
        note!("{} older records are over.", opened.replaced.len());
    }
    Ok(Exit::Done)
}

/// `vault show`: spends no try.
pub fn show(global: &Global, args: &ShowArgs) -> Result<Exit> {
    let Found { path, early: repository } = find(&args.repo)?;
    let folder = DirSynced::new(&path, None);
    // Older registers only name what this one replaced.
    let locator =
        repository.vault_slots(&folder).into_iter().find_map(|slot| Locator::decode(slot).ok());
    let Some(locator) = locator.filter(|_| !repository.clear_vault_slots().is_empty()) else {
        if global.json {
            output::object(&serde_json::json!({"message_type": "vault", "vault": null}))?;
        } else {
            say!("no vault: only the 64-digit key opens this repository")?;
        }
        return Ok(Exit::Done);
    };
    if args.ticket {
        let ticket = hex(&locator.ticket);
        if global.json {
            output::object(&serde_json::json!({"message_type": "ticket", "ticket": ticket}))?;
        } else {
            output::secret(&ticket)?;
        }
        return Ok(Exit::Done);
    }
    let pin = trust(global, &locator)?;
    let reach = reached(global, &locator, Said::Folder)?;
    let client = client(global, &path, Timeouts::default(), &reach.places)?;
    let status = client.status(&reach.locator, pin).map_err(|error| reach.explain(error))?;
    // The root has signed it: whatever comes later must not be older.
    remember_or_warn(global, locator.address.fingerprint(), &status.manifest, &reach.places);
    if global.json {
        let mut object = standing(&status.standing);
        object["message_type"] = "vault".into();
        object["vault"] = locator.address.to_string().into();
        object["text"] = stands(&status.standing).into();
        object["keys"] = match status.manifest.protection {
            Protection::File => "file".into(),
            Protection::Hsm => "hsm".into(),
        };
        object["epoch"] = status.manifest.epoch.into();
        output::object(&object)?;
        return Ok(Exit::Done);
    }
    say!("{}", locator.address)?;
    say!("  {}", stands(&status.standing))?;
    let place = match status.manifest.protection {
        Protection::File => "a file",
        Protection::Hsm => "an HSM",
    };
    say!("  its keys are in {place}; manifest of epoch {}", status.manifest.epoch)?;
    Ok(Exit::Done)
}

/// So many seconds from now, in seconds since 1970 by this machine's clock.
fn in_seconds(seconds: u64) -> u64 {
    let now = SystemClock.now().secs.max(0) as u64;
    now.saturating_add(seconds)
}

/// How a record stands, for a program; times in seconds since 1970.
fn standing(standing: &Standing) -> serde_json::Value {
    match standing {
        Standing::Registering => serde_json::json!({"state": "registering"}),
        Standing::Active { tries, bound } => serde_json::json!({
            "state": "active",
            "bound": bound,
            "tries_left": tries.left,
            "failures_left": tries.failures_left,
            "not_before": (tries.wait != 0).then(|| in_seconds(tries.wait)),
        }),
        Standing::Closed { left } => {
            serde_json::json!({"state": "closed", "tries_left": 0, "until": in_seconds(*left)})
        }
        Standing::Ended(_) => serde_json::json!({"state": "ended", "tries_left": 0}),
    }
}

/// How a record stands, for its owner.
fn stands(standing: &Standing) -> String {
    let time = |seconds: u64| local_time(in_seconds(seconds).try_into().unwrap_or(i64::MAX));
    match standing {
        Standing::Registering => "not activated yet".into(),
        Standing::Active { tries, bound } => {
            let only = if *bound { "; opens only for the account that registered it" } else { "" };
            let left = format!(
                "active: {} tries left, {} failures left in its life{only}",
                tries.left, tries.failures_left
            );
            match tries.wait {
                0 => left,
                wait => format!("{left}, no attempt before {}", time(wait)),
            }
        }
        Standing::Closed { left } => {
            format!("closed: all tries are used up; erased at {}", time(*left))
        }
        Standing::Ended(ended) => VaultError::Ended(*ended).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_told_by_the_day() {
        let event = |kind, time| Event { kind, time };
        let noon = 1_700_000_000 / 86_400 * 86_400 + 43_200;
        let lines = told(&[
            event(EventKind::Activated, noon),
            event(EventKind::Failed, noon + 1),
            event(EventKind::Failed, noon + 2),
            event(EventKind::Failed, noon + 3 * 86_400),
            event(EventKind::Closed, noon + 3 * 86_400),
            event(EventKind::Spent, u64::MAX),
        ]);
        let starts = [
            "2 wrong passwords on 2023-11-14",
            "1 wrong password on 2023-11-17",
            "all tries were used up on 2023-11-17",
            "the vault's operator took",
        ];
        assert_eq!(lines.len(), starts.len(), "{lines:?}");
        for (line, start) in lines.iter().zip(starts) {
            assert!(line.starts_with(start), "{line}");
        }
    }
}
