//! The notify hook: a command of the operator that the site calls when a person should
//! look at it.

use std::collections::HashMap;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use amberfs::io::{shown, with_first_limits};
use tokio::process::Command;

/// Shortest time between two calls for events of one kind.
const PAUSE: Duration = Duration::from_secs(60);

/// What the operator is notified of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A record was changed behind the vault's back.
    Alarm,
    /// The site ends because its ledger or its keys cannot be used.
    Failed,
    /// What the ledger's operator should know.
    Warning,
    /// Unusually many wrong passwords.
    Guessing,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Failed => "failed",
            Self::Warning => "warning",
            Self::Guessing => "guessing",
        }
    }
}

/// Calls the operator's notify command.
#[derive(Default)]
pub struct Notifier {
    command: Vec<String>,
    last: Mutex<HashMap<Event, Instant>>,
}

impl Notifier {
    pub fn new(command: Vec<String>) -> Self {
        Self { command, last: Mutex::default() }
    }

    /// Calls the command with the event's name and `text` as last arguments. Does not wait
    /// for its end: the runtime that this is called in reaps the process.
    pub fn notify(&self, event: Event, text: &str) {
        let Some((program, arguments)) = self.command.split_first() else { return };
        {
            let mut last = self.last.lock().expect("nothing here panics");
            if last.get(&event).is_some_and(|last| last.elapsed() < PAUSE) {
                return;
            }
            last.insert(event, Instant::now());
        }
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args([event.name(), &*shown(text)])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        with_first_limits(command.as_std_mut());
        let child = command.spawn();
        if let Err(error) = child {
            log::error!("the notify command: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_command_is_called_once_a_minute_for_each_event() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let script = format!("echo \"$1: $2\" >>{0}", out.display());
        let notifier = Notifier::new(vec!["/bin/sh".into(), "-c".into(), script, "sh".into()]);
        notifier.notify(Event::Alarm, "one");
        let wait = async |lines| {
            let end = Instant::now() + Duration::from_secs(20);
            loop {
                let text = std::fs::read_to_string(&out).unwrap_or_default();
                if text.lines().count() >= lines || Instant::now() > end {
                    return text;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert_eq!(wait(1).await, "alarm: one\n");
        notifier.notify(Event::Alarm, "two");
        notifier.notify(Event::Guessing, "three");
        assert_eq!(wait(2).await, "alarm: one\nguessing: three\n");
        Notifier::default().notify(Event::Failed, "no command is called");
    }
}
