//! Opens a volume: reads what is here, has it decided, and does that.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::arrivals::Arrivals;
use super::base::{Decided, Joining, based_on, holders, read_and_join, tips};
use super::options::OpenOptions;
use super::plan::{Known, Plan, Purpose, Verdict, plan};
use super::read::{Heads, Loaded, drop_torn, enter_staged};
use super::tell;
use crate::crypto::{DeviceId, Hash, hex, random_id};
use crate::format::clock::Generations;
use crate::format::commit::{Commit, Name};
use crate::format::register::{HEADER_MAX, Header, Register};
use crate::io::SyncedFolder;
use crate::journal::Journal;
use crate::store::{Context, Landmarks, Store, StoreError};
use crate::volume::repository::{HeadFile, OpenFailure, Repository, open_head};
use crate::volume::state::State;
use crate::volume::{
    Base, DaySteps, DeviceHead, Notice, Own, Parts, Unfit, Unusable, Volume, VolumeError, World,
    draw_writer, journal_keys, unfit,
};

type Result<T> = std::result::Result<T, VolumeError>;

/// Opens a repository whose keyring was opened by `register`.
pub fn open(
    world: World,
    repository: &Repository,
    context: Arc<Context>,
    register: Register,
    options: &OpenOptions,
) -> Result<Volume> {
    let mut notices = Vec::new();
    tell_header(repository, &mut notices);
    let mut state = local_state(&world, repository, options)?;
    adopt_place(&mut state, &world, repository, &context, options, &mut notices)?;
    let store = Store::new(
        context,
        world.repo.clone(),
        world.state.clone(),
        (world.clock.clone(), world.random.clone()),
        state.device,
        options.caches,
    );
    if !options.read_only {
        check_writable(&*world.repo, &state.device)?;
    }
    store.list_objects(&repository.devices())?;
    store.add_copies(&repository.copies);
    store.set_lookout(Box::new(Arrivals::new(state.device)));
    let intents = intents(&world, options)?;
    let mut heads = repository.heads.clone();
    // Of a repository that is only read, this machine is the device of the state
    // that lies beside it.
    let machine = options.beside.as_ref().map_or(&state, |beside| &beside.state);
    if !options.read_only {
        let mut own = heads.remove(&state.device).unwrap_or_default();
        enter_staged(&store, &world, &mut own, &intents, &state)?;
        if !own.is_empty() {
            heads.insert(state.device, own);
        }
    }
    if let Some(files) = heads.get_mut(&machine.device) {
        drop_torn(&store, files, &intents, machine.generation, options.read_only)?;
    }
    let machine = machine.device;
    let wanted = options.wanted();
    let beside = options.beside.as_ref().map(|beside| known(&beside.state, &heads, &[]));
    // A repair decides itself what it goes on without.
    let leaves_out = options.repair.is_none().then_some(&machine);
    let until = options.until;
    let joining = Joining { own: leaves_out, until, ..Joining::default() };
    let decided = read_and_join(&store, repository, &heads, joining, |loaded| {
        let decide = |own: &Known| plan(&loaded.here, own, beside.as_ref(), &wanted);
        if let Some(at) = decide(&known(&state, &heads, &intents)).finishes {
            finish(&mut state, &loaded.heads[at], &*world.repo, &mut notices)?;
        }
        let mut own = known(&state, &heads, &intents);
        let plan = decide(&own);
        if wanted.purpose != Purpose::Write {
            return Ok(plan);
        }
        own.journal = journal_base(&world, store.context(), &state, &hashes(loaded, &plan.verdict));
        Ok(if own.journal.is_none() { plan } else { decide(&own) })
    })?;
    let Decided { mut loaded, plan, joined } = decided;
    notices.append(&mut loaded.notices);
    tell::tell_heads(&loaded, &plan, &mut notices);
    tell::tell_changed_features(repository, loaded.here.features, &mut notices);
    tell::tell_strays(&store, repository, &mut notices);
    if !options.first {
        tell::tell_none(repository, &mut notices);
    }
    let writer = draw_writer(&*world.random);
    let is_replay = plan.verdict == Verdict::Replay;
    let base = match plan.verdict {
        Verdict::StandOn(Some(at)) => based_on(&store, &[&loaded.heads[at]])?,
        Verdict::StandOn(None) => {
            let device_name = state.name.clone();
            let empty = Commit { device_name, ..Commit::empty(state.device, writer) };
            Base::plain(empty, [0; 32])
        }
        Verdict::Join(_) => {
            let (base, told) = joined.expect("it was joined when that was decided");
            notices.extend(told);
            base
        }
        Verdict::Replay => {
            let noted = noted_heads(&store, &heads, &state.base)?;
            based_on(&store, &noted.iter().collect::<Vec<_>>())?
        }
        Verdict::Refuse(refusal) => {
            if let Some(what) = tell::overtaken(&refusal, &loaded, state.generation) {
                let files = heads.get(&state.device).map_or(&[][..], Vec::as_slice);
                let why = (Unfit::Overtaken, what);
                return Err(unfit(why, &world, store.context(), &state, files));
            }
            return Err(tell::refused(refusal, loaded, repository, state.generation));
        }
    };
    let Plan { without, behind, seen, newest, unusable, .. } = plan;
    notices.extend(until.and_then(|until| tell::as_of(until, &loaded, &newest)));
    state.seen = seen;
    let landmark_heads = [&[state.head], &base.inherited.parents[..]].concat();
    store.recognise_by(landmarks(&store, &world, repository, &heads, &landmark_heads));
    store.mark_bad(&base.inherited.bad);
    let is_unread = |file: &HeadFile| !store.is_known(&file.name());
    let own_unread = heads.get(&state.device).is_some_and(|files| files.iter().any(is_unread));
    let features = loaded.here.features;
    let repairs = matches!(wanted.purpose, Purpose::Repair(_));
    let own_device = beside.map_or(state.device, |beside| beside.device);
    let unusable =
        if repairs { Vec::new() } else { take_unusable(&mut loaded, &unusable, own_device) };
    let mut newest_heads = Vec::new();
    let mut said = Own::none();
    for (at, (head, file)) in loaded.heads.into_iter().enumerate() {
        if newest.contains(&at) {
            if head.device == state.device {
                said = Own::of(&head.commit, file.size);
            }
            newest_heads.push(head);
        }
    }
    let machine = options.beside.as_ref().map_or(&state, |beside| &beside.state);
    let holders = holders(&store, &heads, machine, &newest_heads);
    let volume = Volume::new(Parts {
        world,
        store: Arc::new(store),
        register,
        features,
        state,
        base,
        own: said,
        writer,
        own_unread,
        is_replay,
        retiring: without,
        notices,
        heads: crate::volume::Heads { newest: newest_heads, behind, unusable, holders },
    });
    if !options.read_only {
        volume.store_state().map_err(|error| StoreError::state("device record", error))?;
    }
    Ok(volume)
}

fn tell_header(repository: &Repository, notices: &mut Vec<Notice>) {
    if let Some(trouble) = &repository.header_trouble {
        let text = format!("the header could not be used ({trouble}); a head stands in");
        notices.push(match trouble {
            OpenFailure::Store(StoreError::Io { .. }) => Notice::Unread(text),
            _ => Notice::Damage(text),
        });
    }
}

/// Local state, or that of a new device.
fn local_state(world: &World, repository: &Repository, options: &OpenOptions) -> Result<State> {
    let stored = match &world.state {
        Some(folder) => State::load(&**folder)
            .map_err(|error| VolumeError::State(format!("it cannot be read: {error}")))?,
        None => None,
    };
    if stored.as_ref().is_some_and(|state| state.repo != repository.repo) {
        return Err(VolumeError::State("it belongs to another repository".into()));
    }
    let mut state = stored.unwrap_or_else(|| {
        let device = random_id(&*world.random);
        State {
            repo: repository.repo,
            device,
            name: options.device_name.clone(),
            place: options.place,
            generation: 0,
            news: 0,
            head: [0; 32],
            journal: 0,
            base: Vec::new(),
            seen: Generations::default(),
            journal_of: device,
            retires: Vec::new(),
            steps: DaySteps::default(),
            entered: Vec::new(),
            swept: 0,
        }
    });
    if let Some(name) = &options.new_name {
        state.name.clone_from(name);
    }
    Ok(state)
}

/// Refuses local state of another machine or folder, unless it is to be gone on with.
fn adopt_place(
    state: &mut State,
    world: &World,
    repository: &Repository,
    context: &Context,
    options: &OpenOptions,
    notices: &mut Vec<Notice>,
) -> Result<()> {
    if state.place == options.place {
        return Ok(());
    }
    if !options.adopt || options.read_only {
        let what = "it belongs to another machine or folder".to_string();
        let own = repository.heads.get(&state.device).map_or(&[][..], Vec::as_slice);
        return Err(unfit((Unfit::Elsewhere, what), world, context, state, own));
    }
    notices.push(Notice::Note("local state belongs to this machine and folder from now on".into()));
    state.place = options.place;
    Ok(())
}

/// Whether heads and objects of a device can enter the folder, as far as that can be
/// known without making a file.
fn check_writable(repo: &dyn SyncedFolder, device: &DeviceId) -> Result<()> {
    let folder = hex(device);
    for name in ["head", "obj"] {
        let path = format!("{folder}/{name}");
        let checked = [path.as_str(), folder.as_str(), ""].into_iter().find_map(|path| match repo
            .check_writable(path)
        {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            checked => Some((path, checked)),
        });
        if let Some((path, Err(source))) = checked {
            let place = format!("{}/{path}", repo.place());
            let place = place.trim_end_matches('/').to_owned();
            return Err(VolumeError::Unwritable { place, source });
        }
    }
    Ok(())
}

/// Names of files that may have been entering REPO when this machine's process died.
fn intents(world: &World, options: &OpenOptions) -> Result<Vec<String>> {
    match &world.state {
        Some(folder) => Store::intents(&**folder)
            .map_err(|error| VolumeError::State(format!("intent log: {error}"))),
        None => Ok(options.beside.as_ref().map_or(Vec::new(), |beside| beside.intents.clone())),
    }
}

/// What of local state decides.
pub(super) fn known(state: &State, heads: &Heads, intents: &[String]) -> Known {
    let own = heads.get(&state.device).into_iter().flatten();
    let entering: BTreeSet<_> =
        own.filter(|file| intents.contains(&file.name().path())).map(|file| file.hash).collect();
    Known {
        device: state.device,
        generation: state.generation,
        head: state.head,
        seen: state.seen.clone(),
        entering,
        journal: None,
        retires: state.retires.clone(),
    }
}

/// The heads that a verdict names.
fn hashes<'a>(loaded: &'a Loaded, verdict: &Verdict) -> BTreeSet<&'a Hash> {
    tips(verdict).iter().map(|at| &loaded.here.heads[*at].hash).collect()
}

/// The heads on which changes in the journal were made that no head has; none if there are
/// no such changes. The journal is read only if the opening would be `based` on other heads.
fn journal_base(
    world: &World,
    context: &Context,
    state: &State,
    based: &BTreeSet<&Hash>,
) -> Option<Vec<Hash>> {
    let folder = world.state.as_ref()?;
    if *based == state.base.iter().collect() {
        return None;
    }
    // A journal that cannot be read is refused where it is opened.
    let keys = journal_keys(context, state.journal_of);
    let read = Journal::read(&**folder, &keys, state.journal);
    let has_changes = read.is_ok_and(|replay| !replay.records.is_empty());
    has_changes.then(|| state.base.clone())
}

/// The heads with these hashes, which are not the newest ones.
fn noted_heads(
    store: &Store,
    heads: &Heads,
    hashes: &[Hash],
) -> Result<Vec<(DeviceHead, HeadFile)>> {
    let noted = |hash: &Hash| {
        let file = heads.values().flatten().find(|file| file.hash == *hash);
        let file = file.ok_or_else(|| {
            let hash = hex(&hash[..4]);
            VolumeError::Waiting(format!("the head {hash}, on which changes in the journal rest"))
        })?;
        let (commit, ..) = open_head(store, file)?;
        let HeadFile { device, generation, hash, .. } = *file;
        let name = commit.device_name.clone();
        let head = DeviceHead { device, name, generation, hash, commit, complete: true };
        Ok((head, file.clone()))
    };
    hashes.iter().map(noted).collect()
}

/// Finishes a checkpoint that a crash interrupted between a head and its record.
fn finish(
    state: &mut State,
    (head, file): &(DeviceHead, HeadFile),
    repo: &dyn SyncedFolder,
    notices: &mut Vec<Notice>,
) -> Result<()> {
    // Killed before its flush, the process may have left it in the page
    // cache only; local state must not claim it before it is durable.
    let path = file.name().path();
    let whole = repo.read(&path, file.size).and_then(|bytes| repo.publish(&path, &bytes));
    whole.map_err(|error| StoreError::io(&path, error))?;
    let text = "finished a checkpoint that a crash had interrupted";
    notices.push(Notice::Note(text.into()));
    state.generation = head.generation;
    state.news = head.commit.news;
    state.head = file.hash;
    state.base = vec![file.hash];
    state.journal = head.commit.journal;
    Ok(())
}

/// What REPO's folder is recognised by: its header, and the first of these heads that is
/// here.
fn landmarks(
    store: &Store,
    world: &World,
    repository: &Repository,
    heads: &Heads,
    wanted: &[Hash],
) -> Landmarks {
    let header = Name::Header(repository.repo).path();
    let has_header = world
        .repo
        .read(&header, HEADER_MAX)
        .is_ok_and(|bytes| Header::decode(&bytes).is_ok_and(|h| h.repo == repository.repo));
    let head = wanted.iter().find_map(|hash| {
        let file = heads.values().flatten().find(|file| file.hash == *hash)?;
        // Under its name there may be a part of it, while a copy stands in.
        let place = store.place(&file.name());
        let size = world.repo.look(&place).ok().flatten()?.size;
        Some((file.name(), size))
    });
    Landmarks { header: has_header.then_some(header), head }
}

/// The unusable heads at these places, which ascend.
pub(super) fn take_unusable(loaded: &mut Loaded, places: &[usize], own: DeviceId) -> Vec<Unusable> {
    let all = std::mem::take(&mut loaded.unusable).into_iter().enumerate();
    let taken = all.filter(|(at, _)| places.contains(at));
    taken
        .map(|(_, (file, error))| Unusable {
            path: file.name().path(),
            own: file.device == own,
            error,
        })
        .collect()
}
