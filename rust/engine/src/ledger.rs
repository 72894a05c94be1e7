//! P1: every accepted message is in exactly one place.

use std::fmt;

/// How a message ended. Every accepted message ends in exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the words of the glossary
pub enum End {
    Done,
    Dead,
    Expired,
    Evicted,
    Superseded,
    Cleared,
    Withdrawn,
    Abandoned,
}

impl End {
    /// All ends, in the order of [`Ledger::ended`].
    pub const ALL: [Self; 8] = [
        Self::Done,
        Self::Dead,
        Self::Expired,
        Self::Evicted,
        Self::Superseded,
        Self::Cleared,
        Self::Withdrawn,
        Self::Abandoned,
    ];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Expired => "expired",
            Self::Evicted => "evicted",
            Self::Superseded => "superseded",
            Self::Cleared => "cleared",
            Self::Withdrawn => "withdrawn",
            Self::Abandoned => "abandoned",
        }
    }

    /// Whether a redelivery after this end helps, so that the id is free again at once.
    pub(crate) fn frees_id(self) -> bool {
        matches!(
            self,
            Self::Dead | Self::Evicted | Self::Expired | Self::Abandoned
        )
    }
}

/// Where all accepted messages are, kept by addition at every step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Messages that were ever accepted.
    pub accepted: u64,
    /// Waiting for their first start.
    pub waiting: u64,
    /// In a running call.
    pub running: u64,
    /// Between a failed call and the next.
    pub retrying: u64,
    /// Ended, by [`End`].
    pub ended: [u64; 8],
}

impl Ledger {
    /// Messages that ended as `end`.
    pub fn ended_as(&self, end: End) -> u64 {
        self.ended[end as usize]
    }

    pub(crate) fn end(&mut self, end: End) {
        self.ended[end as usize] += 1;
    }

    /// The sums of P1, or what is wrong with them.
    pub(crate) fn balanced(self) -> Result<Self, Imbalance> {
        let ended: u64 = self.ended.iter().sum();
        if self.accepted == self.waiting + self.running + self.retrying + ended {
            Ok(self)
        } else {
            Err(Imbalance::new(format!(
                "accepted {} but waiting {} + running {} + retrying {} + ended {ended}",
                self.accepted, self.waiting, self.running, self.retrying
            )))
        }
    }
}

/// A broken promise of the engine: what `check` or `audit` found, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imbalance(String);

impl Imbalance {
    pub(crate) fn new(what: String) -> Self {
        Self(what)
    }
}

impl fmt::Display for Imbalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Imbalance {}
