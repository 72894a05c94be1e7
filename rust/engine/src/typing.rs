//! Somebody types: what waits in their lane waits for what they are about to say (rule W8).

use compact_str::CompactString;

use crate::Time;
use crate::deadlines::What;
use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::ids::{GroupId, LaneId};
use crate::settings::Lanes;

impl<P> Engine<P> {
    /// A sender begins to type, goes on, or stops (rule W8).
    pub fn typing(&mut self, now: Time, group: &str, sender: &str, on: bool, out: &mut Outbox<P>) {
        self.catch_up_in(now, group, out);
        if self.observed {
            out.events.push(Event::SenderTyping {
                group: group.into(),
                sender: sender.into(),
                at: self.now,
                on,
            });
        }
        if !on {
            if let Some(group) = self.known(group) {
                self.has_typed(group, sender, self.now, out);
            }
            return;
        }
        let id = self.open_group(group, out);
        let until = self
            .now
            .after(self.groups[id].settings(&self.profile).typing_expires);
        self.groups[id].last_at = self.groups[id].last_at.max(self.now);
        let later = self.later(id);
        if let Some((_, before)) = later.typing.iter_mut().find(|(name, _)| name == sender) {
            *before = until;
        } else if later.typing.len() == MOST_TYPING {
            return;
        } else {
            later.typing.push((CompactString::from(sender), until));
        }
        self.expect_silence(id);
        if let Some(lane) = self.lane_named(id, sender) {
            if let Some(window) = self.lanes[lane].window_mut() {
                window.hold();
            }
            self.touch(lane);
        }
    }

    /// Whether somebody types whose next message would go to the lane of `sender`.
    pub(crate) fn is_typing(&self, group: GroupId, sender: &str) -> bool {
        self.typists(group, sender).next().is_some()
    }

    /// Until when those type whose next message would go to the lane of `sender`.
    fn typists(&self, group: GroupId, sender: &str) -> impl Iterator<Item = Time> {
        let group = &self.groups[group];
        let common = group.settings(&self.profile).lanes == Lanes::Group;
        let typing = group.later().into_iter().flat_map(|later| &later.typing);
        let theirs = typing.filter(move |(name, _)| common || name == sender);
        theirs.map(|&(_, until)| until)
    }

    /// A sender has said something, or no longer means to.
    pub(crate) fn has_typed(
        &mut self,
        group: GroupId,
        sender: &str,
        at: Time,
        out: &mut Outbox<P>,
    ) {
        let Some(later) = self.groups[group].later_mut() else {
            return;
        };
        let before = later.typing.len();
        later.typing.retain(|(name, _)| name != sender);
        if later.typing.len() < before {
            self.release_typed(group, sender, at, out);
        }
    }

    /// Those of whom nothing was heard end typing.
    pub(crate) fn stop_typing(&mut self, group: GroupId, at: Time, out: &mut Outbox<P>) {
        let typing = &mut self.later(group).typing;
        let silent: Vec<_> = typing.extract_if(.., |(_, until)| *until <= at).collect();
        for (sender, _) in silent {
            self.release_typed(group, &sender, at, out);
        }
        self.later(group).typing_at = Time::NEVER;
        self.expect_silence(group);
    }

    /// Looks again when the first of those who type may have stopped: one deadline for all of them,
    /// which may be early.
    fn expect_silence(&mut self, group: GroupId) {
        let later = self.later(group);
        let until = later.typing.iter().map(|(_, until)| *until).min();
        if let Some(until) = until
            && until < later.typing_at
        {
            later.typing_at = until;
            self.remind(group, until, What::Typing, None);
        }
    }

    /// Until when somebody types at the latest whose next message would go to the lane of `sender`.
    pub(crate) fn types_until(&self, group: GroupId, sender: &str) -> Time {
        self.typists(group, sender).max().unwrap_or(Time::ZERO)
    }

    /// The quiet period of their lane starts anew, unless somebody else still types.
    fn release_typed(&mut self, group: GroupId, sender: &str, at: Time, out: &mut Outbox<P>) {
        if self.is_typing(group, sender) {
            return;
        }
        if let Some(lane) = self.lane_named(group, sender) {
            self.release_lane(lane, at, out);
        }
    }

    fn release_lane(&mut self, lane: LaneId, at: Time, out: &mut Outbox<P>) {
        self.close_if_overdue(lane, at, out);
        if self.lanes[lane]
            .window_mut()
            .is_some_and(|window| window.release(at))
        {
            self.touch(lane);
        }
    }
}

/// Whoever types beyond that many in a group is not noticed to the end.
const MOST_TYPING: usize = 1_000;
