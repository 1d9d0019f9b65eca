//! Keys that fail at any call: a token that is away, slow or locked.

use std::sync::atomic::AtomicUsize;

use rustls::sign::SigningKey as TlsKey;
use zeroize::Zeroizing;

use super::*;
use crate::crypto::Secret;
use crate::vault::hsm::{KeyError, TokenError};

/// Passes on until its calls are used up.
struct Failing {
    inner: Arc<FileKeys>,
    left: AtomicUsize,
}

impl Failing {
    fn call(&self) -> Result<&FileKeys, KeyError> {
        let used = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        used.map(|_| &*self.inner).map_err(|_| TokenError::Removed.into())
    }
}

impl KeyProtection for Failing {
    fn protection(&self) -> Protection {
        Protection::Hsm
    }
    fn fleet(&self) -> FleetId {
        self.inner.fleet()
    }
    fn generation(&self) -> u32 {
        self.inner.generation()
    }
    fn oprf_material(&self, generation: u32, credential: &[u8; 32]) -> Result<Secret, KeyError> {
        self.call()?.oprf_material(generation, credential)
    }
    fn ake_public(&self, generation: u32) -> Result<[u8; AKE_PUBLIC], KeyError> {
        self.inner.ake_public(generation)
    }
    fn ake_agree(
        &self,
        generation: u32,
        peer: &[u8; AKE_PUBLIC],
    ) -> Result<Zeroizing<[u8; AKE_PUBLIC]>, KeyError> {
        self.call()?.ake_agree(generation, peer)
    }
    fn seal_mac(&self, generation: u32, message: &[u8]) -> Result<Secret, KeyError> {
        self.call()?.seal_mac(generation, message)
    }
    fn lookup_mac(&self, message: &[u8]) -> Result<[u8; 32], KeyError> {
        self.call()?.lookup_mac(message)
    }
    fn tls(&self) -> Arc<dyn TlsKey> {
        self.inner.tls()
    }
}

/// Makes the second site's keys work for `calls` calls.
fn limited(world: &mut World, calls: usize) {
    let keys = Failing { inner: Arc::clone(&world.keys), left: AtomicUsize::new(calls) };
    world.sites[1] = Arc::new(Site::new(
        Arc::new(keys),
        Arc::<SimLedger>::clone(&world.ledger),
        Arc::new(SystemRandom),
        Arc::<TestClock>::clone(&world.clock),
        Vec::new(),
        false,
    ));
}

/// A token that fails, at whichever call, answers nothing, spends nothing and
/// gives nothing back; what it had evaluated does not leave.
#[test]
fn keys_that_fail_cost_no_try_and_give_none_back() {
    let mut world = World::new(false);
    world.register(true);
    let which = world.attempt(true);
    let mut calls = 0;
    loop {
        let written = world.records().len();
        limited(&mut world, calls);
        match world.send(1, which) {
            Reply::Refused(Refusal::TryLater) => {
                assert_eq!(world.records().len(), written, "{calls} calls");
                assert!(
                    matches!(world.status(), RecordState::Active { tries, .. } if tries.left == 9)
                );
            }
            Reply::Challenge { tries, .. } => break assert_eq!(tries.left, 8),
            _ => panic!("neither later nor done"),
        }
        calls += 1;
    }
    // Name, value, the name of the vault's own time, OPRF key, shared point, new value.
    assert_eq!(calls, 6);
    let proof = world.proof(which).unwrap();
    let mut calls = 0;
    loop {
        limited(&mut world, calls);
        match world.redeem(1, which, proof) {
            Reply::Refused(Refusal::TryLater) => {
                assert!(
                    matches!(world.status(), RecordState::Active { tries, .. } if tries.left == 8)
                );
            }
            Reply::Opened { tries, .. } => break assert_eq!(tries.left, 10),
            _ => panic!("neither later nor done"),
        }
        calls += 1;
    }
    assert_eq!(calls, 4);
    world.audit();
}
