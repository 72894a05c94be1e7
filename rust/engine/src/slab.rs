//! Slots that are used again, in chunks: growing moves nothing and leaves no half-empty copy behind.

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
    chunks: Vec<Vec<Slot<T>>>,
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
            chunks: Vec::new(),
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
        if let Some(slot) = self.free {
            let place = self.slot_mut(slot);
            let Slot::Free(next) = *place else {
                unreachable!("the free list holds free slots")
            };
            *place = Slot::Used(value);
            self.free = next;
            return K::from_slot(slot);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            // The first chunk grows as it must, so that a small queue stays small.
            let room = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(room));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("pushed above");
        chunk.push(Slot::Used(value));
        let slot = u32::try_from(before + chunk.len())
            .ok()
            .and_then(NonZeroU32::new);
        K::from_slot(slot.expect("fewer than 2^32 slots"))
    }

    pub(crate) fn remove(&mut self, key: K) -> T {
        let next = self.free;
        let place = self.slot_mut(key.slot());
        let Slot::Used(value) = std::mem::replace(place, Slot::Free(next)) else {
            unreachable!("a key names a used slot")
        };
        self.free = Some(key.slot());
        self.len -= 1;
        value
    }

    pub(crate) fn get(&self, key: K) -> Option<&T> {
        let index = key.index();
        match self.chunks.get(index / CHUNK)?.get(index % CHUNK)? {
            Slot::Used(value) => Some(value),
            Slot::Free(_) => None,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (K, &T)> {
        self.chunks
            .iter()
            .flatten()
            .zip(1..)
            .filter_map(|(slot, number)| match slot {
                Slot::Used(value) => Some((K::from_slot(NonZeroU32::new(number)?), value)),
                Slot::Free(_) => None,
            })
    }

    /// Slots there are, used or free.
    pub(crate) fn slots(&self) -> usize {
        self.chunks
            .last()
            .map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// The used keys among the slots `from..to`.
    pub(crate) fn keys_in(&self, from: usize, to: usize) -> impl Iterator<Item = K> {
        (from..to.min(self.slots())).filter_map(|index| {
            let key = K::from_slot(NonZeroU32::new(u32::try_from(index + 1).ok()?)?);
            self.get(key).map(|_| key)
        })
    }

    fn slot_mut(&mut self, slot: NonZeroU32) -> &mut Slot<T> {
        let index = slot.get() as usize - 1;
        &mut self.chunks[index / CHUNK][index % CHUNK]
    }
}

impl<K: Key, T> std::ops::Index<K> for Slab<K, T> {
    type Output = T;

    fn index(&self, key: K) -> &T {
        self.get(key).expect("a key names a used slot")
    }
}

impl<K: Key, T> std::ops::IndexMut<K> for Slab<K, T> {
    fn index_mut(&mut self, key: K) -> &mut T {
        match self.slot_mut(key.slot()) {
            Slot::Used(value) => value,
            Slot::Free(_) => unreachable!("a key names a used slot"),
        }
    }
}

const CHUNK: usize = 512;

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
