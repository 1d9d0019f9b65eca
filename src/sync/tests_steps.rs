//! What happens in a world of several devices (`tests_worlds`), and how often.

use proptest::prelude::*;

use crate::io::sim::Fault;
use crate::merge::tests_histories::{Act, FILES, acts};

/// Devices of a world.
pub(super) const DEVICES: usize = 3;

/// What the machine does when it loses power.
#[derive(Clone, Copy, Debug)]
pub(super) enum During {
    Fsync,
    Publish,
    Follow,
    Mount,
    Sweep,
}

/// A step of a world.
#[derive(Clone, Debug)]
pub(super) enum Step {
    /// A device does these things, with texts that are long or short: long ones are stored apart
    /// from the names.
    Act(usize, Vec<Act>, bool),
    /// What a device did becomes durable there.
    Fsync(usize),
    /// A device publishes.
    Publish(usize),
    /// A device publishes, or says what it holds if it owes that, as at an unmount.
    Answer(usize),
    /// The client of the first brings what the second has, as this seed says.
    Carry(usize, usize, u64),
    /// The client takes away some of what other devices wrote.
    Hide(usize, u64),
    /// All that was taken away there comes back.
    Show(usize),
    /// A device gives back what is not needed: once, or on each of eight days.
    Sweep(usize, bool),
    /// The client of the first takes files away that the second has removed.
    Remove(usize, u64),
    /// All that was written is brought everywhere, and each device says that it holds it.
    Exchange,
    /// A device mounts again; its process is killed before, if told so.
    Mount(usize, bool),
    /// A device goes on from what has come, while it is mounted.
    Follow(usize),
    /// A program opens the file of this number.
    Open(usize, usize),
    /// A program writes to the file that it has open.
    WriteOpen(usize),
    /// A program closes its file.
    Close(usize),
    /// A machine loses power after so many changes of its disk. The client of the next machine may
    /// have taken files over before that.
    Crash(usize, During, u64, u8, bool),
    /// A change of a disk fails, after so many.
    Fault(usize, During, u64, Fault),
    /// The clock of a machine is so many seconds ahead.
    Clock(usize, i64),
    /// A machine is suspended for a while.
    Sleep(usize),
}

/// How often each kind of step is taken: what is done while nothing ends, what ends a mount, and what
/// goes wrong.
pub(super) struct Often {
    follow: u32,
    open: u32,
    mount: u32,
    trouble: u32,
    sweep: u32,
}

pub(super) const EVERYTHING: Often = Often { follow: 3, open: 2, mount: 3, trouble: 2, sweep: 1 };
/// Mounts that stay, and follow.
pub(super) const FOLLOWING: Often = Often { follow: 10, open: 4, mount: 1, trouble: 1, sweep: 1 };
/// Devices that give back what they do not need.
pub(super) const SWEEPING: Often = Often { follow: 6, open: 1, mount: 2, trouble: 1, sweep: 6 };

pub(super) fn step(often: &Often) -> impl Strategy<Value = Step> + use<> {
    let Often { follow, open, mount, trouble, sweep } = *often;
    let device = || 0..DEVICES;
    let during = || {
        prop_oneof![
            Just(During::Fsync),
            Just(During::Publish),
            Just(During::Publish),
            Just(During::Follow),
            Just(During::Mount),
            Just(During::Sweep),
        ]
    };
    prop_oneof![
        6 => (device(), acts(4), any::<bool>())
            .prop_map(|(device, acts, long)| Step::Act(device, acts, long)),
        1 => device().prop_map(Step::Fsync),
        3 => device().prop_map(Step::Publish),
        2 => device().prop_map(Step::Answer),
        6 => (device(), device(), any::<u64>()).prop_map(|(to, from, s)| Step::Carry(to, from, s)),
        1 => (device(), any::<u64>()).prop_map(|(at, seed)| Step::Hide(at, seed)),
        1 => device().prop_map(Step::Show),
        sweep => (device(), any::<bool>()).prop_map(|(at, all)| Step::Sweep(at, all)),
        sweep => (device(), any::<u64>()).prop_map(|(at, seed)| Step::Remove(at, seed)),
        sweep => Just(Step::Exchange),
        mount => (device(), any::<bool>()).prop_map(|(device, kill)| Step::Mount(device, kill)),
        follow => device().prop_map(Step::Follow),
        open => (device(), 0..FILES.len()).prop_map(|(device, file)| Step::Open(device, file)),
        open => device().prop_map(Step::WriteOpen),
        1 => device().prop_map(Step::Close),
        trouble => (device(), during(), 0..40u64, any::<u8>(), any::<bool>())
            .prop_map(|(at, what, after, how, taken)| Step::Crash(at, what, after, how, taken)),
        trouble => (device(), during(), 0..40u64, prop_oneof![Just(Fault::Io), Just(Fault::NoSpace)])
            .prop_map(|(at, what, after, fault)| Step::Fault(at, what, after, fault)),
        1 => (device(), -200_000..200_000i64).prop_map(|(at, ahead)| Step::Clock(at, ahead)),
        1 => device().prop_map(Step::Sleep),
    ]
}
