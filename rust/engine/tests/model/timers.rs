//! T: what happens by itself.

use chinwag_engine::End;

use super::{Flaw, Group, Micros, Model, NEVER};

impl Model {
    /// Everything up to a time, the queue's own pause included.
    pub(super) fn run_timers(&mut self, until: Micros) {
        for place in 0..self.groups.len() {
            self.run_group_timers(place, until);
        }
        let expired = |at: Micros| at <= until;
        for message in self
            .bypass
            .extract_if(.., |message| expired(after(self.flaw, message.expires_at)))
            .collect::<Vec<_>>()
        {
            self.end(message, End::Expired, "ttl");
        }
        self.paused = self.paused.filter(|end| *end > until);
        self.find_able(false);
        self.admit();
    }

    /// In the order of time.
    pub(super) fn run_group_timers(&mut self, place: usize, until: Micros) {
        loop {
            let next = self.groups[place].next_timer(self.flaw);
            if next > until {
                return;
            }
            self.run_instant(place, next);
        }
    }

    /// T1: delays and pauses end, messages expire, windows become due.
    fn run_instant(&mut self, place: usize, at: Micros) {
        let flaw = self.flaw;
        let group = &mut self.groups[place];
        let mut delayed: Vec<_> = group
            .delayed
            .extract_if(.., |message| message.arrived_at <= at)
            .collect();
        delayed.sort_by_key(|message| (message.arrived_at, message.seq));
        for message in delayed {
            self.arrive(place, message);
            self.keep_limits(place, at);
        }

        let group = &mut self.groups[place];
        if group.paused.is_some_and(|end| end <= at) {
            group.paused = None;
            group.touched_at = group.touched_at.max(at);
        }
        group.bucket.tick(at);
        let quiet: Vec<_> = group
            .typing
            .iter()
            .filter(|it| it.until <= at)
            .cloned()
            .collect();
        for typing in quiet {
            group.stop_typing(&typing.sender, at);
        }

        let too_late = |expires_at| after(flaw, expires_at) <= at;
        let old: Vec<_> = group
            .context
            .extract_if(.., |message| too_late(message.expires_at))
            .collect();
        for message in old {
            self.end(message, End::Expired, "context_ttl");
        }
        // One by one: what is left between two may change what is left of the second.
        let old = self.groups[place].in_lanes();
        let old = old.filter(|message| too_late(message.expires_at));
        let old: Vec<_> = old.map(|message| message.seq).collect();
        for seq in old {
            for message in self.remove(place, at, |message| message.seq == seq) {
                self.end(message, End::Expired, "ttl");
            }
            self.keep_limits(place, at);
        }

        let group = &mut self.groups[place];
        for lane in 0..group.lanes.len() {
            let hush = group.hush(lane);
            if let Some(window) = group.lanes[lane].open_window() {
                let (time, why) = window.timer(flaw, hush);
                if time <= at {
                    window.due = Some((time, why));
                }
            }
        }
    }

    /// When something happens by itself. A token that nobody lacks is nobody's matter.
    pub(crate) fn wake_at(&self) -> Micros {
        let groups = self.groups.iter();
        let timers = groups.map(|group| {
            let waits = self.lacks_only_token(group);
            let token = group.bucket.ticks_at().filter(|_| waits);
            group.next_event(self.flaw).min(token.unwrap_or(NEVER))
        });
        let bypass = self.bypass.iter().map(|it| after(self.flaw, it.expires_at));
        let able = self.groups.iter().any(|group| group.standing.able);
        let token = self.bucket.ticks_at();
        timers
            .chain(bypass)
            .chain(self.paused)
            .chain(token.filter(|_| able && self.paused.is_none() && !self.is_full()))
            .min()
            .unwrap_or(NEVER)
    }
}

impl Group {
    fn next_timer(&self, flaw: Option<Flaw>) -> Micros {
        let token = self.bucket.ticks_at().unwrap_or(NEVER);
        self.next_event(flaw).min(token)
    }

    fn next_event(&self, flaw: Option<Flaw>) -> Micros {
        let windows = (0..self.lanes.len()).filter_map(|lane| {
            let window = self.lanes[lane].windows.last()?;
            window
                .due
                .is_none()
                .then(|| window.timer(flaw, self.hush(lane)).0)
        });
        let expiries = self.in_lanes().chain(&self.context);
        windows
            .chain(self.paused)
            .chain(self.delayed.iter().map(|message| message.arrived_at))
            .chain(self.typing.iter().map(|typing| typing.until))
            .chain(expiries.map(|message| after(flaw, message.expires_at)))
            .min()
            .unwrap_or(NEVER)
    }
}

/// T3: what is exactly as old as its limit has not passed it.
fn after(flaw: Option<Flaw>, limit: Micros) -> Micros {
    if flaw == Some(Flaw::TtlExcludes) {
        limit
    } else {
        limit.saturating_add(1)
    }
}
