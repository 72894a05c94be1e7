//! When waiting messages become a batch (section W).

use chinwag_engine::{Lanes, Options, Points, Settings, Size};

use crate::world::{World, seconds};

fn quiet(quiet: f64) -> Settings {
    Settings {
        quiet: seconds(quiet),
        ..Settings::default()
    }
}

fn keyed(key: &str) -> Options {
    Options {
        batch_key: Some(key.into()),
        ..Options::default()
    }
}

#[test]
fn a_lone_message_waits_for_nothing() {
    let mut world = World::new(Settings::default());
    world.push(0.0, "ann", "hi");

    let calls = world.poll(0.0);

    assert_eq!(calls[0].words, ["hi"]);
    assert_eq!((calls[0].kind, calls[0].closed_by), ("single", "quiet"));
}

#[test]
fn what_comes_during_a_call_is_one_batch() {
    let mut world = World::new(Settings::default());
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    for word in ["b", "c", "d"] {
        world.push(0.1, "ann", word);
    }
    assert!(world.poll(0.2).is_empty(), "the lane is busy");
    world.done(1.0, &call).expect("it ran");

    assert_eq!(world.starts(1.0), [["b", "c", "d"]]);
}

#[test]
fn each_message_starts_the_quiet_period_anew() {
    let mut world = World::new(quiet(2.0));
    world.push(0.0, "ann", "a");
    world.poll(0.0);
    world.push(1.5, "ann", "b");

    assert!(world.poll(2.0).is_empty());
    assert_eq!(world.wake_at(), Some(3.5));
    assert_eq!(world.starts(3.5), [["a", "b"]]);
}

#[test]
fn a_message_at_the_very_end_of_the_quiet_period_joins() {
    let mut world = World::new(quiet(2.0));
    world.push(0.0, "ann", "a");
    world.push(2.0, "ann", "b");

    assert!(
        world.poll(2.0).is_empty(),
        "and starts the period anew (T1: pushes before timers)"
    );
    assert_eq!(world.starts(4.0), [["a", "b"]]);
}

#[test]
fn due_is_for_good_though_nobody_looked() {
    // The loop was blocked: the window was due at 2, the message came at 3, the poll at 3.5.
    let mut world = World::new(quiet(2.0));
    world.push(0.0, "ann", "a");
    world.push(3.0, "ann", "b");

    assert_eq!(
        world.starts(3.5),
        [["a", "b"]],
        "b joins what is due and cannot make it wait"
    );
}

#[test]
fn the_longest_wait_counts_from_the_first_message() {
    let mut world = World::new(Settings {
        max_wait: seconds(3.0),
        ..quiet(2.0)
    });
    for (now, word) in [(0.0, "a"), (1.5, "b"), (2.5, "c")] {
        world.push(now, "ann", word);
    }

    assert!(world.poll(2.9).is_empty());
    let calls = world.poll(3.0);
    assert_eq!((calls[0].words.len(), calls[0].closed_by), (3, "max_wait"));
}

#[test]
fn an_endless_quiet_period_makes_a_fixed_window() {
    let mut world = World::new(Settings {
        max_wait: seconds(1.0),
        quiet: std::time::Duration::MAX,
        ..Settings::default()
    });
    world.push(0.0, "ann", "a");
    world.push(0.9, "ann", "b");

    assert_eq!(world.starts(1.0), [["a", "b"]]);
}

#[test]
fn a_full_window_is_due_at_once() {
    let mut world = World::new(Settings {
        max_batch: Size::from_f64(2.0),
        ..quiet(60.0)
    });
    for word in ["a", "b", "c"] {
        world.push(0.0, "ann", word);
    }

    let calls = world.poll(0.0);

    assert_eq!((calls.len(), calls[0].closed_by), (1, "size"));
    assert_eq!(calls[0].words, ["a", "b"]);
}

#[test]
fn a_message_that_does_not_fit_makes_the_window_due() {
    let mut world = World::new(Settings {
        max_batch: Size::from_f64(2.5),
        max_concurrent_per_group: 1,
        ..quiet(60.0)
    });
    for word in ["a", "b", "c"] {
        world.push(0.0, "ann", word);
    }

    assert_eq!(world.starts(0.0), [["a", "b"]]);
}

#[test]
fn a_message_larger_than_a_batch_is_alone_in_its_own() {
    let mut world = World::new(Settings {
        max_batch: Size::from_f64(2.0),
        max_concurrent_per_group: 9,
        ..quiet(60.0)
    });
    let huge = Options {
        size: Size::from_f64(7.0).expect("a size"),
        ..Options::default()
    };
    world.push(0.0, "ann", "a");
    world
        .push_with(0.0, "room", "ann", "huge", huge)
        .expect("accepted");
    world.push(0.0, "ann", "b");

    let first = world.poll(0.0).remove(0);
    world.done(0.0, &first).expect("it ran");
    let second = world.poll(0.0).remove(0);

    assert_eq!((first.words, second.words), (vec!["a"], vec!["huge"]));
}

#[test]
fn another_key_cuts_and_nothing_is_reordered() {
    let mut world = World::new(Settings::default());
    for (word, key) in [("a1", "a"), ("b1", "b"), ("b2", "b"), ("a2", "a")] {
        world
            .push_with(0.0, "room", "ann", word, keyed(key))
            .expect("accepted");
    }

    let mut calls = Vec::new();
    while let Some(call) = world.poll(0.0).pop() {
        world.done(0.0, &call).expect("it ran");
        calls.push(call.words);
    }

    assert_eq!(calls, [vec!["a1"], vec!["b1", "b2"], vec!["a2"]]);
}

#[test]
fn a_standalone_message_shares_with_nobody_and_hurries_those_before() {
    let mut world = World::new(Settings {
        max_wait: seconds(90.0),
        ..quiet(60.0)
    });
    let alone = Options {
        standalone: true,
        ..Options::default()
    };
    world.push(0.0, "ann", "a");
    world
        .push_with(1.0, "room", "ann", "photo", alone)
        .expect("accepted");
    world.push(1.0, "ann", "b");

    let first = world.poll(1.0).remove(0);
    assert_eq!(
        (first.words.as_slice(), first.closed_by),
        (["a"].as_slice(), "cut")
    );
    world.done(2.0, &first).expect("it ran");
    let second = world.poll(2.0).remove(0);
    assert_eq!(second.words, ["photo"]);
    world.done(2.0, &second).expect("it ran");
    assert!(
        world.poll(60.9).is_empty(),
        "b waits for its own quiet period"
    );
    assert_eq!(world.starts(61.0), [["b"]]);
}

#[test]
fn a_long_gap_cuts_when_the_later_message_comes() {
    let mut world = World::new(Settings {
        max_gap: Some(seconds(1.0)),
        max_wait: seconds(60.0),
        ..quiet(30.0)
    });
    world.push(0.0, "ann", "a");
    world.push(1.0, "ann", "b");
    assert!(world.poll(5.0).is_empty(), "not before");
    world.push(5.0, "ann", "c");

    assert_eq!(world.starts(5.0), [["a", "b"]]);
}

#[test]
fn a_flush_takes_the_flusher_along() {
    let mut world = World::new(Settings {
        min_batch: 9,
        ..quiet(60.0)
    });
    world.push(0.0, "ann", "a");
    let mention = Options {
        flush: true,
        ..Options::default()
    };
    world
        .push_with(1.0, "room", "ann", "@bot", mention)
        .expect("accepted");

    let calls = world.poll(1.0);
    assert_eq!(
        (calls[0].words.as_slice(), calls[0].closed_by),
        (["a", "@bot"].as_slice(), "flush")
    );
}

#[test]
fn min_batch_holds_the_quiet_period_but_not_the_longest_wait() {
    let settings = Settings {
        min_batch: 3,
        max_wait: seconds(5.0),
        ..quiet(1.0)
    };
    let mut world = World::new(settings);
    world.push(0.0, "ann", "a");
    world.push(0.0, "ann", "b");
    assert!(world.poll(4.9).is_empty());

    assert_eq!(world.starts(5.0), [["a", "b"]]);
}

#[test]
fn an_idle_lane_need_not_wait() {
    let mut world = World::new(Settings {
        quiet_when_idle: false,
        ..quiet(5.0)
    });
    world.push(0.0, "ann", "a");
    let call = world.poll(0.0).remove(0);
    assert_eq!(
        (call.words.as_slice(), call.closed_by),
        (["a"].as_slice(), "idle")
    );
    world.push(1.0, "ann", "b");
    world.done(2.0, &call).expect("it ran");

    assert!(world.poll(5.9).is_empty(), "b found the lane busy");
    assert_eq!(world.starts(6.0), [["b"]]);
}

#[test]
fn what_came_during_a_call_need_not_wait() {
    let mut world = World::new(Settings {
        quiet_when_busy: false,
        max_wait: seconds(60.0),
        ..quiet(5.0)
    });
    world.push(0.0, "ann", "a");
    let call = world.poll(5.0).remove(0);
    world.push(6.999, "ann", "b");
    world.done(7.0, &call).expect("it ran");

    let calls = world.poll(7.0);
    assert_eq!(
        (calls[0].words.as_slice(), calls[0].closed_by),
        (["b"].as_slice(), "busy")
    );
}

#[test]
fn what_comes_at_the_end_of_a_call_has_found_the_lane_free() {
    let mut world = World::new(Settings {
        quiet_when_busy: false,
        max_wait: seconds(60.0),
        ..quiet(5.0)
    });
    world.push(0.0, "ann", "a");
    let call = world.poll(5.0).remove(0);
    world.push(7.0, "ann", "b");
    world.done(7.0, &call).expect("it ran");

    assert!(world.poll(11.9).is_empty());
    assert_eq!(world.starts(12.0), [["b"]]);
}

#[test]
fn a_quiet_period_of_its_own_counts_while_the_message_is_last() {
    let mut world = World::new(Settings {
        quiet_when_idle: false,
        max_wait: seconds(60.0),
        ..quiet(1.0)
    });
    let own = Options {
        quiet: Some(seconds(4.0)),
        ..Options::default()
    };
    world
        .push_with(0.0, "room", "ann", "album", own)
        .expect("accepted");
    assert!(world.poll(3.9).is_empty(), "though it found the lane idle");
    world.push(3.9, "ann", "text");

    assert_eq!(world.starts(4.9), [["album", "text"]]);
}

#[test]
fn gaps_name_the_kind_and_delay_nothing() {
    let mut world = World::new(Settings::default());
    let mut kinds = Vec::new();
    for now in [0.0, 5.0, 10.0, 15.1, 30.0] {
        world.push(now, "ann", "word");
        let call = world.poll(now).remove(0);
        kinds.push(call.kind);
        world.done(now, &call).expect("it ran");
    }

    assert_eq!(
        kinds,
        ["single", "back_to_back", "burst", "single", "single"]
    );
}

#[test]
fn a_group_lane_mixes_senders_in_order() {
    let mut world = World::new(Settings {
        lanes: Lanes::Group,
        ..quiet(1.0)
    });
    for (sender, word) in [("ann", "a"), ("bob", "b"), ("ann", "c")] {
        world.push(0.0, sender, word);
    }

    assert_eq!(world.starts(1.0), [["a", "b", "c"]]);
}

#[test]
fn message_lanes_start_each_message_by_itself() {
    let settings = Settings {
        lanes: Lanes::Message,
        min_batch: 3,
        max_concurrent_per_group: 3,
        back_to_back_points: Points::default(),
        burst_points: Points::default(),
        ..quiet(9.0)
    };
    let mut world = World::new(settings);
    for word in ["a", "b", "c", "d"] {
        world.push(0.0, "ann", word);
    }

    assert_eq!(world.starts(0.0), [["a"], ["b"], ["c"]]);
}
