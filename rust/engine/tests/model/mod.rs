//! The rules once more, as slowly and plainly as they can be written.
//!
//! Lists and linear scans; whatever can be worked out again is worked out again. Where the rules leave
//! an answer open, [`Call::closed_by`] holds every answer they allow.

#![allow(clippy::struct_excessive_bools)] // each is a rule's own flag

mod admission;
mod control;
pub(crate) mod dice;
mod order;
pub(crate) mod rush;
pub(crate) mod script;
pub(crate) mod seen;
mod status;
mod timers;
mod window;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chinwag_engine::{ClosedBy, End, Kind, Lanes, Points, Profile, Settings, Size, Strategy};

use admission::{Id, Waiter};
use order::{Bucket, NowServed, Standing};
pub(crate) use status::View;
use window::{Lane, Typing};

/// Microseconds, as a plain number.
pub(crate) type Micros = u64;

/// A time that never comes.
pub(crate) const NEVER: Micros = u64::MAX;

/// A mistake to plant, so that the simulation can be seen to find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// A late message makes a due window wait again.
    LateMessageExtends,
    /// Only the quiet period ends a window.
    IgnoresMaxWait,
    /// A lane may have two calls at once.
    Overlaps,
    /// Who has been idle keeps the turns that it did not take.
    IdleEarns,
    /// A message that has started still takes a place.
    CountsWhatRuns,
    /// Something exactly as old as its limit has passed it.
    LimitsExclude,
    /// A message exactly as old as its `ttl` has expired.
    TtlExcludes,
    /// `drop_oldest` drops the newest.
    DropsNewest,
    /// A message that waits gains nothing.
    IgnoresAging,
    /// All groups weigh the same.
    IgnoresWeight,
    /// A long call costs what a short one does.
    IgnoresTime,
    /// A newer message starts the longest wait anew.
    LatestExtends,
    /// Who types holds a window beyond its longest wait.
    TypingProlongs,
    /// A bypass call takes the context.
    BypassTakesContext,
    /// A band is left right below its mark.
    IgnoresHysteresis,
    /// A freed place goes to whoever pushes first.
    ForgetsLine,
    /// A token is there as soon as one is missing.
    IgnoresRates,
    /// What an emptied window cut stays cut.
    StaysCut,
}

/// What a push asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wish {
    pub(crate) id: Option<String>,
    pub(crate) at: Option<Micros>,
    pub(crate) size: Size,
    pub(crate) key: Option<String>,
    pub(crate) quiet: Option<Micros>,
    pub(crate) flush: bool,
    pub(crate) standalone: bool,
    pub(crate) real_time: bool,
    pub(crate) rank: Points,
    pub(crate) context: bool,
    pub(crate) bypass: bool,
    pub(crate) ttl: Option<Micros>,
    pub(crate) delay: Option<Micros>,
}

/// A message, from its acceptance to its end.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The test's name for it.
    pub(crate) label: u64,
    pub(crate) seq: u64,
    pub(crate) group: String,
    pub(crate) sender: String,
    pub(crate) arrived_at: Micros,
    /// W1's two tests.
    pub(crate) back_to_back: bool,
    pub(crate) burst: bool,
    pub(crate) wish: Wish,
    /// The last instant at which it may start.
    expires_at: Micros,
    /// `drop_newest` took it and evicted it at once.
    evicted: bool,
    found_idle: bool,
    came_in_call: bool,
    /// When the call ended during which it came.
    call_ended: Option<Micros>,
}

/// A running call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) group: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) context: Vec<Message>,
    /// Names of what was evicted from its lane since the last call.
    pub(crate) evicted: Vec<String>,
    pub(crate) kind: Kind,
    /// What may be said to have closed its window.
    pub(crate) closed_by: Vec<ClosedBy>,
    pub(crate) started_at: Micros,
    pub(crate) bypass: bool,
    /// Millionths of a point.
    pub(crate) score: i128,
    /// Whose standing was charged, and how.
    owner: String,
    strategy: Strategy,
    lane: usize,
}

/// A message that has ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gone {
    pub(crate) label: u64,
    pub(crate) end: &'static str,
    pub(crate) reason: &'static str,
}

#[derive(Debug)]
struct Group {
    name: String,
    /// Whether a message was ever accepted.
    pushed: bool,
    profile: Profile,
    /// How many of the profile's bands it has entered.
    band: usize,
    members: u32,
    weights: BTreeMap<String, Points>,
    lanes: Vec<Lane>,
    next_lane: usize,
    delayed: Vec<Message>,
    context: Vec<Message>,
    typing: Vec<Typing>,
    /// When the last typing of a lane ended, by owner.
    hushed: BTreeMap<String, Micros>,
    /// Names of what was evicted since its last call, by owner.
    evicted: BTreeMap<String, Vec<String>>,
    paused: Option<Micros>,
    standing: Standing,
    senders: Vec<(String, Standing)>,
    now_served: NowServed,
    bucket: Bucket,
    /// How long its completed calls took.
    handled: Vec<Micros>,
    /// Arrivals in lanes: sender and time.
    heard: Vec<(String, Micros)>,
    last_arrival: Micros,
    touched_at: Micros,
}

/// The queue as the rules describe it.
#[derive(Debug)]
pub(crate) struct Model {
    profile: Profile,
    flaw: Option<Flaw>,
    now: Micros,
    inbox: Vec<(Message, Micros)>,
    groups: Vec<Group>,
    /// Messages that start before everything else.
    bypass: Vec<Message>,
    ids: Vec<Id>,
    line: Vec<Waiter>,
    next_ticket: u64,
    admitted: Vec<u64>,
    calls: Vec<Call>,
    next_call: u64,
    pub(crate) next_seq: u64,
    next_end: u64,
    paused: Option<Micros>,
    pub(crate) closed: bool,
    now_served: NowServed,
    bucket: Bucket,
    handled: Vec<Micros>,
    pub(crate) accepted: u64,
    pub(crate) gone: Vec<Gone>,
}

impl Model {
    pub(crate) fn new(profile: Profile, flaw: Option<Flaw>) -> Self {
        Self {
            bucket: Bucket::full(profile.settings.rate),
            profile,
            flaw,
            now: 0,
            inbox: Vec::new(),
            groups: Vec::new(),
            bypass: Vec::new(),
            ids: Vec::new(),
            line: Vec::new(),
            next_ticket: 0,
            admitted: Vec::new(),
            calls: Vec::new(),
            next_call: 0,
            next_seq: 0,
            next_end: 0,
            paused: None,
            closed: false,
            now_served: NowServed::default(),
            handled: Vec::new(),
            accepted: 0,
            gone: Vec::new(),
        }
    }

    /// The latest time it was told, pushes aside.
    pub(crate) fn now(&self) -> Micros {
        self.now
    }

    /// Everything that may start, starts.
    pub(crate) fn poll(&mut self, now: Micros) -> Vec<Call> {
        std::iter::from_fn(|| self.next(now)).collect()
    }

    /// One start.
    pub(crate) fn next(&mut self, now: Micros) -> Option<Call> {
        self.drain(now);
        self.run_timers(self.now);
        let call = self.start();
        self.admit();
        call
    }

    /// What was pushed comes in, and timers run of which nobody can say that they come later.
    pub(crate) fn drain(&mut self, now: Micros) {
        self.now = self.now.max(now);
        self.take_in(NEVER);
        if self.now > 0 {
            // At one instant controls come before timers.
            self.run_timers(self.now - 1);
        }
        self.find_able(false);
        self.admit();
    }

    /// Ends a call, well or not. At one instant ends come before pushes (rule T1).
    pub(crate) fn settle(
        &mut self,
        now: Micros,
        number: u64,
        end: End,
        reason: &'static str,
    ) -> bool {
        self.now = self.now.max(now);
        if self.now > 0 {
            self.take_in(self.now - 1);
            self.run_timers(self.now - 1);
        }
        let Some(at) = self.calls.iter().position(|call| call.number == number) else {
            return false;
        };

        let now = self.now;
        let call = self.calls.remove(at);
        let place = self.group(&call.group);
        self.groups[place].touched_at = now;
        if !call.bypass {
            // A token of this instant is there.
            self.groups[place].bucket.tick(now);
            self.correct(place, &call, end);
            self.free_lane(place, call.lane);
        }
        for message in call.messages.into_iter().chain(call.context) {
            self.end(message, end, reason);
        }
        if !call.bypass {
            self.drop_empty_lanes(place, now, true);
            self.keep_limits(place, now);
        }
        // Whatever is able now lacked only this slot or this lane.
        self.find_able(true);
        self.admit();
        true
    }

    /// A2: an end frees the id at once, or leaves it in the filter.
    fn end(&mut self, message: Message, end: End, reason: &'static str) {
        self.gone.push(Gone {
            label: message.label,
            end: end.name(),
            reason,
        });
        if !message.evicted {
            self.end_id(&message, end);
        }
    }
}

/// Arrival.
impl Model {
    /// Pushes up to a time arrive, in push order.
    fn take_in(&mut self, until: Micros) {
        let (now, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.inbox)
            .into_iter()
            .partition(|(_, at)| *at <= until);
        self.inbox = later;
        // Group by group, in the order in which they were heard of.
        let mut groups: Vec<&str> = Vec::new();
        for (message, _) in &now {
            if !groups.contains(&message.group.as_str()) {
                groups.push(&message.group);
            }
        }
        let place = |message: &Message| groups.iter().position(|it| *it == message.group);
        let mut order: Vec<_> = (0..now.len()).collect();
        order.sort_by_key(|at| place(&now[*at].0));
        let mut now: Vec<_> = now.iter().cloned().map(Some).collect();
        for at in order {
            let (message, at) = now[at].take().unwrap();
            self.reach(message, at);
        }
    }

    /// A message reaches its group: to arrive at once, or later, or beside the lanes.
    fn reach(&mut self, mut message: Message, at: Micros) {
        let place = self.group(&message.group);
        // Clocks of threads may differ a little: a push is never before another, nor still to come.
        let at = at.max(self.groups[place].last_arrival).min(self.now);
        if at > 0 {
            self.run_group_timers(place, at - 1);
        }
        let group = &mut self.groups[place];
        group.last_arrival = at;
        group.touched_at = group.touched_at.max(at);
        message.arrived_at = at;
        if message.evicted {
            group.name_evicted(&message);
            self.end(message, End::Evicted, "capacity");
        } else if message.wish.bypass {
            message.expires_at = group.expiry(&message);
            self.bypass.push(message);
        } else if message.wish.context {
            self.listen(place, message);
        } else if let Some(delay) = message.wish.delay.filter(|delay| *delay > 0) {
            message.arrived_at = at.saturating_add(delay);
            group.delayed.push(message);
        } else {
            self.arrive(place, message);
        }
        self.keep_limits(place, at);
    }

    /// A message comes to its lane.
    fn arrive(&mut self, place: usize, mut message: Message) {
        // What is able already keeps the score of the settings before.
        self.score_heads(place);
        let flaw = self.flaw;
        let own = self.profile.settings.clone();
        let group = &mut self.groups[place];
        let at = message.arrived_at.max(group.last_arrival);
        message.arrived_at = at;
        group.last_arrival = at;
        group.touched_at = group.touched_at.max(at);
        let settings = group.settings();
        (message.back_to_back, message.burst) = group.follows(&settings, &message.sender, at);
        message.expires_at = group.expiry(&message);
        group.heard.push((message.sender.clone(), at));

        let owner = group.owner(&message.sender);
        group.stop_typing(&message.sender, at);
        if !group.senders.iter().any(|(name, _)| *name == owner) {
            group.senders.push((owner.clone(), Standing::default()));
        }
        let own_lane = settings.lanes == Lanes::Message;
        let known = group
            .lanes
            .iter()
            .position(|lane| lane.owner == owner && !own_lane);
        let lane = known.unwrap_or_else(|| {
            group.next_lane += 1;
            group.lanes.push(Lane::new(group.next_lane, owner));
            group.lanes.len() - 1
        });
        if known.is_none() {
            group.read_size(flaw, &own, at);
        }
        let settings = group.settings();
        let hush = group.hush(lane);
        let superseded = group.lanes[lane].take_in(&settings, flaw, hush, message);
        // Where each message is due at once, it stands in for its sender's others.
        let mut siblings = group.lanes.iter();
        let owner = group.lanes[lane].owner.clone();
        if siblings.any(|it| it.able && it.owner == owner) && settings.lanes == Lanes::Message {
            group.lanes[lane].able = true;
        }
        for message in superseded {
            self.end(message, End::Superseded, "superseded");
        }
    }

    /// X1.
    fn listen(&mut self, place: usize, mut message: Message) {
        let group = &mut self.groups[place];
        let settings = group.settings();
        let ttl = micros(settings.context_ttl).min(message.wish.ttl.unwrap_or(NEVER));
        message.expires_at = message.arrived_at.saturating_add(ttl);
        group.context.push(message);
    }

    /// X1, A4: the oldest make room.
    fn keep_limits(&mut self, place: usize, at: Micros) {
        let group = &mut self.groups[place];
        let most = group.settings().context_limit as usize;
        let excess = group.context.len().saturating_sub(most);
        for message in group.context.drain(..excess).collect::<Vec<_>>() {
            self.end(message, End::Evicted, "context_limit");
        }
        self.evict_oldest(place, at);
    }
}

/// Finding one's way.
impl Model {
    /// The position of a group, which exists from now on.
    fn group(&mut self, name: &str) -> usize {
        if let Some(at) = self.groups.iter().position(|group| group.name == name) {
            return at;
        }
        let profile = self.profile.clone();
        self.groups.push(Group::new(name, profile, self.now));
        self.groups.len() - 1
    }

    /// The settings in force in a group, which need not exist.
    fn settings_of(&self, name: &str) -> Arc<Settings> {
        let group = self.groups.iter().find(|group| group.name == name);
        group.map_or_else(|| self.profile.settings.clone(), Group::settings)
    }

    fn alive(&self) -> impl Iterator<Item = &Message> {
        let calls = self.calls.iter();
        self.waiting_messages()
            .chain(calls.flat_map(|call| call.messages.iter().chain(&call.context)))
    }

    /// Everything that waits, wherever it does.
    fn waiting_messages(&self) -> impl Iterator<Item = &Message> {
        self.groups
            .iter()
            .flat_map(Group::messages)
            .chain(&self.bypass)
            .chain(self.inbox.iter().map(|(message, _)| message))
    }
}

impl Group {
    fn new(name: &str, profile: Profile, now: Micros) -> Self {
        let mut group = Self {
            name: name.into(),
            pushed: false,
            profile,
            band: 0,
            members: 0,
            weights: BTreeMap::new(),
            lanes: Vec::new(),
            next_lane: 0,
            delayed: Vec::new(),
            context: Vec::new(),
            typing: Vec::new(),
            hushed: BTreeMap::new(),
            evicted: BTreeMap::new(),
            paused: None,
            standing: Standing::default(),
            senders: Vec::new(),
            now_served: NowServed::default(),
            bucket: Bucket::full(None),
            handled: Vec::new(),
            heard: Vec::new(),
            last_arrival: 0,
            touched_at: now,
        };
        group.bucket = Bucket::full(group.settings().rate_per_group);
        group
    }

    /// Those in force.
    fn settings(&self) -> Arc<Settings> {
        match self.band.checked_sub(1) {
            None => self.profile.settings.clone(),
            Some(band) => self.profile.bands[band].settings.clone(),
        }
    }

    fn strategy(&self) -> Strategy {
        match self.band.checked_sub(1) {
            None => self.profile.strategy,
            Some(band) => self.profile.bands[band].strategy,
        }
    }

    /// Whose lane a sender's messages go to, and who is charged for them.
    fn owner(&self, sender: &str) -> String {
        match self.settings().lanes {
            Lanes::Group => String::new(),
            Lanes::Sender | Lanes::Message => sender.into(),
        }
    }

    fn in_lanes(&self) -> impl Iterator<Item = &Message> {
        self.lanes
            .iter()
            .flat_map(|lane| &lane.windows)
            .flat_map(|window| &window.messages)
    }

    /// All that wait in it, bypass aside.
    fn messages(&self) -> impl Iterator<Item = &Message> {
        self.in_lanes().chain(&self.delayed).chain(&self.context)
    }

    /// W11: for the next call of its lane.
    fn name_evicted(&mut self, message: &Message) {
        if self.settings().lanes != Lanes::Message {
            let names = self.evicted.entry(self.owner(&message.sender)).or_default();
            names.push(name(message));
        }
    }

    /// F6: the last instant at which a message may start.
    fn expiry(&self, message: &Message) -> Micros {
        let ttl = self.settings().ttl.map_or(NEVER, micros);
        message
            .arrived_at
            .saturating_add(message.wish.ttl.unwrap_or(ttl))
    }

    /// W1: how quickly it follows the sender's last two.
    fn follows(&self, settings: &Settings, sender: &str, at: Micros) -> (bool, bool) {
        let mut before = self
            .heard
            .iter()
            .rev()
            .filter(|(name, _)| name == sender)
            .map(|(_, time)| at - time);
        let (last, last_but_one) = (before.next(), before.next());
        (
            last.is_some_and(|age| age <= micros(settings.back_to_back)),
            last_but_one.is_some_and(|age| age <= micros(settings.burst)),
        )
    }
}

impl Message {
    pub(crate) fn kind(&self) -> Kind {
        match (self.back_to_back, self.burst) {
            (_, true) => Kind::Burst,
            (true, false) => Kind::BackToBack,
            (false, false) => Kind::Single,
        }
    }
}

/// What a message is called.
pub(crate) fn name(message: &Message) -> String {
    let seq = message.seq;
    message.wish.id.clone().unwrap_or_else(|| format!("#{seq}"))
}

pub(crate) fn micros(span: Duration) -> Micros {
    if span == Duration::MAX {
        NEVER
    } else {
        span.as_micros() as Micros
    }
}

/// A point in millionths.
const POINT: i128 = 1_000_000;
