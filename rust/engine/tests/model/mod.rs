//! The rules once more, as slowly and plainly as they can be written.
//!
//! Lists and linear scans; whatever can be worked out again is worked out again. Where the rules leave
//! an answer open, [`Call::closed_by`] holds every answer they allow.

pub(crate) mod script;

use std::cmp::Ordering;
use std::time::Duration;

use chinwag_engine::{ClosedBy, End, Kind, Lanes, Refusal, Settings, Size};

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
}

/// What a push asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Wish {
    pub(crate) id: Option<String>,
    pub(crate) size: Size,
    pub(crate) key: Option<String>,
    pub(crate) quiet: Option<Micros>,
    pub(crate) flush: bool,
    pub(crate) standalone: bool,
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
    pub(crate) kind: Kind,
    wish: Wish,
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
    pub(crate) kind: Kind,
    /// What may be said to have closed its window.
    pub(crate) closed_by: Vec<ClosedBy>,
    pub(crate) started_at: Micros,
    lane: usize,
}

/// A message that has ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gone {
    pub(crate) label: u64,
    pub(crate) end: &'static str,
    pub(crate) reason: &'static str,
}

/// How a group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) paused: bool,
    pub(crate) waiting: u64,
    pub(crate) running: u64,
    pub(crate) running_messages: u64,
    pub(crate) back_to_back: u64,
    /// Sorted.
    pub(crate) current: Vec<String>,
    pub(crate) oldest_at: Option<Micros>,
}

#[derive(Debug)]
struct Window {
    messages: Vec<Message>,
    /// Since when it is due, and why.
    due: Option<(Micros, Vec<ClosedBy>)>,
    /// `min_batch` was reached (rule W4).
    enough: bool,
}

#[derive(Debug)]
struct Lane {
    /// Names it among the lanes of the group; stays when other lanes go.
    number: usize,
    /// Whom it belongs to in the contest: a sender, or "" for all of them.
    owner: String,
    windows: Vec<Window>,
    busy: bool,
}

/// Who competes, a sender in its group or a group among all.
#[derive(Debug, Default)]
struct Standing {
    /// Millionths of a point.
    points: u64,
    able: bool,
}

/// Now served in millionths, and what its divisions have left over.
#[derive(Debug, Default)]
struct NowServed(u64, u64);

#[derive(Debug)]
struct Group {
    name: String,
    /// Whether a message was ever accepted.
    pushed: bool,
    lanes: Vec<Lane>,
    next_lane: usize,
    paused: Option<Micros>,
    standing: Standing,
    senders: Vec<(String, Standing)>,
    now_served: NowServed,
    /// Arrivals, to tell quick runs: sender and time.
    heard: Vec<(String, Micros)>,
    last_arrival: Micros,
    touched_at: Micros,
}

#[derive(Debug)]
struct Id {
    group: String,
    name: String,
    accepted_at: Micros,
    /// In which order ids ended; none while the message is there.
    ended: Option<u64>,
}

/// The queue as the rules describe it.
#[derive(Debug)]
pub(crate) struct Model {
    settings: Settings,
    flaw: Option<Flaw>,
    now: Micros,
    inbox: Vec<(Message, Micros)>,
    groups: Vec<Group>,
    ids: Vec<Id>,
    calls: Vec<Call>,
    next_call: u64,
    next_seq: u64,
    next_end: u64,
    paused: Option<Micros>,
    pub(crate) closed: bool,
    now_served: NowServed,
    pub(crate) accepted: u64,
    pub(crate) gone: Vec<Gone>,
}

impl Model {
    pub(crate) fn new(settings: Settings, flaw: Option<Flaw>) -> Self {
        Self {
            settings,
            flaw,
            now: 0,
            inbox: Vec::new(),
            groups: Vec::new(),
            ids: Vec::new(),
            calls: Vec::new(),
            next_call: 0,
            next_seq: 0,
            next_end: 0,
            paused: None,
            closed: false,
            now_served: NowServed::default(),
            accepted: 0,
            gone: Vec::new(),
        }
    }

    /// A1-A3: closed, duplicate, capacity. Where both capacities are full either may be named.
    pub(crate) fn push(
        &mut self,
        now: Micros,
        label: u64,
        group: &str,
        sender: &str,
        wish: Wish,
    ) -> Result<u64, Vec<(Refusal, u64)>> {
        let (here, in_all) = (self.waiting(Some(group)), self.waiting(None));
        if self.closed {
            return Err(vec![(Refusal::Closed, here)]);
        }
        if wish
            .id
            .as_ref()
            .is_some_and(|id| self.is_duplicate(now, group, id))
        {
            return Err(vec![(Refusal::Duplicate, here)]);
        }
        let mut full = Vec::new();
        if self
            .settings
            .capacity_per_group
            .is_some_and(|most| here >= u64::from(most))
        {
            full.push((Refusal::GroupFull, here));
        }
        if self
            .settings
            .capacity
            .is_some_and(|most| in_all >= u64::from(most))
        {
            full.push((Refusal::Full, in_all));
        }
        if !full.is_empty() {
            return Err(full);
        }

        let seq = self.next_seq;
        self.next_seq += 1;
        self.accepted += 1;
        if let Some(id) = &wish.id {
            self.ids
                .retain(|known| known.group != group || known.name != *id);
            self.ids.push(Id {
                group: group.into(),
                name: id.clone(),
                accepted_at: now,
                ended: None,
            });
        }
        let at = self.group(group);
        if !self.groups[at].pushed {
            // In the order in which they are first pushed to.
            let mut group = self.groups.remove(at);
            group.pushed = true;
            self.groups.push(group);
        }
        let message = Message {
            label,
            seq,
            group: group.into(),
            sender: sender.into(),
            arrived_at: now,
            kind: Kind::Single,
            wish,
            found_idle: false,
            came_in_call: false,
            call_ended: None,
        };
        let mut before = self.inbox.iter().filter(|(it, _)| it.group == group);
        let latest = before.next_back().map_or(0, |(_, at)| *at);
        self.inbox.push((message, now.max(latest)));
        Ok(seq)
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
        self.start()
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
        let Some(at) = self.calls.iter().position(|call| call.number == number) else {
            return false;
        };
        if self.now > 0 {
            self.take_in(self.now - 1);
            self.run_timers(self.now - 1);
        }

        let call = self.calls.remove(at);
        let group = self.group(&call.group);
        self.groups[group].touched_at = self.now;
        if let Some(lane) = self.groups[group]
            .lanes
            .iter_mut()
            .find(|lane| lane.number == call.lane)
        {
            lane.busy = false;
            for (place, message) in lane.messages_mut().enumerate() {
                if message.arrived_at == self.now {
                    // Ends of calls come before pushes, at one instant (T1).
                    message.came_in_call = false;
                    message.found_idle = place == 0;
                } else if message.came_in_call && message.call_ended.is_none() {
                    message.call_ended = Some(self.now);
                }
            }
        }
        for message in call.messages {
            self.end(message, end, reason);
        }
        let ended_at = self.now;
        let lanes = self.groups[group].lanes.iter_mut();
        for lane in lanes.filter(|lane| lane.number == call.lane) {
            let Some(window) = lane.windows.last_mut().filter(|it| it.due.is_none()) else {
                continue;
            };
            // What was there before this instant is due when the call ends (W5, T1).
            let mut earlier = window.messages.iter().filter(|it| it.arrived_at < ended_at);
            let enough = earlier.clone().count() >= self.settings.min_batch as usize;
            let last = earlier.next_back();
            let busy = last.is_some_and(|it| it.came_in_call && it.wish.quiet.is_none());
            if enough && busy && !self.settings.quiet_when_busy {
                let (at, reasons) = timer(&self.settings, self.flaw, window);
                let also = reasons.into_iter().filter(|_| at == ended_at);
                window.due = Some((ended_at, [ClosedBy::Busy].into_iter().chain(also).collect()));
            }
        }
        self.groups[group]
            .lanes
            .retain(|lane| lane.busy || !lane.windows.is_empty());
        // Whatever is able now lacked only this slot or this lane.
        self.find_able(true);
        true
    }

    /// C1. Whether it changed something.
    pub(crate) fn pause(&mut self, now: Micros, group: Option<&str>, span: Option<Micros>) -> bool {
        self.drain(now);
        let until = span.map_or(NEVER, |span| self.now.saturating_add(span));
        let flag = self.pause_flag(group);
        let changed = *flag != Some(until);
        *flag = Some(until);
        self.find_able(false);
        changed
    }

    /// C1. Whether it changed something.
    pub(crate) fn resume(&mut self, now: Micros, group: Option<&str>) -> bool {
        self.drain(now);
        let changed = self.pause_flag(group).take().is_some();
        if let (true, Some(name)) = (changed, group) {
            let at = self.group(name);
            self.groups[at].touched_at = self.now;
        }
        self.find_able(false);
        changed
    }

    /// C2. How many messages.
    pub(crate) fn clear(&mut self, now: Micros, group: Option<&str>) -> u64 {
        self.end_waiting(now, group, End::Cleared, "cleared")
    }

    /// C8, the end of it.
    pub(crate) fn abandon(&mut self, now: Micros) {
        self.end_waiting(now, None, End::Abandoned, "closed");
    }

    /// C5. How many windows were made due.
    pub(crate) fn flush(&mut self, now: Micros, group: &str, sender: Option<&str>) -> u64 {
        self.drain(now);
        let now = self.now;
        let lanes = self.settings.lanes;
        let mut count = 0;
        self.for_open_windows(|settings, flaw, place, window| {
            let meant = place.0 == group
                && sender.is_none_or(|sender| lanes == Lanes::Group || place.1 == sender);
            if meant {
                become_due(settings, flaw, window, now, vec![ClosedBy::Flush]);
                count += 1;
            }
        });
        self.find_able(false);
        count
    }

    /// C8, the beginning of it.
    pub(crate) fn close(&mut self, now: Micros) {
        self.drain(now);
        self.closed = true;
        let now = self.now;
        self.for_open_windows(|settings, flaw, _, window| {
            become_due(settings, flaw, window, now, vec![ClosedBy::Drain]);
        });
        self.find_able(false);
    }

    /// When the next window becomes due or the next pause ends.
    pub(crate) fn wake_at(&self) -> Micros {
        let windows = self
            .groups
            .iter()
            .flat_map(|group| &group.lanes)
            .filter_map(|lane| {
                let window = lane.windows.last()?;
                window
                    .due
                    .is_none()
                    .then(|| timer(&self.settings, self.flaw, window).0)
            });
        let pauses = self.groups.iter().filter_map(|group| group.paused);
        windows
            .chain(pauses)
            .chain(self.paused)
            .min()
            .unwrap_or(NEVER)
    }

    /// A2's "waits or runs", by id or `#seq`.
    pub(crate) fn contains(&self, group: &str, id: &str) -> bool {
        self.alive()
            .any(|message| message.group == group && name(message) == id)
    }

    pub(crate) fn idle(&self) -> bool {
        self.calls.is_empty() && self.waiting(None) == 0
    }

    /// Nothing runs, and only a pause keeps what waits. Asked once the queue is closed.
    pub(crate) fn stuck(&self) -> bool {
        let held = |group: &Group| self.paused.is_some() || group.paused.is_some();
        let empty = |group: &Group| group.lanes.iter().all(|lane| lane.windows.is_empty());
        self.calls.is_empty() && self.groups.iter().all(|group| held(group) || empty(group))
    }

    /// Accepted and not yet started, inboxes included.
    pub(crate) fn waiting(&self, group: Option<&str>) -> u64 {
        let counts = |message: &&Message| group.is_none_or(|group| message.group == group);
        let mut count = self.in_lanes().filter(counts).count();
        count += self
            .inbox
            .iter()
            .map(|(message, _)| message)
            .filter(counts)
            .count();
        if self.flaw == Some(Flaw::CountsWhatRuns) {
            count += self
                .calls
                .iter()
                .flat_map(|call| &call.messages)
                .filter(counts)
                .count();
        }
        count as u64
    }

    /// Groups that were pushed to, the first first.
    pub(crate) fn groups(&self) -> Vec<&str> {
        self.groups
            .iter()
            .filter(|group| group.pushed)
            .map(|group| group.name.as_str())
            .collect()
    }

    pub(crate) fn status(&self, name: &str) -> Option<View> {
        let group = self.groups.iter().find(|group| group.name == name)?;
        let calls = || self.calls.iter().filter(|call| call.group == name);
        let messages = || {
            group
                .lanes
                .iter()
                .flat_map(|lane| &lane.windows)
                .flat_map(|w| &w.messages)
        };
        let mut current: Vec<_> = calls()
            .flat_map(|call| &call.messages)
            .map(self::name)
            .collect();
        current.sort();
        Some(View {
            paused: group.paused.is_some(),
            waiting: self.waiting(Some(name)),
            running: calls().count() as u64,
            running_messages: calls().flat_map(|call| &call.messages).count() as u64,
            back_to_back: group
                .senders
                .iter()
                .filter(|(name, _)| {
                    let lanes = group.lanes.iter().filter(|lane| lane.owner == *name);
                    let mut messages = lanes
                        .flat_map(|lane| &lane.windows)
                        .flat_map(|w| &w.messages);
                    messages.any(|message| message.kind != Kind::Single)
                })
                .count() as u64,
            current,
            oldest_at: messages().map(|message| message.arrived_at).min(),
        })
    }

    /// G5: the engine says that it forgot a group. Whether it may; from now on its standing is new.
    pub(crate) fn forget(&mut self, now: Micros, name: &str) -> Result<(), String> {
        let Some(at) = self.groups.iter().position(|group| group.name == name) else {
            return Err(format!("forgot {name}, which it cannot know"));
        };
        let now = self.now.max(now);
        let group = &self.groups[at];
        let keep = micros(self.settings.idle_group)
            .max(micros(self.settings.burst))
            .max(micros(self.settings.back_to_back));
        let filtered = self
            .ids
            .iter()
            .any(|id| id.group == name && self.is_remembered(now, id));
        if self.alive().any(|message| message.group == name) {
            return Err(format!("forgot {name} with messages"));
        }
        if group.paused.is_some() || filtered {
            return Err(format!("forgot {name}, paused or with ids to remember"));
        }
        if now < group.touched_at.saturating_add(keep) {
            return Err(format!(
                "forgot {name} after {} of {keep}",
                now - group.touched_at
            ));
        }
        // Only what nobody can tell is kept: how long ago its senders wrote.
        let old = self.groups.remove(at);
        let new = self.group(name);
        self.groups[new].heard = old.heard;
        self.groups[new].last_arrival = old.last_arrival;
        Ok(())
    }

    /// What was pushed comes in, and nothing else.
    pub(crate) fn drain(&mut self, now: Micros) {
        self.now = self.now.max(now);
        self.take_in(NEVER);
        if self.now > 0 {
            // At one instant controls come before timers.
            self.run_timers_up_to(self.now - 1);
        }
        self.find_able(false);
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
        for (message, at) in now {
            self.arrive(message, at);
        }
    }

    fn arrive(&mut self, mut message: Message, at: Micros) {
        let place = self.group(&message.group);
        // Clocks of threads may differ a little: a push is never before another, nor still to come.
        let at = at.max(self.groups[place].last_arrival).min(self.now);
        if at > 0 {
            self.run_timers_up_to(at - 1);
        }

        let settings = self.settings.clone();
        let group = &mut self.groups[place];
        group.last_arrival = at;
        group.touched_at = group.touched_at.max(at);
        message.arrived_at = at;
        message.kind = kind(&settings, &group.heard, &message.sender, at);
        group.heard.push((message.sender.clone(), at));

        let owner = match settings.lanes {
            Lanes::Group => String::new(),
            Lanes::Sender | Lanes::Message => message.sender.clone(),
        };
        if !group.senders.iter().any(|(name, _)| *name == owner) {
            group.senders.push((owner.clone(), Standing::default()));
        }
        let known = group
            .lanes
            .iter()
            .position(|lane| lane.owner == owner && settings.lanes != Lanes::Message);
        let lane = known.unwrap_or_else(|| {
            group.next_lane += 1;
            group.lanes.push(Lane {
                number: group.next_lane,
                owner,
                windows: Vec::new(),
                busy: false,
            });
            group.lanes.len() - 1
        });
        group.lanes[lane].take_in(&settings, self.flaw, message);
    }
}

impl Lane {
    fn messages_mut(&mut self) -> impl Iterator<Item = &mut Message> {
        self.windows
            .iter_mut()
            .flat_map(|window| &mut window.messages)
    }

    /// W2, and what is due at once.
    fn take_in(&mut self, settings: &Settings, flaw: Option<Flaw>, mut message: Message) {
        let at = message.arrived_at;
        message.came_in_call = self.busy;
        message.found_idle = !self.busy && self.windows.is_empty();

        let cut = self
            .windows
            .last()
            .and_then(|window| cut(settings, window, &message));
        if let (Some(why), Some(window)) = (&cut, self.windows.last_mut()) {
            become_due(settings, flaw, window, at, why.clone());
        }
        if cut.is_some() || self.windows.is_empty() {
            self.windows.push(Window {
                messages: Vec::new(),
                due: None,
                enough: false,
            });
        }
        let window = self.windows.last_mut().unwrap();
        let (flush, standalone) = (message.wish.flush, message.wish.standalone);
        window.messages.push(message);
        if flaw == Some(Flaw::LateMessageExtends) {
            window.due = None;
        }
        window.enough |= window.messages.len() >= settings.min_batch as usize;

        let mut why = Vec::new();
        if flush {
            why.push(ClosedBy::Flush);
        }
        if standalone {
            why.push(ClosedBy::Cut);
        }
        if settings
            .max_batch
            .is_some_and(|most| weight(window) >= size(most))
        {
            why.push(ClosedBy::Size);
        }
        if settings.lanes == Lanes::Message {
            why.extend([ClosedBy::Quiet, ClosedBy::Cut, ClosedBy::Size]);
        }
        if !why.is_empty() {
            become_due(settings, flaw, window, at, why);
        }
    }
}

/// Why a message cannot join a window; none if it can.
fn cut(settings: &Settings, window: &Window, message: &Message) -> Option<Vec<ClosedBy>> {
    let last = window.messages.last().unwrap();
    let mut why = Vec::new();
    if settings
        .max_batch
        .is_some_and(|most| weight(window) + size(message.wish.size) > size(most))
    {
        why.push(ClosedBy::Size);
    }
    let gap = message.arrived_at - last.arrived_at;
    if last.wish.key != message.wish.key
        || last.wish.standalone
        || message.wish.standalone
        || settings.max_gap.is_some_and(|most| gap > micros(most))
    {
        why.push(ClosedBy::Cut);
    }
    (!why.is_empty()).then_some(why)
}

/// W3 (c), (d): at once, whatever comes later. A timer of the same instant may be named as well.
fn become_due(
    settings: &Settings,
    flaw: Option<Flaw>,
    window: &mut Window,
    at: Micros,
    mut why: Vec<ClosedBy>,
) {
    let (timer, reasons) = timer(settings, flaw, window);
    if timer == at {
        why.extend(reasons);
    }
    match &mut window.due {
        None => window.due = Some((at, why)),
        Some((since, reasons)) if *since == at => reasons.extend(why),
        Some(_) => {}
    }
}

/// W3 (a), (b), with W4-W6: when an open window becomes due by itself.
fn timer(settings: &Settings, flaw: Option<Flaw>, window: &Window) -> (Micros, Vec<ClosedBy>) {
    let (first, last) = (
        window.messages.first().unwrap(),
        window.messages.last().unwrap(),
    );
    let longest = first.arrived_at.saturating_add(micros(settings.max_wait));
    let longest = if flaw == Some(Flaw::IgnoresMaxWait) {
        NEVER
    } else {
        longest
    };
    let plain = last.arrived_at.saturating_add(micros(settings.quiet));
    let (quiet, mut why) = if !window.enough {
        (NEVER, vec![])
    } else if let Some(own) = last.wish.quiet {
        (last.arrived_at.saturating_add(own), vec![ClosedBy::Quiet])
    } else if last.found_idle && !settings.quiet_when_idle {
        (last.arrived_at, vec![ClosedBy::Idle])
    } else if last.came_in_call && !settings.quiet_when_busy {
        (last.call_ended.unwrap_or(NEVER), vec![ClosedBy::Busy])
    } else {
        (plain, vec![ClosedBy::Quiet])
    };
    if plain <= quiet {
        // The quiet period would have ended it as well.
        why.push(ClosedBy::Quiet);
    }
    match quiet.cmp(&longest) {
        Ordering::Less => (quiet, why),
        Ordering::Equal => (quiet, [why, vec![ClosedBy::MaxWait]].concat()),
        Ordering::Greater => (longest, vec![ClosedBy::MaxWait]),
    }
}

/// W1: how quickly it follows the sender's last two.
fn kind(settings: &Settings, heard: &[(String, Micros)], sender: &str, at: Micros) -> Kind {
    let mut before = heard
        .iter()
        .rev()
        .filter(|(name, _)| name == sender)
        .map(|(_, time)| at - time);
    let (last, last_but_one) = (before.next(), before.next());
    if last_but_one.is_some_and(|age| age <= micros(settings.burst)) {
        Kind::Burst
    } else if last.is_some_and(|age| age <= micros(settings.back_to_back)) {
        Kind::BackToBack
    } else {
        Kind::Single
    }
}

/// Timers.
impl Model {
    fn run_timers(&mut self, now: Micros) {
        self.run_timers_up_to(now);
        self.find_able(false);
    }

    /// Windows become due and pauses end; T3 and T1: at their very instant.
    fn run_timers_up_to(&mut self, until: Micros) {
        self.for_open_windows(|settings, flaw, _, window| {
            let (at, why) = timer(settings, flaw, window);
            if at <= until {
                window.due = Some((at, why));
            }
        });
        for group in &mut self.groups {
            if let Some(end) = group.paused.filter(|end| *end <= until) {
                group.paused = None;
                group.touched_at = group.touched_at.max(end);
            }
        }
        self.paused = self.paused.filter(|end| *end > until);
    }

    fn for_open_windows(
        &mut self,
        mut visit: impl FnMut(&Settings, Option<Flaw>, (&str, &str), &mut Window),
    ) {
        for group in &mut self.groups {
            for lane in &mut group.lanes {
                let open = lane
                    .windows
                    .last_mut()
                    .filter(|window| window.due.is_none());
                if let Some(window) = open {
                    visit(
                        &self.settings,
                        self.flaw,
                        (&group.name, &lane.owner),
                        window,
                    );
                }
            }
        }
    }
}

/// Who starts next.
impl Model {
    /// O5: who becomes able stands no lower than now served, or a point below it.
    fn find_able(&mut self, held_up: bool) {
        let overlaps = self.flaw == Some(Flaw::Overlaps);
        let earns = self.flaw == Some(Flaw::IdleEarns);
        for group in &mut self.groups {
            let running = self
                .calls
                .iter()
                .filter(|call| call.group == group.name)
                .count();
            for (name, standing) in &mut group.senders {
                let due = |lane: &&Lane| {
                    lane.owner == *name
                        && (!lane.busy || overlaps)
                        && lane
                            .windows
                            .first()
                            .is_some_and(|window| window.due.is_some())
                };
                let able = group.lanes.iter().any(|lane| due(&lane));
                if able && !standing.able && !earns {
                    standing.lift(&group.now_served, held_up);
                }
                standing.able = able;
            }
            let able = group.senders.iter().any(|(_, standing)| standing.able)
                && group.paused.is_none()
                && running < self.settings.max_concurrent_per_group as usize;
            if able && !group.standing.able && !earns {
                group.standing.lift(&self.now_served, held_up);
            }
            group.standing.able = able;
        }
    }

    /// O1, O2: the start that comes next, if one may.
    fn start(&mut self) -> Option<Call> {
        let full = self
            .settings
            .max_concurrent
            .is_some_and(|most| self.calls.len() >= most as usize);
        if full || self.paused.is_some() {
            return None;
        }
        let (place, sender, lane) = (0..self.groups.len())
            .filter(|place| self.groups[*place].standing.able)
            .map(|place| {
                let (sender, lane) = self.groups[place].best();
                (place, sender, lane)
            })
            .min_by_key(|(place, _, lane)| {
                let group = &self.groups[*place];
                let first = &group.lanes[*lane].windows[0].messages[0];
                (group.standing.points, first.arrived_at, *place, first.seq)
            })?;

        let (among_groups, among_senders) = (self.competing(), self.competing_in(place));
        let group = &mut self.groups[place];
        let standing = &mut group.senders[sender].1;
        group.now_served.serve(standing, among_senders);
        self.now_served.serve(&mut group.standing, among_groups);

        let lane = &mut group.lanes[lane];
        let window = lane.windows.remove(0);
        lane.busy = true;
        self.next_call += 1;
        let call = Call {
            number: self.next_call,
            group: group.name.clone(),
            kind: highest(&window.messages),
            closed_by: window.due.unwrap().1,
            messages: window.messages,
            started_at: self.now,
            lane: lane.number,
        };
        self.calls.push(call.clone());
        self.find_able(false);
        Some(call)
    }

    /// Groups that run or are able.
    fn competing(&self) -> u64 {
        let competes = |group: &&Group| {
            group.standing.able || self.calls.iter().any(|call| call.group == group.name)
        };
        self.groups.iter().filter(competes).count() as u64
    }

    /// Senders of a group that run or are able.
    fn competing_in(&self, place: usize) -> u64 {
        let group = &self.groups[place];
        let runs = |name: &str| {
            group.lanes.iter().any(|lane| {
                lane.owner == name
                    && self
                        .calls
                        .iter()
                        .any(|call| call.group == group.name && call.lane == lane.number)
            })
        };
        let competes = |(name, standing): &&(String, Standing)| standing.able || runs(name);
        group.senders.iter().filter(competes).count() as u64
    }
}

impl Group {
    /// The able sender that is next, and its best due batch: both as positions.
    fn best(&self) -> (usize, usize) {
        let mut candidates = Vec::new();
        for (sender, (name, standing)) in self.senders.iter().enumerate() {
            for (lane, it) in self.lanes.iter().enumerate() {
                let head = it.windows.first().filter(|window| window.due.is_some());
                let (true, false, Some(window)) = (it.owner == *name, it.busy, head) else {
                    continue;
                };
                let first = &window.messages[0];
                candidates.push((
                    (standing.points, first.arrived_at, first.seq),
                    (sender, lane),
                ));
            }
        }
        candidates.into_iter().min().unwrap().1
    }
}

impl Standing {
    fn lift(&mut self, now_served: &NowServed, held_up: bool) {
        let now_served = now_served.0;
        let least = if held_up {
            now_served.saturating_sub(POINT)
        } else {
            now_served
        };
        self.points = self.points.max(least);
    }
}

impl NowServed {
    /// A start that costs one point.
    fn serve(&mut self, standing: &mut Standing, competing: u64) {
        let share = POINT + self.1;
        *self = Self(self.0 + share / competing, share % competing);
        if self.0 < standing.points {
            *self = Self(standing.points, 0);
        }
        standing.points += POINT;
    }
}

/// Ends.
impl Model {
    fn end_waiting(
        &mut self,
        now: Micros,
        group: Option<&str>,
        end: End,
        reason: &'static str,
    ) -> u64 {
        self.drain(now);
        let mut ended = Vec::new();
        for it in &mut self.groups {
            if group.is_none_or(|group| group == it.name) {
                let before = ended.len();
                for lane in &mut it.lanes {
                    ended.extend(lane.windows.drain(..).flat_map(|window| window.messages));
                }
                if ended.len() > before {
                    it.touched_at = self.now;
                }
            }
        }
        let count = ended.len() as u64;
        for message in ended {
            self.end(message, end, reason);
        }
        self.find_able(false);
        count
    }

    /// A2: an end frees the id at once, or leaves it in the filter.
    fn end(&mut self, message: Message, end: End, reason: &'static str) {
        self.gone.push(Gone {
            label: message.label,
            end: end.name(),
            reason,
        });
        let Some(id) = message.wish.id else { return };
        let frees = matches!(
            end,
            End::Dead | End::Evicted | End::Expired | End::Abandoned
        );
        let is_it = |known: &Id| known.group == message.group && known.name == id;
        if frees || self.settings.dedup.is_zero() {
            self.ids.retain(|known| !is_it(known));
            return;
        }
        self.next_end += 1;
        for known in self.ids.iter_mut().filter(|known| is_it(known)) {
            known.ended = Some(self.next_end);
        }
        self.forget_ids(&message.group);
    }

    /// The filter of a group keeps so many ids, and lets go of the oldest.
    fn forget_ids(&mut self, group: &str) {
        let now = self.now;
        let ids = std::mem::take(&mut self.ids);
        self.ids = ids
            .into_iter()
            .filter(|id| self.is_remembered(now, id))
            .collect();
        loop {
            let ended = || {
                self.ids
                    .iter()
                    .filter(|id| id.group == group && id.ended.is_some())
            };
            if ended().count() <= self.settings.dedup_limit as usize {
                return;
            }
            // Its age counts from its acceptance, and ids are listed in that order.
            let oldest = ended().next().unwrap().ended;
            self.ids
                .retain(|id| id.group != group || id.ended != oldest);
        }
    }

    fn is_duplicate(&self, now: Micros, group: &str, id: &str) -> bool {
        self.ids
            .iter()
            .any(|known| known.group == group && known.name == id && self.is_remembered(now, known))
    }

    /// T3: an id exactly as old as the limit is still known.
    fn is_remembered(&self, now: Micros, id: &Id) -> bool {
        let age = now.saturating_sub(id.accepted_at);
        let dedup = micros(self.settings.dedup);
        let young = if self.flaw == Some(Flaw::LimitsExclude) {
            age < dedup
        } else {
            age <= dedup
        };
        id.ended.is_none() || young
    }
}

/// Finding one's way.
impl Model {
    /// The position of a group, which exists from now on.
    fn group(&mut self, name: &str) -> usize {
        if let Some(at) = self.groups.iter().position(|group| group.name == name) {
            return at;
        }
        self.groups.push(Group {
            name: name.into(),
            pushed: false,
            lanes: Vec::new(),
            next_lane: 0,
            paused: None,
            standing: Standing::default(),
            senders: Vec::new(),
            now_served: NowServed::default(),
            heard: Vec::new(),
            last_arrival: 0,
            touched_at: self.now,
        });
        self.groups.len() - 1
    }

    fn pause_flag(&mut self, group: Option<&str>) -> &mut Option<Micros> {
        let Some(name) = group else {
            return &mut self.paused;
        };
        let at = self.group(name);
        &mut self.groups[at].paused
    }

    fn in_lanes(&self) -> impl Iterator<Item = &Message> {
        let lanes = self.groups.iter().flat_map(|group| &group.lanes);
        lanes
            .flat_map(|lane| &lane.windows)
            .flat_map(|window| &window.messages)
    }

    fn alive(&self) -> impl Iterator<Item = &Message> {
        self.in_lanes()
            .chain(self.inbox.iter().map(|(message, _)| message))
            .chain(self.calls.iter().flat_map(|call| &call.messages))
    }
}

/// What a message is called.
pub(crate) fn name(message: &Message) -> String {
    message
        .wish
        .id
        .clone()
        .unwrap_or_else(|| format!("#{}", message.seq))
}

pub(crate) fn micros(span: Duration) -> Micros {
    if span == Duration::MAX {
        NEVER
    } else {
        span.as_micros() as Micros
    }
}

fn highest(messages: &[Message]) -> Kind {
    let has = |kind| messages.iter().any(|message| message.kind == kind);
    match () {
        () if has(Kind::Burst) => Kind::Burst,
        () if has(Kind::BackToBack) => Kind::BackToBack,
        () => Kind::Single,
    }
}

/// Millionths.
fn size(size: Size) -> u64 {
    (size.as_f64() * 1e6).round() as u64
}

fn weight(window: &Window) -> u64 {
    window
        .messages
        .iter()
        .map(|message| size(message.wish.size))
        .sum()
}

const POINT: u64 = 1_000_000;
