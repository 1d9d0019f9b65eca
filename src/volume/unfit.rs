//! Local state that this mount must not go on with, and what would be lost with
//! it.

use super::repository::HeadFile;
use super::state::State;
use super::{VolumeError, World};
use crate::crypto::DeviceId;
use crate::journal::{Journal, JournalKeys};
use crate::store::Context;

/// The keys of the journal of local state that was made for this device
/// ([`State::journal_of`]).
pub(crate) fn journal_keys(context: &Context, device: DeviceId) -> JournalKeys {
    let epochs = &context.keyring.epochs;
    JournalKeys {
        repo: context.repo,
        device,
        epoch: context.keyring.newest().id,
        epochs: epochs.iter().map(|epoch| (epoch.id, epoch.key.duplicate())).collect(),
    }
}

/// Why local state is not gone on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// It is bound to another machine, or to another folder.
    Elsewhere,
    /// What REPO has of its device is of another history.
    Overtaken,
}

/// What only local state holds, as far as anybody can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Changes in the journal that are in no head, and their bytes; or why the
    /// journal could not be read.
    changes: Result<(usize, u64), String>,
    /// The generation of its newest head, if that head is not in REPO here.
    head_gone: Option<u64>,
}

impl Held {
    /// Reads the journal; nothing is changed.
    fn of(world: &World, context: &Context, state: &State, own: &[HeadFile]) -> Self {
        let keys = journal_keys(context, state.journal_of);
        let folder = world.state.as_ref().expect("only with local state it can be unfit");
        let changes = Journal::read(&**folder, &keys, state.journal)
            .map(|replay| {
                let bytes = replay.records.iter().map(|(_, record)| record.len() as u64).sum();
                (replay.records.len(), bytes)
            })
            .map_err(|error| error.to_string());
        let here = state.generation == 0 || own.iter().any(|head| head.hash == state.head);
        Self { changes, head_gone: (!here).then_some(state.generation) }
    }

    /// Whether the journal could be read.
    pub fn is_readable(&self) -> bool {
        self.changes.is_ok()
    }
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.changes {
            Ok((0, _)) => f.write_str("its journal holds no change that is in no head")?,
            Ok((count, bytes)) => write!(
                f,
                "its journal holds {count} changes ({bytes} bytes) that are not in the repository"
            )?,
            Err(error) => write!(f, "what its journal holds could not be read: {error}")?,
        }
        match self.head_gone {
            Some(generation) => {
                write!(f, "; its newest head, generation {generation}, is not here")
            }
            None => Ok(()),
        }
    }
}

/// The error for such a state, with what it holds.
pub(crate) fn unfit(
    (why, what): (Unfit, String),
    world: &World,
    context: &Context,
    state: &State,
    own: &[HeadFile],
) -> VolumeError {
    VolumeError::Unfit { why, what, held: Held::of(world, context, state, own) }
}
