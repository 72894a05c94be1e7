//! Who starts next (section O).
//!
//! Two choices, one formula: senders compete within their group, groups compete between each other,
//! each by *score − standing*. Every level has a virtual clock, *now served*, that stands for what a
//! competitor who was always there would have been served.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::message::{Flag, Message};
use crate::{Points, Seq, Settings, Time, Weight};

/// What a batch has to say for itself, in parts (rule O3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)] // named after the settings they come from
pub struct Score {
    pub real_time: Points,
    pub back_to_back: Points,
    pub burst: Points,
    pub sender: Points,
    pub rank: Points,
}

impl Score {
    /// All of it.
    pub fn total(&self) -> Points {
        let flags = self.real_time.plus(self.back_to_back).plus(self.burst);
        flags.plus(self.sender).plus(self.rank)
    }

    /// That of a batch of one message, whose sender weighs `weight`.
    pub(crate) fn of<P>(
        message: &Message<P>,
        rank: Points,
        weight: Points,
        settings: &Settings,
    ) -> Self {
        let flag = |flag, points| {
            if message.has(flag) {
                points
            } else {
                Points::ZERO
            }
        };
        let sender = if weight == Points::ZERO {
            Points::ZERO
        } else {
            Points::from_f64(settings.sender * weight.as_f64())
        };
        Self {
            real_time: flag(Flag::RealTime, settings.real_time),
            back_to_back: flag(Flag::BackToBack, settings.back_to_back_points),
            burst: flag(Flag::Burst, settings.burst_points),
            sender,
            rank,
        }
    }

    /// That of a batch which gains another message. Points of a flag may be below 0 as well.
    pub(crate) fn join(&mut self, other: &Self, settings: &Settings) {
        let either = |one: &mut Points, other: Points| {
            if *one == Points::ZERO {
                *one = other;
            }
        };
        either(&mut self.real_time, other.real_time);
        either(&mut self.back_to_back, other.back_to_back);
        either(&mut self.burst, other.burst);
        self.rank = self.rank.max(other.rank);
        // The part of the largest weight.
        self.sender = if settings.sender < 0.0 {
            self.sender.min(other.sender)
        } else {
            self.sender.max(other.sender)
        };
    }
}

/// A level's virtual clock (rule O5).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct NowServed {
    pub(crate) points: Points,
    /// What the divisions so far left over; less than the summed weights.
    pub(crate) remainder: u64,
}

impl NowServed {
    /// A sender starts that stood `behind` points (its standing less its score), among
    /// `competitors` that run or are able, itself included.
    pub(crate) fn advance(&mut self, cost: Points, competitors: u32, behind: Points) {
        self.divide(cost.as_millionths(), u64::from(competitors.max(1)), behind);
    }

    /// The same for a group, among such as weigh `weights` millionths together.
    pub(crate) fn advance_by_weight(&mut self, cost: Points, weights: u64, behind: Points) {
        let cost = cost.as_millionths() * Weight::ONE.as_millionths().cast_signed();
        self.divide(cost, weights.max(1), behind);
    }

    fn divide(&mut self, cost: i64, among: u64, behind: Points) {
        let share = cost.unsigned_abs() + self.remainder;
        let points = Points::from_millionths((share / among).cast_signed());
        self.points = self.points.plus(points);
        self.remainder = share % among;
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
}

/// What a start adds to the standing of a group that weighs `weight`; `cost` may be a correction.
pub(crate) fn weighed(cost: Points, weight: Weight) -> Points {
    if weight == Weight::ONE {
        return cost;
    }
    let cost = i128::from(cost.as_millionths()) * i128::from(Weight::ONE.as_millionths());
    Points::from_millionths(cost.div_euclid(i128::from(weight.as_millionths())) as i64)
}

/// What an arrival is worth under [`crate::Strategy::Priority`]: the earlier, the less it is behind.
pub(crate) fn aged(at: Time, aging: Points) -> Points {
    let points = i128::from(at.as_micros()) * i128::from(aging.as_millionths());
    let points = points.div_euclid(1_000_000);
    Points::from_millionths(i64::try_from(points).unwrap_or(i64::MAX))
}

/// What kept somebody from competing until now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldUp {
    /// Something it lacked: messages, a due window, a token, the end of a pause.
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
            clock.advance(Points::CALL, 3, Points::ZERO);
        }
        assert_eq!(clock.points, Points::CALL);
    }

    #[test]
    fn now_served_is_never_below_what_started_last() {
        let mut clock = NowServed::default();
        clock.advance(Points::CALL, 4, Points::from_millionths(7_000_000));
        assert_eq!(clock.points, Points::from_millionths(7_000_000));
    }

    #[test]
    fn idling_earns_nothing() {
        let mut clock = NowServed::default();
        clock.advance(Points::CALL, 1, Points::from_millionths(5_000_000));
        assert_eq!(
            clock.welcome(Points::from_millionths(0), HeldUp::No),
            Points::from_millionths(5_000_000)
        );
        assert_eq!(
            clock.welcome(Points::from_millionths(0), HeldUp::ByItself),
            Points::from_millionths(4_000_000)
        );
        assert_eq!(
            clock.welcome(Points::from_millionths(9_000_000), HeldUp::No),
            Points::from_millionths(9_000_000)
        );
    }
}
