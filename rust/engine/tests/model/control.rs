//! C: what is asked for from outside.

use chinwag_engine::{ClosedBy, End, Lanes, Points, Profile};

use super::{Message, Micros, Model, NEVER, Typing, micros, name};

impl Model {
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
        for message in std::mem::take(&mut self.bypass) {
            self.end(message, End::Abandoned, "closed");
        }
        self.admit();
    }

    fn end_waiting(
        &mut self,
        now: Micros,
        group: Option<&str>,
        end: End,
        reason: &'static str,
    ) -> u64 {
        self.drain(now);
        let mut count = 0;
        for place in 0..self.groups.len() {
            if group.is_none_or(|group| group == self.groups[place].name) {
                let ended = self.remove(place, self.now, |_| true);
                if ended.iter().any(|message| !message.wish.context) {
                    self.groups[place].touched_at = self.now;
                }
                count += ended.len() as u64;
                for message in ended {
                    self.end(message, end, reason);
                }
            }
        }
        self.find_able(false);
        self.admit();
        count
    }

    /// Takes out of a group what waits there, wherever it does.
    pub(super) fn remove(
        &mut self,
        place: usize,
        at: Micros,
        leaves: impl Fn(&Message) -> bool,
    ) -> Vec<Message> {
        let flaw = self.flaw;
        let group = &mut self.groups[place];
        let settings = group.settings();
        let mut gone = Vec::new();
        for lane in 0..group.lanes.len() {
            let hush = group.hush(lane);
            gone.extend(group.lanes[lane].remove(&settings, flaw, hush, &leaves));
        }
        gone.extend(group.delayed.extract_if(.., |message| leaves(message)));
        gone.extend(group.context.extract_if(.., |message| leaves(message)));
        self.drop_empty_lanes(place, at, false);
        self.lose_able(place);
        gone
    }

    /// C4. Whether it was not too late.
    pub(crate) fn withdraw(&mut self, now: Micros, group: &str, id: &str) -> bool {
        self.drain(now);
        let is_it = |message: &Message| message.group == group && name(message) == id;
        let mut gone = Vec::new();
        gone.extend(self.bypass.extract_if(.., |message| is_it(message)));
        if let Some(place) = self.groups.iter().position(|it| it.name == group) {
            gone.extend(self.remove(place, self.now, is_it));
            if gone.iter().any(|message| !message.wish.context) {
                self.groups[place].touched_at = self.now;
            }
        }
        let done = !gone.is_empty();
        for message in gone {
            self.end(message, End::Withdrawn, "withdrawn");
        }
        if let Some(place) = self.groups.iter().position(|it| it.name == group) {
            self.keep_limits(place, self.now);
        }
        self.find_able(false);
        self.admit();
        done
    }

    /// C4. What it was before, unless it is too late.
    pub(crate) fn edit(&mut self, now: Micros, group: &str, id: &str, label: u64) -> Option<u64> {
        self.drain(now);
        let groups = self.groups.iter_mut();
        let waiting = groups.flat_map(|group| {
            let windows = group.lanes.iter_mut().flat_map(|lane| &mut lane.windows);
            windows
                .flat_map(|window| &mut window.messages)
                .chain(&mut group.delayed)
                .chain(&mut group.context)
        });
        let mut all = waiting.chain(&mut self.bypass);
        let message = all.find(|message| message.group == group && name(message) == id)?;
        Some(std::mem::replace(&mut message.label, label))
    }

    /// W8.
    pub(crate) fn typing(&mut self, now: Micros, group: &str, sender: &str, on: bool) {
        self.drain(now);
        let now = self.now;
        let place = self.group(group);
        let group = &mut self.groups[place];
        if on {
            let until = now.saturating_add(micros(group.settings().typing_expires));
            group.typing.retain(|typing| typing.sender != sender);
            let sender = sender.into();
            group.typing.push(Typing { sender, until });
        } else {
            group.stop_typing(sender, now);
        }
        self.find_able(false);
    }

    /// O8.
    pub(crate) fn set_members(&mut self, now: Micros, group: &str, members: u32) {
        self.drain(now);
        let place = self.group(group);
        self.groups[place].members = members;
    }

    /// O3.
    pub(crate) fn set_sender(&mut self, now: Micros, group: &str, sender: &str, weight: Points) {
        self.drain(now);
        let place = self.group(group);
        let weights = &mut self.groups[place].weights;
        weights.insert(sender.into(), weight);
    }

    /// C9. Whether it could be done.
    pub(crate) fn configure(&mut self, now: Micros, group: &str, profile: Profile) -> bool {
        self.drain(now);
        let (now, flaw) = (self.now, self.flaw);
        let own = self.profile.settings.clone();
        let place = self.group(group);
        // Bypass and context have no lane; who has a place is about to push.
        let mut calls = self.calls.iter();
        let runs = calls.any(|call| call.group == group && !call.bypass);
        let runs = runs || self.places(Some(group)) > 0;
        let group = &mut self.groups[place];
        let waits = group.in_lanes().chain(&group.delayed).count() > 0;
        let used = runs || waits;
        if used && group.settings().lanes != profile.settings.lanes {
            return false;
        }
        let rate = group.settings().rate_per_group;
        group.profile = profile;
        group.band = 0;
        group.read_size(flaw, &own, now);
        let new = group.settings().rate_per_group;
        if rate != new {
            group.bucket.change(new, now);
        }
        self.keep_limits(place, now);
        self.find_able(false);
        self.admit();
        true
    }

    /// C5. How many windows were made due.
    pub(crate) fn flush(&mut self, now: Micros, group: &str, sender: Option<&str>) -> u64 {
        self.drain(now);
        let now = self.now;
        let lanes = self.settings_of(group).lanes;
        let mut count = 0;
        self.for_open_windows(|flaw, hush, place, window| {
            let meant = place.0 == group
                && sender.is_none_or(|sender| lanes == Lanes::Group || place.1 == sender);
            if meant {
                window.become_due(flaw, hush, now, vec![ClosedBy::Flush]);
                count += 1;
            }
        });
        self.find_able(false);
        count
    }

    /// C8, the beginning of it: delays end, windows are due.
    pub(crate) fn close(&mut self, now: Micros) {
        self.drain(now);
        self.closed = true;
        let now = self.now;
        for place in 0..self.groups.len() {
            let mut delayed = std::mem::take(&mut self.groups[place].delayed);
            delayed.sort_by_key(|message| message.seq);
            for mut message in delayed {
                message.arrived_at = now;
                self.arrive(place, message);
                self.keep_limits(place, now);
            }
        }
        self.for_open_windows(|flaw, hush, _, window| {
            window.become_due(flaw, hush, now, vec![ClosedBy::Drain]);
        });
        // What came in just now may have been due by itself.
        let lanes = self.groups.iter_mut().flat_map(|group| &mut group.lanes);
        for (since, why) in lanes
            .flat_map(|lane| &mut lane.windows)
            .filter_map(|it| it.due.as_mut())
        {
            why.extend((*since == now).then_some(ClosedBy::Drain));
        }
        self.find_able(false);
        self.admit();
    }

    fn pause_flag(&mut self, group: Option<&str>) -> &mut Option<Micros> {
        let Some(name) = group else {
            return &mut self.paused;
        };
        let at = self.group(name);
        &mut self.groups[at].paused
    }
}
