//! What was set for single groups and senders. It outlives them, and may come before them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use compact_str::CompactString;

use crate::engine::{Engine, Outbox};
use crate::events::Event;
use crate::ids::GroupId;
use crate::rate::Bucket;
use crate::settings::{Profile, SizeBy};
use crate::{Points, Settings, Strategy, Time};

/// `lanes` can change only while nothing of the group waits or runs (rule C9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LanesInUse;

/// Everything that was set, by group.
#[derive(Default)]
pub(crate) struct Overrides {
    by_group: HashMap<CompactString, Override>,
    /// Somebody weighs something: only then has a sender's weight to be looked up.
    weights: bool,
}

/// What was set for one group.
#[derive(Default)]
pub(crate) struct Override {
    pub(crate) profile: Option<Arc<Profile>>,
    pub(crate) members: Option<u32>,
    weights: HashMap<CompactString, Points>,
}

impl Overrides {
    /// What was set for a group, to change it.
    pub(crate) fn of(&mut self, group: &str) -> &mut Override {
        self.by_group.entry(group.into()).or_default()
    }

    pub(crate) fn find(&self, group: &str) -> Option<&Override> {
        if self.by_group.is_empty() {
            return None; // spares most queues the hash
        }
        self.by_group.get(group)
    }

    /// Sets a sender's weight; 0 is that of everybody else.
    pub(crate) fn weigh(&mut self, group: &str, sender: &str, weight: Points) {
        self.weights = true;
        let weights = &mut self.of(group).weights;
        if weight == Points::ZERO {
            weights.remove(sender);
        } else {
            weights.insert(sender.into(), weight);
        }
    }

    pub(crate) fn weight(&self, group: &str, sender: &str) -> Points {
        if !self.weights {
            return Points::ZERO;
        }
        let own = self.find(group).and_then(|group| group.weights.get(sender));
        own.copied().unwrap_or(Points::ZERO)
    }
}

impl<P> Engine<P> {
    /// Gives a group settings of its own, whether it has been met or not (rule C9): windows opened,
    /// calls started and batches scored from now on follow them.
    pub fn configure(
        &mut self,
        now: Time,
        group: &str,
        profile: Profile,
        out: &mut Outbox<P>,
    ) -> Result<(), LanesInUse> {
        let known = self.catch_up_in(now, group, out);
        let profile = Arc::new(profile.trimmed());
        if let Some(id) = known
            && self.groups[id].settings(&self.profile).lanes != profile.settings.lanes
            && (self.groups[id].activity.is_some() || self.groups[id].inbox.group().waiting() > 0)
        {
            return Err(LanesInUse);
        }
        self.overrides.of(group).profile = Some(profile.clone());
        self.expect_limits(group);
        if let Some(id) = known {
            let was = self.groups[id].settings(&self.profile).clone();
            let strategy = self.groups[id].strategy(&self.profile);
            let size = self.size_of(id);
            let room = self.room(id);
            room.band = profile.band(0, size);
            room.profile = Some(profile);
            self.settings_changed(id, &was, strategy, out);
            self.shed(id, out);
        }
        self.serve_line(group);
        self.tell_configured(group, out);
        Ok(())
    }

    /// Something was set for a group or somebody in it.
    pub(crate) fn tell_configured(&self, group: &str, out: &mut Outbox<P>) {
        if self.observed {
            let (group, at) = (group.into(), self.now);
            out.events.push(Event::GroupConfigured { group, at });
        }
    }

    /// The longest wait of a window in a group, whatever its size.
    pub fn longest_wait(&self, group: &str) -> Duration {
        let profile = self.profile_of(group);
        let above = profile.bands.iter().map(|band| band.settings.max_wait);
        above.fold(profile.settings.max_wait, Duration::max)
    }

    /// Size, strategy and mark of the band of a group that has not been met.
    pub fn outlook(&self, group: &str) -> (u32, Strategy, u32) {
        let (profile, size, band) = self.expected(group);
        (size, profile.strategy_in(band), profile.mark(band))
    }

    /// Profile, size and band of a group that has not been met.
    fn expected(&self, group: &str) -> (&Profile, u32, u8) {
        let members = self.overrides.find(group).and_then(|own| own.members);
        let size = match self.profile.settings.size_by {
            SizeBy::Members => members.unwrap_or(0),
            SizeBy::Active => 0,
        };
        let profile = self.profile_of(group);
        (profile, size, profile.band(0, size))
    }

    /// Those under which the first message of a group that has not been met would come in.
    pub(crate) fn expected_settings(&self, group: &str) -> &Settings {
        let (profile, _, band) = self.expected(group);
        profile.settings_in(band)
    }

    /// The settings of a group by name, whether it has been met or not.
    fn profile_of(&self, group: &str) -> &Profile {
        let own = self.overrides.find(group);
        let own = own.and_then(|own| own.profile.as_deref());
        own.unwrap_or(&self.profile)
    }

    /// A group that has not been met may hold as much as its band says.
    pub(crate) fn expect_limits(&self, group: &str) {
        let (profile, _, band) = self.expected(group);
        self.intake.set_own_limits(group, profile.settings_in(band));
    }

    /// What a sender weighs in a group; 0 is what everybody else does. It outlives both, and may come
    /// before them. What has been scored stays as it is.
    pub fn set_sender(
        &mut self,
        now: Time,
        group: &str,
        sender: &str,
        weight: Points,
        out: &mut Outbox<P>,
    ) {
        self.catch_up_in(now, group, out);
        self.overrides.weigh(group, sender, weight);
        self.tell_configured(group, out);
        self.scoring = self.scoring.wrapping_add(1);
    }

    /// A group has been met: it gets what was set for it.
    pub(crate) fn furnish(&mut self, id: GroupId) {
        let own = self.overrides.find(self.groups[id].name()).is_some();
        let least = self
            .profile
            .bands
            .first()
            .is_some_and(|band| band.from <= 1);
        if own || least || self.profile.settings.rate_per_group.is_some() {
            self.room(id);
            self.set_rate(id);
        }
    }

    /// A group goes by the rate of its settings.
    pub(crate) fn set_rate(&mut self, id: GroupId) {
        let rate = self.groups[id].settings(&self.profile).rate_per_group;
        let now = self.now;
        if rate.is_none() && self.groups[id].room.is_none() {
            return;
        }
        self.token_timers.set(id, Time::NEVER);
        let bucket = &mut self.room(id).bucket;
        match (rate, bucket.as_mut()) {
            (Some(rate), Some(bucket)) => bucket.set_rate(rate, now),
            (Some(rate), None) => *bucket = Some(Box::new(Bucket::new(rate, now))),
            (None, _) => *bucket = None,
        }
    }
}

impl Profile {
    /// Without bands that cannot be told from the one below, so that most groups need none.
    pub(crate) fn trimmed(mut self) -> Self {
        self.bands.truncate(Self::MOST_BANDS);
        while let Some(first) = self.bands.first()
            && first.strategy == self.strategy
            && first.settings == self.settings
        {
            self.bands.remove(0);
        }
        self
    }
}
