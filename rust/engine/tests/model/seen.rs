//! The promises, checked against nothing but what was seen from outside.

use std::collections::{BTreeMap, BTreeSet};

use chinwag_engine::{End, Event, Lanes, LeaseId, Overflow, Settings};

use super::script::{Push, World, all};
use super::{Micros, NEVER, micros};
use crate::same;

/// What the promises are checked against: nothing but what was seen from outside.
pub(crate) struct Seen {
    pub(crate) world: World,
    pub(crate) log: Vec<Vec<u64>>,
    pub(crate) steps: u64,
    pub(crate) accepted: u64,
    pub(crate) refused: u64,
    pub(crate) ended: [u64; 8],
    pub(crate) messages: BTreeMap<u64, Known>,
    pub(crate) waiting: BTreeSet<u64>,
    pub(crate) running: BTreeMap<u64, Running>,
    /// Of every lane the last message that was handed over, by push order and by arrival.
    pub(crate) handed_over: BTreeMap<(String, String), u64>,
    /// Of every name in a group the last message.
    pub(crate) named: BTreeMap<(String, String), u64>,
    /// Pauses and their ends, "" for the whole queue.
    pub(crate) paused: BTreeMap<String, Micros>,
    /// Which profile a group was given.
    pub(crate) configured: BTreeMap<String, usize>,
    /// A push was stamped before another, or the queue closed: it may have arrived before its time.
    pub(crate) went_back: bool,
    pub(crate) heard: BTreeMap<&'static str, u64>,
}

/// The messages of a call.
pub(crate) struct Running {
    pub(crate) labels: Vec<u64>,
    pub(crate) context: Vec<u64>,
    pub(crate) bypass: bool,
}

impl Running {
    pub(crate) fn len(&self) -> usize {
        self.labels.len() + self.context.len()
    }
}

#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) seq: u64,
    pub(crate) push: Push,
    /// The stamp of its push, and the latest time there was.
    pub(crate) pushed_at: (Micros, Micros),
    /// Taken and evicted at once.
    pub(crate) evicted: bool,
    pub(crate) ended: Option<End>,
}

impl Seen {
    pub(crate) fn new(world: &World) -> Self {
        Self {
            world: world.clone(),
            log: Vec::new(),
            steps: 0,
            accepted: 0,
            refused: 0,
            ended: [0; 8],
            messages: BTreeMap::new(),
            waiting: BTreeSet::new(),
            running: BTreeMap::new(),
            handed_over: BTreeMap::new(),
            named: BTreeMap::new(),
            paused: BTreeMap::new(),
            configured: BTreeMap::new(),
            went_back: false,
            heard: BTreeMap::new(),
        }
    }

    /// The settings that may be in force in a group.
    pub(crate) fn settings(&self, group: &str) -> impl Iterator<Item = &Settings> {
        let at = self.configured.get(group).copied().unwrap_or(0);
        all(&self.world.profiles[at])
    }

    /// A2, A3: an id is taken once, and never is more let in than there is room for.
    pub(crate) fn accept(
        &mut self,
        label: u64,
        seq: u64,
        push: &Push,
        pushed_at: (Micros, Micros),
        evicted: bool,
    ) -> Result<(), String> {
        self.accepted += 1;
        let known = Known {
            seq,
            push: push.clone(),
            pushed_at,
            evicted,
            ended: None,
        };
        if let Some(id) = push.wish.id.clone().filter(|_| !evicted) {
            let before = self.named.insert((push.group.clone(), id), label);
            if let Some(before) = before.map(|label| &self.messages[&label]) {
                let age = pushed_at.0.saturating_sub(before.pushed_at.0);
                let remembers = |it: &Settings| it.dedup_limit > 100 && micros(it.dedup) >= age;
                let settled = self.configured.is_empty() && age > 0;
                let again = match before.ended {
                    None => true,
                    Some(End::Dead | End::Evicted | End::Expired | End::Abandoned) => false,
                    Some(_) => settled && self.settings(&push.group).all(remembers),
                };
                same("an id is taken again", again, false)?;
            }
        }
        self.waiting.insert(label);
        let counts = known.counts();
        self.messages.insert(label, known);
        let most = self.world.own().capacity;
        if counts && most.is_some_and(|most| self.depth(None) > u64::from(most)) {
            return Err("more messages wait than may".into());
        }
        let depth = self.depth(Some(&push.group));
        let allows = |it: &Settings| {
            it.overflow == Overflow::DropOldest
                || it
                    .capacity_per_group
                    .is_none_or(|most| depth <= u64::from(most))
        };
        // A place may have been kept under a larger limit.
        let same = self.configured.is_empty();
        if counts && same && !self.settings(&push.group).any(allows) {
            return Err("more messages wait in the group than may".into());
        }
        Ok(())
    }

    /// A message has another payload.
    pub(crate) fn rename(&mut self, old: u64, new: u64) {
        let known = self.messages[&old].clone();
        self.messages.insert(new, known);
        self.waiting.remove(&old);
        self.waiting.insert(new);
        for label in self.named.values_mut().filter(|label| **label == old) {
            *label = new;
        }
    }

    /// What counts for capacity.
    pub(crate) fn depth(&self, group: Option<&str>) -> u64 {
        let known = self.waiting.iter().map(|label| &self.messages[label]);
        let counts = |it: &&Known| it.counts() && group.is_none_or(|name| it.push.group == name);
        known.filter(counts).count() as u64
    }

    pub(crate) fn groups(&self) -> BTreeSet<String> {
        let messages = self.messages.values();
        messages.map(|message| message.push.group.clone()).collect()
    }

    /// How many such messages wait.
    pub(crate) fn count(&self, counts: impl Fn(&Push) -> bool) -> u64 {
        let waiting = self.waiting.iter();
        waiting
            .filter(|label| counts(&self.messages[label].push))
            .count() as u64
    }

    /// Whether such a message waits or runs.
    pub(crate) fn has(&self, is_it: impl Fn(&Push) -> bool) -> bool {
        let running = self.running.values().flat_map(|call| &call.labels);
        let mut all = self.waiting.iter().chain(running);
        all.any(|label| is_it(&self.messages[label].push))
    }

    pub(crate) fn came_at(&self, label: u64) -> Micros {
        self.messages[&label].pushed_at.0
    }

    pub(crate) fn waits_but_context(&self) -> usize {
        let waiting = self.waiting.iter();
        waiting
            .filter(|label| !self.messages[label].push.wish.context)
            .count()
    }

    /// F6, T3: nothing starts too late.
    pub(crate) fn in_time(
        &self,
        label: u64,
        (arrived, started): (Micros, Micros),
    ) -> Result<(), String> {
        let ttl = self.messages[&label].push.wish.ttl.unwrap_or(NEVER);
        if started > arrived.saturating_add(ttl) {
            return Err(format!("message {label} starts past its ttl"));
        }
        Ok(())
    }

    /// P2 and P3.
    pub(crate) fn start(
        &mut self,
        lease: LeaseId,
        labels: Vec<u64>,
        context: Vec<u64>,
        bypass: bool,
    ) -> Result<(), String> {
        self.log.push(labels.clone());
        for label in labels.iter().chain(&context) {
            same("a message starts once", self.waiting.remove(label), true)?;
        }
        let group = self.messages[&labels[0]].push.group.clone();
        let lanes = self.settings(&group).next().map(|settings| settings.lanes);
        let lane_of = |known: &Known| known.lane_under(lanes.unwrap_or_default());
        for label in labels.iter().filter(|_| !bypass) {
            let message = &self.messages[label];
            let lane = lane_of(message);
            if let Some(lane) = lane.clone().filter(|_| message.push.wish.delay.is_none()) {
                let last = self.handed_over.insert(lane.clone(), message.seq);
                if last.is_some_and(|last| last > message.seq) {
                    return Err(format!(
                        "{lane:?} was handed {} after {last:?}",
                        message.seq
                    ));
                }
            }
            let overlaps = |other: &u64| lane.is_some() && lane_of(&self.messages[other]) == lane;
            let calls = self.running.values().filter(|call| !call.bypass);
            if calls.flat_map(|call| &call.labels).any(overlaps) {
                return Err(format!("two calls of {lane:?} overlap"));
            }
        }
        let running = Running {
            labels,
            context,
            bypass,
        };
        self.running.insert(lease.as_u64(), running);
        let calls = self.calls_of(&group);
        let fits = |it: &Settings| calls <= u64::from(it.max_concurrent_per_group);
        let in_all = self.calls() <= self.world.own().max_concurrent.map_or(u64::MAX, u64::from);
        let fits = bypass || in_all && self.settings(&group).any(fits);
        if !fits {
            return Err("more calls than a cap allows".into());
        }
        Ok(())
    }

    pub(crate) fn calls(&self) -> u64 {
        self.running.values().filter(|call| !call.bypass).count() as u64
    }

    pub(crate) fn calls_of(&self, group: &str) -> u64 {
        let calls = self
            .running
            .values()
            .filter(|call| !call.bypass && self.messages[&call.labels[0]].push.group == group);
        calls.count() as u64
    }

    pub(crate) fn end(&mut self, lease: LeaseId) -> Result<(), String> {
        let known = self.running.remove(&lease.as_u64()).is_some();
        same("a call that ends was running", known, true)
    }

    pub(crate) fn end_message(&mut self, label: u64, end: End, now: Micros) -> Result<(), String> {
        let message = self
            .messages
            .get_mut(&label)
            .ok_or("a message ended that never was")?;
        let ended = message.ended.replace(end).is_some();
        same("a message ends once", ended, false)?;
        if end == End::Expired
            && !self.went_back
            && let Some(until) = message.until()
            && now <= until
        {
            return Err(format!("message {label} expired at {now}, before {until}"));
        }
        self.waiting.remove(&label);
        let at = End::ALL.iter().position(|it| *it == end).unwrap();
        self.ended[at] += 1;
        Ok(())
    }

    pub(crate) fn pause(&mut self, group: Option<&str>, until: Option<Micros>) {
        let group = group.unwrap_or("").to_string();
        match until {
            Some(until) => self.paused.insert(group, until),
            None => self.paused.remove(&group),
        };
    }

    /// No window is open past its longest wait while a slot it may use is free.
    pub(crate) fn nothing_overdue(&self, now: Micros) -> Result<(), String> {
        let paused = |group: &str| self.paused.get(group).is_some_and(|until| *until > now);
        let most = self.world.own().max_concurrent;
        let full = most.is_some_and(|most| self.calls() >= u64::from(most));
        let rated = |it: &Settings| it.rate.is_some() || it.rate_per_group.is_some();
        if paused("") || full || self.world.all().any(rated) {
            return Ok(());
        }
        let longest = self.world.all().map(|it| micros(it.max_wait)).max();
        for label in &self.waiting {
            let message = &self.messages[label];
            let group = message.push.group.as_str();
            if !message.counts() {
                continue;
            }
            let due = message
                .pushed_at
                .1
                .saturating_add(message.push.wish.delay.unwrap_or(0))
                .saturating_add(longest.unwrap_or(NEVER));
            let lanes = self.settings(group).next().map(|it| it.lanes);
            let lane_of = |known: &Known| known.lane_under(lanes.unwrap_or_default());
            let lane = lane_of(message);
            let calls = self.running.values().filter(|call| !call.bypass);
            let busy = calls
                .flat_map(|call| &call.labels)
                .any(|other| lane.is_some() && lane_of(&self.messages[other]) == lane);
            let room = self
                .settings(group)
                .all(|it| self.calls_of(group) < u64::from(it.max_concurrent_per_group));
            if due <= now && room && !busy && !paused(group) {
                return Err(format!("message {label} waits past its longest wait"));
            }
        }
        Ok(())
    }

    /// X1, A4, F6: after a poll nothing is kept that should have left.
    pub(crate) fn nothing_too_much(&self, now: Micros) -> Result<(), String> {
        for group in self.groups() {
            let waiting = self.waiting.iter().map(|label| &self.messages[label]);
            let here = waiting.filter(|it| it.push.group == group);
            let context = here.filter(|it| it.push.wish.context).count();
            let most = self.world.all().map(|it| it.context_limit).max();
            if context > most.unwrap_or(0) as usize {
                return Err(format!("the context of {group} has {context} messages"));
            }
            let depth = self.depth(Some(&group));
            let allows = |it: &Settings| {
                it.capacity_per_group
                    .is_none_or(|most| depth <= u64::from(most))
            };
            if self.configured.is_empty() && !self.settings(&group).any(allows) {
                return Err(format!("{depth} messages wait in {group}"));
            }
        }
        for label in &self.waiting {
            if self.messages[label]
                .latest()
                .is_some_and(|until| until < now)
            {
                return Err(format!("message {label} waits past its ttl"));
            }
        }
        Ok(())
    }

    pub(crate) fn hear(&mut self, event: &Event) {
        let name = match event {
            Event::MessageAccepted { .. } => "accepted",
            Event::MessageRefused { .. } => "refused",
            Event::WindowClosed { .. } => "window",
            Event::BatchLeased { .. } => "leased",
            Event::BatchSettled { .. } => "settled",
            Event::MessageEnded { .. } => "ended",
            _ => "other",
        };
        *self.heard.entry(name).or_default() += 1;
    }

    /// G2: an event for each of what happened.
    pub(crate) fn events_add_up(&self) -> Result<(), String> {
        let heard = |name| self.heard.get(name).copied().unwrap_or(0);
        same("acceptances heard", heard("accepted"), self.accepted)?;
        same("refusals heard", heard("refused"), self.refused)?;
        same("leases heard", heard("leased"), self.log.len() as u64)?;
        same("settled heard", heard("settled"), self.log.len() as u64)?;
        same("ends heard", heard("ended"), self.accepted)
    }
}

impl Known {
    /// Whether it takes a place.
    pub(crate) fn counts(&self) -> bool {
        !(self.push.wish.context || self.push.wish.bypass || self.evicted)
    }

    /// The lane whose order counts; none where every message is its own.
    pub(crate) fn lane_under(&self, lanes: Lanes) -> Option<(String, String)> {
        let (group, sender) = (self.push.group.clone(), self.push.sender.clone());
        match lanes {
            Lanes::Sender => Some((group, sender)),
            Lanes::Group => Some((group, String::new())),
            Lanes::Message => None,
        }
    }

    /// Until when it must not expire, if its own ttl says so.
    pub(crate) fn until(&self) -> Option<Micros> {
        let ttl = self.push.wish.ttl.filter(|_| !self.push.wish.context)?;
        Some(self.arrives(self.pushed_at.0).saturating_add(ttl))
    }

    /// When it must have started or expired, if its own ttl says so.
    pub(crate) fn latest(&self) -> Option<Micros> {
        let ttl = self.push.wish.ttl?;
        Some(self.arrives(self.pushed_at.1).saturating_add(ttl))
    }

    pub(crate) fn arrives(&self, pushed_at: Micros) -> Micros {
        pushed_at.saturating_add(self.push.wish.delay.unwrap_or(0))
    }
}
