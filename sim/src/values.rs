//! Values that say which write they come from, and that show it when a byte of them is not what was written.

use bytes::Bytes;

/// The bytes of the value with this number: the number, then filling that follows from it.
pub fn encode(number: u64, size: usize) -> Bytes {
    let mut bytes = number.to_be_bytes().to_vec();
    while bytes.len() < size {
        let place = bytes.len() as u64;
        bytes.push((number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (place % 57)) as u8 ^ place as u8);
    }
    bytes.into()
}

/// The number of a value; `None`: nobody wrote these bytes.
pub fn decode(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_be_bytes(bytes.first_chunk::<8>().copied()?);
    (encode(number, bytes.len()) == bytes).then_some(number)
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
