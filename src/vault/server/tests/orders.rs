//! Random orders, and true concurrency.

use proptest::prelude::*;

use super::*;

#[test]
fn concurrent_guesses_at_one_ledger_spend_what_they_evaluate() {
    let mut world = World::new(false);
    world.register(true);
    let requests: Vec<Request> = (0..24)
        .map(|_| {
            let which = world.attempt(false);
            world.attempts[which].request.clone()
        })
        .collect();
    let replies: Vec<Reply> = std::thread::scope(|scope| {
        let running: Vec<_> = requests
            .iter()
            .enumerate()
            .map(|(n, request)| {
                let site = Arc::clone(&world.sites[n % 2]);
                scope.spawn(move || site.handle(request, &Caller::unknown(false)))
            })
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut answered = 0;
    for (attempt, reply) in world.attempts.iter_mut().zip(replies) {
        if let Reply::Challenge { ke2, .. } = reply {
            attempt.ke2 = Some(ke2);
            answered += 1;
        }
    }
    assert!(answered <= 9, "{answered} answers for 9 tries");
    world.audit();
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Guess { right: bool },
    Retry { which: usize },
    Redeem { which: usize },
    BadProof { which: usize },
    Wait { seconds: i64 },
    Sweep,
    Register,
}

fn op() -> impl Strategy<Value = (Op, usize, Fault)> {
    let op = prop_oneof![
        8 => any::<bool>().prop_map(|right| Op::Guess { right }),
        4 => any::<usize>().prop_map(|which| Op::Retry { which }),
        5 => any::<usize>().prop_map(|which| Op::Redeem { which }),
        2 => any::<usize>().prop_map(|which| Op::BadProof { which }),
        1 => (0i64..5 * 24 * 3600).prop_map(|seconds| Op::Wait { seconds }),
        1 => Just(Op::Sweep),
        1 => Just(Op::Register),
    ];
    let fault = prop_oneof![
        6 => Just(Fault::None),
        1 => Just(Fault::CrashBefore),
        1 => Just(Fault::CrashAfter),
        1 => Just(Fault::Race),
    ];
    (op, 0usize..2, fault)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn at_most_ten_guesses_between_successes_whatever_happens(
        ops in proptest::collection::vec(op(), 1..80),
        delays in any::<bool>(),
    ) {
        let mut world = World::new(delays);
        let steps = world.register(true);
        for (op, site, fault) in ops {
            world.ledger.next_write(fault);
            let some = |which: usize, world: &World| {
                (!world.attempts.is_empty()).then(|| which % world.attempts.len())
            };
            match op {
                Op::Guess { right } => {
                    let which = world.attempt(right);
                    world.send(site, which);
                }
                Op::Retry { which } => {
                    if let Some(which) = some(which, &world) {
                        world.send(site, which);
                    }
                }
                Op::Redeem { which } => {
                    let which = some(which, &world);
                    let proven = which.and_then(|which| Some((which, world.proof(which)?)));
                    if let Some((which, proof)) = proven
                        && let Reply::Opened { payload, .. } = world.redeem(site, which, proof)
                    {
                        prop_assert!(world.attempts[which].right && *payload == PAYLOAD);
                    }
                }
                Op::BadProof { which } => {
                    if let Some(which) = some(which, &world) {
                        let reply = world.redeem(site, which, [8; KE3]);
                        let opened = matches!(reply, Reply::Opened { .. });
                        prop_assert!(!opened);
                    }
                }
                Op::Wait { seconds } => {
                    world.clock.pass(seconds as u64);
                }
                Op::Sweep => {
                    world.sites[site].sweep().unwrap();
                }
                Op::Register => {
                    let reply = world.sites[site].handle(&steps[0], &Caller::unknown(true));
                    let again = matches!(reply, Reply::Registered { .. });
                    prop_assert!(!again, "evaluated once");
                }
            }
            world.ledger.next_write(Fault::None);
            world.audit();
        }
    }
}
