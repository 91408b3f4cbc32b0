//! Names that controllers make up, in the style of Kubernetes: no vowels, so that no words come out, and no digits
//! that look like letters.

use serde::Serialize;

const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Length of a generated name's last part. Unit: characters. Source: Kubernetes' `generateName`.
const SUFFIX_LENGTH: usize = 5;
/// Longest name before the suffix. Unit: bytes. Source: RFC 1123 labels of 63, less the suffix.
const LONGEST_STEM: usize = 63 - SUFFIX_LENGTH;

/// `stem` with a random suffix, as `generateName` makes it.
pub(crate) fn generated(stem: &str) -> String {
    let mut end = stem.len().min(LONGEST_STEM);
    while !stem.is_char_boundary(end) {
        end -= 1;
    }
    let random = uuid::Uuid::new_v4();
    // Bytes 9.. of a version 4 UUID are random throughout.
    let suffix = random.as_bytes()[9..].iter().take(SUFFIX_LENGTH).map(|byte| letter(usize::from(*byte)));
    stem[..end].chars().chain(suffix).collect()
}

/// The hash of a pod template, with Kubernetes' alphabet. A collision count makes it another one.
pub(crate) fn template_hash<T: Serialize>(template: &T, collisions: Option<i32>) -> String {
    // A template came out of JSON and has string keys only, so it goes back into JSON; an empty one would merely
    // make the name less distinct, and equality of templates never rests on this hash.
    let text = serde_json::to_vec(template).unwrap_or_default();
    let mut hash = fnv1a(0x811c_9dc5, &text);
    if let Some(collisions) = collisions {
        hash = fnv1a(hash, &collisions.to_le_bytes());
    }
    hash.to_string().bytes().map(|byte| letter(usize::from(byte))).collect()
}

fn letter(number: usize) -> char {
    char::from(LETTERS[number % LETTERS.len()])
}

fn fnv1a(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_have_five_safe_letters_and_differ() {
        let (first, second) = (generated("echo-6b8f9c7d5-"), generated("echo-6b8f9c7d5-"));
        assert_ne!(first, second);
        let suffix = first.strip_prefix("echo-6b8f9c7d5-").expect("keeps the stem");
        assert_eq!(suffix.len(), 5);
        assert!(suffix.bytes().all(|byte| LETTERS.contains(&byte)), "{suffix}");
        assert_eq!(generated(&"x".repeat(100)).len(), 63);
    }

    #[test]
    fn a_template_hash_depends_on_template_and_collisions_only() {
        let hash = template_hash(&["a"], None);
        assert_eq!(hash, template_hash(&["a"], None));
        assert_ne!(hash, template_hash(&["b"], None));
        assert_ne!(hash, template_hash(&["a"], Some(1)));
        assert!(hash.len() <= 10 && hash.bytes().all(|byte| LETTERS.contains(&byte)), "{hash}");
    }
}
