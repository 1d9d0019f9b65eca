//! `amberfs devices`: which machines use a repository, their names, and what to do with those
//! that are gone or were copied.

use super::args::{Global, RenameArgs, RepoOnly, RetireArgs};
use super::opening::{Access, ScannedRepository, Wanted, find, open};
use super::place::{self, place_of, state_folder_if_there};
use super::{Exit, Failure, Result};
use crate::crypto::{DeviceId, hex, random_id};
use crate::io::{SystemRandom, Terminal, can_ask, local_time, output};
use crate::sync::plan::is_called;
use crate::volume::state::State;
use crate::volume::{DeviceHead, Heads, Volume, VolumeError, name_of, named};

/// Most bytes of a device's name.
const NAME_MAX: usize = 64;

/// A device's name, as an argument: 1 to 64 bytes, none of them a control character.
pub fn name(text: &str) -> std::result::Result<String, String> {
    if text.is_empty() || text.len() > NAME_MAX || text.chars().any(char::is_control) {
        return Err(format!("a name has 1 to {NAME_MAX} bytes and no control character"));
    }
    Ok(text.into())
}

/// What of one device's changes another device has, as its newest head says.
enum Has {
    /// All changes that are in the newest state here.
    Everything,
    /// The changes up to the state of this number.
    UpTo(u64),
    /// It has not said that it has any.
    Nothing,
}

impl Has {
    fn of(holder: &DeviceHead, owner: &DeviceHead) -> Self {
        match holder.held_of(&owner.device, (owner.generation, &owner.hash)) {
            Some((held, _)) if held >= owner.commit.news => Self::Everything,
            Some((held, _)) => Self::UpTo(held),
            None => Self::Nothing,
        }
    }
}

/// Runs `amberfs devices list`: names the devices that have written here, and what each has of the
/// others.
pub fn list(global: &Global, args: &RepoOnly) -> Result<Exit> {
    let scanned = find(&args.repo)?.obtain_key(global)?.read_state(global).scan()?;
    let own = scanned.own_device();
    let opened = scanned.open(global, &Wanted::default())?;
    opened.print_notices();
    let volume = opened.fs.volume();
    let heads = volume.heads();
    if heads.newest.is_empty() && !global.json {
        say!("no device has written here yet")?;
    }
    for head in &heads.newest {
        let device = Listed { volume, heads: &heads, head, is_own: own == Some(head.device) };
        if global.json { output::object(&device.json())? } else { device.show()? }
    }
    Ok(opened.exit(Exit::Done))
}

/// A device that has a head here, to be listed.
struct Listed<'a> {
    volume: &'a Volume,
    heads: &'a Heads,
    head: &'a DeviceHead,
    is_own: bool,
}

impl Listed<'_> {
    /// The device that takes the place of this one, if it is retired.
    fn heir(&self) -> Option<DeviceId> {
        let base = self.volume.base();
        let mut retired = base.inherited.retired.iter();
        let entry = retired.find(|entry| entry.device == self.head.device)?;
        Some(entry.heir)
    }

    /// A newer state of it that is known and not here.
    fn behind(&self) -> Option<u64> {
        let mut behind = self.heads.behind.iter();
        behind.find(|behind| behind.device == self.head.device).map(|behind| behind.known)
    }

    /// Why newer heads of it that are here cannot be used.
    fn unusable(&self) -> Vec<String> {
        let folder = format!("{}/", hex(&self.head.device));
        let own = self.heads.unusable.iter().filter(|head| head.path.starts_with(&folder));
        own.map(|head| head.error.to_string()).collect()
    }

    /// What it has of each other device that is in use.
    fn holdings(&self) -> Vec<(&DeviceHead, Has)> {
        let base = self.volume.base();
        let retired = |head: &DeviceHead| base.inherited.is_retired(&head.device);
        let others = self.heads.newest.iter().filter(|head| head.device != self.head.device);
        let others = others.filter(|head| !retired(head));
        others.map(|other| (other, Has::of(self.head, other))).collect()
    }

    fn show(&self) -> std::result::Result<(), output::OutputError> {
        let DeviceHead { name, device, generation, commit, .. } = self.head;
        let heir = self.heir();
        let note = match (self.is_own, &heir) {
            (true, None) => ", this device",
            (true, Some(_)) => ", this device, retired",
            (false, Some(_)) => ", retired",
            (false, None) => "",
        };
        say!("{}{note}", named(name, device))?;
        say!("  newest state   {generation}, of {}", local_time(commit.time.secs))?;
        if let Some(known) = self.behind() {
            say!("  not here       state {known} is known, and it is not here")?;
        }
        for error in self.unusable() {
            say!("  cannot be used a newer state: {error}")?;
        }
        if let Some(heir) = heir {
            let heir = name_of(&self.heads.newest, &heir);
            return say!("  retired        {heir} takes its place");
        }
        for (other, has) in self.holdings() {
            let name = named(&other.name, &other.device);
            let newest = other.generation;
            match has {
                Has::Everything => say!("  has            {name}: all up to state {newest}")?,
                Has::UpTo(state) => {
                    say!("  has            {name}: up to state {state} of {newest}")?;
                }
                Has::Nothing => say!("  has            {name}: it has not said that it has any")?,
            }
        }
        Ok(())
    }

    fn json(&self) -> serde_json::Value {
        let DeviceHead { name, device, generation, commit, .. } = self.head;
        let holds = self.holdings().into_iter().map(|(other, has)| {
            let (generation, all) = match has {
                Has::Everything => (other.commit.news, true),
                Has::UpTo(state) => (state, false),
                Has::Nothing => (0, false),
            };
            serde_json::json!({"id": hex(&other.device), "generation": generation, "all": all})
        });
        serde_json::json!({
            "message_type": "device",
            "name": name,
            "id": hex(device),
            "own": self.is_own,
            "generation": generation,
            "time": commit.time.secs,
            "known": self.behind(),
            "unusable": self.unusable(),
            "heir": self.heir().map(|heir| hex(&heir)),
            "holds": holds.collect::<Vec<_>>(),
        })
    }
}

/// Runs `amberfs devices rename`: gives this device another name.
pub fn rename(global: &Global, args: &RenameArgs) -> Result<Exit> {
    let found = find(&args.repo)?;
    let unknown = || {
        let text = format!("this device has no local state for {} yet", found.path.display());
        Failure::new(Exit::Unusable, text)
            .hint("amberfs mount --device-name gives a new device its name")
    };
    // Locking makes the folder.
    let folder = state_folder_if_there(global, &found.path, &found.early).ok_or_else(unknown)?;
    let local = place::lock(folder, &found.path)?;
    let state = State::load(&*local.folder)?.filter(|state| state.repo == found.early.repo);
    let mut state = state.ok_or_else(unknown)?;
    state.name.clone_from(&args.name);
    state.store(&*local.folder)?;
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "renamed", "id": hex(&state.device), "name": args.name,
        }))?;
    } else if !global.quiet {
        say!(
            "this device is called {} from its next change on; files that carry its old name keep \
             it",
            named(&args.name, &state.device)
        )?;
    }
    Ok(Exit::Done)
}

/// The device that has a name, or an id that begins so.
fn device<'a>(heads: &'a Heads, wanted: &str) -> Result<&'a DeviceHead> {
    let is = |head: &&DeviceHead| is_called(wanted, &head.name, &head.device);
    let found: Vec<&DeviceHead> = heads.newest.iter().filter(is).collect();
    let all = |heads: &mut dyn Iterator<Item = &DeviceHead>| {
        heads.map(|head| named(&head.name, &head.device)).collect()
    };
    let wanted = wanted.to_owned();
    match found[..] {
        [only] => Ok(only),
        [] => Err(VolumeError::NoDevice { wanted, here: all(&mut heads.newest.iter()) }.into()),
        _ => Err(VolumeError::SeveralDevices { wanted, here: all(&mut found.into_iter()) }.into()),
    }
}

/// Runs `amberfs devices retire`: publishes that no device need wait for this one any more.
pub fn retire(global: &Global, args: &RetireArgs) -> Result<Exit> {
    let opened = open(global, &args.repo, Access::Write)?;
    let volume = opened.fs.volume();
    let heads = volume.heads();
    let head = device(&heads, &args.device)?;
    let who = named(&head.name, &head.device);
    if head.device == volume.state().device {
        return Err(Failure::new(Exit::Usage, format!("{who} is this device"))
            .hint("retire it from another device; to give this one a new id: devices renew"));
    }
    if !args.yes {
        confirm(head, &who)?;
    }
    let is_new = volume.retire(head);
    if is_new {
        opened.fs.checkpoint()?;
    }
    let state = volume.state().generation;
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "retired", "id": hex(&head.device), "name": head.name, "new": is_new,
        }))?;
    } else if !global.quiet && is_new {
        say!(
            "{who} is retired. Other devices stop waiting for it once state {state} of this one has \
             come to them. If it is used again, it needs a new id: amberfs devices renew REPO"
        )?;
    } else if !global.quiet {
        say!("{who} was retired before: nothing was changed")?;
    }
    Ok(Exit::Done)
}

fn confirm(head: &DeviceHead, who: &str) -> Result<()> {
    if !can_ask() {
        return Err(Failure::new(
            Exit::Usage,
            format!("nobody can be asked whether {who} is gone"),
        )
        .hint("give --yes"));
    }
    let question = format!(
        "{who} wrote last at {}. Retire it only if it is gone for good. Type its name to go on: ",
        local_time(head.commit.time.secs)
    );
    let typed = Terminal::open()?.ask(&question)?;
    if typed.trim() == head.name {
        return Ok(());
    }
    Err(Failure::new(Exit::Usage, format!("that is not {}: nothing was changed", head.name)))
}

/// Runs `amberfs devices renew`: this device goes on under a new id, with what its journal holds.
pub fn renew(global: &Global, args: &RepoOnly) -> Result<Exit> {
    let scanned = find(&args.repo)?.obtain_key(global)?.lock_state(global)?.scan()?;
    let options = scanned.options(global, &Wanted::default());
    match scanned.try_volume(&options) {
        Err(VolumeError::Unfit { held, .. }) if held.is_readable() => {}
        Err(error) => return Err(error.into()),
        Ok(volume) => {
            let State { device, name, .. } = volume.state();
            if global.json {
                output::object(&serde_json::json!({
                    "message_type": "renewed", "id": hex(&device), "before": hex(&device),
                }))?;
            } else if !global.quiet {
                say!("{} needs no new id: nothing was changed", named(&name, &device))?;
            }
            return Ok(Exit::Done);
        }
    }
    let local = scanned.state().expect("it was locked");
    let mut state = State::load(&*local.folder)?.expect("it was found unfit just now");
    let before = state.device;
    state.renew(random_id(&SystemRandom));
    state.place = place_of(&scanned.path);
    state.store(&*local.folder)?;
    publish_renewed(global, scanned).map_err(|failure| {
        failure.hint(
            "this device has its new id; once that is put right, amberfs mount goes on with it",
        )
    })?;
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "renewed", "id": hex(&state.device), "before": hex(&before),
        }))?;
    } else if !global.quiet {
        say!(
            "this device is {} now, and was {}",
            named(&state.name, &state.device),
            hex(&before[..4])
        )?;
    }
    Ok(Exit::Done)
}

/// Brings back what the journal holds, and publishes that the earlier id is retired.
fn publish_renewed(global: &Global, scanned: ScannedRepository) -> Result<()> {
    let opened = scanned.rescan()?.open(global, &Wanted::default())?;
    opened.print_notices();
    opened.fs.checkpoint()?;
    Ok(())
}
