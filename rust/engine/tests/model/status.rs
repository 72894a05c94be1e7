//! What can be asked.

use chinwag_engine::Kind;

use super::{Group, Message, Micros, Model, micros, name};

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

impl Model {
    /// A2's "waits or runs", by id or `#seq`.
    pub(crate) fn contains(&self, group: &str, id: &str) -> bool {
        self.alive()
            .any(|message| message.group == group && name(message) == id)
    }

    /// C7: context aside; whoever has a place is about to push.
    pub(crate) fn idle(&self) -> bool {
        let waits = self.alive().any(|message| !message.wish.context);
        !waits && self.calls.is_empty() && self.places(None) == 0
    }

    /// Nothing runs, and only a pause keeps what waits. Asked once the queue is closed.
    pub(crate) fn stuck(&self) -> bool {
        let held = |group: &Group| self.paused.is_some() || group.paused.is_some();
        let empty = |group: &Group| group.lanes.is_empty() && group.delayed.is_empty();
        self.calls.is_empty()
            && self.bypass.is_empty()
            && self.groups.iter().all(|group| held(group) || empty(group))
    }

    /// Everything that was accepted and has neither started nor ended.
    pub(crate) fn waiting(&self, group: Option<&str>) -> u64 {
        let counts = |message: &&Message| group.is_none_or(|group| message.group == group);
        self.waiting_messages().filter(counts).count() as u64
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
        let handled = || calls().flat_map(|call| &call.messages);
        let mut current: Vec<_> = handled().map(self::name).collect();
        current.sort();
        Some(View {
            paused: group.paused.is_some(),
            waiting: self.waiting(Some(name)),
            running: calls().count() as u64,
            running_messages: handled().count() as u64,
            back_to_back: group
                .senders
                .iter()
                .filter(|(name, _)| {
                    let lanes = group.lanes.iter().filter(|lane| lane.owner == *name);
                    let mut messages = lanes
                        .flat_map(|lane| &lane.windows)
                        .flat_map(|w| &w.messages);
                    messages.any(|message| message.kind() != Kind::Single)
                })
                .count() as u64,
            current,
            oldest_at: group.in_lanes().map(|message| message.arrived_at).min(),
        })
    }

    /// G5: the engine says that it forgot a group. Whether it may; from now on its standing is new.
    pub(crate) fn forget(&mut self, now: Micros, name: &str) -> Result<(), String> {
        let Some(at) = self.groups.iter().position(|group| group.name == name) else {
            return Err(format!("forgot {name}, which it cannot know"));
        };
        let now = self.now.max(now);
        let group = &self.groups[at];
        let settings = group.settings();
        let keep = micros(self.profile.settings.idle_group)
            .max(micros(self.profile.settings.size_window))
            .max(micros(settings.burst))
            .max(micros(settings.back_to_back));
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
        if group.pushed && now < group.touched_at.saturating_add(keep) {
            return Err(format!(
                "forgot {name} after {} of {keep}",
                now - group.touched_at
            ));
        }
        // Nobody can tell, but for where its senders and the group itself stand.
        let old = self.groups.remove(at);
        let new = Group::new(name, old.profile, self.now);
        self.groups.push(Group {
            members: old.members,
            weights: old.weights,
            heard: old.heard,
            typing: old.typing,
            hushed: old.hushed,
            bucket: old.bucket,
            last_arrival: old.last_arrival,
            ..new
        });
        Ok(())
    }
}
