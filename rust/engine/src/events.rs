//! What happened, as values. Built only while somebody observes.

use std::time::Duration;

use compact_str::CompactString;

use crate::{ClosedBy, End, Kind, LeaseId, Refusal, Seq, Strategy, Time};

/// One thing that happened. Names are copies, so an event outlives what it tells of.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // the variant and the field names say it all; the Python classes have the docs
pub enum Event {
    MessageAccepted {
        seq: Seq,
        group: CompactString,
        sender: CompactString,
        at: Time,
        id: Option<Box<str>>,
    },
    MessageRefused {
        group: CompactString,
        sender: CompactString,
        reason: Refusal,
        depth: u64,
        at: Time,
        id: Option<Box<str>>,
    },
    WindowClosed {
        group: CompactString,
        sender: CompactString,
        at: Time,
        messages: u32,
        closed_by: ClosedBy,
    },
    BatchLeased {
        lease: LeaseId,
        group: CompactString,
        sender: CompactString,
        at: Time,
        messages: u32,
        kind: Kind,
        closed_by: ClosedBy,
        attempt: u32,
    },
    BatchSettled {
        lease: LeaseId,
        group: CompactString,
        at: Time,
        messages: u32,
        ok: bool,
        reason: &'static str,
        handling: Duration,
    },
    CallEnding {
        lease: LeaseId,
        group: CompactString,
        at: Time,
        reason: &'static str,
    },
    BatchHeld {
        group: CompactString,
        sender: CompactString,
        at: Time,
        messages: u32,
        attempts: u32,
        until: Option<Time>,
        reason: &'static str,
    },
    MessageEnded {
        seq: Seq,
        group: CompactString,
        at: Time,
        end: End,
        reason: &'static str,
        id: Option<Box<str>>,
    },
    MessageEdited {
        seq: Seq,
        group: CompactString,
        at: Time,
        id: Option<Box<str>>,
    },
    GroupResized {
        group: CompactString,
        at: Time,
        size: u32,
        strategy: Strategy,
    },
    SenderTyping {
        group: CompactString,
        sender: CompactString,
        at: Time,
        on: bool,
    },
    GroupConfigured {
        group: CompactString,
        at: Time,
    },
    GroupPaused {
        group: Option<CompactString>,
        at: Time,
        until: Option<Time>,
    },
    GroupResumed {
        group: Option<CompactString>,
        at: Time,
    },
    GroupForgotten {
        group: CompactString,
        at: Time,
    },
    EventsMissed {
        count: u64,
    },
    QueueClosed {
        at: Time,
    },
}
