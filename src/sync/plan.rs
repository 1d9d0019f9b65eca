//! Which head an opening is based on, and when it is refused: decided from plain data,
//! without reading or writing anything.
//!
//! Invariant: nobody writes on while a newer head is damaged, or an own one is not here in
//! full, nor while local state and own heads disagree; and changes in a journal are replayed on
//! the heads on which they were made.

use std::collections::{BTreeMap, BTreeSet};

use crate::crypto::{DeviceId, Hash, hex};
use crate::format::clock::{Generations, HeadContent, Processed, Tag};
use crate::format::commit::Retired;
use crate::format::register::Features;
use crate::io::Timestamp;
use crate::store::StoreError;
use crate::volume::{Behind, Unusable};

/// The fewest digits of a device's id that stand for it.
const ID_DIGITS_MIN: usize = 4;

/// A head that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The device that wrote the head.
    pub device: DeviceId,
    /// What the device calls itself.
    pub name: String,
    /// The generation of the head, from 1.
    pub generation: u64,
    /// BLAKE3 of the head's bytes; the first 8 of them are the head's tag.
    pub hash: Hash,
    /// When it was made.
    pub time: Timestamp,
    /// The newest generation of the device, up to this one, that others must answer.
    pub news: u64,
    /// The newest heads of others that are merged into it.
    pub processed: Processed,
    /// Devices that write no more, as it says.
    pub retired: Vec<Retired>,
    /// Whether all objects that the heads of its device name are here.
    pub complete: bool,
    /// Whether all its changes are in another head that is here. None, unless its device has
    /// several heads none of which follows another: then the generation alone does not tell.
    pub is_contained: Option<bool>,
}

impl Head {
    fn content(&self) -> HeadContent<'_> {
        let Self { device, generation, news, ref processed, .. } = *self;
        HeadContent { device, generation, news, processed }
    }

    /// Whether all changes of the other head are in this one too.
    fn has_all_of(&self, other: &Self) -> bool {
        self.content().has_all_of(&other.content())
    }

    fn when(&self) -> (Timestamp, u64, DeviceId) {
        (self.time, self.generation, self.device)
    }
}

/// Why a head cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It, or something that it needs, is not here yet; or it cannot be joined yet.
    Arriving,
    /// A newer version of this program wrote it.
    Newer,
    /// It is damaged, or the system does not let it be read.
    Bad,
}

impl Why {
    /// What an error says of a head.
    pub fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Missing { .. } | StoreError::Crowded { .. } => Self::Arriving,
            StoreError::Newer { .. } => Self::Newer,
            _ => Self::Bad,
        }
    }
}

/// A head that is here and cannot be used; no newer head of its device can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unread {
    /// The device that wrote the head, by its path.
    pub device: DeviceId,
    /// The generation of the head, by its path.
    pub generation: u64,
    /// Why the head cannot be used.
    pub why: Why,
}

/// A head that can be read, as a link in the chain of its device's heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The generation of the head, from 1.
    pub generation: u64,
    /// BLAKE3 of the head's bytes.
    pub hash: Hash,
    /// The hash that it calls that of the head before it.
    pub previous: Hash,
}

/// What of a repository's heads is in REPO now, as far as it decides an opening.
#[derive(Clone, Debug, Default)]
pub struct Here {
    /// The newest head of each device that can be used, by device, and behind it the others of
    /// that device which none of its heads follows: its local state was copied, and the copies
    /// wrote.
    pub heads: Vec<Head>,
    /// Heads that are newer than those and cannot be used.
    pub unusable: Vec<Unread>,
    /// Hashes of all files that are heads by their names.
    pub files: BTreeSet<Hash>,
    /// Features that the heads and the keyring name, authentic.
    pub features: Features,
    /// Devices whose folder, or folder of heads, cannot be listed.
    pub closed: Vec<DeviceId>,
    /// Something lies where heads should be, and may hide some.
    pub hides: bool,
    /// The newest generation of each device that is here and was made later than is asked for.
    pub later: Generations,
    /// When the oldest of all those heads was made.
    pub oldest_later: Option<Timestamp>,
}

/// What a device knows of heads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The device whose local state it is.
    pub device: DeviceId,
    /// The generation of its newest head, 0 before the first.
    pub generation: u64,
    /// The hash of that head.
    pub head: Hash,
    /// The newest generation that it saw of each device.
    pub seen: Generations,
    /// Own heads that may have been entering REPO when the process died.
    pub entering: BTreeSet<Hash>,
    /// The heads on which changes in its journal were made, ascending; none if its journal
    /// has no change that is in no head.
    pub journal: Option<Vec<Hash>>,
    /// Earlier ids of the device, which its next head retires.
    pub retires: Vec<DeviceId>,
}

/// What the repository is opened for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// To read: what cannot be used is passed by and named.
    #[default]
    Read,
    /// To write: what of other devices is here in part is passed by and named; an opening is
    /// refused while any other newer head cannot be used.
    Write,
    /// To write, as a new device, without what cannot be used or was seen and is gone.
    Repair(Generations),
}

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What the repository is opened for.
    pub purpose: Purpose,
    /// Only the newest head of this device: its name, or the first digits of its id.
    pub only_device: Option<String>,
    /// Only heads that were not made later.
    pub until: Option<Timestamp>,
    /// Goes on from what is here although newer heads are known: they are not missed
    /// again.
    pub accept_older: bool,
    /// Generations that devices told the vault.
    pub told: Generations,
}

/// Why an opening is refused. Numbers are places in lists of [`Here`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An unusable head was written by a newer version.
    NewerHead(usize),
    /// A feature that this version does not know forbids it: to write only, or to read.
    Features {
        /// Whether it may be read.
        readable: bool,
    },
    /// A folder that cannot be listed, and that matters.
    Closed(usize),
    /// No head is here, and something may hide some.
    Hidden,
    /// A newer head is here and cannot be used.
    Unusable(usize),
    /// Newer heads are here in part.
    Arriving(Vec<usize>),
    /// Heads are here, and none of them can be used.
    NoneUsable,
    /// Heads were here before, and none is now.
    AllGone,
    /// Another device retired this one, and is its heir.
    Retired(DeviceId),
    /// This device published a head, and none of its heads is here.
    OwnGone,
    /// This device published a newer head than the newest own one that is here.
    OwnOlder {
        /// The generation of the one that is here.
        here: u64,
    },
    /// Another copy of local state published a head of the same generation.
    Copied,
    /// Local state is older than this device's newest head.
    StateOlder {
        /// The generation of that head.
        here: u64,
    },
    /// All heads that are here were made later than is asked for.
    TooEarly,
    /// No device is called so.
    NoDevice(String),
    /// Several devices are: those of these heads.
    SeveralDevices(String, Vec<usize>),
}

/// Which head everything is based on. Numbers are places in [`Here::heads`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// On this head, which was made knowing all others; on none in a repository that
    /// has no head yet.
    StandOn(Option<usize>),
    /// On these heads, none of which was made knowing all others, joined.
    Join(Vec<usize>),
    /// On the heads on which changes in the journal were made, although newer ones are here:
    /// those changes are replayed and published first.
    Replay,
    /// On no head: the opening is refused.
    Refuse(Refusal),
}

/// What an opening does.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Which head it is based on.
    pub verdict: Verdict,
    /// The newest head of each device: places in [`Here::heads`].
    pub newest: Vec<usize>,
    /// A crash came between this own head and its record in local state: both are to be
    /// made durable.
    pub finishes: Option<usize>,
    /// Unusable heads that a repair went on without: places in [`Here::unusable`].
    pub given_up: Vec<usize>,
    /// The other unusable heads.
    pub unusable: Vec<usize>,
    /// Devices that the next head retires, with this device as their heir.
    pub without: Vec<Retired>,
    /// Devices whose newest heads are known and not here.
    pub behind: Vec<Behind>,
    /// The newest generation of each device that local state has seen from now on.
    pub seen: Generations,
}

/// Decides how a repository is opened. `own` is local state, or a new one; `beside` is
/// local state that lies beside a repository which is only read.
pub fn plan(here: &Here, own: &Known, beside: Option<&Known>, wanted: &Wanted) -> Plan {
    let newest = here.newest();
    let retired = here.retired(&newest);
    let is_given_up = |at: &usize| {
        let Unread { device, generation, .. } = &here.unusable[*at];
        retired.get(device).is_some_and(|(_, last)| generation > last)
    };
    let (given_up, unusable): (Vec<_>, Vec<_>) = (0..here.unusable.len()).partition(is_given_up);
    let choice = Choice { here, own, wanted, newest, retired, unusable };
    let knowing = beside.unwrap_or(own);
    let (verdict, finishes) = match choice.refuse(knowing).and_then(|()| choice.check_own()) {
        Err(refusal) => (Verdict::Refuse(refusal), None),
        Ok(finishes) => (choice.base().unwrap_or_else(Verdict::Refuse), finishes),
    };
    Plan {
        verdict,
        finishes,
        without: choice.without(),
        behind: choice.behind(knowing),
        seen: choice.seen(),
        newest: choice.newest,
        given_up,
        unusable: choice.unusable,
    }
}

impl Here {
    /// Places of the newest head of each device: of two of one generation, the first.
    fn newest(&self) -> Vec<usize> {
        let is_first = |at: &usize| *at == 0 || self.heads[at - 1].device != self.heads[*at].device;
        (0..self.heads.len()).filter(is_first).collect()
    }

    /// Devices that write no more, and the last generation of each: of several that with the
    /// lowest heir.
    fn retired(&self, newest: &[usize]) -> BTreeMap<DeviceId, Heir> {
        let mut all: BTreeMap<DeviceId, Heir> = BTreeMap::new();
        for Retired { device, last, heir, .. } in
            newest.iter().flat_map(|at| &self.heads[*at].retired)
        {
            let entry = all.entry(*device).or_insert((*heir, *last));
            *entry = (*heir, *last).min(*entry);
        }
        all
    }
}

/// The heir of a retired device, and the last generation of that device.
type Heir = (DeviceId, u64);

/// What the parts of a decision go by.
struct Choice<'a> {
    here: &'a Here,
    own: &'a Known,
    wanted: &'a Wanted,
    newest: Vec<usize>,
    retired: BTreeMap<DeviceId, Heir>,
    unusable: Vec<usize>,
}

impl Choice<'_> {
    fn heads(&self) -> impl Iterator<Item = &Head> {
        self.newest.iter().map(|at| &self.here.heads[*at])
    }

    fn head(&self, device: &DeviceId) -> Option<&Head> {
        self.heads().find(|head| head.device == *device)
    }

    fn is_repair(&self) -> bool {
        matches!(self.wanted.purpose, Purpose::Repair(_))
    }

    /// What of the repository as a whole keeps it from being opened.
    fn refuse(&self, knowing: &Known) -> Result<(), Refusal> {
        let mut unusable = self.unusable.iter();
        if let Some(at) = unusable.find(|at| self.here.unusable[**at].why == Why::Newer) {
            return Err(Refusal::NewerHead(*at));
        }
        let features = self.here.features;
        let readable = !features.forbid_reading();
        if !readable || (self.wanted.purpose != Purpose::Read && features.forbid_writing()) {
            return Err(Refusal::Features { readable });
        }
        let is_alone = self.newest.is_empty();
        let matters = |device: &DeviceId| is_alone || self.is_known(device, knowing);
        if let Some(at) = self.here.closed.iter().position(matters) {
            return Err(Refusal::Closed(at));
        }
        if is_alone && self.here.hides {
            return Err(Refusal::Hidden);
        }
        match self.wanted.purpose {
            Purpose::Repair(_) => Ok(()),
            Purpose::Read if !is_alone => Ok(()),
            Purpose::Read | Purpose::Write => self.refuse_unusable(),
        }
    }

    /// Whether somebody saw a head of this device.
    fn is_known(&self, device: &DeviceId, knowing: &Known) -> bool {
        let names = |head: &Head| head.device == *device || head.processed.get(device).is_some();
        knowing.seen.knows(device) || self.heads().any(names)
    }

    /// Newer heads that are damaged need a repair first. Those of other devices that are here in
    /// part are joined once they are here: until then their devices' older heads count.
    fn refuse_unusable(&self) -> Result<(), Refusal> {
        let unread = |at: &usize| &self.here.unusable[*at];
        let is_bad = |at: &&usize| unread(at).why != Why::Arriving;
        if let Some(at) = self.unusable.iter().find(is_bad) {
            return Err(Refusal::Unusable(*at));
        }
        let is_own = |at: &usize| unread(at).device == self.own.device;
        let waits = self.newest.is_empty() || self.unusable.iter().any(is_own);
        let waits = waits && !self.unusable.is_empty();
        if waits { Err(Refusal::Arriving(self.unusable.clone())) } else { Ok(()) }
    }

    /// Refuses local state that is not that of this device's newest head. Returns the head
    /// that a crash kept from being recorded there.
    fn check_own(&self) -> Result<Option<usize>, Refusal> {
        let Known { device, generation, head, entering, .. } = self.own;
        if let Some((heir, _)) = self.retired.get(device) {
            return Err(Refusal::Retired(*heir));
        }
        let own = self.newest.iter().find(|at| self.here.heads[**at].device == *device);
        let Some(at) = own else {
            self.check_known_elsewhere()?;
            return if *generation > 0 { Err(Refusal::OwnGone) } else { Ok(None) };
        };
        let newest = &self.here.heads[*at];
        let here = newest.generation;
        if here < *generation {
            return Err(Refusal::OwnOlder { here });
        }
        if here == *generation {
            let is_here = newest.hash == *head || self.here.files.contains(head);
            let heads = self.here.heads.iter().filter(|head| head.device == *device);
            let writes = self.wanted.purpose == Purpose::Write;
            let is_other =
                |head: &Head| head.generation == here || head.is_contained == Some(false);
            // Who reads is shown both.
            let is_copied = !is_here || (writes && heads.filter(|head| is_other(head)).count() > 1);
            if is_copied {
                return Err(Refusal::Copied);
            }
            return self.check_known_elsewhere().map(|()| None);
        }
        if entering.contains(&newest.hash) {
            return Ok(Some(*at));
        }
        Err(Refusal::StateOlder { here })
    }

    /// Refuses local state if another device has processed a head of this one that local state
    /// did not write: a copy of it did.
    fn check_known_elsewhere(&self) -> Result<(), Refusal> {
        let Known { device, generation, head, .. } = self.own;
        let others = self.heads().filter(|head| head.device != *device);
        for (here, tag) in others.filter_map(|other| other.processed.get(device)) {
            if here > *generation {
                return Err(Refusal::StateOlder { here });
            }
            if here == *generation && tag != Tag::default() && tag != Tag::of(head) {
                return Err(Refusal::Copied);
            }
        }
        Ok(())
    }

    /// The head, or the heads, that everything is based on.
    fn base(&self) -> Result<Verdict, Refusal> {
        if self.wanted.until.is_some() && self.newest.is_empty() && self.unusable.is_empty() {
            return Err(Refusal::TooEarly);
        }
        if let Some(wanted) = &self.wanted.only_device {
            return self.only(wanted).map(|at| Verdict::StandOn(Some(at)));
        }
        if self.newest.is_empty() {
            if !self.here.files.is_empty() {
                return Err(Refusal::NoneUsable);
            }
            // An empty tree in place of what was here would be a second history.
            if !self.wanted.accept_older && !self.own.seen.is_empty() {
                return Err(Refusal::AllGone);
            }
            return Ok(Verdict::StandOn(None));
        }
        let mut tips = self.tips();
        let twins = (0..self.here.heads.len()).filter(|at| !self.newest.contains(at));
        tips.extend(twins.filter(|at| self.here.heads[*at].is_contained != Some(true)));
        if tips.is_empty() {
            tips.clone_from(&self.newest);
        }
        if self.wanted.purpose == Purpose::Write
            && let Some(journal) = &self.own.journal
        {
            let tips: BTreeSet<&Hash> = tips.iter().map(|at| &self.here.heads[*at].hash).collect();
            if tips != journal.iter().collect() {
                return Ok(Verdict::Replay);
            }
        }
        Ok(match tips[..] {
            [only] if self.newest.contains(&only) => Verdict::StandOn(Some(only)),
            _ => Verdict::Join(tips),
        })
    }

    /// The newest heads that together have all changes, as few as can be told: a head is left out
    /// only for one that is not, and has all of it. Of two that have the same the later one counts.
    fn tips(&self) -> Vec<usize> {
        let head = |at: &usize| &self.here.heads[*at];
        let mut latest_first = self.newest.clone();
        latest_first.sort_by_key(|at| std::cmp::Reverse(head(at).when()));
        let mut tips: Vec<usize> = Vec::new();
        for at in latest_first {
            let one = head(&at);
            let is_left_out = match one.is_contained {
                Some(is_contained) => is_contained,
                None => tips.iter().any(|tip| head(tip).has_all_of(one)),
            };
            if !is_left_out {
                tips.retain(|tip| head(tip).is_contained.is_some() || !one.has_all_of(head(tip)));
                tips.push(at);
            }
        }
        self.newest.iter().filter(|at| tips.contains(at)).copied().collect()
    }

    /// The newest head of the one device that has this name, or an id that begins so.
    fn only(&self, wanted: &str) -> Result<usize, Refusal> {
        let is = |at: &&usize| {
            let head = &self.here.heads[**at];
            is_called(wanted, &head.name, &head.device)
        };
        let found: Vec<usize> = self.newest.iter().filter(is).copied().collect();
        match found[..] {
            [only] => Ok(only),
            [] => Err(Refusal::NoDevice(wanted.into())),
            _ => Err(Refusal::SeveralDevices(wanted.into(), found)),
        }
    }

    /// Devices that the next head retires, each with its last head that can be used: what this
    /// one was before it was renewed, and what a repair goes on without. These are devices with a
    /// newest head that cannot be used or that was seen and is not here.
    fn without(&self) -> Vec<Retired> {
        let last = |device| self.head(device).map_or(0, |head| head.generation);
        let earlier = self.own.retires.iter().filter(|device| last(device) > 0);
        let mut devices: BTreeSet<&DeviceId> = earlier.collect();
        if let Purpose::Repair(seen) = &self.wanted.purpose {
            let lost = seen.iter().filter(|(device, seen)| last(device) < *seen);
            devices.extend(lost.map(|(device, _)| device));
            devices.extend(self.unusable.iter().map(|at| &self.here.unusable[*at].device));
        }
        let retired = devices.into_iter().map(|device| Retired {
            device: *device,
            last: last(device),
            tag: self.head(device).map_or(Tag::default(), |head| Tag::of(&head.hash)),
            heir: self.own.device,
        });
        retired.collect()
    }

    /// Devices that wrote newer heads than are here, as local state and the vault know.
    /// Where a newer head is here, and can only not be used, that is said in its place.
    fn behind(&self, knowing: &Known) -> Vec<Behind> {
        let mut known = self.wanted.told.clone();
        for (device, seen) in knowing.seen.iter().chain([(&knowing.device, knowing.generation)]) {
            known.add(*device, seen);
        }
        let names_unusable = !self.is_repair();
        let mut behind = Vec::new();
        for (&device, known) in known.iter() {
            let head = self.head(&device);
            let here = head.map_or(0, |head| head.generation);
            let here = here.max(self.here.later.get(&device).unwrap_or(0));
            let excused = self.retired.get(&device).is_some_and(|(_, last)| here >= *last);
            let mut unusable = self.unusable.iter().map(|at| &self.here.unusable[*at]);
            let is_here = names_unusable && unusable.any(|head| head.device == device);
            if here < known && !excused && !is_here {
                behind.push(Behind {
                    device,
                    name: head.map(|head| head.name.clone()),
                    own: device == knowing.device,
                    known,
                    here,
                    time: head.map(|head| head.time),
                });
            }
        }
        behind
    }

    /// What local state has seen from now on.
    fn seen(&self) -> Generations {
        let mut seen = self.own.seen.clone();
        for head in self.heads() {
            if self.wanted.accept_older {
                seen.set(head.device, head.generation);
            } else {
                seen.add(head.device, head.generation);
            }
        }
        if self.wanted.accept_older {
            seen.retain(|device| self.head(device).is_some());
        }
        seen
    }
}

/// Whether `wanted` is a device's name, or four or more of the first digits of its id.
pub fn is_called(wanted: &str, name: &str, device: &DeviceId) -> bool {
    let digits = wanted.to_ascii_lowercase();
    name == wanted || (digits.len() >= ID_DIGITS_MIN && hex(device).starts_with(&digits))
}

/// Heads of one device that do not name the head of the generation before theirs, although
/// that is here and can be read; or that have none before and name one.
pub fn breaks(chain: &[Link]) -> impl Iterator<Item = &Link> {
    let fits = |link: &Link| {
        let mut before = chain.iter().filter(|other| other.generation + 1 == link.generation);
        match before.next() {
            None => link.generation > 1 || link.previous == [0; 32],
            Some(first) => {
                first.hash == link.previous || before.any(|other| other.hash == link.previous)
            }
        }
    };
    chain.iter().filter(move |link| !fits(link))
}

/// What keeps a command that reads from passing off what is here as all there is.
#[derive(Debug)]
pub enum Less<'a> {
    /// A newer head is here and cannot be used.
    Unusable(&'a Unusable),
    /// A newer head is known and not here.
    Behind(&'a Behind),
}

/// The first thing that keeps a command that reads from passing off what is here as all
/// there is. Of another device's head that is here in part, what is complete is given: the
/// exit code says that it is not all.
pub fn less<'a>(unusable: &'a [Unusable], behind: &'a [Behind]) -> Option<Less<'a>> {
    let is_kept = |head: &&Unusable| head.own || Why::of(&head.error) != Why::Arriving;
    let unusable = unusable.iter().find(is_kept).map(Less::Unusable);
    unusable.or_else(|| first_behind(behind).map(Less::Behind))
}

/// Of devices whose newest heads are not here the one that is named: this machine's own
/// use, if it is among them.
pub fn first_behind(behind: &[Behind]) -> Option<&Behind> {
    behind.iter().find(|behind| behind.own).or(behind.first())
}
