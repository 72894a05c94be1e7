//! A group out of service (rule C6).

use chinwag_engine::{End, Jitter, Lanes, OnBusy, Options, Settings};

use super::world::{World, at};

fn settings(lanes: Lanes) -> Settings {
    Settings {
        lanes,
        jitter: Jitter::None,
        ..Settings::default()
    }
}

impl World {
    fn disable(&mut self, now: f64) -> bool {
        self.engine.disable(at(now), "room", &mut self.out)
    }

    fn enable(&mut self, now: f64) -> bool {
        self.engine.enable(at(now), "room", &mut self.out)
    }
}

#[test]
fn all_there_is_goes_to_the_fallback_one_by_one() {
    for lanes in [Lanes::Sender, Lanes::Group, Lanes::Message] {
        let mut world = World::new(settings(lanes));
        let call = {
            world.push(0.0, "ann", "failed");
            world.poll(0.0).remove(0)
        };
        world.failed(0.1, &call).unwrap(); // backs off until 1.1
        let listens = Options {
            context: true,
            ..Options::default()
        };
        world
            .push_with(0.2, "room", "eve", "heard", listens)
            .unwrap();
        world
            .engine
            .pause(at(0.2), Some("room"), None, &mut world.out);
        for (sender, word) in [("bob", "a"), ("ann", "b"), ("bob", "c")] {
            world.push(0.3, sender, word);
        }
        world.poll(0.3);
        assert!(world.disable(0.4));
        assert!(!world.disable(0.4));
        world.engine.resume(at(0.4), Some("room"), &mut world.out);

        let mut told = Vec::new();
        for _ in 0..6 {
            let calls = world.poll(0.5);
            let Some(call) = calls.first() else { break };
            assert_eq!(calls.len(), 1, "one by one");
            assert!(world.engine.batch(call.lease).unwrap().is_fallback());
            told.extend(call.words.clone());
            world.done(0.5, call).unwrap();
        }

        assert_eq!(told, ["failed", "heard", "a", "b", "c"], "{lanes:?}");
        assert_eq!(world.ends().len(), 5);
    }
}

#[test]
fn running_calls_end_first() {
    let mut world = World::new(settings(Lanes::Sender));
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.disable(0.5);
    world.push(0.6, "bob", "b");
    assert!(world.starts(0.6).is_empty());

    world.failed(1.0, &call).unwrap();

    let told = world.poll(1.0).remove(0);
    assert_eq!(told.words, ["a"], "it is tried no more, and came first");
    world.failed(1.1, &told).unwrap();
    assert_eq!(world.ends(), [("a", End::Dead)]);
    assert_eq!(world.starts(1.1), [["b"]]);
}

#[test]
fn the_group_goes_on_after_the_fallback_that_runs() {
    let mut world = World::new(settings(Lanes::Sender));
    world.disable(0.0);
    for (sender, word) in [("ann", "a"), ("ann", "b"), ("bob", "c"), ("ann", "d")] {
        world.push(0.1, sender, word);
    }
    let listens = Options {
        context: true,
        ..Options::default()
    };
    world
        .push_with(0.1, "room", "eve", "heard", listens)
        .unwrap();
    let told = world.poll(0.1).remove(0);
    assert_eq!(told.words, ["a"]);
    assert!(world.enable(0.2));
    world.push(0.3, "bob", "e");
    assert!(world.starts(0.3).is_empty());

    world.done(0.5, &told).unwrap();

    let calls = world.poll(0.5);
    let words: Vec<_> = calls.iter().map(|call| call.words.clone()).collect();
    assert_eq!(words, [["b", "d"], ["c", "e"]]);
    let batch = world.engine.batch(calls[0].lease).unwrap();
    assert_eq!(batch.context_len(), 1);
    assert!(!batch.is_fallback());
}

#[test]
fn what_the_fallback_gives_up_on_is_dead() {
    let mut world = World::new(settings(Lanes::Sender));
    world.disable(0.0);
    let seq = world.push(0.1, "ann", "a").seq;
    let told = world.poll(0.1).remove(0);
    let failures = vec![chinwag_engine::Failure { seq, error: None }];
    let done = chinwag_engine::Outcome::Done;

    world
        .engine
        .settle_with(at(0.2), told.lease, done, failures, &mut world.out)
        .unwrap();

    assert_eq!(world.ends(), [("a", End::Dead)]);
}

#[test]
fn policies_are_ignored_out_of_service() {
    let settings = Settings {
        on_busy: OnBusy::Interrupt,
        ..settings(Lanes::Sender)
    };
    let mut world = World::new(settings);
    world.disable(0.0);
    world.push(0.1, "ann", "a");
    let told = world.poll(0.1).remove(0);
    world.push(0.2, "ann", "b");
    world.poll(0.2);

    assert!(world.out.ending.is_empty());
    world.done(0.3, &told).unwrap();
    assert_eq!(world.starts(0.3), [["b"]]);
}

#[test]
fn what_waits_for_the_fallback_is_cleared_and_withdrawn_like_anything() {
    let mut world = World::new(settings(Lanes::Sender));
    world.push(0.0, "ann", "a");
    world
        .engine
        .pause(at(0.0), Some("room"), None, &mut world.out);
    let id = Options {
        id: Some("x".into()),
        ..Options::default()
    };
    world.push_with(0.0, "room", "ann", "b", id).unwrap();
    world.disable(0.1);
    assert!(world.engine.withdraw(at(0.2), "room", "x", &mut world.out));

    assert_eq!(world.engine.clear(at(0.3), Some("room"), &mut world.out), 1);

    world.poll(0.4);
    assert_eq!(world.ends(), [("b", End::Withdrawn), ("a", End::Cleared)]);
}

#[test]
fn a_cancelled_fallback_comes_back_to_where_it_belongs() {
    for enabled in [false, true] {
        let mut world = World::new(settings(Lanes::Sender));
        world.disable(0.0);
        world.push(0.1, "ann", "a");
        let told = world.poll(0.1).remove(0);
        if enabled {
            world.enable(0.2);
        }
        let outcome = chinwag_engine::Outcome::Cancelled { error: None };
        world
            .engine
            .settle(at(0.3), told.lease, outcome, &mut world.out)
            .unwrap();

        let again = world.poll(0.3).remove(0);

        assert_eq!(again.words, ["a"]);
        let batch = world.engine.batch(again.lease).unwrap();
        assert_eq!(batch.is_fallback(), !enabled);
    }
}
