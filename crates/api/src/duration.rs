//! Gateway API durations (GEP-2257): the restricted Go form `([0-9]{1,5}(h|m|s|ms)){1,4}`.

use std::time::Duration;

/// At most four parts, as GEP-2257 says.
const PARTS_MAX: usize = 4;
/// At most five digits a part, as GEP-2257 says.
const DIGITS_MAX: usize = 5;

/// `None` when `text` is not a duration of that form.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total_ms: u64 = 0;
    let mut parts = 0;
    while !rest.is_empty() {
        parts += 1;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if parts > PARTS_MAX || digits == 0 || digits > DIGITS_MAX {
            return None;
        }
        let (number, tail) = rest.split_at(digits);
        let unit = tail.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, tail) = tail.split_at(unit);
        let unit_ms = match unit {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1_000,
            "ms" => 1,
            _ => return None,
        };
        total_ms += number.parse::<u64>().ok()? * unit_ms;
        rest = tail;
    }
    (parts > 0).then(|| Duration::from_millis(total_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_restricted_go_form_is_read_and_nothing_else() {
        for (text, ms) in [
            ("0s", 0),
            ("0h0m0s", 0),
            ("500ms", 500),
            ("10s", 10_000),
            ("1h30m10s5ms", 5_410_005),
            ("10s30m1h", 5_410_000),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "1", "s", "-1s", "1.5s", "1d", "100000s", "1s1s1s1s1s", "1 s", "1us", "١s"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
