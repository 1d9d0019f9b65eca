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
    join_site(&*world.folder("one"), &*world.folder(to), &SystemRandom, root, name)
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
    assert_eq!(install_manifest(&*world.folder("two"), &signed).unwrap(), 3);
    assert_eq!(install_manifest(&*world.folder("two"), &signed).unwrap(), 3, "again");
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
        let older = install_manifest(&*world.folder(site), &before);
        assert!(matches!(older, Err(FolderError::Manifest(ManifestError::Older { .. }))));
    }
    let (other, _) = founded();
    let foreign = other.get("one/manifest").unwrap();
    let refused = install_manifest(&*world.folder("one"), &foreign);
    assert!(matches!(refused, Err(FolderError::Manifest(ManifestError::OtherRoot { .. }))));
    let mut without = manifest(&world, "one");
    without.sites.truncate(1);
    without.epoch += 1;
    let signed = sign_manifest(&without, &[&SigningKey::from_bytes(root.expose())]);
    assert!(install_manifest(&*world.folder("one"), &signed).is_ok());
    let refused = install_manifest(&*world.folder("two"), &signed);
    assert!(matches!(refused, Err(FolderError::NotNext(_))));
    without.quorum = 7;
    let twin = sign_manifest(&without, &[&SigningKey::from_bytes(root.expose())]);
    let refused = install_manifest(&*world.folder("one"), &twin);
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
