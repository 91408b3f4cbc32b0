//! String and number formats of OpenAPI that an API server checks. Formats it does not know are ignored, as there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use base64::Engine;

/// A format that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Int32,
    Int64,
    Float,
    Ipv4,
    Ipv6,
    Ip,
    Cidr,
    Mac,
    Uuid,
    Hostname,
    Uri,
    Email,
    Byte,
    Date,
    DateTime,
    Duration,
    ShortName,
    LongName,
    HexColor,
    /// A Kubernetes quantity such as `250m` or `1Gi`; set for its component only, no schema names it.
    Quantity,
}

impl Format {
    pub(crate) fn parse(name: &str) -> Option<Format> {
        Some(match name {
            "int32" => Format::Int32,
            "int64" => Format::Int64,
            "float" => Format::Float,
            "ipv4" => Format::Ipv4,
            "ipv6" => Format::Ipv6,
            "ip" => Format::Ip,
            "cidr" => Format::Cidr,
            "mac" => Format::Mac,
            "uuid" => Format::Uuid,
            "hostname" => Format::Hostname,
            "uri" => Format::Uri,
            "email" => Format::Email,
            "byte" => Format::Byte,
            "date" => Format::Date,
            "date-time" | "datetime" => Format::DateTime,
            "duration" => Format::Duration,
            "k8s-short-name" => Format::ShortName,
            "k8s-long-name" => Format::LongName,
            "hexcolor" => Format::HexColor,
            _ => return None,
        })
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Format::Int32 => "int32",
            Format::Int64 => "int64",
            Format::Float => "float",
            Format::Ipv4 => "ipv4",
            Format::Ipv6 => "ipv6",
            Format::Ip => "ip",
            Format::Cidr => "cidr",
            Format::Mac => "mac",
            Format::Uuid => "uuid",
            Format::Hostname => "hostname",
            Format::Uri => "uri",
            Format::Email => "email",
            Format::Byte => "byte",
            Format::Date => "date",
            Format::DateTime => "date-time",
            Format::Duration => "duration",
            Format::ShortName => "k8s-short-name",
            Format::LongName => "k8s-long-name",
            Format::HexColor => "hexcolor",
            Format::Quantity => "quantity",
        }
    }

    /// Whether a string is of this format; number formats say yes.
    pub(crate) fn admits(self, text: &str) -> bool {
        match self {
            Format::Int32 | Format::Int64 | Format::Float => true,
            Format::Ipv4 => Ipv4Addr::from_str(text).is_ok(),
            Format::Ipv6 => Ipv6Addr::from_str(text).is_ok(),
            Format::Ip => IpAddr::from_str(text).is_ok(),
            Format::Cidr => is_cidr(text),
            Format::Mac => is_mac(text),
            Format::Uuid => is_uuid(text),
            Format::Hostname => is_hostname(text),
            Format::Uri => is_absolute_uri(text),
            Format::Email => is_email(text),
            Format::Byte => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
            Format::Date => is_date(text),
            Format::DateTime => is_date_time(text),
            Format::Duration => duration_nanos(text).is_some(),
            Format::ShortName => is_dns_label(text),
            Format::LongName => is_dns_subdomain(text),
            Format::Quantity => is_quantity(text),
            Format::HexColor => {
                let digits = text.strip_prefix('#').unwrap_or(text);
                matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
            }
        }
    }
}

/// A signed decimal number with at most one suffix: `n`, `u`, `m`, `k`, `M`..`E`, `Ki`..`Ei`, or an exponent.
pub(crate) fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let points = number.bytes().filter(|b| *b == b'.').count();
    if points > 1 || number.len() == points {
        return false;
    }
    match suffix {
        "" | "n" | "u" | "m" | "k" | "M" | "G" | "T" | "P" | "E" | "Ki" | "Mi" | "Gi" | "Ti" | "Pi"
        | "Ei" => true,
        _ => suffix.strip_prefix(['e', 'E']).is_some_and(|exponent| {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
        }),
    }
}

fn is_cidr(text: &str) -> bool {
    let Some((address, length)) = text.split_once('/') else { return false };
    let Ok(address) = IpAddr::from_str(address) else { return false };
    let limit = if address.is_ipv4() { 32 } else { 128 };
    length.len() <= 3
        && length.bytes().all(|b| b.is_ascii_digit())
        && length.parse::<u8>().is_ok_and(|length| length <= limit)
}

fn is_mac(text: &str) -> bool {
    let separator = if text.contains('-') { '-' } else { ':' };
    let parts: Vec<&str> = text.split(separator).collect();
    matches!(parts.len(), 6 | 8)
        && parts.iter().all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_uuid(text: &str) -> bool {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b'-').collect();
    digits.len() == 32
        && digits.iter().all(u8::is_ascii_hexdigit)
        && (text.len() == 32 || [8, 13, 18, 23].iter().all(|at| text.as_bytes().get(*at) == Some(&b'-')))
        && matches!(text.len(), 32 | 36)
}

/// One label with at most one dash, after its first character; or labels below a top level of letters.
fn is_hostname(text: &str) -> bool {
    let plain = |c: char| c.is_alphanumeric();
    let within =
        |label: &str, limits: std::ops::RangeInclusive<usize>| limits.contains(&label.chars().count());
    let single = |label: &str| {
        let mut chars = label.chars();
        let first = chars.next().is_some_and(plain);
        let rest = chars.as_str();
        first && within(label, 1..=64) && rest.strip_prefix('-').unwrap_or(rest).chars().all(plain)
    };
    let below = |label: &str| {
        within(label, 1..=63)
            && label.chars().all(|c| plain(c) || c == '-')
            && label.starts_with(plain)
            && label.ends_with(plain)
    };
    let top = |label: &str| within(label, 2..=63) && label.chars().all(char::is_alphabetic);
    text.len() <= 255
        && match text.rsplit_once('.') {
            None => single(text),
            Some((labels, last)) => top(last) && labels.split('.').all(below),
        }
}

fn is_absolute_uri(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once(':') else { return text.starts_with('/') };
    !rest.is_empty()
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        && !text.bytes().any(|b| b.is_ascii_control() || b == b' ')
}

fn is_email(text: &str) -> bool {
    let atoms = |part: &str| {
        part.split('.').all(|atom| {
            !atom.is_empty()
                && atom
                    .chars()
                    .all(|c| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii())
        })
    };
    text.rsplit_once('@').is_some_and(|(local, domain)| atoms(local) && atoms(domain))
}

/// RFC 1123 label, at most 63 characters.
pub(crate) fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=63).contains(&bytes.len())
        && bytes.iter().all(|b| plain(b) || *b == b'-')
        && bytes.first().is_some_and(plain)
        && bytes.last().is_some_and(plain)
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters.
pub(crate) fn is_dns_subdomain(text: &str) -> bool {
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    (1..=253).contains(&text.len())
        && text.split('.').all(|label| {
            let bytes = label.as_bytes();
            bytes.iter().all(|b| plain(b) || *b == b'-')
                && bytes.first().is_some_and(plain)
                && bytes.last().is_some_and(plain)
        })
}

fn number(bytes: &[u8]) -> Option<u32> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    bytes.iter().try_fold(0u32, |sum, b| sum.checked_mul(10)?.checked_add(u32::from(b - b'0')))
}

fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return false;
    }
    let (Some(year), Some(month), Some(day)) =
        (number(&bytes[..4]), number(&bytes[5..7]), number(&bytes[8..10]))
    else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return false,
    };
    (1..=days).contains(&day)
}

/// RFC 3339, with `t`, `z` and a space as ISO 8601 readers take them.
pub(crate) fn is_date_time(text: &str) -> bool {
    let Some((date, rest)) = text.split_at_checked(10) else { return false };
    let Some(time) = rest.strip_prefix(['T', 't', ' ']) else { return false };
    let bytes = time.as_bytes();
    if !is_date(date) || bytes.len() < 9 || bytes[2] != b':' || bytes[5] != b':' {
        return false;
    }
    let within = |from: usize, limit: u32| number(&bytes[from..from + 2]).is_some_and(|n| n <= limit);
    if !within(0, 23) || !within(3, 59) || !within(6, 60) {
        return false;
    }
    let mut zone = &bytes[8..];
    if let [b'.', fraction @ ..] = zone {
        let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        zone = &fraction[digits..];
    }
    match zone {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', hours @ .., b':', m1, m2] if hours.len() == 2 => {
            number(hours).is_some_and(|n| n <= 23) && number(&[*m1, *m2]).is_some_and(|n| n <= 59)
        }
        _ => false,
    }
}

/// A Go duration (`1h30m`, `-1.5s`, `300ms`, `0`) in nanoseconds; `None` when it is none or does not fit 64 bits.
pub(crate) fn duration_nanos(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (whole, after) = rest.split_at(digits);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => {
                let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
                after.split_at(digits)
            }
            None => ("", after),
        };
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 19 {
            return None;
        }
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, next) = after.split_at(unit_end);
        let nanos: u128 = match unit {
            "ns" => 1,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(nanos)?)?;
        let mut scale = nanos;
        for digit in fraction.bytes().take(18) {
            scale /= 10;
            total = total.checked_add(u128::from(digit - b'0') * scale)?;
        }
        rest = next;
    }
    let total = i64::try_from(total).ok()?;
    Some(if negative { -total } else { total })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(format: &str, good: &[&str], bad: &[&str]) {
        let format = Format::parse(format).unwrap();
        for text in good {
            assert!(format.admits(text), "{} should admit {text:?}", format.name());
        }
        for text in bad {
            assert!(!format.admits(text), "{} should refuse {text:?}", format.name());
        }
    }

    #[test]
    fn formats_admit_what_they_name() {
        check("ipv4", &["10.0.0.1"], &["10.0.0.256", "::1", "", "10.0.0"]);
        check("ipv6", &["::1", "2001:db8::1"], &["10.0.0.1", "gggg::", ""]);
        check("cidr", &["10.0.0.0/8", "::/0"], &["10.0.0.0/33", "10.0.0.0", "::/129", "10.0.0.0/+8"]);
        check(
            "date-time",
            &[
                "2026-08-01T10:00:00Z",
                "2026-08-01T10:00:00.123456Z",
                "2026-08-01T10:00:00+02:00",
                "2024-02-29t00:00:00z",
            ],
            &[
                "2026-08-01",
                "2026-13-01T10:00:00Z",
                "2026-02-29T10:00:00Z",
                "2026-08-01T24:00:00Z",
                "2026-08-01T10:00:00",
                "\u{e9}026-08-01T10:00:00Z",
            ],
        );
        check("byte", &["", "aGk="], &["aGk", "*"]);
        check(
            "duration",
            &["1h30m", "0", "-1.5s", "300ms", "1\u{b5}s"],
            &["", "1", "h", "1x", "1e3s", "--1s", "99999999999999999999h"],
        );
        check(
            "uuid",
            &["4f3a9c2e-0b1d-4c5e-8f7a-1234567890ab"],
            &["4f3a9c2e-0b1d-4c5e-8f7a-1234567890a", "x"],
        );
        check(
            "hostname",
            &["a.example.com", "a-1.example.com", "localhost"],
            &["-a", "a..b", "", "a.b", "a_b.com"],
        );
        check("uri", &["https://example.com/x"], &["example", "a b:c"]);
        check("email", &["a@example.com", "a@b"], &["a", "@b", "a@", "a b@c", "a@b..c"]);
        check("mac", &["00:11:22:33:44:55"], &["00:11:22:33:44", "zz:11:22:33:44:55"]);
        check("k8s-short-name", &["a-1"], &["A", "-a", "a.b"]);
        check("k8s-long-name", &["a.b-1"], &["a..b", "a_"]);
    }

    #[test]
    fn durations_are_counted_in_nanoseconds() {
        assert_eq!(duration_nanos("1h1m1.5s"), Some(3_661_500_000_000));
        assert_eq!(duration_nanos("-2ms"), Some(-2_000_000));
        assert_eq!(duration_nanos("1.s"), Some(1_000_000_000));
        assert_eq!(duration_nanos(".s"), None);
    }
}
