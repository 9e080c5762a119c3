//! The samples of a tick as bytes: a varint of the distance to the series before, and the value. A whole number takes a varint
//! of twice itself, at most 8 bytes; any other value a varint of 1 and its 8 bytes, little-endian.

use super::series::SeriesId;

/// Twice of these fits a varint of 8 bytes, and each is a double.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// Marks a value that is written as 8 bytes. Whole numbers are even.
const BITS: u64 = 1;

/// Encodes samples of ascending series.
pub(super) fn encode(values: &[(SeriesId, f64)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(values.len() * 4);
    let mut next = 0;
    for (id, value) in values {
        push_varint(&mut bytes, (id.index() - next) as u64);
        next = id.index() + 1;
        // A negative zero is no whole number here: its sign would be lost.
        if value.fract() == 0.0 && *value <= WHOLE_MAX && value.is_sign_positive() {
            push_varint(&mut bytes, (*value as u64) << 1);
        } else {
            push_varint(&mut bytes, BITS);
            bytes.extend_from_slice(&value.to_bits().to_le_bytes());
        }
    }
    bytes
}

/// Decodes samples; `None` if the bytes are not what [`encode`] writes.
pub(super) fn decode(mut bytes: &[u8]) -> Option<Vec<(SeriesId, f64)>> {
    let mut values = Vec::with_capacity(bytes.len() / 4);
    let mut next = 0_u64;
    while !bytes.is_empty() {
        let index = next.checked_add(take_varint(&mut bytes)?)?;
        next = index + 1;
        let id = SeriesId::at(u32::try_from(index).ok()? as usize);
        let value = match take_varint(&mut bytes)? {
            BITS => {
                let (bits, rest) = bytes.split_first_chunk()?;
                bytes = rest;
                f64::from_bits(u64::from_le_bytes(*bits))
            }
            twice if twice % 2 == 0 => (twice >> 1) as f64,
            _ => return None,
        };
        values.push((id, value));
    }
    Some(values)
}

/// Returns the samples of two ticks as one of the later time: `later` holds where both have a value. Both ascend.
pub(super) fn merge(earlier: &[(SeriesId, f64)], later: &[(SeriesId, f64)]) -> Vec<(SeriesId, f64)> {
    let mut merged = Vec::with_capacity(earlier.len().max(later.len()));
    let mut earlier = earlier.iter().peekable();
    for sample in later {
        while let Some(before) = earlier.next_if(|(id, _)| *id <= sample.0) {
            if before.0 < sample.0 {
                merged.push(*before);
            }
        }
        merged.push(*sample);
    }
    merged.extend(earlier);
    merged
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        if part << shift >> shift != part {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::series::STALE;

    fn bits(values: &[(SeriesId, f64)]) -> Vec<(SeriesId, u64)> {
        values.iter().map(|(id, value)| (*id, value.to_bits())).collect()
    }

    #[test]
    fn every_value_is_decoded_as_it_was() {
        let numbers =
            [0.0, -0.0, 1.0, 0.5, -3.0, 1e300, f64::NAN, STALE, f64::INFINITY, WHOLE_MAX, WHOLE_MAX + 2.0, 5e-324];
        let values: Vec<_> =
            numbers.into_iter().enumerate().map(|(index, number)| (SeriesId::at(index * 300), number)).collect();
        assert_eq!(bits(&decode(&encode(&values)).unwrap()), bits(&values));
        let last = vec![(SeriesId::at(u32::MAX as usize), 7.0)];
        assert_eq!(decode(&encode(&last)).unwrap(), last);
    }

    #[test]
    fn a_small_count_takes_two_bytes() {
        assert_eq!(encode(&[(SeriesId::at(0), 5.0), (SeriesId::at(1), 63.0)]).len(), 4);
    }

    #[test]
    fn bytes_that_are_cut_or_impossible_are_not_decoded() {
        let whole = encode(&[(SeriesId::at(3), 0.5), (SeriesId::at(200), 1000.0)]);
        let ends_of_samples = [0, 10];
        for length in (0..whole.len()).filter(|length| !ends_of_samples.contains(length)) {
            assert_eq!(decode(&whole[..length]), None, "{length}");
        }
        assert_eq!(decode(&[0, 3]), None, "an odd mark");
        assert_eq!(decode(&[0xff; 11]), None, "a varint without an end");
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff, 0x1f, 0]), None, "a series beyond 32 bits");
    }

    #[test]
    fn the_later_value_holds_in_a_merged_tick() {
        let at = |values: &[(usize, f64)]| -> Vec<_> {
            values.iter().map(|(index, value)| (SeriesId::at(*index), *value)).collect()
        };
        let (earlier, later) = (at(&[(0, 1.0), (2, 1.0), (5, 1.0)]), at(&[(1, 2.0), (2, 2.0)]));
        assert_eq!(merge(&earlier, &later), at(&[(0, 1.0), (1, 2.0), (2, 2.0), (5, 1.0)]));
        assert_eq!(merge(&[], &later), later);
        assert_eq!(merge(&earlier, &[]), earlier);
    }
}
