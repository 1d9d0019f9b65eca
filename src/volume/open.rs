//! Opening a volume: which head it stands on, and what the owner is told.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};

use super::heads::{adopt_own, choose, drop_torn, find_behind, given_up, load_heads, refuse};
use super::repository::{OpenFailure, Repository};
use super::state::State;
use super::trust::{refuse_newer, tell_changed_features, tell_none, tell_strays};
use super::unfit::{Unfit, unfit};
use super::{Notice, OpenOptions, Own, Unusable, Volume, VolumeError, World, draw_writer};
use crate::crypto::{DeviceId, hex};
use crate::format::clock::Generations;
use crate::format::commit::Name;
use crate::format::register::{HEADER_MAX, Header, Register};
use crate::io::SyncedFolder;
use crate::store::{Context, Landmarks, Store, StoreError};

impl Volume {
    /// Opens a repository whose keyring was opened by `register`.
    pub fn open(
        world: World,
        repository: &Repository,
        context: Arc<Context>,
        register: Register,
        options: &OpenOptions,
    ) -> std::result::Result<Self, VolumeError> {
        let mut notices = Vec::new();
        if let Some(trouble) = &repository.header_trouble {
            let text = format!("the header could not be used ({trouble}); a head stands in");
            notices.push(match trouble {
                OpenFailure::Store(StoreError::Io { .. }) => Notice::Unread(text),
                _ => Notice::Damage(text),
            });
        }
        let stored = match &world.state {
            Some(folder) => State::load(&**folder)
                .map_err(|error| VolumeError::State(format!("it cannot be read: {error}")))?,
            None => None,
        };
        if stored.as_ref().is_some_and(|state| state.repo != repository.repo) {
            return Err(VolumeError::State("it belongs to another repository".into()));
        }
        let mut state = stored.unwrap_or_else(|| State {
            repo: repository.repo,
            device: crate::crypto::random_id(&*world.random),
            name: options.device_name.clone(),
            place: options.place,
            generation: 0,
            news: 0,
            head: [0; 32],
            journal: 0,
            base: [0; 32],
            seen: Generations::default(),
        });
        let own = repository.heads.get(&state.device).map_or(&[][..], Vec::as_slice);
        if state.place != options.place {
            if !options.adopt || options.read_only {
                let what = "it belongs to another machine or folder".to_string();
                return Err(unfit((Unfit::Elsewhere, what), &world, &context, &state, own));
            }
            notices.push(Notice::Note(
                "local state belongs to this machine and folder from now on".to_string(),
            ));
            state.place = options.place;
        }
        let store = Store::new(
            context,
            world.repo.clone(),
            world.state.clone(),
            (world.clock.clone(), world.random.clone()),
            state.device,
            options.caches,
        );
        let folders = repository.devices();
        if !options.read_only {
            check_writable(&*world.repo, &state.device)?;
        }
        store.list_objects(&folders)?;
        store.add_copies(&repository.copies);
        let intents = match &world.state {
            Some(folder) => Store::intents(&**folder)
                .map_err(|error| VolumeError::State(format!("intent log: {error}")))?,
            None => options.beside.as_ref().map_or(Vec::new(), |beside| beside.intents.clone()),
        };
        let mut heads = repository.heads.clone();
        // Of a repository that is only read, this machine is the device of the state
        // that lies beside it.
        let own = options.beside.as_ref().map_or(&state, |beside| &beside.state);
        let own = (own.device, own.generation);
        if let Some(files) = heads.get_mut(&own.0) {
            drop_torn(&store, files, &intents, own.1, options.read_only)?;
        }
        let with_nodes = options.read_only && options.repair.is_none();
        let mut loaded = load_heads(&store, &heads, with_nodes, &mut notices);
        loaded.features.merge(store.context().keyring.features);
        refuse_newer(&loaded, options.read_only)?;
        tell_changed_features(repository, loaded.features, &mut notices);
        let seen = options.beside.as_ref().map_or(&state.seen, |beside| &beside.state.seen);
        tell_strays(&store, repository, &loaded, seen, &mut notices)?;
        if !options.first {
            tell_none(repository, &mut notices);
        }
        let mut unusable = Vec::new();
        let without = match &options.repair {
            Some(seen) => given_up(&loaded, seen, state.device),
            None if options.read_only => {
                for (file, error) in std::mem::take(&mut loaded.unusable) {
                    let (path, own) = (file.name().path(), file.device == own.0);
                    unusable.push(Unusable { path, own, error });
                }
                Vec::new()
            }
            None => {
                refuse(loaded.unusable.drain(..).map(|(_, error)| error).collect())?;
                Vec::new()
            }
        };
        if loaded.newest.is_empty() && options.repair.is_none() {
            let errors = unusable.extract_if(.., |_| true).map(|unusable| unusable.error);
            refuse(errors.collect())?;
        }
        let own_heads = heads.get(&state.device).map_or(&[][..], Vec::as_slice);
        adopt_own(&mut state, own_heads, &loaded, &*world.repo, &intents, &mut notices).map_err(
            |error| match error {
                VolumeError::State(what) => {
                    let why = (Unfit::Overtaken, what);
                    unfit(why, &world, store.context(), &state, own_heads)
                }
                error => error,
            },
        )?;
        let writer = draw_writer(&*world.random);
        let base = choose(&loaded, &state, &heads, options, writer)?;
        let known = options.beside.as_ref().map_or(&state, |beside| &beside.state);
        let behind = find_behind(&loaded, &unusable, known, &options.told);
        for (head, _) in &loaded.newest {
            if options.accept_older {
                state.seen.set(head.device, head.generation);
            } else {
                state.seen.add(head.device, head.generation);
            }
        }
        if options.accept_older {
            state.seen.retain(|device| loaded.newest.iter().any(|(h, _)| h.device == *device));
        }
        let header = Name::Header(repository.repo).path();
        let has_header = world
            .repo
            .read(&header, HEADER_MAX)
            .is_ok_and(|bytes| Header::decode(&bytes).is_ok_and(|h| h.repo == repository.repo));
        let stands_on = [state.head, base.hash];
        let stands_on = stands_on.iter().find_map(|hash| {
            let file = heads.values().flatten().find(|file| file.hash == *hash)?;
            Some((store.place(&file.name()), file.size))
        });
        store.recognise_by(Landmarks { header: has_header.then_some(header), head: stands_on });
        let own_head = loaded.newest.iter().find(|(head, _)| head.device == state.device);
        let own = own_head.map_or(Own::none(), |(head, file)| Own::of(&head.commit, file.size));
        store.mark_bad(&base.inherited.bad);
        let own_unread = heads
            .get(&state.device)
            .is_some_and(|files| files.iter().any(|file| !store.is_known(&file.name())));
        let volume = Self {
            store: Arc::new(store),
            register: RwLock::new(register),
            features: loaded.features,
            state: Mutex::new(state),
            base: RwLock::new(Arc::new(base)),
            writer: AtomicU64::new(writer.number()),
            spent: AtomicU64::new(0),
            own_unread,
            without,
            own: Mutex::new(own),
            notices,
            behind,
            unusable,
            devices: loaded.newest.into_iter().map(|(head, _)| head).collect(),
            world,
        };
        if !options.read_only {
            volume.store_state().map_err(|error| VolumeError::State(error.to_string()))?;
        }
        Ok(volume)
    }
}

/// Whether heads and objects of a device can enter the folder, as far as that can be
/// known without making a file.
fn check_writable(
    repo: &dyn SyncedFolder,
    device: &DeviceId,
) -> std::result::Result<(), VolumeError> {
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
