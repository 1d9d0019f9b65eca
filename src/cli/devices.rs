//! `amberfs devices`: which machines use a repository, their names, and what to do with those
//! that are gone or were copied.

use super::args::{Global, RenameArgs, RepoOnly, RetireArgs};
use super::opening::{Access, Wanted, find, open};
use super::place::{self, place_of, state_folder};
use super::{Exit, Failure, Result};
use crate::crypto::{DeviceId, hex, random_id};
use crate::io::{SystemRandom, Terminal, can_ask, local_time, output};
use crate::sync::plan::is_called;
use crate::volume::state::State;
use crate::volume::{DeviceHead, Heads, Volume, VolumeError};

/// Most bytes of a device's name.
const NAME_MAX: usize = 64;

/// A device's name, as an argument: 1 to 64 bytes, none of them a control character.
pub fn name(text: &str) -> std::result::Result<String, String> {
    if text.is_empty() || text.len() > NAME_MAX || text.chars().any(char::is_control) {
        return Err(format!("a name has 1 to {NAME_MAX} bytes and no control character"));
    }
    Ok(text.into())
}

/// A device as messages name it: two may have one name.
fn named(name: &str, id: &DeviceId) -> String {
    format!("{name} ({})", hex(&id[..4]))
}

/// What of one device's changes another device has, as its newest head says.
enum Has {
    Everything,
    /// The changes up to this state.
    UpTo(u64),
    Nothing,
}

impl Has {
    fn of(holder: &DeviceHead, owner: &DeviceHead) -> Self {
        match holder.commit.processed.held(&owner.device) {
            Some(held) if held >= owner.commit.news => Self::Everything,
            Some(held) => Self::UpTo(held),
            None => Self::Nothing,
        }
    }
}

/// Runs `amberfs devices list`.
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
        let retired = |head: &DeviceHead| {
            base.inherited.retired.iter().any(|entry| entry.device == head.device)
        };
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
            let mut heads = self.heads.newest.iter();
            let heir = heads.find(|head| head.device == heir).map_or_else(
                || format!("the device {}", hex(&heir[..4])),
                |head| named(&head.name, &head.device),
            );
            return say!("  retired        {heir} takes its place");
        }
        for (other, has) in self.holdings() {
            let other_name = named(&other.name, &other.device);
            match has {
                Has::Everything => say!("  has            all that {other_name} published")?,
                Has::UpTo(state) => say!(
                    "  has            {other_name} up to state {state}; the newest is {}",
                    other.commit.news
                )?,
                Has::Nothing => {
                    say!("  has            nothing of {other_name}, as far as it has said")?;
                }
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
    let folder = state_folder(global, &found.path, &found.early)?;
    let local = place::lock(folder, &found.path)?;
    let state = State::load(&*local.folder)?.filter(|state| state.repo == found.early.repo);
    let Some(mut state) = state else {
        let text = format!(
            "{}: this device has no local state for {} yet",
            local.path.display(),
            found.path.display()
        );
        return Err(Failure::new(Exit::Unusable, text)
            .hint("amberfs mount --device-name gives a new device its name"));
    };
    state.name.clone_from(&args.name);
    state.store(&*local.folder)?;
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "renamed", "id": hex(&state.device), "name": args.name,
        }))?;
    } else if !global.quiet {
        say!(
            "this device is called {} from its next change on; what has its old name in it keeps \
             that",
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

/// Runs `amberfs devices retire`: nobody waits for a device any more.
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
    if global.json {
        output::object(&serde_json::json!({
            "message_type": "retired", "id": hex(&head.device), "name": head.name, "new": is_new,
        }))?;
    } else if !global.quiet && is_new {
        say!(
            "{who} is retired: no device waits for it any more. All that it wrote stays. If it is \
             used again, it needs a new id: amberfs devices renew"
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
    let opened = scanned.rescan()?.open(global, &Wanted::default())?;
    opened.print_notices();
    opened.fs.checkpoint()?;
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
