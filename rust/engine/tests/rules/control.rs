//! What one may tell the queue to do (section C).

use chinwag_engine::{
    Band, End, Lanes, LeaseLost, Options, Outcome, Overflow, Profile, Refusal, Settings, Strategy,
};

use crate::world::{World, at, seconds};

fn slow() -> Settings {
    Settings {
        quiet: seconds(5.0),
        ..Settings::default()
    }
}

/// Other settings once two senders are active.
fn from_two_on(small: Settings, large: Settings) -> Profile {
    Profile {
        settings: small.into(),
        strategy: Strategy::RoundRobin,
        bands: vec![Band {
            from: 2,
            strategy: Strategy::RoundRobin,
            settings: large.into(),
        }],
    }
}

#[test]
fn a_pause_stops_starts_only() {
    let mut world = World::new(slow());
    world.push(0.0, "ann", "a");
    assert!(
        world
            .engine
            .pause(at(1.0), Some("room"), None, &mut world.out)
    );
    assert!(
        !world
            .engine
            .pause(at(1.0), Some("room"), None, &mut world.out),
        "it was paused"
    );
    world.push_to(0.5, "hall", "b");
    world.push(6.0, "ann", "late");

    assert_eq!(world.starts(7.0), [["b"]], "other groups go on");
    assert!(world.engine.resume(at(8.0), Some("room"), &mut world.out));
    assert!(!world.engine.resume(at(8.0), Some("room"), &mut world.out));
    assert_eq!(
        world.starts(8.0),
        [["a", "late"]],
        "what became due meanwhile starts at once"
    );
}

#[test]
fn a_pause_can_lift_itself() {
    let mut world = World::new(Settings::default());
    world
        .engine
        .pause(at(0.0), Some("room"), Some(seconds(3.0)), &mut world.out);
    world
        .engine
        .pause(at(0.0), None, Some(seconds(2.0)), &mut world.out);
    world.push(0.0, "ann", "a");
    world.push_to(0.0, "hall", "b");

    assert_eq!(world.wake_at(), Some(2.0));
    assert_eq!(world.starts(2.0), [["b"]]);
    assert_eq!(world.starts(3.0), [["a"]]);
}

#[test]
fn a_group_and_the_queue_are_paused_separately() {
    let mut world = World::new(Settings::default());
    world
        .engine
        .pause(at(0.0), Some("room"), None, &mut world.out);
    world.engine.pause(at(0.0), None, None, &mut world.out);
    world.push(0.0, "ann", "a");
    world.engine.resume(at(1.0), None, &mut world.out);
    assert!(world.poll(1.0).is_empty());
    world.engine.resume(at(2.0), Some("room"), &mut world.out);

    assert_eq!(world.starts(2.0), [["a"]]);
}

#[test]
fn clear_takes_what_waits_and_leaves_what_runs() {
    let mut world = World::new(Settings::default());
    world.push(0.0, "ann", "runs");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "waits");
    world.push(1.0, "bob", "starts");
    let other = world.poll(1.0).remove(0);
    world.push(1.0, "bob", "in the inbox");
    world.push_to(1.0, "hall", "elsewhere");

    assert_eq!(world.engine.clear(at(2.0), Some("room"), &mut world.out), 2);
    let mut cleared = world.ends();
    cleared.sort_unstable_by_key(|end| end.0);
    assert_eq!(
        cleared,
        [("in the inbox", End::Cleared), ("waits", End::Cleared)]
    );
    world.done(3.0, &call).expect("it ran");
    world.done(3.0, &other).expect("it ran");
    assert_eq!(world.starts(3.0), [["elsewhere"]]);
}

#[test]
fn flush_makes_what_waits_due() {
    let mut world = World::new(Settings {
        min_batch: 5,
        ..slow()
    });
    world.push(0.0, "ann", "a");
    world.push(0.0, "bob", "b");

    assert_eq!(
        world
            .engine
            .flush(at(1.0), "room", Some("bob"), &mut world.out),
        1
    );
    assert_eq!(world.starts(1.0), [["b"]]);
    assert_eq!(world.engine.flush(at(2.0), "room", None, &mut world.out), 1);
    assert_eq!(world.starts(2.0), [["a"]]);
    assert_eq!(
        world.engine.flush(at(2.0), "nowhere", None, &mut world.out),
        0
    );
}

#[test]
fn closing_hands_over_what_waits_and_takes_nothing_more() {
    let mut world = World::new(Settings {
        min_batch: 5,
        ..slow()
    });
    world.push(0.0, "ann", "a");
    world
        .engine
        .pause(at(0.0), Some("hall"), None, &mut world.out);
    world.push_to(0.0, "hall", "held");
    world.engine.close(at(1.0), &mut world.out);

    assert_eq!(
        world.push_with(1.0, "room", "ann", "late", Options::default()),
        Err((Refusal::Closed, 1))
    );
    let call = world.poll(1.0).remove(0);
    assert_eq!(
        (call.words.as_slice(), call.closed_by),
        (["a"].as_slice(), "drain")
    );
    assert!(!world.engine.stuck());
    world.done(2.0, &call).expect("it ran");
    world.ends();
    assert!(
        world.poll(2.0).is_empty() && world.engine.stuck(),
        "only a pause holds the rest"
    );
    world.engine.abandon(at(3.0), &mut world.out);
    assert_eq!(world.ends(), [("held", End::Abandoned)]);
    assert!(world.engine.idle(at(3.0), &mut world.out));
}

/// Those whose delay ends first make the group larger, which may evict the others before.
#[test]
fn closing_ends_delays_of_what_may_have_gone() {
    let small = Settings {
        size_window: seconds(1000.0),
        overflow: Overflow::DropOldest,
        ..slow()
    };
    let large = Settings {
        capacity_per_group: Some(1),
        ..small.clone()
    };
    let mut world = World::new(from_two_on(small, large));
    world.push(0.0, "ann", "x");
    world.engine.flush(at(0.0), "room", None, &mut world.out);
    let call = world.poll(0.0).remove(0);
    world.done(0.1, &call).unwrap();
    world.ends();
    for word in ["a", "b", "c"] {
        let late = Options {
            delay: Some(seconds(100.0)),
            ..Options::default()
        };
        world.push_with(0.2, "room", "bob", word, late).unwrap();
    }
    world.poll(0.3);

    world.engine.close(at(1.0), &mut world.out);

    assert_eq!(world.ends(), [("a", End::Evicted), ("b", End::Evicted)]);
    assert_eq!(world.starts(1.0), [["c"]]);
}

#[test]
fn calls_are_known_from_start_to_end() {
    let mut world = World::new(Settings::default());
    world.push(0.0, "ann", "a");
    world.push(0.0, "bob", "b");
    let started = world.poll(0.0);
    let known = |world: &World| world.engine.calls().collect::<Vec<_>>();

    assert_eq!(known(&world), [started[0].lease, started[1].lease]);
    world.done(1.0, &started[0]).expect("it ran");
    assert_eq!(known(&world), [started[1].lease]);
}

#[test]
fn a_fenced_call_changes_nothing_any_more() {
    let mut world = World::new(Settings::default());
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world
        .engine
        .abandon_call(at(1.0), call.lease, &mut world.out)
        .expect("it ran");
    world.push(1.0, "ann", "b");
    world.poll(1.0);

    assert_eq!(world.done(2.0, &call), Err(LeaseLost));
    assert_eq!(
        world
            .engine
            .settle(at(2.0), call.lease, Outcome::Done, &mut world.out),
        Err(LeaseLost)
    );
    assert_eq!(world.ends(), [("a", End::Abandoned)]);
}

#[test]
fn a_message_is_in_the_queue_until_it_ends() {
    let mut world = World::new(Settings::default());
    let named = Options {
        id: Some("m1".into()),
        ..Options::default()
    };
    world
        .push_with(0.0, "room", "ann", "a", named)
        .expect("accepted");
    let automatic = world.push(0.0, "bob", "b").seq.automatic_id();
    let there =
        |world: &mut World, id: &str| world.engine.contains(at(1.0), "room", id, &mut world.out);
    assert!(there(&mut world, "m1") && there(&mut world, &automatic));
    let calls = world.poll(0.0);
    assert!(there(&mut world, "m1") && there(&mut world, &automatic));
    for call in &calls {
        world.done(1.0, call).expect("it ran");
    }

    assert!(!there(&mut world, "m1") && !there(&mut world, &automatic));
}

#[test]
fn stop_ends_what_waits_and_what_runs() {
    let mut world = World::new(Settings::default());
    world.push(0.0, "ann", "a");
    world.push(0.0, "bob", "b");
    let calls = world.poll(0.0);
    world.push(1.0, "ann", "c");
    world
        .engine
        .commit(at(1.0), calls[0].lease, &mut world.out)
        .unwrap();

    let stopped = world.engine.stop(at(1.0), "room", None, &mut world.out);

    assert_eq!(stopped, (1, 2));
    assert_eq!(world.ends(), [("c", End::Cleared)]);
    assert_eq!(world.out.ending.len(), 2);
    world.push(1.0, "ann", "d");
    assert!(world.poll(1.0).is_empty(), "her lane is still busy");
    world.done(1.5, &calls[0]).unwrap();
    assert_eq!(world.ends(), [("a", End::Abandoned)]);
    assert_eq!(world.starts(1.5), [["d"]]);
    world.poll(6.0); // the other call's grace is over
    assert_eq!(world.out.fenced, [calls[1].lease]);
    assert_eq!(world.ends(), [("b", End::Abandoned)]);
}

#[test]
fn stop_of_a_sender_leaves_others_alone() {
    let mut world = World::new(Settings {
        lanes: Lanes::Group,
        max_attempts: 3,
        ..Settings::default()
    });
    world.push(0.0, "ann", "a");
    world.push(0.0, "bob", "b");
    let call = world.poll(0.0).remove(0);
    world.push(1.0, "ann", "c");
    let stopped = world
        .engine
        .stop(at(1.0), "room", Some("ann"), &mut world.out);
    assert_eq!(stopped, (1, 0), "the call is not hers alone");
    world.failed(2.0, &call).unwrap();
    world.ends();

    let stopped = world
        .engine
        .stop(at(2.0), "room", Some("ann"), &mut world.out);
    assert_eq!(stopped, (1, 0));
    assert_eq!(world.ends(), [("a", End::Cleared)]);
    assert_eq!(world.starts(60.0), [["b"]]);
    assert_eq!(
        world.engine.stop(at(60.0), "nowhere", None, &mut world.out),
        (0, 0)
    );
}

/// A lane that goes makes the group smaller, which may evict what was to be ended next.
#[test]
fn stop_of_a_sender_may_shrink_the_group() {
    let large = Settings {
        max_wait: seconds(9000.0),
        size_window: seconds(10.0),
        overflow: Overflow::DropOldest,
        quiet: seconds(3000.0),
        ..Settings::default()
    };
    let small = Settings {
        capacity_per_group: Some(1),
        ..large.clone()
    };
    let mut world = World::new(from_two_on(small, large));
    for sender in ["bob", "cat", "dan", "ann"] {
        world.push(0.0, sender, "x");
        world.push(0.0, sender, "y");
    }
    world.poll(1.0);
    world.ends();

    let stopped = world
        .engine
        .stop(at(500.0), "room", Some("ann"), &mut world.out);

    assert_eq!(stopped, (2, 0));
    let ends = world.ends();
    let evicted = ends.iter().filter(|it| it.1 == End::Evicted).count();
    assert_eq!((evicted, world.ledger(500.0).waiting), (4, 1));
}

#[test]
fn stop_ends_the_context_of_what_it_takes() {
    let mut world = World::new(Settings::default());
    let heard = Options {
        context: true,
        ..Options::default()
    };
    world.push_with(0.0, "room", "zoe", "x", heard).unwrap();
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    world.failed(1.0, &call).unwrap();

    world
        .engine
        .stop(at(1.0), "room", Some("ann"), &mut world.out);

    assert_eq!(world.ends(), [("a", End::Cleared), ("x", End::Cleared)]);
}
