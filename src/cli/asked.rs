//! Questions about secrets on the terminal.
//!
//! Invariant: what looks like a key, a part of one or a mistyped one is never taken for a
//! password, so it is sent nowhere.

use zeroize::Zeroizing;

use super::{Exit, Failure, Result};
use crate::crypto::{digits_of_key, groups_of_key, parse_key, resembles_key};
use crate::io::{AnswerError, Terminal};

/// Most bytes that are read for one answer.
const ROOM: usize = 8192;

/// What somebody typed or pasted.
pub enum Answer {
    /// A key, or what was meant as one.
    Key(Zeroizing<String>),
    /// The user typed a password.
    Password(Zeroizing<String>),
}

impl From<AnswerError> for Failure {
    fn from(error: AnswerError) -> Self {
        let code = match error {
            AnswerError::Interrupted => Exit::Interrupted,
            _ => Exit::Other,
        };
        Self::new(code, error)
    }
}

/// Asks for the key, or for either where a password could open too. A key may come in several
/// lines, as a key sheet has it.
pub fn ask_key(takes_password: bool) -> Result<Answer> {
    let terminal = Terminal::open()?;
    let question = if takes_password { "Password or 64-digit key: " } else { "64-digit key: " };
    let mut typed = Typed::new(takes_password);
    let mut line = terminal.ask_secret(question)?;
    loop {
        typed.add(&line);
        match typed.next(terminal.has_more()?) {
            Next::Done => return Ok(typed.answer()),
            Next::Read => {}
            Next::Ask => {
                let digits = digits_of_key(&typed.text).unwrap_or(0);
                let or = if typed.is_one_line() && takes_password {
                    "an empty line takes this as the password"
                } else {
                    "an empty line ends it"
                };
                terminal.show(&format!(
                    "These are {digits} of the 64 digits of a key. Go on with the next; {or}."
                ))?;
                typed.was_asked = true;
            }
        }
        line = terminal.line()?;
        if typed.was_asked && line.trim().is_empty() {
            return Ok(typed.answer());
        }
    }
}

/// What to do after a line.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Nothing more is asked.
    Done,
    /// The next line is here: both were pasted.
    Read,
    /// More must come, and somebody has to type it.
    Ask,
}

/// Lines of an answer.
struct Typed {
    takes_password: bool,
    text: Zeroizing<String>,
    /// Bytes of the first line that is not empty.
    first: usize,
    /// Whether more of a key was asked for.
    was_asked: bool,
}

impl Typed {
    fn new(takes_password: bool) -> Self {
        // All room at once, so that growing leaves no copy behind.
        let text = Zeroizing::new(String::with_capacity(ROOM));
        Self { takes_password, text, first: 0, was_asked: false }
    }

    fn add(&mut self, line: &str) {
        // Of what was pasted, as some editors save it.
        let line = if self.first == 0 { line.trim_start_matches('\u{feff}') } else { line };
        if self.text.len() + line.len() + 1 > ROOM {
            return;
        }
        if self.first == 0 {
            self.first = line.len();
        } else {
            self.text.push('\n');
        }
        self.text.push_str(line);
    }

    fn first(&self) -> &str {
        &self.text[..self.first]
    }

    fn is_one_line(&self) -> bool {
        self.text[self.first..].trim().is_empty()
    }

    fn next(&self, has_more: bool) -> Next {
        let digits = digits_of_key(&self.text);
        if digits == Some(64) {
            return Next::Done;
        }
        if has_more && self.text.len() < ROOM / 2 {
            return Next::Read;
        }
        // A password of groups of four digits is still possible, by one more empty line.
        let is_part = if self.takes_password && self.is_one_line() {
            groups_of_key(self.first()).is_some()
        } else {
            digits.is_some()
        };
        if is_part { Next::Ask } else { Next::Done }
    }

    fn answer(self) -> Answer {
        let was_continued = !self.is_one_line();
        let is_key = !self.takes_password
            || resembles_key(&self.text)
            || parse_key(&self.text).is_ok()
            || was_continued && (self.was_asked || groups_of_key(self.first()).is_some());
        if is_key {
            return Answer::Key(self.text);
        }
        // A password is one line.
        Answer::Password(Zeroizing::new(self.first().to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::{SHEET_KEY, SHEET_TITLE, Secret, format_key};

    fn key() -> Zeroizing<String> {
        format_key(&Secret::take(&mut std::array::from_fn(|i| (i as u8).wrapping_mul(9) + 1)))
    }

    /// Reads `lines` that were pasted together.
    fn pasted(lines: &str, takes_password: bool) -> (Next, Answer) {
        let mut typed = Typed::new(takes_password);
        let mut lines = lines.lines().peekable();
        while let Some(line) = lines.next() {
            typed.add(line);
            match typed.next(lines.peek().is_some()) {
                Next::Read => {}
                next => return (next, typed.answer()),
            }
        }
        unreachable!("the last line has no next");
    }

    #[test]
    fn a_pasted_key_is_read_to_its_end() {
        let sheet = format!("{SHEET_TITLE}\n\nrepository  ab\n\n{SHEET_KEY}\n\n{}\n\nx\n", *key());
        for takes_password in [true, false] {
            for text in [
                key().to_string(),
                key().replace('\n', "\n    "),
                key().replace(' ', ""),
                key().replace(['\n', ' '], "-"),
                format!("\n{}\nls\n", *key()),
                format!("\u{feff}{}", *key()),
                sheet.clone(),
            ] {
                let (next, answer) = pasted(&text, takes_password);
                assert_eq!(next, Next::Done, "{text:?}");
                let Answer::Key(read) = answer else { panic!("a password: {text:?}") };
                assert!(parse_key(&read).is_ok(), "{text:?} {read:?}");
            }
        }
    }

    #[test]
    fn a_mistyped_or_cut_key_is_no_password() {
        let mistyped = key().replacen('1', "l", 1);
        let lines: Vec<&str> = mistyped.lines().collect();
        assert!(matches!(pasted(&mistyped, true), (Next::Done, Answer::Key(_))), "{mistyped}");
        assert!(matches!(pasted(&lines[1..].join("\n"), true), (Next::Ask, Answer::Key(_))));
        let (next, answer) = pasted("0123 4567\n89xy", true);
        assert!(next == Next::Done && matches!(answer, Answer::Key(_)));
    }

    #[test]
    fn passwords_of_digits_are_possible() {
        for password in ["deadbeef", "1234", "12345678", "cafe babe and more", "a b"] {
            let (next, answer) = pasted(password, true);
            assert_eq!(next, Next::Done, "{password}");
            assert!(matches!(answer, Answer::Password(read) if *read == password));
        }
        // Asked what it is; an empty line says.
        let (next, answer) = pasted("dead beef", true);
        assert!(next == Next::Ask && matches!(answer, Answer::Password(_)));
        // What was pasted behind a password is none of it.
        let (_, answer) = pasted("a long password\nls -l\n", true);
        assert!(matches!(answer, Answer::Password(read) if *read == "a long password"));
        // Without a vault there is no password.
        assert!(matches!(pasted("1234", false), (Next::Ask, Answer::Key(_))));
        assert!(matches!(pasted("hello", false), (Next::Done, Answer::Key(_))));
    }
}
