//! Folders of several sites.

use super::*;
use crate::crypto::Secret;
use crate::io::PrivateFolder;
use crate::io::sim::SimWorld;
use crate::vault::config::{CONFIG, Config};
use crate::vault::ledger::{EmbeddedLedger, Head, MARK, reset_mark};

fn founded() -> (SimWorld, Secret) {
    let world = SimWorld::new();
    create_site(&*world.folder("one"), &SystemRandom, Argon2Cost::FLOOR).ok().unwrap();
    let mut seed = world.get("one/root.key").unwrap().try_into().unwrap();
    (world, Secret::take(&mut seed))
}

fn join(world: &SimWorld, root: &Secret, to: &str, name: &str) -> Result<(), FolderError> {
    let roots = [root.duplicate()];
    join_site(&*world.folder("one"), &*world.folder(to), &SystemRandom, &roots, name).map(drop)
}

fn manifest(world: &SimWorld, site: &str) -> Manifest {
    Manifest::own(&world.get(&format!("{site}/manifest")).unwrap()).unwrap()
}

fn keys(world: &SimWorld, site: &str) -> FileKeys {
    FileKeys::decode(&world.get(&format!("{site}/keys")).unwrap()).ok().unwrap()
}

#[test]
fn a_site_that_joins_has_all_keys_but_the_one_of_tls() {
    let (world, root) = founded();
    join(&world, &root, "two", "second").unwrap();
    join(&world, &root, "three", "third").unwrap();
    let (one, two) = (keys(&world, "one"), keys(&world, "two"));
    assert_eq!(one.ake_public(1), two.ake_public(1));
    assert_eq!(one.lookup_mac(b"x"), two.lookup_mac(b"x"));
    assert!(one.seal_mac(1, b"x").unwrap().expose() == two.seal_mac(1, b"x").unwrap().expose());
    let material = |keys: &FileKeys| *keys.oprf_material(1, &[1; 32]).unwrap().expose();
    assert_eq!(material(&one), material(&two));
    assert!(one.tls().public_key() != two.tls().public_key());
    let newest = manifest(&world, "one");
    assert_eq!((newest.epoch, newest.quorum, newest.sites.len()), (3, 2, 3));
    assert_eq!(manifest(&world, "two").epoch, 2);
    assert!(world.get("two/root.key").is_none(), "the root stays where it is");
    let signed = world.get("one/manifest").unwrap();
    assert_eq!(install_manifest(&*world.folder("two"), &signed, false).unwrap(), 3);
    assert_eq!(install_manifest(&*world.folder("two"), &signed, false).unwrap(), 3, "again");
    assert_eq!(manifest(&world, "two"), newest);
}

#[test]
fn what_is_no_next_manifest_is_refused() {
    let (world, root) = founded();
    let before = world.get("one/manifest").unwrap();
    join(&world, &root, "two", "second").unwrap();
    assert!(matches!(join(&world, &root, "two", "x"), Err(FolderError::NotEmpty)));
    assert!(matches!(join(&world, &root, "three", "second"), Err(FolderError::NotNext(_))));
    let strange = Secret::random(&SystemRandom);
    assert!(matches!(join(&world, &strange, "three", "third"), Err(FolderError::Manifest(_))));
    assert_eq!(manifest(&world, "one").epoch, 2, "nothing was half done");
    // An older one, another fleet's, and one without this site.
    for site in ["one", "two"] {
        let older = install_manifest(&*world.folder(site), &before, false);
        assert!(matches!(older, Err(FolderError::Manifest(ManifestError::Older { .. }))));
    }
    let (other, _) = founded();
    let foreign = other.get("one/manifest").unwrap();
    let refused = install_manifest(&*world.folder("one"), &foreign, false);
    assert!(matches!(refused, Err(FolderError::Manifest(ManifestError::OtherRoot { .. }))));
    let mut without = manifest(&world, "one");
    without.sites.truncate(1);
    without.epoch += 1;
    let signed = sign_manifest(&without, &[&SigningKey::from_bytes(root.expose())]);
    assert!(install_manifest(&*world.folder("one"), &signed, false).is_ok());
    let refused = install_manifest(&*world.folder("two"), &signed, false);
    assert!(matches!(refused, Err(FolderError::NotNext(_))));
    without.quorum = 7;
    let twin = sign_manifest(&without, &[&SigningKey::from_bytes(root.expose())]);
    let refused = install_manifest(&*world.folder("one"), &twin, false);
    assert!(matches!(refused, Err(FolderError::NotNext(_))), "one epoch, one manifest");
}

/// Each would count to ten.
#[test]
fn two_sites_do_not_open_with_a_ledger_each() {
    let (world, root) = founded();
    assert!(open_site(&*world.folder("one")).is_ok());
    join(&world, &root, "two", "second").unwrap();
    for site in ["one", "two"] {
        let refused = open_site(&*world.folder(site)).err().unwrap();
        assert!(matches!(refused, FolderError::SeveralSites), "{refused}");
    }
}

/// Settings that name another ledger would give every record its tries again.
#[test]
fn a_site_does_not_change_its_ledger_unasked() {
    let (world, _) = founded();
    let folder = world.folder("one");
    let seen = Head { cluster: 1, revision: crate::vault::ledger::Revision(7) };
    reset_mark(&*folder, &keys(&world, "one"), seen).unwrap();
    let refused = open_site(&*folder).err().unwrap();
    assert!(matches!(refused, FolderError::OtherLedger("etcd")), "{refused}");
    // A folder of before has no mark.
    folder.remove(MARK).unwrap();
    let ledger = open_site(&*folder).unwrap().ledger;
    ledger.swap(&[1; 32], None, &Box::new([1; 3968]), false).ok().unwrap();
    drop(ledger);
    let text = "[ledger]\nkind = \"etcd\"\nendpoints = [\"https://127.0.0.1:1\"]\n\
         ca = \"/none\"\ncert = \"/none\"\nkey = \"/none\"\n";
    world.put(&format!("one/{CONFIG}"), text.as_bytes());
    assert!(Config::load(&*folder).is_ok());
    let refused = open_site(&*folder).err().unwrap();
    assert!(matches!(refused, FolderError::OtherLedger("the file ledger")), "{refused}");
    // Empty, it is not in the way; then the settings are.
    folder.remove("ledger").unwrap();
    EmbeddedLedger::create(&*folder).unwrap();
    let refused = open_site(&*folder).err().unwrap().to_string();
    let expected = if cfg!(feature = "etcd") { "/none" } else { "built without etcd" };
    assert!(refused.contains(expected), "{refused}");
}

/// Three people, two of whom must sign; none of their keys comes to a site.
#[test]
fn what_changes_waits_until_enough_people_signed_it() {
    let (world, old) = founded();
    let people: Vec<SigningKey> = (1..=3).map(|n| SigningKey::from_bytes(&[n; 32])).collect();
    let public = || people.iter().map(|key| key.verifying_key().to_bytes()).collect::<Vec<_>>();
    let folder = world.folder("one");
    let before = manifest(&world, "one");
    for (keys, threshold) in [(public(), 0), (public(), 4), (vec![[1; 32]; 8], 9)] {
        assert!(change_roots(&*folder, keys, threshold, &[]).is_err());
    }
    let (roots, made) = change_roots(&*folder, public(), 2, &[]).unwrap();
    assert_eq!(made, Made::Waits { have: 0, need: 2 });
    assert_eq!(manifest(&world, "one"), before, "nothing is in place yet");
    let next = || world.get("one/manifest.next").unwrap();
    let sign = |bytes: &[u8], who: usize| sign_more(bytes, &people[who]).unwrap();
    let one = sign(&sign(&next(), 0), 0);
    assert!(install_manifest(&*folder, &one, true).is_err(), "one person twice is one");
    let old = SigningKey::from_bytes(old.expose());
    assert!(matches!(sign_more(&one, &old), Err(ManifestError::NoRoot)));
    let two = sign(&one, 2);
    let refused = install_manifest(&*folder, &two, false);
    assert!(matches!(refused, Err(FolderError::Manifest(ManifestError::OtherRoot { .. }))));
    assert_eq!(install_manifest(&*folder, &two, true).unwrap(), 2);
    assert!(manifest(&world, "one").roots == roots && world.get("one/manifest.next").is_none());

    // A site more, and less.
    let to = world.folder("two");
    let made = join_site(&*folder, &*to, &SystemRandom, &[], "second").unwrap();
    assert_eq!(made, Made::Waits { have: 0, need: 2 });
    assert!(open_site(&*to).is_err(), "it is no site yet");
    let signed = sign(&sign(&next(), 1), 2);
    for site in ["one", "two"] {
        assert_eq!(install_manifest(&*world.folder(site), &signed, false).unwrap(), 3);
    }
    assert!(change_manifest(&*folder, Change::Remove("third".into()), &[]).is_err());
    let made = change_manifest(&*folder, Change::Remove("second".into()), &[]).unwrap();
    assert_eq!(made, Made::Waits { have: 0, need: 2 });
    let mut forged = sign(&sign(&next(), 0), 1);
    *forged.last_mut().unwrap() ^= 1;
    assert!(matches!(signatures_of(&forged), Err(ManifestError::Signature)));
    let signed = sign(&sign(&next(), 0), 1);
    assert_eq!(install_manifest(&*folder, &signed, false).unwrap(), 4);
    let last = manifest(&world, "one");
    assert!(last.sites.len() == 1 && last.quorum == 1);
    assert!(change_manifest(&*folder, Change::Remove("first site".into()), &[]).is_err());
}

/// Two sites get new keys one after the other, and nobody notices.
#[test]
fn sites_that_have_the_keys_read_what_is_sealed_under_them() {
    let (world, root) = founded();
    join(&world, &root, "two", "second").unwrap();
    let (one, two) = (world.folder("one"), world.folder("two"));
    let roots = [root.duplicate()];
    let (generation, made) = add_generation(&*one, &SystemRandom, &roots).unwrap();
    assert_eq!((generation, made), (2, Made::Installed(3)));
    assert_eq!(manifest(&world, "one").generation(), 2);
    let signed = world.get("one/manifest").unwrap();
    // The manifest before the keys: this site would not start.
    assert_eq!(copy_generations(&*one, &*two).unwrap(), 2);
    let (before, after) = (keys(&world, "two"), keys(&world, "one").with_current(2).ok().unwrap());
    assert_eq!((before.generation(), after.generation()), (1, 2));
    let name = crate::vault::ledger::record_name(&after, &TICKET).unwrap();
    let value = crate::vault::ledger::seal_value(&after, &SystemRandom, &name, b"x").ok().unwrap();
    assert_eq!(crate::vault::ledger::sealed_under(&value), 2);
    assert!(open_value(&before, &name, &value).is_ok());
    assert_eq!(install_manifest(&*two, &signed, false).unwrap(), 3);
    let (stranger, _) = founded();
    assert!(copy_generations(&*stranger.folder("one"), &*two).is_err());
    assert!(drop_generation(&*one, &after, 2, &roots).is_err(), "the current one");
    // The mark was sealed under the old key, and could not be read without it.
    let mark = crate::vault::ledger::read_mark(&*one, &after).unwrap();
    assert_eq!(drop_generation(&*one, &after, 1, &roots).unwrap(), Made::Installed(4));
    let left = keys(&world, "one").with_current(2).ok().unwrap();
    assert_eq!(crate::vault::ledger::read_mark(&*one, &left).unwrap(), mark);
    assert!(keys(&world, "one").seal_mac(1, b"x").is_err());
    assert!(manifest(&world, "one").generation_of(&before.ake_public(1).unwrap()).is_none());
}
