//! The public half of a private key, where the key's DER says it (RFC 8017 A.1.2, RFC 5915, RFC 5958).
//!
//! Invariant: no input makes it panic; what is not understood has no public half. Deliberately absent: any arithmetic,
//! so a key that names no public half is not judged.

const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const BIT_STRING: u8 = 0x03;
const SEQUENCE: u8 = 0x30;
/// `[1]`, constructed and primitive.
const TAG_1: [u8; 2] = [0xa1, 0x81];

/// One element: tag, content, and what follows.
fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = input.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let count = usize::from(first & 0x7f);
        if count == 0 || count > 4 || rest.len() < count {
            return None;
        }
        let (digits, rest) = rest.split_at(count);
        (digits.iter().fold(0usize, |length, digit| length << 8 | usize::from(*digit)), rest)
    };
    (length <= rest.len()).then(|| (tag, &rest[..length], &rest[length..]))
}

fn expect(input: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    element(input).filter(|(found, ..)| *found == tag).map(|(_, content, rest)| (content, rest))
}

/// Of a PKCS#1 private key.
pub(super) fn rsa_modulus(key: &[u8]) -> Option<&[u8]> {
    let (fields, _) = expect(key, SEQUENCE)?;
    let (_version, fields) = expect(fields, INTEGER)?;
    expect(fields, INTEGER).map(|(modulus, _)| modulus)
}

/// Of a SEC1 private key.
pub(super) fn ec_point(key: &[u8]) -> Option<&[u8]> {
    let (fields, _) = expect(key, SEQUENCE)?;
    let (_version, fields) = expect(fields, INTEGER)?;
    let (_private, fields) = expect(fields, OCTET_STRING)?;
    tagged_bits(fields)
}

/// Of a PKCS#8 private key: its own statement, else that of the key inside.
pub(super) fn pkcs8_public(key: &[u8]) -> Option<&[u8]> {
    let (fields, _) = expect(key, SEQUENCE)?;
    let (_version, fields) = expect(fields, INTEGER)?;
    let (_algorithm, fields) = expect(fields, SEQUENCE)?;
    let (inner, fields) = expect(fields, OCTET_STRING)?;
    tagged_bits(fields).or_else(|| ec_point(inner)).or_else(|| rsa_modulus(inner))
}

/// The bit string under the tag `[1]`.
fn tagged_bits(mut fields: &[u8]) -> Option<&[u8]> {
    while let Some((tag, content, rest)) = element(fields) {
        if tag == TAG_1[0] {
            let (bits, _) = expect(content, BIT_STRING)?;
            return bits.split_first().map(|(_unused, bits)| bits);
        }
        if tag == TAG_1[1] {
            return content.split_first().map(|(_unused, bits)| bits);
        }
        fields = rest;
    }
    None
}

/// An integer's digits without the zeros before them.
pub(super) fn without_zeros(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    &digits[zeros..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_public_half_is_found_where_it_is() {
        let rsa = [0x30, 0x07, 0x02, 0x01, 0x00, 0x02, 0x02, 0x00, 0xab];
        assert_eq!(rsa_modulus(&rsa).map(without_zeros), Some(&[0xab][..]));
        let ec = [0x30, 0x0c, 0x02, 0x01, 0x01, 0x04, 0x01, 0x09, 0xa1, 0x04, 0x03, 0x02, 0x00, 0x77];
        assert_eq!(ec_point(&ec), Some(&[0x77][..]));
        assert_eq!(ec_point(&ec[..8]), None);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                let bytes = [0x30, first, 0x02, second, 0x84, 0xff, first, second, 0xa1, second, 0x03, first];
                let _ = (rsa_modulus(&bytes), ec_point(&bytes), pkcs8_public(&bytes));
            }
        }
    }
}
