//! Who starts next (section O).
//!
//! Two choices, one formula: senders compete within their group, groups compete between each other,
//! each by *score − standing*. Every level has a virtual clock, *now served*, that stands for what a
//! competitor who was always there would have been served.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::{Seq, Time};

/// Points in whole millionths: one point is one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Points(i64);

impl Points {
    pub(crate) const CALL: Self = Self(1_000_000);

    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

/// A level's virtual clock (rule O5).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NowServed {
    points: Points,
    /// What the divisions so far left over; less than there are competitors.
    remainder: u32,
}

impl NowServed {
    /// A competitor starts that stood `behind` points (its standing less its score), among
    /// `competitors` that run or are able, itself included.
    pub(crate) fn advance(&mut self, cost: Points, competitors: u32, behind: Points) {
        let share = cost.0 + i64::from(self.remainder);
        let competitors = i64::from(competitors.max(1));
        self.points = self.points.plus(Points(share / competitors));
        self.remainder = (share % competitors) as u32;
        if self.points < behind {
            *self = Self {
                points: behind,
                remainder: 0,
            };
        }
    }

    /// Where somebody stands who becomes able with a standing of `own`.
    pub(crate) fn welcome(self, own: Points, held_up: HeldUp) -> Points {
        match held_up {
            HeldUp::No => own.max(self.points),
            HeldUp::ByItself => own.max(self.points.minus(Points::CALL)),
        }
    }

    pub(crate) fn points(self) -> Points {
        self.points
    }
}

/// What kept somebody from competing until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldUp {
    /// Something it lacked: messages, a due window, the end of a pause.
    No,
    /// Nothing but its own cap or running call.
    ByItself,
}

/// What a competitor puts forward; the smallest goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    /// Standing less score.
    pub(crate) behind: Points,
    /// Arrival of the batch's first message.
    pub(crate) at: Time,
    /// Between groups the first push to the group, within one that of the message.
    pub(crate) since: Seq,
}

/// Claims of many competitors, with lazy deletion: an entry counts only while its stamp is the one
/// its competitor bears.
pub(crate) struct Contest<K> {
    heap: BinaryHeap<Reverse<(Claim, K, u32)>>,
}

impl<K: Copy + Ord> Contest<K> {
    pub(crate) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
        }
    }

    pub(crate) fn enter(&mut self, claim: Claim, who: K, stamp: u32) {
        self.heap.push(Reverse((claim, who, stamp)));
    }

    /// The one that goes first, left in place. `valid` says whether a stamp is still borne.
    pub(crate) fn best(&mut self, valid: impl Fn(K, u32) -> bool) -> Option<K> {
        loop {
            let &Reverse((_, who, stamp)) = self.heap.peek()?;
            if valid(who, stamp) {
                return Some(who);
            }
            self.heap.pop();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.heap.clear();
    }

    /// Throws out outdated entries once they are most of the heap; `live` bounds the others.
    pub(crate) fn tidy(&mut self, live: usize, valid: impl Fn(K, u32) -> bool) {
        if self.heap.len() > 2 * live + 64 {
            self.heap
                .retain(|&Reverse((_, who, stamp))| valid(who, stamp));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_served_keeps_the_remainder_of_its_divisions() {
        let mut clock = NowServed::default();
        for _ in 0..3 {
            clock.advance(Points::CALL, 3, Points(0));
        }
        assert_eq!(clock.points(), Points::CALL);
    }

    #[test]
    fn now_served_is_never_below_what_started_last() {
        let mut clock = NowServed::default();
        clock.advance(Points::CALL, 4, Points(7_000_000));
        assert_eq!(clock.points(), Points(7_000_000));
    }

    #[test]
    fn idling_earns_nothing() {
        let mut clock = NowServed::default();
        clock.advance(Points::CALL, 1, Points(5_000_000));
        assert_eq!(clock.welcome(Points(0), HeldUp::No), Points(5_000_000));
        assert_eq!(
            clock.welcome(Points(0), HeldUp::ByItself),
            Points(4_000_000)
        );
        assert_eq!(
            clock.welcome(Points(9_000_000), HeldUp::No),
            Points(9_000_000)
        );
    }
}
