//! O: who starts next.

use std::collections::BTreeSet;

use chinwag_engine::{End, FairBy, Lanes, Points, Rate, Settings, SizeBy, Strategy};

use super::window::Window;
use super::{Call, Flaw, Group, Message, Micros, Model, NEVER, POINT, micros};

/// Who competes, a sender in its group or a group among all.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Millionths of a point.
    pub(super) points: i128,
    pub(super) able: bool,
}

/// Now served in millionths, and what its divisions have left over.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NowServed {
    points: i128,
    rest: i128,
}

/// Tokens in millionths of millionths.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Option<Rate>,
    level: u128,
    at: Micros,
    /// A token is there, as far as timers have run.
    pub(super) ready: bool,
}

/// O1, O2, O5.
impl Model {
    /// Who becomes able stands no lower than now served, or a point below it.
    pub(super) fn find_able(&mut self, held_up: bool) {
        for place in 0..self.groups.len() {
            self.find_able_in(place, held_up);
        }
    }

    fn find_able_in(&mut self, place: usize, held_up: bool) {
        let overlaps = self.flaw == Some(Flaw::Overlaps);
        let earns = self.flaw == Some(Flaw::IdleEarns);
        self.score_heads(place);
        let group = &mut self.groups[place];
        for lane in &mut group.lanes {
            let due = lane.windows.first().is_some_and(|it| it.due.is_some());
            lane.able = lane.head().is_some() || overlaps && due;
        }
        for (name, standing) in &mut group.senders {
            let mut lanes = group.lanes.iter().filter(|lane| lane.owner == *name);
            let able = lanes.any(|lane| lane.able);
            if able && !standing.able && !earns {
                standing.lift(group.now_served, held_up);
            }
            standing.able = able;
        }
        let able = self.is_able(&self.groups[place]);
        let group = &mut self.groups[place];
        if able && !group.standing.able && !earns {
            group.standing.lift(self.now_served, held_up);
        }
        group.standing.able = able;
    }

    /// Who has lost what made it able is not, until it is looked at again.
    pub(super) fn lose_able(&mut self, place: usize) {
        let group = &mut self.groups[place];
        for lane in &mut group.lanes {
            lane.able &= lane.head().is_some();
        }
        for (name, standing) in &mut group.senders {
            let mut lanes = group.lanes.iter().filter(|lane| lane.owner == *name);
            standing.able &= lanes.any(|lane| lane.able);
        }
        let able = self.is_able(&self.groups[place]);
        self.groups[place].standing.able &= able;
    }

    fn is_able(&self, group: &Group) -> bool {
        let token = group.bucket.ready || self.flaw == Some(Flaw::IgnoresRates);
        token && self.lacks_only_token(group)
    }

    /// The start that comes next, if one may.
    pub(super) fn start(&mut self) -> Option<Call> {
        if !self.bypass.is_empty() {
            return Some(self.start_bypass());
        }
        self.bucket.tick(self.now);
        let rated = !self.bucket.ready && self.flaw != Some(Flaw::IgnoresRates);
        if self.is_full() || rated || self.paused.is_some() {
            return None;
        }
        let overlaps = self.flaw == Some(Flaw::Overlaps);
        let ages = self.flaw != Some(Flaw::IgnoresAging);
        let (place, sender, lane) = (0..self.groups.len())
            .filter(|place| self.groups[*place].standing.able)
            .map(|place| {
                let (sender, lane) = self.groups[place].best(overlaps, ages);
                (place, sender, lane)
            })
            .min_by_key(|(place, _, lane)| {
                let group = &self.groups[*place];
                let window = &group.lanes[*lane].windows[0];
                let first = &window.messages[0];
                let key = group.standing.points - window.points();
                (key, first.arrived_at, *place, first.seq)
            })?;

        let (among_groups, among_senders) = (self.competing(), self.competing_in(place));
        let (now, flaw) = (self.now, self.flaw);
        let group = &mut self.groups[place];
        let score = group.lanes[lane].windows[0].points();
        let owner = group.lanes[lane].owner.clone();
        let cost = group.cost(&owner, now);
        let standing = &mut group.senders[sender].1;
        group
            .now_served
            .serve(cost, among_senders, standing.points - score);
        standing.points += cost;
        let share = POINT * POINT / group.weight(flaw);
        let floor = group.standing.points - score;
        self.now_served.serve(POINT * POINT, among_groups, floor);
        group.standing.points += share;
        group.bucket.take(now);
        self.bucket.take(now);

        let strategy = group.strategy();
        let lane = &mut group.lanes[lane];
        let window = lane.windows.remove(0);
        lane.busy = true;
        let evicted = group.evicted.remove(&owner).unwrap_or_default();
        self.next_call += 1;
        let call = Call {
            number: self.next_call,
            group: group.name.clone(),
            kind: window.messages.iter().map(Message::kind).max().unwrap(),
            closed_by: window.due.unwrap().1,
            messages: window.messages,
            context: std::mem::take(&mut group.context),
            evicted,
            started_at: now,
            bypass: false,
            score,
            owner,
            strategy,
            lane: lane.number,
        };
        self.calls.push(call.clone());
        self.find_able(false);
        Some(call)
    }

    /// Every slot of the queue is taken.
    pub(super) fn is_full(&self) -> bool {
        let calls = self.calls.iter().filter(|call| !call.bypass);
        let most = self.profile.settings.max_concurrent;
        most.is_some_and(|most| calls.count() >= most as usize)
    }

    /// It would be able with a token.
    pub(super) fn lacks_only_token(&self, group: &Group) -> bool {
        let running = self
            .calls
            .iter()
            .filter(|call| call.takes_slot_of(&group.name));
        group.senders.iter().any(|(_, standing)| standing.able)
            && group.paused.is_none()
            && running.count() < group.settings().max_concurrent_per_group as usize
    }

    /// A8: at once, beside everything.
    fn start_bypass(&mut self) -> Call {
        let message = self.bypass.remove(0);
        let place = self.group(&message.group);
        let mut context = Vec::new();
        if self.flaw == Some(Flaw::BypassTakesContext) {
            context = std::mem::take(&mut self.groups[place].context);
        }
        self.next_call += 1;
        let call = Call {
            number: self.next_call,
            group: message.group.clone(),
            kind: message.kind(),
            closed_by: Vec::new(),
            messages: vec![message],
            context,
            evicted: Vec::new(),
            started_at: self.now,
            bypass: true,
            score: 0,
            owner: String::new(),
            strategy: Strategy::RoundRobin,
            lane: 0,
        };
        self.calls.push(call.clone());
        call
    }

    /// The summed weights of the groups that run or are able.
    fn competing(&self) -> i128 {
        let competes = |group: &&Group| {
            let mut calls = self.calls.iter();
            group.standing.able || calls.any(|call| call.takes_slot_of(&group.name))
        };
        let weights = self.groups.iter().filter(competes);
        weights.map(|group| group.weight(self.flaw)).sum()
    }

    /// Senders of a group that run or are able.
    fn competing_in(&self, place: usize) -> i128 {
        let group = &self.groups[place];
        let runs = |name: &str| {
            let mut calls = self.calls.iter();
            calls.any(|call| call.takes_slot_of(&group.name) && call.owner == name)
        };
        let competes = |(name, standing): &&(String, Standing)| standing.able || runs(name);
        group.senders.iter().filter(competes).count() as i128
    }

    /// O6, O7: what a call took, once it is known.
    pub(super) fn correct(&mut self, place: usize, call: &Call, end: End) {
        let took = self.now - call.started_at;
        let (flaw, timed) = (self.flaw, self.flaw != Some(Flaw::IgnoresTime));
        let group = &mut self.groups[place];
        if call.strategy == Strategy::LoadBalanced && timed {
            let more = cost_in_time(took, &group.handled) - POINT;
            for (_, standing) in group.senders.iter_mut().filter(|it| it.0 == call.owner) {
                standing.points += more;
            }
        }
        if self.profile.settings.fair_by == FairBy::Time && timed {
            let more = cost_in_time(took, &self.handled) - POINT;
            group.standing.points += (more * POINT).div_euclid(group.weight(flaw));
        }
        if end == End::Done {
            // More than an hour is an hour.
            let took = took.min(u64::from(u32::MAX));
            group.handled.push(took);
            self.handled.push(took);
        }
    }

    /// O3: what became able, or changed, is scored.
    pub(super) fn score_heads(&mut self, place: usize) {
        let group = &mut self.groups[place];
        let settings = group.settings();
        for lane in &mut group.lanes {
            let free = !lane.busy || self.flaw == Some(Flaw::Overlaps);
            let head = lane
                .windows
                .first_mut()
                .filter(|it| free && it.due.is_some());
            if let Some(window) = head.filter(|window| window.score.is_none()) {
                let weight = |message: &Message| group.weights.get(&message.sender).copied();
                let weights = window
                    .messages
                    .iter()
                    .map(|it| weight(it).unwrap_or_default());
                let weight = weights.max().unwrap();
                window.score = Some(score(&settings, &window.messages, weight));
            }
        }
    }
}

fn score(settings: &Settings, messages: &[Message], weight: Points) -> i128 {
    let part = |points: Points, counts: fn(&Message) -> bool| {
        if messages.iter().any(counts) {
            millionths(points)
        } else {
            0
        }
    };
    let rank = messages
        .iter()
        .map(|message| message.wish.rank)
        .max()
        .unwrap();
    part(settings.real_time, |message| message.wish.real_time)
        + part(settings.back_to_back_points, |message| message.back_to_back)
        + part(settings.burst_points, |message| message.burst)
        + millionths(Points::from_f64(settings.sender * weight.as_f64()))
        + millionths(rank)
}

impl Group {
    /// The able sender that is next, and its best due batch: both as positions.
    fn best(&self, overlaps: bool, ages: bool) -> (usize, usize) {
        let mut candidates = Vec::new();
        for (sender, (name, standing)) in self.senders.iter().enumerate() {
            for (lane, it) in self.lanes.iter().enumerate() {
                let due = it.windows.first().filter(|it| overlaps && it.due.is_some());
                let Some(window) = it.head().or(due).filter(|_| it.owner == *name) else {
                    continue;
                };
                let first = &window.messages[0];
                let key = match self.strategy() {
                    Strategy::Priority if ages => self.aged(first.arrived_at),
                    Strategy::Priority => 0,
                    _ => standing.points,
                };
                candidates.push((
                    (key - window.points(), first.arrived_at, first.seq),
                    (sender, lane),
                ));
            }
        }
        candidates.into_iter().min().unwrap().1
    }

    /// O7: who came earlier has gained more.
    fn aged(&self, arrived_at: Micros) -> i128 {
        (i128::from(arrived_at) * millionths(self.settings().aging)).div_euclid(POINT)
    }

    /// O7: what a start adds.
    fn cost(&self, owner: &str, now: Micros) -> i128 {
        let minute = 60_000_000;
        if self.strategy() != Strategy::Adaptive {
            return POINT;
        }
        let recent = self.heard.iter().filter(|(_, at)| now - at <= minute);
        let mut senders: Vec<_> = recent.map(|(sender, _)| sender).collect();
        let total = senders.len() as i128;
        let own = senders.iter().filter(|sender| **sender == owner).count() as i128;
        senders.sort();
        senders.dedup();
        if self.settings().lanes == Lanes::Group || own == 0 {
            return POINT;
        }
        (own * senders.len() as i128 * POINT / total).max(POINT)
    }

    fn weight(&self, flaw: Option<Flaw>) -> i128 {
        if flaw == Some(Flaw::IgnoresWeight) {
            POINT
        } else {
            i128::from(self.settings().weight.as_millionths())
        }
    }

    /// O8: how many are active, and which band that is.
    pub(super) fn read_size(&mut self, flaw: Option<Flaw>, own: &Settings, now: Micros) {
        let window = micros(own.size_window);
        let size = match own.size_by {
            SizeBy::Members => u64::from(self.members),
            SizeBy::Active => {
                let active = self.heard.iter().filter(|(_, at)| now - at <= window);
                let mut senders: Vec<_> = active.map(|(sender, _)| sender).collect();
                senders.sort();
                senders.dedup();
                senders.len() as u64
            }
        };
        let rate = self.settings().rate_per_group;
        let mark = |band: usize| u64::from(self.profile.bands[band - 1].from);
        let reached = self
            .profile
            .bands
            .iter()
            .filter(|it| u64::from(it.from) <= size);
        self.band = self.band.max(reached.count());
        let left = |size: u64, mark: u64| match flaw {
            Some(Flaw::IgnoresHysteresis) => size < mark,
            _ => 5 * size < 4 * mark,
        };
        while self.band > 0 && left(size, mark(self.band)) {
            self.band -= 1;
        }
        let new = self.settings().rate_per_group;
        if rate != new {
            self.bucket.change(new, now);
        }
    }
}

impl Model {
    /// Lanes with nothing to do go away, and the size of the group is read again.
    pub(super) fn drop_empty_lanes(&mut self, place: usize, at: Micros, call_ended: bool) {
        self.score_heads(place);
        let own = self.profile.settings.clone();
        let group = &mut self.groups[place];
        let owners = |group: &Group| {
            let owners = group.lanes.iter().map(|lane| lane.owner.clone());
            owners.collect::<BTreeSet<_>>().len()
        };
        let before = owners(group);
        group
            .lanes
            .retain(|lane| lane.busy || !lane.windows.is_empty());
        // Lanes of single messages leave with the last of their sender, or with a call.
        let each_its_own = group.settings().lanes == Lanes::Message;
        if owners(group) < before || each_its_own && call_ended {
            group.read_size(self.flaw, &own, at);
        }
    }
}

impl Standing {
    fn lift(&mut self, now_served: NowServed, held_up: bool) {
        let less = if held_up { POINT } else { 0 };
        self.points = self.points.max(now_served.points - less);
    }
}

impl NowServed {
    pub(super) fn points(self) -> i128 {
        self.points
    }

    /// A start: its cost is shared by all that compete, and what started is the least.
    fn serve(&mut self, cost: i128, weights: i128, floor: i128) {
        let share = cost + self.rest;
        self.points += share / weights;
        self.rest = share % weights;
        if self.points < floor {
            *self = Self {
                points: floor,
                rest: 0,
            };
        }
    }
}

impl Window {
    /// O3, as it was when its lane became able.
    fn points(&self) -> i128 {
        self.score.unwrap()
    }
}

impl Call {
    fn takes_slot_of(&self, group: &str) -> bool {
        !self.bypass && self.group == group
    }
}

impl Bucket {
    pub(super) fn full(rate: Option<Rate>) -> Self {
        Self {
            rate,
            level: rate.map_or(0, most),
            at: 0,
            ready: true,
        }
    }

    /// When the next token is there; never without a rate.
    pub(super) fn next_token(&self) -> Micros {
        let Some(rate) = self.rate else { return NEVER };
        let missing = TOKEN.saturating_sub(self.level);
        let wait = missing.div_ceil(u128::from(rate.per_second_millionths()));
        self.at.saturating_add(wait as Micros)
    }

    /// When a token is there that is missing now.
    pub(super) fn ticks_at(&self) -> Option<Micros> {
        (!self.ready).then(|| self.next_token())
    }

    pub(super) fn tick(&mut self, at: Micros) {
        self.ready |= self.next_token() <= at;
    }

    fn take(&mut self, now: Micros) {
        if self.rate.is_some() {
            self.fill(now);
            self.level = self.level.saturating_sub(TOKEN);
            self.ready = self.level >= TOKEN;
        }
    }

    fn fill(&mut self, now: Micros) {
        if let Some(rate) = self.rate {
            let more = u128::from(now - self.at) * u128::from(rate.per_second_millionths());
            self.level = (self.level + more).min(most(rate));
        }
        self.at = now;
    }

    /// Another rate: what is there stays, as far as it fits.
    pub(super) fn change(&mut self, rate: Option<Rate>, now: Micros) {
        self.fill(now.max(self.at));
        match (self.rate, rate) {
            (None, Some(new)) => self.level = most(new),
            (_, Some(new)) => self.level = self.level.min(most(new)),
            (_, None) => {}
        }
        self.rate = rate;
        self.ready = rate.is_none() || self.level >= TOKEN;
    }
}

/// O7: between a tenth and ten, in units of the mean.
fn cost_in_time(took: Micros, handled: &[Micros]) -> i128 {
    let last = &handled[handled.len().saturating_sub(100)..];
    let mean = match last.len() as u64 {
        0 => 1_000_000,
        count => (last.iter().sum::<u64>() / count).max(1_000),
    };
    (i128::from(took) * POINT / i128::from(mean)).clamp(POINT / 10, POINT * 10)
}

fn millionths(points: Points) -> i128 {
    i128::from(points.as_millionths())
}

fn most(rate: Rate) -> u128 {
    u128::from(rate.burst_millionths()) * 1_000_000
}

/// One token.
const TOKEN: u128 = 1_000_000_000_000;
