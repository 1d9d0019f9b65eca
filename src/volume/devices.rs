//! What a device says of other devices: which it retires, which it owes an answer, and when its
//! changes were frozen.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use super::{DeviceHead, Owed, Volume};
use crate::format::clock::Tag;
use crate::format::commit::Retired;

impl Volume {
    /// Has the next head retire a device: nobody waits for it any more, and its changes are still
    /// joined. False if it is retired already.
    pub fn retire(&self, device: &DeviceHead) -> bool {
        let (last, tag) = (device.generation, Tag::of(&device.hash));
        let heir = self.state().device;
        let mut retiring = self.retiring.lock().unwrap_or_else(PoisonError::into_inner);
        let base = self.base();
        let mut known = base.inherited.retired.iter().chain(&*retiring);
        if known.any(|entry| entry.device == device.device) {
            return false;
        }
        retiring.push(Retired { device: device.device, last, tag, heir });
        true
    }

    /// Devices that the next head retires, and no head before.
    pub(super) fn retiring(&self) -> Vec<Retired> {
        let known = &self.base().inherited.retired;
        let mut retiring = self.retiring.lock().unwrap_or_else(PoisonError::into_inner).clone();
        retiring.retain(|entry| !known.contains(entry));
        retiring
    }

    /// Whether a head has something to say although nothing changed: it retires a device, asks
    /// the others for their answers, or keeps what it shows under a name.
    pub fn owes_head(&self) -> bool {
        self.asks.load(Ordering::Relaxed) || !self.retiring().is_empty() || self.keeping().is_some()
    }

    /// Has the next head ask the other devices to say soon what they hold.
    pub fn ask(&self) {
        self.asks.store(true, Ordering::Relaxed);
    }

    /// The answer that this device owes: other devices' changes are in what this volume is based on,
    /// and no head of this device has said that it holds them. None if it owes none.
    pub fn owed_answer(&self) -> Option<Owed> {
        let (own, base, heads, device) =
            (self.own(), self.base(), self.heads(), self.state().device);
        let is_owed = |head: &&DeviceHead| {
            let is_here = self.content_with(&base.inherited.merged).has_all_of(&head.content());
            let held = own.processed.held(&head.device);
            let is_said = held.is_some_and(|held| held >= head.commit.news);
            let is_owed = head.device != device && head.complete && is_here && !is_said;
            is_owed && self.has_objects_of(head)
        };
        let is_soon = |head: &DeviceHead| {
            let is_first = own.processed.get(&head.device).is_none();
            let retires = head.commit.retired.iter().any(|entry| !own.retired.contains(entry));
            is_first || head.commit.asks || retires
        };
        let owed = heads.newest.iter().filter(is_owed);
        let owed = owed.map(|head| Owed { is_soon: is_soon(head), oldest: head.commit.time });
        owed.reduce(|one, other| Owed {
            is_soon: one.is_soon || other.is_soon,
            oldest: one.oldest.min(other.oldest),
        })
    }

    /// Whether the objects that a device's changes need are here: its own, and those of each device
    /// whose changes it held when it made the head.
    pub(super) fn has_objects_of(&self, head: &DeviceHead) -> bool {
        let own = self.state().device;
        let others = head.commit.processed.all_held().filter(|(device, _)| *device != own);
        let mut all = others.chain([(head.device, head.generation)]);
        all.all(|(device, generation)| self.store.has_objects(&device, generation))
    }

    /// Notes that changes are frozen for the next head: what is acknowledged from here on is
    /// perhaps not in it. What it needs and is not here is looked for once more.
    pub fn begin_checkpoint(&self) {
        self.store.look_at_once();
        let now = self.world.clock.now();
        *self.frozen_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}
