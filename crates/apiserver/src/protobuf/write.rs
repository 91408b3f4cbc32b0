//! Writing protobuf messages, for the one document that is offered in that form.

/// A message under construction; fields stand in the order in which they are added.
#[derive(Debug, Default)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    pub(crate) fn new() -> Message {
        Message::default()
    }

    /// Adds a text; the empty one is left out, as it is the default.
    pub(crate) fn text(mut self, number: u32, text: &str) -> Message {
        if !text.is_empty() {
            self.length_delimited(number, text.as_bytes());
        }
        self
    }

    pub(crate) fn flag(mut self, number: u32, flag: bool) -> Message {
        self.varint(u64::from(number) << 3);
        self.varint(u64::from(flag));
        self
    }

    pub(crate) fn message(mut self, number: u32, message: Message) -> Message {
        self.length_delimited(number, &message.bytes);
        self
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn length_delimited(&mut self, number: u32, bytes: &[u8]) {
        self.varint(u64::from(number) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.bytes.extend_from_slice(bytes);
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            // The low seven bits, marked as not the last.
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::wire::{Field, fields};

    #[test]
    fn what_is_written_reads_back() {
        let long = "x".repeat(300);
        let bytes =
            Message::new().text(1, &long).message(20, Message::new().flag(2, true)).text(3, "").into_bytes();
        let read: Vec<(u32, Field<'_>)> = fields(&bytes).map(|field| field.expect("well formed")).collect();
        assert_eq!(read, [(1, Field::Bytes(long.as_bytes())), (20, Field::Bytes(&[0x10, 1]))]);
    }
}
