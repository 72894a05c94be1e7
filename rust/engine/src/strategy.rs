//! What counts as served among the senders of a group, and between groups (rules O6, O7).

use std::collections::{HashSet, VecDeque};

use crate::engine::Engine;
use crate::ids::{GroupId, SenderId};
use crate::sender::Senders;
use crate::settings::{FairBy, Profile};
use crate::{Points, Strategy, Time};

/// How long the last calls took that completed.
#[derive(Default)]
pub(crate) struct RecentCalls {
    micros: VecDeque<u32>,
    sum: u64,
}

impl RecentCalls {
    pub(crate) fn record(&mut self, micros: u64) {
        let micros = u32::try_from(micros).unwrap_or(u32::MAX);
        if self.micros.len() == MOST_CALLS {
            self.sum -= u64::from(self.micros.pop_front().unwrap_or(0));
        }
        self.micros.push_back(micros);
        self.sum += u64::from(micros);
    }

    /// What a call costs that took `micros`, beside these.
    pub(crate) fn cost(&self, micros: u64) -> Points {
        let mean = match self.micros.len() {
            0 => 1_000_000,
            calls => (self.sum / calls as u64).max(1_000),
        };
        let cost = u128::from(micros) * 1_000_000 / u128::from(mean);
        Points::from_millionths(cost.clamp(CHEAPEST, DEAREST) as i64)
    }
}

/// Who said how much in the last minute; how much each sender did is kept with them.
#[derive(Default)]
pub(crate) struct LastMinute {
    /// When, in the low half of the microseconds, and who. None is older than a minute before `last`.
    messages: VecDeque<(u32, SenderId)>,
    last: Time,
    /// How many senders they are of.
    senders: u32,
}

impl LastMinute {
    pub(crate) fn hear(&mut self, sender: SenderId, at: Time, senders: &mut Senders) {
        self.forget_older(at, senders);
        self.messages.push_back((at.as_micros() as u32, sender));
        self.last = self.last.max(at);
        let said = &mut senders[sender].said;
        self.senders += u32::from(*said == 0);
        *said += 1;
    }

    /// What a call of a sender costs: its messages in units of the mean, at least 1.
    pub(crate) fn cost(&mut self, sender: SenderId, now: Time, senders: &mut Senders) -> Points {
        self.forget_older(now, senders);
        let all = (self.messages.len() as u64).max(1);
        let said = u64::from(senders[sender].said) * u64::from(self.senders);
        Points::from_millionths((said * 1_000_000 / all).cast_signed()).max(Points::CALL)
    }

    /// Those senders are no longer remembered.
    pub(crate) fn forget(&mut self, gone: &HashSet<SenderId>, senders: &Senders) {
        self.messages.retain(|(_, sender)| !gone.contains(sender));
        let spoke = gone.iter().filter(|&&id| senders[id].said > 0);
        self.senders -= spoke.count() as u32;
    }

    fn forget_older(&mut self, now: Time, senders: &mut Senders) {
        let silent = now.micros_since(self.last) > MINUTE;
        while let Some(&(at, sender)) = self.messages.front()
            && (silent || u64::from((now.as_micros() as u32).wrapping_sub(at)) > MINUTE)
        {
            self.messages.pop_front();
            let said = &mut senders[sender].said;
            *said -= 1;
            self.senders -= u32::from(*said == 0);
        }
    }
}

impl Profile {
    /// Whether the times of calls have to be kept for a group with one sender, or with `many`.
    fn needs_calls(&self, many: bool) -> bool {
        self.reaches(Strategy::LoadBalanced)
            .is_some_and(|size| many || size <= SMALL)
    }

    fn needs_minute(&self, many: bool) -> bool {
        self.reaches(Strategy::Adaptive)
            .is_some_and(|size| many || size <= SMALL)
    }
}

impl<P> Engine<P> {
    /// A message of a lane counts for what its sender said lately. A group whose strategy could only
    /// ask for that once it is large keeps no record while it has one sender.
    pub(crate) fn note_message(&mut self, id: GroupId, sender: SenderId, at: Time) {
        let group = &self.groups[id];
        let many = group.senders > 1;
        if !group.profile(&self.profile).needs_minute(many) {
            return;
        }
        self.room(id); // makes it
        let room = self.groups[id].room.as_mut();
        if let Some(minute) = room.map(|room| room.minute.get_or_insert_default()) {
            minute.hear(sender, at, &mut self.senders);
        }
    }

    /// What a call costs when it starts.
    pub(crate) fn cost_of_start(&mut self, id: GroupId, sender: SenderId) -> Points {
        let group = &mut self.groups[id];
        match group.strategy(&self.profile) {
            Strategy::Adaptive => {
                let minute = group.room.as_mut().and_then(|room| room.minute.as_mut());
                minute.map_or(Points::CALL, |minute| {
                    minute.cost(sender, self.now, &mut self.senders)
                })
            }
            _ => Points::CALL,
        }
    }

    /// A call has ended that took so long: what it cost in time beyond what it was charged, within
    /// its group and between groups.
    pub(crate) fn corrections(
        &mut self,
        id: GroupId,
        then: Strategy,
        micros: u64,
        charged: Points,
        done: bool,
    ) -> (Points, Points) {
        let by_time = self.profile.settings.fair_by == FairBy::Time;
        let between = if by_time {
            self.calls.cost(micros).minus(charged)
        } else {
            Points::ZERO
        };
        if done && by_time {
            self.calls.record(micros);
        }
        let group = &self.groups[id];
        let many = group.senders > 1;
        let needed = group.profile(&self.profile).needs_calls(many);
        if !needed && then != Strategy::LoadBalanced {
            return (Points::ZERO, between);
        }
        let calls = self.room(id).calls.get_or_insert_default();
        let within = calls.cost(micros).minus(charged);
        if done {
            calls.record(micros);
        }
        (within, between)
    }
}

const MOST_CALLS: usize = 100;
const MINUTE: u64 = 60_000_000;
/// Bounds of a cost in time, in millionths.
const CHEAPEST: u128 = 100_000;
const DEAREST: u128 = 10_000_000;
/// A size that a group may have without anybody noticing that it had one sender before.
const SMALL: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Key as _;

    #[test]
    fn a_call_costs_its_time_in_units_of_the_mean() {
        let mut calls = RecentCalls::default();
        assert_eq!(
            calls.cost(2_000_000),
            Points::from_f64(2.0),
            "1 s until there is one"
        );
        for _ in 0..100 {
            calls.record(500_000);
        }
        assert_eq!(calls.cost(1_000_000), Points::from_f64(2.0));
        assert_eq!(calls.cost(1), Points::from_f64(0.1));
        assert_eq!(calls.cost(60_000_000), Points::from_f64(10.0));
        (0..100).for_each(|_| calls.record(10));
        assert_eq!(calls.cost(2_000), Points::from_f64(2.0), "at least 1 ms");
    }

    #[test]
    fn who_said_most_pays_most() {
        let at = |s: u64| Time::from_micros(s * 1_000_000);
        let group = GroupId::from_slot(std::num::NonZeroU32::MIN);
        let mut senders = Senders::new();
        let [ann, bob] =
            ["ann", "bob"].map(|name| senders.insert(group, name.into(), Points::CALL));
        let mut minute = LastMinute::default();
        (0..8).for_each(|_| minute.hear(ann, at(1), &mut senders));
        (0..2).for_each(|_| minute.hear(bob, at(2), &mut senders));

        assert_eq!(
            minute.cost(ann, at(61), &mut senders),
            Points::from_f64(1.6)
        );
        assert_eq!(minute.cost(bob, at(61), &mut senders), Points::CALL);
        assert_eq!(minute.cost(ann, at(62), &mut senders), Points::CALL);
        minute.hear(ann, at(6_000), &mut senders); // beyond what half a time can tell
        assert_eq!((minute.messages.len(), minute.senders), (1, 1));
    }
}
