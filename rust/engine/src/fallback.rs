//! A group that is out of service (rule C6): what there is of it goes to the fallback, one message at a
//! time and in push order, whatever windows and policies say.
//!
//! Its messages wait in a lane of their own, each a batch by itself, in which nothing starts before the
//! calls that ran have ended. Once it is in service again they go back to where they belong, after the
//! call of the fallback that runs.

use crate::Time;
use crate::engine::{Engine, Outbox};
use crate::held::Held;
use crate::ids::{GroupId, LaneId, MessageId};
use crate::message::{Flag, Kind};
use crate::order::HeldUp;
use crate::saved::Saved;
use crate::window::{ClosedBy, Window};

/// What becomes of the messages of a group that is, or was a moment ago, out of service.
pub(crate) struct Fallback {
    /// There while something waits in it or runs.
    pub(crate) lane: Option<LaneId>,
    /// The group is in service again once the call that runs has ended.
    ending: bool,
}

impl<P> Engine<P> {
    /// Takes a group out of service. Returns whether that changed something.
    pub fn disable(&mut self, now: Time, group: &str, out: &mut Outbox<P>) -> bool {
        self.catch_up_in(now, group, out);
        let inbox = self.intake.open(group);
        if self.closing {
            self.take_in(&inbox, inbox.close(), out);
        }
        let id = self.group_of(&inbox);
        if let Some(fallback) = self.fallbacks.get_mut(&id) {
            let changed = std::mem::replace(&mut fallback.ending, false);
            self.review_fallback(id);
            return changed;
        }
        let (lane, ending) = (None, false);
        self.fallbacks.insert(id, Fallback { lane, ending });
        self.divert_all(id, out);
        true
    }

    /// Takes it into service again. Returns whether that changed something.
    pub fn enable(&mut self, now: Time, group: &str, out: &mut Outbox<P>) -> bool {
        let Some(id) = self.catch_up_in(now, group, out) else {
            return false;
        };
        let Some(fallback) = self.fallbacks.get_mut(&id).filter(|it| !it.ending) else {
            return false;
        };
        fallback.ending = true;
        self.review_fallback(id);
        self.end_fallback(id, out);
        true
    }

    /// Whether messages of a group go to the fallback.
    pub(crate) fn is_diverted(&self, id: GroupId) -> bool {
        !self.fallbacks.is_empty() && self.fallbacks.contains_key(&id)
    }

    /// Whether what waits for the fallback may start: no other call of its group runs.
    pub(crate) fn may_fall_back(&self, id: LaneId) -> bool {
        let lane = &self.lanes[id];
        let fallback = self.fallbacks.get(&lane.group);
        let serves = fallback.is_some_and(|fallback| !fallback.ending);
        serves && lane.running == 0 && self.activities[lane.activity].running == 0
    }

    /// A call of a group has ended, or how it is served has changed.
    pub(crate) fn review_fallback(&mut self, id: GroupId) {
        if let Some(lane) = self.fallbacks.get(&id).and_then(|fallback| fallback.lane) {
            self.review_lane(lane, HeldUp::ByItself);
        }
    }

    /// The group goes on as before, unless a call of the fallback still runs.
    pub(crate) fn end_fallback(&mut self, id: GroupId, out: &mut Outbox<P>) {
        let Some(fallback) = self.fallbacks.get(&id).filter(|it| it.ending) else {
            return;
        };
        let lane = fallback.lane;
        if lane.is_some_and(|lane| self.lanes[lane].running > 0) {
            return;
        }
        self.fallbacks.remove(&id);
        let Some(lane) = lane else {
            return;
        };
        if self.lanes[lane].able {
            self.disable_lane(lane);
        }
        let held: Vec<_> = self.lanes[lane].held.iter().map(|it| it.1).collect();
        let held = held
            .into_iter()
            .flat_map(|first| self.release_held(lane, first, out));
        let mut all: Vec<_> = held.collect();
        let first = self.lanes[lane].take_all();
        all.extend(self.messages.chain(first).collect::<Vec<_>>());
        let fresh = all.iter().filter(|&&id| self.counts(id)).count() as u32;
        self.activities[self.lanes[lane].activity].waiting -= fresh;
        self.offer_group(id, HeldUp::No);
        // In their lanes they stand as they arrived.
        all.sort_by_key(|&id| (self.messages[id].at, self.messages[id].seq()));
        for message in all {
            self.messages[message].next = None;
            self.messages[message].unset(Flag::Opens);
            self.put_in_place(id, message, out);
        }
        if self.lanes[lane].is_over() {
            self.drop_lane(lane, out);
        }
        self.trim_context(id, out);
    }

    /// A message goes to where it would be, had its group been in service.
    fn put_in_place(&mut self, group: GroupId, id: MessageId, out: &mut Outbox<P>) {
        if self.messages[id].has(Flag::Listened) {
            if self.messages[id].has(Flag::Started) {
                self.listened_again(Some(id));
            }
            self.messages[id].unset(Flag::Listened);
            self.messages[id].set(Flag::Context);
            self.context(group).push(id);
            return;
        }
        let background = self.messages.is_background(id);
        let sender = self.messages[id].sender;
        let lane = self.lane_of(group, sender, background, out);
        if !self.messages[id].has(Flag::Started) {
            self.place(group, lane, id, out);
            return;
        }
        let held = Held {
            first: id,
            messages: 1,
            context: None,
            context_len: 0,
            attempts: 0,
            until: self.now,
            due: false,
            kind: Kind::Single,
            closed_by: self.messages[id].closed_by(),
            score: self.score_all(group, std::iter::once(id)),
            error: None,
            failed: false,
            put_off: true,
            charged: false,
            behind: None,
            saved: Saved::default(),
            part: false,
            inherits: false,
        };
        self.messages[id].set(Flag::Held);
        let key = self.held.insert(held);
        self.lanes[lane].held.push_back((key, id));
        self.touch(lane);
    }

    /// Whether a message that waits in a lane counts for its group's capacity.
    pub(crate) fn counts(&self, id: MessageId) -> bool {
        let message = &self.messages[id];
        !message.has(Flag::Started) && !message.has(Flag::Listened)
    }

    /// Everything of a group that waits goes to the fallback.
    fn divert_all(&mut self, id: GroupId, out: &mut Outbox<P>) {
        let mut all = self.context_of(id);
        for &message in &all {
            self.context(id).remove(message);
            self.messages[message].unset(Flag::Context);
            self.messages[message].set(Flag::Listened);
        }
        let lanes: Vec<_> = self.lanes_of(id).collect();
        for &lane in &lanes {
            if self.lanes[lane].able {
                self.disable_lane(lane);
            }
            let first = self.lanes[lane].take_all();
            let waiting: Vec<_> = self.messages.chain(first).collect();
            let fresh = waiting.iter().filter(|&&id| self.counts(id)).count() as u32;
            self.activities[self.lanes[lane].activity].waiting -= fresh;
            self.window_timers.set(lane, Time::NEVER);
            all.extend(waiting);
            let held: Vec<_> = self.lanes[lane].held.iter().map(|it| it.1).collect();
            for first in held {
                all.extend(self.release_held(lane, first, out));
            }
            if let Some((first, _)) = self.lanes[lane].context.take() {
                all.extend(self.listened_again(Some(first)));
            }
        }
        self.offer_group(id, HeldUp::No);
        self.divert(id, all, out);
        for lane in lanes {
            if self.lanes[lane].is_over() {
                self.drop_lane(lane, out);
            }
        }
    }

    /// A batch that was to be handed over again is no batch any more: its messages.
    fn release_held(
        &mut self,
        lane: LaneId,
        first: MessageId,
        out: &mut Outbox<P>,
    ) -> Vec<MessageId> {
        let Some(held) = self.take_held(lane, first) else {
            return Vec::new();
        };
        self.lanes[lane].backs_off = false;
        self.forget_batch(held, out)
    }

    /// The same for one that was about to be.
    pub(crate) fn forget_batch(&mut self, held: Held<P>, out: &mut Outbox<P>) -> Vec<MessageId> {
        out.spent.extend(held.error);
        held.saved.forget(out);
        let mut all: Vec<_> = self.messages.chain(Some(held.first)).collect();
        for &id in &all {
            self.messages[id].unset(Flag::Held);
        }
        all.extend(self.listened_again(held.context));
        all
    }

    /// Context that has been part of a call: it counts as listened to and not handed over.
    fn listened_again(&mut self, first: Option<MessageId>) -> Vec<MessageId> {
        let all: Vec<_> = self.messages.chain(first).collect();
        for &id in &all {
            for flag in [Flag::Held, Flag::Started, Flag::Context] {
                self.messages[id].unset(flag);
            }
            self.messages[id].set(Flag::Listened);
        }
        let count = all.len() as u64;
        self.ledger.retrying -= count;
        self.ledger.waiting += count;
        self.beside += count;
        all
    }

    /// Messages go to the fallback, among what waits for it in push order.
    pub(crate) fn divert(&mut self, group: GroupId, all: Vec<MessageId>, out: &mut Outbox<P>) {
        if all.is_empty() {
            return;
        }
        let lane = self.fallback_lane(group, out);
        let waiting: Vec<_> = self.messages.chain(self.lanes[lane].take_all()).collect();
        let mut fresh = all.iter().filter(|&&id| self.counts(id)).count() as u32;
        let mut queue: Vec<_> = waiting.into_iter().chain(all).collect();
        queue.sort_by_key(|&id| self.messages[id].seq());
        self.activities[self.lanes[lane].activity].waiting += std::mem::take(&mut fresh);
        for id in queue {
            self.messages[id].next = None;
            self.queue_for_fallback(lane, id);
        }
        self.review_lane(lane, HeldUp::No);
        if self.lanes[lane].able {
            self.rescore(lane);
        }
    }

    /// A message is the last that waits for the fallback.
    fn queue_for_fallback(&mut self, lane: LaneId, id: MessageId) {
        let at = self.messages[id].at;
        let window = Window::due(at, at, 1, self.messages.size(id));
        self.lanes[lane].append(&mut self.messages, id, Some(window));
        self.messages[id].set_closed_by(ClosedBy::Cut);
    }

    /// A message of a group that is out of service arrives.
    pub(crate) fn arrive_at_fallback(
        &mut self,
        group: GroupId,
        id: MessageId,
        out: &mut Outbox<P>,
    ) {
        let lane = self.fallback_lane(group, out);
        self.queue_for_fallback(lane, id);
        let counted = u32::from(self.counts(id));
        self.activities[self.lanes[lane].activity].waiting += counted;
        self.review_lane(lane, HeldUp::No);
    }
}
