//! The laws by which tickets go to backends, one for each shape of a weight vector.
//!
//! Inputs are the weights that are not zero, reduced, `k` of them with sum `W`.
//!
//! - `k = 2` ([`two_way`]): rank `r` of a period goes left as often as `floor(r w / W + u)` grows, `u` drawn for each
//!   period from `0, 1/W, ..., (W-1)/W`. A prefix has `floor(x + u)` lefts where `x = r w / W` is its share, so it is off by less
//!   than 1; at `r = W` it is exact. Rank `r` goes left for exactly `w` of the `W` values of `u`.
//! - `k >= 3`, `W <= 4096` ([`Slots`]): Tijdeman's rule for the chairman assignment problem (Discrete Mathematics 32, 1980)
//!   keeps every prefix within `1 - 1/(2k-2)` of its shares. It has period `W`, so it is laid out once, one byte a
//!   slot, and each period reads it round from a drawn phase. A prefix is then a difference of two prefixes
//!   of the layout: off by less than `2 - 1/(k-1)`. Each slot stands at each rank for one of the `W` phases.
//! - Larger `W` ([`Tree`]): the two-way rule at each node of a Huffman tree over the weights; a node's tickets are the ones
//!   its parent gave it, numbered in their order. A node's error is less than 1 of its own plus its share of its
//!   parent's; by Huffman's construction an inner node has at most 2/3 of its parent's weight (its sibling is no lighter
//!   than the heavier of its children), so errors stay below `1 + 2/3 + 4/9 + ... = 3`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::{GOLDEN, draw, mix};

/// Largest `W` (slots, bytes) that is laid out. Source: DESIGN section 4; what people write by hand fits.
pub const MAX_SLOTS: u64 = 4096;

pub(crate) enum Layout {
    /// No backend has any weight.
    Nothing,
    One,
    /// Reduced weights: of the first of two, and of both.
    Pair {
        first: u64,
        total: u64,
    },
    Slots(Arc<Slots>),
    Tree(Arc<Tree>),
}

/// One step of the two-way rule.
pub(super) struct TwoWay {
    pub(super) left: bool,
    /// How many earlier tickets went the same way: the ticket's number on its side.
    pub(super) number: u64,
}

#[inline]
pub(super) fn two_way(key: u64, ticket: u64, left: u64, total: u64) -> TwoWay {
    let (period, rank) = divide(ticket, total);
    // At most 255,000,000 squared: no overflow.
    let (in_period, place) = divide(rank * left + draw(key, period, total), total);
    let lefts = period * left + in_period;
    if place + left >= total {
        TwoWay { left: true, number: lefts }
    } else {
        TwoWay { left: false, number: ticket - lefts }
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
    for (member, &weight) in (0u8..).zip(weights) {
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
            for (member, (lag, &weight)) in (0u8..).zip(lags.iter_mut().zip(weights)) {
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

/// Two-way rules over a Huffman tree.
pub(crate) struct Tree {
    /// The root is the last.
    nodes: Box<[Node]>,
}

struct Node {
    /// Reduced weights of the left side and of both.
    left_weight: u64,
    total: u64,
    left: Child,
    right: Child,
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
        for (member, &weight) in (0u8..).zip(weights) {
            heap.insert((u64::from(weight), usize::from(member)), Child::Member(member));
        }
        let mut nodes = Vec::with_capacity(weights.len());
        let mut made = weights.len();
        while let (Some(((a, _), left)), Some(((b, _), right))) = (heap.pop_first(), heap.pop_first()) {
            let divisor = greatest_common_divisor(a, b);
            // At most 255 leaves, so at most 254 nodes.
            let index = u8::try_from(nodes.len()).unwrap_or(u8::MAX);
            nodes.push(Node { left_weight: a / divisor, total: (a + b) / divisor, left, right });
            heap.insert((a + b, made), Child::Node(index));
            made += 1;
        }
        Tree { nodes: nodes.into() }
    }

    pub(super) fn member(&self, key: u64, ticket: u64) -> usize {
        let mut ticket = ticket;
        let mut next = self.nodes.len().checked_sub(1);
        while let Some((index, node)) = next.and_then(|index| Some((index, self.nodes.get(index)?))) {
            let node_key = mix(key ^ (index as u64 + 1).wrapping_mul(GOLDEN));
            let step = two_way(node_key, ticket, node.left_weight, node.total);
            ticket = step.number;
            match if step.left { node.left } else { node.right } {
                Child::Member(member) => return usize::from(member),
                Child::Node(index) => next = Some(usize::from(index)),
            }
        }
        0
    }
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

/// Layouts by weight vector, so that rules with equal weights share one.
#[derive(Default)]
pub struct LayoutCache {
    slots: Mutex<BTreeMap<Box<[u32]>, Weak<Slots>>>,
}

impl LayoutCache {
    /// Entries that are nobody's any more are dropped when there are more than this and more than half are.
    const SWEEP: usize = 64;

    /// For weights that are not zero and reduced.
    pub(super) fn layout(&self, weights: &[u32]) -> Layout {
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        match weights {
            [] => Layout::Nothing,
            [_] => Layout::One,
            [first, _] => Layout::Pair { first: u64::from(*first), total },
            _ if total <= MAX_SLOTS => Layout::Slots(self.slots(weights)),
            _ => Layout::Tree(Arc::new(Tree::new(weights))),
        }
    }

    fn slots(&self, weights: &[u32]) -> Arc<Slots> {
        let mut known = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slots) = known.get(weights).and_then(Weak::upgrade) {
            return slots;
        }
        if known.len() >= Self::SWEEP && known.len().is_power_of_two() {
            known.retain(|_, slots| slots.strong_count() > 0);
        }
        let slots = Arc::new(Slots::new(weights));
        known.insert(weights.into(), Arc::downgrade(&slots));
        slots
    }

    /// Weight vectors that are laid out and in use.
    pub fn in_use(&self) -> usize {
        let known = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().filter(|slots| slots.strong_count() > 0).count()
    }
}
