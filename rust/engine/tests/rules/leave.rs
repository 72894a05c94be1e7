//! What waits leaves before it starts (rules W7, W9, W11, A4).

use chinwag_engine::{
    Band, End, Keep, Lanes, Options, Overflow, Points, Profile, Settings, Size, Strategy, Time,
};

use crate::world::{World, at, seconds};

fn by_key(key: &str) -> Options {
    Options {
        batch_key: Some(key.into()),
        ..Options::default()
    }
}

#[test]
fn neighbours_join_when_what_cut_them_leaves() {
    let mut world = World::new(Settings::default());
    world.engine.pause(at(0.0), None, None, &mut world.out);
    for (word, key) in [("a1", "a"), ("b1", "b"), ("a2", "a")] {
        world
            .push_with(0.0, "room", "ann", word, by_key(key))
            .unwrap();
    }
    assert!(world.engine.withdraw(at(1.0), "room", "#1", &mut world.out));
    world.engine.resume(at(1.0), None, &mut world.out);

    assert_eq!(world.starts(1.0), [["a1", "a2"]]);
    assert_eq!(world.ends(), [("b1", End::Withdrawn)]);
}

#[test]
fn a_window_that_was_emptied_is_gone() {
    let mut world = World::new(Settings {
        quiet: seconds(f64::from(u32::MAX)),
        max_wait: seconds(10.0),
        ..Settings::default()
    });
    world.push(0.0, "ann", "a");
    world.engine.withdraw(at(4.0), "room", "#0", &mut world.out);
    world.push(5.0, "ann", "b");

    assert!(world.starts(14.9).is_empty());
    assert_eq!(world.wake_at(), Some(15.0), "its own longest wait");
    assert_eq!(world.starts(15.0), [["b"]]);
}

#[test]
fn what_leaves_makes_a_window_due_earlier_never_later() {
    let mut world = World::new(Settings {
        quiet: seconds(2.0),
        ..Settings::default()
    });
    world.push(0.0, "ann", "a");
    let own = Options {
        quiet: Some(seconds(8.0)),
        ..Options::default()
    };
    world.push_with(1.0, "room", "ann", "b", own).unwrap();
    assert!(world.starts(2.5).is_empty());
    world.engine.withdraw(at(2.5), "room", "#1", &mut world.out);

    assert_eq!(world.starts(2.5), [["a"]], "2 s after what is left");
}

#[test]
fn the_superseding_message_joins_whatever_its_size() {
    let mut world = World::new(Settings {
        keep: Keep::Latest,
        max_batch: Size::from_f64(2.0),
        quiet: seconds(5.0),
        ..Settings::default()
    });
    world.push(0.0, "ann", "a");
    let large = Options {
        size: Size::from_f64(1.5).unwrap(),
        ..Options::default()
    };
    world.push_with(1.0, "room", "ann", "b", large).unwrap();

    assert!(world.starts(5.5).is_empty(), "not cut, so not due");
    assert_eq!(world.starts(6.0), [["b"]]);
    assert_eq!(world.ends(), [("a", End::Superseded)]);
}

#[test]
fn the_newcomer_itself_may_be_what_goes() {
    let mut world = World::new(Settings {
        keep: Keep::Latest,
        capacity_per_group: Some(2),
        overflow: Overflow::DropOldest,
        ..Settings::default()
    });
    for (now, sender, word) in [(3.0, "cy", "a"), (3.0, "di", "b"), (6.0, "bob", "c")] {
        world.push(now, sender, word);
    }
    let older = Options {
        at: Some(Time::from_micros(5)),
        ..Options::default()
    };
    world.push_with(6.0, "room", "bob", "d", older).unwrap();

    world.ledger(6.0);
    assert_eq!(
        world.ends(),
        [("a", End::Evicted), ("d", End::Superseded)],
        "c made one too many, d none"
    );
}

#[test]
fn one_of_several_for_themselves_may_expire() {
    let mut world = World::new(Settings {
        lanes: Lanes::Message,
        ttl: Some(seconds(0.0)),
        ..Settings::default()
    });
    let own = Options {
        ttl: Some(seconds(12.0)),
        ..Options::default()
    };
    world.push_with(0.0, "room", "ann", "a", own).unwrap();
    world.push(0.0, "ann", "b");

    assert_eq!(world.starts(1.0), [["a"]]);
    assert_eq!(world.ends(), [("b", End::Expired)]);
}

#[test]
fn a_batch_is_scored_anew_when_it_gains_a_message() {
    let mut world = World::new(Settings::default());
    world.engine.pause(at(0.0), None, None, &mut world.out);
    world.push(0.0, "bob", "a");
    world.ledger(0.0);
    let weight = Points::from_f64(-1.5);
    world
        .engine
        .set_sender(at(1.0), "room", "bob", weight, &mut world.out);
    world.push(1.0, "bob", "b");

    let explained = world
        .engine
        .explain(at(1.0), "room", &mut world.out)
        .unwrap();
    let score = explained.waiting[0].score;
    assert_eq!(score.total(), Points::from_f64(0.3 - 1.5));
}

#[test]
fn an_arrival_may_end_all_that_its_sender_had_waiting() {
    let message = Settings {
        lanes: Lanes::Message,
        size_window: seconds(10.0),
        ..Settings::default()
    };
    let small = Settings {
        capacity_per_group: Some(1),
        overflow: Overflow::DropOldest,
        ..message.clone()
    };
    let bands = [(1, small), (3, message.clone())].map(|(from, settings)| Band {
        from,
        strategy: Strategy::RoundRobin,
        settings: settings.into(),
    });
    let mut world = World::new(Profile {
        settings: message.into(),
        strategy: Strategy::RoundRobin,
        bands: bands.into(),
    });
    world.engine.pause(at(0.0), None, None, &mut world.out);
    for sender in ["cy", "di", "ann", "ann"] {
        world.push(0.0, sender, "a");
    }
    assert_eq!(world.ledger(0.0).waiting, 3, "the second was one too many");
    world.push(11.0, "cy", "b");
    assert_eq!(world.ledger(11.0).waiting, 1);
}

/// Its arrival makes the group hold less, and it is the oldest of those that may go.
#[test]
fn what_arrives_after_its_delay_may_be_evicted_at_once() {
    let small = Settings {
        capacity_per_group: Some(3),
        overflow: Overflow::DropOldest,
        ..Settings::default()
    };
    let large = Settings {
        capacity_per_group: Some(1),
        ..small.clone()
    };
    let mut world = World::new(Profile {
        settings: small.into(),
        strategy: Strategy::RoundRobin,
        bands: vec![Band {
            from: 2,
            strategy: Strategy::RoundRobin,
            settings: large.into(),
        }],
    });
    world.engine.pause(at(0.0), None, None, &mut world.out);
    world.push(0.0, "bob", "a");
    let late = Options {
        delay: Some(seconds(5.0)),
        ..Options::default()
    };
    world.push_with(0.0, "room", "ann", "late", late).unwrap();
    for word in ["b", "c"] {
        world.push(0.0, "bob", word);
    }
    world.poll(1.0);
    assert_eq!(world.ends(), [("a", End::Evicted)]);

    world.poll(5.0);

    assert_eq!(world.ends(), [("late", End::Evicted), ("b", End::Evicted)]);
}
