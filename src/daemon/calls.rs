//! What commands ask of a mount beside status, sync and unmount.

use crate::format::ledger::LABEL_MAX;
use crate::format::setting::Retention;
use crate::format::wire::{DecodeError, Decoder, Encoder, Result};
use crate::fs::KeptState;
use crate::io::Timestamp;
use crate::volume::Portion;

const ASK: u8 = 1;
const KEEP: u8 = 2;
const RETENTION: u8 = 3;
const SWEEP: u8 = 4;
const REMOVE_NAMED: u8 = 5;
const REMOVE_AT: u8 = 6;

/// In the order of their numbers in a call.
const PORTIONS: [Option<Portion>; 4] =
    [None, Some(Portion::All), Some(Portion::AllIfFifth), Some(Portion::Fifth)];

/// For how long states of the past are to be kept; what is not given stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewRetention {
    /// Hours for which the newest state of each hour is kept.
    pub hours: Option<u64>,
    /// Days for which the newest state of each day is kept.
    pub days: Option<u64>,
    /// Months for which the newest state of each month is kept.
    pub months: Option<u64>,
}

impl NewRetention {
    /// Whether nothing is given.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Changes what is given.
    pub(crate) fn apply(&self, to: &mut Retention) {
        to.hours = self.hours.unwrap_or(to.hours);
        to.days = self.days.unwrap_or(to.days);
        to.months = self.months.unwrap_or(to.months);
    }
}

/// What a command asks of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// The next head asks the other devices for their answers.
    Ask,
    /// Everything acknowledged is published, and that state is kept under this name. Refused if a state
    /// has it. Answered with its generation and when it was published, seconds since 1970, as two decimal
    /// numbers and a space between.
    Keep(String),
    /// States of the past are kept for so long from here on. Answered with how long that is then, as
    /// three decimal numbers and spaces between: hours, days, months.
    Retention(NewRetention),
    /// What nobody needs is given back as far as the portion says, or only planned if there is none.
    /// Answered with the object of [`super::swept::report`].
    Sweep(Option<Portion>),
    /// Everything acknowledged is published, and this device keeps a state of the past no longer. Answered
    /// as `Keep`.
    Remove(KeptState),
}

impl Call {
    /// Encodes the call.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::new();
        match self {
            Self::Ask => {
                out.u8(ASK);
            }
            Self::Keep(label) => {
                out.u8(KEEP).bytes(label.as_bytes());
            }
            Self::Retention(NewRetention { hours, days, months }) => {
                out.u8(RETENTION);
                for count in [hours, days, months] {
                    out.u8(u8::from(count.is_some())).var(count.unwrap_or(0));
                }
            }
            Self::Remove(KeptState::Named(label)) => {
                out.u8(REMOVE_NAMED).bytes(label.as_bytes());
            }
            Self::Remove(KeptState::At(time)) => {
                out.u8(REMOVE_AT).signed(time.secs).var(u64::from(time.nanos));
            }
            Self::Sweep(portion) => {
                let portion = PORTIONS.iter().position(|of| of == portion);
                out.u8(SWEEP).u8(portion.expect("all are listed") as u8);
            }
        }
        out.finish()
    }

    /// Decodes a call.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let mut input = Decoder::new(bytes);
        let count = |input: &mut Decoder<'_>| -> Result<Option<u64>> {
            let (is_given, count) = (input.flag("count")?, input.var()?);
            if !is_given && count != 0 {
                return Err(DecodeError::Invalid("count"));
            }
            Ok(is_given.then_some(count))
        };
        let label = |input: &mut Decoder<'_>| -> Result<String> {
            let label = input.bytes(LABEL_MAX, "name")?.to_vec();
            let label = String::from_utf8(label).map_err(|_| DecodeError::Invalid("name"))?;
            if label.is_empty() { Err(DecodeError::Invalid("name")) } else { Ok(label) }
        };
        let call = match input.u8()? {
            ASK => Self::Ask,
            KEEP => Self::Keep(label(&mut input)?),
            RETENTION => Self::Retention(NewRetention {
                hours: count(&mut input)?,
                days: count(&mut input)?,
                months: count(&mut input)?,
            }),
            REMOVE_NAMED => Self::Remove(KeptState::Named(label(&mut input)?)),
            REMOVE_AT => {
                let (secs, nanos) = (input.signed()?, input.var_max(999_999_999, "time")?);
                Self::Remove(KeptState::At(Timestamp { secs, nanos: nanos as u32 }))
            }
            SWEEP => {
                let portion = PORTIONS.get(usize::from(input.u8()?));
                Self::Sweep(*portion.ok_or(DecodeError::Invalid("portion"))?)
            }
            _ => return Err(DecodeError::Invalid("command")),
        };
        input.end()?;
        Ok(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_survive_and_every_cut_is_refused() {
        let some = NewRetention { hours: Some(1), days: None, months: Some(u64::MAX) };
        let calls = [Call::Ask, Call::Keep("before the trip".into()), Call::Retention(some)];
        let at = Timestamp { secs: -7, nanos: 999_999_999 };
        let removed = [KeptState::Named("x".into()), KeptState::At(at)].map(Call::Remove);
        for call in calls.into_iter().chain(PORTIONS.map(Call::Sweep)).chain(removed) {
            let bytes = call.encode();
            assert_eq!(Call::decode(&bytes), Ok(call));
            for cut in 0..bytes.len() {
                assert!(Call::decode(&bytes[..cut]).is_err(), "{cut}");
            }
            assert!(Call::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
        for bad in
            [&[9][..], &[KEEP, 0], &[KEEP, 1, 0xff], &[RETENTION, 0, 1, 0, 0, 0, 0], &[SWEEP, 4]]
        {
            assert!(Call::decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_not_given_stays() {
        let mut retention = Retention::new(1, 2, 3);
        NewRetention { days: Some(9), ..NewRetention::default() }.apply(&mut retention);
        assert_eq!(retention, Retention::new(1, 9, 3));
        assert!(NewRetention::default().is_empty());
    }
}
