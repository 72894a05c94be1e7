//! Recorded group chats on a virtual clock: real gaps, real bursts, real numbers of rooms.
//!
//! `live_premiere` is one huge, dense room; `chitchat_pairs` are many small ones.

#![allow(clippy::unwrap_used)] // a panic is how a test fails

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::fs;
use std::path::Path;
use std::time::Duration;

use chinwag_engine::{End, Engine, Lanes, LeaseId, Options, Outbox, Outcome, Settings, Size, Time};

#[test]
fn default_settings_lose_nothing() {
    for trace in TRACES {
        replay(trace, Settings::default());
    }
}

#[test]
fn one_lane_per_group_keeps_the_rooms_order() {
    let settings = Settings {
        lanes: Lanes::Group,
        ..Settings::default()
    };

    for trace in TRACES {
        let seen = replay(trace, settings.clone());

        assert!(seen.most_in_group == 1, "a lane has one call at once");
    }
}

#[test]
fn a_pause_joins_messages_under_both_caps() {
    let settings = Settings {
        quiet: Duration::from_secs(2),
        max_batch: Size::from_f64(8.0),
        max_concurrent: Some(20),
        ..Settings::default()
    };

    for trace in TRACES {
        let seen = replay(trace, settings.clone());

        assert!(seen.largest_batch <= 8);
        assert!(seen.calls < seen.messages, "some messages share a call");
    }
}

const TRACES: [&str; 2] = ["live_premiere", "chitchat_pairs"];

/// A row of the recording: when, in which room, by whom.
type Row = (Time, String, String);
/// Room, and sender unless the room has one lane.
type LaneName = (String, Option<String>);

#[derive(Default)]
struct Seen {
    messages: usize,
    calls: usize,
    largest_batch: usize,
    most_in_group: u32,
}

struct Replay<'a> {
    engine: Engine<usize>,
    settings: Settings,
    rows: &'a [Row],
    out: Outbox<usize>,
    /// Calls by the time they will take.
    ends: BinaryHeap<Reverse<(Time, u64)>>,
    running: BTreeMap<u64, LaneName>,
    in_group: BTreeMap<String, u32>,
    /// The row handed over last, by lane.
    last: BTreeMap<LaneName, usize>,
    handed: Vec<bool>,
    seen: Seen,
}

/// Plays a recording to its end, and checks at every start what the rules promise.
fn replay(trace: &str, settings: Settings) -> Seen {
    let rows = read(trace);
    let mut replay = Replay {
        engine: Engine::new(settings.clone()),
        settings,
        rows: &rows,
        out: Outbox::default(),
        ends: BinaryHeap::new(),
        running: BTreeMap::new(),
        in_group: BTreeMap::new(),
        last: BTreeMap::new(),
        handed: vec![false; rows.len()],
        seen: Seen::default(),
    };
    for (number, (at, group, sender)) in rows.iter().enumerate() {
        replay.play_until(*at);
        let pushed = replay.engine.intake();
        let pushed = pushed.push(*at, group, sender, number, Options::default());
        assert!(pushed.is_ok(), "{trace}: nothing limits it");
        replay.poll(*at);
        if number % 500 == 0 {
            replay.audit(*at);
        }
    }
    replay.play_until(Time::NEVER);

    let ledger = replay.audit(rows.last().unwrap().0);
    assert_eq!(ledger.accepted, rows.len() as u64, "{trace}");
    assert_eq!(ledger.ended_as(End::Done), ledger.accepted, "{trace}");
    assert!(replay.handed.iter().all(|&handed| handed), "{trace}");
    assert_eq!(replay.engine.intake().depth(), 0, "{trace}");
    replay.seen.messages = rows.len();
    replay.seen
}

impl Replay<'_> {
    /// Lets time pass up to `until`: windows become due, calls end.
    fn play_until(&mut self, until: Time) {
        loop {
            let end = self.ends.peek().map_or(Time::NEVER, |Reverse((at, _))| *at);
            let next = end.min(self.engine.wake_at());
            if next > until || next == Time::NEVER {
                return;
            }
            if end == next {
                self.end_call(end);
            }
            self.poll(next);
        }
    }

    fn poll(&mut self, now: Time) {
        self.engine.poll(now, &mut self.out);
        for lease in std::mem::take(&mut self.out.started) {
            self.begin_call(now, lease);
        }
    }

    fn begin_call(&mut self, now: Time, lease: LeaseId) {
        let batch = self.engine.batch(lease).unwrap();
        let numbers: Vec<usize> = batch.messages().map(|message| *message.payload).collect();
        let lane = self.lane_of(numbers[0]);
        assert!(
            self.running.values().all(|other| *other != lane),
            "{lane:?}"
        );
        for &number in &numbers {
            assert_eq!(self.lane_of(number), lane);
            let before = self.last.insert(lane.clone(), number);
            assert!(before.is_none_or(|before| before < number), "{lane:?}");
            assert!(!std::mem::replace(&mut self.handed[number], true));
        }
        let in_group = self.in_group.entry(lane.0.clone()).or_default();
        *in_group += 1;
        assert!(*in_group <= self.settings.max_concurrent_per_group);
        self.seen.most_in_group = self.seen.most_in_group.max(*in_group);
        self.running.insert(lease.as_u64(), lane);
        let limit = self.settings.max_concurrent.unwrap_or(u32::MAX) as usize;
        assert!(self.running.len() <= limit);
        self.seen.calls += 1;
        self.seen.largest_batch = self.seen.largest_batch.max(numbers.len());
        // A model that reads, thinks and answers.
        let takes = Duration::from_millis(700 + 60 * numbers.len() as u64);
        self.ends.push(Reverse((now.after(takes), lease.as_u64())));
    }

    fn end_call(&mut self, now: Time) {
        let Reverse((_, number)) = self.ends.pop().unwrap();
        let lease = LeaseId::from_u64(number).unwrap();
        let ended = self.engine.settle(now, lease, Outcome::Done, &mut self.out);
        assert!(ended.is_ok());
        self.out.ended.clear();
        let (group, _) = self.running.remove(&number).unwrap();
        *self.in_group.get_mut(&group).unwrap() -= 1;
    }

    fn audit(&mut self, now: Time) -> chinwag_engine::Ledger {
        let ledger = self.engine.audit(now, &mut self.out).unwrap();
        let messages = self.handed.iter().filter(|&&handed| handed).count() as u64;
        assert_eq!(ledger.accepted - ledger.waiting, messages, "handed over");
        ledger
    }

    fn lane_of(&self, number: usize) -> LaneName {
        let (_, group, sender) = &self.rows[number];
        let sender = (self.settings.lanes == Lanes::Sender).then(|| sender.clone());
        (group.clone(), sender)
    }
}

/// Columns `ts_ms,group,sender,length,mention`, in the order of time.
fn read(trace: &str) -> Vec<Row> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../python/chinwag/data")
        .join(trace)
        .with_extension("csv");
    let text = fs::read_to_string(&file).unwrap();
    let row = |line: &str| {
        let mut fields = line.split(',');
        let milliseconds: u64 = fields.next().unwrap().parse().unwrap();
        let mut name = |kind| format!("{kind}:{}", fields.next().unwrap());
        let at = Time::from_micros(1_000_000 + milliseconds * 1_000);
        (at, name("room"), name("user"))
    };
    text.lines().skip(1).map(row).collect()
}
