//! The right to run one call for a batch, from its start to its end.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::busy::Asking;
use crate::control::STOPPED;
use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::ids::{GroupId, LaneId, LeaseSlot, MessageId};
use crate::ledger::End;
use crate::message::{Flag, Kind, Place};
use crate::order::{HeldUp, Score, weighed};
use crate::saved::Saved;
use crate::settings::{Lanes, OnBusy};
use crate::slab::Key as _;
use crate::status::MessageName;
use crate::window::ClosedBy;
use crate::{Points, Seq, Settings, Strategy, Time};

/// Names a lease. Slot and generation: a stale one is never mistaken for a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    slot: LeaseSlot,
    generation: u32,
}

impl LeaseId {
    pub(crate) fn slot(self) -> LeaseSlot {
        self.slot
    }

    /// As one number, for keeping it elsewhere.
    pub fn as_u64(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot.slot().get())
    }

    /// The reverse of [`Self::as_u64`].
    pub fn from_u64(number: u64) -> Option<Self> {
        let slot = NonZeroU32::new(number as u32)?;
        Some(Self {
            slot: LeaseSlot::from_slot(slot),
            generation: (number >> 32) as u32,
        })
    }
}

/// A lease that has ended, or never was: what its call still does changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseLost;

/// How a call ended.
#[derive(Debug)]
pub enum Outcome<P> {
    /// It returned.
    Done,
    /// It raised, or was cancelled.
    Failed {
        /// In a word.
        reason: &'static str,
        /// Whether trying again may help.
        retry: bool,
        /// What it raised.
        error: Option<P>,
    },
    /// It wants to be called again later.
    Snoozed(Duration),
    /// Somebody has cancelled it whom the engine had not told to (rule H7).
    Cancelled {
        /// With what it ended.
        error: Option<P>,
    },
    /// Nobody waits for it any more.
    Abandoned {
        /// In a word.
        reason: &'static str,
    },
}

impl<P> Outcome<P> {
    pub(crate) fn into_error(self) -> Option<P> {
        match self {
            Self::Failed { error, .. } | Self::Cancelled { error } => error,
            _ => None,
        }
    }
}

/// The decision that a call ends, before it has (rule H1).
pub(crate) struct Ending {
    /// In a word.
    pub(crate) reason: &'static str,
    /// What becomes of its messages.
    pub(crate) fate: Fate,
    /// Who gets its slot.
    pub(crate) heir: Option<Heir>,
}

/// What becomes of the messages of a call whose end was decided, whatever it does then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It has taken too long: that is a failure.
    TimedOut,
    /// They end as `abandoned`.
    Abandoned,
    /// They end so: while the call was ending, all that waits has.
    Ended(End, &'static str),
    /// They go in front of the window of their lane.
    Merged {
        /// They count as never handed over.
        as_new: bool,
    },
    /// They go back as they were, behind the call that has this message.
    Resumed {
        behind: (MessageId, Seq),
        as_new: bool,
    },
    /// They go back as they were.
    PutBack { as_new: bool },
}

/// A batch that starts in the slot of the call that was ended for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heir {
    pub(crate) lane: LaneId,
    /// Which message, where each is a batch of its own.
    pub(crate) message: Option<(MessageId, Seq)>,
}

/// A running call.
#[allow(clippy::struct_excessive_bools)] // each is looked at by itself
pub(crate) struct Lease<P> {
    pub(crate) group: GroupId,
    /// None for a call beside everything.
    pub(crate) lane: Option<LaneId>,
    pub(crate) first: MessageId,
    pub(crate) messages: u32,
    pub(crate) started: Time,
    pub(crate) kind: Kind,
    pub(crate) closed_by: ClosedBy,
    generation: u32,
    /// Which attempt this is, from 1, and whether there is no other.
    pub(crate) attempt: u32,
    pub(crate) part: bool,
    /// Nothing interrupts it any more.
    pub(crate) committed: bool,
    /// Its end is decided.
    pub(crate) ending: Option<Ending>,
    /// Neighbours in its group's list of calls.
    pub(crate) previous: Option<LeaseSlot>,
    pub(crate) next: Option<LeaseSlot>,
    /// The settings that it goes by, once those of its group are others (rule C9).
    settings: Option<Arc<Settings>>,
    /// What its start was charged.
    pub(crate) charged: Points,
    /// What it saves and emits counts from its commit or success on (rule H6).
    pub(crate) transaction: bool,
    /// Its batch was put off, and is as it was.
    pub(crate) resumed: bool,
    /// It is one of the fallback.
    pub(crate) fallback: bool,
    /// Somebody wants to know when something waits behind it.
    pub(crate) watched: bool,
    /// Holds back interruptions while it is above 0.
    pub(crate) shields: u32,
    /// The most often that one of its messages was put off.
    pub(crate) put_off: u32,
    pub(crate) asking: Asking,
    pub(crate) saved: Saved<P>,
    /// First of the context that went along, and how many.
    pub(crate) context: Option<MessageId>,
    pub(crate) context_len: u32,
    pub(crate) evicted: Option<Box<[MessageName]>>,
    /// Why it started: what it had to say for itself, and where its sender and its group stood.
    pub(crate) score: Score,
    pub(crate) standing: Points,
    pub(crate) group_standing: Points,
    pub(crate) strategy: Strategy,
    pub(crate) lanes: Lanes,
}

impl<P> Lease<P> {
    /// The group goes by other settings from now on.
    pub(crate) fn keep_settings(&mut self, was: &Arc<Settings>) {
        self.settings.get_or_insert_with(|| was.clone());
    }

    /// Later leases have higher ones.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// A call that is about to end because it has taken too long is stopped as well.
    pub(crate) fn stop(&mut self) {
        let ending = self.ending.as_mut();
        if let Some(ending) = ending.filter(|ending| ending.fate == Fate::TimedOut) {
            ending.fate = Fate::Ended(End::Abandoned, STOPPED);
        }
    }

    /// Whether its end is decided.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.is_some()
    }

    pub(crate) fn id(&self, slot: LeaseSlot) -> LeaseId {
        let generation = self.generation;
        LeaseId { slot, generation }
    }

    /// First of its messages, and of its context.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = MessageId> {
        [Some(self.first), self.context].into_iter().flatten()
    }
}

impl<P> Engine<P> {
    /// Calls that have started and not ended, in no particular order.
    pub fn calls(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.iter().map(|(slot, lease)| lease.id(slot))
    }

    /// Why a call is to end, if that is decided.
    pub fn ending(&self, lease: LeaseId) -> Option<&'static str> {
        Some(self.lease(lease)?.ending.as_ref()?.reason)
    }

    /// Starts the batch that goes first, if one may.
    pub(crate) fn start(&mut self, out: &mut Outbox<P>) -> Option<LeaseId> {
        if let Some(lease) = self.start_bypass(out) {
            return Some(lease);
        }
        self.token_at = Time::NEVER;
        let most = self.profile.settings.max_concurrent;
        if self.paused.is_some() || most.is_some_and(|most| self.running >= most) {
            self.heirs.clear(); // they compete like others from now on
            return None;
        }
        while let Some(heir) = self.heirs.pop_front() {
            if self.inherits(heir) {
                return Some(self.start_lane(heir.lane, heir.message.map(|(id, _)| id), out));
            }
        }
        let (_, _, lane) = self.best()?;
        if let Some(bucket) = &self.bucket
            && bucket.free_at() > self.now
        {
            self.token_at = bucket.free_at();
            return None;
        }
        Some(self.start_lane(lane, None, out))
    }

    /// Starts what a lane puts forward, or one of the messages in it that are for themselves.
    fn start_lane(
        &mut self,
        lane: LaneId,
        which: Option<MessageId>,
        out: &mut Outbox<P>,
    ) -> LeaseId {
        let (group, activity) = (self.lanes[lane].group, self.lanes[lane].activity);
        self.leave_lane(lane);
        let lease = self.lease_next(group, lane, which, out);
        self.serve(lease);
        // Under `lanes="message"` what is left of the lane goes on competing.
        if self.may_start(lane) {
            self.score(lane);
            self.enter_lane(lane);
        } else {
            self.lanes[lane].able = false;
        }
        self.offer_anew(group, activity);
        lease
    }

    /// Whether the batch that a call was ended for lacks nothing but its slot, which is free now.
    fn inherits(&self, heir: Heir) -> bool {
        let Some(lane) = self.lanes.get(heir.lane).filter(|lane| lane.able) else {
            return false;
        };
        let waits = heir.message.is_none_or(|(id, seq)| {
            let message = self.messages.get(id, seq);
            message.is_some_and(|message| match message.place() {
                Place::Lane => true,
                Place::Held => {
                    let held = lane.held.iter().find(|it| it.1 == id);
                    held.is_some_and(|&(key, _)| self.held[key].due)
                }
                _ => false,
            })
        });
        let (group, activity) = (&self.groups[lane.group], &self.activities[lane.activity]);
        let most = group.settings(&self.profile).max_concurrent_per_group;
        let token = self
            .bucket
            .as_ref()
            .is_none_or(|it| it.free_at() <= self.now);
        waits
            && !activity.paused
            && activity.running < most
            && token
            && group.token_at(self.now).is_none()
    }

    /// A lane is gone: no slot is kept for it.
    pub(crate) fn disinherit(&mut self, id: LaneId) {
        self.heirs.retain(|heir| heir.lane != id);
        if self.promised == 0 {
            return;
        }
        let calls: Vec<_> = self.calls_of(self.lanes[id].group).collect();
        for slot in calls {
            if let Some(ending) = &mut self.leases[slot].ending
                && ending.heir.take_if(|heir| heir.lane == id).is_some()
            {
                self.promised -= 1;
            }
        }
    }

    /// Charges a start at both levels (rule O5), unless it was charged before (rule B4), and takes its
    /// tokens.
    fn serve(&mut self, lease: LeaseId) {
        let (id, slot) = (self.leases[lease.slot].group, lease.slot);
        if self.leases[slot].charged != Points::ZERO
            && let Some(lane) = self.leases[slot].lane
        {
            let (sender, activity) = (self.lanes[lane].sender, self.lanes[lane].activity);
            let cost = self.cost_of_start(id, sender);
            let score = self.leases[slot].score.total();
            let sender = &mut self.senders[sender];
            let group = &mut self.groups[id];
            let competitors = self.activities[activity].competitors;
            let mut served = group.now_served();
            served.advance(cost, competitors, sender.standing.minus(score));
            group.set_now_served(served);
            sender.standing = sender.standing.plus(cost);
            if let Some(beside) = self.beside(lane) {
                self.reenter_lane(beside);
            }
            let group = &mut self.groups[id];
            let behind = group.standing.minus(score);
            self.served
                .advance_by_weight(Points::CALL, self.weights, behind);
            let weight = group.settings(&self.profile).weight;
            group.standing = group.standing.plus(weighed(Points::CALL, weight));
        }
        let room = self.groups[id].room.as_mut();
        let own = room.and_then(|room| room.bucket.as_mut());
        for bucket in own
            .map(|bucket| &mut **bucket)
            .into_iter()
            .chain(&mut self.bucket)
        {
            bucket.take(self.now);
        }
    }

    fn lease_next(
        &mut self,
        group: GroupId,
        id: LaneId,
        which: Option<MessageId>,
        out: &mut Outbox<P>,
    ) -> LeaseId {
        let offer = if let Some(message) = which {
            self.lanes[id].take_candidate(message);
            message
        } else {
            let offer = self.lanes[id].take_offer();
            offer.expect("an able lane has something due")
        };
        let again = if self.lanes[id].held.is_empty() {
            None
        } else {
            self.take_held(id, offer)
        };
        let alone = self.lanes_are(id, Lanes::Message);
        let lane = &self.lanes[id];
        let (sender, key) = (lane.sender, lane.activity);
        let score = match (which, &again) {
            (Some(_), Some(again)) => again.score,
            (Some(message), None) => self.score_window(group, message),
            _ => lane.score,
        };
        let mut lease = self.lease_of(group, Some(id), offer);
        lease.evicted = self.take_evicted(sender);
        lease.score = score;
        lease.standing = self.senders[sender].standing;
        lease.group_standing = self.groups[group].standing;
        if let Some(again) = again {
            (lease.messages, lease.attempt, lease.part) =
                (again.messages, again.attempts + 1, again.part);
            (lease.kind, lease.closed_by) = (again.kind, again.closed_by);
            out.spent.extend(again.error);
            (lease.context, lease.context_len) = (again.context, again.context_len);
            lease.resumed = again.put_off;
            lease.saved = again.saved;
            if again.charged {
                lease.charged = Points::ZERO;
            }
        } else {
            if alone {
                self.take_out(id, offer);
            } else if let Some((_, messages)) = self.lanes[id].take_window(&mut self.messages) {
                lease.messages = messages;
            }
            (lease.context, lease.context_len) = self.take_context(group, id);
            if std::mem::take(&mut self.lanes[id].charged) {
                lease.charged = Points::ZERO;
            }
        }
        self.lanes[id].running += 1;
        self.lanes[id].backs_off = false;
        self.activities[key].running += 1;
        self.running += 1;
        let lease = self.begin(lease, out);
        if !alone {
            self.lanes[id].call = Some(lease.slot);
        }
        let first = self.activities[key].calls.replace(lease.slot);
        self.leases[lease.slot].next = first;
        if let Some(first) = first {
            self.leases[first].previous = Some(lease.slot);
        }
        self.activities[key].background += u32::from(self.lanes[id].background);
        lease
    }

    pub(crate) fn lease_bypass(
        &mut self,
        group: GroupId,
        first: MessageId,
        out: &mut Outbox<P>,
    ) -> LeaseId {
        let mut lease = self.lease_of(group, None, first);
        lease.closed_by = ClosedBy::Bypass;
        lease.transaction = false;
        self.bypass_calls += 1;
        self.begin(lease, out)
    }

    /// The first attempt at a message.
    fn lease_of(&self, group: GroupId, lane: Option<LaneId>, first: MessageId) -> Lease<P> {
        let settings = self.groups[group].settings(&self.profile);
        Lease {
            group,
            lane,
            first,
            messages: 1,
            started: self.now,
            kind: Kind::Single,
            closed_by: self.messages[first].closed_by(),
            generation: 0,
            attempt: 1,
            part: false,
            committed: false,
            ending: None,
            previous: None,
            next: None,
            settings: None,
            charged: Points::CALL,
            transaction: settings.on_busy == OnBusy::Rollback,
            resumed: false,
            fallback: lane.is_some_and(|lane| self.lanes[lane].fallback),
            watched: false,
            shields: 0,
            put_off: 0,
            asking: Asking::default(),
            saved: Saved::default(),
            context: None,
            context_len: 0,
            evicted: None,
            score: Score::default(),
            standing: Points::ZERO,
            group_standing: Points::ZERO,
            strategy: self.groups[group].strategy(&self.profile),
            lanes: settings.lanes,
        }
    }

    /// Makes it a running call.
    fn begin(&mut self, mut lease: Lease<P>, out: &mut Outbox<P>) -> LeaseId {
        lease.put_off = self.messages.most_put_off(lease.first);
        let mut places = 0;
        for first in [Some(lease.first), lease.context] {
            let mut next = first;
            while let Some(id) = next {
                next = self.messages[id].next;
                let (fresh, place) = self.set_running(id, lease.strategy);
                if fresh {
                    lease.kind = lease.kind.max(self.messages[id].kind());
                }
                places += place;
            }
        }
        if places > 0 {
            if let Some(lane) = lease.lane {
                let activity = self.lanes[lane].activity;
                self.activities[activity].waiting -= places;
            }
            self.release(lease.group, places);
        }
        self.generation = self.generation.wrapping_add(1);
        lease.generation = self.generation;
        self.metrics
            .start(lease.messages, lease.kind, lease.closed_by, lease.strategy);
        let (group, first, attempt) = (lease.group, lease.first, lease.attempt);
        let (messages, kind, closed_by) = (lease.messages, lease.kind, lease.closed_by);
        let slot = self.leases.insert(lease);
        let timeout = self.groups[group].settings(&self.profile).handler_timeout;
        if let Some(timeout) = timeout {
            self.lease_timers.set(slot, self.now.after(timeout));
        }
        let generation = self.generation;
        let lease = LeaseId { slot, generation };
        if self.observed {
            out.events.push(Event::BatchLeased {
                lease,
                group: self.groups[group].name().clone(),
                sender: self.senders[self.messages[first].sender].name.clone(),
                at: self.now,
                messages,
                kind,
                closed_by,
                attempt,
            });
        }
        lease
    }

    /// A message is part of a call from now on. Returns whether it has something to say for the kind of
    /// its batch, and the places that are free by that: at its first start those that it waited in.
    pub(crate) fn set_running(&mut self, id: MessageId, strategy: Strategy) -> (bool, u32) {
        let message = &mut self.messages[id];
        let again = message.has(Flag::Started);
        let (context, bypass) = (message.has(Flag::Context), message.has(Flag::Bypass));
        message.set(Flag::Running);
        message.set(Flag::Started);
        message.unset(Flag::Held);
        self.ledger.running += 1;
        if again {
            self.ledger.retrying -= 1;
            return (!context, 0);
        }
        self.ledger.waiting -= 1;
        let listened = self.messages[id].has(Flag::Listened);
        if listened {
            self.beside -= 1;
        }
        if !context {
            let waited = self.now.micros_since(self.messages[id].at);
            self.metrics.record_wait(strategy, waited);
        }
        (!context, u32::from(!context && !bypass && !listened))
    }

    /// A lease that is not lost.
    pub(crate) fn lease(&self, id: LeaseId) -> Option<&Lease<P>> {
        let found = self.leases.get(id.slot)?;
        (found.generation == id.generation).then_some(found)
    }

    /// The settings that a call goes by.
    pub(crate) fn settings_of<'a>(&'a self, lease: &'a Lease<P>) -> &'a Arc<Settings> {
        let group = || self.groups[lease.group].settings(&self.profile);
        lease.settings.as_ref().unwrap_or_else(group)
    }

    /// The calls of a group that take its slots, the latest first.
    pub(crate) fn calls_of(&self, group: GroupId) -> impl Iterator<Item = LeaseSlot> {
        let first = self.groups[group]
            .activity
            .and_then(|activity| self.activities[activity].calls);
        std::iter::successors(first, |&slot| self.leases[slot].next)
    }

    /// Takes a lease back; its messages are the caller's to see to, and so is its slot.
    pub(crate) fn take_lease(
        &mut self,
        id: LeaseId,
        ok: bool,
        reason: &'static str,
        out: &mut Outbox<P>,
    ) -> Option<Lease<P>> {
        self.lease(id)?;
        let lease = self.leases.remove(id.slot);
        self.lease_timers.set(id.slot, Time::NEVER);
        self.ledger.running -= u64::from(lease.messages) + u64::from(lease.context_len);
        let micros = self.now.micros_since(lease.started);
        self.metrics.settle(ok, micros);
        if self.observed {
            out.events.push(Event::BatchSettled {
                lease: id,
                group: self.groups[lease.group].name().clone(),
                at: self.now,
                messages: lease.messages,
                ok,
                reason,
                handling: self.now.since(lease.started),
            });
        }
        if let Some(lane) = lease.lane {
            self.unlist(&lease, lane);
            self.correct(&lease, lane, micros, reason == "done");
        }
        Some(lease)
    }

    /// Takes a call off its group's list, and its lane's.
    fn unlist(&mut self, lease: &Lease<P>, lane: LaneId) {
        let lane = &mut self.lanes[lane];
        lane.call = None;
        let activity = &mut self.activities[lane.activity];
        activity.background -= u32::from(lane.background);
        match lease.previous {
            Some(previous) => self.leases[previous].next = lease.next,
            None => activity.calls = lease.next,
        }
        if let Some(next) = lease.next {
            self.leases[next].previous = lease.previous;
        }
    }

    /// A call that bypassed the others has ended.
    pub(crate) fn end_bypass_call(&mut self, group: GroupId) {
        self.bypass_calls -= 1;
        self.intake.end_bypass();
        self.groups[group].last_at = self.now;
    }

    /// From here on nothing interrupts a call, and its failure is final unless the settings say
    /// otherwise (rules H2, F3).
    pub fn commit(&mut self, now: Time, id: LeaseId, out: &mut Outbox<P>) -> Result<(), LeaseLost> {
        self.catch_up_before(now, out);
        if self.lease(id).is_none_or(Lease::is_ending) {
            return Err(LeaseLost);
        }
        let lease = &mut self.leases[id.slot];
        lease.committed = true;
        lease.saved.commit(out);
        Ok(())
    }

    /// Whether a call has taken longer than it may (rule F5), whether it has been told or not. What it
    /// returns counts for nothing then.
    pub fn is_late(&self, now: Time, id: LeaseId) -> bool {
        self.lease(id).is_some_and(|lease| match &lease.ending {
            Some(ending) => ending.fate == Fate::TimedOut,
            None => self.lease_timers.at(id.slot) < self.now.max(now),
        })
    }

    /// Decides that a call is to end (rule H1): it is asked to, and has a grace for it. Returns whether
    /// that was still open.
    pub(crate) fn ask_to_end(&mut self, id: LeaseId, ending: Ending, out: &mut Outbox<P>) -> bool {
        let Some(lease) = self.lease(id).filter(|lease| !lease.is_ending()) else {
            return false; // it has been asked, and has its grace
        };
        let group = lease.group;
        let reason = ending.reason;
        self.promised += u32::from(ending.heir.is_some());
        self.leases[id.slot].ending = Some(ending);
        let grace = self.settings_of(&self.leases[id.slot]).cancel_grace;
        self.lease_timers.set(id.slot, self.now.after(grace));
        out.ending.push((id, reason));
        if self.observed {
            out.events.push(Event::CallEnding {
                lease: id,
                group: self.groups[group].name().clone(),
                at: self.now,
                reason,
            });
        }
        true
    }

    /// A call has taken too long, or too long to end.
    pub(crate) fn be_late(&mut self, slot: LeaseSlot, out: &mut Outbox<P>) {
        let lease = &self.leases[slot];
        let id = lease.id(slot);
        if lease.is_ending() {
            self.metrics.fenced += 1;
            out.fenced.push(id);
            // Its task goes on: where nobody has asked it to end yet, somebody still has to.
            let untold = out.ending.iter().copied().find(|&(ending, _)| ending == id);
            self.finish(id, Outcome::Cancelled { error: None }, Vec::new(), out);
            out.ending.extend(untold);
        } else {
            let ending = Ending {
                reason: TIMEOUT,
                fate: Fate::TimedOut,
                heir: None,
            };
            self.ask_to_end(id, ending, out);
        }
    }

    /// Charges what the call cost in time beyond what it was charged at its start (rules O6, O7).
    fn correct(&mut self, lease: &Lease<P>, lane: LaneId, micros: u64, done: bool) {
        let (id, then) = (lease.group, lease.strategy);
        let (within, between) = self.corrections(id, then, micros, lease.charged, done);
        if then == Strategy::LoadBalanced && within != Points::ZERO {
            let sender = &mut self.senders[self.lanes[lane].sender];
            sender.standing = sender.standing.plus(within);
            for lane in [Some(lane), self.beside(lane)].into_iter().flatten() {
                self.reenter_lane(lane);
            }
        }
        if between != Points::ZERO {
            let group = &mut self.groups[id];
            let weight = group.settings(&self.profile).weight;
            group.standing = group.standing.plus(weighed(between, weight));
        }
    }

    pub(crate) fn free_slot(&mut self, group: GroupId, id: LaneId, out: &mut Outbox<P>) {
        let lane = &mut self.lanes[id];
        let key = lane.activity;
        self.running -= 1;
        lane.running -= 1;
        self.activities[key].running -= 1;
        if !self.competes(id) {
            self.count_sender(id, false);
        }
        let activity = &self.activities[key];
        if activity.running == 0 && !activity.is_able() {
            self.count_group(group, key, false);
        }
        self.settling = true;
        let lane = &self.lanes[id];
        let many = self.groups[group].settings(&self.profile).lanes == Lanes::Message;
        if lane.is_over() {
            self.drop_lane(id, out);
        } else if lane.running == 0 && !lane.able {
            self.end_lane_call(id, out);
        }
        if many {
            self.read_size(group, out);
            self.shed(group, out);
        }
        if self.is_diverted(group) {
            self.review_fallback(group);
            self.end_fallback(group, out);
        }
        self.settling = false;
        self.offer_group(group, HeldUp::ByItself);
    }
}

/// Why a call ends that has taken too long.
pub(crate) const TIMEOUT: &str = "timeout";
