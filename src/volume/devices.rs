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
        let known = self.base().inherited.retired.clone();
        if known.iter().chain(&*retiring).any(|entry| entry.device == device.device) {
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

    /// Whether a head has something to say although nothing changed: it retires a device, or asks
    /// the others for their answers.
    pub fn owes_head(&self) -> bool {
        self.asks.load(Ordering::Relaxed) || !self.retiring().is_empty()
    }

    /// Has the next head ask the other devices to say soon what they hold.
    pub fn ask(&self) {
        self.asks.store(true, Ordering::Relaxed);
    }

    /// Whether other devices' changes are in what this volume is based on, and no head of this
    /// device has said that it holds them.
    pub fn owed_answer(&self) -> Option<Owed> {
        let (own, base) = (self.own(), self.base());
        let mut owed = None;
        for head in self.heads().newest.iter().filter(|head| head.device != self.state().device) {
            let is_here = base.inherited.merged.generation(&head.device) >= head.commit.news;
            let held = own.processed.held(&head.device);
            if !is_here || !head.complete || held.is_some_and(|held| held >= head.commit.news) {
                continue;
            }
            let is_first = own.processed.get(&head.device).is_none();
            let retires = head.commit.retired.iter().any(|entry| !own.retired.contains(entry));
            let is_soon = is_first || head.commit.asks || retires;
            let time = head.commit.time;
            let (soon, oldest) =
                owed.map_or((false, time), |Owed { is_soon, oldest }| (is_soon, oldest));
            owed = Some(Owed { is_soon: soon || is_soon, oldest: oldest.min(time) });
        }
        owed
    }

    /// Notes that changes are frozen for the next head: what is acknowledged from here on is
    /// perhaps not in it.
    pub fn begin_checkpoint(&self) {
        let now = self.world.clock.now();
        *self.frozen_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }
}
