//! Reading a command line, and what the parser has to say of it.

use clap::error::{ContextKind, ContextValue};

use crate::io::output::{self, OutputError};
use crate::io::shown;

/// What the parser says instead of a command: help, or what is wrong.
pub struct Said {
    lines: Vec<String>,
    /// Whether the command line is wrong.
    pub is_wrong: bool,
}

/// Reads the command line of this process.
pub fn parse<T: clap::Parser>() -> Result<T, Said> {
    T::try_parse().map_err(Said::from)
}

impl From<clap::Error> for Said {
    fn from(mut error: clap::Error) -> Self {
        // A line end in an argument is none of the parser's own.
        let context: Vec<_> =
            error.context().map(|(kind, value)| (kind, on_one_line(kind, value))).collect();
        for (kind, value) in context {
            error.insert(kind, value);
        }
        let lines = error.render().to_string().lines().map(str::to_owned).collect();
        Self { lines, is_wrong: error.use_stderr() }
    }
}

fn on_one_line(kind: ContextKind, value: &ContextValue) -> ContextValue {
    let plain = |text: &str| shown(text).into_owned();
    match value {
        ContextValue::String(text) => ContextValue::String(plain(text)),
        ContextValue::Strings(texts) => {
            ContextValue::Strings(texts.iter().map(|text| plain(text)).collect())
        }
        ContextValue::StyledStrs(texts) => ContextValue::StyledStrs(
            texts.iter().map(|text| plain(&text.to_string()).into()).collect(),
        ),
        ContextValue::StyledStr(text) if kind != ContextKind::Usage => {
            ContextValue::StyledStr(plain(&text.to_string()).into())
        }
        other => other.clone(),
    }
}

impl Said {
    /// What is wrong, and hints what to do, one a line.
    pub fn message_and_hints(&self) -> (String, Vec<String>) {
        let mut lines = self.lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty());
        let first = lines.next().unwrap_or_default();
        (first.trim_start_matches("error: ").to_owned(), lines.map(str::to_owned).collect())
    }

    /// Prints help on standard output, or what is wrong on standard error.
    pub fn show(&self) -> Result<(), OutputError> {
        for line in &self.lines {
            if self.is_wrong {
                note!("{line}");
            } else {
                say!("{line}")?;
            }
        }
        output::finish()
    }
}
