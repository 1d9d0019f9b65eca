//! Every case of `docs/cli.md`, "Older states", and of `docs/recovery.md`, as plain data.

use super::plan::{
    Head, Here, Known, Less, Link, Purpose, Refusal, Unread, Verdict, Wanted, Why, breaks, less,
    plan,
};
use crate::crypto::{DeviceId, Hash};
use crate::format::clock::{Generations, Processed, Tag};
use crate::format::commit::Retired;
use crate::format::register::Features;
use crate::io::Timestamp;
use crate::store::StoreError;
use crate::volume::{Behind, Unusable};

const OWN: u8 = 1;
const LAPTOP: u8 = 2;
const PHONE: u8 = 3;
/// The device of an opening without local state, or of a repair.
const NEW: u8 = 9;

fn id(device: u8) -> DeviceId {
    [device; 16]
}

fn hash(device: u8, generation: u64) -> Hash {
    let mut hash = [device; 32];
    hash[..8].copy_from_slice(&generation.to_le_bytes());
    hash
}

/// A head that has news and knows of no other device, made at the time `generation`.
fn head(device: u8, generation: u64) -> Head {
    Head {
        device: id(device),
        name: format!("device {device}"),
        generation,
        hash: hash(device, generation),
        time: Timestamp { secs: generation.cast_signed(), nanos: 0 },
        news: generation,
        processed: Processed::default(),
        retired: Vec::new(),
        complete: true,
        is_contained: None,
    }
}

impl Head {
    fn knowing(mut self, device: u8, generation: u64) -> Self {
        self.processed.add(id(device), generation, Tag::default());
        self
    }

    fn news(self, news: u64) -> Self {
        Self { news, ..self }
    }

    fn at(self, secs: i64) -> Self {
        Self { time: Timestamp { secs, nanos: 0 }, ..self }
    }

    fn retiring(mut self, device: u8, last: u64) -> Self {
        let (tag, heir) = (Tag::default(), self.device);
        self.retired.push(Retired { device: id(device), last, tag, heir });
        self
    }
}

/// What is here: these heads.
fn here(heads: Vec<Head>) -> Here {
    let files = heads.iter().map(|head| head.hash).collect();
    Here { heads, files, ..Here::default() }
}

impl Here {
    fn with(mut self, device: u8, generation: u64, why: Why) -> Self {
        self.files.insert(hash(device, generation));
        self.unusable.push(Unread { device: id(device), generation, why });
        self
    }
}

/// What a device knows that published this generation, and saw these.
fn known(device: u8, generation: u64, seen: &[(u8, u64)]) -> Known {
    Known {
        device: id(device),
        generation,
        head: if generation > 0 { hash(device, generation) } else { [0; 32] },
        seen: generations(seen),
        ..Known::default()
    }
}

fn generations(all: &[(u8, u64)]) -> Generations {
    all.iter().map(|(device, generation)| (id(*device), *generation)).collect()
}

fn to(purpose: Purpose) -> Wanted {
    Wanted { purpose, ..Wanted::default() }
}

fn accepting(purpose: Purpose) -> Wanted {
    Wanted { accept_older: true, ..to(purpose) }
}

fn on(at: usize) -> Verdict {
    Verdict::StandOn(Some(at))
}

const EMPTY: Verdict = Verdict::StandOn(None);

/// A case: what it is, what is here, whose local state opens it, for what, and what comes
/// of it: the verdict, and devices that are behind, with the known and the present
/// generation.
type Case = (&'static str, Here, Known, Wanted, Verdict, &'static [(u8, u64, u64)]);

fn check(cases: Vec<Case>) {
    for (what, here, state, wanted, verdict, behind) in cases {
        // Who only reads has a new device's state, and local state beside it.
        let fresh = known(NEW, 0, &[]);
        let found = match wanted.purpose {
            Purpose::Read => plan(&here, &fresh, Some(&state), &wanted),
            Purpose::Write => plan(&here, &state, None, &wanted),
            Purpose::Repair(_) => plan(&here, &fresh, None, &wanted),
        };
        assert_eq!(found.verdict, verdict, "{what}");
        let found = found.behind.iter().map(|one| (one.device[0], one.known, one.here));
        assert_eq!(found.collect::<Vec<_>>(), behind, "{what}");
    }
}

fn refuse(why: Refusal) -> Verdict {
    Verdict::Refuse(why)
}

use Purpose::{Read, Write};

#[test]
fn heads_that_are_known_and_not_here() {
    let both = || here(vec![head(OWN, 3), head(LAPTOP, 5).knowing(OWN, 3)]);
    let seen: &[(u8, u64)] = &[(OWN, 3), (LAPTOP, 5)];
    let older = || here(vec![head(OWN, 3), head(LAPTOP, 4).knowing(OWN, 3)]);
    let laptop_only = || here(vec![head(LAPTOP, 5).knowing(OWN, 3)]);
    let own_older = || here(vec![head(OWN, 2), head(LAPTOP, 5).knowing(OWN, 3)]);
    let own = |generation| known(OWN, generation, seen);
    let told = |purpose| Wanted { told: generations(&[(PHONE, 7)]), ..to(purpose) };
    check(vec![
        ("all is here", both(), own(3), to(Write), on(1), &[]),
        ("all is here, to read", both(), own(3), to(Read), on(1), &[]),
        ("another's newer head", older(), own(3), to(Write), on(1), &[(LAPTOP, 5, 4)]),
        ("the same to read", older(), own(3), to(Read), on(1), &[(LAPTOP, 5, 4)]),
        ("the same, accepted", older(), own(3), accepting(Write), on(1), &[(LAPTOP, 5, 4)]),
        (
            "all heads of another",
            here(vec![head(OWN, 3)]),
            own(3),
            to(Write),
            on(0),
            &[(LAPTOP, 5, 0)],
        ),
        (
            "all own heads",
            laptop_only(),
            own(3),
            to(Write),
            refuse(Refusal::OwnGone),
            &[(OWN, 3, 0)],
        ),
        ("all own heads, to read", laptop_only(), own(3), to(Read), on(0), &[(OWN, 3, 0)]),
        (
            "the newest own head",
            own_older(),
            own(3),
            to(Write),
            refuse(Refusal::OwnOlder { here: 2 }),
            &[(OWN, 3, 2)],
        ),
        ("the same to read", own_older(), own(3), to(Read), on(1), &[(OWN, 3, 2)]),
        (
            "the same is never accepted for writing",
            own_older(),
            own(3),
            accepting(Write),
            refuse(Refusal::OwnOlder { here: 2 }),
            &[(OWN, 3, 2)],
        ),
        ("what only the vault knows", both(), own(3), told(Write), on(1), &[(PHONE, 7, 0)]),
        ("the same to read", both(), own(3), told(Read), on(1), &[(PHONE, 7, 0)]),
    ]);
    // The vault may know of a newer head than local state.
    let wanted = Wanted { told: generations(&[(LAPTOP, 9)]), ..to(Write) };
    let found = plan(&older(), &own(3), None, &wanted);
    let [one] = &found.behind[..] else { panic!("{:?}", found.behind) };
    assert_eq!((one.known, one.here, one.own), (9, 4, false));
    assert_eq!(one.name.as_deref(), Some("device 2"));
    assert_eq!(one.time.map(|time| time.secs), Some(4));
    let beside = plan(&own_older(), &known(NEW, 0, &[]), Some(&own(3)), &to(Read));
    assert!(beside.behind[0].own, "the state beside is this machine's");
}

#[test]
fn newer_heads_that_are_here_and_cannot_be_used() {
    let seen: &[(u8, u64)] = &[(OWN, 3), (LAPTOP, 5)];
    let own = || known(OWN, 3, seen);
    let with = |why| here(vec![head(OWN, 3), head(LAPTOP, 4).knowing(OWN, 3)]).with(LAPTOP, 5, why);
    let own_bad = |why| here(vec![head(OWN, 2)]).with(OWN, 3, why);
    let none = |why| here(vec![]).with(LAPTOP, 1, why);
    check(vec![
        ("damaged", with(Why::Bad), own(), to(Write), refuse(Refusal::Unusable(0)), &[]),
        ("damaged, to read", with(Why::Bad), own(), to(Read), on(1), &[]),
        (
            "damaged, accepted",
            with(Why::Bad),
            own(),
            accepting(Write),
            refuse(Refusal::Unusable(0)),
            &[],
        ),
        (
            "here in part: its older head counts until then",
            with(Why::Arriving),
            own(),
            to(Write),
            on(1),
            &[],
        ),
        ("here in part, to read", with(Why::Arriving), own(), to(Read), on(1), &[]),
        (
            "one in part and one damaged: damage is told",
            with(Why::Arriving).with(PHONE, 1, Why::Bad),
            own(),
            to(Write),
            refuse(Refusal::Unusable(1)),
            &[],
        ),
        (
            "several in part",
            with(Why::Arriving).with(PHONE, 1, Why::Arriving),
            own(),
            to(Write),
            on(1),
            &[],
        ),
        (
            "of a newer version",
            with(Why::Bad).with(PHONE, 1, Why::Newer),
            own(),
            to(Read),
            refuse(Refusal::NewerHead(1)),
            &[],
        ),
        ("the own one, to read", own_bad(Why::Bad), known(OWN, 3, &[]), to(Read), on(0), &[]),
        (
            "the own one",
            own_bad(Why::Arriving),
            known(OWN, 3, &[]),
            to(Write),
            refuse(Refusal::Arriving(vec![0])),
            &[],
        ),
        (
            "the only one",
            none(Why::Arriving),
            known(OWN, 0, &[]),
            to(Write),
            refuse(Refusal::Arriving(vec![0])),
            &[],
        ),
        (
            "the only one, to read",
            none(Why::Arriving),
            known(OWN, 0, &[]),
            to(Read),
            refuse(Refusal::Arriving(vec![0])),
            &[],
        ),
    ]);
    let read = plan(&with(Why::Bad), &own(), None, &to(Read));
    assert_eq!((read.unusable, read.given_up), (vec![0], vec![]));
}

/// Content that is not here, or that its device withheld, keeps nobody from the rest.
#[test]
fn a_head_whose_objects_are_not_all_here_counts() {
    let partly = Head { complete: false, ..head(LAPTOP, 5).knowing(OWN, 3) };
    let all = here(vec![head(OWN, 3), partly]);
    check(vec![
        ("to write", all.clone(), known(OWN, 3, &[]), to(Write), on(1), &[]),
        ("to read", all, known(OWN, 3, &[]), to(Read), on(1), &[]),
    ]);
}

#[test]
fn no_head_at_all() {
    let nothing = || here(vec![]);
    let fresh = || known(OWN, 0, &[]);
    let seen = || known(OWN, 0, &[(LAPTOP, 5)]);
    let hides = || Here { hides: true, ..nothing() };
    check(vec![
        ("a new repository", nothing(), fresh(), to(Write), EMPTY, &[]),
        ("a new repository, to read", nothing(), fresh(), to(Read), EMPTY, &[]),
        (
            "heads were here before",
            nothing(),
            seen(),
            to(Write),
            refuse(Refusal::AllGone),
            &[(LAPTOP, 5, 0)],
        ),
        ("the same, accepted", nothing(), seen(), accepting(Write), EMPTY, &[(LAPTOP, 5, 0)]),
        ("the same, to read", nothing(), seen(), to(Read), EMPTY, &[(LAPTOP, 5, 0)]),
        (
            "own heads were",
            nothing(),
            known(OWN, 3, &[(OWN, 3)]),
            to(Write),
            refuse(Refusal::OwnGone),
            &[(OWN, 3, 0)],
        ),
        ("something may hide them", hides(), fresh(), to(Read), refuse(Refusal::Hidden), &[]),
        (
            "a repair has nothing to start from",
            nothing().with(LAPTOP, 5, Why::Bad),
            fresh(),
            to(Purpose::Repair(Generations::default())),
            refuse(Refusal::NoneUsable),
            &[],
        ),
    ]);
}

#[test]
fn devices_that_follow_one_another() {
    let own = |seen| known(OWN, 3, seen);
    let laptop = || head(LAPTOP, 5).knowing(OWN, 3);
    let phone = || head(PHONE, 1).knowing(OWN, 3).knowing(LAPTOP, 5);
    check(vec![
        ("alone", here(vec![head(OWN, 3)]), own(&[]), to(Write), on(0), &[]),
        ("a second one", here(vec![head(OWN, 3), laptop()]), own(&[]), to(Write), on(1), &[]),
        (
            "a third one",
            here(vec![head(OWN, 3), laptop(), phone()]),
            own(&[]),
            to(Write),
            on(2),
            &[],
        ),
        (
            "a later head without news waits for no answer",
            here(vec![head(OWN, 3).news(2), head(LAPTOP, 5).knowing(OWN, 2)]),
            own(&[]),
            to(Write),
            on(1),
            &[],
        ),
        (
            "each knows the other's changes: the later one",
            here(vec![
                head(OWN, 3).news(2).knowing(LAPTOP, 5).at(90),
                head(LAPTOP, 6).news(5).knowing(OWN, 2).at(80),
            ]),
            own(&[]),
            to(Write),
            on(0),
            &[],
        ),
        (
            "both at one time: the higher generation",
            here(vec![
                head(OWN, 3).news(2).knowing(LAPTOP, 5).at(80),
                head(LAPTOP, 6).news(5).knowing(OWN, 2).at(80),
            ]),
            own(&[]),
            to(Write),
            on(1),
            &[],
        ),
    ]);
}

#[test]
fn devices_that_wrote_without_knowing_each_other() {
    let join = |tips: &[usize]| Verdict::Join(tips.to_vec());
    let fork = || here(vec![head(OWN, 4), head(LAPTOP, 5).knowing(OWN, 3)]);
    let third = || here(vec![head(OWN, 4), head(LAPTOP, 5).knowing(OWN, 3), head(PHONE, 1)]);
    let merged = || {
        let heads = vec![head(OWN, 4), head(LAPTOP, 5).knowing(OWN, 3)];
        let phone = head(PHONE, 1).knowing(OWN, 4).knowing(LAPTOP, 5);
        here([heads, vec![phone]].concat())
    };
    // The laptop's head has no news, and brings what the phone has not seen of this device.
    let answered = || {
        let laptop = head(LAPTOP, 3).news(2).knowing(OWN, 4).knowing(PHONE, 1);
        let phone = head(PHONE, 2).knowing(OWN, 3).knowing(LAPTOP, 2);
        here(vec![head(OWN, 4).knowing(LAPTOP, 2), laptop, phone])
    };
    let own = || known(OWN, 4, &[]);
    let only = |wanted: &str| Wanted { only_device: Some(wanted.into()), ..to(Read) };
    let no = |wanted: &str| refuse(Refusal::NoDevice(wanted.into()));
    check(vec![
        ("two", fork(), own(), to(Write), join(&[0, 1]), &[]),
        ("two, to read", fork(), own(), to(Read), join(&[0, 1]), &[]),
        ("two, accepted", fork(), own(), accepting(Read), join(&[0, 1]), &[]),
        ("a new device sees them", fork(), known(NEW, 0, &[]), to(Write), join(&[0, 1]), &[]),
        ("three", third(), own(), to(Write), join(&[0, 1, 2]), &[]),
        ("one that knows both joined them", merged(), own(), to(Write), on(2), &[]),
        ("one brings what the other lacks", answered(), own(), to(Write), join(&[1, 2]), &[]),
        ("one alone, by its name", fork(), own(), only("device 2"), on(1), &[]),
        ("one alone, by its id", fork(), own(), only("0202"), on(1), &[]),
        ("three digits are too few", fork(), own(), only("020"), no("020"), &[]),
        ("nobody", fork(), own(), only("nobody"), no("nobody"), &[]),
    ]);
    // Changes in the journal go to the heads on which they were made.
    let made_on = |heads: &[(u8, u64)]| Known {
        journal: Some(heads.iter().map(|(device, at)| hash(*device, *at)).collect()),
        ..own()
    };
    let replay = || Verdict::Replay;
    check(vec![
        ("made before", fork(), made_on(&[(OWN, 4)]), to(Write), replay(), &[]),
        ("made on both", fork(), made_on(&[(OWN, 4), (LAPTOP, 5)]), to(Write), join(&[0, 1]), &[]),
        (
            "made on an older join",
            third(),
            made_on(&[(OWN, 4), (LAPTOP, 5)]),
            to(Write),
            replay(),
            &[],
        ),
        (
            "who reads looks at no journal",
            fork(),
            made_on(&[(OWN, 4)]),
            to(Read),
            join(&[0, 1]),
            &[],
        ),
        ("one knows both now", merged(), made_on(&[(OWN, 4)]), to(Write), replay(), &[]),
    ]);
    let mut same_name = fork();
    same_name.heads[0].name = "device 2".into();
    let several = refuse(Refusal::SeveralDevices("device 2".into(), vec![0, 1]));
    check(vec![("two of one name", same_name, own(), only("device 2"), several, &[])]);
}

#[test]
fn local_state_that_was_copied_or_put_back() {
    let twin = |generation| Head { hash: [7; 32], ..head(OWN, generation) };
    let join = |tips: &[usize]| Verdict::Join(tips.to_vec());
    let own = |generation| known(OWN, generation, &[]);
    let state_older = refuse(Refusal::StateOlder { here: 4 });
    let covering = || here(vec![head(OWN, 4), twin(4), head(LAPTOP, 5).knowing(OWN, 4)]);
    let laptop_of = |generation, tag| {
        let mut head = head(LAPTOP, 5);
        head.processed.add(id(OWN), generation, tag);
        head
    };
    let mut twin_gone = here(vec![twin(4)]);
    check(vec![
        ("an older state", here(vec![head(OWN, 4)]), own(3), to(Write), state_older, &[]),
        ("the same, to read", here(vec![head(OWN, 4)]), own(3), to(Read), on(0), &[]),
        (
            "both copies wrote",
            here(vec![head(OWN, 4), twin(4)]),
            own(4),
            to(Write),
            refuse(Refusal::Copied),
            &[],
        ),
        (
            "both copies wrote, to read",
            here(vec![head(OWN, 4), twin(4)]),
            own(4),
            to(Read),
            join(&[0, 1]),
            &[],
        ),
        (
            "the same, seen by another device",
            here(vec![head(OWN, 4), twin(4)]),
            known(LAPTOP, 0, &[]),
            to(Write),
            join(&[0, 1]),
            &[],
        ),
        (
            "whoever knew one of two does not know the other",
            covering(),
            known(LAPTOP, 5, &[]),
            to(Write),
            join(&[2, 1]),
            &[],
        ),
        (
            "what other heads have of one of two is not joined again",
            here(vec![
                Head { is_contained: Some(true), ..head(OWN, 4) },
                Head { is_contained: Some(false), ..twin(3) },
                head(LAPTOP, 5).knowing(OWN, 4),
            ]),
            known(LAPTOP, 5, &[]),
            to(Write),
            join(&[2, 1]),
            &[],
        ),
        (
            "the other copy's head is older, and not in this one",
            here(vec![head(OWN, 4), Head { is_contained: Some(false), ..twin(3) }]),
            own(4),
            to(Write),
            refuse(Refusal::Copied),
            &[],
        ),
        (
            "an own older head that the newest has",
            here(vec![head(OWN, 4), Head { is_contained: Some(true), ..twin(3) }]),
            own(4),
            to(Write),
            on(0),
            &[],
        ),
        (
            "another device processed the copy's head, which is not here",
            here(vec![head(OWN, 4), laptop_of(4, Tag([7; 8]))]),
            own(4),
            to(Write),
            refuse(Refusal::Copied),
            &[],
        ),
        (
            "another device processed the own head",
            here(vec![head(OWN, 4), laptop_of(4, Tag::of(&hash(OWN, 4)))]),
            own(4),
            to(Write),
            on(1),
            &[],
        ),
        (
            "another device processed a later one",
            here(vec![head(OWN, 4), laptop_of(5, Tag([7; 8]))]),
            own(4),
            to(Write),
            refuse(Refusal::StateOlder { here: 5 }),
            &[],
        ),
        (
            "only the other copy's head is here",
            twin_gone.clone(),
            own(4),
            to(Write),
            refuse(Refusal::Copied),
            &[],
        ),
    ]);
    // The own one is here and cannot be used: that is said, and not that it was copied.
    twin_gone.files.insert(hash(OWN, 4));
    check(vec![("the own one is here too", twin_gone, own(4), to(Write), on(0), &[])]);
}

/// A crash came between a head and its record in local state.
#[test]
fn an_own_head_that_was_entering_is_recorded() {
    let all = here(vec![head(OWN, 4)]);
    let entering = [hash(OWN, 4)].into();
    let state = Known { entering, ..known(OWN, 3, &[(OWN, 3)]) };
    let found = plan(&all, &state, None, &to(Write));
    assert_eq!((found.verdict, found.finishes), (on(0), Some(0)));
    assert_eq!(found.seen, generations(&[(OWN, 4)]));
    // Also where nothing can be written on it yet.
    let fork = here(vec![head(OWN, 4), head(LAPTOP, 5)]);
    let found = plan(&fork, &state, None, &to(Write));
    assert_eq!((found.verdict, found.finishes), (Verdict::Join(vec![0, 1]), Some(0)));
    // Another head that was entering says nothing of this one.
    let state = Known { entering: [hash(OWN, 5)].into(), ..state };
    let found = plan(&all, &state, None, &to(Write));
    assert_eq!(found.verdict, refuse(Refusal::StateOlder { here: 4 }));
    assert_eq!(found.finishes, None);
}

#[test]
fn devices_that_a_repair_went_on_without() {
    let repaired = |last| head(PHONE, 1).knowing(OWN, 3).knowing(LAPTOP, 4).retiring(LAPTOP, last);
    let all = |last| here(vec![head(OWN, 3), head(LAPTOP, 4), repaired(last)]);
    let own = || known(OWN, 3, &[(LAPTOP, 5)]);
    let mut twice = all(4);
    twice.heads[0].retired = head(OWN, 3).retiring(LAPTOP, 2).retired;
    check(vec![
        ("its missing head is not missed", all(4), own(), to(Write), on(2), &[]),
        (
            "its damaged head is not waited for",
            all(4).with(LAPTOP, 5, Why::Bad),
            own(),
            to(Write),
            on(2),
            &[],
        ),
        (
            "a head up to its last that is damaged is",
            here(vec![head(OWN, 3), repaired(4)]).with(LAPTOP, 4, Why::Bad),
            own(),
            to(Write),
            refuse(Refusal::Unusable(0)),
            &[],
        ),
        (
            "and is missed",
            here(vec![head(OWN, 3), repaired(4)]),
            own(),
            to(Write),
            on(1),
            &[(LAPTOP, 5, 0)],
        ),
        (
            "of two entries that with the lowest heir counts",
            here(vec![head(OWN, 3).retiring(LAPTOP, 4), repaired(2)]).with(LAPTOP, 4, Why::Bad),
            own(),
            to(Write),
            refuse(Refusal::Unusable(0)),
            &[],
        ),
        (
            "the same where its generation is the lower one",
            twice.with(LAPTOP, 3, Why::Bad),
            own(),
            to(Write),
            on(2),
            &[],
        ),
        (
            "the device itself",
            all(4),
            known(LAPTOP, 5, &[]),
            to(Write),
            refuse(Refusal::Retired(id(PHONE))),
            &[],
        ),
        ("the device itself, to read", all(4), known(LAPTOP, 5, &[]), to(Read), on(2), &[]),
        (
            "what was given up came back",
            here(vec![head(OWN, 3), head(LAPTOP, 5).knowing(OWN, 3), repaired(4)]),
            own(),
            to(Write),
            Verdict::Join(vec![1, 2]),
            &[],
        ),
    ]);
    let found = plan(&all(4).with(LAPTOP, 5, Why::Bad), &own(), None, &to(Write));
    assert_eq!((found.given_up, found.unusable), (vec![0], vec![]));
}

#[test]
fn a_repair_goes_on_without_what_cannot_be_had() {
    let seen = [(OWN, 3), (LAPTOP, 5)];
    let wanted = to(Purpose::Repair(generations(&seen)));
    let own = known(NEW, 0, &[]);
    let retired = |device, last, tag| Retired { device: id(device), last, tag, heir: id(NEW) };
    let tag = |device, generation| Tag::of(&hash(device, generation));
    for (what, here, verdict, without) in [
        (
            "a head that was seen is gone",
            here(vec![head(OWN, 3), head(LAPTOP, 4).knowing(OWN, 3)]),
            on(1),
            vec![retired(LAPTOP, 4, tag(LAPTOP, 4))],
        ),
        (
            "all heads of a device are",
            here(vec![head(OWN, 3)]),
            on(0),
            vec![retired(LAPTOP, 0, Tag::default())],
        ),
        (
            "a head is damaged",
            here(vec![head(OWN, 3), head(LAPTOP, 5).knowing(OWN, 3)]).with(PHONE, 1, Why::Bad),
            on(1),
            vec![retired(PHONE, 0, Tag::default())],
        ),
        (
            "own and others'",
            here(vec![head(OWN, 2), head(LAPTOP, 4).knowing(OWN, 3)]).with(OWN, 3, Why::Bad),
            on(1),
            vec![retired(OWN, 2, tag(OWN, 2)), retired(LAPTOP, 4, tag(LAPTOP, 4))],
        ),
        ("all is here", here(vec![head(OWN, 3), head(LAPTOP, 5).knowing(OWN, 3)]), on(1), vec![]),
        (
            "two devices wrote: that is no damage",
            here(vec![head(OWN, 3), head(LAPTOP, 5)]),
            Verdict::Join(vec![0, 1]),
            vec![],
        ),
    ] {
        let found = plan(&here, &own, None, &wanted);
        assert_eq!((found.verdict, found.without), (verdict, without), "{what}");
    }
    let found = plan(&here(vec![head(OWN, 3)]), &own, None, &to(Write));
    assert_eq!(found.without, [], "who only writes retires nobody");
    let renewed = Known { retires: vec![id(OWN), id(PHONE)], ..own };
    let found = plan(&here(vec![head(OWN, 3)]), &renewed, None, &to(Write));
    let what = "a renewed device retires the id under which it wrote";
    assert_eq!(found.without, [retired(OWN, 3, tag(OWN, 3))], "{what}");
}

#[test]
fn folders_and_features_that_keep_it_closed() {
    let with = |closed: &[u8], heads| Here {
        closed: closed.iter().map(|device| id(*device)).collect(),
        ..here(heads)
    };
    let features = |incompatible, read_only_compatible| {
        let features = Features { read_only_compatible, incompatible, ..Features::default() };
        Here { features, ..here(vec![head(OWN, 3)]) }
    };
    let own = |seen| known(OWN, 3, seen);
    let closed = |at| refuse(Refusal::Closed(at));
    let forbids = |readable| refuse(Refusal::Features { readable });
    let unknown = 1 << 31;
    let named = head(OWN, 3).knowing(LAPTOP, 1);
    let repair = to(Purpose::Repair(Generations::default()));
    check(vec![
        ("nobody knows it", with(&[9], vec![head(OWN, 3)]), own(&[]), to(Write), on(0), &[]),
        (
            "local state saw it",
            with(&[9, LAPTOP], vec![head(OWN, 3)]),
            own(&[(LAPTOP, 1)]),
            to(Write),
            closed(1),
            &[(LAPTOP, 1, 0)],
        ),
        (
            "the same, to read",
            with(&[LAPTOP], vec![head(OWN, 3)]),
            own(&[(LAPTOP, 1)]),
            to(Read),
            closed(0),
            &[(LAPTOP, 1, 0)],
        ),
        ("a head names it", with(&[LAPTOP], vec![named]), own(&[]), to(Write), closed(0), &[]),
        ("it is the only one", with(&[9], vec![]), known(OWN, 0, &[]), to(Read), closed(0), &[]),
        ("reading", features(unknown, 0), own(&[]), to(Read), forbids(false), &[]),
        ("writing", features(0, unknown), own(&[]), to(Write), forbids(true), &[]),
        ("writing, to repair", features(0, unknown), own(&[]), repair, forbids(true), &[]),
        ("writing, to read", features(0, unknown), own(&[]), to(Read), on(0), &[]),
    ]);
}

#[test]
fn what_was_seen_is_remembered_until_less_is_accepted() {
    let all = here(vec![head(OWN, 3), head(LAPTOP, 4).knowing(OWN, 3)]);
    let state = known(OWN, 3, &[(OWN, 2), (LAPTOP, 5), (PHONE, 7)]);
    let seen = |wanted| plan(&all, &state, None, &wanted).seen;
    assert_eq!(seen(to(Write)), generations(&[(OWN, 3), (LAPTOP, 5), (PHONE, 7)]));
    assert_eq!(seen(accepting(Write)), generations(&[(OWN, 3), (LAPTOP, 4)]));
}

#[test]
fn a_head_follows_the_one_before_it() {
    let link = |generation, previous| Link { generation, hash: hash(OWN, generation), previous };
    let follows = |generation| link(generation, hash(OWN, generation - 1));
    let first = link(1, [0; 32]);
    let twin = Link { hash: [7; 32], ..follows(3) };
    for (what, chain, broken) in [
        ("a chain", vec![follows(3), follows(2), first], vec![]),
        ("one is not here", vec![follows(4), follows(2), first], vec![]),
        ("the first is not here", vec![follows(2)], vec![]),
        ("another one was before it", vec![follows(3), link(2, [9; 32]), first], vec![2]),
        ("there was one before the first", vec![link(1, [9; 32])], vec![1]),
        ("one of two", vec![link(4, [7; 32]), follows(3), twin, follows(2), first], vec![]),
        ("none of two", vec![link(4, [9; 32]), follows(3), twin, follows(2), first], vec![4]),
    ] {
        let found: Vec<u64> = breaks(&chain).map(|link| link.generation).collect();
        assert_eq!(found, broken, "{what}");
    }
}

/// Which commands that read go on.
#[test]
fn what_keeps_a_command_from_passing_off_less() {
    let unusable = |own, error| Unusable { path: "head".into(), own, error };
    let missing = || StoreError::Missing { what: "head".into() };
    let behind =
        |device, own| Behind { device: id(device), name: None, own, known: 5, here: 4, time: None };
    assert!(less(&[], &[]).is_none());
    assert!(less(&[unusable(false, missing())], &[]).is_none(), "the exit code says it");
    let own = [unusable(false, missing()), unusable(true, missing())];
    assert!(matches!(less(&own, &[]), Some(Less::Unusable(head)) if head.own));
    let damaged = [unusable(false, StoreError::damaged("head", "torn"))];
    let all = [behind(LAPTOP, false), behind(OWN, true)];
    assert!(matches!(less(&damaged, &all), Some(Less::Unusable(_))), "what is here comes first");
    assert!(matches!(less(&[], &all), Some(Less::Behind(one)) if one.own));
    assert!(matches!(less(&[], &all[..1]), Some(Less::Behind(one)) if !one.own));
}
