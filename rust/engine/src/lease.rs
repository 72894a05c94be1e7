//! The right to run one call for a batch, from its start to its end.

use std::num::NonZeroU32;
use std::time::Duration;

use compact_str::CompactString;

use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::ids::{ActivityId, GroupId, LaneId, LeaseSlot, MessageId};
use crate::limits::Shared;
use crate::message::{Flag, Kind, Messages};
use crate::order::{HeldUp, Score, weighed};
use crate::sender::Senders;
use crate::settings::Lanes;
use crate::slab::Key as _;
use crate::status::MessageName;
use crate::window::ClosedBy;
use crate::{Points, Seq, Size, Strategy, Time};

/// Names a lease. Slot and generation: a stale one is never mistaken for a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseId {
    slot: LeaseSlot,
    generation: u32,
}

impl LeaseId {
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
    /// Nobody waits for it any more.
    Abandoned {
        /// In a word.
        reason: &'static str,
    },
}

impl<P> Outcome<P> {
    /// That of a call whose end was decided, whatever it did then (rule H1).
    pub(crate) fn decided(reason: &'static str, error: Option<P>) -> Self {
        if reason == TIMEOUT {
            let retry = true;
            Self::Failed {
                reason,
                retry,
                error,
            }
        } else {
            Self::Abandoned { reason }
        }
    }

    pub(crate) fn into_error(self) -> Option<P> {
        match self {
            Self::Failed { error, .. } => error,
            _ => None,
        }
    }
}

pub(crate) const TIMEOUT: &str = "timeout";

/// A running call.
pub(crate) struct Lease {
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
    /// Its end is decided, and why.
    pub(crate) ending: Option<&'static str>,
    /// First of the context that went along, and how many.
    pub(crate) context: Option<MessageId>,
    pub(crate) context_len: u32,
    evicted: Option<Box<[MessageName]>>,
    /// Why it started: what it had to say for itself, and where its sender and its group stood.
    pub(crate) score: Score,
    pub(crate) standing: Points,
    pub(crate) group_standing: Points,
    pub(crate) strategy: Strategy,
    lanes: Lanes,
}

impl Lease {
    pub(crate) fn id(&self, slot: LeaseSlot) -> LeaseId {
        let generation = self.generation;
        LeaseId { slot, generation }
    }

    /// First of its messages, and of its context.
    pub(crate) fn firsts(&self) -> impl Iterator<Item = MessageId> {
        [Some(self.first), self.context].into_iter().flatten()
    }
}

/// What a call is for.
pub struct Batch<'a, P> {
    group: &'a Shared,
    lease: &'a Lease,
    messages: &'a Messages<P>,
    senders: &'a Senders,
}

/// A message of a batch.
#[allow(missing_docs)] // as in `Options`
pub struct BatchMessage<'a, P> {
    pub payload: &'a P,
    pub seq: Seq,
    pub arrived_at: Time,
    pub sender: &'a CompactString,
    pub kind: Kind,
    pub id: Option<&'a str>,
    pub at: Option<Time>,
    pub size: Size,
    pub batch_key: Option<&'a str>,
    pub rank: Points,
    pub flush: bool,
    pub standalone: bool,
    pub real_time: bool,
}

impl<P> Batch<'_, P> {
    /// The group's name.
    pub fn group(&self) -> &CompactString {
        &self.group.name
    }

    /// The highest kind among its messages.
    pub fn kind(&self) -> Kind {
        self.lease.kind
    }

    /// What made its window due.
    pub fn closed_by(&self) -> ClosedBy {
        self.lease.closed_by
    }

    /// Which attempt this call is, from 1.
    pub fn attempt(&self) -> u32 {
        self.lease.attempt
    }

    /// When the call started.
    pub fn started_at(&self) -> Time {
        self.lease.started
    }

    /// Messages in it, at least one.
    #[allow(clippy::len_without_is_empty)] // a batch is never empty
    pub fn len(&self) -> usize {
        self.lease.messages as usize
    }

    /// Its messages, oldest first.
    pub fn messages(&self) -> impl Iterator<Item = BatchMessage<'_, P>> {
        self.tell(Some(self.lease.first))
    }

    /// What was listened to since the group's last call, oldest first (rule X2).
    pub fn context(&self) -> impl Iterator<Item = BatchMessage<'_, P>> {
        self.tell(self.lease.context)
    }

    /// How much that is.
    pub fn context_len(&self) -> usize {
        self.lease.context_len as usize
    }

    /// What was evicted from its lane since the last call (rule W11).
    pub fn evicted(&self) -> &[MessageName] {
        self.lease.evicted.as_deref().unwrap_or_default()
    }

    /// What it had to say for itself when it started.
    pub fn score(&self) -> Score {
        self.lease.score
    }

    /// What shared a lane in its group when it started.
    pub fn lanes(&self) -> Lanes {
        self.lease.lanes
    }

    /// Whether it runs beside everything.
    pub fn is_bypass(&self) -> bool {
        self.lease.lane.is_none()
    }

    fn tell(&self, first: Option<MessageId>) -> impl Iterator<Item = BatchMessage<'_, P>> {
        self.messages.chain(first).map(|id| {
            let message = &self.messages[id];
            let extra = self.messages.extra(id);
            BatchMessage {
                payload: &message.payload,
                seq: message.seq(),
                arrived_at: message.at,
                sender: &self.senders[message.sender].name,
                kind: message.kind(),
                id: extra.and_then(|extra| extra.id.as_deref()),
                at: extra.and_then(|extra| extra.at),
                size: extra.map_or(Size::ONE, |extra| extra.size),
                batch_key: extra.and_then(|extra| extra.batch_key.as_deref()),
                rank: extra.map_or(Points::ZERO, |extra| extra.rank),
                flush: message.has(Flag::Flush),
                standalone: message.has(Flag::Standalone),
                real_time: message.has(Flag::RealTime),
            }
        })
    }
}

impl<P> Engine<P> {
    /// What a running call is for; none once the lease is lost.
    pub fn batch(&self, lease: LeaseId) -> Option<Batch<'_, P>> {
        let lease = self.lease(lease)?;
        let group = self.groups[lease.group].inbox.group();
        Some(Batch {
            group,
            lease,
            messages: &self.messages,
            senders: &self.senders,
        })
    }

    /// Calls that have started and not ended, in no particular order.
    pub fn calls(&self) -> impl Iterator<Item = LeaseId> {
        self.leases.iter().map(|(slot, lease)| lease.id(slot))
    }

    /// Starts the batch that goes first, if one may.
    pub(crate) fn start(&mut self, out: &mut Outbox<P>) -> Option<LeaseId> {
        if let Some(lease) = self.start_bypass(out) {
            return Some(lease);
        }
        self.token_at = Time::NEVER;
        let most = self.profile.settings.max_concurrent;
        if self.paused.is_some() || most.is_some_and(|most| self.running >= most) {
            return None;
        }
        let (group, activity, lane) = self.best()?;
        if let Some(bucket) = &self.bucket
            && bucket.free_at() > self.now
        {
            self.token_at = bucket.free_at();
            return None;
        }
        self.leave_lane(lane);
        let lease = self.lease_next(group, lane, out);
        self.serve(group, activity, lane);
        // Under `lanes="message"` what is left of the lane goes on competing.
        if self.may_start(lane) {
            self.score(lane);
            self.enter_lane(lane);
        } else {
            self.lanes[lane].able = false;
        }
        self.offer_anew(group, activity);
        Some(lease)
    }

    /// Charges a start at both levels (rule O5), and takes its tokens.
    fn serve(&mut self, group: GroupId, activity: ActivityId, lane: LaneId) {
        let cost = self.cost_of_start(group, self.lanes[lane].sender);
        let score = self.lanes[lane].score.total();
        let sender = &mut self.senders[self.lanes[lane].sender];
        let group = &mut self.groups[group];
        let competitors = self.activities[activity].competitors;
        let mut served = group.now_served();
        served.advance(cost, competitors, sender.standing.minus(score));
        group.set_now_served(served);
        sender.standing = sender.standing.plus(cost);

        let behind = group.standing.minus(score);
        self.served
            .advance_by_weight(Points::CALL, self.weights, behind);
        let weight = group.settings(&self.profile).weight;
        group.standing = group.standing.plus(weighed(Points::CALL, weight));

        let own = group.room.as_mut().and_then(|room| room.bucket.as_mut());
        for bucket in own
            .map(|bucket| &mut **bucket)
            .into_iter()
            .chain(&mut self.bucket)
        {
            bucket.take(self.now);
        }
    }

    fn lease_next(&mut self, group: GroupId, id: LaneId, out: &mut Outbox<P>) -> LeaseId {
        let offer = self.lanes[id].take_offer();
        let offer = offer.expect("an able lane has something due");
        let again = if self.lanes[id].held.is_empty() {
            None
        } else {
            self.take_held(id, offer)
        };
        let alone = self.lanes_are(id, Lanes::Message);
        let lane = &self.lanes[id];
        let (sender, score, key) = (lane.sender, lane.score, lane.activity);
        let mut lease = Lease {
            group,
            lane: Some(id),
            first: offer,
            messages: 1,
            started: self.now,
            kind: Kind::Single,
            closed_by: self.messages[offer].closed_by(),
            generation: 0,
            attempt: 1,
            part: false,
            committed: false,
            ending: None,
            context: None,
            context_len: 0,
            evicted: self.take_evicted(sender),
            score,
            standing: self.senders[sender].standing,
            group_standing: self.groups[group].standing,
            strategy: self.groups[group].strategy(&self.profile),
            lanes: self.groups[group].settings(&self.profile).lanes,
        };
        let fresh = again.is_none();
        if let Some(again) = again {
            (lease.messages, lease.attempt, lease.part) =
                (again.messages, again.attempts + 1, again.part);
            (lease.kind, lease.closed_by) = (again.kind, again.closed_by);
            out.forgiven.extend(again.error);
            (lease.context, lease.context_len) = (again.context, again.context_len);
        } else {
            if alone {
                self.take_out(id, offer);
            } else if let Some((_, messages)) = self.lanes[id].take_window(&mut self.messages) {
                lease.messages = messages;
            }
            self.activities[key].waiting -= lease.messages;
            (lease.context, lease.context_len) = self.take_context(group);
            self.release(group, lease.messages);
            self.ledger.waiting -= u64::from(lease.messages) + u64::from(lease.context_len);
        }
        self.lanes[id].running += 1;
        self.lanes[id].backs_off = false;
        self.activities[key].running += 1;
        self.running += 1;
        self.begin(lease, fresh, out)
    }

    pub(crate) fn lease_bypass(
        &mut self,
        group: GroupId,
        first: MessageId,
        out: &mut Outbox<P>,
    ) -> LeaseId {
        let lease = Lease {
            group,
            lane: None,
            first,
            messages: 1,
            started: self.now,
            kind: Kind::Single,
            closed_by: ClosedBy::Bypass,
            generation: 0,
            attempt: 1,
            part: false,
            committed: false,
            ending: None,
            context: None,
            context_len: 0,
            evicted: None,
            score: Score::default(),
            standing: Points::ZERO,
            group_standing: Points::ZERO,
            strategy: self.groups[group].strategy(&self.profile),
            lanes: self.groups[group].settings(&self.profile).lanes,
        };
        self.ledger.waiting -= 1;
        self.bypass_calls += 1;
        self.begin(lease, true, out)
    }

    /// Makes it a running call; `fresh` if its messages have never been in one.
    fn begin(&mut self, mut lease: Lease, fresh: bool, out: &mut Outbox<P>) -> LeaseId {
        for first in [Some(lease.first), lease.context] {
            let mut next = first;
            while let Some(id) = next {
                let message = &mut self.messages[id];
                next = message.next;
                message.set(Flag::Running);
                if fresh && !message.has(Flag::Context) {
                    lease.kind = lease.kind.max(message.kind());
                    let waited = self.now.micros_since(message.at);
                    self.metrics.record_wait(lease.strategy, waited);
                }
            }
        }
        self.generation = self.generation.wrapping_add(1);
        lease.generation = self.generation;
        self.ledger.running += u64::from(lease.messages) + u64::from(lease.context_len);
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

    /// A lease that is not lost.
    pub(crate) fn lease(&self, id: LeaseId) -> Option<&Lease> {
        let found = self.leases.get(id.slot)?;
        (found.generation == id.generation).then_some(found)
    }

    /// Takes a lease back; its messages are the caller's to see to, and so is its slot.
    pub(crate) fn take_lease(
        &mut self,
        id: LeaseId,
        ok: bool,
        reason: &'static str,
        out: &mut Outbox<P>,
    ) -> Option<Lease> {
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
            self.correct(lease.group, lane, lease.strategy, micros, reason == "done");
        }
        Some(lease)
    }

    /// A call that bypassed the others has ended.
    pub(crate) fn end_bypass_call(&mut self, group: GroupId) {
        self.bypass_calls -= 1;
        self.intake.end_bypass();
        self.groups[group].last_at = self.now;
    }

    /// From here on nothing interrupts a call, and its failure is final unless the settings say
    /// otherwise (rules H2, F3).
    pub fn commit(&mut self, id: LeaseId) -> Result<(), LeaseLost> {
        if self.lease(id).is_none_or(|lease| lease.ending.is_some()) {
            return Err(LeaseLost);
        }
        self.leases[id.slot].committed = true;
        Ok(())
    }

    /// Whether a call has taken longer than it may (rule F5), whether it has been told or not. What it
    /// returns counts for nothing then.
    pub fn is_late(&self, now: Time, id: LeaseId) -> bool {
        self.lease(id).is_some_and(|lease| match lease.ending {
            Some(reason) => reason == TIMEOUT,
            None => self.lease_timers.at(id.slot) < self.now.max(now),
        })
    }

    /// Decides that a call is to end (rule H1): it is asked to, and has a grace for it.
    pub(crate) fn ask_to_end(&mut self, id: LeaseId, reason: &'static str, out: &mut Outbox<P>) {
        let Some(group) = self.lease(id).map(|lease| lease.group) else {
            return;
        };
        if self.leases[id.slot].ending.replace(reason).is_some() {
            return; // it has been asked, and has its grace
        }
        let grace = self.groups[group].settings(&self.profile).cancel_grace;
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
    }

    /// A call has taken too long, or too long to end.
    pub(crate) fn be_late(&mut self, slot: LeaseSlot, out: &mut Outbox<P>) {
        let lease = &self.leases[slot];
        let id = lease.id(slot);
        match lease.ending {
            None => self.ask_to_end(id, TIMEOUT, out),
            Some(reason) => {
                self.metrics.fenced += 1;
                out.fenced.push(id);
                self.finish(id, Outcome::decided(reason, None), Vec::new(), out);
            }
        }
    }

    /// Charges what the call cost in time beyond what it was charged at its start (rules O6, O7).
    fn correct(&mut self, id: GroupId, lane: LaneId, then: Strategy, micros: u64, done: bool) {
        let (within, between) = self.corrections(id, then, micros, done);
        if then == Strategy::LoadBalanced && within != Points::ZERO {
            let sender = &mut self.senders[self.lanes[lane].sender];
            sender.standing = sender.standing.plus(within);
            self.reenter_lane(lane);
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
        let activity = &mut self.activities[key];
        self.running -= 1;
        activity.running -= 1;
        lane.running -= 1;
        activity.competitors -= u32::from(lane.running == 0 && !lane.able);
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
        self.settling = false;
        self.offer_group(group, HeldUp::ByItself);
    }
}
