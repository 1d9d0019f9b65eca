//! Text as it may reach a terminal or a log.
//!
//! Names, paths, messages of other machines and variables are whatever somebody made them.
//! Invariant: what leaves this process as a line for people passes [`shown`] last, in
//! the writer of standard output and in the loggers, so no caller can forget it. One line is one call: a
//! line end within it came from outside.

use std::borrow::Cow;

/// Whether a terminal or a log would obey a character instead of showing it: a control
/// character (C0, DEL, C1), an end of a line, or a mark that changes the direction in which
/// what follows is read.
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{206f}'
                | '\u{fff9}'..='\u{fffb}'
        )
}

/// A line for people: every character that steers is a question mark.
pub fn shown(text: &str) -> Cow<'_, str> {
    if text.chars().any(steers) {
        text.chars().map(|c| if steers(c) { '?' } else { c }).collect::<String>().into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEERING: &str = "\u{1b}]0;x\u{7} \u{9b}31m \r\n\t\u{7f}\u{85} \u{202e}\u{2066}\u{200f}\u{61c}\u{2028}\u{2029}\u{fff9}";

    #[test]
    fn what_steers_is_a_question_mark_and_all_else_stays() {
        assert_eq!(shown(STEERING), "?]0;x? ?31m ????? ???????");
        for plain in ["", "name", "שלום", "Ünïcödé 🏴󠁧󠁢󠁳󠁣󠁴󠁿 👨‍👩‍👧 می‌خواهم", "a\u{fffd}b"]
        {
            assert!(matches!(shown(plain), Cow::Borrowed(text) if text == plain), "{plain}");
        }
    }
}
