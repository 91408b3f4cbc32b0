//! From when until when a certificate is valid.
//!
//! Path building asks this of certificates on the way, never of the authorities at its end, and gives no access to the two times.
//! An authority that somebody configured and that has expired is to be trusted no more, so they are read here: the few steps of
//! DER down to `tbsCertificate.validity` (RFC 5280 section 4.1), nothing else.
//!
//! Pure, and total: what cannot be read has no validity, and is not trusted.

use rustls::pki_types::UnixTime;

/// Seconds since the Unix epoch, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Validity {
    not_before: i64,
    not_after: i64,
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

impl Validity {
    /// Of a certificate in DER.
    pub(crate) fn read(certificate: &[u8]) -> Option<Validity> {
        let mut outer = Der(certificate).take(SEQUENCE)?;
        let mut certificate = outer.take(SEQUENCE)?;
        if certificate.0.first() == Some(&VERSION) {
            certificate.next()?;
        }
        // Serial number, signature algorithm, issuer.
        for _ in 0..3 {
            certificate.next()?;
        }
        let mut validity = certificate.take(SEQUENCE)?;
        let (first, second) = (validity.next()?, validity.next()?);
        Some(Validity { not_before: time(first)?, not_after: time(second)? })
    }

    pub(crate) fn contains(self, now: UnixTime) -> bool {
        i64::try_from(now.as_secs()).is_ok_and(|now| self.not_before <= now && now <= self.not_after)
    }
}

/// What is left of a sequence.
struct Der<'d>(&'d [u8]);

impl<'d> Der<'d> {
    /// The next element: its tag and content.
    fn next(&mut self) -> Option<(u8, &'d [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk::<2>()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81 => (usize::from(*rest.first()?), rest.get(1..)?),
            0x82 => (usize::from(u16::from_be_bytes(*rest.first_chunk()?)), rest.get(2..)?),
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn take(&mut self, expected: u8) -> Option<Der<'d>> {
        self.next().filter(|(tag, _)| *tag == expected).map(|(_, content)| Der(content))
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`, the only forms that RFC 5280 section 4.1.2.5 allows.
fn time((tag, text): (u8, &[u8])) -> Option<i64> {
    let (century, text) = match tag {
        UTC_TIME => {
            let year = two_digits(text)?;
            (if year < 50 { 20 } else { 19 }, text)
        }
        GENERALIZED_TIME => (two_digits(text)?, text.get(2..)?),
        _ => return None,
    };
    let (b"Z", digits) = (text.get(12..)?, text.get(..12)?) else { return None };
    let mut parts = [0; 6];
    for (part, pair) in parts.iter_mut().zip(digits.chunks(2)) {
        *part = two_digits(pair)?;
    }
    let [year, month, day, hour, minute, second] = parts;
    let plausible = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60;
    let days = days_since_epoch(century * 100 + year, month, day);
    plausible.then_some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn two_digits(text: &[u8]) -> Option<i64> {
    match text {
        [tens @ b'0'..=b'9', ones @ b'0'..=b'9', ..] => {
            Some(i64::from(tens - b'0') * 10 + i64::from(ones - b'0'))
        }
        _ => None,
    }
}

/// Of a date in the Gregorian calendar: whole years counted from March, so that the leap day is the last of a year.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    // Months from March on have 31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31 days.
    let days_before_month = (153 * month + 2) / 5;
    year * 365 + leap_days + days_before_month + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn dates_are_counted_from_the_epoch() {
        for (date, expected) in [
            ((1970, 1, 1), 0),
            ((1970, 3, 1), 59),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2024, 12, 31), 20_088),
            ((2049, 12, 31), 29_219),
            ((2100, 3, 1), 47_541),
        ] {
            assert_eq!(days_since_epoch(date.0, date.1, date.2), expected, "{date:?}");
        }
    }

    #[test]
    fn both_forms_of_time_are_read() {
        assert_eq!(time((UTC_TIME, b"700101000001Z")), Some(1));
        assert_eq!(time((UTC_TIME, b"491231235959Z")), Some(29_219 * 86_400 + 86_399));
        assert_eq!(time((GENERALIZED_TIME, b"21000301000000Z")), Some(47_541 * 86_400));
        for bad in [&b"7001010000Z"[..], b"700101000000", b"701301000000Z", b"70010100000aZ", b""] {
            assert_eq!(time((UTC_TIME, bad)), None);
        }
    }

    #[test]
    fn a_certificate_is_valid_in_its_time_only() {
        let mut parameters = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        parameters.not_before = rcgen::date_time_ymd(2001, 9, 9);
        parameters.not_after = rcgen::date_time_ymd(2100, 3, 1);
        let certificate = parameters.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let validity = Validity::read(certificate.der()).unwrap();
        let (from, until) = (11_574 * 86_400, 47_541 * 86_400);
        assert!(validity.contains(at(from)) && validity.contains(at(until)));
        assert!(!validity.contains(at(from - 1)) && !validity.contains(at(until + 1)));
        for end in 0..certificate.der().len() {
            // Total: a damaged certificate has no validity, or had it before the damage.
            let _ = Validity::read(&certificate.der()[..end]);
        }
        assert_eq!(Validity::read(b"nothing"), None);
    }
}
