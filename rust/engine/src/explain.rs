//! Why the next one is next, and why the others wait (rule G4).

use compact_str::CompactString;

use crate::engine::{Engine, Outbox};
use crate::ids::{GroupId, LaneId, MessageId};
use crate::order::Score;
use crate::settings::Lanes;
use crate::status::MessageName;
use crate::window::ClosedBy;
use crate::{LeaseId, Points, Strategy, Time};

/// How a group's messages stand.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// Who goes first in it.
    pub strategy: Strategy,
    /// How large it is.
    pub size: u32,
    /// From which size on its settings hold: 0 is below the first band.
    pub band_from: u32,
    /// What it has been served, among groups.
    pub standing: Points,
    /// What a group would have been served that was always there.
    pub now_served: Points,
    /// The same for a sender in this group.
    pub senders_served: Points,
    /// Its calls, the oldest first.
    pub running: Vec<Running>,
    /// Its batches and what may become one, in the order in which they would start if all were due
    /// now; what has yet to arrive and the context come last.
    pub waiting: Vec<Waiting>,
}

/// A call, and why it started.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// Which.
    pub lease: LeaseId,
    /// Who wrote its first message.
    pub sender: CompactString,
    /// What is in it.
    pub messages: Vec<MessageName>,
    /// What made its window due.
    pub closed_by: ClosedBy,
    /// When it started.
    pub started_at: Time,
    /// What it had to say for itself.
    pub score: Score,
    /// Where its sender stood then.
    pub standing: Points,
    /// Where its group stood then.
    pub group_standing: Points,
    /// It runs beside everything.
    pub bypass: bool,
}

/// Messages that wait together.
#[derive(Clone, Debug, PartialEq)]
pub struct Waiting {
    /// Who wrote the first of them.
    pub sender: CompactString,
    /// What they are called.
    pub messages: Vec<MessageName>,
    /// Arrival of the first; of a delayed message its push.
    pub since: Time,
    /// What they have to say for themselves.
    pub score: Score,
    /// Where their sender stands.
    pub standing: Points,
    /// The one thing they wait for.
    pub waits_for: WaitsFor,
    /// Until when at the latest, if that can be said.
    pub until: Option<Time>,
}

/// What something waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WaitsFor {
    /// Others that compete with it go first, or nobody has polled since.
    Turn,
    /// A free slot of its group, or of the queue.
    Slot,
    /// A token of its group, or of the queue.
    Token,
    /// The end of a pause.
    Pause,
    /// The call of its lane, or batches before it.
    LaneBusy,
    /// The end of its quiet period.
    Quiet,
    /// The end of its longest wait.
    MaxWait,
    /// The end of its delay.
    Delay,
    /// The end of the pause after a failure, or of a snooze.
    Backoff,
    /// The group's next call, with which it goes.
    NextCall,
}

impl WaitsFor {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Slot => "slot",
            Self::Token => "token",
            Self::Pause => "pause",
            Self::LaneBusy => "lane_busy",
            Self::Quiet => "quiet",
            Self::MaxWait => "max_wait",
            Self::Delay => "delay",
            Self::Backoff => "backoff",
            Self::NextCall => "next_call",
        }
    }
}

impl<P> Engine<P> {
    /// Why what runs in a group has started, and what everything else in it waits for; none for a
    /// group that is not known.
    pub fn explain(&mut self, now: Time, group: &str, out: &mut Outbox<P>) -> Option<Explained> {
        let id = self.catch_up_in(now, group, out)?;
        if self.is_over(id) {
            return None;
        }
        let group = &self.groups[id];
        let mut explained = Explained {
            strategy: group.strategy(&self.profile),
            size: 0,
            band_from: group.profile(&self.profile).mark(group.band()),
            standing: group.standing,
            now_served: self.served.points,
            senders_served: group.now_served().points,
            running: self.explain_running(id),
            waiting: self.explain_lanes(id),
        };
        explained.waiting.extend(self.explain_beside(id));
        explained.size = self.size_of(id);
        Some(explained)
    }

    fn explain_running(&self, id: GroupId) -> Vec<Running> {
        let leases = self.leases.iter().filter(|(_, lease)| lease.group == id);
        let mut running: Vec<_> = leases
            .map(|(slot, lease)| Running {
                lease: lease.id(slot),
                sender: self.senders[self.messages[lease.first].sender].name.clone(),
                messages: self.names_of(self.messages.chain(Some(lease.first))),
                closed_by: lease.closed_by,
                started_at: lease.started,
                score: lease.score,
                standing: lease.standing,
                group_standing: lease.group_standing,
                bypass: lease.lane.is_none(),
            })
            .collect();
        running.sort_by_key(|call| call.started_at);
        running
    }

    fn explain_lanes(&self, id: GroupId) -> Vec<Waiting> {
        let mut waiting = Vec::new();
        for lane in self.lanes_of(id) {
            for (place, &(key, first)) in self.lanes[lane].held.iter().enumerate() {
                let held = &self.held[key];
                let many = self.lanes_are(lane, Lanes::Message);
                let (waits_for, until) = if !held.due && (many || place == 0) {
                    (WaitsFor::Backoff, held.until)
                } else if !many && (place > 0 || self.lanes[lane].running > 0) {
                    (WaitsFor::LaneBusy, Time::NEVER)
                } else {
                    self.start_waits_for(id, lane)
                };
                let standing = self.senders[self.lanes[lane].sender].standing;
                let claim = self.claim(id, standing, held.score, first);
                let mut batch = self.waiting(first, held.score, standing, waits_for, until);
                batch.messages = self.names_of(self.messages.chain(Some(first)));
                waiting.push(((waits_for, claim), batch));
            }
            let mut next = self.lanes[lane].head();
            while let Some(first) = next {
                let last = self.messages.window(first).last().unwrap_or(first);
                next = self.messages[last].next;
                let (waits_for, until) = self.window_waits_for(id, lane, first);
                let head = self.lanes[lane].head() == Some(first);
                let score = if head && self.lanes[lane].able && !self.lanes[lane].shrunk {
                    self.lanes[lane].score
                } else {
                    self.score_window(id, first)
                };
                let standing = self.senders[self.lanes[lane].sender].standing;
                let claim = self.claim(id, standing, score, first);
                waiting.push((
                    (waits_for, claim),
                    self.waiting(first, score, standing, waits_for, until),
                ));
            }
        }
        waiting.sort_by_key(|(order, _)| *order);
        waiting.into_iter().map(|(_, waiting)| waiting).collect()
    }

    fn waiting(
        &self,
        first: MessageId,
        score: Score,
        standing: Points,
        waits_for: WaitsFor,
        until: Time,
    ) -> Waiting {
        Waiting {
            sender: self.senders[self.messages[first].sender].name.clone(),
            messages: self.names_of(self.messages.window(first)),
            since: self.messages[first].at,
            score,
            standing,
            waits_for,
            until: (until != Time::NEVER).then_some(until),
        }
    }

    /// What the next poll starts beside everything, what has yet to arrive, and the context.
    fn explain_beside(&self, id: GroupId) -> Vec<Waiting> {
        let alone = |message, waits_for, until| {
            self.waiting(message, Score::default(), Points::ZERO, waits_for, until)
        };
        let delayed = self.delayed_in(id).into_iter().map(|(_, message)| {
            let delay = self.messages.extra(message).and_then(|extra| extra.delay);
            let until = delay.map_or(Time::NEVER, |delay| self.messages[message].at.after(delay));
            alone(message, WaitsFor::Delay, until)
        });
        let bypassing = self.bypass.iter().filter(|it| it.0 == id);
        let bypassing = bypassing.map(|it| alone(it.1, WaitsFor::Turn, Time::NEVER));
        let context = self.context_of(id).into_iter();
        let context = context.map(|message| alone(message, WaitsFor::NextCall, Time::NEVER));
        bypassing.chain(delayed).chain(context).collect()
    }

    /// The one thing that a window waits for, and until when.
    fn window_waits_for(&self, id: GroupId, key: LaneId, first: MessageId) -> (WaitsFor, Time) {
        let (group, lane) = (&self.groups[id], &self.lanes[key]);
        let settings = group.settings(&self.profile);
        if lane.opened() == Some(first)
            && let Some(window) = lane.window()
            && !window.is_due()
        {
            let (mut at, mut by) = window.due_at(settings);
            if let Some(quiet) = window.held() {
                let typist = &self.senders[self.messages[first].sender].name;
                let silent = self.types_until(id, typist).after(quiet);
                if silent <= at {
                    (at, by) = (silent, ClosedBy::Quiet);
                }
            }
            let waits_for = match by {
                ClosedBy::MaxWait => WaitsFor::MaxWait,
                _ if at == Time::NEVER => WaitsFor::LaneBusy,
                _ => WaitsFor::Quiet,
            };
            if at > self.now {
                return (waits_for, at);
            }
            // As good as due: the next poll says so.
        }
        let many = settings.lanes == Lanes::Message;
        if !many && (lane.running > 0 || lane.head() != Some(first) || !lane.held.is_empty()) {
            return (WaitsFor::LaneBusy, Time::NEVER);
        }
        self.start_waits_for(id, key)
    }

    /// What keeps a due batch of a free lane from starting.
    fn start_waits_for(&self, id: GroupId, key: LaneId) -> (WaitsFor, Time) {
        let (group, lane) = (&self.groups[id], &self.lanes[key]);
        let settings = group.settings(&self.profile);
        let pauses = [self.pauses.get(&id).copied(), self.paused];
        if let Some(until) = pauses.into_iter().flatten().max() {
            return (WaitsFor::Pause, until);
        }
        let running = self.activities[lane.activity].running;
        if running >= settings.max_concurrent_per_group {
            return (WaitsFor::Slot, Time::NEVER);
        }
        if let Some(at) = group.token_at(self.now) {
            return (WaitsFor::Token, at);
        }
        let most = self.profile.settings.max_concurrent;
        if most.is_some_and(|most| self.running >= most) {
            return (WaitsFor::Slot, Time::NEVER);
        }
        match &self.bucket {
            Some(bucket) if bucket.free_at() > self.now => (WaitsFor::Token, bucket.free_at()),
            _ => (WaitsFor::Turn, Time::NEVER),
        }
    }

    fn names_of(&self, messages: impl Iterator<Item = MessageId>) -> Vec<MessageName> {
        messages.map(|id| self.name_of(id)).collect()
    }
}
