//! Counters and fixed-bucket histograms: an addition each.

use crate::admission::Refusal;
use crate::ledger::End;
use crate::message::Kind;
use crate::settings::Strategy;
use crate::window::ClosedBy;

/// Bits of a value below its leading one that choose the bucket: 16 buckets an octave, so a
/// bucket's edges are at most 1/16 apart.
const SUB_BITS: u32 = 4;
const SUB: usize = 1 << SUB_BITS;
/// Values from 2^44 on (half a year in microseconds) share the last bucket.
const MAX_BITS: u32 = 44;
const BUCKETS: usize = SUB + (MAX_BITS - SUB_BITS) as usize * SUB + 1;

/// Counts of whole values in logarithmic buckets, exact below 16.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    /// Values recorded.
    pub count: u64,
    /// Their sum, saturating.
    pub sum: u64,
    /// The largest.
    pub max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            count: 0,
            sum: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Lower edges of all buckets and, last, the upper edge of the last one.
    pub fn edges() -> Vec<u64> {
        let sub = SUB as u64;
        let mut edges: Vec<u64> = (0..sub).collect();
        for shift in 0..MAX_BITS - SUB_BITS {
            edges.extend((sub..2 * sub).map(|mantissa| mantissa << shift));
        }
        edges.push(1 << MAX_BITS);
        edges.push(u64::MAX);
        edges
    }

    /// How many values fell into each bucket.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.count += other.count;
        self.sum = self.sum.saturating_add(other.sum);
        self.max = self.max.max(other.max);
    }

    pub(crate) fn record(&mut self, value: u64) {
        self.counts[bucket(value)] += 1;
        self.count += 1;
        self.sum = self.sum.saturating_add(value);
        self.max = self.max.max(value);
    }
}

fn bucket(value: u64) -> usize {
    if value < SUB as u64 {
        return value as usize;
    }
    if value >= 1 << MAX_BITS {
        return BUCKETS - 1;
    }
    let shift = value.ilog2() - SUB_BITS;
    SUB + shift as usize * SUB + (value >> shift) as usize - SUB
}

/// What happened so far, in figures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Pushes refused, by [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// Messages ended, by end and reason.
    pub ends: Vec<(End, &'static str, u64)>,
    /// Microseconds from a message's arrival to its end, by [`End::ALL`].
    pub ages: [Histogram; 8],
    /// What was started under each of [`Strategy::ALL`].
    pub strategies: [ByStrategy; 4],
    /// Calls started.
    pub started: u64,
    /// Calls ended.
    pub settled: u64,
    /// Calls that ended in a failure.
    pub failed_calls: u64,
    /// Calls that were asked to end by a newer message of their lane.
    pub interruptions: u64,
    /// Calls that were asked to end by a batch of another lane.
    pub preemptions: u64,
    /// Calls that somebody else cancelled and whose messages went back.
    pub put_back: u64,
    /// Messages that running calls took.
    pub injected: u64,
    /// Calls whose batch was back-to-back, bursts not counted.
    pub back_to_back: u64,
    /// Calls whose batch was part of a burst.
    pub burst: u64,
    /// Calls by what closed their window, see [`crate::ClosedBy`].
    pub closed_by: [u64; 9],
    /// Microseconds from a call's start to its end.
    pub handling: Histogram,
    /// Messages a call.
    pub batch_size: Histogram,
    /// Calls that did not end in time when they were asked to.
    pub fenced: u64,
    /// Idle groups forgotten.
    pub forgotten_groups: u64,
    /// Ids of ended messages that a full filter forgot before their time.
    pub forgotten_ids: u64,
    /// Groups remembered now.
    pub groups: u64,
}

/// What was started under one strategy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ByStrategy {
    /// Calls.
    pub started: u64,
    /// Microseconds from a message's arrival to its start.
    pub wait: Histogram,
}

impl Metrics {
    /// Microseconds from a message's arrival to its start.
    pub fn wait(&self) -> Histogram {
        let mut all = Histogram::default();
        for strategy in &self.strategies {
            all.add(&strategy.wait);
        }
        all
    }

    pub(crate) fn record_wait(&mut self, strategy: Strategy, micros: u64) {
        self.strategies[strategy as usize].wait.record(micros);
    }

    pub(crate) fn end(&mut self, end: End, reason: &'static str, age_micros: u64) {
        self.ages[end as usize].record(age_micros);
        let known = self
            .ends
            .iter_mut()
            .find(|it| it.0 == end && it.1 == reason);
        match known {
            Some((.., count)) => *count += 1,
            None => self.ends.push((end, reason, 1)),
        }
    }

    pub(crate) fn start(
        &mut self,
        messages: u32,
        kind: Kind,
        closed_by: ClosedBy,
        strategy: Strategy,
    ) {
        self.started += 1;
        self.strategies[strategy as usize].started += 1;
        self.batch_size.record(u64::from(messages));
        self.closed_by[closed_by as usize] += 1;
        match kind {
            Kind::Single => {}
            Kind::BackToBack => self.back_to_back += 1,
            Kind::Burst => self.burst += 1,
        }
    }

    pub(crate) fn settle(&mut self, ok: bool, handling_micros: u64) {
        self.settled += 1;
        self.failed_calls += u64::from(!ok);
        self.handling.record(handling_micros);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_between_its_edges() {
        let edges = Histogram::edges();
        assert_eq!(edges.len(), BUCKETS + 1);
        for value in
            (0..200).chain((4..44).flat_map(|bit| [(1 << bit) - 1, 1 << bit, (1 << bit) + 1]))
        {
            let at = bucket(value);
            assert!(
                edges[at] <= value && value < edges[at + 1],
                "{value} in {at}"
            );
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }
}
