//! The whole of it: what comes in, what becomes due, what starts, what ends.
//!
//! Every public call brings the engine's time forward, drains the inboxes (rule T1), and appends what
//! came of it to the caller's [`Outbox`]. The engine calls nobody.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::admission::{GroupInbox, Intake};
use crate::arrival::Late;
use crate::busy::HeldBack;
use crate::events::Event;
use crate::fallback::Fallback;
use crate::forget::Sweep;
use crate::group::{Activity, Group};
use crate::held::Held;
use crate::ids::{ActivityId, GroupId, HeldId, LaneId, LeaseSlot, MessageId, SenderId};
use crate::lane::Lane;
use crate::lease::{Fate, Heir, Lease, LeaseId, LeaseLost, Outcome};
use crate::ledger::{End, Ledger};
use crate::line::Line;
use crate::message::Messages;
use crate::metrics::Metrics;
use crate::order::{Contest, HeldUp, NowServed};
use crate::overrides::Overrides;
use crate::rate::Bucket;
use crate::saved::{LaneKey, Previous};
use crate::sender::Senders;
use crate::settings::Profile;
use crate::slab::Slab;
use crate::status::MessageName;
use crate::strategy::RecentCalls;
use crate::timers::Timers;
use crate::{Seq, Time};

/// The scheduler: a state machine with one owner at a time.
///
/// Generic over the payload, which it moves but never looks at.
pub struct Engine<P> {
    /// The queue's own settings; groups may have others.
    pub(crate) profile: Profile,
    pub(crate) overrides: Overrides,
    pub(crate) intake: Arc<Intake<P>>,
    /// Those who wait for room.
    pub(crate) line: Line<P>,
    /// The latest time it was told.
    pub(crate) now: Time,
    /// A call is ending: who becomes able by that lacked nothing else.
    pub(crate) settling: bool,
    /// The time of what it is seeing to: that may have happened a while ago.
    pub(crate) moment: Time,
    pub(crate) messages: Messages<P>,
    pub(crate) senders: Senders,
    pub(crate) lanes: Slab<LaneId, Lane>,
    pub(crate) groups: Slab<GroupId, Group<P>>,
    pub(crate) activities: Slab<ActivityId, Activity>,
    pub(crate) leases: Slab<LeaseSlot, Lease<P>>,
    /// When calls have taken too long, or too long to end.
    pub(crate) lease_timers: Timers<LeaseSlot>,
    /// What will be handed over again.
    pub(crate) held: Slab<HeldId, Held<P>>,
    /// Messages that others go behind, which wait in a lane by a first message.
    pub(crate) behind: HashMap<MessageId, Vec<(LaneId, MessageId, Seq)>>,
    /// Batches whose slot has become free, and how many are still to come.
    pub(crate) heirs: VecDeque<Heir>,
    pub(crate) promised: u32,
    /// Lanes of background messages, by their senders.
    pub(crate) background: HashMap<SenderId, LaneId>,
    /// Groups that are out of service.
    pub(crate) fallbacks: HashMap<GroupId, Fallback>,
    /// Full groups to look at before the next start.
    pub(crate) contended: Vec<GroupId>,
    /// Who would end a call but for something else that is missing, and when that may be there.
    pub(crate) held_back: Vec<HeldBack>,
    pub(crate) held_back_until: Time,
    /// The last calls of lanes that did not complete.
    pub(crate) previous: HashMap<LaneKey, Previous<P>>,
    /// What random numbers come from.
    pub(crate) seed: u64,
    pub(crate) generation: u32,
    /// How often something has changed by which batches are scored.
    pub(crate) scoring: u32,
    /// The stamp given last, see [`Contest`].
    pub(crate) stamp: u32,
    /// Between groups: their claims, the virtual clock, how many run or are able and what they weigh
    /// together, running calls.
    pub(crate) contest: Contest<GroupId>,
    pub(crate) served: NowServed,
    pub(crate) competitors: u32,
    pub(crate) weights: u64,
    pub(crate) running: u32,
    /// The tokens of the whole queue, and when there is one for what waits for it.
    pub(crate) bucket: Option<Bucket>,
    pub(crate) token_at: Time,
    /// How long calls take, while groups are compared by that.
    pub(crate) calls: RecentCalls,
    /// What the next poll starts beside everything, and what runs so.
    pub(crate) bypass: VecDeque<(GroupId, MessageId)>,
    pub(crate) bypass_calls: u32,
    /// Messages that wait and count for no capacity: context, and what starts beside everything.
    pub(crate) beside: u64,
    /// What was evicted since the last call of its lane, by the lane's sender.
    pub(crate) evicted: HashMap<SenderId, Vec<MessageName>>,
    /// When windows become due.
    pub(crate) window_timers: Timers<LaneId>,
    /// When something else is to happen in groups.
    pub(crate) deadlines: Timers<GroupId>,
    /// When groups have a token again.
    pub(crate) token_timers: Timers<GroupId>,
    /// When the pauses of groups end.
    pub(crate) pause_timers: Timers<GroupId>,
    pub(crate) pauses: HashMap<GroupId, Time>,
    /// Set while the whole queue is paused: until when.
    pub(crate) paused: Option<Time>,
    pub(crate) sweep: Sweep,
    pub(crate) late: Late<P>,
    /// Lanes whose window has changed since they were last looked at.
    pub(crate) touched: Vec<LaneId>,
    /// Every window is due.
    pub(crate) closing: bool,
    pub(crate) observed: bool,
    pub(crate) ledger: Ledger,
    pub(crate) metrics: Metrics,
}

/// What a call brought about. Its user empties it once the engine is free again.
#[derive(Debug)]
pub struct Outbox<P> {
    /// Calls to make.
    pub started: Vec<LeaseId>,
    /// Messages that have ended, with their payloads.
    pub ended: Vec<Ended<P>>,
    /// Payloads that were replaced by others.
    pub replaced: Vec<P>,
    /// Calls that are to end, and why: ask them to, they have a grace for it.
    pub ending: Vec<(LeaseId, &'static str)>,
    /// Calls behind which something waits now, of those that have been asked about.
    pub superseded: Vec<LeaseId>,
    /// Calls that have not ended in time: their leases are lost.
    pub fenced: Vec<LeaseId>,
    /// Errors of attempts that count no more, and what calls saved that nobody will ask for.
    pub spent: Vec<Arc<P>>,
    /// What happened, while somebody observes.
    pub events: Vec<Event>,
}

impl<P> Default for Outbox<P> {
    fn default() -> Self {
        Self {
            started: Vec::new(),
            ended: Vec::new(),
            replaced: Vec::new(),
            ending: Vec::new(),
            superseded: Vec::new(),
            fenced: Vec::new(),
            spent: Vec::new(),
            events: Vec::new(),
        }
    }
}

/// A message that has ended.
#[derive(Debug)]
pub struct Ended<P> {
    /// Which.
    pub seq: Seq,
    /// Handed back.
    pub payload: P,
    /// How.
    pub end: End,
    /// Why, in a word.
    pub reason: &'static str,
    /// The call it ended in, if it did.
    pub lease: Option<LeaseId>,
    /// What it had failed of, where that is not told by the end of that call.
    pub error: Option<Arc<P>>,
}

impl<P> Engine<P> {
    /// An empty queue, with the given settings for groups that have none of their own.
    pub fn new(profile: impl Into<Profile>) -> Self {
        let profile = profile.into().trimmed();
        let settings = &profile.settings;
        let seed = settings.seed;
        Self {
            intake: Arc::new(Intake::new(settings)),
            bucket: settings.rate.map(|rate| Bucket::new(rate, Time::ZERO)),
            profile,
            overrides: Overrides::default(),
            line: Line::new(),
            now: Time::ZERO,
            settling: false,
            moment: Time::ZERO,
            messages: Messages::new(),
            senders: Senders::new(),
            lanes: Slab::new(),
            groups: Slab::new(),
            activities: Slab::new(),
            leases: Slab::new(),
            lease_timers: Timers::new(),
            held: Slab::new(),
            behind: HashMap::new(),
            heirs: VecDeque::new(),
            promised: 0,
            background: HashMap::new(),
            fallbacks: HashMap::new(),
            contended: Vec::new(),
            held_back: Vec::new(),
            held_back_until: Time::NEVER,
            previous: HashMap::new(),
            seed,
            generation: 0,
            scoring: 0,
            stamp: 0,
            contest: Contest::new(),
            served: NowServed::default(),
            competitors: 0,
            weights: 0,
            running: 0,
            token_at: Time::NEVER,
            calls: RecentCalls::default(),
            bypass: VecDeque::new(),
            bypass_calls: 0,
            beside: 0,
            evicted: HashMap::new(),
            window_timers: Timers::new(),
            deadlines: Timers::new(),
            token_timers: Timers::new(),
            pause_timers: Timers::new(),
            pauses: HashMap::new(),
            paused: None,
            sweep: Sweep::default(),
            late: Late::new(),
            touched: Vec::new(),
            closing: false,
            observed: false,
            ledger: Ledger::default(),
            metrics: Metrics::default(),
        }
    }

    /// Where producers push.
    pub fn intake(&self) -> Arc<Intake<P>> {
        self.intake.clone()
    }

    /// Builds events from now on, or no longer.
    pub fn observe(&mut self, on: bool) {
        self.observed = on;
        self.intake.observe(on);
    }

    /// Does everything that is to be done at `now`.
    pub fn poll(&mut self, now: Time, out: &mut Outbox<P>) {
        while let Some(lease) = self.next(now, out) {
            out.started.push(lease);
        }
    }

    /// The same, with at most one start. `None` means that nothing is left to do now: from then on
    /// the next push is told to wake the owner (promise P4).
    pub fn next(&mut self, now: Time, out: &mut Outbox<P>) -> Option<LeaseId> {
        self.catch_up(now, out);
        let mut lease = self.start(out);
        if lease.is_none() && !self.intake.ready.idle() {
            // Others push meanwhile. This looks once more, and no more often: it must come to an end
            // though they go on, or no call would ever be settled.
            let listed = self.intake.ready.take_asleep();
            self.take_in_listed(listed, out);
            self.run_timers(self.now.just_after(), out);
            lease = self.start(out);
        }
        if lease.is_some() {
            self.intake.ready.awake();
        }
        lease
    }

    /// Ends a call that will not end by itself: whatever it still does, its lease is lost.
    pub fn abandon_call(
        &mut self,
        now: Time,
        lease: LeaseId,
        out: &mut Outbox<P>,
    ) -> Result<(), LeaseLost> {
        self.come_to_end(now, out);
        if self.lease(lease).is_none() {
            return Err(LeaseLost);
        }
        let ending = self.leases[lease.slot()].ending.take();
        let promised = ending.as_ref().is_some_and(|ending| ending.heir.is_some());
        self.promised -= u32::from(promised);
        let stopped = ending.filter(|ending| ending.fate == Fate::Abandoned);
        let reason = stopped.map_or("closed", |ending| ending.reason);
        self.finish(lease, Outcome::Abandoned { reason }, Vec::new(), out);
        Ok(())
    }

    /// The next point in time at which there will be something to do without a push or an end.
    pub fn wake_at(&self) -> Time {
        let pause = self.paused.unwrap_or(Time::NEVER);
        self.window_timers
            .next_at()
            .min(self.deadlines.next_at())
            .min(self.lease_timers.next_at())
            .min(self.token_timers.next_at())
            .min(self.pause_timers.next_at())
            .min(self.token_at)
            .min(self.held_back_until)
            .min(pause)
    }

    /// Batches that will be handed over again.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Calls that run.
    pub fn running(&self) -> usize {
        self.leases.len()
    }

    /// Figures so far.
    pub fn metrics(&mut self) -> &Metrics {
        self.metrics.groups = self.groups.len() as u64;
        self.metrics.refused = self.intake.refused();
        &self.metrics
    }

    /// At one instant ends of calls come first, then pushes: what was pushed before `now` is in its
    /// lane when the call ends, what was pushed at `now` finds the lane free.
    pub(crate) fn come_to_end(&mut self, now: Time, out: &mut Outbox<P>) {
        self.tell_time(now);
        self.drain_before_now(out);
        self.run_timers(self.now, out);
    }

    fn tell_time(&mut self, now: Time) {
        self.now = self.now.max(now);
        self.moment = self.now;
    }

    /// For a poll: pushes up to `now`, then the timers of that very instant.
    pub(crate) fn catch_up(&mut self, now: Time, out: &mut Outbox<P>) {
        self.tell_time(now);
        self.drain(out);
        self.run_timers(self.now.just_after(), out);
        self.forget_idle(out);
    }

    /// For a control or a look: at one instant these come before timers, so that what is pushed after
    /// them at the same instant finds the windows as they were (rule T1).
    pub(crate) fn catch_up_before(&mut self, now: Time, out: &mut Outbox<P>) {
        self.tell_time(now);
        self.drain(out);
        self.run_timers(self.now, out);
    }

    /// The timers before `until`.
    fn run_timers(&mut self, until: Time, out: &mut Outbox<P>) {
        while let Some(slot) = self.lease_timers.pop(until) {
            self.be_late(slot, out);
        }
        while let Some(group) = self.deadlines.pop(until) {
            self.advance(group, until, out);
        }
        self.end_pauses(until, out);
        while let Some(group) = self.token_timers.pop(until) {
            self.offer_group(group, HeldUp::No);
        }
        while let Some(lane) = self.window_timers.pop(until) {
            self.touch(lane);
        }
        self.look_at_lanes(until, out);
        if self.held_back_until < until {
            self.ask_again(out);
        }
        if !self.contended.is_empty() {
            self.settle_contests(out);
        }
    }

    /// Ends the messages linked from `first` on.
    pub(crate) fn end_messages(
        &mut self,
        group: GroupId,
        mut first: Option<MessageId>,
        end: End,
        reason: &'static str,
        lease: Option<LeaseId>,
        out: &mut Outbox<P>,
    ) {
        while let Some(id) = first {
            if !self.behind.is_empty() {
                self.follow(id, lease.is_some());
            }
            let (message, extra) = self.messages.remove(id);
            first = message.next;
            let seq = message.seq();
            self.senders[message.sender].messages -= 1;
            let id = extra.and_then(|extra| extra.id);
            if let Some(id) = &id {
                self.end_id(group, id, seq, end);
            }
            self.ledger.end(end);
            let age = self.now.micros_since(message.at);
            self.metrics.end(end, reason, age);
            if self.observed {
                let (group, at) = (self.groups[group].name().clone(), self.now);
                out.events.push(Event::MessageEnded {
                    seq,
                    group,
                    at,
                    end,
                    reason,
                    id,
                });
            }
            out.ended.push(Ended {
                seq,
                payload: message.payload,
                end,
                reason,
                lease,
                error: None,
            });
        }
    }

    fn end_id(&mut self, group: GroupId, id: &str, seq: Seq, end: End) {
        let settings = self.groups[group].settings(&self.profile);
        let (dedup, limit) = (settings.dedup, settings.dedup_limit);
        let mut ids = self.groups[group].inbox.group().ids();
        if let Some(filter) = ids.as_mut() {
            let free = end.frees_id();
            self.metrics.forgotten_ids += filter.end(id, seq, free, self.now, dedup, limit);
            if filter.is_empty() {
                *ids = None;
            }
        }
    }

    /// Lets a message be found by its id.
    pub(crate) fn place_id(&mut self, id: MessageId) {
        let message = &self.messages[id];
        let group = self.senders[message.sender].group;
        let name = self
            .messages
            .extra(id)
            .and_then(|extra| extra.id.as_deref());
        let mut ids = self.groups[group].inbox.group().ids();
        if let (Some(name), Some(ids)) = (name, ids.as_mut()) {
            ids.place(name, message.seq(), id);
        }
    }

    /// The group an inbox belongs to, met for the first time if need be.
    pub(crate) fn group_of(&mut self, inbox: &Arc<GroupInbox<P>>) -> GroupId {
        if let Some(id) = inbox.group().group_id() {
            return id;
        }
        let id = self
            .groups
            .insert(Group::new(inbox.clone(), self.served.points));
        inbox.group().set_group_id(id);
        self.furnish(id);
        id
    }
}
