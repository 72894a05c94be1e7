//! Slots that are used again.
//!
//! A plain vector: one bounds check a look-up, and on the usual allocators growing a large one moves
//! pages, not bytes.

use std::marker::PhantomData;
use std::num::NonZeroU32;

/// A small integer that names a slot; `Option` of it costs nothing.
pub(crate) trait Key: Copy {
    fn from_slot(slot: NonZeroU32) -> Self;
    fn slot(self) -> NonZeroU32;

    fn index(self) -> usize {
        self.slot().get() as usize - 1
    }
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(std::num::NonZeroU32);

        impl crate::slab::Key for $name {
            fn from_slot(slot: std::num::NonZeroU32) -> Self {
                Self(slot)
            }

            fn slot(self) -> std::num::NonZeroU32 {
                self.0
            }
        }
    )*};
}
pub(crate) use keys;

/// Values by key. The slot freed last is used first, while it is still in the cache.
pub(crate) struct Slab<K, T> {
    slots: Vec<Slot<T>>,
    free: Option<NonZeroU32>,
    len: usize,
    key: PhantomData<fn() -> K>,
}

enum Slot<T> {
    Used(T),
    Free(Option<NonZeroU32>),
}

impl<K: Key, T> Slab<K, T> {
    pub(crate) fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: None,
            len: 0,
            key: PhantomData,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn insert(&mut self, value: T) -> K {
        self.len += 1;
        let Some(slot) = self.free else {
            self.slots.push(Slot::Used(value));
            let slot = u32::try_from(self.slots.len())
                .ok()
                .and_then(NonZeroU32::new);
            return K::from_slot(slot.expect("fewer than 2^32 slots"));
        };
        let key = K::from_slot(slot);
        let place = &mut self.slots[key.index()];
        let Slot::Free(next) = *place else {
            unreachable!("the free list holds free slots")
        };
        *place = Slot::Used(value);
        self.free = next;
        key
    }

    pub(crate) fn remove(&mut self, key: K) -> T {
        let freed = Slot::Free(self.free.replace(key.slot()));
        let Slot::Used(value) = std::mem::replace(&mut self.slots[key.index()], freed) else {
            unreachable!("a key names a used slot")
        };
        self.len -= 1;
        if self.len == 0 && self.slots.len() > KEPT {
            // After a flood nothing of it is left.
            self.slots = Vec::new();
            self.free = None;
        }
        value
    }

    pub(crate) fn get(&self, key: K) -> Option<&T> {
        match self.slots.get(key.index())? {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    pub(crate) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        match self.slots.get_mut(key.index())? {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.slots
            .iter()
            .zip(1..)
            .filter_map(|(slot, number)| match slot {
                Slot::Used(value) => Some((K::from_slot(NonZeroU32::new(number)?), value)),
                Slot::Free(_) => None,
            })
    }

    /// Slots there are, used or free.
    pub(crate) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The used keys among the slots `from..to`.
    pub(crate) fn keys_in(&self, from: usize, to: usize) -> impl Iterator<Item = K> {
        (from..to.min(self.slots.len())).filter_map(|index| {
            let key = K::from_slot(NonZeroU32::new(u32::try_from(index + 1).ok()?)?);
            self.get(key).map(|_| key)
        })
    }
}

impl<K: Key, T> std::ops::Index<K> for Slab<K, T> {
    type Output = T;

    fn index(&self, key: K) -> &T {
        match &self.slots[key.index()] {
            Slot::Used(value) => value,
            Slot::Free(_) => unreachable!("a key names a used slot"),
        }
    }
}

impl<K: Key, T> std::ops::IndexMut<K> for Slab<K, T> {
    fn index_mut(&mut self, key: K) -> &mut T {
        match &mut self.slots[key.index()] {
            Slot::Used(value) => value,
            Slot::Free(_) => unreachable!("a key names a used slot"),
        }
    }
}

/// An empty slab of up to so many slots keeps them.
const KEPT: usize = 1_024;

#[cfg(test)]
mod tests {
    use super::*;

    keys! { TestId }

    #[test]
    fn a_freed_slot_is_used_again() {
        let mut slab: Slab<TestId, Box<usize>> = Slab::new();
        let ids: Vec<_> = (0..2_000).map(|n| slab.insert(Box::new(n))).collect();
        assert_eq!(*slab.remove(ids[700]), 700);
        assert!(slab.get(ids[700]).is_none());

        let again = slab.insert(Box::new(9));

        assert_eq!(again, ids[700]);
        assert_eq!(
            (slab.len(), *slab[again], *slab[ids[1_999]]),
            (2_000, 9, 1_999)
        );
    }
}
