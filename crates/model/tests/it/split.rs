//! Each statement of the split's contract, by itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_model::split::{LayoutCache, MAX_SLOTS, ReplayBudget, Split, SplitSpec};

use crate::random::{Random, effort};

fn split_of(seed: u64, epoch: u64, weights: &[u32]) -> Split {
    let backends: Vec<Arc<str>> =
        (0..weights.len()).map(|i| Arc::from(format!("backend/ns/b{i}/80"))).collect();
    let spec = SplitSpec { seed, identity: "rule", epoch, backends: &backends, weights };
    Split::new(&spec, &LayoutCache::default()).unwrap()
}

/// `count` weights of one of the shapes that people and machines write.
fn random_weights(random: &mut Random, count: usize, largest: u64) -> Vec<u32> {
    let mut weights: Vec<u32> = match random.below(4) {
        // All of one size.
        0 => (0..count).map(|_| 1 + random.below(largest) as u32).collect(),
        // Of all sizes.
        1 => (0..count).map(|_| (1u64 << random.below(20)).min(largest) as u32).collect(),
        // One heavy and many light.
        2 => (0..count).map(|i| if i == 0 { largest as u32 } else { 1 + random.below(3) as u32 }).collect(),
        // Nearly equal.
        _ => (0..count).map(|_| (largest - random.below(largest.min(3))) as u32).collect(),
    };
    random.shuffle(&mut weights);
    weights
}

/// Weights whose reduced sum is at most [`MAX_SLOTS`].
fn small_weights(random: &mut Random, count: usize) -> Vec<u32> {
    let largest = 1 + random.below(MAX_SLOTS / count as u64);
    let weights = random_weights(random, count, largest);
    assert!(weights.iter().map(|&w| u64::from(w)).sum::<u64>() <= MAX_SLOTS);
    weights
}

fn counts(split: &Split, from: u64, to: u64) -> Vec<u64> {
    let mut counts = vec![0; split.reduced_weights().len()];
    for ticket in from..to {
        counts[split.backend(ticket).unwrap()] += 1;
    }
    counts
}

/// The largest `|served_i - n w_i / W|` over the first `tickets` tickets.
fn worst_prefix(split: &Split, tickets: u64) -> f64 {
    let total = split.period() as i128;
    let mut lags = vec![0i128; split.reduced_weights().len()];
    let mut worst = 0;
    for ticket in 0..tickets {
        let chosen = split.backend(ticket).unwrap();
        for (index, (lag, &weight)) in lags.iter_mut().zip(split.reduced_weights()).enumerate() {
            *lag += if index == chosen { total } else { 0 } - i128::from(weight);
            worst = worst.max(lag.abs());
        }
    }
    worst as f64 / total as f64
}

const NAMED: [&[u32]; 12] = [
    &[1, 1],
    &[200, 100],
    &[100, 100],
    &[999_999, 1],
    &[7, 0, 3],
    &[5, 3, 2],
    &[1],
    &[0, 4, 0],
    &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    &[1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    &[100, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    &[100_000, 20_011, 3, 1],
];

#[test]
fn any_period_is_exact() {
    let mut random = Random::new(1);
    let mut cases: Vec<Vec<u32>> = NAMED.iter().map(|weights| weights.to_vec()).collect();
    for _ in 0..300 * effort() {
        let count = 1 + random.size(16);
        cases.push(small_weights(&mut random, count));
        let largest = 1 + random.below(3000);
        cases.push(random_weights(&mut random, count, largest));
    }
    for weights in cases {
        let split = split_of(random.next(), random.next(), &weights);
        let expected: Vec<u64> = split.reduced_weights().iter().map(|&w| u64::from(w)).collect();
        let period = split.period();
        let later = random.below(1 << 40);
        for number in [0, 1, later] {
            let got = counts(&split, number * period, (number + 1) * period);
            assert_eq!(got, expected, "period {number} of {weights:?}");
        }
    }
}

#[test]
fn one_million_to_one_is_exact_at_the_largest_weights() {
    let split = split_of(3, 1, &[1_000_000, 999_999]);
    assert_eq!(counts(&split, 0, 1_999_999), [1_000_000, 999_999]);
    let many: Vec<u32> = (0..16).map(|i| 1_000_000 - i).collect();
    let split = split_of(3, 1, &many);
    assert_eq!(counts(&split, 0, split.period()), many.iter().map(|&w| u64::from(w)).collect::<Vec<_>>());
}

#[test]
fn every_prefix_of_two_backends_is_off_by_less_than_one() {
    let mut random = Random::new(2);
    for _ in 0..2_000 * effort() {
        let largest = 1 + random.below(1_000_000);
        let weights = random_weights(&mut random, 2, largest);
        let split = split_of(random.next(), 1, &weights);
        let worst = worst_prefix(&split, (3 * split.period()).min(5_000));
        assert!(worst < 1.0, "{weights:?}: {worst}");
    }
}

#[test]
fn every_prefix_of_up_to_sixteen_backends_is_off_by_less_than_two() {
    let mut random = Random::new(3);
    let mut worst = 0.0f64;
    for _ in 0..400 * effort() {
        let count = 3 + random.size(14);
        let weights = small_weights(&mut random, count);
        let split = split_of(random.next(), 1, &weights);
        let here = worst_prefix(&split, (4 * split.period()).min(12_000));
        assert!(here < 2.0, "{weights:?}: {here}");
        worst = worst.max(here);
    }
    assert!(worst > 1.0, "the bound would not be tested by weights as kind as these: {worst}");
}

#[test]
fn every_prefix_of_any_weights_is_off_by_less_than_three_and_a_half() {
    let mut random = Random::new(4);
    for round in 0..400 * effort() {
        let count = if round % 20 == 0 { 17 + random.size(239) } else { 3 + random.size(14) };
        let largest = MAX_SLOTS + random.below(1_000_000 - MAX_SLOTS);
        let weights = random_weights(&mut random, count, largest);
        let split = split_of(random.next(), 1, &weights);
        let worst = worst_prefix(&split, 10_000);
        assert!(worst < 3.0, "{weights:?}: {worst}");
    }
}

/// The largest excess over the share rounded up, or lack under the share rounded down, of any window of the first tickets.
fn worst_window(split: &Split, tickets: u64) -> i128 {
    let total = split.period() as i128;
    let width = split.reduced_weights().len();
    let mut prefixes = vec![vec![0i128; width]];
    for ticket in 0..tickets {
        let mut next = prefixes[prefixes.len() - 1].clone();
        next[split.backend(ticket).unwrap()] += 1;
        prefixes.push(next);
    }
    let mut worst = 0;
    for from in 0..prefixes.len() {
        for to in from + 1..prefixes.len() {
            let length = (to - from) as i128;
            for (member, &weight) in split.reduced_weights().iter().enumerate() {
                let count = prefixes[to][member] - prefixes[from][member];
                let share = length * i128::from(weight);
                worst = worst.max(count - (share + total - 1) / total).max(share / total - count);
            }
        }
    }
    worst
}

#[test]
fn any_window_is_within_one_of_its_rounded_share_for_two_backends_and_three_for_more() {
    let mut random = Random::new(5);
    for _ in 0..150 * effort() {
        let largest = 1 + random.below(200);
        let two = random_weights(&mut random, 2, largest);
        let split = split_of(random.next(), 1, &two);
        let worst = worst_window(&split, (4 * split.period()).min(600));
        assert!(worst <= 1, "{two:?}: {worst}");

        let count = 3 + random.size(14);
        let largest = 1 + random.below(30);
        let more = random_weights(&mut random, count, largest);
        let split = split_of(random.next(), 1, &more);
        let worst = worst_window(&split, (4 * split.period()).min(400));
        assert!(worst <= 3, "{more:?}: {worst}");
    }
}

#[test]
fn no_page_with_assets_falls_to_one_side() {
    let mut random = Random::new(6);
    for weights in
        [&[1, 1][..], &[2, 1], &[9, 1], &[3, 1], &[5, 3, 2], &[1, 1, 1, 1], &[70_001, 30_011, 5_003]]
    {
        for every in 2..=12u64 {
            let split = split_of(random.next(), 1, weights);
            let pages = 40_000u64;
            let mut on_page = vec![0u64; weights.len()];
            for page in 0..pages {
                on_page[split.backend(page * every).unwrap()] += 1;
            }
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            for (&weight, &got) in weights.iter().zip(&on_page) {
                let share = f64::from(weight) / total as f64;
                // Independent draws would lie within five standard deviations; the split is no less even than that.
                let slack = 5.0 * (pages as f64 * share * (1.0 - share)).sqrt();
                let expected = share * pages as f64;
                assert!(
                    (got as f64 - expected).abs() <= slack,
                    "{weights:?} every {every}: {got} of {expected}"
                );
            }
        }
    }
}

#[test]
fn a_page_does_not_stay_on_one_side_for_long_even_within_one_period() {
    for weights in [&[50, 50][..], &[49, 51], &[500_001, 499_999], &[34, 33, 33], &[25, 26, 24, 25]] {
        for every in 1..=12u64 {
            let split = split_of(21, 1, weights);
            let pages: Vec<_> = (0..20_000).map(|page| split.backend(page * every).unwrap()).collect();
            let longest = pages.chunk_by(|a, b| a == b).map(<[usize]>::len).max().unwrap();
            // Twenty thousand fair coins have a run of 14 or so; a strictly regular order has runs of thousands here.
            assert!(longest <= 40, "{weights:?} every {every}: {longest} pages in a row");
        }
    }
}

#[test]
fn each_position_of_a_period_falls_to_each_backend_in_its_share() {
    for weights in
        [&[1, 1][..], &[3, 2], &[5, 3, 2], &[1, 1, 2, 3], &[4001, 97, 3], &[34, 21, 13, 8, 5, 3, 2, 1]]
    {
        let split = split_of(11, 1, weights);
        let period = split.period();
        let periods = 20_000u64;
        for position in (0..period).step_by((period as usize / 10).max(1)) {
            let mut got = vec![0u64; weights.len()];
            for number in 0..periods {
                got[split.backend(number * period + position).unwrap()] += 1;
            }
            for (&weight, &got) in weights.iter().zip(&got) {
                let share = f64::from(weight) / period as f64;
                let slack = 5.0 * (periods as f64 * share * (1.0 - share)).sqrt();
                assert!(
                    (got as f64 - share * periods as f64).abs() <= slack,
                    "{weights:?} at {position}: {got}"
                );
            }
        }
    }
}

#[test]
fn phases_differ_between_periods_epochs_seeds_and_rules() {
    let first = |seed, epoch| {
        let split = split_of(seed, epoch, &[1, 1, 1, 1, 1, 1, 1, 1]);
        (0..64).map(|ticket| split.backend(ticket).unwrap()).collect::<Vec<_>>()
    };
    let sequences: std::collections::BTreeSet<_> =
        (0..8).flat_map(|seed| (0..8).map(move |epoch| first(seed, epoch))).collect();
    assert_eq!(sequences.len(), 64);
    assert_eq!(first(1, 2), first(1, 2), "the same seed and epoch give the same sequence");
    // A canary of one in a hundred is met by early requests of some epochs: frequent edits do not starve it.
    let met = (0..200u64).filter(|&epoch| counts(&split_of(5, epoch, &[99, 1]), 0, 50)[1] > 0).count();
    assert!((60..140).contains(&met), "{met} of 200 epochs met the canary in their first half period");
}

#[test]
fn weight_zero_is_never_chosen_and_all_zero_chooses_nothing() {
    let split = split_of(1, 1, &[7, 0, 3]);
    assert_eq!(counts(&split, 0, 100_000), [70_000, 0, 30_000]);
    for weights in [&[][..], &[0], &[0, 0, 0]] {
        let split = split_of(1, 1, weights);
        assert_eq!(split.next(), None);
        assert_eq!((split.tickets(), split.period()), (0, 0));
    }
}

#[test]
fn equal_shares_in_other_words_are_the_same_split() {
    let (plain, scaled) = (split_of(1, 1, &[2, 1]), split_of(1, 1, &[200_000, 100_000]));
    assert_eq!(plain.reduced_weights(), scaled.reduced_weights());
    assert!((0..1000).all(|ticket| plain.backend(ticket) == scaled.backend(ticket)));
}

#[test]
fn threads_share_one_sequence() {
    for weights in [&[1, 1][..], &[5, 3, 2], &[999_999, 1], &[100_000, 20_011, 3, 1]] {
        let split = split_of(1, 1, weights);
        let rounds = 10_000u64;
        let taken: Vec<Vec<(u64, usize)>> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        (0..rounds).map(|_| split.next().unwrap()).map(|c| (c.ticket, c.backend)).collect()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let all: BTreeMap<u64, usize> = taken.iter().flatten().copied().collect();
        assert_eq!(all.len() as u64, 8 * rounds, "no ticket was given twice");
        assert!(all.keys().copied().eq(0..8 * rounds), "none was left out");
        assert!(all.iter().all(|(&ticket, &backend)| split.backend(ticket) == Some(backend)));
        assert!(taken.iter().all(|mine| mine.is_sorted()), "each thread's tickets rise");
        let report = split.report(weights, &mut ReplayBudget::default());
        let served: Vec<u64> = report.backends.iter().map(|share| share.served).collect();
        assert_eq!(served, counts(&split, 0, 8 * rounds));
    }
}

#[test]
fn the_reported_deviation_is_that_of_every_prefix() {
    let mut random = Random::new(7);
    for round in 0..200 * effort() {
        let weights = match round % 4 {
            0 => random_weights(&mut random, 2, 50),
            1 => random_weights(&mut random, 2, 100_000),
            2 => {
                let count = 3 + random.size(6);
                small_weights(&mut random, count)
            }
            _ => random_weights(&mut random, 5, 900_000),
        };
        let split = split_of(random.next(), 1, &weights);
        let mut taken = 0;
        for _ in 0..4 {
            for _ in 0..random.below(2_000) {
                split.next();
                taken += 1;
            }
            let report = split.report(&weights, &mut ReplayBudget::default());
            let expected = worst_prefix(&split, taken);
            assert!(
                (report.max_deviation - expected).abs() < 1e-9,
                "{weights:?} after {taken}: {report:?} {expected}"
            );
            assert_eq!((report.tickets, report.deviation_checked), (taken, taken));
        }
    }
}

#[test]
fn a_report_does_bounded_work_and_says_how_far_it_came() {
    let weights = [900_001, 77_003, 5];
    let split = split_of(1, 1, &weights);
    for _ in 0..10_000 {
        split.next();
    }
    let mut checked = 0;
    for _ in 0..10 {
        let mut budget = ReplayBudget { steps: 1_000 };
        let report = split.report(&weights, &mut budget);
        assert_eq!(report.tickets, 10_000);
        checked += 1_000;
        assert_eq!(report.deviation_checked, checked);
    }
    let mut budget = ReplayBudget { steps: 10 };
    assert!((split.report(&weights, &mut budget).max_deviation - worst_prefix(&split, 10_000)).abs() < 1e-9);
    assert_eq!(budget.steps, 10, "nothing was left to do");

    // Millions of short periods are told in few steps, because the worst of them is known.
    let split = split_of(1, 1, &[1, 1]);
    for _ in 0..1_000_001 {
        split.next();
    }
    let report = split.report(&[1, 1], &mut ReplayBudget { steps: 100 });
    assert_eq!((report.deviation_checked, report.max_deviation), (1_000_001, 0.5));
}

#[test]
fn rules_with_equal_weights_share_one_layout() {
    let cache = LayoutCache::default();
    let backends: Vec<Arc<str>> = (0..4).map(|i| Arc::from(i.to_string())).collect();
    let split = |identity, weights: &[u32]| {
        let spec = SplitSpec { seed: 1, identity, epoch: 1, backends: &backends[..weights.len()], weights };
        Split::new(&spec, &cache).unwrap()
    };
    let kept = [split("a", &[5, 3, 2]), split("b", &[50, 30, 20]), split("c", &[5, 0, 3, 2])];
    assert_eq!(cache.in_use(), 1);
    let other = split("d", &[5, 3, 1]);
    assert_eq!(cache.in_use(), 2);
    drop(other);
    assert_eq!(cache.in_use(), 1);
    for weights in 1..2_000 {
        split("e", &[weights, 1, 1]);
    }
    assert_eq!(cache.in_use(), 1);
    drop(kept);
    assert_eq!(cache.in_use(), 0);
}

#[test]
fn what_the_api_forbids_is_refused() {
    let backends: Vec<Arc<str>> = (0..300).map(|i| Arc::from(i.to_string())).collect();
    let try_weights = |weights: &[u32]| {
        let spec =
            SplitSpec { seed: 1, identity: "", epoch: 1, backends: &backends[..weights.len()], weights };
        Split::new(&spec, &LayoutCache::default()).map(|_| ())
    };
    assert!(try_weights(&[1_000_001, 1]).is_err());
    assert!(try_weights(&[1; 256]).is_err());
    assert!(try_weights(&[1; 255]).is_ok());
    let split = split_of(1, 1, &[1; 255]);
    assert_eq!(counts(&split, 0, 255), [1; 255]);
    for _ in 0..510 {
        split.next();
    }
    let report = split.report(&[1; 255], &mut ReplayBudget::default());
    assert!(report.backends.iter().all(|share| share.served == 2), "counters beyond the near ones count");
}

#[test]
fn totals_go_on_over_epochs_while_old_holders_still_count() {
    let backends: Vec<Arc<str>> = vec![Arc::from("a"), Arc::from("b")];
    let cache = LayoutCache::default();
    let spec = |epoch, weights| SplitSpec { seed: 1, identity: "r", epoch, backends: &backends, weights };
    let totals = |split: &Split| {
        let report = split.report(&[1, 1], &mut ReplayBudget::default());
        report.backends.iter().map(|share| share.served_total).collect::<Vec<_>>()
    };
    let first = Arc::new(Split::new(&spec(1, &[1, 1]), &cache).unwrap());
    for _ in 0..10 {
        first.next();
    }
    let late_worker = first.clone();
    let second = first.successor(&spec(2, &[1, 0]), &cache).unwrap();
    drop(first);
    for _ in 0..3 {
        second.next();
    }
    assert_eq!(totals(&second), [8, 5]);
    late_worker.next();
    late_worker.next();
    assert_eq!(totals(&second), [9, 6], "a worker that has not swapped yet is counted, too");
    drop(late_worker);
    let third = second.successor(&spec(3, &[0, 1]), &cache).unwrap();
    drop(second);
    third.next();
    assert_eq!(totals(&third), [9, 7]);
    assert_eq!(third.tickets(), 1, "an epoch's own counts begin at zero");
}
