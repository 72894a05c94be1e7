//! Which receipts are still held, so that the end of their message can be told.
//!
//! A receipt costs next to nothing when it is thrown away. The one handed out last is remembered: at
//! the next push it is used again if nobody else holds it, and only otherwise it enters the table,
//! where ends are looked up. An end looks at both.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;

use chinwag_engine::{End, Ended};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use crate::calls::Answer;
use crate::receipt::{Receipt, Told};
use crate::scheduler::{Payload, lock};

/// The receipts of a queue.
pub(crate) struct Receipts {
    queue: u32,
    /// Reference counts tell who holds an object only where one thread runs at a time.
    counted: bool,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    last: Option<Py<Receipt>>,
    by_seq: HashMap<u64, Py<Receipt>, BuildHasherDefault<SeqHasher>>,
}

impl Receipts {
    pub(crate) fn new(queue: u32, counted: bool) -> Self {
        Self {
            queue,
            counted,
            kept: Mutex::default(),
        }
    }

    /// A receipt that tells of nothing yet. Made before the push: from the push on, the message can
    /// end, and making an object can run any code.
    pub(crate) fn blank(&self, py: Python<'_>) -> PyResult<Py<Receipt>> {
        let mut kept = lock(&self.kept);
        let last = kept.last.take();
        let spare = match last {
            Some(last) if self.is_held(py, &last) => {
                kept.enter(last);
                None
            }
            spare => spare,
        };
        drop(kept);
        match spare {
            Some(spare) => Ok(spare),
            None => Py::new(py, Receipt::new(self.queue)),
        }
    }

    /// Pushes; on acceptance the receipt tells of the message from then on. Under the lock, so that
    /// whoever ends the message finds its receipt.
    pub(crate) fn accept<T, E>(
        &self,
        py: Python<'_>,
        receipt: &Py<Receipt>,
        push: impl FnOnce() -> Result<T, E>,
        told: impl FnOnce(&T) -> Told,
    ) -> Result<T, E> {
        let mut kept = lock(&self.kept);
        let accepted = push()?;
        let before = receipt.get().retell(told(&accepted));
        let displaced = kept.last.replace(receipt.clone_ref(py));
        // Another thread, or a finaliser in this one, has pushed meanwhile.
        let unheld = displaced.and_then(|displaced| {
            if self.is_held(py, &displaced) {
                kept.enter(displaced);
                None
            } else {
                Some(displaced)
            }
        });
        drop(kept);
        drop((before, unheld));
        Ok(accepted)
    }

    /// Messages whose call begins.
    pub(crate) fn run(&self, py: Python<'_>, seqs: impl Iterator<Item = u64>) -> PyResult<()> {
        let mut feeds = Vec::new();
        self.each(py, seqs, |receipt| feeds.extend(receipt.get().run(py)));
        for feed in feeds {
            feed.call_method0(py, "take_over")?; // what was read is of an earlier call
        }
        Ok(())
    }

    /// Those that somebody holds.
    pub(crate) fn held(&self, py: Python<'_>, seqs: impl Iterator<Item = u64>) -> Vec<Py<Receipt>> {
        let mut held = Vec::new();
        self.each(py, seqs, |receipt| held.push(receipt.clone_ref(py)));
        held
    }

    /// Messages whose call is over, and that may not have ended with it.
    pub(crate) fn rest(&self, py: Python<'_>, seqs: impl Iterator<Item = u64>) {
        self.each(py, seqs, |receipt| receipt.get().rest());
    }

    fn each(
        &self,
        py: Python<'_>,
        seqs: impl Iterator<Item = u64>,
        mut tell: impl FnMut(&Py<Receipt>),
    ) {
        let kept = lock(&self.kept);
        let Some(last) = self.open_last(py, &kept) else {
            return;
        };
        for seq in seqs {
            if let Some(receipt) = kept.find(last, seq) {
                tell(receipt);
            }
        }
    }

    /// Messages that ended, some of them in the call whose `answer` this is.
    pub(crate) fn end(
        &self,
        py: Python<'_>,
        ended: &[Ended<Payload>],
        answer: Option<Answer<'_, '_>>,
    ) -> PyResult<()> {
        let mut kept = lock(&self.kept);
        let Some(last) = self.open_last(py, &kept) else {
            return Ok(());
        };
        let mut found = Vec::new();
        for message in ended {
            let seq = message.seq.as_u64();
            let receipt = match last {
                // Held by others, so it will hardly be used again; what it tells of is theirs alone.
                Some(last) if last == seq => kept.last.take(),
                _ => kept.by_seq.remove(&seq),
            };
            if let Some(receipt) = receipt {
                found.push((receipt, message));
            }
        }
        if kept.by_seq.is_empty() {
            kept.by_seq.shrink_to_fit();
        }
        drop(kept);
        let mut waiters = Vec::new();
        for (receipt, message) in found {
            let own = message.error.as_ref().map(|error| error.clone_ref(py));
            let of_call = answer
                .filter(|_| matches!(message.end, End::Done | End::Dead))
                .and_then(|answer| answer.to(message));
            let outcome = own.or_else(|| of_call.map(|told| told.clone().unbind()));
            waiters.append(&mut receipt.get().end(message.end, message.reason, outcome));
        }
        resolve(py, waiters)
    }

    /// A receipt tells of a message that has been accepted; nobody else can end it yet.
    /// What is given back must be dropped without a lock.
    #[must_use]
    pub(crate) fn adopt(&self, py: Python<'_>, receipt: &Py<Receipt>, told: Told) -> Told {
        let mut kept = lock(&self.kept);
        let before = receipt.get().retell(told);
        kept.by_seq
            .insert(receipt.get().seq(), receipt.clone_ref(py));
        before
    }

    /// The sequence number of the last receipt if it is held and open; none at all when there is
    /// nobody to tell anything.
    #[allow(clippy::option_option)] // nobody, nobody but those in the table, the last one too
    fn open_last(&self, py: Python<'_>, kept: &Kept) -> Option<Option<u64>> {
        let last = kept
            .last
            .as_ref()
            .filter(|last| self.is_held(py, last) && last.get().is_open())
            .map(|last| last.get().seq());
        (last.is_some() || !kept.by_seq.is_empty()).then_some(last)
    }

    /// Whether anybody but `kept` holds it.
    #[allow(deprecated)] // the function recommended instead is unsafe, and this one is just as good
    fn is_held(&self, py: Python<'_>, receipt: &Py<Receipt>) -> bool {
        !self.counted || receipt.bind(py).get_refcnt() > 1
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let Ok(kept) = self.kept.try_lock() else {
            return Ok(());
        };
        visit.call(&kept.last)?;
        kept.by_seq
            .values()
            .try_for_each(|receipt| visit.call(receipt))
    }

    /// Ends what is open, in a forked process: nobody here will. Those that wait are the parent's.
    pub(crate) fn fork(&self) {
        let Ok(kept) = self
            .kept
            .try_lock()
            .map(|mut kept| std::mem::take(&mut *kept))
        else {
            return;
        };
        for receipt in kept.last.iter().chain(kept.by_seq.values()) {
            if receipt.get().is_open() {
                drop(receipt.get().end(End::Abandoned, "forked", None));
            }
        }
    }

    pub(crate) fn clear(&self) {
        let kept = self
            .kept
            .try_lock()
            .map(|mut kept| std::mem::take(&mut *kept));
        drop(kept);
    }
}

impl Kept {
    fn enter(&mut self, receipt: Py<Receipt>) {
        if receipt.get().is_open() {
            self.by_seq.insert(receipt.get().seq(), receipt);
        }
    }

    fn find(&self, last: Option<u64>, seq: u64) -> Option<&Py<Receipt>> {
        if last == Some(seq) {
            self.last.as_ref()
        } else {
            self.by_seq.get(&seq)
        }
    }
}

/// Wakes those that wait, on whichever loop they do.
pub(crate) fn resolve(py: Python<'_>, waiters: Vec<Py<PyAny>>) -> PyResult<()> {
    static RESOLVE: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    if waiters.is_empty() {
        return Ok(());
    }
    RESOLVE
        .import(py, "chinwag._receipts", "resolve")?
        .call1((waiters,))?;
    Ok(())
}

/// Sequence numbers are dense, so one multiplication spreads them well enough.
#[derive(Default)]
struct SeqHasher(u64);

impl Hasher for SeqHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte) ^ self.0);
        }
    }

    fn write_u64(&mut self, seq: u64) {
        self.0 = seq.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(26);
    }
}
