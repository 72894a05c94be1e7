//! What the engine costs: time and memory, every rule switched on.
//!
//! Run with `cargo bench -p chinwag-engine --bench engine`. Each figure is measured in a process of
//! its own; memory is resident memory with the allocator's slack, read from /proc (Linux only). Times
//! are processor seconds of the best of several rounds, since other work may run beside it.

#![allow(clippy::print_stdout)] // its whole purpose

use std::collections::BinaryHeap;
use std::hint::black_box;
use std::num::NonZeroU64;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use std::{cmp::Reverse, env, fs};

use chinwag_engine::{Engine, Intake, LeaseId, Options, Outbox, Outcome, Settings, Size, Time};

/// As wide as a pointer and never 0, like the payloads of the Python binding.
type Payload = NonZeroU64;

fn main() {
    let args: Vec<String> = env::args().skip(1).filter(|arg| arg != "--bench").collect();
    if let [case, argument] = &args[..] {
        println!("{}", measure(case, argument));
        return;
    }
    println!("replay of a recorded trace on a virtual clock (aim: 5 M messages a second)");
    for trace in ["live_premiere", "chitchat_pairs"] {
        let ns = in_child("replay", trace);
        println!(
            "  {trace:<16} {ns:>7.0} ns a message  {:>6.2} M messages a second",
            1e3 / ns
        );
    }
    println!("memory");
    for groups in ["1000", "10000"] {
        let bytes = in_child("queued", groups);
        println!("  a queued message, {groups:>7} groups  {bytes:>6.1} bytes (aim: 48)");
    }
    for groups in ["100000", "1000000"] {
        let bytes = in_child("idle", groups);
        println!("  an idle group of {groups:>7}          {bytes:>6.1} bytes (aim: 250)");
    }
    growth("groups", &["100", "10000", "1000000"]);
    growth("backlog", &["1000", "100000", "10000000"]);
}

fn growth(case: &str, sizes: &[&str]) {
    println!("cost per message by {case} (aim: at most 3 times from end to end)");
    let costs: Vec<f64> = sizes.iter().map(|size| in_child(case, size)).collect();
    for (size, ns) in sizes.iter().zip(&costs) {
        println!("  {size:>8}  {ns:>7.0} ns  {:>5.2} x", ns / costs[0]);
    }
}

/// One figure from a fresh process.
fn in_child(case: &str, argument: &str) -> f64 {
    let program = env::current_exe().expect("the bench has a file");
    let output = Command::new(program)
        .args([case, argument])
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| {
        panic!(
            "{case} {argument}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })
}

fn measure(case: &str, argument: &str) -> f64 {
    let number = || argument.parse().expect("a number");
    match case {
        "replay" => replay(argument),
        "queued" => bytes_per_queued(number()),
        "idle" => bytes_per_idle_group(number()),
        "groups" => ns_by_groups(number()),
        "backlog" => ns_by_backlog(number()),
        _ => panic!("no such case: {case}"),
    }
}

/// Windows, gaps, both caps, capacities, fair queueing, histograms and the ledger: nothing is off.
fn all_rules() -> Settings {
    Settings {
        quiet: Duration::from_millis(1_500),
        quiet_when_idle: false,
        max_batch: Size::from_f64(64.0),
        max_gap: Some(Duration::from_secs(60)),
        max_concurrent: Some(1_000),
        capacity_per_group: Some(1_000_000),
        capacity: Some(100_000_000),
        ..Settings::default()
    }
}

/// Nanoseconds a message: push, poll, settle, with calls of one second, the trace played repeatedly.
fn replay(trace: &str) -> f64 {
    let messages = read_trace(trace);
    let groups: Vec<String> = (0..=messages.iter().map(|m| m.1).max().unwrap_or(0))
        .map(|g| format!("room:{g:06}"))
        .collect();
    let senders: Vec<String> = (0..=messages.iter().map(|m| m.2).max().unwrap_or(0))
        .map(|s| format!("user:{s:07}"))
        .collect();
    let span = messages.last().expect("a trace has messages").0 + 60_000_000;
    let rounds = 600_000 / messages.len() + 1;
    best_of(3, messages.len() * rounds, || {
        let mut world = World::new(all_rules());
        for round in 0..rounds as u64 {
            for &(at, group, sender) in &messages {
                let at = Time::from_micros(1_000_000 + round * span + at);
                world.play_until(at);
                world.push(at, &groups[group], &senders[sender]);
                world.poll(at);
            }
        }
        world.play_until(Time::NEVER);
        assert!(
            world
                .engine
                .audit(Time::ZERO, &mut Outbox::default())
                .expect("balanced")
                .waiting
                == 0
        );
    })
}

/// The slope over the second half of a million messages to a paused queue.
fn bytes_per_queued(groups: u64) -> f64 {
    let mut world = World::new(all_rules());
    world.engine.pause(Time::ZERO, None, None, &mut world.out);
    let names: Vec<String> = (0..groups)
        .map(|group| format!("room:{group:06}"))
        .collect();
    let mut random = Random(1);
    let mut fill = |world: &mut World, from: u64, to: u64| {
        for n in from..to {
            let group = &names[random.below(groups) as usize];
            world.push(
                Time::from_micros(n),
                group,
                SENDERS[random.below(5) as usize],
            );
            if n % 256 == 0 {
                world.poll(Time::from_micros(n));
            }
        }
        world.poll(Time::from_micros(to));
    };
    fill(&mut world, 0, 500_000);
    let before = resident() as f64;
    fill(&mut world, 500_000, 1_000_000);
    (resident() as f64 - before) / 500_000.0
}

/// One message to each group, handled, after as many groups were busy at once as a batch of pushes.
fn bytes_per_idle_group(groups: u64) -> f64 {
    let mut world = World::new(Settings {
        quiet: Duration::ZERO,
        ..all_rules()
    });
    let talk = |world: &mut World, name: &str, from: u64, to: u64| {
        for n in from..to {
            let at = Time::from_micros(n);
            world.push(at, &format!("{name}:{n:06}"), "user:0000001");
            if n % 256 == 0 {
                world.call_at_once(at);
            }
        }
        world.call_at_once(Time::from_micros(to));
    };
    talk(&mut world, "warm", 0, 1_000);
    let before = resident();
    talk(&mut world, "room", 1_000, 1_000 + groups);
    assert_eq!(world.engine.metrics().groups, 1_000 + groups);
    (resident() - before) as f64 / groups as f64
}

/// A message at a time to random groups, handled at once.
fn ns_by_groups(groups: u64) -> f64 {
    let mut world = World::new(Settings {
        quiet: Duration::ZERO,
        ..all_rules()
    });
    let (mut micros, mut order) = (0, Random(7));
    let mut talk = |world: &mut World, group: u64| {
        micros += 1;
        let at = Time::from_micros(micros);
        world.push(at, Name::room(group).as_str(), "user:0000001");
        world.call_at_once(at);
    };
    (0..groups).for_each(|group| talk(&mut world, group));
    best_of(3, 1_000_000, || {
        for _ in 0..1_000_000 {
            talk(&mut world, order.below(groups));
        }
    })
}

/// A message in, a message out, with so many queued in a thousand groups under a global cap.
fn ns_by_backlog(queued: u64) -> f64 {
    const GROUPS: u64 = 1_000;
    let names: Vec<String> = (0..GROUPS)
        .map(|group| format!("room:{group:06}"))
        .collect();
    let settings = Settings {
        quiet: Duration::ZERO,
        max_batch: Some(Size::ONE),
        max_concurrent: Some(8),
        ..all_rules()
    };
    let mut world = World::new(settings);
    let mut order = Random(7);
    let mut micros = 1;
    for _ in 0..queued {
        micros += 1;
        world.push(
            Time::from_micros(micros),
            &names[order.below(GROUPS) as usize],
            SENDERS[order.below(5) as usize],
        );
    }
    world.poll(Time::from_micros(micros));
    best_of(3, 500_000, || {
        for _ in 0..500_000 {
            micros += 1;
            let at = Time::from_micros(micros);
            world.push(
                at,
                &names[order.below(GROUPS) as usize],
                SENDERS[order.below(5) as usize],
            );
            let Reverse((_, lease)) = world.ends.pop().expect("the cap is used up");
            world.settle(at, lease);
            world.poll(at);
        }
    })
}

const SENDERS: [&str; 5] = [
    "user:0000001",
    "user:0000002",
    "user:0000003",
    "user:0000004",
    "user:0000005",
];

/// A name as it comes off the wire: written a moment ago, not remembered from the set-up.
struct Name([u8; 11]);

impl Name {
    fn room(mut number: u64) -> Self {
        let mut name = *b"room:000000";
        for digit in name[5..].iter_mut().rev() {
            *digit += (number % 10) as u8;
            number /= 10;
        }
        Self(name)
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("digits")
    }
}

/// An engine and the calls it has going.
struct World {
    engine: Engine<Payload>,
    out: Outbox<Payload>,
    ends: BinaryHeap<Reverse<(Time, u64)>>,
    intake: Arc<Intake<Payload>>,
    pushed: NonZeroU64,
}

impl World {
    fn new(settings: Settings) -> Self {
        let engine = Engine::new(settings);
        let (intake, out) = (engine.intake(), Outbox::default());
        Self {
            engine,
            out,
            ends: BinaryHeap::new(),
            intake,
            pushed: NonZeroU64::MIN,
        }
    }

    fn push(&mut self, at: Time, group: &str, sender: &str) {
        self.pushed = self.pushed.saturating_add(1);
        let pushed = self
            .intake
            .push(at, group, sender, self.pushed, Options::default());
        assert!(pushed.is_ok(), "the limits are wide");
    }

    fn poll(&mut self, at: Time) {
        self.engine.poll(at, &mut self.out);
        for lease in self.out.started.drain(..) {
            black_box(self.engine.batch(lease).map(|batch| batch.len()));
            self.ends
                .push(Reverse((at.after(Duration::from_secs(1)), lease.as_u64())));
        }
    }

    fn settle(&mut self, at: Time, lease: u64) {
        let lease = LeaseId::from_u64(lease).expect("it was one");
        self.engine
            .settle(at, lease, Outcome::Done, &mut self.out)
            .expect("it runs");
        self.out.ended.clear();
    }

    /// Starts what may start and ends it at the same instant.
    fn call_at_once(&mut self, at: Time) {
        while let Some(lease) = self.engine.next(at, &mut self.out) {
            self.settle(at, lease.as_u64());
        }
    }

    /// Lets time pass: windows become due, calls end.
    fn play_until(&mut self, until: Time) {
        loop {
            let end = self.ends.peek().map_or(Time::NEVER, |Reverse((at, _))| *at);
            let next = end.min(self.engine.wake_at());
            if next > until || next == Time::NEVER {
                return;
            }
            if end <= next {
                let Some(Reverse((_, lease))) = self.ends.pop() else {
                    return;
                };
                self.settle(end, lease);
            }
            self.poll(next);
        }
    }
}

/// Nanoseconds of processor time for each of `count`, the best of some rounds.
fn best_of(rounds: u32, count: usize, mut work: impl FnMut()) -> f64 {
    let round = |_| {
        let before = processor_seconds();
        work();
        (processor_seconds() - before) / count as f64 * 1e9
    };
    (0..rounds).map(round).fold(f64::INFINITY, f64::min)
}

fn read_trace(name: &str) -> Vec<(u64, usize, usize)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../python/chinwag/data")
        .join(name)
        .with_extension("csv");
    let text =
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let row = |line: &str| {
        let mut fields = line
            .split(',')
            .map(|field| field.parse::<u64>().expect("a number"));
        let mut field = || fields.next().expect("three columns");
        (field() * 1_000, field() as usize, field() as usize)
    };
    text.lines().skip(1).map(row).collect()
}

/// A small generator: the same numbers every time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0 >> 11) * u128::from(limit)) >> 53) as u64
    }
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").expect("Linux");
    pages
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .expect("a number of pages")
        * 4_096
}

/// Processor seconds of this process so far, in the scheduler's nanoseconds.
fn processor_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/schedstat").expect("Linux");
    text.split(' ')
        .next()
        .and_then(|ns| ns.parse::<f64>().ok())
        .expect("nanoseconds")
        / 1e9
}
