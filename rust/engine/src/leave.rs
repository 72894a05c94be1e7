//! What waits leaves before it starts: withdrawn, expired, evicted or superseded (rules W7, W9).

use crate::Size;
use crate::arrival::EVERYBODY;
use crate::engine::{Engine, Outbox};
use crate::ids::{GroupId, LaneId, MessageId};
use crate::lane::Unlinked;
use crate::lease::Fate;
use crate::ledger::End;
use crate::message::{Flag, Place};
use crate::order::HeldUp;
use crate::settings::Lanes;
use crate::window::{Found, Window};

impl<P> Engine<P> {
    /// Ends a message that has not started, wherever it waits.
    pub(crate) fn leave(
        &mut self,
        group: GroupId,
        id: MessageId,
        end: End,
        reason: &'static str,
        out: &mut Outbox<P>,
    ) {
        let place = self.messages[id].place();
        self.messages[id].set(Flag::Leaving);
        let mut lane = None;
        match place {
            Place::Call | Place::Held => unreachable!("it has started"),
            Place::Lane => lane = self.leave_window(group, id),
            Place::Delayed => {
                self.later(group).delayed -= 1;
                let record = &mut self.groups[group];
                record.last_at = record.last_at.max(self.moment);
                self.release(group, 1);
            }
            Place::Context => {
                self.context(group).remove(id);
                self.beside -= 1;
            }
            Place::Bypass => {
                self.bypass.retain(|&(_, other)| other != id);
                self.beside -= 1;
                self.intake.end_bypass();
            }
        }
        if self.messages[id].has(Flag::Started) {
            self.ledger.retrying -= 1;
        } else {
            self.ledger.waiting -= 1;
            if self.messages[id].has(Flag::Listened) {
                self.beside -= 1;
            } else if place == Place::Lane {
                self.release(group, 1);
            }
        }
        self.end_messages(group, Some(id), end, reason, None, out);
        if let Some(lane) = lane
            && self.lanes[lane].is_over()
        {
            self.drop_lane(lane, out);
        }
    }

    /// Of what waits in a lane and could share the batch of a newcomer, itself included, the one with
    /// the newest `at` stays (rule W9). The newcomer has joined.
    pub(crate) fn supersede(&mut self, lane: LaneId, out: &mut Outbox<P>) {
        let group = self.lanes[lane].group;
        let settings = self.groups[group].settings(&self.profile);
        let window = self.lanes[lane].window();
        let max_gap = window.and_then(|window| window.max_gap(settings));
        // The unbroken run at the end of the lane.
        let mut run: Vec<MessageId> = Vec::new();
        for next in self.messages.chain(self.lanes[lane].head()) {
            let cut = run.last().is_some_and(|&last| {
                let (last, newcomer) = (self.messages.newcomer(last), self.messages.newcomer(next));
                self.messages[next].has(Flag::Opens) && last.is_cut_from(&newcomer, max_gap)
            });
            if cut {
                run.clear();
            }
            run.push(next);
        }
        run.retain(|&id| !self.messages[id].has(Flag::Started)); // never what has started
        let at = |&id: &MessageId| {
            let given = self.messages.extra(id).and_then(|extra| extra.at);
            given.unwrap_or(self.messages[id].at)
        };
        let stays = run.iter().copied().max_by_key(at);
        if let Some(stays) = stays {
            self.interrupt_as(lane, &run, stays);
        }
        for old in run.into_iter().filter(|&old| Some(old) != stays) {
            self.leave(group, old, End::Superseded, "superseded", out);
        }
    }

    /// What one of these messages has interrupted goes behind the one of them that stays.
    fn interrupt_as(&mut self, lane: LaneId, run: &[MessageId], stays: MessageId) {
        let seq = self.messages[stays].seq();
        let record = &mut self.lanes[lane];
        if record.interrupter.is_some_and(|it| run.contains(&it)) {
            record.interrupter = Some(stays);
        }
        if let Some(slot) = record.call
            && let Some(ending) = &mut self.leases[slot].ending
            && let Fate::Resumed { behind, .. } = &mut ending.fate
            && run.contains(&behind.0)
        {
            *behind = (stays, seq);
        }
    }

    fn leave_window(&mut self, group: GroupId, id: MessageId) -> Option<LaneId> {
        let lane = self.lane_holding(group, id)?;
        if self.counts(id) {
            self.activities[self.lanes[lane].activity].waiting -= 1;
        }
        self.take_out_of_window(lane, id);
        self.review_lane(lane, HeldUp::No);
        self.touch(lane);
        Some(lane)
    }

    /// Takes a message out of its lane; neighbours that now fit join (rule W7).
    pub(crate) fn take_out_of_window(&mut self, lane: LaneId, id: MessageId) {
        let left = self.take_out(lane, id);
        self.lanes[lane].best_score(&self.messages); // what has left is no offer
        // Whether the batch that the lane puts forward is not what it was.
        let mut changed = left.before.is_none() || left.window.is_none();
        if !self.lanes_are(lane, Lanes::Message) && !self.lanes[lane].fallback {
            let mut first = left.window.or(left.before);
            if let (Some(before), Some(window)) = (left.before, left.window)
                && self.join_windows(lane, before, window)
            {
                first = Some(before);
            }
            if let Some(first) = first {
                if self.lanes[lane].opened() != Some(first) {
                    let last = self.messages.window(first).last().unwrap_or(first);
                    if let Some(next) = self.messages[last].next {
                        self.join_windows(lane, first, next);
                    }
                }
                changed |= self.lanes[lane].head() == Some(first);
            }
        }
        self.lanes[lane].shrunk |= changed; // many may leave before anybody looks
    }

    /// Takes a message out of the window that it is in.
    pub(crate) fn take_out(&mut self, lane: LaneId, id: MessageId) -> Unlinked {
        let left = self.lanes[lane].unlink(&mut self.messages, id);
        let in_last = self.lanes[lane].opened() == Some(left.window.unwrap_or(id));
        match left.window {
            Some(_) if in_last => self.shrink_last(lane, id),
            None if in_last => {
                let last = left.before.map(|before| (before, self.due_window(before)));
                self.lanes[lane].set_last(last);
            }
            _ => {}
        }
        left
    }

    /// The last window has lost a message and is not empty.
    fn shrink_last(&mut self, lane: LaneId, gone: MessageId) {
        let Self {
            lanes,
            groups,
            profile,
            messages,
            moment,
            ..
        } = self;
        let lane = &mut lanes[lane];
        let Some(tail) = lane.tail() else {
            return;
        };
        let found = match &messages[tail] {
            message if message.has(Flag::FoundIdle) => Found::Idle,
            message if message.has(Flag::FoundBusy) => Found::Busy,
            _ => Found::Waiting,
        };
        let call_ended = (lane.running == 0).then_some(*moment);
        let settings = groups[lane.group].settings(profile);
        if let Some(window) = lane.window_mut() {
            let (size, tail) = (messages.size(gone), messages.newcomer(tail));
            window.leave(size, &tail, found, call_ended, settings);
        }
    }

    /// Makes one of two neighbours if they fit. The first has been cut, so it is due, and so is what
    /// comes of them.
    pub(crate) fn join_windows(
        &mut self,
        lane: LaneId,
        first: MessageId,
        second: MessageId,
    ) -> bool {
        let settings = self.groups[self.lanes[lane].group].settings(&self.profile);
        let tail = self.messages.window(first).last().unwrap_or(first);
        let (tail, head) = (self.messages.newcomer(tail), self.messages.newcomer(second));
        if tail.is_cut_from(&head, settings.max_gap) {
            return false;
        }
        let both = self
            .messages
            .window(first)
            .chain(self.messages.window(second));
        let size = both.fold(Size::ZERO, |sum, id| sum.plus(self.messages.size(id)));
        if settings.max_batch.is_some_and(|max_batch| size > max_batch) {
            return false;
        }
        self.messages[second].unset(Flag::Opens);
        self.messages.forget_due(second);
        if self.lanes[lane].opened() == Some(second) {
            let last = (first, self.due_window(first));
            self.lanes[lane].set_last(Some(last));
        }
        true
    }

    /// A window that is due, from its messages.
    pub(crate) fn due_window(&self, first: MessageId) -> Window {
        let (mut messages, mut size, mut last) = (0, Size::ZERO, self.messages[first].at);
        for id in self.messages.window(first) {
            messages += 1;
            size = size.plus(self.messages.size(id));
            last = self.messages[id].at;
        }
        Window::due(self.messages[first].at, last, messages, size)
    }

    /// The lane that a message waits in.
    pub(crate) fn lane_holding(&self, group: GroupId, id: MessageId) -> Option<LaneId> {
        if self.is_diverted(group)
            && let Some(lane) = self.fallbacks.get(&group).and_then(|it| it.lane)
            && (self
                .messages
                .chain(self.lanes[lane].head())
                .any(|it| it == id)
                || self.lanes[lane].held.iter().any(|&(_, it)| it == id))
        {
            return Some(lane);
        }
        let sender = match self.groups[group].settings(&self.profile).lanes {
            Lanes::Group => self.senders.find(group, EVERYBODY)?,
            Lanes::Sender | Lanes::Message => self.messages[id].sender,
        };
        self.lane_of_sender(sender, self.messages.is_background(id))
    }
}
