//! The laws by which tickets go to backends, one for each shape of a weight vector.
//!
//! Inputs are the weights that are not zero, reduced, `k` of them with sum `W`.
//!
//! - `k = 2`: [`TwoWay`]. The `w` lighter tickets of a period have a window each, the `W` ranks cut into `w` equal
//!   intervals; each stands at a drawn place of its own window. Off by less than 1 at every prefix.
//! - `k >= 3`: [`Tree`], two-way rules at the nodes of a Huffman tree over the weights, where its bound
//!   ([`Tree::bound`], computed for the weights at hand) is below 2 or `W` is above 4096; else
//! - [`Slots`]: Tijdeman's rule for the chairman assignment problem (Discrete Mathematics 32, 1980), which keeps every prefix within
//!   `1 - 1/(2k-2)` of its shares. It has period `W`, so it is laid out once, one byte a slot, and each period reads
//!   it round from a drawn phase: a prefix is then a difference of two prefixes of the layout, off by less than
//!   `2 - 1/(k-1)`, and each slot stands at each rank for one of the `W` phases.
//!
//! The tree comes first because it resonates less: its tickets move independently every few ranks, those of a layout together
//! once a period (docs/adr/split-places.md has the measurement).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::{GOLDEN, draw, mix, random};

/// Largest `W` (slots, bytes) that is laid out. Source: ours; what people write by hand fits.
pub const MAX_SLOTS: u64 = 4096;

pub(crate) enum Layout {
    /// No backend has any weight.
    Nothing,
    One,
    Pair(TwoWay),
    Many(Arc<Shape>),
}

/// The law for three or more backends; the same for all rules with these weights.
pub(crate) enum Shape {
    Slots(Slots),
    Tree(Tree),
}

impl Shape {
    fn new(weights: &[u32]) -> Shape {
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        let tree = Tree::new(weights);
        // A little below 2: rounding in the bound cannot matter.
        if total > MAX_SLOTS || tree.bound() < 1.99 {
            Shape::Tree(tree)
        } else {
            Shape::Slots(Slots::new(weights))
        }
    }

    #[inline]
    pub(super) fn member(&self, key: u64, ticket: u64) -> usize {
        match self {
            Shape::Slots(slots) => slots.member(key, ticket),
            Shape::Tree(tree) => tree.member(key, ticket),
        }
    }

    pub(super) fn slots(&self) -> Option<&Slots> {
        match self {
            Shape::Slots(slots) => Some(slots),
            Shape::Tree(_) => None,
        }
    }
}

/// Two sides with reduced weights: `w` for the lighter, `W` for both.
///
/// The ranks `0 .. W` of a period are cut at the multiples of `W / w` into `w` intervals, and each interval gets one ticket of
/// the lighter side ("its ticket"), at one of the ranks that it touches. A rank that two intervals touch belongs to one
/// of them, drawn with the parts of it that they cover. An interval's ticket stands at a shared rank that belongs to it with
/// probability `w / W` and else at any of the ranks that are wholly its own (there is at least one, as `w <= W / 2`), all alike.
///
/// - A prefix of `r` ranks has the tickets of all intervals that end in it and of none that begin behind it: `floor(r w / W)` or one
///   more, and never off by 1. At `r = W` it has `w`.
/// - Each rank gets a ticket with probability `w / W`: for a shared rank that is so whoever owns it; a ticket stands elsewhere with
///   `1 - (w / W) (expected shared ranks owned)`, and since ranks are owned with the parts covered, that is `w / W` for each of
///   the ranks that the interval has alone.
/// - All draws are of one interval or one border, so places further than two windows apart are independent: nothing that
///   comes at regular distances can stay on one side.
#[derive(Clone, Copy)]
pub(crate) struct TwoWay {
    /// `w`
    lighter: u64,
    /// `W`
    total: u64,
    /// `W / w` and `W % w`
    width: u64,
    width_rest: u64,
    /// Whether the lighter side is the first.
    lighter_first: bool,
}

/// What a ticket gets from a two-way rule.
pub(super) struct Step {
    pub(super) first: bool,
    /// How many earlier tickets went the same way: the ticket's number on its side.
    pub(super) number: u64,
}

/// Where an interval begins and ends, and who owns the ranks at its ends.
struct Interval {
    /// The first rank that it touches, and that part of it before the interval, times `w`; 0 when it begins with the rank.
    start: u64,
    start_rest: u64,
    /// The rank in which it ends, and that part of it inside, times `w`; 0 when it ends before that rank.
    end: u64,
    end_rest: u64,
}

impl TwoWay {
    fn new(first: u64, second: u64) -> TwoWay {
        let divisor = greatest_common_divisor(first, second).max(1);
        let (lighter, total) = (first.min(second) / divisor, (first + second) / divisor);
        TwoWay {
            lighter,
            total,
            width: total / lighter.max(1),
            width_rest: total % lighter.max(1),
            lighter_first: first <= second,
        }
    }

    #[inline]
    pub(super) fn step(&self, key: u64, ticket: u64) -> Step {
        let (period, rank) = divide(ticket, self.total);
        // Both at most 255,000,000: no overflow.
        let (index, _) = divide(rank * self.lighter, self.total);
        let interval = self.interval(index);
        let before = period * self.lighter;
        // A rank that is the next interval's leaves this one's ticket behind it.
        let next_owns = rank == interval.end && !self.owns_end(key, before + index, &interval);
        let (place, lighter_before) = if next_owns {
            let next = self.interval(index + 1);
            (self.place(key, before + index + 1, &next), before + index + 1)
        } else {
            let place = self.place(key, before + index, &interval);
            (place, before + index + u64::from(place < rank))
        };
        let lighter = place == rank;
        Step {
            first: lighter == self.lighter_first,
            number: if lighter { lighter_before } else { ticket - lighter_before },
        }
    }

    fn interval(&self, index: u64) -> Interval {
        let (rest, start_rest) = divide(index * self.width_rest, self.lighter);
        let start = index * self.width + rest;
        let (mut end, mut end_rest) = (start + self.width, start_rest + self.width_rest);
        if end_rest >= self.lighter {
            end += 1;
            end_rest -= self.lighter;
        }
        Interval { start, start_rest, end, end_rest }
    }

    /// Whether the rank in which the interval of this number (over all periods) ends is its own.
    fn owns_end(&self, key: u64, number: u64, interval: &Interval) -> bool {
        interval.end_rest != 0 && self.border(key, number + 1) < interval.end_rest
    }

    /// The draw for the border before the interval of this number.
    fn border(&self, key: u64, number: u64) -> u64 {
        draw(key, number.wrapping_mul(2), self.lighter)
    }

    /// The rank of an interval's ticket.
    fn place(&self, key: u64, number: u64, interval: &Interval) -> u64 {
        let owns_start = interval.start_rest != 0 && self.border(key, number) >= interval.start_rest;
        let drawn = u128::from(random(key, number.wrapping_mul(2).wrapping_add(1))) * u128::from(self.total);
        // The whole part of the product is uniform below `W`, its fraction uniform and independent of it.
        let (whole, fraction) = ((drawn >> 64) as u64, drawn as u64);
        if whole < self.lighter {
            if owns_start {
                return interval.start;
            }
        } else if whole < 2 * self.lighter && self.owns_end(key, number, interval) {
            return interval.end;
        }
        let first = interval.start + u64::from(interval.start_rest != 0);
        first + ((u128::from(fraction) * u128::from(interval.end - first)) >> 64) as u64
    }

    pub(super) fn lighter(&self) -> u64 {
        self.lighter
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// The ticket at which the lighter side gets its `number`-th ticket (from 0).
    pub(super) fn ticket_of(&self, key: u64, number: u64) -> u64 {
        let (period, index) = divide(number, self.lighter);
        period * self.total + self.place(key, number, &self.interval(index))
    }
}

/// Quotient and remainder; a division of 32 bits costs a fraction of one of 64 on many processors.
#[inline]
fn divide(dividend: u64, divisor: u64) -> (u64, u64) {
    match (u32::try_from(dividend), u32::try_from(divisor)) {
        (Ok(dividend), Ok(divisor)) => (u64::from(dividend / divisor), u64::from(dividend % divisor)),
        _ => (dividend / divisor, dividend % divisor),
    }
}

/// Tijdeman's sequence, one byte a slot.
pub(crate) struct Slots {
    slots: Box<[u8]>,
    weights: Box<[u32]>,
    deviations: OnceLock<Deviations>,
}

/// How far prefixes of a period go from their shares, times `W`.
pub(super) struct Deviations {
    /// The largest in a period that starts at this phase.
    pub(super) by_phase: Box<[u32]>,
    /// The largest of all.
    pub(super) largest: u32,
}

impl Slots {
    fn new(weights: &[u32]) -> Slots {
        Slots { slots: tijdeman(weights), weights: weights.into(), deviations: OnceLock::new() }
    }

    #[inline]
    pub(super) fn member(&self, key: u64, ticket: u64) -> usize {
        let total = self.slots.len() as u64;
        let (period, rank) = divide(ticket, total);
        let mut slot = rank + draw(key, period, total);
        if slot >= total {
            slot -= total;
        }
        // `slot` is below the length, so there is one.
        self.slots.get(slot as usize).map_or(0, |&member| usize::from(member))
    }

    pub(super) fn phase(&self, key: u64, period: u64) -> usize {
        draw(key, period, self.slots.len() as u64) as usize
    }

    /// Computed at the first question; the request path has no use for it.
    pub(super) fn deviations(&self) -> &Deviations {
        self.deviations.get_or_init(|| deviations(&self.slots, &self.weights))
    }
}

/// Largest `|E_i(s) - E_i(phase)|` for every phase, where `E_i(s) = served_i W - s w_i` after `s` slots.
fn deviations(slots: &[u8], weights: &[u32]) -> Deviations {
    let total = slots.len() as i64;
    let mut by_phase = vec![0u32; slots.len()];
    for (member, &weight) in (0..=u8::MAX).zip(weights) {
        let errors = || {
            slots.iter().scan(0i64, move |error, &slot| {
                let before = *error;
                *error += if slot == member { total - i64::from(weight) } else { -i64::from(weight) };
                Some(before)
            })
        };
        let (low, high) = errors().fold((0, 0), |(low, high), error| (error.min(low), error.max(high)));
        for (largest, error) in by_phase.iter_mut().zip(errors()) {
            let deviation = (high - error).max(error - low);
            *largest = (*largest).max(u32::try_from(deviation).unwrap_or(u32::MAX));
        }
    }
    let largest = by_phase.iter().copied().max().unwrap_or(0);
    Deviations { by_phase: by_phase.into(), largest }
}

/// At step `n` the backends with `w_i n / W - x_i >= 1/(2k-2)` may be chosen; the one with the least
/// `(1 - 1/(2k-2) - w_i n / W + x_i) W / w_i` is. In whole numbers, everything times `W (2k-2)`.
fn tijdeman(weights: &[u32]) -> Box<[u8]> {
    let total: i64 = weights.iter().map(|&weight| i64::from(weight)).sum();
    let scale = 2 * weights.len() as i64 - 2;
    let mut lags = vec![0i64; weights.len()];
    (0..total)
        .map(|_| {
            let mut chosen: Option<(u8, i64, i64)> = None;
            for (member, (lag, &weight)) in (0..=u8::MAX).zip(lags.iter_mut().zip(weights)) {
                let weight = i64::from(weight);
                *lag += scale * weight;
                let urgency = (scale - 1) * total - *lag;
                let may = *lag >= total;
                if may && chosen.is_none_or(|(_, u, w)| urgency * w < u * weight) {
                    chosen = Some((member, urgency, weight));
                }
            }
            // The theorem says that one may always be chosen; were it wrong, the first would be, and tests would tell.
            let member = chosen.map_or(0, |(member, _, _)| member);
            if let Some(lag) = lags.get_mut(usize::from(member)) {
                *lag -= scale * total;
            }
            member
        })
        .collect()
}

/// Two-way rules over a Huffman tree. A node's tickets are the ones that its parent gave it, numbered in their order.
///
/// A node's error is less than 1 of its own plus its share of its parent's. By Huffman's construction an inner node has at most 2/3 of its
/// parent's weight (its sibling is no lighter than the heavier of its children), so errors stay below
/// `1 + 2/3 + 4/9 + ... = 3` for any weights.
pub(crate) struct Tree {
    /// Children before parents; the root is the last.
    nodes: Box<[Node]>,
}

struct Node {
    law: TwoWay,
    first: Child,
    second: Child,
}

#[derive(Clone, Copy)]
enum Child {
    Member(u8),
    Node(u8),
}

impl Tree {
    fn new(weights: &[u32]) -> Tree {
        // (weight, order of making): the order makes ties the same everywhere.
        let mut heap: BTreeMap<(u64, usize), Child> = BTreeMap::new();
        for (member, &weight) in (0..=u8::MAX).zip(weights) {
            heap.insert((u64::from(weight), usize::from(member)), Child::Member(member));
        }
        let mut nodes = Vec::with_capacity(weights.len());
        let mut made = weights.len();
        while let Some(((a, _), first)) = heap.pop_first() {
            let Some(((b, _), second)) = heap.pop_first() else { break };
            // At most 255 leaves, so at most 254 nodes.
            let index = u8::try_from(nodes.len()).unwrap_or(u8::MAX);
            nodes.push(Node { law: TwoWay::new(a, b), first, second });
            heap.insert((a + b, made), Child::Node(index));
            made += 1;
        }
        Tree { nodes: nodes.into() }
    }

    #[inline]
    pub(super) fn member(&self, key: u64, ticket: u64) -> usize {
        let mut ticket = ticket;
        let mut next = self.nodes.len().checked_sub(1);
        while let Some((index, node)) = next.and_then(|index| Some((index, self.nodes.get(index)?))) {
            let node_key = mix(key ^ (index as u64 + 1).wrapping_mul(GOLDEN));
            let step = node.law.step(node_key, ticket);
            ticket = step.number;
            match if step.first { node.first } else { node.second } {
                Child::Member(member) => return usize::from(member),
                Child::Node(index) => next = Some(usize::from(index)),
            }
        }
        0
    }

    /// No prefix is off by as much as this for these weights.
    fn bound(&self) -> f64 {
        let mut bounds = vec![0.0; self.nodes.len()];
        let mut largest = 0.0f64;
        for (index, node) in self.nodes.iter().enumerate().rev() {
            let above = bounds.get(index).copied().unwrap_or(0.0);
            let lighter = node.law.lighter as f64 / node.law.total as f64;
            let shares =
                if node.law.lighter_first { [lighter, 1.0 - lighter] } else { [1.0 - lighter, lighter] };
            for (child, share) in [node.first, node.second].into_iter().zip(shares) {
                let bound = 1.0 + share * above;
                match child {
                    Child::Member(_) => largest = largest.max(bound),
                    Child::Node(index) => {
                        if let Some(of_child) = bounds.get_mut(usize::from(index)) {
                            *of_child = bound;
                        }
                    }
                }
            }
        }
        largest
    }
}

/// 0 only for 0 and 0.
pub(super) fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Shapes by weight vector, so that rules with equal weights share one.
#[derive(Default)]
pub struct LayoutCache {
    shapes: Mutex<BTreeMap<Box<[u32]>, Weak<Shape>>>,
}

impl LayoutCache {
    /// Entries below which nothing is swept.
    const SWEEP: usize = 64;

    /// For weights that are not zero and reduced.
    pub(super) fn layout(&self, weights: &[u32]) -> Layout {
        match weights {
            [] => Layout::Nothing,
            [_] => Layout::One,
            [first, second] => Layout::Pair(TwoWay::new(u64::from(*first), u64::from(*second))),
            _ => Layout::Many(self.shape(weights)),
        }
    }

    fn shape(&self, weights: &[u32]) -> Arc<Shape> {
        let mut known = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shape) = known.get(weights).and_then(Weak::upgrade) {
            return shape;
        }
        // At each doubling, so that sweeping costs a constant for each entry made.
        if known.len() >= Self::SWEEP && known.len().is_power_of_two() {
            known.retain(|_, shape| shape.strong_count() > 0);
        }
        let shape = Arc::new(Shape::new(weights));
        known.insert(weights.into(), Arc::downgrade(&shape));
        shape
    }

    /// Weight vectors of three or more that rules have now.
    pub fn in_use(&self) -> usize {
        let known = self.shapes.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().filter(|shape| shape.strong_count() > 0).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every reduced vector of `count` weights with at most this sum.
    fn vectors(count: usize, most: u32) -> Vec<Vec<u32>> {
        if count == 0 {
            return vec![vec![]];
        }
        let mut all = Vec::new();
        for shorter in vectors(count - 1, most) {
            let left = most.saturating_sub(shorter.iter().sum());
            all.extend((1..=left).map(|weight| [shorter.as_slice(), &[weight]].concat()));
        }
        all
    }

    fn worst(weights: &[u32], members: impl Iterator<Item = usize>) -> f64 {
        let total: i64 = weights.iter().map(|&w| i64::from(w)).sum();
        let mut lags = vec![0i64; weights.len()];
        let mut worst = 0;
        for chosen in members {
            for (member, lag) in lags.iter_mut().enumerate() {
                *lag += if member == chosen { total } else { 0 } - i64::from(weights[member]);
                worst = worst.max(lag.abs());
            }
        }
        assert!(lags.iter().all(|&lag| lag == 0), "{weights:?} is not exact over a period");
        worst as f64 / total as f64
    }

    #[test]
    fn tijdemans_sequence_keeps_tijdemans_bound_for_all_small_vectors() {
        for (count, most) in [(3, 30), (4, 20), (5, 14), (6, 12)] {
            let bound = 1.0 - 1.0 / (2.0 * count as f64 - 2.0);
            for weights in vectors(count, most) {
                let slots = tijdeman(&weights);
                let worst = worst(&weights, slots.iter().map(|&member| usize::from(member)));
                assert!(worst <= bound + 1e-9, "{weights:?}: {worst}");
            }
        }
    }

    #[test]
    fn the_deviation_of_a_whole_period_is_that_of_its_prefixes() {
        for weights in [&[5, 3, 2][..], &[1, 1, 1], &[64, 32, 16, 8, 4], &[50, 1, 1, 1, 7]] {
            let slots = Slots::new(weights);
            let length = slots.slots.len();
            for phase in 0..length {
                let turned = slots.slots.iter().cycle().skip(phase).take(length);
                let expected = worst(weights, turned.map(|&member| usize::from(member)));
                let got = f64::from(slots.deviations().by_phase[phase]) / length as f64;
                assert!((got - expected).abs() < 1e-9, "{weights:?} from {phase}: {got} {expected}");
            }
        }
    }

    #[test]
    fn a_tree_keeps_the_bound_that_it_tells() {
        for (count, most) in [(3, 24), (4, 16), (6, 11)] {
            for (case, weights) in vectors(count, most).into_iter().enumerate() {
                let tree = Tree::new(&weights);
                let period: u64 = weights.iter().map(|&w| u64::from(w)).sum();
                for number in 0..4 {
                    let tickets = number * period..(number + 1) * period;
                    let worst = worst(&weights, tickets.map(|ticket| tree.member(case as u64, ticket)));
                    assert!(worst < tree.bound(), "{weights:?}: {worst} of {}", tree.bound());
                }
                assert!(tree.bound() < 3.0);
            }
        }
    }

    #[test]
    fn a_two_way_rule_numbers_each_side_without_gaps() {
        for (first, second) in
            [(1, 1), (1, 2), (2, 1), (3, 7), (7, 3), (48, 49), (1, 999), (499, 500), (13, 37)]
        {
            let law = TwoWay::new(first, second);
            let mut next = [0, 0];
            for ticket in 0..40 * (first + second) {
                let step = law.step(9, ticket);
                let side = usize::from(!step.first);
                assert_eq!(step.number, next[side], "{first}:{second} at {ticket}");
                next[side] += 1;
                if step.first == law.lighter_first {
                    assert_eq!(law.ticket_of(9, step.number), ticket, "{first}:{second}");
                }
            }
            assert_eq!(next, [40 * first, 40 * second]);
        }
    }

    #[test]
    fn uneven_weights_are_laid_out_and_even_ones_are_not() {
        let shape = |weights: &[u32]| match Shape::new(weights) {
            Shape::Slots(_) => "slots",
            Shape::Tree(_) => "tree",
        };
        assert_eq!(shape(&[5, 3, 2]), "tree");
        assert_eq!(shape(&[34, 33, 33]), "tree");
        assert_eq!(shape(&[1; 16]), "tree");
        assert_eq!(shape(&[34, 21, 13, 8, 5, 3, 2, 1]), "slots");
        assert_eq!(shape(&[34_000, 21_000, 13_000, 8_000, 5_000, 3_000, 2_000, 1_001]), "tree");
    }
}
