//! Runs seeds: `model run FROM COUNT [--without RULE,...]`, `model show SEED [--without RULE]`,
//! `model names FROM COUNT`, `model names-show SEED`, the same with `pairs`,
//! `model mutate COUNT [RULE]`, `model least COUNT --without RULES [--like TEXT]`, `model laws COUNT`,
//! `model scenes`, `model rules`.
//! It ends with status 1 if something breached.

mod map;
mod names;
mod ops;
mod oracle;
mod repair;
mod rng;
mod rules;
mod scenes;
mod show;
mod sim;
mod world;

use rules::{ALL, Off};
use std::process::ExitCode;

fn off(text: &str) -> Off {
    let mut off = Off::default();
    for name in text.split(',').filter(|n| !n.is_empty()) {
        let rule = ALL.iter().find(|r| r.1 == name).unwrap_or_else(|| panic!("no rule {name}"));
        off = off.without(rule.0);
    }
    off
}

fn attempt(seed: u64, off: Off, log: bool) -> (Result<sim::Stats, String>, Vec<String>) {
    let result = std::panic::catch_unwind(|| sim::run(seed, off, log));
    match result {
        Ok(r) => r,
        Err(e) => {
            let text = e
                .downcast_ref::<String>()
                .cloned()
                .or(e.downcast_ref::<&str>().map(|s| s.to_string()));
            (Err(format!("panic: {}", text.unwrap_or_default())), Vec::new())
        }
    }
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let arg = |n: usize| args.get(n).map_or("", String::as_str);
    let without =
        args.iter().position(|a| a == "--without").map_or(Off::default(), |p| off(arg(p + 1)));
    let number = |n: usize| arg(n).parse::<u64>().unwrap_or(0);
    let mut breaches = 0;
    match arg(1) {
        "run" => {
            std::panic::set_hook(Box::new(|_| {}));
            let (from, count) = (number(2), number(3));
            let (mut bad, mut sum) = (0, sim::Stats::default());
            for seed in from..from + count {
                match attempt(seed, without, false).0 {
                    Ok(stats) => sum.add(&stats),
                    Err(e) => {
                        bad += 1;
                        if bad <= 12 {
                            println!("seed {seed}: {}", e.lines().next().unwrap_or(""));
                        }
                    }
                }
            }
            println!("{count} seeds, {bad} violations; {sum:?}");
            breaches = bad;
        }
        "show" => {
            let (result, log) = attempt(number(2), without, true);
            for line in log {
                println!("{line}");
            }
            println!("{result:?}");
            breaches = u64::from(result.is_err());
        }
        "mutate" => {
            std::panic::set_hook(Box::new(|_| {}));
            let count = number(2);
            for (rule, name, text) in ALL {
                let off = Off::default().without(*rule);
                let only = arg(3);
                if !only.is_empty() && only != *name {
                    continue;
                }
                if scenes::has(*rule) {
                    println!("{name} | {text} | a scene |");
                    continue;
                }
                let small = (0..4000).find_map(|s| {
                    let e = std::panic::catch_unwind(|| names::run(s, false, off, None))
                        .unwrap_or_else(|_| Err("panic".into()))
                        .err()?;
                    names::run(s, false, Off::default(), None).ok().map(|_| (s, e))
                });
                if let Some((seed, e)) = small {
                    println!("{name} | {text} | names {seed} | {}", e.lines().next().unwrap_or(""));
                    continue;
                }
                // A seed counts only if it passes with all rules.
                let situations =
                    (0..12).flat_map(|k| (0..60).map(move |s| 1_000_000_000 + k * 100_000 + s));
                let found = situations.chain(0..count).find_map(|s| {
                    let e = attempt(s, off, false).0.err()?;
                    attempt(s, Off::default(), false).0.ok().map(|_| (s, e))
                });
                match found {
                    Some((seed, e)) => println!(
                        "{name} | {text} | seed {seed} | {}",
                        e.lines().next().unwrap_or("")
                    ),
                    None => println!("{name} | {text} | none in {count} |"),
                }
            }
        }
        "least" => {
            // The shortest history that breaks without these rules and not with all.
            std::panic::set_hook(Box::new(|_| {}));
            let mut best: Option<(usize, u64, String, Vec<String>)> = None;
            let mut kinds: std::collections::BTreeMap<String, u64> = Default::default();
            for seed in 0..number(2) {
                let (result, log) = attempt(seed, without, true);
                let Err(e) = result else { continue };
                let kind: String = e.chars().filter(|c| !c.is_ascii_digit()).take(28).collect();
                *kinds.entry(kind).or_default() += 1;
                let wanted =
                    args.iter().position(|a| a == "--like").is_none_or(|p| e.contains(arg(p + 1)));
                if wanted
                    && !log.is_empty()
                    && best.as_ref().is_none_or(|b| b.0 > log.len())
                    && attempt(seed, Off::default(), false).0.is_ok()
                {
                    best = Some((log.len(), seed, e, log));
                }
            }
            for (kind, n) in kinds {
                println!("{n} x {kind}");
            }
            if let Some((_, seed, e, log)) = best {
                for line in log {
                    println!("{line}");
                }
                println!("seed {seed}: {e}");
            }
        }
        "scenes" => {
            let faults = scenes::faults();
            for fault in &faults {
                println!("{fault}");
            }
            println!("{} breaches in scenes", faults.len());
            breaches = faults.len() as u64;
        }
        "laws" => breaches = sim::laws(number(2)),
        "names" | "pairs" => {
            std::panic::set_hook(Box::new(|_| {}));
            let (sum, kinds) = names::many(number(2), number(3), arg(1) == "pairs", without);
            let bad: u64 = kinds.values().map(|k| k.0).sum();
            for (n, seed, e) in kinds.into_values() {
                println!("{n} x, first seed {seed}: {}", e.lines().next().unwrap_or(""));
            }
            println!("{} histories, {bad} breaches; {sum:?}", number(3));
            breaches = bad;
        }
        "names-show" | "pairs-show" => {
            let mut log = Vec::new();
            let result = names::run(number(2), arg(1) == "pairs-show", without, Some(&mut log));
            for line in log {
                println!("{line}");
            }
            println!("{result:?}");
            breaches = u64::from(result.is_err());
        }
        "rules" => {
            for (_, name, text) in ALL {
                println!("{name}: {text}");
            }
        }
        other => {
            eprintln!(
                "no command {other:?}: run, show, names, pairs, mutate, least, laws, scenes, rules"
            );
            return ExitCode::from(2);
        }
    }
    ExitCode::from(u8::from(breaches > 0))
}
