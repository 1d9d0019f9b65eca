//! What is read of a joined namespace: all that hangs together with what may need a repair.
//!
//! Invariant: an inode is here with everything but its entries, with all its names, and with
//! all directories above it. What somebody asks for and is not here is noted, and is here
//! after the next [`Loaded::load`].

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::{Joined, Place, ROOT, Suspects, Values};
use crate::crypto::{DeviceId, IdKeys};
use crate::format::clock::{Dot, Writer};
use crate::format::namespace::{Ino, Inode, Key, Value};
use crate::format::side_files::{SIDE_SUFFIXES, main_name};

/// A record of an inode and its dot.
pub(super) type Version = (Dot, Rc<Inode>);

/// The inode to which the rows of writers belong.
const NO_INO: Ino = 0;

/// Something to read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Request {
    Inode(Ino),
    Place(Place),
    /// All entries of a directory.
    Entries(Ino),
    Writer(Writer),
}

/// What was read so far.
pub(super) struct Loaded<'a> {
    /// The keys of the repository.
    pub ids: &'a IdKeys,
    /// All keys of it, with their values.
    pub items: BTreeMap<Key, Values>,
    /// The records of its inodes, ascending by dot; none is empty.
    pub records: BTreeMap<Ino, Vec<Version>>,
    read: BTreeSet<Request>,
    requests: RefCell<BTreeSet<Request>>,
}

impl<'a> Loaded<'a> {
    /// Nothing, and what to begin with.
    pub fn new(ids: &'a IdKeys, suspects: &Suspects) -> Self {
        let inodes = suspects.inodes.iter().filter(|ino| **ino != NO_INO);
        let requests = inodes.map(|ino| Request::Inode(*ino));
        let requests = requests.chain(suspects.places.iter().cloned().map(Request::Place));
        Self {
            ids,
            items: BTreeMap::new(),
            records: BTreeMap::new(),
            read: BTreeSet::new(),
            requests: RefCell::new(requests.chain([Request::Inode(ROOT)]).collect()),
        }
    }

    /// Whether all that was asked for is here.
    pub fn is_whole(&self) -> bool {
        self.requests.borrow().is_empty()
    }

    fn request(&self, request: Request) {
        if !self.read.contains(&request) {
            self.requests.borrow_mut().insert(request);
        }
    }

    // --- what is asked for

    /// The records of an inode, if it is there.
    pub fn record(&self, ino: Ino) -> Option<&[Version]> {
        self.request(Request::Inode(ino));
        self.records.get(&ino).map(Vec::as_slice)
    }

    /// Asks for what stands under a name, and for the files that belong to one database with
    /// it by their names.
    pub fn request_name(&self, dir: Ino, name: &[u8]) {
        self.request_place(dir, name);
        self.request_beside(dir, name);
    }

    fn request_place(&self, dir: Ino, name: &[u8]) {
        self.request(Request::Place((dir, name.to_vec())));
    }

    /// Asks for all entries of a directory.
    pub fn request_entries(&self, dir: Ino) {
        self.request(Request::Entries(dir));
    }

    /// The device of a writer, and what that called itself.
    pub fn device(&self, writer: Writer) -> Option<(DeviceId, String)> {
        self.request(Request::Writer(writer));
        match self.items.get(&Key::Writer(writer))?.last()? {
            (_, Value::Writer(device, name)) => Some((*device, name.clone())),
            _ => None,
        }
    }

    /// The key of an entry.
    pub fn entry(&self, dir: Ino, name: &[u8]) -> Key {
        Key::Entry(dir, self.ids.name_hash(name), name.to_vec())
    }

    /// The number of a version as a file of its own.
    pub fn loser_number(&self, ino: Ino, origin: Dot) -> Ino {
        self.ids.loser_number(ino, &origin.writer.to_bytes(), origin.record)
    }

    /// What lies beside an inode's record: attributes, back references, recipe, kinds that are
    /// not known.
    pub fn beside(&self, ino: Ino) -> impl Iterator<Item = (&Key, &Values)> {
        let xattrs = self.from(Key::Xattr(ino, Vec::new()), ino);
        let xattrs = xattrs.take_while(|(key, _)| matches!(key, Key::Xattr(..)));
        xattrs.chain(self.backs(ino)).chain(self.opaque(ino))
    }

    /// The back references of an inode.
    pub fn backs(&self, ino: Ino) -> impl Iterator<Item = (&Key, &Values)> {
        let backs = self.from(Key::Back(ino, 0, Vec::new()), ino);
        backs.take_while(|(key, _)| matches!(key, Key::Back(..)))
    }

    /// Whether a writer wrote this name of an inode, or wrote it again with a change of the inode.
    pub fn is_name_of(&self, ino: Ino, (dir, name): (Ino, &[u8]), writer: Writer) -> bool {
        let back = self.items.get(&Key::Back(ino, dir, name.to_vec()));
        back.into_iter().flatten().any(|(dot, _)| dot.writer == writer)
    }

    /// The recipe of an inode, and its kinds that are not known.
    pub fn opaque(&self, ino: Ino) -> impl Iterator<Item = (&Key, &Values)> {
        let recipe = self.items.get_key_value(&Key::Recipe(ino));
        let others = self.from(Key::Opaque(ino, 0, Vec::new()), ino);
        recipe.into_iter().chain(others.take_while(|(key, _)| matches!(key, Key::Opaque(..))))
    }

    fn from(&self, key: Key, ino: Ino) -> impl Iterator<Item = (&Key, &Values)> {
        self.items.range(key..).take_while(move |(key, _)| key.ino() == ino)
    }

    // --- reading

    /// Reads what was asked for, and what hangs together with it.
    pub fn load<J: Joined>(&mut self, joined: &J) -> Result<(), J::Error> {
        loop {
            let next = self.requests.get_mut().pop_first();
            let Some(request) = next else { return Ok(()) };
            if !self.read.insert(request.clone()) {
                continue;
            }
            match request {
                Request::Inode(ino) => self.load_inode(joined, ino)?,
                Request::Place((dir, name)) => {
                    let key = self.entry(dir, &name);
                    let values = joined.values(&key)?;
                    self.add_place(key, values);
                }
                Request::Entries(dir) => {
                    let (from, to) = (Key::entries_from(dir, 0), Key::Recipe(dir).encode());
                    for (key, values) in joined.scan(&from, &to)? {
                        if let Key::Entry(_, _, name) = &key {
                            self.read.insert(Request::Place((dir, name.clone())));
                        }
                        self.add_place(key, values);
                    }
                }
                Request::Writer(writer) => {
                    let key = Key::Writer(writer);
                    let values = joined.values(&key)?;
                    self.add(key, values);
                }
            }
        }
    }

    fn add(&mut self, key: Key, values: Values) {
        if !values.is_empty() {
            self.items.insert(key, values);
        }
    }

    fn load_inode<J: Joined>(&mut self, joined: &J, ino: Ino) -> Result<(), J::Error> {
        let number = ino.to_be_bytes();
        let after =
            ino.checked_add(1).map_or([0xff; 16].to_vec(), |next| next.to_be_bytes().to_vec());
        // Entries may be very many, so they are passed by.
        let mut found = joined.scan(&number, &Key::entries_from(ino, 0))?;
        found.extend(joined.scan(&Key::Recipe(ino).encode(), &after)?);
        let mut names: Vec<Place> = Vec::new();
        let mut is_file = false;
        for (key, values) in found {
            match &key {
                Key::Back(_, dir, name) => names.push((*dir, name.clone())),
                Key::Inode(_) => {
                    let record = |(dot, value): &(Dot, Value)| match value {
                        Value::Inode(inode) => Some((*dot, Rc::from(inode.clone()))),
                        _ => None,
                    };
                    let records: Vec<Version> = values.iter().filter_map(record).collect();
                    for (_, inode) in &records {
                        is_file |= inode.is_file();
                        if let Some((main, _)) = inode.history.main {
                            self.request(Request::Inode(main));
                        }
                    }
                    if !records.is_empty() {
                        self.records.insert(ino, records);
                    }
                }
                _ => {}
            }
            self.add(key, values);
        }
        for (dir, name) in names {
            self.request(Request::Inode(dir));
            if is_file {
                self.request_beside(dir, &name);
            }
            self.request(Request::Place((dir, name)));
        }
        Ok(())
    }

    fn add_place(&mut self, key: Key, values: Values) {
        let Key::Entry(dir, _, name) = &key else { return };
        self.request(Request::Inode(*dir));
        for (_, value) in &values {
            if let Value::Entry(ino, kind) = value {
                self.request(Request::Inode(*ino));
                if *kind == 0o100_000 {
                    self.request_beside(*dir, name);
                }
            }
        }
        self.add(key, values);
    }

    /// Asks for the files that belong to one database with the file of this name.
    fn request_beside(&self, dir: Ino, name: &[u8]) {
        if let Some(main) = main_name(name) {
            self.request_place(dir, main);
        } else {
            for suffix in SIDE_SUFFIXES {
                self.request_place(dir, &[name, suffix].concat());
            }
        }
    }
}
