//! How many of a kind are there at a time, for each of those from whom they come.
//!
//! Invariants: a place is given back when its [`Place`] is dropped; who has none left is forgotten.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use parking_lot::Mutex;

/// Places for each of many; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Crowd<K: Eq + Hash> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    most: usize,
}

/// A place that is taken.
#[derive(Debug)]
pub(super) struct Place<K: Eq + Hash> {
    taken: Arc<Mutex<HashMap<K, usize>>>,
    whose: K,
}

impl<K: Eq + Hash + Clone> Crowd<K> {
    /// `most` places for each.
    pub(super) fn new(most: usize) -> Crowd<K> {
        Crowd { taken: Arc::default(), most }
    }

    /// A place, unless all of theirs are taken.
    pub(super) fn enter(&self, whose: &K) -> Option<Place<K>> {
        let mut taken = self.taken.lock();
        let count = taken.get(whose).copied().unwrap_or_default();
        if count >= self.most {
            return None;
        }
        taken.insert(whose.clone(), count + 1);
        Some(Place { taken: self.taken.clone(), whose: whose.clone() })
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = self.taken.lock();
        if let Some(count) = taken.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Crowd;

    #[test]
    fn each_has_so_many_places_and_gives_them_back() {
        let crowd = Crowd::new(2);
        let first = crowd.enter(&"a");
        let second = crowd.enter(&"a");
        assert!(first.is_some() && second.is_some() && crowd.enter(&"a").is_none());
        assert!(crowd.enter(&"b").is_some(), "another has places of its own");
        drop(first);
        let third = crowd.enter(&"a");
        assert!(third.is_some() && crowd.enter(&"a").is_none());
        drop((second, third));
        assert!(crowd.taken.lock().is_empty(), "nobody is remembered");
    }
}
