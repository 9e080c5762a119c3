//! Numbers on the command line.

use thiserror::Error;

/// A text is not an integer, or out of range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("give a whole number from {min} to {max}")]
pub struct NumberError {
    /// The smallest that is accepted.
    pub min: u64,
    /// The largest that is accepted.
    pub max: u64,
}

/// Returns a parser of numbers within `min..=max`, both of which `T` can represent.
pub(crate) fn within<T: TryFrom<u64>>(min: u64, max: u64) -> impl Fn(&str) -> Result<T, NumberError> + Clone {
    move |text| {
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        number.and_then(|number| T::try_from(number).ok()).ok_or(NumberError { min, max })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_outside_or_no_number_is_told_the_range() {
        let read = within::<u32>(2, 5);
        assert_eq!((read("2"), read("5")), (Ok(2), Ok(5)));
        for text in ["1", "6", "-2", "2.5", "", "many", "99999999999999999999"] {
            assert_eq!(read(text).unwrap_err().to_string(), "give a whole number from 2 to 5", "{text}");
        }
    }
}
