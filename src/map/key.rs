//! A key as the tree stores it: bytes, ordered bytewise, short ones inline.
//!
//! A search in the tree spends its time on comparing keys, and most keys are short: keys of up to [`Key::INLINE_BYTES`]
//! bytes lie in the tree's node itself, where a comparison follows no pointer. A key need not be UTF-8 and has no
//! maximum length here: those are rules of the client interfaces.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::num::NonZeroU8;
use std::ops::Deref;
use std::sync::Arc;

/// A key; dereferences to its bytes, and cloning it copies no heap memory.
#[derive(Clone)]
pub struct Key(Place);

// The length is stored plus one: zero, which a `NonZeroU8` cannot hold, marks the other variant, and a key of 39 bytes
// takes 40. Long keys are copies, not slices of a log entry: otherwise an old key would keep an old value in memory.
#[derive(Clone)]
enum Place {
    Inline { length_plus_one: NonZeroU8, bytes: [u8; Key::INLINE_BYTES] },
    Heap(Arc<[u8]>),
}

const _: () = assert!(size_of::<Key>() == Key::INLINE_BYTES + 1, "a node of the tree holds 40 bytes a key");

impl Key {
    /// Maximum length, in bytes, of a key that is stored inline.
    pub const INLINE_BYTES: usize = 39;

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Place::Inline { length_plus_one, bytes } => &bytes[..usize::from(length_plus_one.get()) - 1],
            Place::Heap(bytes) => bytes,
        }
    }
}

impl From<&[u8]> for Key {
    fn from(key: &[u8]) -> Key {
        if key.len() > Key::INLINE_BYTES {
            return Key(Place::Heap(key.into()));
        }
        let mut bytes = [0; Key::INLINE_BYTES];
        bytes[..key.len()].copy_from_slice(key);
        let length_plus_one = NonZeroU8::MIN.saturating_add(key.len() as u8);
        Key(Place::Inline { length_plus_one, bytes })
    }
}

impl Deref for Key {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.as_bytes()
    }
}

// A key is looked up by its bytes, so it must compare exactly as its bytes do.
impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.as_bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn keys_around_the_inline_bound_keep_their_bytes() {
        for length in [0, 1, Key::INLINE_BYTES - 1, Key::INLINE_BYTES, Key::INLINE_BYTES + 1, 4096] {
            let bytes: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let key = Key::from(bytes.as_slice());
            assert_eq!(key.as_bytes(), bytes);
            assert_eq!(matches!(key.0, Place::Inline { .. }), length <= Key::INLINE_BYTES);
        }
    }

    proptest! {
        #[test]
        fn keys_order_as_their_bytes_do(a in vec(0..3u8, 36..42), b in vec(0..3u8, 36..42)) {
            let (key_a, key_b) = (Key::from(a.as_slice()), Key::from(b.as_slice()));
            prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
            prop_assert_eq!(key_a == key_b, a == b);
        }

        // An inline key is padded with zeros; the padding must not count.
        #[test]
        fn a_key_that_ends_in_zeros_is_not_its_own_prefix(a in vec(0..2u8, 0..5), zeros in 1..4usize) {
            let mut longer = a.clone();
            longer.resize(a.len() + zeros, 0);
            prop_assert!(Key::from(a.as_slice()) < Key::from(longer.as_slice()));
        }
    }
}
