//! One deadline structure for all timers: a thing has at most one entry, its next deadline.
//!
//! A binary heap that knows where each thing's entry is, so that a deadline moves in place and no
//! outdated entry is ever left behind.

use crate::Time;
use crate::slab::Key;

/// Deadlines of things that `K` names.
pub(crate) struct Timers<K> {
    heap: Vec<(Time, K)>,
    /// Place in the heap by key, [`NOWHERE`] for things without a deadline.
    places: Vec<u32>,
}

impl<K: Key + Ord> Timers<K> {
    pub(crate) fn new() -> Self {
        Self {
            heap: Vec::new(),
            places: Vec::new(),
        }
    }

    /// The next deadline; [`Time::NEVER`] without any.
    pub(crate) fn next_at(&self) -> Time {
        self.heap.first().map_or(Time::NEVER, |&(at, _)| at)
    }

    /// Gives `key` the deadline `at` instead of the one it had; none for [`Time::NEVER`].
    pub(crate) fn set(&mut self, key: K, at: Time) {
        let place = self.place(key);
        match (place, at) {
            (None, Time::NEVER) => {}
            (Some(place), Time::NEVER) => self.remove_at(place),
            (None, at) => {
                if self.places.len() <= key.index() {
                    self.places.resize(key.index() + 1, NOWHERE);
                }
                self.heap.push((at, key));
                self.rise(self.heap.len() - 1);
            }
            (Some(place), at) => {
                self.heap[place].0 = at;
                self.settle(place);
            }
        }
    }

    pub(crate) fn has(&self, key: K) -> bool {
        self.place(key).is_some()
    }

    /// The deadline of `key`; [`Time::NEVER`] if it has none.
    pub(crate) fn at(&self, key: K) -> Time {
        self.place(key)
            .map_or(Time::NEVER, |place| self.heap[place].0)
    }

    /// Takes out the next thing whose deadline is before `until`.
    pub(crate) fn pop(&mut self, until: Time) -> Option<K> {
        let &(at, key) = self.heap.first()?;
        if at >= until {
            return None;
        }
        self.remove_at(0);
        Some(key)
    }

    fn place(&self, key: K) -> Option<usize> {
        let place = *self.places.get(key.index())?;
        (place != NOWHERE).then_some(place as usize)
    }

    fn remove_at(&mut self, place: usize) {
        let (_, key) = self.heap.swap_remove(place);
        self.places[key.index()] = NOWHERE;
        if place < self.heap.len() {
            self.settle(place);
        }
    }

    /// Brings the entry at `place` to where it belongs.
    fn settle(&mut self, place: usize) {
        let place = self.rise(place);
        self.sink(place);
    }

    fn rise(&mut self, mut place: usize) -> usize {
        let entry = self.heap[place];
        while place > 0 && entry < self.heap[(place - 1) / 2] {
            self.put(place, self.heap[(place - 1) / 2]);
            place = (place - 1) / 2;
        }
        self.put(place, entry);
        place
    }

    fn sink(&mut self, mut place: usize) {
        let entry = self.heap[place];
        loop {
            let mut child = 2 * place + 1;
            if child + 1 < self.heap.len() && self.heap[child + 1] < self.heap[child] {
                child += 1;
            }
            if child >= self.heap.len() || entry <= self.heap[child] {
                break;
            }
            self.put(place, self.heap[child]);
            place = child;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: (Time, K)) {
        self.heap[place] = entry;
        self.places[entry.1.index()] = u32::try_from(place).expect("fewer than 2^32 timers");
    }
}

const NOWHERE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::keys;
    use std::collections::BTreeSet;
    use std::num::NonZeroU32;

    keys! { Thing }

    #[test]
    fn deadlines_come_in_order_wherever_they_were_moved() {
        let mut timers = Timers::new();
        let mut model = BTreeSet::new();
        let mut at = vec![None; 40];
        let mut random = 7_u64;
        for step in 0..20_000_u64 {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            let index = (random >> 40) as usize % at.len();
            let key = Thing::from_slot(NonZeroU32::new(index as u32 + 1).unwrap());
            if let Some(before) = at[index].take() {
                model.remove(&(before, key));
            }
            if (random >> 33).is_multiple_of(4) {
                timers.set(key, Time::NEVER);
            } else {
                let deadline = Time::from_micros(step + (random >> 50));
                timers.set(key, deadline);
                model.insert((deadline, key));
                at[index] = Some(deadline);
            }
            let now = Time::from_micros(step);
            while let Some(key) = timers.pop(now.just_after()) {
                let first = model.pop_first().unwrap();
                assert_eq!(first.1, key);
                at[key.index()] = None;
            }
            assert_eq!(
                timers.next_at(),
                model.first().map_or(Time::NEVER, |first| first.0)
            );
        }
    }
}
