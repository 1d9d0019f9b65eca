//! Message texts: words as frequent as in a language, emoji, and the canary.

use super::CANARY;
use super::draw::Draw;

/// The words everybody uses most, most frequent first.
const COMMON: [&str; 48] = [
    "ich",
    "und",
    "the",
    "to",
    "du",
    "das",
    "ja",
    "ist",
    "you",
    "nicht",
    "and",
    "ok",
    "wir",
    "der",
    "was",
    "I'm",
    "so",
    "auch",
    "noch",
    "heute",
    "schon",
    "mal",
    "for",
    "mit",
    "it's",
    "aber",
    "morgen",
    "dann",
    "gut",
    "danke",
    "für",
    "später",
    "nach",
    "wenn",
    "können",
    "we",
    "see",
    "schön",
    "vielleicht",
    "haha",
    "übrigens",
    "gleich",
    "home",
    "train",
    "Grüße",
    "bitte",
    "wie",
    "hast",
];

const ONSETS: [&str; 20] = [
    "b", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "w", "z", "sch", "st", "br",
    "kl", "tr",
];
const VOWELS: [&str; 10] = ["a", "e", "i", "o", "u", "ei", "au", "ie", "ä", "ö"];
const CODAS: [&str; 8] = ["", "n", "r", "s", "t", "l", "ng", "ch"];
const EMOJI: [&str; 10] = ["😂", "❤️", "👍", "🙈", "🎉", "😅", "👨‍👩‍👧", "🥨", "🌞", "😘"];

/// Different words a person writes.
const VOCABULARY: u64 = 6000;

/// Most words in one message.
const LONGEST: u64 = 400;

/// The names in the address book, for exports and file names.
pub const PEOPLE: [&str; 8] = [
    "Jürgen Weiß",
    "Zoë O’Neill",
    "Ana María 🌻",
    "Łukasz",
    "山田 花子",
    "Mama ❤️",
    "Ruth",
    "Cafe\u{301} Team",
];

/// A message text; it always contains the canary.
pub fn message(draw: &mut Draw) -> String {
    let words = draw.lognormal(8, 0.9).clamp(1, LONGEST);
    let mut text = String::new();
    for _ in 0..words {
        push_word(draw, &mut text);
        text.push(if draw.percent(6) { ',' } else { ' ' });
    }
    if draw.percent(20) {
        text.push_str(EMOJI[draw.zipf(EMOJI.len() as u64) as usize]);
        text.push(' ');
    }
    text.push_str(CANARY);
    text
}

fn push_word(draw: &mut Draw, text: &mut String) {
    let rank = draw.zipf(VOCABULARY);
    if let Some(word) = COMMON.get(rank as usize) {
        text.push_str(word);
        return;
    }
    // The rank spells the word, so that a frequent word is one and the same word every time.
    let mut letters = rank.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 16;
    let mut pick = |parts: &[&'static str]| {
        let part = parts[(letters % parts.len() as u64) as usize];
        letters /= parts.len() as u64;
        part
    };
    for _ in 0..=rank % 3 {
        text.push_str(pick(&ONSETS));
        text.push_str(pick(&VOWELS));
        text.push_str(pick(&CODAS));
    }
}
