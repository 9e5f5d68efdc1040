//! Values that name the write that they come from, and in which any changed byte is detected.

use bytes::Bytes;

/// The bytes of the value with this number: the number, then padding derived from it.
pub fn encode(number: u64, size: usize) -> Bytes {
    let words = words(number).take(size.div_ceil(WORD).max(1));
    let mut bytes: Vec<u8> = words.flat_map(u64::to_be_bytes).collect();
    bytes.truncate(size.max(WORD));
    bytes.into()
}

/// The number of a value; `None`: no client wrote these bytes.
pub fn decode(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(bytes.first_chunk().copied()?);
    let is_right = |(part, word): (&[u8], u64)| *part == word.to_be_bytes()[..part.len()];
    bytes.chunks(WORD).zip(words(number)).all(is_right).then_some(number)
}

const WORD: usize = size_of::<u64>();

/// The number itself, then others that differ in every byte.
fn words(number: u64) -> impl Iterator<Item = u64> {
    let filling =
        move |place: u64| number.wrapping_add(place).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    std::iter::once(number).chain((1..).map(filling))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_known_by_its_bytes_and_a_wrong_one_is_noticed() {
        for size in [0, 8, 9, 5_000] {
            let bytes = encode(77, size).to_vec();
            assert_eq!(decode(&bytes), Some(77));
            for place in 8..bytes.len().min(20) {
                let mut wrong = bytes.clone();
                wrong[place] ^= 1;
                assert_eq!(decode(&wrong), None);
            }
        }
        assert_eq!(decode(b"short"), None);
    }
}
