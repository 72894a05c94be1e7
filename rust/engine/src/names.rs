//! Groups by name, for any thread.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use foldhash::quality::RandomState;
use hashbrown::HashTable;

use crate::admission::GroupInbox;
use crate::inbox::Inbox;
use crate::limits::Shared;

/// Groups by name. Split so that threads that meet new groups rarely meet each other.
pub(crate) struct Names<P> {
    hasher: RandomState,
    shards: [RwLock<HashTable<Arc<GroupInbox<P>>>>; SHARDS],
}

impl<P> Names<P> {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::default(),
            shards: std::array::from_fn(|_| RwLock::new(HashTable::new())),
        }
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<GroupInbox<P>>> {
        let (hash, shard) = self.place(name);
        let table = shard.read().unwrap_or_else(PoisonError::into_inner);
        table
            .find(hash, |inbox| inbox.group().name == name)
            .cloned()
    }

    pub(crate) fn open(&self, name: &str, make: impl Fn(&str) -> Shared) -> Arc<GroupInbox<P>> {
        self.find(name).unwrap_or_else(|| {
            let open = AtomicBool::new(false);
            let made = self.with(name, &open, (), make, |inbox, ()| {
                (inbox.clone(), Used::Yes)
            });
            made.unwrap_or_else(|()| unreachable!("nobody closes it"))
        })
    }

    /// Does something with a group's inbox, made if need be, and a thing that comes back if the
    /// queue is closed. The shard is held meanwhile, which spares a pair of atomic operations. An
    /// inbox that was made for something that came to nothing is not kept.
    pub(crate) fn with<T, R>(
        &self,
        name: &str,
        closed: &AtomicBool,
        thing: T,
        make: impl Fn(&str) -> Shared,
        use_it: impl FnOnce(&Arc<GroupInbox<P>>, T) -> (R, Used),
    ) -> Result<R, T> {
        if closed.load(Ordering::Acquire) {
            return Err(thing);
        }
        let (hash, shard) = self.place(name);
        let same = |inbox: &Arc<GroupInbox<P>>| inbox.group().name == name;
        {
            let table = shard.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(inbox) = table.find(hash, same).filter(|inbox| !inbox.is_closed()) {
                return Ok(use_it(inbox, thing).0);
            }
        }
        let mut table = shard.write().unwrap_or_else(PoisonError::into_inner);
        // Asked again under the lock that `all` takes: no inbox comes into being unseen by it.
        if closed.load(Ordering::Acquire) {
            return Err(thing);
        }
        if let Some(inbox) = table.find_mut(hash, same) {
            if inbox.is_closed() {
                *inbox = Inbox::new(make(name));
            }
            return Ok(use_it(inbox, thing).0);
        }
        let inbox = Inbox::new(make(name));
        let (result, used) = use_it(&inbox, thing);
        if used == Used::Yes {
            table.insert_unique(hash, inbox, |inbox| self.hash(&inbox.group().name));
        }
        Ok(result)
    }

    pub(crate) fn remove(&self, inbox: &Arc<GroupInbox<P>>) {
        let (hash, shard) = self.place(&inbox.group().name);
        let mut table = shard.write().unwrap_or_else(PoisonError::into_inner);
        if let Ok(entry) = table.find_entry(hash, |other| Arc::ptr_eq(other, inbox)) {
            entry.remove();
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<GroupInbox<P>>> {
        let tables = self
            .shards
            .iter()
            .map(|shard| shard.write().unwrap_or_else(PoisonError::into_inner));
        tables
            .flat_map(|table| table.iter().cloned().collect::<Vec<_>>())
            .collect()
    }

    fn place(&self, name: &str) -> (u64, &RwLock<HashTable<Arc<GroupInbox<P>>>>) {
        let hash = self.hash(name);
        // The table's own buckets come from the low bits and the seven highest.
        (hash, &self.shards[(hash >> 40) as usize % SHARDS])
    }

    fn hash(&self, name: &str) -> u64 {
        self.hasher.hash_one(name.as_bytes())
    }
}

/// Whether something has come of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Used {
    Yes,
    No,
}

const SHARDS: usize = 16;
