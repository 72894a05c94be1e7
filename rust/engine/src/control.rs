//! What one may tell the queue to do (section C).
//!
//! Every verb drains the inboxes first, so that it finds what was pushed before it (rule T1).

use std::sync::Arc;
use std::time::Duration;

use crate::admission::{Arrival, GroupInbox};
use crate::arrival::EVERYBODY;
use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::ids::{GroupId, LaneId, LeaseSlot, MessageId, SenderId};
use crate::lease::{Ending, Fate, Heir};
use crate::ledger::End;
use crate::message::{Flag, Place};
use crate::order::HeldUp;
use crate::settings::Lanes;
use crate::window::ClosedBy;
use crate::{Seq, Time};

impl<P> Engine<P> {
    /// Stops starts in a group, or in all (rule C1). Returns whether that changed something.
    pub fn pause(
        &mut self,
        now: Time,
        group: Option<&str>,
        span: Option<Duration>,
        out: &mut Outbox<P>,
    ) -> bool {
        self.catch_up_before(now, out);
        let until = span.map_or(Time::NEVER, |span| self.now.after(span));
        let before = match group {
            None => self.paused.replace(until),
            Some(name) => {
                let id = self.open_group(name, out);
                self.pause_timers.set(id, until);
                self.set_paused(id, true);
                self.pauses.insert(id, until)
            }
        };
        if self.observed && before != Some(until) {
            let until = (until != Time::NEVER).then_some(until);
            out.events.push(Event::GroupPaused {
                group: group.map(Into::into),
                at: self.now,
                until,
            });
        }
        before != Some(until)
    }

    /// Lets a group, or all, start again. Returns whether that changed something.
    pub fn resume(&mut self, now: Time, group: Option<&str>, out: &mut Outbox<P>) -> bool {
        self.catch_up_before(now, out);
        match group {
            None => self.lift_queue_pause(out),
            Some(name) => match self.known(name) {
                Some(id) => self.lift_pause(id, out),
                None => false,
            },
        }
    }

    /// Pauses whose time is over before `until` end.
    pub(crate) fn end_pauses(&mut self, until: Time, out: &mut Outbox<P>) {
        if self.paused.is_some_and(|end| end < until) {
            self.lift_queue_pause(out);
        }
        while let Some(id) = self.pause_timers.pop(until) {
            self.lift_pause(id, out);
        }
    }

    /// Ends all that waits in a group, or in all, as `cleared` (rule C2). Returns how many messages.
    pub fn clear(&mut self, now: Time, group: Option<&str>, out: &mut Outbox<P>) -> u64 {
        match group {
            None => {
                self.catch_up_before(now, out);
                self.end_all_waiting(End::Cleared, "cleared", out)
            }
            Some(name) => match self.catch_up_in(now, name, out) {
                Some(id) => self.end_waiting(id, End::Cleared, "cleared", out),
                None => 0,
            },
        }
    }

    /// Ends all that waits in a group as `cleared` and asks its calls to end, which makes their
    /// messages `abandoned` (rule C3); of a sender, their messages, and the calls that are theirs
    /// alone. Returns how many messages and how many calls.
    pub fn stop(
        &mut self,
        now: Time,
        group: &str,
        sender: Option<&str>,
        out: &mut Outbox<P>,
    ) -> (u64, u64) {
        let Some(id) = self.catch_up_in(now, group, out) else {
            return (0, 0);
        };
        let sender = match sender {
            None => None,
            Some(name) => match self.senders.find(id, name) {
                None => return (0, 0),
                known => known,
            },
        };
        let messages = match sender {
            None => self.end_waiting(id, End::Cleared, STOPPED, out),
            Some(sender) => self.end_waiting_of(id, sender, out),
        };
        let theirs = |first| {
            let mut messages = self.messages.chain(Some(first));
            messages.all(|id| sender.is_none_or(|sender| self.messages[id].sender == sender))
        };
        let leases = self.calls_of(id);
        let calls: Vec<_> = leases
            .filter(|&slot| theirs(self.leases[slot].first))
            .map(|slot| self.leases[slot].id(slot))
            .collect();
        for &call in &calls {
            let ending = Ending {
                reason: STOPPED,
                fate: Fate::Abandoned,
                heir: None,
            };
            if !self.ask_to_end(call, ending, out) {
                self.leases[call.slot()].stop(); // it is ending, and would be tried again
            }
        }
        (messages, calls.len() as u64)
    }

    /// Ends what a sender has waiting, wherever it waits.
    fn end_waiting_of(&mut self, group: GroupId, sender: SenderId, out: &mut Outbox<P>) -> u64 {
        let context = self.context_of(group).into_iter();
        let context = context.map(|id| (self.messages[id].seq(), id));
        let waiting: Vec<_> = self
            .all_waiting_in(group)
            .into_iter()
            .chain(context)
            .collect();
        let mut count = 0;
        for (seq, id) in waiting {
            // A lane that leaves can shrink the group, and that evict others.
            let message = self.messages.get(id, seq);
            if message.is_some_and(|message| message.sender == sender) {
                self.leave(group, id, End::Cleared, STOPPED, out);
                count += 1;
            }
        }
        let lanes: Vec<_> = self.lanes_of(group).collect();
        for lane in lanes {
            if self.lanes.get(lane).is_some() {
                count += self.end_held_of(group, lane, sender, out);
            }
        }
        count + self.clear_ongoing(group, Some(sender), (End::Cleared, STOPPED))
    }

    /// Makes what waits in a group, or in one lane of it, due (rule C5). Returns how many windows.
    pub fn flush(
        &mut self,
        now: Time,
        group: &str,
        sender: Option<&str>,
        out: &mut Outbox<P>,
    ) -> u64 {
        let Some(group) = self.catch_up_in(now, group, out) else {
            return 0;
        };
        let asked_for: Vec<_> = match sender {
            None => self.lanes_of(group).collect(),
            Some(name) => [false, true]
                .into_iter()
                .filter_map(|background| self.lane_of_name(group, name, background))
                .collect(),
        };
        self.flush_lanes(&asked_for, ClosedBy::Flush, out)
    }

    /// Takes back a message that has not started (rule C4). Returns whether it was in time.
    pub fn withdraw(&mut self, now: Time, group: &str, id: &str, out: &mut Outbox<P>) -> bool {
        let Some((group, message)) = self.not_started(now, group, id, out) else {
            return false;
        };
        if self.messages[message].place() == Place::Held {
            self.leave_held(group, message, End::Withdrawn, "withdrawn", out);
        } else {
            self.leave(group, message, End::Withdrawn, "withdrawn", out);
        }
        true
    }

    /// Changes what a message says that has not started; it keeps its place, its id and its timers
    /// (rule C4). One whose call runs is handed over again, if `restart` says so and the call may be
    /// interrupted. Gives the payload back if it is too late.
    pub fn edit(
        &mut self,
        now: Time,
        group: &str,
        id: &str,
        payload: P,
        restart: bool,
        out: &mut Outbox<P>,
    ) -> Result<(), P> {
        let found = self.not_started(now, group, id, out);
        let Some((group, message)) = found.or_else(|| {
            let found = restart.then(|| self.known(group)).flatten();
            found.and_then(|group| Some((group, self.restart_with(group, id, out)?)))
        }) else {
            return Err(payload);
        };
        let id = self
            .messages
            .extra(message)
            .and_then(|extra| extra.id.clone());
        let message = &mut self.messages[message];
        let seq = message.seq();
        out.replaced
            .push(std::mem::replace(&mut message.payload, payload));
        if self.observed {
            out.events.push(Event::MessageEdited {
                seq,
                group: self.groups[group].name().clone(),
                at: self.now,
                id,
            });
        }
        Ok(())
    }

    /// Takes in what was pushed and lets happen what is over time, so that places may be free
    /// (rules A4, A5).
    pub fn make_room(&mut self, now: Time, out: &mut Outbox<P>) {
        self.catch_up_before(now, out);
    }

    fn not_started(
        &mut self,
        now: Time,
        group: &str,
        id: &str,
        out: &mut Outbox<P>,
    ) -> Option<(GroupId, MessageId)> {
        let group = self.catch_up_in(now, group, out)?;
        let message = self.find_message(group, id)?;
        let running = self.messages[message].place() == Place::Call;
        (!running && self.messages.is_new(message)).then_some((group, message))
    }

    /// Interrupts the first attempt at a message, so that it is handed over again (rule C4).
    fn restart_with(&mut self, group: GroupId, id: &str, out: &mut Outbox<P>) -> Option<MessageId> {
        let message = self.find_message(group, id)?;
        let holds = |&slot: &LeaseSlot| {
            let mut messages = self.messages.chain(Some(self.leases[slot].first));
            messages.any(|other| other == message)
        };
        let slot = self.calls_of(group).find(holds)?;
        let lease = &self.leases[slot];
        let most = self.groups[group].settings(&self.profile).max_interrupts;
        let paused = self.paused.is_some() || self.pauses.contains_key(&group);
        let open = !lease.is_ending() && !lease.committed && lease.attempt == 1;
        if !open || lease.shields > 0 || paused || lease.put_off >= most {
            return None;
        }
        let (call, lane, alone) = (lease.id(slot), lease.lane?, lease.lanes == Lanes::Message);
        let heir = Heir {
            lane,
            message: alone.then(|| (message, self.messages[message].seq())),
        };
        let ending = Ending {
            reason: "restarted",
            fate: Fate::Merged { as_new: true },
            heir: Some(heir),
        };
        self.metrics.interruptions += 1;
        self.ask_to_end(call, ending, out);
        Some(message)
    }

    /// Refuses pushes from now on and makes every window due (rule C8).
    pub fn close(&mut self, now: Time, out: &mut Outbox<P>) {
        self.catch_up_before(now, out);
        if self.closing {
            return;
        }
        self.closing = true;
        // Pushes that raced with the closing are in the inboxes, which take no more from here on.
        for inbox in self.intake.close() {
            self.take_in(&inbox, inbox.close(), out);
        }
        self.line.send_home();
        self.end_delays(out);
        let lanes: Vec<_> = self.lanes.iter().map(|(id, _)| id).collect();
        self.flush_lanes(&lanes, ClosedBy::Drain, out);
        if self.observed {
            out.events.push(Event::QueueClosed { at: self.now });
        }
    }

    /// Ends all that waits as `abandoned`; running calls end by themselves, or are abandoned one by one.
    pub fn abandon(&mut self, now: Time, out: &mut Outbox<P>) {
        self.catch_up_before(now, out);
        self.end_all_waiting(End::Abandoned, "closed", out);
    }

    fn lift_queue_pause(&mut self, out: &mut Outbox<P>) -> bool {
        if self.paused.take().is_none() {
            return false;
        }
        if self.observed {
            out.events.push(Event::GroupResumed {
                group: None,
                at: self.now,
            });
        }
        let active = self
            .groups
            .iter()
            .filter(|(_, group)| group.activity.is_some());
        let active: Vec<_> = active.map(|(id, _)| id).collect();
        for id in active {
            self.fire_all_in(id, out);
        }
        true
    }

    fn lift_pause(&mut self, id: GroupId, out: &mut Outbox<P>) -> bool {
        if self.pauses.remove(&id).is_none() {
            return false;
        }
        self.pause_timers.set(id, Time::NEVER);
        self.groups[id].last_at = self.now;
        self.set_paused(id, false);
        if self.observed {
            let group = Some(self.groups[id].name().clone());
            out.events.push(Event::GroupResumed {
                group,
                at: self.now,
            });
        }
        self.fire_all_in(id, out);
        true
    }

    fn set_paused(&mut self, id: GroupId, on: bool) {
        if let Some(activity) = self.groups[id].activity {
            self.activities[activity].paused = on;
            self.offer_group(id, HeldUp::No);
        }
    }

    fn end_all_waiting(&mut self, end: End, reason: &'static str, out: &mut Outbox<P>) -> u64 {
        for inbox in self.intake.all() {
            self.take_in(&inbox, inbox.drain(), out);
        }
        let groups: Vec<_> = self.groups.iter().map(|(id, _)| id).collect();
        groups
            .into_iter()
            .map(|id| self.end_waiting(id, end, reason, out))
            .sum()
    }

    fn end_waiting(
        &mut self,
        group: GroupId,
        end: End,
        reason: &'static str,
        out: &mut Outbox<P>,
    ) -> u64 {
        let delayed = self.delayed_in(group).into_iter();
        let mut beside: Vec<_> = delayed.map(|(_, id)| id).collect();
        beside.extend(self.context_of(group));
        if end == End::Abandoned {
            let bypassing = self.bypass.iter();
            beside.extend(bypassing.filter(|it| it.0 == group).map(|it| it.1));
        }
        let mut count = beside.len() as u64;
        for id in beside {
            self.leave(group, id, end, reason, out);
        }
        let lanes: Vec<_> = self.lanes_of(group).collect();
        for &id in &lanes {
            count += self.empty_lane(id, end, reason, out);
        }
        count += self.clear_ongoing(group, None, (end, reason));
        self.offer_group(group, HeldUp::No);
        for id in lanes {
            if self.lanes[id].is_over() {
                self.drop_lane(id, out);
            }
        }
        count
    }

    fn empty_lane(
        &mut self,
        id: LaneId,
        end: End,
        reason: &'static str,
        out: &mut Outbox<P>,
    ) -> u64 {
        if self.lanes[id].able {
            self.disable_lane(id);
        }
        let lane = &mut self.lanes[id];
        let (group, activity, count) = (lane.group, lane.activity, lane.waiting);
        let first = lane.take_all();
        let again = self.end_held(id, end, reason, out);
        let started = self.messages.chain(first);
        let started = started.filter(|&id| self.messages[id].has(Flag::Started));
        let started = started.count() as u32;
        let listened = self.messages.chain(first);
        let listened = listened.filter(|&id| self.messages[id].has(Flag::Listened));
        let places = count - started - listened.count() as u32;
        self.beside -= u64::from(count - started - places);
        self.activities[activity].waiting -= places;
        self.window_timers.set(id, Time::NEVER);
        let (context, listened) = match self.lanes[id].context.take() {
            Some((first, count)) => (Some(first), count),
            None => (None, 0),
        };
        self.ledger.waiting -= u64::from(count - started);
        self.ledger.retrying -= u64::from(started + listened);
        self.release(group, places);
        for first in [first, context] {
            self.end_messages(group, first, end, reason, None, out);
        }
        u64::from(count + listened) + again
    }

    /// What an interruption under way would bring back ends as well, when its call has (rule C2). Of a
    /// sender, if all of it is theirs.
    fn clear_ongoing(
        &mut self,
        group: GroupId,
        sender: Option<SenderId>,
        (end, reason): (End, &'static str),
    ) -> u64 {
        let calls: Vec<_> = self.calls_of(group).collect();
        let mut count = 0;
        for slot in calls {
            let lease = &self.leases[slot];
            let mut messages = self.messages.chain(Some(lease.first));
            let theirs = messages.all(|id| sender.is_none_or(|it| self.messages[id].sender == it));
            let messages = u64::from(lease.messages + lease.context_len);
            let Some(ending) = &mut self.leases[slot].ending else {
                continue;
            };
            if theirs && ending.fate.comes_back() {
                ending.fate = Fate::Ended(end, reason);
                self.promised -= u32::from(ending.heir.take().is_some());
                count += messages;
            }
        }
        count
    }

    fn flush_lanes(&mut self, lanes: &[LaneId], by: ClosedBy, out: &mut Outbox<P>) -> u64 {
        let mut flushed = 0;
        for &id in lanes {
            if self.lanes[id]
                .window()
                .is_some_and(|window| !window.is_due())
            {
                flushed += 1;
                self.close_window(id, by, out);
                self.touch(id);
            }
        }
        self.look_at_lanes(self.now, out);
        flushed
    }
}

pub(crate) const STOPPED: &str = "stopped";

/// Finding one's way.
impl<P> Engine<P> {
    /// Brings everything up to `now` for a verb about one group, if that group has been met.
    ///
    /// Its inbox is looked into even when it is not on the ready list: a second producer's push can
    /// be in it while the first has yet to put it on the list.
    pub(crate) fn catch_up_in(
        &mut self,
        now: Time,
        group: &str,
        out: &mut Outbox<P>,
    ) -> Option<GroupId> {
        self.catch_up_before(now, out);
        let inbox = self.intake.find(group)?;
        self.take_in(&inbox, inbox.drain(), out);
        self.look_at_lanes(self.now, out);
        inbox.group().group_id()
    }

    pub(crate) fn take_in(
        &mut self,
        inbox: &Arc<GroupInbox<P>>,
        arrivals: impl Iterator<Item = Arrival<P>>,
        out: &mut Outbox<P>,
    ) {
        let mut arrivals = arrivals.peekable();
        if arrivals.peek().is_some() {
            let group = self.group_of(inbox);
            arrivals.for_each(|arrival| self.arrive(group, arrival, out));
        }
    }

    /// A group by name, met if need be.
    pub(crate) fn open_group(&mut self, name: &str, out: &mut Outbox<P>) -> GroupId {
        let inbox = self.intake.open(name);
        if self.closing {
            // A push that asked before the closing can have found it.
            self.take_in(&inbox, inbox.close(), out);
        }
        self.group_of(&inbox)
    }

    /// A group that has been met, by name.
    pub(crate) fn known(&self, group: &str) -> Option<GroupId> {
        self.intake.find(group)?.group().group_id()
    }

    /// The lanes of a group, in no particular order.
    pub(crate) fn lanes_of(&self, group: GroupId) -> impl Iterator<Item = LaneId> {
        let first = self.groups[group]
            .activity
            .and_then(|activity| self.activities[activity].lanes);
        std::iter::successors(first, |&lane| self.lanes[lane].next)
    }

    /// The lane that a sender's messages go to.
    pub(crate) fn lane_named(&self, group: GroupId, sender: &str) -> Option<LaneId> {
        self.lane_of_name(group, sender, false)
    }

    /// The same, or that of their background messages.
    pub(crate) fn lane_of_name(
        &self,
        group: GroupId,
        sender: &str,
        background: bool,
    ) -> Option<LaneId> {
        let sender = match self.groups[group].settings(&self.profile).lanes {
            Lanes::Group => EVERYBODY,
            Lanes::Sender | Lanes::Message => sender,
        };
        self.lane_of_sender(self.senders.find(group, sender)?, background)
    }

    /// A message that has not ended, by its id.
    pub(crate) fn find_message(&self, group: GroupId, id: &str) -> Option<MessageId> {
        let ids = self.groups[group].inbox.group().ids();
        if let Some(message) = ids.as_ref().and_then(|ids| ids.find(id)) {
            return Some(message);
        }
        drop(ids);
        let seq = Seq::from_automatic_id(id)?;
        let lanes = self
            .lanes_of(group)
            .filter_map(|lane| self.lanes[lane].head());
        let leases = self.leases.iter().filter(|(_, lease)| lease.group == group);
        let calls = leases.flat_map(|(_, lease)| lease.firsts());
        let again = self
            .held_in(group)
            .flat_map(|held| [Some(held.first), held.context])
            .flatten();
        let linked = lanes
            .chain(calls)
            .chain(again)
            .flat_map(|first| self.messages.chain(Some(first)));
        let bypassing = self.bypass.iter().filter(|it| it.0 == group);
        let beside = self.delayed_in(group).into_iter().map(|(_, id)| id);
        let listened = self
            .lanes_of(group)
            .filter_map(|lane| self.lanes[lane].context);
        let listened = listened.flat_map(|(first, _)| self.messages.chain(Some(first)));
        linked
            .chain(listened)
            .chain(bypassing.map(|it| it.1))
            .chain(beside)
            .chain(self.context_of(group))
            .find(|&id| self.messages[id].seq() == seq && self.has_no_id(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Settings;

    /// A push that asks whether the queue is closed, and then waits, finds what was made meanwhile.
    #[test]
    fn groups_met_after_the_closing_take_nothing() {
        let mut engine: Engine<()> = Engine::new(Settings::default());
        let (now, out) = (Time::ZERO, &mut Outbox::default());
        engine.close(now, out);

        engine.pause(now, Some("paused"), None, out);
        engine.typing(now, "typed in", "ann", true, out);
        engine.queue_up(now, "waited for", out);

        let open = |inbox: &Arc<GroupInbox<()>>| !inbox.is_closed();
        let open = engine.intake.all().into_iter().filter(open);
        let open: Vec<_> = open.map(|inbox| inbox.group().name.clone()).collect();
        assert!(open.is_empty(), "{open:?}");
    }
}
