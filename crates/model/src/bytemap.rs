//! A persistent map from byte strings that is small while it has few entries.
//!
//! Most hostnames carry one or two paths, so a hash trie for each would be mostly empty slots (hundreds of bytes);
//! with thousands of paths on one hostname only the trie keeps an edit cheap. This map is an inline list up to
//! [`FEW`] entries and a hash trie above.
//!
//! Invariants: cloning is O(1) in the number of entries above [`FEW`]; look-ups do not allocate.

use std::sync::Arc;

use imbl::GenericHashMap;
use imbl::shared_ptr::DefaultSharedPtr;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

/// Entries up to which a list is used. Comparing eight short strings costs about as much as one hash and two nodes.
const FEW: usize = 8;

type Trie<V> = GenericHashMap<Arc<[u8]>, V, FxBuildHasher, DefaultSharedPtr>;

#[derive(Clone)]
pub(crate) enum ByteMap<V> {
    Few(SmallVec<[(Arc<[u8]>, V); 1]>),
    Many(Trie<V>),
}

impl<V> Default for ByteMap<V> {
    fn default() -> Self {
        ByteMap::Few(SmallVec::new())
    }
}

impl<V: Clone> ByteMap<V> {
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            ByteMap::Few(list) => list.is_empty(),
            ByteMap::Many(trie) => trie.is_empty(),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&V> {
        match self {
            ByteMap::Few(list) => list.iter().find(|(k, _)| &**k == key).map(|(_, v)| v),
            ByteMap::Many(trie) => trie.get(key),
        }
    }

    pub(crate) fn get_mut(&mut self, key: &[u8]) -> Option<&mut V> {
        match self {
            ByteMap::Few(list) => list.iter_mut().find(|(k, _)| &**k == key).map(|(_, v)| v),
            ByteMap::Many(trie) => trie.get_mut(key),
        }
    }

    /// Replaces what was there.
    pub(crate) fn insert(&mut self, key: Arc<[u8]>, value: V) {
        match self {
            ByteMap::Few(list) => {
                if let Some((_, v)) = list.iter_mut().find(|(k, _)| *k == key) {
                    *v = value;
                    return;
                }
                list.push((key, value));
                if list.len() > FEW {
                    *self = ByteMap::Many(std::mem::take(list).into_iter().collect());
                }
            }
            ByteMap::Many(trie) => {
                trie.insert(key, value);
            }
        }
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        match self {
            ByteMap::Few(list) => list.retain(|(k, _)| &**k != key),
            ByteMap::Many(trie) => {
                trie.remove(key);
                // Half of the limit, so that a map at the border does not change its form with every edit.
                if trie.len() <= FEW / 2 {
                    *self = ByteMap::Few(trie.iter().map(|(k, v)| (k.clone(), v.clone())).collect());
                }
            }
        }
    }

    /// In no particular order.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        let (few, many) = match self {
            ByteMap::Few(list) => (Some(list.iter().map(|(_, v)| v)), None),
            ByteMap::Many(trie) => (None, Some(trie.values())),
        };
        few.into_iter().flatten().chain(many.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_map_while_it_grows_and_shrinks() {
        let mut map = ByteMap::default();
        let key = |i: u32| -> Arc<[u8]> { Arc::from(format!("k{i}").into_bytes()) };
        for i in 0..40 {
            map.insert(key(i), i);
            map.insert(key(i), i + 100);
            assert_eq!(map.values().count(), i as usize + 1);
        }
        let kept = map.clone();
        for i in 0..40 {
            assert_eq!(map.get(&key(i)), Some(&(i + 100)));
            *map.get_mut(&key(i)).unwrap() = 7;
            map.remove(&key(i));
            assert_eq!(map.get(&key(i)), None);
        }
        assert!(map.is_empty());
        assert_eq!(kept.get(b"k3"), Some(&103), "a clone is not changed by edits");
    }
}
