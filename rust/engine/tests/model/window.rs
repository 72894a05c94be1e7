//! W: lanes and their windows.

use std::cmp::Ordering;
use std::sync::Arc;

use chinwag_engine::{ClosedBy, Keep, Lanes, Settings, Size};

use super::{Flaw, Group, Message, Micros, Model, NEVER, micros};

#[derive(Debug)]
pub(super) struct Window {
    pub(super) messages: Vec<Message>,
    /// Those of its opening (rule C9).
    settings: Arc<Settings>,
    /// When its first message came, which may have left.
    opened_at: Micros,
    /// Since when it is due, and why.
    pub(super) due: Option<(Micros, Vec<ClosedBy>)>,
    /// `min_batch` was reached (rule W4).
    enough: bool,
    /// When its quiet period would have ended with what has left since its last message (rule W7).
    before: Option<(Micros, Vec<ClosedBy>)>,
    /// That it would have ended with the running call.
    until_call_ends: bool,
    /// What cut it off from the one before may have left.
    loose: bool,
    /// Millionths of a point, since its lane is able.
    pub(super) score: Option<i128>,
}

#[derive(Debug)]
pub(super) struct Lane {
    /// Names it among the lanes of the group; stays when other lanes go.
    pub(super) number: usize,
    /// Whom it belongs to in the contest: a sender, or "" for all of them.
    pub(super) owner: String,
    pub(super) windows: Vec<Window>,
    pub(super) busy: bool,
    pub(super) able: bool,
}

/// Somebody who types (rule W8).
#[derive(Clone, Debug)]
pub(super) struct Typing {
    pub(super) sender: String,
    pub(super) until: Micros,
}

/// What typing does to a lane.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hush {
    /// Somebody types.
    held: bool,
    /// When the last one stopped.
    since: Micros,
}

impl Group {
    /// W8: any sender's typing holds a common lane.
    pub(super) fn hush(&self, lane: usize) -> Hush {
        let owner = &self.lanes[lane].owner;
        Hush {
            held: self
                .typing
                .iter()
                .any(|typing| self.owner(&typing.sender) == *owner),
            since: self.hushed.get(owner).copied().unwrap_or(0),
        }
    }

    /// W8: the sender types no more. If nobody else does in that lane, its quiet period starts anew.
    pub(super) fn stop_typing(&mut self, sender: &str, at: Micros) {
        let before = self.typing.len();
        self.typing.retain(|typing| typing.sender != sender);
        let owner = self.owner(sender);
        let others = self.typing.iter();
        if self.typing.len() == before
            || others
                .map(|it| self.owner(&it.sender))
                .any(|it| it == owner)
        {
            return;
        }
        for lane in self.lanes.iter_mut().filter(|lane| lane.owner == owner) {
            if let Some(window) = lane.windows.last_mut() {
                window.before = None;
            }
        }
        self.hushed.insert(owner, at);
    }
}

impl Lane {
    pub(super) fn new(number: usize, owner: String) -> Self {
        Self {
            number,
            owner,
            windows: Vec::new(),
            busy: false,
            able: false,
        }
    }

    /// The batch that it offers.
    pub(super) fn head(&self) -> Option<&Window> {
        let free = self.windows.first().filter(|_| !self.busy);
        free.filter(|window| window.due.is_some())
    }

    pub(super) fn open_window(&mut self) -> Option<&mut Window> {
        self.windows
            .last_mut()
            .filter(|window| window.due.is_none())
    }

    fn messages_mut(&mut self) -> impl Iterator<Item = &mut Message> {
        self.windows
            .iter_mut()
            .flat_map(|window| &mut window.messages)
    }

    /// W2, what is due at once, and W9: what the newcomer supersedes.
    pub(super) fn take_in(
        &mut self,
        settings: &Arc<Settings>,
        flaw: Option<Flaw>,
        hush: Hush,
        mut message: Message,
    ) -> Vec<Message> {
        let at = message.arrived_at;
        message.came_in_call = self.busy;
        message.found_idle = !self.busy && self.windows.is_empty();

        let latest = settings.keep == Keep::Latest;
        let last = self.windows.last();
        // A newcomer that supersedes what is there joins it, whatever its size.
        let cut = last.and_then(|window| window.cut(&message, !latest));
        if let (Some(why), Some(window)) = (&cut, self.windows.last_mut()) {
            window.become_due(flaw, hush, at, why.clone());
        }
        if cut.is_some() || self.windows.is_empty() {
            self.windows.push(Window::new(settings.clone(), at));
        }
        let window = self.windows.last_mut().unwrap();
        window.take_in(flaw, hush, message);
        let mut superseded = Vec::new();
        if latest {
            superseded = self.supersede(settings, flaw, hush);
        }
        let window = self.windows.last_mut().unwrap();
        if window.is_full() {
            window.become_due(flaw, hush, at, vec![ClosedBy::Size]);
        }
        superseded
    }

    /// W9: of those at the end of the lane that only their size keeps apart, the newest stays.
    fn supersede(&mut self, settings: &Settings, flaw: Option<Flaw>, hush: Hush) -> Vec<Message> {
        let mut from = self.windows.len() - 1;
        while from > 0 && self.windows[from - 1].goes_with(&self.windows[from], settings) {
            from -= 1;
        }
        let rivals = self.windows[from..].iter().flat_map(|it| &it.messages);
        // Between equals the last to arrive.
        let newest = |it: &&Message| it.wish.at.unwrap_or(it.arrived_at);
        let stays = rivals.max_by_key(newest).unwrap().seq;
        let opened_at = self.windows[from].opened_at;
        let mut superseded = Vec::new();
        for window in &mut self.windows[from..] {
            superseded.extend(window.remove(hush, |it| it.seq != stays));
        }
        // Superseding never empties a window: the first takes over what is left.
        let due = self.windows[from].due.take();
        let mut rest = self.windows.split_off(from);
        let left = rest.iter().position(|it| !it.messages.is_empty());
        let mut left = rest.remove(left.unwrap());
        left.opened_at = opened_at;
        if flaw == Some(Flaw::LatestExtends) {
            left.opened_at = left.messages[0].arrived_at;
        }
        left.due = left.due.or(due);
        if let Some((_, why)) = left.due.as_mut() {
            // What is left might have been due for a reason of its own.
            let reasons = [
                ClosedBy::Quiet,
                ClosedBy::Idle,
                ClosedBy::Busy,
                ClosedBy::Size,
            ];
            why.extend(reasons.into_iter().chain([ClosedBy::Cut, ClosedBy::Flush]));
        }
        self.windows.push(left);
        superseded
    }

    /// W7: takes messages out. What is left may be due earlier, and neighbours may join.
    pub(super) fn remove(
        &mut self,
        settings: &Arc<Settings>,
        flaw: Option<Flaw>,
        hush: Hush,
        mut leaves: impl FnMut(&Message) -> bool,
    ) -> Vec<Message> {
        let mut gone = Vec::new();
        for at in 0..self.windows.len() {
            let left = self.windows[at].remove(hush, &mut leaves);
            if !left.is_empty() {
                // What kept it apart from its neighbours may have left.
                self.windows[at..]
                    .iter_mut()
                    .take(2)
                    .for_each(|it| it.loose = true);
            }
            gone.extend(left);
        }
        let last_is_gone = self.windows.last().is_some_and(|it| it.messages.is_empty());
        let count = self.windows.len();
        self.windows.retain(|window| !window.messages.is_empty());
        if self.windows.len() < count {
            // With a window that goes, the lane looks at its head again.
            self.windows.iter_mut().for_each(|it| it.score = None);
        }
        if let Some(window) = self.windows.last_mut().filter(|_| last_is_gone) {
            // It was cut off, and goes by what is in force now that it may grow again.
            window.settings = settings.clone();
        }
        if !gone.is_empty() {
            self.join(settings, flaw);
        }
        gone
    }

    /// W7: neighbours that fit now, as wholes.
    fn join(&mut self, settings: &Arc<Settings>, flaw: Option<Flaw>) {
        if flaw == Some(Flaw::StaysCut) {
            return;
        }
        let fits = |pair: &[Window]| pair[1].loose && pair[0].fits(&pair[1], settings);
        while let Some(at) = self.windows.windows(2).position(fits) {
            let right = self.windows.remove(at + 1);
            if let Some(next) = self.windows.get_mut(at + 1) {
                next.loose = true;
            }
            let left = &mut self.windows[at];
            let reasons = [&left.due, &right.due].into_iter().flatten();
            let reasons = reasons.flat_map(|(_, why)| why.clone());
            let why = reasons.chain([ClosedBy::Cut, ClosedBy::Size]).collect();
            let since = left
                .due
                .as_ref()
                .map_or(right.opened_at, |(since, _)| *since);
            left.due = Some((since, why));
            left.messages.extend(right.messages);
            left.settings = settings.clone();
            left.score = None;
        }
        self.windows
            .iter_mut()
            .for_each(|window| window.loose = false);
    }
}

impl Window {
    fn new(settings: Arc<Settings>, opened_at: Micros) -> Self {
        Self {
            messages: Vec::new(),
            settings,
            opened_at,
            due: None,
            enough: false,
            before: None,
            until_call_ends: false,
            loose: false,
            score: None,
        }
    }

    fn take_in(&mut self, flaw: Option<Flaw>, hush: Hush, message: Message) {
        let settings = self.settings.clone();
        let at = message.arrived_at;
        let (flush, standalone) = (message.wish.flush, message.wish.standalone);
        self.messages.push(message);
        self.before = None;
        self.until_call_ends = false;
        self.score = None;
        if flaw == Some(Flaw::LateMessageExtends) {
            self.due = None;
        }
        self.enough |= self.messages.len() >= settings.min_batch as usize;

        let mut why = Vec::new();
        if flush {
            why.push(ClosedBy::Flush);
        }
        if standalone {
            why.push(ClosedBy::Cut);
        }
        if settings.lanes == Lanes::Message {
            why.extend([ClosedBy::Quiet, ClosedBy::Cut, ClosedBy::Size]);
        }
        if !why.is_empty() {
            self.become_due(flaw, hush, at, why);
        }
    }

    /// Why a message cannot join; none if it can.
    fn cut(&self, message: &Message, sized: bool) -> Option<Vec<ClosedBy>> {
        let mut why = Vec::new();
        if sized && self.weight() + size(message.wish.size) > most(&self.settings) {
            why.push(ClosedBy::Size);
        }
        if !self.goes_before(message, &self.settings) {
            why.push(ClosedBy::Cut);
        }
        (!why.is_empty()).then_some(why)
    }

    /// Whether they could share a batch, their sizes aside.
    fn goes_with(&self, next: &Self, settings: &Settings) -> bool {
        self.goes_before(&next.messages[0], settings)
    }

    fn goes_before(&self, next: &Message, settings: &Settings) -> bool {
        let last = self.messages.last().unwrap();
        let gap = next.arrived_at - last.arrived_at;
        last.wish.key == next.wish.key
            && !last.wish.standalone
            && !next.wish.standalone
            && settings.max_gap.is_none_or(|most| gap <= micros(most))
    }

    fn fits(&self, next: &Self, settings: &Settings) -> bool {
        self.goes_with(next, settings) && self.weight() + next.weight() <= most(settings)
    }

    fn is_full(&self) -> bool {
        self.weight() >= most(&self.settings)
    }

    fn remove(&mut self, hush: Hush, mut leaves: impl FnMut(&Message) -> bool) -> Vec<Message> {
        let before = self.quiet_end(hush);
        let until_call_ends = self.until_call_ends || self.ends_with_call();
        let (gone, left) = std::mem::take(&mut self.messages)
            .into_iter()
            .partition(|message| leaves(message));
        self.messages = left;
        if !gone.is_empty() {
            self.score = None;
            self.before = Some(before).filter(|(at, _)| *at != NEVER);
            self.until_call_ends = until_call_ends;
        }
        gone
    }

    /// W3 (c), (d): at once, whatever comes later. A timer of the same instant may be named as well.
    pub(super) fn become_due(
        &mut self,
        flaw: Option<Flaw>,
        hush: Hush,
        at: Micros,
        mut why: Vec<ClosedBy>,
    ) {
        let (timer, reasons) = self.timer(flaw, hush);
        if timer == at {
            why.extend(reasons);
        }
        match &mut self.due {
            None => self.due = Some((at, why)),
            Some((since, reasons)) if *since == at => reasons.extend(why),
            Some(_) => {}
        }
    }

    /// W3 (a), (b), with W4-W8: when an open window becomes due by itself.
    pub(super) fn timer(&self, flaw: Option<Flaw>, hush: Hush) -> (Micros, Vec<ClosedBy>) {
        let mut longest = self
            .opened_at
            .saturating_add(micros(self.settings.max_wait));
        if flaw == Some(Flaw::IgnoresMaxWait) || flaw == Some(Flaw::TypingProlongs) && hush.held {
            longest = NEVER;
        }
        let (quiet, why) = self.quiet_end(hush);
        match quiet.cmp(&longest) {
            Ordering::Less => (quiet, why),
            Ordering::Equal => (quiet, [why, vec![ClosedBy::MaxWait]].concat()),
            Ordering::Greater => (longest, vec![ClosedBy::MaxWait]),
        }
    }

    /// W3 (a): what stands for the end of the quiet period.
    fn quiet_end(&self, hush: Hush) -> (Micros, Vec<ClosedBy>) {
        let settings = &self.settings;
        let last = self.messages.last().unwrap();
        // Nothing is held where no quiet period runs.
        let after = |quiet: Micros| match quiet {
            0 => last.arrived_at,
            _ if hush.held => NEVER,
            _ => last.arrived_at.max(hush.since).saturating_add(quiet),
        };
        let plain = after(micros(settings.quiet));
        let (quiet, mut why) = if !self.enough {
            return (NEVER, vec![]);
        } else if let Some(own) = last.wish.quiet {
            (after(own), vec![ClosedBy::Quiet])
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
        match self.before.as_ref().filter(|_| !hush.held) {
            Some((before, also)) if *before < quiet => (*before, also.clone()),
            Some((before, also)) if *before == quiet => (quiet, [why, also.clone()].concat()),
            _ => (quiet, why),
        }
    }

    /// W5: its last message waits for the end of the call during which it came.
    fn ends_with_call(&self) -> bool {
        let last = self.messages.last().unwrap();
        let replaced = last.came_in_call && last.wish.quiet.is_none();
        self.enough && replaced && !self.settings.quiet_when_busy && last.call_ended.is_none()
    }

    fn weight(&self) -> u64 {
        let sizes = self.messages.iter().map(|message| size(message.wish.size));
        sizes.sum()
    }
}

impl Model {
    /// The call of a lane has ended: W5, T1.
    pub(super) fn free_lane(&mut self, place: usize, number: usize) {
        let (now, flaw) = (self.now, self.flaw);
        let group = &mut self.groups[place];
        let Some(at) = group.lanes.iter().position(|lane| lane.number == number) else {
            return;
        };
        let hush = group.hush(at);
        let lane = &mut group.lanes[at];
        lane.busy = false;
        for (place, message) in lane.messages_mut().enumerate() {
            if message.arrived_at == now {
                // Ends of calls come before pushes, at one instant.
                message.came_in_call = false;
                message.found_idle = place == 0;
            } else if message.came_in_call && message.call_ended.is_none() {
                message.call_ended = Some(now);
            }
        }
        let Some(window) = lane.open_window() else {
            return;
        };
        // What was there before this instant is due when the call ends.
        let mut earlier = window.messages.iter().filter(|it| it.arrived_at < now);
        let enough = window.enough
            && (earlier.clone().count() >= window.settings.min_batch as usize
                || earlier.clone().count() == window.messages.len());
        let last = earlier.next_back();
        let busy = window.until_call_ends
            || last.is_some_and(|it| it.came_in_call && it.wish.quiet.is_none());
        if enough && busy && !window.settings.quiet_when_busy {
            let (at, reasons) = window.timer(flaw, hush);
            let also = reasons.into_iter().filter(|_| at == now);
            window.due = Some((now, [ClosedBy::Busy].into_iter().chain(also).collect()));
        }
    }

    pub(super) fn for_open_windows(
        &mut self,
        mut visit: impl FnMut(Option<Flaw>, Hush, (&str, &str), &mut Window),
    ) {
        for group in &mut self.groups {
            for at in 0..group.lanes.len() {
                let hush = group.hush(at);
                let lane = &mut group.lanes[at];
                let owner = lane.owner.clone();
                if let Some(window) = lane.open_window() {
                    visit(self.flaw, hush, (&group.name, &owner), window);
                }
            }
        }
    }
}

fn most(settings: &Settings) -> u64 {
    settings.max_batch.map_or(u64::MAX, size)
}

/// Millionths.
fn size(size: Size) -> u64 {
    (size.as_f64() * 1e6).round() as u64
}
