//! What a new message does to the running call of its lane (section B).
//!
//! A message that may interrupt when it arrives is listed with the call: it *asks*. Its request
//! fires when its window becomes due, if it still may then; a shield, a pause or the want of a token
//! hold it back. From there on the call's end is decided, and so is what becomes of its messages.

use crate::admission::{Accepted, Attempt, Finds, Options, Refused};
use crate::engine::{Engine, Outbox};
use crate::failure::INTERRUPTED;
use crate::ids::{GroupId, LaneId, LeaseSlot, MessageId};
use crate::lease::{Ending, Fate, Heir, Lease, LeaseId, LeaseLost};
use crate::message::{Flag, Messages, Place};
use crate::rate::Bucket;
use crate::settings::{Interrupted, Lanes, OnBusy};
use crate::window::{ClosedBy, Window};
use crate::{Seq, Settings, Size, Time};

/// Who wants a call to end.
#[derive(Default)]
pub(crate) struct Asking {
    /// Messages that may interrupt it, in the order of their lane.
    who: Vec<(MessageId, Seq)>,
    /// So many of them are in windows that are due.
    due: usize,
    /// Last message and size of the batch, once somebody has asked.
    tally: Option<(MessageId, Size)>,
}

impl Asking {
    /// The batch has grown.
    pub(crate) fn recount(&mut self, last: MessageId, size: Size) {
        self.tally = Some((last, size));
    }
}

/// Who is to be asked again because more was missing than a slot or lane (rule B3).
#[derive(Clone, Copy)]
pub(crate) enum HeldBack {
    Call(LeaseId),
    Group(GroupId),
}

/// Pushes that only the owner can answer.
impl<P> Engine<P> {
    /// Takes a message that its group's intake left to the owner, or says why not: it is refused by a
    /// busy lane, or has a policy of its own.
    #[allow(clippy::too_many_arguments)] // a push, and where it goes
    pub fn push(
        &mut self,
        now: Time,
        attempt: Attempt,
        group: &str,
        sender: &str,
        payload: P,
        options: Options,
        out: &mut Outbox<P>,
    ) -> Result<Accepted, Refused<P>> {
        self.catch_up_in(now, group, out);
        let finds = self.finds(group, sender, &options);
        let intake = self.intake();
        intake.push_to((attempt, finds), now, group, sender, payload, options)
    }

    /// Whether a group could do with a message what its own policy asks for.
    pub fn serves(&self, group: &str, options: &Options) -> bool {
        let settings = match self.known(group) {
            Some(id) => self.groups[id].settings(&self.profile),
            None => self.expected_settings(group),
        };
        options
            .on_busy
            .is_none_or(|own| settings.serves(own, options))
    }

    /// How a message would find its lane.
    pub(crate) fn finds(&self, group: &str, sender: &str, options: &Options) -> Finds {
        let known = self.known(group);
        let settings = match known {
            Some(id) => self.groups[id].settings(&self.profile),
            None => self.expected_settings(group),
        };
        let own = options.on_busy;
        if own.is_some_and(|own| !settings.serves(own, options)) {
            return Finds::Nothing;
        }
        if own.unwrap_or(settings.on_busy) != OnBusy::Reject {
            return Finds::Free;
        }
        let busy = known.is_some_and(|id| self.is_busy(id, sender, options.background, settings));
        if busy { Finds::Busy } else { Finds::Free }
    }

    /// Whether the lane of a sender is busy: a call of it runs, or will again after a failure or
    /// snooze, or one message waits where no call takes two.
    fn is_busy(&self, id: GroupId, sender: &str, background: bool, settings: &Settings) -> bool {
        if settings.lanes == Lanes::Message {
            let running = self.groups[id]
                .activity
                .map_or(0, |key| self.activities[key].running);
            return running >= settings.max_concurrent_per_group;
        }
        let single = settings.max_batch.is_some_and(|most| most <= Size::ONE);
        let lane = self.lane_of_name(id, sender, background);
        let lane = lane.map(|lane| &self.lanes[lane]);
        let held = |lane: &crate::lane::Lane| {
            let mut held = lane.held.iter().map(|&(key, _)| &self.held[key]);
            held.any(|held| single || !held.put_off)
        };
        lane.is_some_and(|lane| lane.running > 0 || held(lane) || (single && lane.waiting > 0))
            || (single && self.delays(id, sender, background, settings.lanes))
    }

    /// Whether a message of the lane has yet to arrive.
    fn delays(&self, id: GroupId, sender: &str, background: bool, lanes: Lanes) -> bool {
        self.delayed_in(id).into_iter().any(|(_, message)| {
            let name = &self.senders[self.messages[message].sender].name;
            self.messages.is_background(message) == background
                && (lanes == Lanes::Group || name == sender)
        })
    }
}

impl Settings {
    /// Whether a message may have this policy of its own.
    fn serves(&self, policy: OnBusy, options: &Options) -> bool {
        let merges = self.interrupted == Interrupted::Merge;
        let alone = options.standalone
            || self.lanes == Lanes::Message
            || self.max_batch.is_some_and(|most| most <= Size::ONE);
        match policy {
            OnBusy::Enqueue | OnBusy::Reject => true,
            OnBusy::Inject => self.lanes != Lanes::Message,
            OnBusy::Rollback if self.on_busy != OnBusy::Rollback => false,
            OnBusy::Interrupt | OnBusy::Rollback => !(options.background || merges && alone),
        }
    }
}

/// Asking.
impl<P> Engine<P> {
    /// The call of its lane that a newcomer may interrupt; `joins` its last window, if there is one.
    pub(crate) fn may_interrupt(
        &self,
        group: GroupId,
        lane: LaneId,
        id: MessageId,
        joins: bool,
    ) -> Option<LeaseSlot> {
        let slot = self.lanes[lane]
            .call
            .filter(|_| !self.lanes[lane].fallback)?;
        if !self.interrupts(group, id) || !self.can_be_ended_by(slot, id) {
            return None;
        }
        let settings = self.groups[group].settings(&self.profile);
        if settings.interrupted != Interrupted::Merge {
            return Some(slot);
        }
        let window = self.lanes[lane].window().filter(|_| joins);
        let alone = self.lanes[lane].has_one_window() && joins;
        if !alone && self.lanes[lane].head().is_some() {
            return None;
        }
        let (last, running) = self.tally(slot);
        // What it supersedes makes its room.
        let waiting = window.filter(|_| settings.keep == crate::settings::Keep::All);
        let waiting = waiting.map_or(Size::ZERO, Window::size);
        let size = running.plus(waiting).plus(self.messages.size(id));
        let front = self.lanes[lane].head().unwrap_or(id);
        self.fit(last, front, size, settings).then_some(slot)
    }

    fn fit(&self, last: MessageId, first: MessageId, size: Size, settings: &Settings) -> bool {
        let (last, first) = (self.messages.newcomer(last), self.messages.newcomer(first));
        settings.max_batch.is_none_or(|most| size <= most)
            && !last.is_cut_from(&first, settings.max_gap)
    }

    /// Whether a message does not wait for a running call to end by itself.
    fn interrupts(&self, group: GroupId, id: MessageId) -> bool {
        let policy = self.policy_of(group, id);
        matches!(policy, OnBusy::Interrupt | OnBusy::Rollback) && !self.messages.is_background(id)
    }

    /// What a message does that finds its lane busy.
    pub(crate) fn policy_of(&self, group: GroupId, id: MessageId) -> OnBusy {
        let own = self.messages.extra(id).and_then(|extra| extra.on_busy);
        own.unwrap_or(self.groups[group].settings(&self.profile).on_busy)
    }

    /// The part of rule B2 that does not depend on lanes.
    fn can_be_ended_by(&self, slot: LeaseSlot, id: MessageId) -> bool {
        let lease = &self.leases[slot];
        let settings = self.groups[lease.group].settings(&self.profile);
        let inside = self.messages.extra(id).and_then(|extra| extra.inside);
        let (newest, _) = self.tally(slot);
        let gap = self.messages[id].at.since(self.messages[newest].at);
        !lease.is_ending()
            && !lease.committed
            && lease.attempt == 1
            && inside != Some(lease.id(slot))
            && settings.interrupt_within.is_none_or(|within| gap <= within)
            && self.may_put_off(slot)
    }

    /// Last message and size of a running batch.
    pub(crate) fn tally(&self, slot: LeaseSlot) -> (MessageId, Size) {
        let lease = &self.leases[slot];
        lease
            .asking
            .tally
            .unwrap_or_else(|| tally(&self.messages, lease.first))
    }

    /// Whether a call may be ended early, and go on later (rule B5).
    pub(crate) fn may_put_off(&self, slot: LeaseSlot) -> bool {
        let lease = &self.leases[slot];
        let settings = self.settings_of(lease);
        let most = settings.max_interrupts;
        if lease.lanes == Lanes::Message {
            let mut behind = self.waiting_behind(lease.first).into_iter();
            return settings.interrupted == Interrupted::Abandon
                || (lease.put_off < most
                    && behind.all(|id| self.messages.put_off(id).times < most));
        }
        let behind = lease
            .lane
            .into_iter()
            .flat_map(|lane| &self.lanes[lane].held);
        settings.interrupted == Interrupted::Abandon
            || (lease.put_off < most
                && behind
                    .filter(|&&(key, _)| self.held[key].put_off)
                    .all(|&(_, first)| self.messages.most_put_off(first) < most))
    }

    /// Where each message is for itself: those that go behind one, and behind these.
    pub(crate) fn waiting_behind(&self, first: MessageId) -> Vec<MessageId> {
        let mut found = Vec::new();
        let mut next = vec![first];
        while let Some(id) = next.pop() {
            for &(_, behind, seq) in self.behind.get(&id).into_iter().flatten() {
                if self.messages.get(behind, seq).is_some() {
                    found.push(behind);
                    next.push(behind);
                }
            }
        }
        found
    }

    /// A newcomer asks for the end of a call.
    pub(crate) fn ask(&mut self, slot: LeaseSlot, id: MessageId, out: &mut Outbox<P>) {
        let tally = self.tally(slot);
        let seq = self.messages[id].seq();
        let lease = &mut self.leases[slot];
        lease.asking.tally = Some(tally);
        lease.asking.who.push((id, seq));
        self.fire(slot, out);
    }

    /// The last window of a lane has become due, or is about to be followed by another.
    pub(crate) fn fire_in(&mut self, lane: LaneId, out: &mut Outbox<P>) {
        if let Some(slot) = self.lanes[lane].call
            && !self.leases[slot].asking.who.is_empty()
        {
            let asking = &mut self.leases[slot].asking;
            asking.due = asking.who.len();
            self.fire(slot, out);
        }
    }

    /// Under `lanes="message"`: a newcomer that finds no free slot in its group asks for the end of one
    /// of the calls there (rule B6).
    pub(crate) fn ask_in_group(&mut self, group: GroupId, id: MessageId, out: &mut Outbox<P>) {
        let settings = self.groups[group].settings(&self.profile);
        let running = self.groups[group]
            .activity
            .map_or(0, |key| self.activities[key].running);
        if running < settings.max_concurrent_per_group || !self.interrupts(group, id) {
            return;
        }
        let calls = self.calls_of(group);
        let calls: Vec<_> = calls
            .filter(|&slot| self.can_be_ended_by(slot, id))
            .collect();
        let asks = (id, self.messages[id].seq());
        for slot in calls {
            self.leases[slot].asking.who.push(asks);
        }
        self.fire_alone(group, asks, out);
    }

    /// Ends a call for one that asks, if it may now.
    pub(crate) fn fire(&mut self, slot: LeaseSlot, out: &mut Outbox<P>) {
        let lease = &self.leases[slot];
        let (group, id) = (lease.group, lease.id(slot));
        let Some(lane) = lease.lane else {
            return;
        };
        if lease.asking.who.is_empty() {
            return;
        }
        if lease.is_ending() || lease.committed {
            self.leases[slot].asking.who.clear();
            return;
        }
        if self.lanes_are(lane, Lanes::Message) {
            for asks in lease.asking.who.clone() {
                self.fire_alone(group, asks, out);
            }
            return;
        }
        if self.lanes[lane].window().is_some_and(Window::is_due) {
            let asking = &mut self.leases[slot].asking;
            asking.due = asking.who.len();
        }
        let lease = &self.leases[slot];
        if self.closing {
            return; // what closing makes due interrupts nothing
        }
        if lease.shields > 0 || self.is_paused(group) {
            return; // until that is over
        }
        let asking = &lease.asking;
        let due = &asking.who[..asking.due.min(asking.who.len())];
        let first = due.iter().copied().find(|&asks| self.waits(asks));
        let Some(first) = first else {
            return;
        };
        let settings = self.settings_of(lease);
        let merges = settings.interrupted == Interrupted::Merge;
        if merges && !self.fits_all(slot, lane) {
            self.leases[slot].asking.who.clear(); // they wait like others
            return;
        }
        let as_new = lease.transaction;
        let fate = match settings.interrupted {
            Interrupted::Merge => Fate::Merged { as_new },
            Interrupted::Resume => Fate::Resumed {
                behind: first,
                as_new,
            },
            Interrupted::Abandon => Fate::Abandoned,
        };
        if !self.lacks_a_slot_only_for(group, HeldBack::Call(id)) {
            return;
        }
        self.leases[slot].asking.who.clear();
        self.interrupt(
            id,
            fate,
            Heir {
                lane,
                message: None,
            },
            out,
        );
    }

    /// The same for a message that is for itself.
    fn fire_alone(&mut self, group: GroupId, asks: (MessageId, Seq), out: &mut Outbox<P>) {
        let settings = self.groups[group].settings(&self.profile);
        let running = self.groups[group]
            .activity
            .map_or(0, |key| self.activities[key].running);
        if self.closing
            || !self.waits(asks)
            || self.is_paused(group)
            || running < settings.max_concurrent_per_group
        {
            return;
        }
        let resumes = settings.interrupted != Interrupted::Abandon;
        let score = self.score_window(group, asks.0).total();
        let calls = self.calls_of(group).filter(|&slot| {
            let lease = &self.leases[slot];
            lease.asking.who.contains(&asks)
                && lease.shields == 0
                && self.can_be_ended_by(slot, asks.0)
        });
        let victim = calls.min_by_key(|&slot| {
            let lease = &self.leases[slot];
            (lease.score.total(), lease.started, lease.generation())
        });
        let Some(victim) = victim.filter(|&slot| self.leases[slot].score.total() <= score) else {
            return;
        };
        let lease = self.leases[victim].id(victim);
        if !self.lacks_a_slot_only_for(group, HeldBack::Call(lease)) {
            return;
        }
        let Some(lane) = self.lane_holding(group, asks.0) else {
            return;
        };
        let calls: Vec<_> = self.calls_of(group).collect();
        for slot in calls {
            self.leases[slot].asking.who.retain(|&other| other != asks);
        }
        let as_new = self.leases[victim].transaction;
        let fate = if resumes {
            Fate::Resumed {
                behind: asks,
                as_new,
            }
        } else {
            Fate::Abandoned
        };
        let heir = Heir {
            lane,
            message: Some(asks),
        };
        self.interrupt(lease, fate, heir, out);
    }

    fn interrupt(&mut self, lease: LeaseId, fate: Fate, heir: Heir, out: &mut Outbox<P>) {
        self.metrics.interruptions += 1;
        let ending = Ending {
            reason: INTERRUPTED,
            fate,
            heir: Some(heir),
        };
        self.ask_to_end(lease, ending, out);
    }

    /// Whether all that waits in a lane and what runs there fit one batch.
    fn fits_all(&self, slot: LeaseSlot, lane: LaneId) -> bool {
        let group = self.lanes[lane].group;
        let settings = self.groups[group].settings(&self.profile);
        let (last, running) = self.tally(slot);
        let window = self.lanes[lane].window();
        match (self.lanes[lane].head(), window) {
            (Some(first), Some(window)) if self.lanes[lane].has_one_window() => {
                self.fit(last, first, running.plus(window.size()), settings)
            }
            _ => false,
        }
    }

    fn waits(&self, (id, seq): (MessageId, Seq)) -> bool {
        let message = self.messages.get(id, seq);
        message.is_some_and(|message| message.place() == Place::Lane)
    }

    fn is_paused(&self, group: GroupId) -> bool {
        self.paused.is_some() || self.pauses.contains_key(&group)
    }

    /// Whether a batch of a group could start in a slot of it that becomes free (rule B3).
    pub(crate) fn lacks_a_slot_only(&mut self, group: GroupId) -> bool {
        self.lacks_a_slot_only_for(group, HeldBack::Group(group))
    }

    /// The same; who asks is asked again once that may have changed.
    fn lacks_a_slot_only_for(&mut self, group: GroupId, who: HeldBack) -> bool {
        let record = &self.groups[group];
        let settings = record.settings(&self.profile);
        let running = record
            .activity
            .map_or(0, |key| self.activities[key].running);
        let most = self.profile.settings.max_concurrent;
        let tokens = [
            record.token_at(self.now),
            self.bucket
                .as_ref()
                .map(Bucket::free_at)
                .filter(|&at| at > self.now),
        ];
        let until = if running > settings.max_concurrent_per_group
            || most.is_some_and(|most| self.running > most)
        {
            Some(Time::NEVER) // until calls have ended
        } else {
            tokens.into_iter().flatten().max()
        };
        if let Some(until) = until {
            self.held_back.push(who);
            self.held_back_until = self.held_back_until.min(until);
        }
        until.is_none()
    }

    /// What was missing may be there now.
    pub(crate) fn ask_again(&mut self, out: &mut Outbox<P>) {
        self.held_back_until = Time::NEVER;
        for who in std::mem::take(&mut self.held_back) {
            match who {
                HeldBack::Call(id) if self.lease(id).is_some() => self.fire(id.slot(), out),
                HeldBack::Group(id) => {
                    let key = self.groups.get(id).and_then(|group| group.activity);
                    if let Some(key) = key {
                        self.contend(id, key);
                    }
                }
                HeldBack::Call(_) => {}
            }
        }
    }

    /// Nothing holds the calls of a group back any more.
    pub(crate) fn fire_all_in(&mut self, group: GroupId, out: &mut Outbox<P>) {
        let calls: Vec<_> = self.calls_of(group).collect();
        for slot in calls {
            self.fire(slot, out);
        }
        if let Some(key) = self.groups[group].activity {
            self.contend(group, key);
        }
        self.settle_contests(out);
    }
}

/// What a call does about it.
impl<P> Engine<P> {
    /// Delays interruptions of a call from now on, or no longer (rule H2). It nests.
    pub fn shield(
        &mut self,
        now: Time,
        id: LeaseId,
        on: bool,
        out: &mut Outbox<P>,
    ) -> Result<(), LeaseLost> {
        self.catch_up_before(now, out);
        let lease = self.lease(id).ok_or(LeaseLost)?;
        if on && lease.is_ending() {
            return Err(LeaseLost);
        }
        let group = lease.group;
        let shields = &mut self.leases[id.slot()].shields;
        *shields = if on {
            *shields + 1
        } else {
            shields.saturating_sub(1)
        };
        if *shields == 0 {
            self.fire(id.slot(), out);
            if let Some(key) = self.groups[group].activity {
                self.contend(group, key);
            }
            self.settle_contests(out);
        }
        Ok(())
    }

    /// Whether something that somebody said waits behind a call in its lane (rule H3). If not, the
    /// [`Outbox`] tells when something does.
    pub fn superseded(
        &mut self,
        now: Time,
        id: LeaseId,
        out: &mut Outbox<P>,
    ) -> Result<bool, LeaseLost> {
        self.catch_up_before(now, out);
        let lease = self.lease(id).ok_or(LeaseLost)?;
        let superseded = lease.lane.is_some_and(|lane| {
            let lane = &self.lanes[lane];
            lane.call.is_some() && !lane.background && lane.waiting > 0
        });
        self.leases[id.slot()].watched = !superseded;
        Ok(superseded)
    }

    /// Something waits in a lane.
    pub(crate) fn tell_superseded(&mut self, lane: LaneId, out: &mut Outbox<P>) {
        let lane = &self.lanes[lane];
        if let Some(slot) = lane.call.filter(|_| !lane.background) {
            let lease = &mut self.leases[slot];
            if std::mem::take(&mut lease.watched) {
                out.superseded.push(lease.id(slot));
            }
        }
    }

    /// Whether the messages of a call would go back if somebody cancelled it (rule H7).
    pub fn would_go_back(&self, id: LeaseId) -> bool {
        self.lease(id).is_some_and(|lease| {
            let settings = self.settings_of(lease);
            let often = lease.put_off >= settings.max_interrupts;
            lease.lane.is_some() && !lease.committed && !often
        })
    }
}

/// What becomes of the messages.
impl<P> Engine<P> {
    /// Puts the messages of an interrupted call in front of the window of their lane, which is due
    /// (rule B4). What no longer fits stays due behind it.
    pub(crate) fn merge_back(
        &mut self,
        id: LaneId,
        lease: &Lease<P>,
        as_new: bool,
        out: &mut Outbox<P>,
    ) {
        let (group, first) = (lease.group, lease.first);
        let settings = self.groups[group].settings(&self.profile).clone();
        let mut last = first;
        let mut size = Size::ZERO;
        let all: Vec<_> = self.messages.chain(Some(first)).collect();
        for message in all {
            self.messages[message].unset(Flag::Running);
            self.messages[message].unset(Flag::Opens);
            self.messages.put_off_again(message, as_new);
            size = size.plus(self.messages.size(message));
            last = message;
        }
        self.ledger.retrying += u64::from(lease.messages + lease.context_len);
        self.messages
            .move_on(lease.context, Flag::Running, Some(Flag::Held));
        self.lanes[id].context = lease.context.map(|first| (first, lease.context_len));
        self.tell_held(id, lease, INTERRUPTED, out);

        let waiting: Vec<_> = match self.lanes[id].head() {
            Some(head) => self.messages.window(head).collect(),
            None => Vec::new(),
        };
        let mut fitting = 0;
        let mut tail = last;
        for &next in &waiting {
            size = size.plus(self.messages.size(next));
            if !self.fit(tail, next, size, &settings) {
                break;
            }
            (tail, fitting) = (next, fitting + 1);
        }
        let due = self.lanes[id].head_is_due();
        let by = waiting.first().filter(|_| due && fitting > 0);
        if let Some(by) = by.map(|&head| self.messages[head].closed_by()) {
            self.messages[first].set_closed_by(by);
        }
        let in_last = self.lanes[id].has_one_window();
        self.messages[first].set(Flag::Opens);
        self.lanes[id].prepend(&mut self.messages, first, last, lease.messages);
        if let Some(&head) = waiting.first().filter(|_| fitting > 0) {
            self.messages[head].unset(Flag::Opens);
            self.messages.forget_due(head);
        }
        let rest = waiting.get(fitting).copied();
        if let Some(rest) = rest.filter(|_| fitting > 0) {
            self.messages[rest].set(Flag::Opens);
            self.messages[rest].set_closed_by(ClosedBy::Size);
        }
        if waiting.is_empty() || (in_last && fitting > 0) {
            let opened = rest.unwrap_or(first);
            let window = self.due_window(opened);
            self.lanes[id].set_last(Some((opened, window)));
        }
        self.mark_due(id, first, self.now);
        if let Some(rest) = rest.filter(|_| fitting > 0) {
            self.mark_due(id, rest, self.now);
            if self.lanes[id].opened() != Some(rest) {
                let end = self.messages.window(rest).last().unwrap_or(rest);
                if let Some(next) = self.messages[end].next {
                    self.join_windows(id, rest, next);
                }
            }
        }
        self.touch(id);
    }

    /// Remembers since when a window is due, where that decides which calls it may end (rule B8).
    pub(crate) fn mark_due(&mut self, lane: LaneId, first: MessageId, since: Time) {
        let (group, key) = (self.lanes[lane].group, self.lanes[lane].activity);
        if self.may_preempt(group, key) {
            self.messages.set_due_since(first, since);
        }
    }
}

fn tally<P>(messages: &Messages<P>, first: MessageId) -> (MessageId, Size) {
    let all = messages.chain(Some(first));
    all.fold((first, Size::ZERO), |(_, size), id| {
        (id, size.plus(messages.size(id)))
    })
}
