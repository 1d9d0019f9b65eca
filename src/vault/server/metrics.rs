//! What a site counts for its operator, as Prometheus reads it (text format 0.0.4).
//! Sums only: nothing here tells of one record.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::rounds::Census;
use crate::vault::protocol::{Refusal, Reply, Request};

/// Upper bounds of the histograms' buckets, in seconds.
const BOUNDS: [f64; 10] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 5.0];

/// How long something took.
#[derive(Default)]
struct Histogram {
    /// Not added up; the last one is what took longer than all bounds.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    fn took(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros.fetch_add(micros, Ordering::Relaxed);
    }

    fn print(&self, out: &mut String, name: &str) {
        let mut sum = 0;
        for (at, bucket) in self.buckets.iter().enumerate() {
            sum += bucket.load(Ordering::Relaxed);
            let bound = BOUNDS.get(at).map_or("+Inf".to_owned(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {sum}");
        }
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum {seconds}\n{name}_count {sum}");
    }
}

const REQUESTS: [&str; 9] = [
    "manifest",
    "register_start",
    "register_finish",
    "activate",
    "attempt",
    "redeem",
    "retire",
    "status",
    "note",
];
const REPLIES: [&str; 8] =
    ["done", "refused", "wrong", "closed", "too_early", "try_later", "malformed", "frozen"];

/// The index of a proof in [`REQUESTS`], and of a wrong one in [`REPLIES`].
const REDEEM: usize = 5;
const WRONG: usize = 2;

fn request_kind(request: &Request) -> usize {
    match request {
        Request::Manifest => 0,
        Request::RegisterStart { .. } => 1,
        Request::RegisterFinish { .. } => 2,
        Request::Activate { .. } => 3,
        Request::Attempt { .. } => 4,
        Request::Redeem { .. } => REDEEM,
        Request::Retire { .. } => 6,
        Request::Status { .. } => 7,
        Request::Note { .. } => 8,
    }
}

fn reply_kind(reply: &Reply) -> usize {
    match reply {
        Reply::Refused(refusal) => match refusal {
            Refusal::UnknownTicket
            | Refusal::RegistrationClosed
            | Refusal::Taken
            | Refusal::UnknownAttempt
            | Refusal::Invite
            | Refusal::Budget
            | Refusal::FrozenByStaff
            | Refusal::Account
            | Refusal::Terms
            | Refusal::TooOften => 1,
            Refusal::BadProof(_) => WRONG,
            Refusal::WrongState(_) => 3,
            Refusal::TooEarly(_) => 4,
            Refusal::TryLater => 5,
            Refusal::Malformed => 6,
            Refusal::Tampered => 7,
        },
        _ => 0,
    }
}

/// Counters of one site.
#[derive(Default)]
pub struct Metrics {
    replies: [[AtomicU64; REPLIES.len()]; REQUESTS.len()],
    handled: Histogram,
    reads: Histogram,
    writes: Histogram,
    /// Writes that nobody knows the outcome of.
    unknown: AtomicU64,
    races: AtomicU64,
    alarms: AtomicU64,
    connections: AtomicU64,
    dropped_silent: AtomicU64,
    dropped_idle: AtomicU64,
    refused: AtomicU64,
    census: Mutex<Option<Census>>,
}

impl Metrics {
    pub(super) fn handled(&self, request: &Request, reply: &Reply, time: Duration) {
        let count = &self.replies[request_kind(request)][reply_kind(reply)];
        count.fetch_add(1, Ordering::Relaxed);
        self.handled.took(time);
    }

    pub(super) fn read_took(&self, time: Duration) {
        self.reads.took(time);
    }

    pub(super) fn write_took(&self, time: Duration, unknown: bool) {
        self.writes.took(time);
        self.unknown.fetch_add(u64::from(unknown), Ordering::Relaxed);
    }

    pub(super) fn race_was_lost(&self) {
        self.races.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn record_was_frozen(&self) {
        self.alarms.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a new connection.
    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was dropped to make room before it sent a request.
    pub(crate) fn dropped_silent(&self) {
        self.dropped_silent.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was dropped to make room while its client asked nothing.
    pub(crate) fn dropped_idle(&self) {
        self.dropped_idle.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection was refused: all others were being answered.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of records in each state at the last sweep.
    pub(super) fn counted(&self, census: Census) {
        *self.census.lock().expect("nothing here panics") = Some(census);
    }

    /// Proofs that were wrong so far.
    pub fn wrong(&self) -> u64 {
        self.replies[REDEEM][WRONG].load(Ordering::Relaxed)
    }

    /// How many records were found changed in the ledger since the start.
    pub fn alarms(&self) -> u64 {
        self.alarms.load(Ordering::Relaxed)
    }

    /// All metrics in the text format of Prometheus.
    pub fn print(&self) -> String {
        let mut out = String::new();
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        let name = "amberfs_vault_requests_total";
        head(&mut out, name, "counter", "Requests, by what was asked and what came of it.");
        for (request, replies) in REQUESTS.iter().zip(&self.replies) {
            for (reply, count) in REPLIES.iter().zip(replies) {
                let count = count.load(Ordering::Relaxed);
                let _ = writeln!(out, "{name}{{request=\"{request}\",reply=\"{reply}\"}} {count}");
            }
        }
        let times = [
            ("amberfs_vault_request_seconds", "Time to answer a request.", &self.handled),
            ("amberfs_vault_ledger_read_seconds", "Time of a read of the ledger.", &self.reads),
            ("amberfs_vault_ledger_write_seconds", "Time of a write.", &self.writes),
        ];
        for (name, help, histogram) in times {
            head(&mut out, name, "histogram", help);
            histogram.print(&mut out, name);
        }
        let counts = [
            ("ledger_unknown", "Writes whose outcome nobody knows.", &self.unknown),
            ("races_lost", "Writes that came second, and were made again.", &self.races),
            ("alarms", "Records found changed behind the vault's back.", &self.alarms),
            ("connections", "Connections accepted.", &self.connections),
            (
                "connections_dropped_silent",
                "Connections dropped to make room before they sent a request.",
                &self.dropped_silent,
            ),
            (
                "connections_dropped_idle",
                "Connections dropped to make room while they asked nothing.",
                &self.dropped_idle,
            ),
            (
                "connections_refused",
                "Connections refused while all others were being answered.",
                &self.refused,
            ),
        ];
        for (name, help, count) in counts {
            let name = format!("amberfs_vault_{name}_total");
            head(&mut out, &name, "counter", help);
            let _ = writeln!(out, "{name} {}", count.load(Ordering::Relaxed));
        }
        if let Some(census) = &*self.census.lock().expect("nothing here panics") {
            let name = "amberfs_vault_records";
            head(&mut out, name, "gauge", "Records at the last sweep, by state.");
            for (state, count) in census.by_state() {
                let _ = writeln!(out, "{name}{{state=\"{state}\"}} {count}");
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text format: every sample is below its own HELP and TYPE, buckets rise, and
    /// the last is the count.
    #[test]
    fn what_is_printed_is_what_prometheus_reads() {
        let metrics = Metrics::default();
        let status = Request::Status { ticket: [7; 16] };
        for millis in [0, 3, 3, 70_000] {
            let reply = Reply::Refused(Refusal::UnknownTicket);
            metrics.handled(&status, &reply, Duration::from_millis(millis));
        }
        metrics.write_took(Duration::from_millis(20), true);
        metrics.dropped_silent();
        metrics.counted(Census { active: 5, ..Census::default() });
        let text = metrics.print();
        let mut known = "";
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                known = rest.split(' ').next().unwrap();
            } else if !line.starts_with('#') {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.starts_with(known) && value.parse::<f64>().is_ok(), "{line}");
            }
        }
        for line in [
            "amberfs_vault_requests_total{request=\"status\",reply=\"refused\"} 4",
            "amberfs_vault_request_seconds_bucket{le=\"0.001\"} 1",
            "amberfs_vault_request_seconds_bucket{le=\"0.005\"} 3",
            "amberfs_vault_request_seconds_bucket{le=\"5\"} 3",
            "amberfs_vault_request_seconds_bucket{le=\"+Inf\"} 4",
            "amberfs_vault_request_seconds_count 4",
            "amberfs_vault_request_seconds_sum 70.006",
            "amberfs_vault_ledger_unknown_total 1",
            "amberfs_vault_connections_dropped_silent_total 1",
            "amberfs_vault_connections_dropped_idle_total 0",
            "amberfs_vault_connections_refused_total 0",
            "amberfs_vault_records{state=\"active\"} 5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in {text}");
        }
        assert!(!text.contains(&"07".repeat(16)), "no ticket");
    }
}
