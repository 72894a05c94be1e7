//! What is remembered of a sender in a group, also while nothing of them waits.

use std::hash::BuildHasher;
use std::time::Duration;

use compact_str::CompactString;
use foldhash::quality::RandomState;
use hashbrown::HashTable;

use crate::ids::{GroupId, LaneId, SenderId};
use crate::slab::Slab;
use crate::time::micros;
use crate::{Points, Time};

/// One member of one group. The lane that all members share under `lanes="group"` has a sender of
/// its own, with an empty name, since it competes and is served like one.
pub(crate) struct Sender {
    pub(crate) name: CompactString,
    pub(crate) group: GroupId,
    /// There while something of them waits or runs.
    pub(crate) lane: Option<LaneId>,
    /// Messages of theirs that wait or run: they are named after them.
    pub(crate) messages: u32,
    /// What they said in the last minute, as far as that is kept.
    pub(crate) said: u32,
    /// What they have been served.
    pub(crate) standing: Points,
    /// Their last arrival, and the one before; `NEVER` stands for none.
    last: Time,
    last_but_one: Time,
}

/// How close a message is on its sender's earlier ones (rule W1).
#[derive(Clone, Copy)]
pub(crate) struct Gaps {
    pub(crate) back_to_back: bool,
    pub(crate) burst: bool,
}

impl Sender {
    pub(crate) fn hear(&mut self, at: Time, back_to_back: Duration, burst: Duration) -> Gaps {
        let within = |earlier: Time, limit| {
            earlier != Time::NEVER && at.micros_since(earlier) <= micros(limit)
        };
        let gaps = Gaps {
            back_to_back: within(self.last, back_to_back),
            burst: within(self.last_but_one, burst),
        };
        self.last_but_one = self.last;
        self.last = at;
        gaps
    }

    pub(crate) fn last(&self) -> Time {
        self.last
    }
}

/// All remembered senders, by group and name.
pub(crate) struct Senders {
    slab: Slab<SenderId, Sender>,
    table: HashTable<SenderId>,
    hasher: RandomState,
}

impl Senders {
    pub(crate) fn new() -> Self {
        Self {
            slab: Slab::new(),
            table: HashTable::new(),
            hasher: RandomState::default(),
        }
    }

    pub(crate) fn find(&self, group: GroupId, name: &str) -> Option<SenderId> {
        let same = |&id: &SenderId| self.slab[id].group == group && self.slab[id].name == name;
        self.table.find(self.hash(group, name), same).copied()
    }

    /// A sender not seen before; the caller counts it in its group.
    pub(crate) fn insert(
        &mut self,
        group: GroupId,
        name: CompactString,
        standing: Points,
    ) -> SenderId {
        let hash = self.hash(group, &name);
        let (last, last_but_one) = (Time::NEVER, Time::NEVER);
        let sender = Sender {
            name,
            group,
            lane: None,
            messages: 0,
            said: 0,
            standing,
            last,
            last_but_one,
        };
        let id = self.slab.insert(sender);
        let Self {
            slab,
            table,
            hasher,
        } = self;
        table.insert_unique(hash, id, |&id| {
            hasher.hash_one((slab[id].group, slab[id].name.as_bytes()))
        });
        id
    }

    pub(crate) fn remove(&mut self, id: SenderId) {
        let hash = self.hash(self.slab[id].group, &self.slab[id].name);
        if let Ok(entry) = self.table.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
        self.slab.remove(id);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SenderId, &Sender)> {
        self.slab.iter()
    }

    pub(crate) fn slab(&self) -> &Slab<SenderId, Sender> {
        &self.slab
    }

    fn hash(&self, group: GroupId, name: &str) -> u64 {
        self.hasher.hash_one((group, name.as_bytes()))
    }
}

impl std::ops::Index<SenderId> for Senders {
    type Output = Sender;

    fn index(&self, id: SenderId) -> &Sender {
        &self.slab[id]
    }
}

impl std::ops::IndexMut<SenderId> for Senders {
    fn index_mut(&mut self, id: SenderId) -> &mut Sender {
        &mut self.slab[id]
    }
}
