//! Starts a second (rule O1): a token each, from a bucket that fills by itself.
//!
//! In whole numbers, so that equal rates give equal instants on every machine.

use crate::{Rate, Time};

/// Tokens, in units of 10^-12.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bucket {
    rate: Rate,
    level: u64,
    /// When that was its level.
    at: Time,
}

impl Bucket {
    /// A full one.
    pub(crate) fn new(rate: Rate, now: Time) -> Self {
        let mut bucket = Self {
            rate,
            level: 0,
            at: now,
        };
        bucket.level = bucket.most();
        bucket
    }

    /// Goes by another rate from now on, with the tokens it has.
    pub(crate) fn set_rate(&mut self, rate: Rate, now: Time) {
        self.fill(now);
        self.rate = rate;
        self.level = self.level.min(self.most());
    }

    /// When there is a token; now or earlier if there is one already.
    pub(crate) fn free_at(&self) -> Time {
        let lacking = u128::from(TOKEN.saturating_sub(self.level));
        let micros = lacking.div_ceil(u128::from(self.rate.per_second_millionths()));
        let at = u128::from(self.at.as_micros()) + micros;
        Time::from_micros(u64::try_from(at).unwrap_or(u64::MAX))
    }

    /// Takes a token, which must be there.
    pub(crate) fn take(&mut self, now: Time) {
        self.fill(now);
        self.level = self.level.saturating_sub(TOKEN);
    }

    /// Whether it is as if it had never been used.
    pub(crate) fn is_full(&self, now: Time) -> bool {
        let mut then = *self;
        then.fill(now);
        then.level == then.most()
    }

    fn fill(&mut self, now: Time) {
        let span = u128::from(now.micros_since(self.at));
        let gained = span * u128::from(self.rate.per_second_millionths());
        let level = (u128::from(self.level) + gained).min(u128::from(self.most()));
        self.level = level as u64;
        self.at = self.at.max(now);
    }

    fn most(&self) -> u64 {
        self.rate.burst_millionths() * (TOKEN / 1_000_000)
    }
}

const TOKEN: u64 = 1_000_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Time {
        Time::from_micros(micros)
    }

    #[test]
    fn after_a_burst_tokens_come_at_the_rate() {
        let mut bucket = Bucket::new(Rate::new(3.0, 2.0).unwrap(), at(0));
        bucket.take(at(0));
        assert_eq!(bucket.free_at(), at(0));
        bucket.take(at(0));

        assert_eq!(bucket.free_at(), at(333_334), "never too early");
        bucket.take(at(333_334));
        assert_eq!(bucket.free_at(), at(666_667), "and nothing of it is lost");
    }

    #[test]
    fn it_holds_no_more_than_its_burst() {
        let mut bucket = Bucket::new(Rate::new(1.0, 1.0).unwrap(), at(0));
        bucket.take(at(0));
        assert!(!bucket.is_full(at(999_999)) && bucket.is_full(at(1_000_000)));
        bucket.take(at(60_000_000));
        assert_eq!(bucket.free_at(), at(61_000_000));
    }
}
