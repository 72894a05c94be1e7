//! A message leaves its inbox and takes its place in its lane.

use std::collections::VecDeque;

use compact_str::CompactString;

use crate::Time;
use crate::admission::{Arrival, Way};
use crate::deadlines::What;
use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::group::{Activity, NEVER_PUSHED};
use crate::ids::{GroupId, LaneId, LeaseSlot, MessageId, SenderId};
use crate::inbox::ReadyInboxes;
use crate::lane::Lane;
use crate::limits::Shared;
use crate::message::Flag;
use crate::order::HeldUp;
use crate::settings::{Keep, Lanes};
use crate::window::{ClosedBy, Found, Window};

/// Inboxes that have mail.
type Listed<P> = ReadyInboxes<Arrival<P>, Shared>;

/// Arrivals of an instant at which a call has ended.
pub(crate) type Late<P> = VecDeque<(GroupId, Arrival<P>)>;

/// The sender that stands for all of a group under `lanes="group"`; no real name is empty.
pub(crate) const EVERYBODY: &str = "";

impl<P> Engine<P> {
    /// Takes in everything that was pushed.
    pub(crate) fn drain(&mut self, out: &mut Outbox<P>) {
        while let Some((group, arrival)) = self.late.pop_front() {
            self.arrive(group, arrival, out);
        }
        self.take_in_listed(self.intake.ready.take(), out);
        if self.observed {
            out.events.extend(self.intake.take_refusals());
        }
    }

    pub(crate) fn take_in_listed(&mut self, listed: Listed<P>, out: &mut Outbox<P>) {
        for inbox in listed {
            self.take_in(&inbox, inbox.drain(), out);
        }
    }

    /// The same for the end of a call, but what has arrived only now is kept for the next time, and
    /// so is what was pushed to its group after it.
    pub(crate) fn drain_before_now(&mut self, out: &mut Outbox<P>) {
        let before = self
            .late
            .iter()
            .take_while(|(_, arrival)| arrival.at < self.now)
            .count();
        for _ in 0..before {
            let Some((group, arrival)) = self.late.pop_front() else {
                break;
            };
            self.arrive(group, arrival, out);
        }
        let all_late = !self.late.is_empty();
        for inbox in self.intake.ready.take() {
            let group = self.group_of(&inbox);
            let mut late = all_late;
            for arrival in inbox.drain() {
                late |= arrival.at >= self.now;
                if late {
                    self.late.push_back((group, arrival));
                } else {
                    self.arrive(group, arrival, out);
                }
            }
        }
    }

    pub(crate) fn arrive(&mut self, group: GroupId, mut arrival: Arrival<P>, out: &mut Outbox<P>) {
        let room = &mut self.groups[group];
        // Producers race between the clock and the inbox; within a group time does not go back.
        let at = arrival.at.max(room.last_at).min(self.now);
        arrival.at = at;
        self.moment = at;
        if room.room.as_ref().is_some_and(|room| room.is_late(at)) {
            // What was to happen before it came.
            self.advance(group, at, out);
        }
        let room = &mut self.groups[group];
        room.last_at = room.last_at.max(at);
        if room.first == NEVER_PUSHED {
            room.first = arrival.seq;
        }
        self.ledger.accepted += 1;
        self.ledger.waiting += 1;
        if self.observed {
            let (group, sender) = (room.name().clone(), arrival.sender.clone());
            let id = arrival.extra.as_ref().and_then(|extra| extra.id.clone());
            out.events.push(Event::MessageAccepted {
                seq: arrival.seq,
                group,
                sender,
                at,
                id,
            });
        }
        let name = std::mem::take(&mut arrival.sender);
        let sender = self.sender_of(group, name);
        match arrival.way {
            Way::Lane => {
                let delay = arrival.extra.as_ref().and_then(|extra| extra.delay);
                let seq = arrival.seq;
                let id = self.take_down(arrival, sender);
                if let Some(delay) = delay {
                    self.messages[id].set(Flag::Delayed);
                    self.remind(group, at.after(delay), What::Delay, Some(id));
                    self.later(group).delayed += 1;
                } else {
                    self.enter(group, id, out);
                }
                self.drop_oldest(group, id, seq, out);
            }
            Way::Context => self.listen(group, arrival, sender, out),
            Way::Bypass => self.go_around(group, arrival, sender),
            Way::Out => self.evict_newest(group, arrival, sender, out),
        }
        self.moment = self.now;
    }

    /// Turns what came into a message.
    pub(crate) fn take_down(&mut self, arrival: Arrival<P>, sender: SenderId) -> MessageId {
        let Arrival {
            payload,
            at,
            seq,
            extra,
            flush,
            standalone,
            real_time,
            way,
            ..
        } = arrival;
        let given = extra.as_ref().is_some_and(|extra| extra.id.is_some());
        self.senders[sender].messages += 1;
        let id = self.messages.insert(payload, seq, at, sender, extra);
        let message = &mut self.messages[id];
        for (is, flag) in [
            (flush, Flag::Flush),
            (standalone, Flag::Standalone),
            (real_time, Flag::RealTime),
            (way == Way::Context, Flag::Context),
            (way == Way::Bypass, Flag::Bypass),
        ] {
            if is {
                message.set(flag);
            }
        }
        if given {
            self.place_id(id);
        }
        id
    }

    /// A message arrives in its lane: at its push, or when its delay is over.
    pub(crate) fn enter(&mut self, group: GroupId, id: MessageId, out: &mut Outbox<P>) {
        let (at, sender) = (self.messages[id].at, self.messages[id].sender);
        let room = &mut self.groups[group];
        if let Some(room) = &mut room.room {
            let span = self.profile.settings.size_window;
            let before = self.senders[sender].last();
            room.active.hear(sender, before, at, span, &self.senders);
        }
        let settings = self.groups[group].settings(&self.profile);
        let (back_to_back, burst) = (settings.back_to_back, settings.burst);
        let gaps = self.senders[sender].hear(at, back_to_back, burst);
        let message = &mut self.messages[id];
        if gaps.back_to_back {
            message.set(Flag::BackToBack);
        }
        if gaps.burst {
            message.set(Flag::Burst);
        }
        self.note_message(group, sender, at);
        self.expire_later(group, id);
        if self.groups[group].types() {
            let name = self.senders[sender].name.clone();
            self.has_typed(group, &name, at, out);
        }
        if self.is_diverted(group) {
            self.arrive_at_fallback(group, id, out);
            return;
        }
        let background = self.messages.is_background(id);
        let lane = self.lane_of(group, sender, background, out);
        self.place(group, lane, id, out);
    }

    /// Joins the lane's last window, or cuts it and opens the next (rule W2).
    pub(crate) fn place(
        &mut self,
        group: GroupId,
        lane: LaneId,
        id: MessageId,
        out: &mut Outbox<P>,
    ) {
        let at = self.messages[id].at;
        // What came due before this arrival is due for good, though nobody has looked since.
        self.close_if_overdue(lane, at, out);
        let typing = self.groups[group].types()
            && self.is_typing(group, &self.senders[self.messages[id].sender].name);
        let asks = self.asks(group, lane, id);
        let Self {
            groups,
            profile,
            messages,
            lanes,
            ..
        } = &mut *self;
        let settings = groups[group].settings(profile);
        let (alone, latest) = (
            settings.lanes == Lanes::Message,
            settings.keep == Keep::Latest,
        );
        let newcomer = messages.newcomer(id);
        let found = match lanes[lane].found() {
            Found::Busy if asks.is_some() => Found::Asking,
            found => found,
        };
        let cut = match (lanes[lane].window(), lanes[lane].tail()) {
            (Some(_), Some(_)) if alone => Some(ClosedBy::Cut),
            (Some(window), Some(tail)) => {
                let cut = window.cut_by(&newcomer, &messages.newcomer(tail), settings);
                // It will make room for itself.
                cut.filter(|&by| !(latest && by == ClosedBy::Size))
            }
            _ => None,
        };
        let opens = match lanes[lane].window_mut() {
            Some(window) if cut.is_none() => {
                window.join(&newcomer, found, typing, settings);
                None
            }
            _ => Some(Window::open(&newcomer, found, typing, settings)),
        };
        match found {
            Found::Idle => messages[id].set(Flag::FoundIdle),
            Found::Busy | Found::Asking => messages[id].set(Flag::FoundBusy),
            Found::Waiting => {}
        }
        if let Some(by) = cut {
            self.close_window(lane, by, out);
        }
        self.lanes[lane].append(&mut self.messages, id, opens);
        self.activities[self.lanes[lane].activity].waiting += 1;
        let seq = self.messages[id].seq();
        self.tell_superseded(lane, out);
        if let Some(by) = self.due_at_once(lane, id) {
            self.close_window(lane, by, out);
        }
        if latest && !alone {
            self.supersede(lane, out);
        }
        let settings = self.groups[group].settings(&self.profile);
        let window = self.lanes[lane].window();
        if window.is_some_and(|window| window.is_full(settings)) {
            self.close_window(lane, ClosedBy::Size, out);
        }
        if let Some(slot) = asks.filter(|_| self.messages.get(id, seq).is_some()) {
            self.ask(slot, id, out);
        }
        if alone && self.messages.get(id, seq).is_some() {
            self.stand(lane, id);
            self.ask_in_group(group, id, out);
        } else if self.lanes[lane].able
            && self.messages.get(id, seq).is_some()
            && self.lanes[lane].has_one_window()
            && self.lanes[lane].again().is_none()
        {
            self.join_score(lane, id);
        }
        self.touch(lane);
    }

    /// The call that a newcomer to a lane asks the end of (rule B2).
    fn asks(&self, group: GroupId, lane: LaneId, id: MessageId) -> Option<LeaseSlot> {
        self.lanes[lane].call?;
        let settings = self.groups[group].settings(&self.profile);
        let newcomer = self.messages.newcomer(id);
        let joins = match (self.lanes[lane].window(), self.lanes[lane].tail()) {
            (Some(window), Some(tail)) => {
                let cut = window.cut_by(&newcomer, &self.messages.newcomer(tail), settings);
                let latest = settings.keep == Keep::Latest;
                cut.is_none_or(|by| latest && by == ClosedBy::Size)
            }
            _ => true,
        };
        self.may_interrupt(group, lane, id, joins)
    }

    /// Why the last window of a lane waits for nothing, now that `id` is in it.
    fn due_at_once(&self, lane: LaneId, id: MessageId) -> Option<ClosedBy> {
        let message = &self.messages[id];
        if message.has(Flag::Flush) {
            Some(ClosedBy::Flush)
        } else if message.has(Flag::Standalone) || self.lanes_are(lane, Lanes::Message) {
            Some(ClosedBy::Cut)
        } else {
            self.closing.then_some(ClosedBy::Drain)
        }
    }

    /// Makes a lane's last window due if its time came before `now`.
    pub(crate) fn close_if_overdue(&mut self, lane: LaneId, now: Time, out: &mut Outbox<P>) {
        if let Some(window) = self.lanes[lane].window() {
            let settings = self.groups[self.lanes[lane].group].settings(&self.profile);
            let (at, by) = window.due_at(settings);
            if at < now {
                self.close_window(lane, by, out);
            }
        }
    }

    pub(crate) fn close_window(&mut self, id: LaneId, by: ClosedBy, out: &mut Outbox<P>) {
        let lane = &mut self.lanes[id];
        let settings = self.groups[lane.group].settings(&self.profile);
        let since = lane.window().map(|window| window.due_at(settings).0);
        let Some(messages) = lane.close_window(&mut self.messages, by) else {
            return;
        };
        let opened = lane.opened();
        if let (Some(since), Some(opened)) = (since, opened) {
            self.mark_due(id, opened, since.min(self.moment));
        }
        let lane = &self.lanes[id];
        if self.observed {
            let first = lane.opened().map(|opened| self.messages[opened].sender);
            let sender = &self.senders[first.unwrap_or(lane.sender)];
            let group = &self.groups[lane.group];
            out.events.push(Event::WindowClosed {
                group: group.name().clone(),
                sender: sender.name.clone(),
                at: self.now,
                messages,
                closed_by: by,
            });
        }
        self.fire_in(id, out);
    }

    /// Remembers to look at a lane before the next start.
    pub(crate) fn touch(&mut self, id: LaneId) {
        let lane = &mut self.lanes[id];
        if !lane.touched {
            lane.touched = true;
            self.touched.push(id);
        }
    }

    /// Timers of the lanes that have changed: what is due before `until` competes, what is not gets its
    /// deadline.
    pub(crate) fn look_at_lanes(&mut self, until: Time, out: &mut Outbox<P>) {
        if self.touched.is_empty() {
            return;
        }
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            // A lane that has gone meanwhile, or whose slot serves another that was looked at.
            let Some(lane) = self.lanes.get_mut(id).filter(|lane| lane.touched) else {
                continue;
            };
            lane.touched = false;
            let settings = self.groups[lane.group].settings(&self.profile);
            let due = lane.window().map(|window| window.due_at(settings));
            let (mut due_at, by) = due.unwrap_or((Time::NEVER, ClosedBy::Quiet));
            if due_at < until {
                self.close_window(id, by, out);
                due_at = Time::NEVER;
            }
            if !self.lanes[id].held.is_empty() {
                due_at = due_at.min(self.look_at_held(id, until));
            }
            self.window_timers.set(id, due_at);
            if self.lanes[id].window().is_some_and(Window::is_due) {
                self.fire_in(id, out);
            }
            if std::mem::take(&mut self.lanes[id].shrunk) {
                self.rescore(id);
            }
            self.review_lane(id, HeldUp::No);
        }
        self.touched = touched;
    }

    /// Lets a lane compete if it may, and only then.
    pub(crate) fn review_lane(&mut self, id: LaneId, held_up: HeldUp) {
        let may = self.may_start(id);
        if may == self.lanes[id].able {
            return;
        }
        if may {
            self.enable_lane(id, held_up);
        } else {
            self.disable_lane(id);
        }
        self.offer_group(self.lanes[id].group, held_up);
    }

    /// Whether a lane has something due that no call or batch before it holds up.
    pub(crate) fn may_start(&self, id: LaneId) -> bool {
        let lane = &self.lanes[id];
        if lane.fallback && !self.may_fall_back(id) {
            return false;
        }
        let settings = self.groups[lane.group].settings(&self.profile);
        if lane.background && settings.hold_background {
            return false;
        }
        match settings.lanes == Lanes::Message && !lane.fallback {
            true => lane.head_is_due() || lane.held.iter().any(|&(again, _)| self.held[again].due),
            false if lane.running > 0 => false,
            false => match lane.again() {
                Some((again, _)) => self.held[again].due,
                None => lane.head_is_due(),
            },
        }
    }

    /// The call of a lane has ended and something waits in it.
    pub(crate) fn end_lane_call(&mut self, id: LaneId, out: &mut Outbox<P>) {
        // Windows due before this instant are due; those due at it may still grow (rule T1).
        self.close_if_overdue(id, self.now, out);
        let lane = &mut self.lanes[id];
        let nothing_else = lane.held.is_empty();
        let alone = lane.has_one_window() && nothing_else;
        let settings = self.groups[lane.group].settings(&self.profile);
        // A backoff counts as part of the call (rule W5).
        let due = !lane.backs_off
            && lane
                .window_mut()
                .is_some_and(|window| window.call_ended(self.now, alone, settings));
        let came_now = |window: &Window| window.last() == self.now;
        if let Some(opened) = self.lanes[id].opened()
            && self.lanes[id].window().is_some_and(came_now)
        {
            // What came at this very instant has not found the lane busy (rule T1).
            let late: Vec<_> = self
                .messages
                .window(opened)
                .filter(|&message| self.messages[message].at == self.now)
                .collect();
            for message in late {
                self.messages[message].unset(Flag::FoundBusy);
                if self.lanes[id].head() == Some(message) && nothing_else {
                    self.messages[message].set(Flag::FoundIdle);
                }
            }
        }
        if due {
            self.close_window(id, ClosedBy::Busy, out);
        }
        self.review_lane(id, HeldUp::ByItself);
        self.touch(id);
    }

    pub(crate) fn lanes_are(&self, lane: LaneId, lanes: Lanes) -> bool {
        let lane = &self.lanes[lane];
        let own = self.groups[lane.group].settings(&self.profile).lanes;
        if lane.fallback {
            return lanes == Lanes::Group;
        }
        own == lanes
    }

    fn sender_of(&mut self, group: GroupId, name: CompactString) -> SenderId {
        let record = &self.groups[group];
        if let Some(last) = record.last_sender
            && self.senders[last].name == name
        {
            return last;
        }
        let id = self.meet(group, name);
        self.groups[group].last_sender = Some(id);
        id
    }

    /// A sender by name, remembered from now on.
    fn meet(&mut self, group: GroupId, name: CompactString) -> SenderId {
        if let Some(known) = self.senders.find(group, &name) {
            return known;
        }
        let record = &mut self.groups[group];
        record.senders += 1;
        let (many, standing) = (record.senders > 1, record.now_served().points);
        if many {
            self.room(group); // a group of several has a size
        }
        self.senders.insert(group, name, standing)
    }

    /// The sender that stands for all of a group under `lanes="group"`.
    pub(crate) fn everybody(&mut self, group: GroupId) -> SenderId {
        self.meet(group, CompactString::const_new(EVERYBODY))
    }

    pub(crate) fn lane_of(
        &mut self,
        group: GroupId,
        sender: SenderId,
        background: bool,
        out: &mut Outbox<P>,
    ) -> LaneId {
        let lanes = self.groups[group].settings(&self.profile).lanes;
        let sender = match lanes {
            Lanes::Sender | Lanes::Message => sender,
            Lanes::Group => self.everybody(group),
        };
        let known = self.lane_of_sender(sender, background);
        if let Some(lane) = known {
            if lanes == Lanes::Message {
                self.read_size(group, out);
            }
            return lane;
        }
        let id = self.add_lane(group, sender, background);
        if background {
            self.background.insert(sender, id);
        } else {
            self.senders[sender].lane = Some(id);
        }
        self.read_size(group, out);
        id
    }

    fn add_lane(&mut self, group: GroupId, sender: SenderId, background: bool) -> LaneId {
        let activity = self.groups[group].activity.unwrap_or_else(|| {
            let paused = self.pauses.contains_key(&group);
            self.activities.insert(Activity::new(paused))
        });
        self.groups[group].activity = Some(activity);
        let id = self
            .lanes
            .insert(Lane::new(group, activity, sender, background));
        let next = self.activities[activity].lanes.replace(id);
        self.lanes[id].next = next;
        if let Some(next) = next {
            self.lanes[next].previous = Some(id);
        }
        id
    }

    /// The lane of what waits for the fallback.
    pub(crate) fn fallback_lane(&mut self, group: GroupId, out: &mut Outbox<P>) -> LaneId {
        if let Some(lane) = self.fallbacks.get(&group).and_then(|it| it.lane) {
            return lane;
        }
        let sender = self.everybody(group);
        let id = self.add_lane(group, sender, false);
        self.lanes[id].fallback = true;
        if let Some(fallback) = self.fallbacks.get_mut(&group) {
            fallback.lane = Some(id);
        }
        self.read_size(group, out);
        id
    }

    /// The lane of a sender, that of their background messages or the other.
    pub(crate) fn lane_of_sender(&self, sender: SenderId, background: bool) -> Option<LaneId> {
        if background {
            self.background.get(&sender).copied()
        } else {
            self.senders[sender].lane
        }
    }

    /// Forgets a lane in which nothing waits or runs.
    pub(crate) fn drop_lane(&mut self, id: LaneId, out: &mut Outbox<P>) {
        self.window_timers.set(id, Time::NEVER);
        self.disinherit(id);
        let Lane {
            group,
            activity,
            sender,
            background,
            fallback,
            context,
            previous,
            next,
            ..
        } = self.lanes.remove(id);
        if fallback {
            if let Some(fallback) = self.fallbacks.get_mut(&group) {
                fallback.lane = None;
            }
        } else if background {
            self.background.remove(&sender);
        } else {
            self.senders[sender].lane = None;
        }
        match previous {
            Some(previous) => self.lanes[previous].next = next,
            None => self.activities[activity].lanes = next,
        }
        if let Some(next) = next {
            self.lanes[next].previous = previous;
        }
        if self.activities[activity].lanes.is_none() {
            self.activities.remove(activity);
            let group = &mut self.groups[group];
            group.activity = None;
            group.last_at = group.last_at.max(self.moment);
        }
        if let Some((first, count)) = context {
            self.listen_again(group, first, count, out);
        }
        self.read_size(group, out);
        self.shed(group, out);
    }
}
