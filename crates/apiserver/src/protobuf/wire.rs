//! The protobuf wire format, reading only.

/// Why bytes are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed(pub(super) &'static str);

/// A field's value as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Number(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub(super) fn number(self) -> Result<u64, Malformed> {
        match self {
            Field::Number(number) => Ok(number),
            _ => Err(Malformed("a number was expected")),
        }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], Malformed> {
        match self {
            Field::Bytes(bytes) => Ok(bytes),
            _ => Err(Malformed("a text or message was expected")),
        }
    }

    pub(super) fn double(self) -> Result<f64, Malformed> {
        match self {
            Field::Fixed64(bits) => Ok(f64::from_bits(bits)),
            Field::Fixed32(bits) => Ok(f64::from(f32::from_bits(bits))),
            _ => Err(Malformed("a floating-point number was expected")),
        }
    }
}

/// The fields of a message, in the order in which they stand.
pub(super) fn fields(raw: &[u8]) -> Fields<'_> {
    Fields { rest: raw }
}

pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Field<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.rest = &[];
        }
        Some(read)
    }
}

impl<'a> Fields<'a> {
    fn read(&mut self) -> Result<(u32, Field<'a>), Malformed> {
        let (key, rest) = varint(self.rest)?;
        let number = u32::try_from(key >> 3).map_err(|_| Malformed("a field number out of range"))?;
        let (field, rest) = match key & 7 {
            0 => {
                let (value, rest) = varint(rest)?;
                (Field::Number(value), rest)
            }
            1 => {
                let (bytes, rest) = rest.split_first_chunk::<8>().ok_or(SHORT)?;
                (Field::Fixed64(u64::from_le_bytes(*bytes)), rest)
            }
            2 => {
                let (length, rest) = varint(rest)?;
                let length = usize::try_from(length).map_err(|_| SHORT)?;
                let (bytes, rest) = rest.split_at_checked(length).ok_or(SHORT)?;
                (Field::Bytes(bytes), rest)
            }
            5 => {
                let (bytes, rest) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
                (Field::Fixed32(u32::from_le_bytes(*bytes)), rest)
            }
            _ => return Err(Malformed("a field of an unknown wire type")),
        };
        self.rest = rest;
        Ok((number, field))
    }
}

const SHORT: Malformed = Malformed("it ends in the middle of a field");

/// A variable-length integer of at most ten bytes, and what follows it.
pub(super) fn varint(raw: &[u8]) -> Result<(u64, &[u8]), Malformed> {
    let mut value = 0_u64;
    for (index, byte) in raw.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok((value, &raw[index + 1..]));
        }
    }
    Err(if raw.len() < 10 { SHORT } else { Malformed("a number of more than ten bytes") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_length_read_and_cut_ones_do_not() {
        assert_eq!(varint(&[0x96, 0x01, 7]), Ok((150, &[7][..])));
        assert_eq!(
            varint(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            Ok((u64::MAX, &[][..]))
        );
        assert!(varint(&[0x80]).is_err());
        assert!(varint(&[0xff; 11]).is_err());
        assert!(fields(&[0x0b]).next().expect("one").is_err());
        assert_eq!(fields(&[]).count(), 0);
    }
}
