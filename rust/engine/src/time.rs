//! Points in time, as whole microseconds that can be stored and replayed.

use std::time::Duration;

/// A point in time: microseconds since the epoch that the driver chose.
///
/// The engine never reads a clock; every `Time` comes in from outside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The earliest point there is.
    pub const ZERO: Self = Self(0);
    /// A point that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// The point `micros` microseconds after the epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The point `span` later; [`Time::NEVER`] when there is no such point.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros(span)))
    }

    /// The first point after this one.
    pub(crate) fn just_after(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// How long ago `earlier` was; zero when it is still to come.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.micros_since(earlier))
    }

    /// The same as a plain number: building a `Duration` takes a division.
    pub(crate) fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Whole microseconds of `span`; [`Duration::MAX`] stands for "for ever".
pub(crate) fn micros(span: Duration) -> u64 {
    span.as_secs()
        .saturating_mul(1_000_000)
        .saturating_add(u64::from(span.subsec_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_ever_is_never_over() {
        assert_eq!(Time::from_micros(5).after(Duration::MAX), Time::NEVER);
    }

    #[test]
    fn what_is_still_to_come_is_zero_ago() {
        assert_eq!(Time::ZERO.since(Time::from_micros(7)), Duration::ZERO);
    }
}
