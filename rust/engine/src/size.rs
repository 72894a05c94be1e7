//! How large a group is, and what that changes (rule O8).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::ids::{GroupId, SenderId};
use crate::order::HeldUp;
use crate::sender::Senders;
use crate::settings::{Profile, SizeBy};
use crate::{Settings, Strategy, Time};

/// Who has spoken lately: at most one entry a sender, under a time at which they spoke. Whether they
/// have spoken since is found out when that time is over.
#[derive(Default)]
pub(crate) struct Active {
    heap: BinaryHeap<Reverse<(Time, SenderId)>>,
}

impl Active {
    /// A sender speaks at `at`, who spoke last at `before`.
    pub(crate) fn hear(
        &mut self,
        sender: SenderId,
        before: Time,
        at: Time,
        span: Duration,
        senders: &Senders,
    ) {
        self.forget_silent(at, span, senders);
        if before == Time::NEVER || before.after(span) < at {
            self.heap.push(Reverse((at, sender)));
        }
    }

    /// How many they are.
    pub(crate) fn count(&mut self, now: Time, span: Duration, senders: &Senders) -> u32 {
        self.forget_silent(now, span, senders);
        self.heap.len() as u32
    }

    /// Those senders are no longer remembered.
    pub(crate) fn forget(&mut self, gone: &HashSet<SenderId>) {
        self.heap
            .retain(|Reverse((_, sender))| !gone.contains(sender));
    }

    fn forget_silent(&mut self, now: Time, span: Duration, senders: &Senders) {
        while let Some(&Reverse((at, sender))) = self.heap.peek()
            && at.after(span) < now
        {
            self.heap.pop();
            let last = senders[sender].last();
            if last.after(span) >= now {
                self.heap.push(Reverse((last, sender)));
            }
        }
    }
}

impl Profile {
    /// The band of a group of `size` that was in band `before`; 0 is below the first.
    pub(crate) fn band(&self, before: u8, size: u32) -> u8 {
        let entered = self.bands.partition_point(|band| band.from <= size);
        let mut band = usize::from(before).min(self.bands.len());
        if entered > band {
            band = entered;
        }
        // Left below 80 % of its mark.
        while band > 0 && u64::from(size) * 5 < u64::from(self.bands[band - 1].from) * 4 {
            band -= 1;
        }
        band as u8
    }

    pub(crate) fn settings_in(&self, band: u8) -> &Arc<Settings> {
        match band.checked_sub(1) {
            None => &self.settings,
            Some(above) => &self.bands[usize::from(above)].settings,
        }
    }

    /// From which size on a band holds, on the way up.
    pub(crate) fn mark(&self, band: u8) -> u32 {
        band.checked_sub(1)
            .map_or(0, |above| self.bands[usize::from(above)].from)
    }

    pub(crate) fn strategy_in(&self, band: u8) -> Strategy {
        match band.checked_sub(1) {
            None => self.strategy,
            Some(above) => self.bands[usize::from(above)].strategy,
        }
    }

    /// From which size on a strategy holds, if it ever does.
    pub(crate) fn reaches(&self, strategy: Strategy) -> Option<u32> {
        if self.strategy == strategy {
            return Some(0);
        }
        let band = self.bands.iter().find(|band| band.strategy == strategy)?;
        Some(band.from)
    }

    /// At most so many bands can be told apart.
    pub(crate) const MOST_BANDS: usize = 255;
}

impl<P> Engine<P> {
    /// Says how many members a group has, where its size is that (rule O8). It outlives the group,
    /// and counts from the next time its size matters.
    pub fn set_members(&mut self, now: Time, group: &str, members: u32, out: &mut Outbox<P>) {
        let known = self.catch_up_in(now, group, out);
        self.overrides.of(group).members = Some(members);
        if let Some(id) = known {
            self.room(id).members = Some(members);
        } else {
            self.expect_limits(group);
        }
        self.tell_configured(group, out);
    }

    /// How large a group is now.
    pub(crate) fn size_of(&mut self, id: GroupId) -> u32 {
        let (by, span) = (
            self.profile.settings.size_by,
            self.profile.settings.size_window,
        );
        let group = &mut self.groups[id];
        match (&mut group.room, by) {
            (Some(room), SizeBy::Members) => room.members.unwrap_or(0),
            (None, SizeBy::Members) => 0,
            (Some(room), SizeBy::Active) => room.active.count(self.moment, span, &self.senders),
            (None, SizeBy::Active) => {
                let last = group.last_sender.map(|sender| self.senders[sender].last());
                u32::from(last.is_some_and(|at| at != Time::NEVER && at.after(span) >= self.moment))
            }
        }
    }

    /// A lane has become active or has left: another band may hold from here on.
    pub(crate) fn read_size(&mut self, id: GroupId, out: &mut Outbox<P>) {
        let Some(room) = self.groups[id].room.as_ref() else {
            return; // one sender, and no band that this could enter
        };
        let before = room.band;
        let size = self.size_of(id);
        let band = self.groups[id].profile(&self.profile).band(before, size);
        if band == before {
            return;
        }
        let (was, strategy) = {
            let profile = self.groups[id].profile(&self.profile);
            (
                profile.settings_in(before).clone(),
                profile.strategy_in(before),
            )
        };
        self.room(id).band = band;
        self.settings_changed(id, &was, strategy, out);
        if self.observed {
            let event = Event::GroupResized {
                group: self.groups[id].name().clone(),
                at: self.now,
                size,
                strategy: self.groups[id].strategy(&self.profile),
            };
            out.events.push(event);
        }
    }

    /// A group goes by other settings than `was` and another strategy than `strategy`, maybe.
    pub(crate) fn settings_changed(
        &mut self,
        id: GroupId,
        was: &Arc<Settings>,
        strategy: Strategy,
        out: &mut Outbox<P>,
    ) {
        self.scoring = self.scoring.wrapping_add(1);
        let group = &self.groups[id];
        let current = group.settings(&self.profile).clone();
        let switched = group.strategy(&self.profile) != strategy || current.aging != was.aging;
        if !Arc::ptr_eq(&current, was) {
            group.inbox.group().set_limits(&current);
            // Windows keep the settings under which they were opened (rule C9).
            let lanes: Vec<_> = self.lanes_of(id).collect();
            for lane in lanes {
                if let Some(window) = self.lanes[lane].window_mut() {
                    window.keep_settings(was);
                }
            }
            let calls: Vec<_> = self.calls_of(id).collect();
            for call in calls {
                self.leases[call].keep_settings(was);
            }
            if current.hold_background != was.hold_background {
                let lanes: Vec<_> = self.lanes_of(id).collect();
                for lane in lanes {
                    self.review_lane(lane, HeldUp::No);
                }
            }
            self.set_rate(id);
            self.trim_context(id, out);
            self.reweigh(id);
            if current.hold_background != was.hold_background {
                let lanes: Vec<_> = self.lanes_of(id).collect();
                for lane in lanes {
                    self.review_lane(lane, HeldUp::No);
                }
            }
        }
        if switched {
            self.rekey(id);
        }
        let held_up = if self.settling {
            HeldUp::ByItself
        } else {
            HeldUp::No
        };
        self.offer_group(id, held_up);
        if !self.line.is_empty() {
            self.serve_line(&self.groups[id].name().clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_band_is_left_below_four_fifths_of_its_mark() {
        let profile = Profile::from(Settings::default());
        let mut band = 0;
        let mut at = |size| {
            band = profile.band(band, size);
            band
        };
        assert_eq!([1, 2, 5, 6, 15, 16].map(&mut at), [0, 1, 1, 2, 2, 3]);
        assert_eq!([13, 12, 5, 4, 2, 1].map(&mut at), [3, 2, 2, 1, 1, 0]);
        assert_eq!([50, 40, 39, 0].map(&mut at), [4, 4, 3, 0]);
    }
}
