//! Confirming a vault by its fingerprint, on paper and on the terminal.
//!
//! Who compares 64 digits looks at the first and the last, and whoever tries many keys has
//! a vault with the same ones. So the program asks: for some groups, chosen anew each time
//! and out of the middle, which the screen does not show. It compares what is typed.

use crate::crypto::hex;
use crate::io::Random;
use crate::vault::protocol::{Address, Fingerprint};

/// Digits in a group.
const DIGITS: usize = 4;
/// Groups of a fingerprint.
const GROUPS: usize = 64 / DIGITS;
/// Groups that are asked for. Whoever tried 2^64 keys, and so has four groups of another
/// fingerprint, is asked for just these once in 1001 times.
const ASKED: usize = 4;

/// The groups of a fingerprint, as a key sheet shows them.
pub fn groups(fingerprint: Fingerprint) -> Vec<String> {
    let digits = hex(&fingerprint.0);
    (0..GROUPS).map(|group| digits[DIGITS * group..DIGITS * (group + 1)].to_owned()).collect()
}

/// A question for some groups of one fingerprint.
pub struct Question {
    fingerprint: Fingerprint,
    /// The indices of the groups that are asked for, from 0, in ascending order.
    asked: Vec<usize>,
}

impl Question {
    /// For groups that chance chooses, but for the first and the last.
    pub fn new(fingerprint: Fingerprint, random: &dyn Random) -> Self {
        let mut middle: Vec<usize> = (1..GROUPS - 1).collect();
        let mut asked: Vec<usize> = (0..ASKED)
            .map(|_| {
                let mut bytes = [0; 4];
                random.fill(&mut bytes);
                middle.swap_remove(u32::from_le_bytes(bytes) as usize % middle.len())
            })
            .collect();
        asked.sort_unstable();
        Self { fingerprint, asked }
    }

    /// The groups asked for, counted from 1: "3, 5, 9 and 14".
    pub fn numbers(&self) -> String {
        let numbers: Vec<String> = self.asked.iter().map(|group| (group + 1).to_string()).collect();
        let (last, first) = numbers.split_last().expect("some are asked for");
        format!("{} and {last}", first.join(", "))
    }

    /// Whether `typed` is these groups, all digits of the fingerprint, or an address that
    /// has it. Spaces, dashes and the case of letters do not count.
    pub fn is_answered_by(&self, typed: &str) -> bool {
        if let Ok(address) = typed.parse::<Address>() {
            return address.fingerprint() == self.fingerprint;
        }
        let digits: String = typed
            .chars()
            .filter(|character| {
                !character.is_whitespace() && *character != '-' && *character != ','
            })
            .map(|character| character.to_ascii_lowercase())
            .collect();
        let groups = groups(self.fingerprint);
        let wanted: String = self.asked.iter().map(|group| groups[*group].as_str()).collect();
        digits == wanted || digits == groups.concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::sim::SimRandom;

    fn fingerprint() -> Fingerprint {
        Fingerprint(std::array::from_fn(|at| (at as u8).wrapping_mul(37)))
    }

    #[test]
    fn groups_come_out_of_the_middle_and_all_of_them_do() {
        let mut seen = [0; GROUPS];
        for seed in 0..500 {
            let question = Question::new(fingerprint(), &SimRandom::new(seed));
            assert_eq!(question.asked.len(), ASKED);
            assert!(question.asked.windows(2).all(|pair| pair[0] < pair[1]));
            question.asked.iter().for_each(|group| seen[*group] += 1);
        }
        assert!(seen[0] == 0 && seen[GROUPS - 1] == 0, "{seen:?}");
        // 143 times each, if chance is fair.
        assert!(seen[1..GROUPS - 1].iter().all(|count| (80..220).contains(count)), "{seen:?}");
    }

    #[test]
    fn only_these_groups_or_all_answer() {
        let question = Question { fingerprint: fingerprint(), asked: vec![2, 5, 6, 13] };
        assert_eq!(question.numbers(), "3, 6, 7 and 14");
        let groups = groups(fingerprint());
        let right = [2, 5, 6, 13].map(|group: usize| groups[group].as_str());
        let all = groups.concat();
        let address = |last: char| format!("amber-vault://host:1/#{}{last}", &all[..all.len() - 1]);
        let own = all.chars().last().unwrap();
        for good in [
            right.join(" "),
            right.concat(),
            right.join("-").to_uppercase(),
            format!("  {}\n", right.join(", ")),
            all.clone(),
            groups.join(" "),
            address(own),
        ] {
            assert!(question.is_answered_by(&good), "{good}");
        }
        let other = if own == '0' { '1' } else { '0' };
        let mut swapped = right;
        swapped.swap(1, 2);
        for bad in [
            String::new(),
            "yes".into(),
            right[1..].join(" "),
            swapped.join(" "),
            format!("{} {}", right.join(" "), right[0]),
            all[..60].to_owned(),
            format!("{}{}", groups[0], groups[15]),
            format!("{}{}{}{}", groups[0], groups[1], groups[14], groups[15]),
            address(other),
        ] {
            assert!(!question.is_answered_by(&bad), "{bad}");
        }
    }
}
